"""A run in memory, without a worker: a workflow called as a function, or eagerly, as in tests.

Steps are called, sleeps really sleep, and nothing is recorded. A wait for signals or for tasks raises
WorkflowError, since nothing can reach the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pgtasks.exceptions import WorkflowError
from pgtasks.store.workflows import Amended, Answer, Hold, Place, Wish
from pgtasks.workflow.base import outside
from pgtasks.workflow.effects import Body, Pause, Plan, call_body
from pgtasks.workflow.run import Run

__all__ = ("MemoryRun",)

_NOBODY = UUID(int=0)

#: What each statement of a run is answered, as if it had been carried out.
_ANSWERS: dict[str, Any] = {
    "remember": False,
    "amend": Amended(False, True),
    "receive": Answer(False, {}),
    "recall": [],
    "held": False,
}


class MemoryRun(Run):
    """A run whose statements go nowhere."""

    is_durable = False

    def __init__(self, app: Any, task: Any) -> None:
        super().__init__(app, task, Hold(UUID(int=id(self) & (1 << 62) - 1), _NOBODY, 1))

    def do(self, effect: Any) -> Any:
        if isinstance(effect, Body):
            return call_body(effect)
        if isinstance(effect, Pause):
            return time.sleep(effect.seconds)
        if isinstance(effect, Wish):
            return self._sit_out(effect)
        return _ANSWERS.get(effect.statement.name)

    def _sit_out(self, wish: Wish) -> str:
        spans = [each.seconds for each in wish.pending if each.seconds is not None]
        if wish.until is not None:
            spans.append((wish.until - datetime.now(UTC)).total_seconds())
        if wish.names or not spans:
            raise WorkflowError(
                f"Workflow {self.task.name!r} waits for {', '.join(wish.names) or 'tasks'}, and runs in memory, where nothing can"
                " reach it. Send it to a worker: .delay()."
            )
        time.sleep(max(min(spans), 0.0))
        return "ready"

    def spawn(self, place: Place, send: Callable[[], Any]) -> Plan[Any]:
        with outside():
            return send()
        yield

    def _got(self, result: Any, timeout: float | None, propagate: bool) -> Plan[Any]:
        with outside():
            return result.get(timeout=timeout, propagate=propagate, disable_sync_subtasks=False)
        yield

    def _got_many(self, results: Any, propagate: bool) -> Plan[Any]:
        with outside():
            return results.get(propagate=propagate, disable_sync_subtasks=False)
        yield
