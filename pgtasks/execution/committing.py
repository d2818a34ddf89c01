"""The end of a transactional task: settled within the task's own transaction, not by whoever claimed it."""

from __future__ import annotations

from typing import Any

from pgtasks import states
from pgtasks.app.context import Context, get_actual_ignore_result
from pgtasks.app.publish import collecting
from pgtasks.app.transactional import is_connection_lost
from pgtasks.exceptions import RunInterrupted
from pgtasks.execution.settling import Settling
from pgtasks.store import borrow, tasks, workflows

__all__ = ("Committing",)


class Committing(Settling):
    """Settles a success in the transaction in which the task has written."""

    def prepare(self, request: dict[str, Any]) -> None:
        """Hand the task what it commits by."""
        request["commit_within"] = self.commit_within
        request["was_committed"] = self.was_committed

    def commit_within(self, task: Any, request: Context, retval: Any, connection: Any) -> bool:
        """Store the task's success through a connection; false when the claim is gone, and all must be rolled back."""
        with collecting() as batches:
            super().succeeded(task, request, retval, not get_actual_ignore_result(task, request))
        settle = tasks.settle(self.site.worker, self.site.hostname, [self.ended(states.SUCCESS)])
        if not borrow.run(connection, settle):
            return False
        for messages, edges in batches:
            borrow.run(connection, tasks.enqueue(messages, edges))
        self.is_gone = True
        return True

    def was_committed(self, error: BaseException) -> bool:
        """Find out, after an error instead of an answer, whether the success is there; raises when it is to be tried again."""
        self.is_gone = self.site.app.database.run(workflows.committed(self.claim.id, self.claim.delivery))
        if not self.is_gone and is_connection_lost(error):
            raise RunInterrupted(str(error)) from error
        return self.is_gone

    def succeeded(self, task: Any, request: Context, retval: Any, store: bool) -> None:
        if not self.is_gone:
            super().succeeded(task, request, retval, store)
