"""A run drawn in a terminal: one line per step, with a bar on a common scale for when it ran or waited.

    ███  it ran          ░░░  it slept, or waits          a bar ends when its outcome was recorded
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime

from pgtasks.serialization import JSON
from pgtasks.store.runs import Line, Sight

__all__ = ("draw", "span_text", "title_of")

_RAN, _WAITED = "█", "░"
_MARKS = {"SUCCESS": "ok", "FAILURE": "failed", "TIMEOUT": "timed out", "PENDING": "waits"}
_MARK_WIDTH = max(map(len, _MARKS.values()))
_LONGEST_ERROR = 80


def draw(sight: Sight, lines: Sequence[Line], width: int = 40) -> list[str]:
    """Draw when each step ran, with its outcome."""
    start, end = _scale(sight, lines)
    span_s = max((end - start).total_seconds(), 1e-6)
    children = {line.source: line.name.removeprefix("delay ") for line in lines if line.kind == "child" and line.source}
    titles = [title_of(line, children) for line in lines]
    title = max(map(len, titles), default=0)
    drawn = []
    for name, line in zip(titles, lines, strict=True):
        begun, until = ((moment - start).total_seconds() for moment in _span(line, sight.now))
        left = min(width - 1, int(width * max(begun, 0.0) / span_s))
        right = max(left + 1, min(width, round(width * until / span_s)))
        bar = " " * left + (_WAITED if _has_waited(line) else _RAN) * (right - left)
        aside = _aside(line, sight, max(begun, 0.0))
        drawn.append(f"{line.seq:>4}  {name:<{title}}  {_mark(line, sight)}  │{bar:<{width}}│ {aside}".rstrip())
    return drawn


def _scale(sight: Sight, lines: Sequence[Line]) -> tuple[datetime, datetime]:
    """From when to when is drawn: of a run that waits for days, what it did before is to be seen as well."""
    moments = [sight.created_at]
    for line in lines:
        begun, until = _span(line, sight.now)
        moments += [begun] if _is_open(line, sight.now) else [begun, until]
    begun_at = min(moments)
    if sight.done_at is not None:
        return begun_at, sight.done_at
    if sight.state == "SUSPENDED":
        return begun_at, max(moments) + (max(moments) - begun_at) / 4
    return begun_at, sight.now


def _is_open(line: Line, now: datetime) -> bool:
    """Is it still waited for?"""
    return line.state == "PENDING" and (line.due is None or line.due > now)


def _has_waited(line: Line) -> bool:
    return line.state == "PENDING" or line.kind == "sleep"


def _span(line: Line, now: datetime) -> tuple[datetime, datetime]:
    """From when to when a step lasted; what is not recorded of it is nothing."""
    if _is_open(line, now):
        return line.at, now
    if line.kind == "sleep" and line.due is not None:
        return line.at, line.due
    return datetime.fromtimestamp(line.at.timestamp() - (line.took_s or 0.0), line.at.tzinfo), line.at


def title_of(line: Line, children: Mapping[str, str] | None = None) -> str:
    """What a step is called: by its name, with its ordinal if it is not the first; a child's result by the child's."""
    name = line.name
    child = (children or {}).get(line.source or "")
    if line.kind == "get" and child:
        return f"get {child}"
    return f"{name}#{line.ordinal}" if line.ordinal else name


def _mark(line: Line, sight: Sight) -> str:
    mark = _MARKS[line.state]
    if line.state == "PENDING" and not _is_open(line, sight.now):
        mark = "ok" if line.kind == "sleep" else "is due"
    elif line.state == "PENDING" and sight.done_at is not None:
        mark = "left"
    return f"{mark:<{_MARK_WIDTH}}"


def _aside(line: Line, sight: Sight, begun_s: float) -> str:
    parts = [f"+{span_text(begun_s)}"]
    if line.took_s is not None:
        parts.append(f"took {span_text(line.took_s)}")
    if line.kind == "sleep" and line.due is not None:
        parts.append(f"for {span_text((line.due - line.at).total_seconds())}")
    if line.attempts > 1:
        parts.append(f"{line.attempts} tries")
    if line.due is not None and sight.done_at is None and _is_open(line, sight.now):
        parts.append(f"until {line.due:%Y-%m-%d %H:%M:%S}")
    if line.source and line.source not in line.name:
        parts.append(f"task {line.source}" if line.kind in ("child", "get") else f"from {line.source}")
    elif line.kind == "get" and line.source:
        parts.append(f"task {line.source}")
    error = _error(line)
    return ", ".join([*parts, error] if error else parts)


def _error(line: Line) -> str:
    """What a failed step has raised, in a line."""
    is_json = line.content_type in (None, JSON) and line.content_encoding in (None, "utf-8")
    if line.value is None or not is_json or line.state == "SUCCESS":
        return ""
    said = json.loads(line.value)
    if not isinstance(said, dict) or "exc_type" not in said:
        return ""
    words = said.get("exc_message")
    text = " ".join(map(str, words)) if isinstance(words, list) else str(words or "")
    return " ".join(f"{said['exc_type']}: {text}".split())[:_LONGEST_ERROR]


def span_text(seconds: float) -> str:
    """A span of time as people say it: 0.4ms, 1.53s, 2h05m, 3d04h."""
    if seconds < 1:
        return f"{seconds * 1000:.1f}ms"
    if seconds < 60:
        return f"{seconds:.2f}s"
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes}m{seconds % 60:02.0f}s"
    if minutes < 24 * 60:
        return f"{minutes // 60}h{minutes % 60:02d}m"
    return f"{minutes // 1440}d{minutes % 1440 // 60:02d}h"
