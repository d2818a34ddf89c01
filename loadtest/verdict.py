"""How near a load test came to its server's ceiling, and what kept it from coming nearer.

The server does two things for a task, to take it in and to hand it out and settle it, and a third for each step
of a workflow. A rate per second is a part of what it can do of each at best (`loadtest.sweep`), and the parts add
up: that is the percentage. What was the limit is told by the seconds in which most was done, from processor times and from
what busy backends waited for.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loadtest.measure import Figures
from loadtest.sweep import ENDING, SENDING, seconds_per_step, seconds_per_task, whole_life

#: A process, or a machine, that is as busy as this has no more to give.
_BUSY_PROCESS, _BUSY_MACHINE = 0.9, 0.92
#: So much of the busy backends' time is not chance; nor is as much of one backend's, where less than one is busy.
_MUCH = 0.4

_WAITS = {
    "wal": "WAL fsync",
    "lock": "lock wait",
    "lwlock": "locks within the server (LWLock)",
    "io": "reading and writing of tables",
    "other": "other waits of the server",
    "cpu": "server CPU",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The sentence of a report, with what it rests on; rates in tasks per second."""

    sent_per_s: float
    ended_per_s: float
    ceiling_per_s: float | None
    percent: float | None
    limit: str
    evidence: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def sentence(self) -> str:
        reached = "Without a measured ceiling" if self.percent is None else f"{self.percent:.0f} % of the ceiling"
        return f"{reached}, limited by {self.limit}"

    def as_dict(self) -> Figures:
        return {**asdict(self), "sentence": self.sentence}


def verdict(points: Sequence[Figures], ceiling: Figures | None, cores: int) -> Verdict:
    """Judge a run by what was seen of it."""
    if not points:
        return Verdict(0.0, 0.0, None, None, "nothing: no second of it was seen")
    top = busiest(points)
    sent, ended = _mean(top, "sent_per_s"), _mean(top, "ended_per_s")
    sent_in, settled_in = _mean(top, "sent_in") or 1.0, _mean(top, "settled_in") or 1.0
    known = (ceiling or {}).get("points", [])
    at_most, percent = whole_life(known, sent_in, settled_in), None
    if at_most is not None:
        sending, ending = (
            seconds_per_task(known, SENDING, sent_in),
            seconds_per_task(known, ENDING, settled_in),
        )
        stepping = _mean(top, "steps_per_s") * seconds_per_step(known)
        percent = 100 * (sent * (sending or 0.0) + ended * (ending or 0.0) + stepping)
    limit, evidence = _limit(top, cores)
    return Verdict(sent, ended, at_most, percent, limit, evidence, _warnings(top, cores, limit, ceiling))


def busiest(points: Sequence[Figures]) -> list[Figures]:
    """The third of all seconds in which most was done, in their order."""
    count = max(1, len(points) // 3)
    least = sorted((point["sent_per_s"] + point["ended_per_s"] for point in points), reverse=True)[count - 1]
    return [point for point in points if point["sent_per_s"] + point["ended_per_s"] >= least]


def _limit(top: Sequence[Figures], cores: int) -> tuple[str, list[str]]:
    used = {part: _mean(top, f"{part}_cores") for part in ("machine", "server", "worker", "generator")}
    evidence = [
        f"{used['machine']:.2f} of {cores} cores in use: server {used['server']:.2f}, workers {used['worker']:.2f},"
        f" load generator {used['generator']:.2f}",
        f"busiest worker process {_mean(top, 'worker_busiest'):.2f}, busiest generator {_mean(top, 'generator_busiest'):.2f}"
        " of a core",
    ]
    waits = {what: statistics.fmean(point["waits"].get(what, 0.0) for point in top) for what in _WAITS}
    busy = sum(waits.values())
    if busy:
        shares = sorted(((number / busy, what) for what, number in waits.items() if number), reverse=True)
        said = ", ".join(f"{_WAITS[what]} {share:.0%}" for share, what in shares)
        evidence.append(f"{busy:.1f} backends busy on average: {said}")
    evidence.append(f"{_mean(top, 'ready'):,.0f} tasks ready on average")
    return _named(used, waits, busy, top, cores), evidence


def _named(used: dict[str, float], waits: dict[str, float], busy: float, top: Sequence[Figures], cores: int) -> str:
    if _mean(top, "generator_busiest") >= _BUSY_PROCESS:
        return "load generator CPU"
    if used["machine"] >= _BUSY_MACHINE * cores:
        parts = {
            "server CPU": used["server"],
            "worker CPU": used["worker"],
            "load generator CPU": used["generator"],
            "other work on this machine": _others(used),
        }
        return max(parts, key=lambda part: parts[part])
    has_backlog = _mean(top, "ready") > 100
    if has_backlog and _mean(top, "worker_busiest") >= _BUSY_PROCESS:
        return "worker CPU"
    for what in ("wal", "lock", "lwlock", "io"):
        if waits[what] >= _MUCH * max(1.0, busy):
            return _WAITS[what]
    if _others(used) >= _MUCH * cores:
        return "other work on this machine"
    if has_backlog and used["worker"]:
        return "the workers, which wait for the server's answers"
    return "the load, since no more was sent"


def _others(used: dict[str, float]) -> float:
    """Processors that are in use by what has nothing to do with the load test."""
    return max(0.0, used["machine"] - used["server"] - used["worker"] - used["generator"])


def _warnings(top: Sequence[Figures], cores: int, limit: str, ceiling: Figures | None) -> list[str]:
    warnings = []
    generator, machine = _mean(top, "generator_cores"), _mean(top, "machine_cores")
    if limit == "load generator CPU":
        warnings.append(
            "THE LOAD GENERATOR IS THE LIMIT: this says little of pgtasks. Use --processes, fewer users, or another machine."
        )
    elif generator > machine / 3:
        warnings.append(
            f"The load generator takes {generator:.2f} of {machine:.2f} cores in use from the server and the workers."
        )
    others = machine - generator - _mean(top, "server_cores") - _mean(top, "worker_cores")
    if others > 0.2 * cores:
        warnings.append(f"Other work on this machine takes {others:.2f} cores: trust bytes and ratios only.")
    if ceiling is None:
        warnings.append("No ceiling was measured: see --ceiling.")
    elif any(ceiling["settings"].get(name) != "on" for name in ("fsync", "synchronous_commit", "full_page_writes")):
        warnings.append("This server is not durable: it may lose tasks that were committed.")
    return warnings


def _mean(points: Sequence[Figures], name: str) -> float:
    found: list[Any] = [point[name] for point in points if point[name] is not None]
    return statistics.fmean(found) if found else 0.0
