"""Operating on runs: find and inspect them, rerun them from where they failed or from any step.

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
from pgtasks.workflow.timeline import title_of

#: How many steps are named to whoever has named none of them.
_SHOWN = 20

__all__ = ("export", "find", "fork", "history", "look", "names", "redrive", "rewind")


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
    lines: list[Line] = app.database.run(runs.history(run))
    number = int(step) if isinstance(step, int) or step.isdigit() else None
    if number is not None and 0 <= number <= max((line.seq for line in lines), default=0):
        return number
    for line in lines:
        if step in (line.name, f"{line.name}#{line.ordinal}") and (line.ordinal == 0 or step != line.name):
            return line.seq
    known = ", ".join(f"{line.seq} {title_of(line)}" for line in lines[:_SHOWN])
    more = f", and {len(lines) - _SHOWN} more" if len(lines) > _SHOWN else ""
    raise WorkflowError(f"Run {run} has no step {step!r}. Its steps: {known or 'none'}{more}.")


# -- to be taken elsewhere


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
