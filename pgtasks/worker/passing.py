"""What the parent has to do with chains whose links its children settle by themselves: permit it, and keep the books.

It is permitted while there is nothing to decide: no task waits, a slot is free, so that the next `.delay()` wakes this worker,
no limit may say no, and no program wants to be told of tasks in the order in which things happen to them, by events or receivers
of `task_received`. Else each link comes to the parent and goes back, as every other task does. The log may say that a link is
received when it has ended already.
"""

from __future__ import annotations

from typing import Any

from pgtasks.worker.losses import returned

__all__ = ("Passing",)


class Passing:
    """For one crew of a worker."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._permit = worker.crew.options.child.may_pass_on

    def mind(self) -> None:
        """Hear what children have settled and what they go on with; permit more of it, or no more."""
        crew = self._worker.crew
        if passed := crew.take_passed():
            self._hear(passed)
        if crew.is_unsure:
            crew.is_unsure = False
            self._worker.consumer.doubt()
        self._permit.give(self._is_permitted())

    def forbid(self) -> None:
        """From now on the children do nothing by themselves; what they have begun of it they tell."""
        self._permit.give(False)

    def _is_permitted(self) -> bool:
        worker = self._worker
        return bool(
            worker.consumer.has_nothing_to_decide
            and not worker.is_stopping
            and not worker.crew.throttle.has_limits
            and not worker.is_watched()
        )

    def _hear(self, passed: list[Any]) -> None:
        worker = self._worker
        worker.note_settled([each.outcome for each in passed])
        worker.announce([each.claim for each in passed if each.as_number])
        left = [each.claim for each in passed if each.claim is not None and not each.as_number]
        if left and worker.is_stopping:
            worker.crew.put_back(map(returned, left))
        elif left:
            worker.receive(worker.crew.admit(left))
