"""`WorkflowHandle`: send signals and approvals to a run, and read its values and streams, by its id.

A mixin of `AsyncResult`. Methods that send take `conn=`, to send in the caller's transaction.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

from psycopg import errors

from pgtasks._state import current_run
from pgtasks.exceptions import RunEnded, RunNotFound, TimeoutError
from pgtasks.message import id_of
from pgtasks.serialization import JSON, decode, encode
from pgtasks.store import tasks, workflows
from pgtasks.store.sql import Query

__all__ = ("WorkflowHandle",)

#: How often a stream is looked at while nothing comes.
_SOON_S, _LATER_S = 0.02, 0.5
_UNSET: Any = object()


class WorkflowHandle:
    """Mixin of `AsyncResult`: signals, approvals, values and streams of a workflow's run."""

    id: Any
    app: Any
    backend: Any

    # -- telling

    def signal(self, name: str, value: Any = None, *, key: str | None = None, conn: Any = None) -> bool:
        """Send a signal, for `wf.wait(name)`; false when one was sent before under this `key`.

        Raises `RunNotFound` for an id that is not known, and `RunEnded` for a run that has ended. In the code of a workflow it is
        a step, and the signal is sent once.
        """
        run = current_run.get()
        if run is not None and conn is None:
            return bool(run.drive(run.telling(self, name, value, key)))
        return self._tell(name, value, key, conn)

    def _tell(self, name: str, value: Any, key: str | None, conn: Any = None) -> bool:
        try:
            return bool(self.app.database.run(self._signal(name, value, key), conn))
        except Exception as error:
            _raise_readably(self.id, error)
            raise

    async def asignal(self, name: str, value: Any = None, *, key: str | None = None, conn: Any = None) -> bool:
        """`signal`, for coroutines."""
        run = current_run.get()
        if run is not None and conn is None:
            return bool(await run.perform(run.telling(self, name, value, key)))
        try:
            return bool(await self.app.adatabase.run(self._signal(name, value, key), conn))
        except Exception as error:
            _raise_readably(self.id, error)
            raise

    def _signal(self, name: str, value: Any, key: str | None) -> Query[bool]:
        workflows.checked_name("A signal", name)
        if key is not None:
            workflows.checked_name("The key of a signal", key)
        content_type, encoding, body = encode(self.backend.prepare_value(value), self.backend.serializer)
        return workflows.signal(
            str(id_of(self.id)),
            name,
            body,
            None if content_type == JSON else content_type,
            None if encoding == "utf-8" else encoding,
            key,
        )

    def approve(self, name: str, *, by: str | None = None, comment: str | None = None, conn: Any = None) -> bool:
        """Approve what waits in `wf.approval(name)`."""
        return self.signal(f"approval:{name}", {"approved": True, "by": by, "comment": comment}, conn=conn)

    def reject(self, name: str, *, by: str | None = None, comment: str | None = None, conn: Any = None) -> bool:
        """Reject what waits in `wf.approval(name)`."""
        return self.signal(f"approval:{name}", {"approved": False, "by": by, "comment": comment}, conn=conn)

    def cancel(self, *, terminate: bool = False, conn: Any = None) -> None:
        """Cancel the run: it is left at its next step or wait, and what it did is undone. The same as `revoke`, but for `conn`.

        With `terminate`, the process of a step under way is killed.
        """
        self.app.control.revoke(self.id, terminate=terminate, conn=conn)

    async def acancel(self, *, terminate: bool = False, conn: Any = None) -> None:
        """`cancel`, for coroutines."""
        signal = "SIGTERM" if terminate else ""
        await self.app.adatabase.run(tasks.revoke_at_commit([id_of(self.id)], signal), conn)

    # -- being told

    def value(self, name: str, default: Any = None) -> Any:
        """The newest value that the run has set by `wf.set(name, ...)`."""
        row = self.app.database.run(workflows.latest(id_of(self.id), f"set {name}"))
        return default if row is None else self._read(*row)

    def stream(self, name: str = "out", *, after: int = 0, timeout: float | None = None) -> Iterator[Any]:
        """Give what the run emits by `wf.emit(...)`, from the number `after` on, until the run has ended.

        Raises `pgtasks.exceptions.TimeoutError` when nothing comes for `timeout` seconds.
        """
        watch = _Watch(timeout)
        while True:
            is_over, pieces = self.app.database.run(workflows.emitted(id_of(self.id), f"emit {name}", after))
            for piece in pieces:
                after = piece.ordinal + 1
                yield self._read(*piece[1:])
            if is_over and not pieces:
                return
            time.sleep(watch.pause_s(bool(pieces)))

    async def astream(self, name: str = "out", *, after: int = 0, timeout: float | None = None) -> AsyncIterator[Any]:
        """`stream`, for coroutines."""
        watch = _Watch(timeout)
        while True:
            is_over, pieces = await self.app.adatabase.run(workflows.emitted(id_of(self.id), f"emit {name}", after))
            for piece in pieces:
                after = piece.ordinal + 1
                yield self._read(*piece[1:])
            if is_over and not pieces:
                return
            await asyncio.sleep(watch.pause_s(bool(pieces)))

    def _read(self, content_type: str | None, content_encoding: str | None, value: bytes | None) -> Any:
        return None if value is None else decode(value, content_type, content_encoding, self.backend.accept)


class _Watch:
    """How long to pause between two looks at a stream."""

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s
        self._pause_s = _SOON_S
        self._came_at = time.monotonic()

    def pause_s(self, came: bool) -> float:
        if came:
            self._pause_s, self._came_at = _SOON_S, time.monotonic()
            return 0.0
        if self._timeout_s is not None and time.monotonic() - self._came_at > self._timeout_s:
            raise TimeoutError(f"The stream gave nothing for {self._timeout_s:g} s, and its run has not ended.")
        self._pause_s = min(self._pause_s * 1.5, _LATER_S)
        return self._pause_s


def _raise_readably(run_id: str, error: BaseException) -> None:
    """Say what the database's refusal of a signal means."""
    for refused in (error, error.__cause__):
        if isinstance(refused, errors.NoDataFound):
            raise RunNotFound(f"No run {run_id} is known here: it may have been removed after result_expires.") from error
        if isinstance(refused, errors.ObjectNotInPrerequisiteState):
            raise RunEnded(f"The run {run_id} has ended and takes no signals.") from error
