"""What `loadtest.bench` found, as a table: value, budget, met or not.

A row says where its figure is in a round. A figure that falls short of its budget stays in the table as it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from loadtest.measure import Figures

#: Above this load before the start, somebody else is using the machine.
_BUSY = 0.7


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; `value` is None for what could not be measured here."""

    section: str
    name: str
    value: float | None
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None

    @property
    def is_met(self) -> bool | None:
        """None where there is no budget or no figure."""
        if self.value is None or (self.at_most is None and self.at_least is None):
            return None
        return (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )

    @property
    def budget(self) -> str:
        if self.at_most is not None:
            return f"<= {_short(self.at_most)}"
        return "" if self.at_least is None else f">= {_short(self.at_least)}"

    def as_dict(self) -> Figures:
        return {
            "section": self.section, "name": self.name, "value": self.value, "unit": self.unit, "budget": self.budget,
            "met": self.is_met,
        }  # fmt: skip


def table(rounds: Sequence[Figures]) -> list[Row]:
    """Make the table of medians."""
    find = _Finder(rounds)
    return [*_enqueue_rows(find), *_drain_rows(find), *_latency_rows(find)]


class _Finder:
    """Finds medians over rounds."""

    def __init__(self, rounds: Sequence[Figures]) -> None:
        self.rounds = rounds

    def __call__(self, experiment: str, figure: str) -> float | None:
        return self.of(lambda one: one[experiment][figure])

    def of(self, take: Callable[[Figures], Any]) -> float | None:
        """The median of what `take` finds in a round; None where a part of it is not known."""
        try:
            return float(statistics.median(take(one) for one in self.rounds))
        except TypeError:
            return None

    def percent(self, experiment: str, ceilings: Sequence[str]) -> float | None:
        """Tasks per second in percent of the best of some ceilings of the same round."""
        return self.of(
            lambda one: 100 * one[experiment]["tasks_per_s"] / max(one[each]["tasks_per_s"] for each in ceilings)
        )


def _enqueue_rows(find: _Finder) -> list[Row]:
    rows = []
    for name, experiment in (
        (".delay(), one thread", "enqueue 1"),
        (".delay(), eight threads", "enqueue 8"),
        ("delay_many", "many"),
        ("group of 1,000", "bulk"),
    ):
        is_bulk = experiment in ("many", "bulk")
        ceiling = f"ceiling {'bulk' if is_bulk else experiment}"
        rows += [
            Row(name, "tasks", find(experiment, "tasks_per_s"), "/s", at_least=70_000 if is_bulk else None),
            Row(name, "by pgbench", find(ceiling, "tasks_per_s"), "/s"),
            Row(name, "of pgbench", find.percent(experiment, [ceiling]), "%"),
            Row(name, "caller's CPU", find(experiment, "client_us"), "us/task", at_most=100),
            Row(name, "server's CPU", find(experiment, "server_us"), "us/task"),
            Row(name, "statements", find(experiment, "statements"), "/task", at_most=1 / 1000 if is_bulk else 1),
            Row(name, "WAL", find(experiment, "wal_bytes"), "B/task"),
        ]
    return rows


_DRAINS = ("ceiling drain 1", "ceiling drain 2", "ceiling drain 4")


def _drain_rows(find: _Finder) -> list[Row]:
    name = "drain by `worker -c 2`"
    best = find.of(lambda one: max(one[each]["tasks_per_s"] for each in _DRAINS))
    wanted = 10_000 if best is None else min(10_000, best / 2)
    whole_life = [
        Row(
            "whole life of a task",
            f"WAL, enqueued {how}",
            find.of(lambda one, of=experiment: one[of]["wal_bytes"] + one["drain"]["wal_bytes"]),  # type: ignore[misc]
            "B/task",
            at_most=1200,
        )
        for how, experiment in (("alone", "enqueue 1"), ("in bulk", "bulk"))
    ]
    return [
        Row(name, "tasks", find("drain", "tasks_per_s"), "/s", at_least=wanted),
        Row(name, "by pgbench, one client", find("ceiling drain 1", "tasks_per_s"), "/s"),
        Row(name, "by pgbench, the best of 1, 2, 4", best, "/s"),
        Row(name, "of pgbench, one client", find.percent("drain", _DRAINS[:1]), "%"),
        Row(name, "of pgbench, the best of 1, 2, 4", find.percent("drain", _DRAINS), "%", at_least=50),
        Row(name, "worker's CPU, all processes", find("drain", "worker_us"), "us/task", at_most=60),
        Row(name, "of it the parent", find("drain", "parent_us"), "us/task"),
        Row(name, "of it the children", find("drain", "children_us"), "us/task"),
        Row(name, "its backends' CPU", find("drain", "backends_us"), "us/task"),
        Row(name, "the whole server's CPU", find("drain", "server_us"), "us/task"),
        Row(name, "pgbench's server CPU, one client", find("ceiling drain 1", "server_us"), "us/task"),
        Row(name, "tasks settled by one statement", find("drain", "batch")),
        Row(name, "statements", find("drain", "statements"), "/task", at_most=1),
        Row(name, "WAL", find("drain", "wal_bytes"), "B/task"),
        *whole_life,
    ]


def _latency_rows(find: _Finder) -> list[Row]:
    name = "one idle worker"
    return [
        Row(name, ".delay() to the stored result, p50", find("latency", "stored_p50_ms"), "ms", at_most=2),
        Row(name, ".delay().get(), p50", find("latency", "round_trip_p50_ms"), "ms"),
        Row(name, ".delay().get(), p95", find("latency", "round_trip_p95_ms"), "ms"),
        Row(name, "chain of ten, p50", find("latency", "chain_p50_ms"), "ms"),
        Row(name, "chord of 100, p50", find("latency", "chord_p50_ms"), "ms"),
        Row(name, "statements while idle", find("idle", "statements_per_s"), "/s", at_most=1),
    ]


# -- as text ---------------------------------------------------------------------------------------------------


def text(found: Figures, rows: Sequence[Row]) -> str:
    """The report for people."""
    lines = [*_heading(found), ""]
    section = None
    for row in rows:
        if row.section != section:
            section = row.section
            lines.append(section)
        met = {True: "met", False: "NOT MET", None: ""}[row.is_met]
        value = "-" if row.value is None else _short(row.value)
        lines.append(f"  {row.name:<36}{value:>10} {row.unit:<8} {row.budget:<12}{met}".rstrip())
    return "\n".join([*lines, "", *_warnings(found)])


def _heading(found: Figures) -> list[str]:
    machine, settings = found["machine"], dict(found["settings"])
    version = settings.pop("server_version")
    scale = found["scale"]
    return [
        f"Postgres {version}, Python {machine['python']}, psycopg {machine['psycopg']}, {machine['system']}",
        f"{machine['cpu']}, {machine['cores']} cores, {found['fsyncs_per_s']:,.0f} fsyncs/s here",
        ", ".join(f"{name} {value}" for name, value in sorted(settings.items())),
        f"load average {machine['load_average']:.1f} before, {found['load_average_after']:.1f} after;"
        f" the same work takes {found['crowding']:.1f} times the CPU that it would take alone",
        f"medians of {scale['rounds']} rounds; drains of {scale['tasks']:,} tasks; every task verified",
    ]


def _warnings(found: Figures) -> list[str]:
    warnings = []
    if any(found["settings"].get(name) != "on" for name in ("fsync", "synchronous_commit", "full_page_writes")):
        warnings.append("NOT DURABLE: this server may lose committed tasks. Its rates say nothing about others.")
    if found["machine"]["load_average"] > _BUSY:
        warnings.append("BUSY: the machine had other work before this began. Trust bytes and ratios only.")
    if found["rounds"][0]["ceiling bulk"] is None:
        warnings.append("NO CEILING: no pgbench was found beside the Postgres programs of this machine.")
    return warnings


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"
