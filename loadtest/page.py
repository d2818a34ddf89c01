"""The report of a load test as one HTML page: nothing in it is loaded from elsewhere.

Live in Locust's web page, at a glance below its tabs and whole under /pgtasks, and written to a file at the end of a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, NamedTuple

from loadtest.measure import Figures
from loadtest.verdict import Verdict

_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 720, 220, 64, 24
_COLOURS = ("#1565c0", "#2e7d32", "#ef6c00", "#6a1b9a", "#c62828", "#546e7a")

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #263238; max-width: 48rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem; margin-bottom: .2rem } h2 { font-size: 1.1rem; margin: 2rem 0 .4rem }
.verdict { font-size: 1.3rem; border-left: 5px solid #1565c0; padding: .4rem 1rem; background: #f1f5f9 }
.warning { border-left: 5px solid #ef6c00; padding: .3rem 1rem; background: #fff3e0; margin: .4rem 0 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: right; padding: .15rem .6rem; border-bottom: 1px solid #e0e0e0 }
td:first-child, th:first-child { text-align: left } svg { width: 100%; height: auto } .note { color: #607d8b; font-size: .9rem }
"""


class Line(NamedTuple):
    """One line of a plot; None where there is nothing to show."""

    name: str
    values: Sequence[float | None]
    is_dashed: bool = False


def page(
    title: str, verdict: Verdict, points: Sequence[Figures], ceiling: Figures | None, about: Figures, *, is_live: bool = False
) -> str:
    """The whole page; `about` is what is known of the machine and of the server."""
    body = [
        f"<h1>{escape(title)}</h1>",
        *_said(verdict),
        "<ul>", *(f"<li>{escape(fact)}</li>" for fact in verdict.evidence), "</ul>",
        _rates(points, verdict),
        *_plots(points),
        _latencies(points),
        _by_users(points),
        _ceiling(ceiling),
        "<h2>Machine and settings</h2>" + table(["", ""], list(about.items())) if about else "",
    ]  # fmt: skip
    return _document(title, body, is_live=is_live)


def glance(verdict: Verdict, points: Sequence[Figures]) -> str:
    """The verdict so far, and tasks per second beside the ceiling: live, for a frame."""
    if not points:
        return _document("pgtasks", ['<p class="note">pgtasks beside its ceiling: once a run has begun.</p>'], is_live=True)
    return _document("pgtasks", [*_said(verdict), _rates(points, verdict)], is_live=True)


def _document(title: str, body: Sequence[str], *, is_live: bool) -> str:
    refresh = '<meta http-equiv="refresh" content="2">' if is_live else ""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">{refresh}<title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _said(verdict: Verdict) -> list[str]:
    return [
        f'<p class="verdict">{escape(verdict.sentence)}</p>',
        *(f'<p class="warning">{escape(warning)}</p>' for warning in verdict.warnings),
    ]


def _rates(points: Sequence[Figures], verdict: Verdict) -> str:
    lines = [Line(name, [point[f"{name}_per_s"] for point in points]) for name in ("sent", "ended")]
    if any(point["steps_per_s"] for point in points):
        lines.append(Line("steps of workflows", [point["steps_per_s"] for point in points]))
    if verdict.ceiling_per_s:
        said = "ceiling: sent and ended, in batches as they are here"
        lines.append(Line(said, [verdict.ceiling_per_s] * len(points), is_dashed=True))
    return plot("Tasks per second, beside the ceiling", [point["t"] for point in points], lines)


def _plots(points: Sequence[Figures]) -> list[str]:
    times = [point["t"] for point in points]

    def seen(name: str) -> list[float | None]:
        return [point[name] for point in points]

    def megabytes(name: str) -> list[float | None]:
        return [point[name] / 1e6 for point in points]

    def percentile(name: str, at: int) -> list[float | None]:
        return [point[name][at] if point[name] else None for point in points]

    waits = {
        "cpu": "at work",
        "wal": "WAL fsync",
        "lock": "locks",
        "lwlock": "LWLocks",
        "io": "I/O",
        "other": "other",
    }
    return [
        plot("Ready tasks, up to 200,000", times, [Line("ready", seen("ready"))]),
        plot("Users", times, [Line("users", seen("users"))]),
        plot(
            "From the enqueue to the result, ms, by the server's clock",
            times,
            [Line(name, percentile("total_ms", at)) for at, name in enumerate(("p50", "p95", "p99"))],
        ),
        plot(
            "Cores in use",
            times,
            [Line(part, seen(f"{part}_cores")) for part in ("machine", "server", "worker", "generator")],
        ),
        plot(
            "What busy backends do",
            times,
            [Line(name, [point["waits"].get(what, 0.0) for point in points]) for what, name in waits.items()],
        ),
        plot("Memory of the workers, MB", times, [Line("all their processes", megabytes("worker_bytes"))]),
        plot("Size of the database, MB", times, [Line("with indexes", megabytes("database_bytes"))]),
        plot("Dead rows, as autovacuum counts them", times, [Line("in all tables", seen("dead_rows"))]),
    ]


def plot(title: str, times: Sequence[float], lines: Sequence[Line]) -> str:
    """Lines over time, as SVG."""
    top = max((value for line in lines for value in line.values if value is not None), default=0) or 1
    last = max(times, default=0) or 1

    def place(at: float, value: float) -> str:
        return f"{_LEFT + at / last * (_WIDTH - _LEFT - 8):.1f},{_HEIGHT - _BOTTOM - value / top * (_HEIGHT - _BOTTOM - 12):.1f}"

    parts = [
        f'<line x1="{_LEFT}" x2="{_WIDTH - 8}" y1="{y:.0f}" y2="{y:.0f}" stroke="#e0e0e0"/>'
        f'<text x="{_LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{short(top * share)}</text>'
        for share in (0.0, 0.5, 1.0)
        for y in [_HEIGHT - _BOTTOM - share * (_HEIGHT - _BOTTOM - 12)]
    ]
    parts += [
        f'<text x="{_LEFT + share * (_WIDTH - _LEFT - 8):.0f}" y="{_HEIGHT - 6}" text-anchor="{anchor}">'
        f"{last * share:.0f} s</text>"
        for share, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end"))
    ]
    for line, colour in zip(lines, _COLOURS, strict=False):
        known = [place(at, value) for at, value in zip(times, line.values, strict=True) if value is not None]
        dash = ' stroke-dasharray="6 4"' if line.is_dashed else ""
        parts.append(f'<polyline points="{" ".join(known)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
    legend = " ".join(
        f'<span style="color:{colour}">&#9632;</span> {escape(line.name)}'
        for line, colour in zip(lines, _COLOURS, strict=False)
    )
    return (
        f'<h2>{escape(title)}</h2><div class="note">{legend}</div>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" font-size="11" fill="#607d8b">{"".join(parts)}</svg>'
    )


def latencies(points: Sequence[Figures]) -> list[tuple[str, list[float | None]]]:
    """The medians over all seconds of p50, p95 and p99, for each part of a task's life."""
    rows: list[tuple[str, list[float | None]]] = []
    for name, said in (
        ("queue_ms", "in the queue"),
        ("run_ms", "claimed until settled"),
        ("total_ms", "enqueue to result"),
    ):
        seconds = [point[name] for point in points if point[name]]
        rows.append((said, [_median([second[at] for second in seconds]) for at in range(3)]))
    return rows


def _median(values: Sequence[float | None]) -> float | None:
    known = sorted(value for value in values if value is not None)
    return known[len(known) // 2] if known else None


def _latencies(points: Sequence[Figures]) -> str:
    rows = [[said, *map(short, values)] for said, values in latencies(points)]
    return (
        "<h2>Latency by the server's clock, ms</h2>"
        + table(["", "p50", "p95", "p99"], rows)
        + ('<p class="note">Medians over the seconds of the run, of every 32nd task.</p>')
    )


def _ceiling(ceiling: Figures | None) -> str:
    if ceiling is None:
        return ""
    rows = [
        [point["what"], point["clients"], point["batch"], short(point["tasks_per_s"]), short(point["wal_bytes"]),
         short(point["server_us"])]
        for point in ceiling["points"]
    ]  # fmt: skip
    return (
        "<h2>The ceiling: our own statements by pgbench, before the run</h2>"
        + table(["statement", "clients", "tasks each", "tasks/s", "WAL B/task", "server CPU us/task"], rows)
        + f'<p class="note">{ceiling["fsyncs_per_s"]:,.0f} flushes of the disk per second by one process.</p>'
    )


def _by_users(points: Sequence[Figures]) -> str:
    """What came of more users: where a step brings no more, something is at its limit."""
    numbers = sorted({point["users"] for point in points})
    if len(numbers) < 2:
        return ""
    rows = []
    for users in numbers:
        some = [point for point in points if point["users"] == users]
        latency = _median([point["total_ms"][0] for point in some if point["total_ms"]])
        rates = [_median([point[name] for point in some]) for name in ("sent_per_s", "ended_per_s")]
        rows.append([users, len(some), *map(short, [*rates, latency])])
    return "<h2>By the number of users</h2>" + table(["users", "seconds", "sent/s", "ended/s", "p50 ms to the result"], rows)


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table."""
    cells = ["".join(f"<th>{escape(str(cell))}</th>" for cell in head)]
    cells += ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in cells) + "</table>"


def short(value: float | None) -> str:
    """A number for people."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
