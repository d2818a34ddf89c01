"""Tasks that can be asked to stop: they look, now and then, whether somebody has called `abort()` on their result.

@app.task(bind=True, base=AbortableTask)
def export(self):
    for row in rows():
        if self.is_aborted():
            return
        write(row)

export.delay().abort()
"""

from __future__ import annotations

from typing import Any

from pgtasks.app.task import Task
from pgtasks.result import AsyncResult

__all__ = ("ABORTED", "AbortableAsyncResult", "AbortableTask")

ABORTED = "ABORTED"


class AbortableAsyncResult(AsyncResult[Any]):
    """The result of a task that can be asked to stop."""

    def is_aborted(self) -> bool:
        """Has somebody asked the task to stop?"""
        return bool(self.state == ABORTED)

    def abort(self) -> Any:
        """Ask the task to stop. When it does, and whether, is up to the task."""
        return self.backend.store_result(self.id, result=None, state=ABORTED, traceback=None)


class AbortableTask(Task[..., Any]):
    """The base of tasks that can be asked to stop."""

    abstract = True

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AbortableAsyncResult:
        return AbortableAsyncResult(task_id, backend=self.backend, **kwargs)

    def is_aborted(self, **kwargs: Any) -> bool:
        """Has somebody asked this task to stop? It is a query: ask once in a while, not in the innermost loop.

        Where a subclass gives results of another kind, nobody can have.
        """
        result: Any = self.AsyncResult(kwargs.get("task_id", self.request.id))
        return isinstance(result, AbortableAsyncResult) and result.is_aborted()
