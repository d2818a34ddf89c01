"""Results of tasks: `AsyncResult`, `ResultSet`, `GroupResult`, and `EagerResult` for a task that ran in this process.

The meaning of every name is that of `celery.result` 5.7 (Celery's user guide, "Calling Tasks" and "Tasks").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from vine import Thenable

from pgtasks import states
from pgtasks.asyncresult import AsyncResult, R
from pgtasks.exceptions import TaskRevokedError
from pgtasks.joining import (
    Meta,
    ResultBase,
    allow_join_result,
    as_error,
    assert_will_not_block,
    denied_join_result,
    result_from_tuple,
)
from pgtasks.resultset import GroupResult, ResultSet

__all__ = (
    "AsyncResult",
    "EagerResult",
    "GroupResult",
    "ResultBase",
    "ResultSet",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
)


@Thenable.register
class EagerResult(AsyncResult[R]):
    """The result of a task that ran in place: it has ended, nothing is stored, nothing is asked for."""

    _cache: Meta

    def __init__(
        self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        self.id = id
        self._cache = {
            "task_id": id,
            "result": ret_value,
            "status": state,
            "traceback": traceback,
            "name": name,
        }

    def get(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        """Return what the task returned, or raise its error; None if it was retried or ignored."""
        if disable_sync_subtasks:
            assert_will_not_block()
        if self.state in states.PROPAGATE_STATES and propagate:
            raise as_error(self.result)
        ended = self.state in states.READY_STATES
        return cast(R, self.result if ended else None)

    async def aget(  # type: ignore[override]
        self,
        timeout: float | None = None,
        propagate: bool = True,
        disable_sync_subtasks: bool = True,
        **kwargs: Any,
    ) -> R:
        return self.get(timeout, propagate, disable_sync_subtasks)

    def ready(self) -> bool:
        return True

    async def aready(self) -> bool:
        return True

    def exists(self) -> bool:
        return True

    async def aexists(self) -> bool:
        return True

    def then(self, callback: Callable[..., Any], on_error: Any = None, weak: bool = False) -> Any:
        return self.on_ready.then(callback, on_error)

    def forget(self) -> None:
        """Nothing to do: nothing is stored."""

    async def aforget(self) -> None:
        """Nothing to do: nothing is stored."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Replace the outcome by that of a task which a worker drops: REVOKED, with a `TaskRevokedError`."""
        self._cache.update(status=states.REVOKED, result=TaskRevokedError("revoked"), traceback=None)

    @property
    def supports_native_join(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __copy__(self) -> Any:
        return type(self)(*self.__reduce_args__())

    def __reduce_args__(self) -> tuple[Any, ...]:
        return tuple(self._cache[key] for key in ("task_id", "result", "status", "traceback", "name"))
