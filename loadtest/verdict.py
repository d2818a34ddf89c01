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

#: Percent of the ceiling that are not chance.
_TOO_MUCH = 110
#: So many backends at work on average: at any time there is one.
_ALWAYS = 0.8

_WAITS = {
    "wal": "WAL fsync",
    "lock": "lock wait",
    "lwlock": "locks within the server (LWLock)",
    "io": "reading and writing of tables",
    "other": "other waits of the server",
    "cpu": "at work",
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
    warnings = [*_warnings(top, cores, limit, ceiling), *_standstill(points, top)]
    if percent is not None and percent > _TOO_MUCH:
        warnings.append("More than the ceiling: that was measured in a slower minute, or by too few clients (--ceiling full).")
    return Verdict(sent, ended, at_most, percent, limit, evidence, warnings)


def busiest(points: Sequence[Figures]) -> list[Figures]:
    """The third of all seconds in which most was done, in their order."""
    count = max(1, len(points) // 3)
    least = sorted(map(_rate, points), reverse=True)[count - 1]
    return [point for point in points if _rate(point) >= least]


def _rate(point: Figures) -> float:
    """What was done in a second; the last ones of a run may be hidden to the end."""
    return (point["sent_per_s"] or 0.0) + (point["ended_per_s"] or 0.0)


def _limit(top: Sequence[Figures], cores: int) -> tuple[str, list[str]]:
    used = {part: _mean(top, f"{part}_cores") for part in ("machine", "server", "worker", "generator")}
    evidence = [
        f"{used['machine']:.2f} of {cores} cores in use: server {_server_cores(top)}, workers {used['worker']:.2f},"
        f" load generator {used['generator']:.2f}",
        f"busiest backend {_mean(top, 'server_busiest'):.2f}, busiest worker process {_mean(top, 'worker_busiest'):.2f},"
        f" busiest generator {_mean(top, 'generator_busiest'):.2f} of a core",
    ]
    waits, busy = _waits(top)
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
            _other_work(top): _others(used),
        }
        most = max(parts, key=lambda part: parts[part])
        # Who waits for a lock waits on an idle machine too.
        is_locked = most == _other_work(top) and waits["lock"] >= _MUCH * max(1.0, busy)
        return _WAITS["lock"] if is_locked else most
    has_backlog = _mean(top, "ready") > 100
    if has_backlog and _mean(top, "worker_busiest") >= _BUSY_PROCESS:
        return "worker CPU"
    if _mean(top, "server_busiest") >= _BUSY_PROCESS:
        return "server CPU, of one connection"
    for what in ("wal", "lock", "lwlock", "io"):
        if waits[what] >= _MUCH * max(1.0, busy):
            return _WAITS[what]
    if _others(used) >= _MUCH * cores:
        return _other_work(top)
    if waits["cpu"] >= _ALWAYS:
        return "the server, which is at work all the time" if used["server"] >= _ALWAYS else "waits that the server does not name"
    if has_backlog and used["worker"]:
        return "the workers, which wait for the server's answers"
    return "the load, since no more was sent"


def _waits(points: Sequence[Figures]) -> tuple[dict[str, float], float]:
    """What busy backends did on average, and how many were busy."""
    waits = {what: statistics.fmean(point["waits"].get(what, 0.0) for point in points) for what in _WAITS}
    return waits, sum(waits.values())


def _server_cores(points: Sequence[Figures]) -> str:
    return f"{_mean(points, 'server_cores'):.2f}" if _sees_server(points) else "not to be seen from here"


def _sees_server(points: Sequence[Figures]) -> bool:
    return any(point["server_cores"] is not None for point in points)


def _other_work(points: Sequence[Figures]) -> str:
    return "other work on this machine" + ("" if _sees_server(points) else ", if that is not the server")


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
        said = _other_work(top).removeprefix("other work on this machine")
        warnings.append(f"Other work on this machine takes {others:.2f} cores{said}: trust bytes and ratios only.")
    if ceiling is None:
        warnings.append("No ceiling was measured: see --ceiling.")
    elif any(ceiling["settings"].get(name) != "on" for name in ("fsync", "synchronous_commit", "full_page_writes")):
        warnings.append("This server is not durable: it may lose tasks that were committed.")
    return warnings


def _standstill(points: Sequence[Figures], top: Sequence[Figures]) -> list[str]:
    """Seconds in which next to nothing was done, though as many waited as in the best: those that count are others."""
    most, enough = statistics.fmean(map(_rate, top)), 0.8 * max(1.0, _waits(top)[1])
    still = [point for point in points if _rate(point) < most / 10 and _waiting([point]) >= enough]
    if not still:
        return []
    waits, busy = _waits(still)
    what = max((each for each in waits if each != "cpu"), key=lambda each: waits[each])
    return [
        f"In {len(still)} of {len(points)} seconds next to nothing was done: {busy:.1f} backends were busy,"
        f" {waits[what] / busy:.0%} of that with: {_WAITS[what]}."
    ]


def _waiting(points: Sequence[Figures]) -> float:
    """How many backends waited for anything but their callers."""
    waits, busy = _waits(points)
    return busy - waits["cpu"]


def _mean(points: Sequence[Figures], name: str) -> float:
    found: list[Any] = [point[name] for point in points if point[name] is not None]
    return statistics.fmean(found) if found else 0.0
