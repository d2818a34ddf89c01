"""Looking after runs: find them, see what they did, run them again, from where they failed or from any step.

A step is named by its number in the history, or by its name, with `#` and its ordinal if it is not the first of that name.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from pgtasks.exceptions import RunNotFound, WorkflowError
from pgtasks.message import id_of, new_id
from pgtasks.serialization import JSON, decode
from pgtasks.store import runs
from pgtasks.store.runs import Found, Line, Sight

__all__ = ("export", "find", "fork", "history", "look", "names", "redrive", "rewind", "timeline")


def names(app: Any) -> list[str]:
    """The workflows of an app."""
    return sorted(name for name, task in app.tasks.items() if task.remembers)


def find(
    app: Any,
    flows: Iterable[str] = (),
    states: Sequence[str] | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[Found]:
    """Find runs of these workflows, or of all that the app has, the newest first."""
    found: list[Found] = app.database.run(runs.find(list(flows) or names(app), states, since, limit))
    return found


def look(app: Any, run_id: str) -> Sight:
    """Read where a run stands; raises `RunNotFound`."""
    sight: Sight | None = app.database.run(runs.look(id_of(run_id)))
    if sight is None:
        raise RunNotFound(f"No run {run_id} is known here; its rows may have been removed after result_expires.")
    return sight


def history(app: Any, run_id: str) -> list[Line]:
    """Read the steps of a run, in order."""
    lines: list[Line] = app.database.run(runs.history(id_of(run_id)))
    return lines


# -- again


def redrive(app: Any, run_ids: Iterable[str]) -> list[UUID]:
    """Run failed runs again from the step that failed; what succeeded is not run again.

    With them run the failed tasks whose errors they stumbled over. Gives the ids of all that run; a run that has not failed,
    or that was undone, is not among them.
    """
    again: list[UUID] = app.database.run(runs.redrive(map(id_of, run_ids)))
    return again


def fork(app: Any, run_id: str, from_step: str | int | None = None) -> str:
    """Run a copy, under a new id, that goes on from a step with what was before it; from the beginning by default."""
    sight = look(app, run_id)
    copy = new_id(sight.id)
    app.database.run(runs.fork(sight.id, copy, _seq(app, sight.id, from_step)))
    return str(copy)


def rewind(app: Any, run_id: str, to_step: str | int | None = None) -> None:
    """Have a run go on from a step as if it had not come further: from the beginning by default.

    Tasks that it has made since are not made undone. Raises `WorkflowError` for a run that is under way.
    """
    sight = look(app, run_id)
    if not app.database.run(runs.rewind(sight.id, _seq(app, sight.id, to_step))):
        raise WorkflowError(
            f"Run {run_id} is {sight.state}: it can be rewound when it has ended or is suspended. Revoke it first, or fork it."
        )


def _seq(app: Any, run: UUID, step: str | int | None) -> int:
    if step is None:
        return 0
    if isinstance(step, int) or step.isdigit():
        return int(step)
    name, _, ordinal = step.rpartition("#") if "#" in step else (step, "", "0")
    lines: list[Line] = app.database.run(runs.history(run))
    for line in lines:
        if line.name == name and str(line.ordinal) == ordinal:
            return line.seq
    known = ", ".join(f"{line.name}#{line.ordinal}" for line in lines[:20]) or "none"
    raise WorkflowError(f"Run {run} has no step {step!r}. Its steps: {known}.")


# -- to be read


def timeline(sight: Sight, lines: Sequence[Line], width: int = 40) -> list[str]:
    """Draw when each step ran: one line each, with a bar on a common scale."""
    moments = [sight.created_at, *(line.at for line in lines), sight.done_at or sight.now]
    start, end = min(moments), max(moments)
    span = max((end - start).total_seconds(), 1e-6)
    title = max((len(_title(line)) for line in lines), default=0)
    drawn = []
    for line in lines:
        until = (line.at - start).total_seconds()
        begun = until - (line.took_s or 0.0)
        left = min(width - 1, int(width * max(begun, 0.0) / span))
        right = max(left + 1, min(width, round(width * until / span)))
        bar = " " * left + ("?" if line.state == "PENDING" else "█") * (right - left)
        drawn.append(f"{line.seq:>4}  {_title(line):<{title}}  {_mark(line)}  │{bar:<{width}}│ {_aside(line, until)}")
    return drawn


def _title(line: Line) -> str:
    return f"{line.name}#{line.ordinal}" if line.ordinal else line.name


_MARKS = {"SUCCESS": "ok", "FAILURE": "failed", "TIMEOUT": "timed out", "PENDING": "waits"}
_MARK_WIDTH = max(map(len, _MARKS.values()))


def _mark(line: Line) -> str:
    return f"{_MARKS[line.state]:<{_MARK_WIDTH}}"


def _aside(line: Line, until_s: float) -> str:
    parts = [f"+{until_s:.3f}s"]
    if line.took_s is not None:
        parts.append(f"took {line.took_s * 1000:.1f}ms")
    if line.attempts > 1:
        parts.append(f"{line.attempts} tries")
    if line.due is not None and line.state == "PENDING":
        parts.append(f"until {line.due:%Y-%m-%d %H:%M:%S}")
    if line.source:
        parts.append(f"from {line.source}")
    return ", ".join(parts)


def export(app: Any, run_id: str) -> str:
    """A run as JSON, with all it takes to replay it elsewhere: how it was called, and what it remembers."""
    sight = look(app, run_id)
    args, kwargs, *_ = decode(sight.payload, sight.content_type, sight.content_encoding, app.backend._accept_payload)
    document = {
        "id": str(sight.id),
        "name": sight.name,
        "state": sight.state,
        "created_at": sight.created_at.isoformat(),
        "args": list(args),
        "kwargs": dict(kwargs),
        "steps": [_exported(line) for line in history(app, run_id)],
    }
    return json.dumps(document, indent=2, default=str)


def _exported(line: Line) -> dict[str, Any]:
    step = {
        "seq": line.seq,
        "name": line.name,
        "ordinal": line.ordinal,
        "kind": line.kind,
        "state": line.state,
        "attempts": line.attempts,
        "source": line.source,
        "at": line.at.isoformat(),
        "due": line.due.isoformat() if line.due else None,
    }
    if line.value is None:
        return step
    if line.content_type in (None, JSON) and line.content_encoding in (None, "utf-8"):
        return {**step, "value": json.loads(line.value)}
    encoded = base64.b64encode(line.value).decode()
    return {**step, "content_type": line.content_type, "content_encoding": line.content_encoding, "base64": encoded}
