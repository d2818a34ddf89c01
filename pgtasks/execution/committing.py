"""The end of a transactional task: settled within the task's own transaction, not by the worker's parent."""

from __future__ import annotations

from typing import Any

from pgtasks import states
from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.app.transactional import is_connection_lost
from pgtasks.exceptions import RunInterrupted
from pgtasks.execution.settling import Settling
from pgtasks.store import borrow, tasks, workflows
from pgtasks.store.sql import Query

__all__ = ("Committing",)


class Committing(Settling):
    """Settles a success in the transaction in which the task has written."""

    def prepare(self, request: dict[str, Any]) -> None:
        """Hand the task what it commits by."""
        awaits = self.site.app.tasks[self.claim.name].is_coroutine
        request["commit_within"] = self.acommit_within if awaits else self.commit_within
        request["was_committed"] = self.was_committed

    def commit_within(self, task: Any, request: Context, retval: Any, connection: Any) -> bool:
        """Store the task's success through a connection; false when the claim is gone, and all must be rolled back."""
        settle, *enqueues = self._success(task, request, retval)
        self.is_gone = bool(borrow.run(connection, settle))
        for enqueue in enqueues if self.is_gone else ():
            borrow.run(connection, enqueue)
        return self.is_gone

    async def acommit_within(self, task: Any, request: Context, retval: Any, connection: Any) -> bool:
        """`commit_within`, for coroutines."""
        settle, *enqueues = self._success(task, request, retval)
        self.is_gone = bool(await borrow.arun(connection, settle))
        for enqueue in enqueues if self.is_gone else ():
            await borrow.arun(connection, enqueue)
        return self.is_gone

    def _success(self, task: Any, request: Context, retval: Any) -> list[Query[Any]]:
        """What stores the success; the first is the fence."""
        super().succeeded(task, request, retval, not get_actual_ignore_result(task, request))
        # Its place in a flow it gives up afterwards: that is to be counted anew, which a transaction of the user's may not do.
        ended = self.ended(states.SUCCESS)._replace(is_limited=False)
        enqueues = [tasks.enqueue(messages, edges, lets_in=False) for messages, edges in self.follow_ups]
        return [tasks.settle(self.site.worker, self.site.hostname, [ended]), *enqueues]

    def was_committed(self, error: BaseException) -> bool:
        """After an error instead of an answer: is the success stored? Raises `RunInterrupted` if it must be retried."""
        self.is_gone = self.site.app.database.run(workflows.committed(self.claim.id, self.claim.delivery))
        if not self.is_gone and is_connection_lost(error):
            raise RunInterrupted(str(error)) from error
        return self.is_gone

    def succeeded(self, task: Any, request: Context, retval: Any, store: bool) -> None:
        if not self.is_gone:
            super().succeeded(task, request, retval, store)
