"""Check a workflow's current code against recorded histories, without side effects: does it still match?

Every step returns its recorded value. A step of the code that the history lacks is a divergence, and so is a recorded step
that the code does not reach. The history of a run that has not ended is replayed up to its last record.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.exceptions import RunSuspended, Unwound, WorkflowError
from pgtasks.serialization import encode
from pgtasks.store import workflows
from pgtasks.store.workflows import Hold, Recorded, Together, Wish
from pgtasks.workflow import operations
from pgtasks.workflow.effects import Body, Pause, Transaction
from pgtasks.workflow.run import Run

__all__ = ("Verdict", "replay", "replay_document")

_NOBODY = UUID(int=0)
_FAR = 2


class Verdict(NamedTuple):
    """The result of a replay: each divergence as a sentence, and how the code ended."""

    run: str
    name: str
    divergences: list[str]
    end: str

    @property
    def fits(self) -> bool:
        return not self.divergences


class _Replay(Run):
    """A run that is answered from its history, and does nothing."""

    is_durable = False

    def __init__(self, app: Any, task: Any, run: UUID, rows: list[Recorded]) -> None:
        super().__init__(app, task, Hold(run, _NOBODY, _FAR))
        self._rows = rows
        self.found: list[str] = []

    def do(self, effect: Any) -> Any:
        if isinstance(effect, Body):
            if self.is_undoing or self.history.is_replaying:
                return None  # a step that is new here: the code goes on with nothing
            self.leave(RunSuspended("at the end of the history"))
        if isinstance(effect, Wish | Pause | Together | Transaction):
            self.leave(RunSuspended("at the end of the history"))
        return self._answer(effect.statement.name, effect.values)

    def _answer(self, statement: str, values: Mapping[str, Any]) -> Any:
        if statement == "recall":
            return self._rows
        if statement == "diverge":
            self.found.append(
                f"at {values['seq']}: the code comes to {values['found']}, recorded is {values['recorded']}"
            )
        elif statement == "postpone":
            if not self.found:
                self.found.append(f"it began with another version than {self.task.version!r}")
        elif statement in ("receive", "collect", "restart"):
            self.leave(RunSuspended("at the end of the history"))
        return {"remember": False, "amend": workflows.Amended(False, True)}.get(statement)


def replay(app: Any, run_id: str) -> Verdict:
    """Replay a run that the database knows; changes nothing."""
    sight = operations.look(app, run_id)
    document = json.loads(operations.export(app, run_id))
    return _replayed(app, sight.name, sight.id, document, app.database.run(workflows.recall(sight.id)))


def replay_document(app: Any, text: str) -> Verdict:
    """Replay a run that was exported."""
    try:
        document = json.loads(text)
        rows = [_recorded(step) for step in document["steps"]]
        name, run_id, _ = document["name"], UUID(document["id"]), (document["args"], document["kwargs"])
    except (ValueError, KeyError, TypeError) as error:
        raise WorkflowError(
            f"This is no exported run: {error!r}. `pgtasks workflow export RUN_ID` writes one that can be replayed."
        ) from error
    return _replayed(app, name, run_id, document, rows)


def _recorded(step: Mapping[str, Any]) -> Recorded:
    due = datetime.fromisoformat(step["due"]) if step.get("due") else None
    if "base64" in step:
        value: bytes | None = base64.b64decode(step["base64"])
    else:
        value = encode(step["value"]).body if "value" in step else None
    return Recorded(
        step["name"], step["ordinal"], step["seq"], step["kind"], step["state"], step["attempts"], due,
        due is not None and due <= datetime.now(UTC), step.get("source"),
        step.get("content_type"), step.get("content_encoding"), value,
    )  # fmt: skip


def _replayed(app: Any, name: str, run_id: UUID, document: Mapping[str, Any], rows: list[Recorded]) -> Verdict:
    task = app.tasks.get(name)
    if task is None or not task.remembers:
        raise WorkflowError(f"{name!r} is no workflow here. Is its module in imports= or autodiscovered?")
    run = _Replay(app, task, run_id, rows)
    end = _end_of(task, run, document["args"], document["kwargs"])
    return Verdict(str(run_id), name, run.found, end)


def _end_of(task: Any, run: _Replay, args: Any, kwargs: Any) -> str:
    try:
        if task.is_coroutine:
            asyncio.run(task.replayed(run, args, kwargs))
        else:
            task.replayed(run, args, kwargs)
    except Unwound as unwound:
        return str(unwound)
    except Exception as error:
        return f"failed: {error!r}"
    return "returned"
