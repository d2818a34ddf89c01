"""`with app.pipeline():` calls are gathered, and go to the database together.

    call -> put -> parcels --(end of the block, many, a moment later)--> flush -> one statement, one commit

A `.delay()` alone is committed when it returns, and waits for the disk. Within a pipeline it returns at once, and what
the block has called is durable when the block has ended, or `flush()` has returned. Nothing is lost on the way: an
exception that leaves the block, `SystemExit` among them, sends what was called before it; a block that lasts sends what
has gathered a moment after the first call, by a thread that all pipelines of the process share; and what a forked child
calls goes at once, since only its parent leaves the block.

A pipeline belongs to the context that entered it: to that thread, and to the asyncio tasks and threads that copied its
context. Once it has ended, calls made by those go at once.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, NamedTuple, Self

from pgtasks.exceptions import OperationalError
from pgtasks.message import Message
from pgtasks.store import tasks

__all__ = ("Pipeline", "entered", "flush_pipeline", "open_pipeline")

#: So many messages are sent without waiting for more.
SIZE = 500
#: How long the first call waits for others in a block that lasts.
LINGER_S = 0.1

#: The pipeline that gathers what is called here, once it `gathers_for` the app.
entered: ContextVar[Pipeline | None] = ContextVar("pgtasks.pipeline", default=None)


def open_pipeline(app: Any) -> Pipeline | None:
    """The pipeline that gathers what is called here."""
    pipeline = entered.get()
    return pipeline if pipeline is not None and pipeline.gathers_for(app) else None


def flush_pipeline(app: Any) -> None:
    """Send what was called here before: somebody is about to ask for its result."""
    if (pipeline := open_pipeline(app)) is not None:
        pipeline.flush()


class _Parcel(NamedTuple):
    """The messages of one call, and how they are sent by themselves."""

    messages: Sequence[Message]
    edges: Sequence[Any]
    send: Callable[[], None]


class Pipeline:
    """Gathers calls; see `app.pipeline`. Safe for threads, and over forks."""

    def __init__(self, app: Any, *, size: int = SIZE, linger_s: float = LINGER_S) -> None:
        if size < 1:
            raise ValueError(f"size={size} is how many calls a pipeline sends together: 1 or more.")
        self.app = app
        self.size = size
        self.linger_s = linger_s
        self._pid = 0
        self._is_open = False
        self._token: Token[Pipeline | None] | None = None
        self._parcels: list[_Parcel] = []
        self._count = 0
        self._refused: list[Exception] = []
        #: Held while messages are added or taken; the other while they are sent, so that they arrive in order.
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def gathers_for(self, app: Any) -> bool:
        return self._is_open and self.app is app and self._pid == os.getpid()

    def __len__(self) -> int:
        """How many messages wait to be sent."""
        return self._count

    # -- the block

    def __enter__(self) -> Self:
        if self._token is not None:
            raise RuntimeError("This pipeline is in use: app.pipeline() makes another one for each block.")
        self._pid, self._is_open = os.getpid(), True
        self._token = entered.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()
        self.flush()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self._leave()
        await self.aflush()

    def _leave(self) -> None:
        self._is_open = False
        if self._token is not None:
            token, self._token = self._token, None
            with suppress(ValueError):  # an async generator may be closed in another context than it was begun in
                entered.reset(token)

    # -- gathering and sending

    def put(self, messages: Sequence[Message], edges: Iterable[Any], send: Callable[[], None]) -> None:
        """Add the messages of one call; `send` sends them alone, should they not go with the others."""
        if self._count >= self.size:
            self.flush()
        self._add(_Parcel(messages, tuple(edges), send))

    async def aput(self, messages: Sequence[Message], edges: Iterable[Any], send: Callable[[], None]) -> None:
        """`put` for coroutines."""
        if self._count >= self.size:
            await self.aflush()
        self._add(_Parcel(messages, tuple(edges), send))

    def _add(self, parcel: _Parcel) -> None:
        with self._lock:
            is_first = not self._parcels
            self._parcels.append(parcel)
            self._count += len(parcel.messages)
        if is_first:
            _lingering.add(self, time.monotonic() + self.linger_s)
        if not self._is_open:  # a call of another thread, that found the pipeline open and comes after its end
            self.flush()

    def flush(self) -> None:
        """Send the calls gathered so far; returns when they are committed.

        Raises as `.delay()` does. When the database cannot be reached the calls stay, and `flush()` may be called
        again. When it refuses some of the calls the others are sent, and the first error is raised.
        """
        self.send_waiting()
        if self._refused:
            errors, self._refused = self._refused, []
            errors[0].add_note(f"Of the calls of the pipeline {len(errors)} were refused; the others are sent.")
            raise errors[0]

    async def aflush(self) -> None:
        """`flush` for coroutines."""
        if self._parcels or self._refused:
            # In a thread, because it may have to wait for another thread that is sending.
            await asyncio.shield(asyncio.to_thread(self.flush))

    def send_waiting(self) -> None:
        """Send the calls gathered so far, and keep the errors of refused ones for `flush`."""
        if self._pid != os.getpid():
            return  # a forked child has a copy of what its parent will send
        with self._sending:
            with self._lock:
                parcels, self._parcels, self._count = self._parcels, [], 0
            if parcels:
                _lingering.discard(self)
                self._send(parcels)

    def _send(self, parcels: list[_Parcel]) -> None:
        messages = [message for parcel in parcels for message in parcel.messages]
        edges = [edge for parcel in parcels for edge in parcel.edges]
        try:
            self.app.database.run(tasks.enqueue(messages, edges))
        except OperationalError as error:
            self._put_back(parcels, error)
            raise
        except Exception:
            # One of them is to blame, and nothing was sent.
            self._send_each(parcels)

    def _send_each(self, parcels: list[_Parcel]) -> None:
        for number, parcel in enumerate(parcels):
            try:
                parcel.send()
            except OperationalError as error:
                self._put_back(parcels[number:], error)
                raise
            except Exception as error:
                self._refused.append(error)

    def _put_back(self, parcels: list[_Parcel], error: Exception) -> None:
        with self._lock:
            self._parcels[:0] = parcels
            self._count = sum(len(parcel.messages) for parcel in self._parcels)
            error.add_note(f"{self._count} calls of the pipeline are not sent. They are kept: its flush() sends them.")


class _Lingering:
    """The pipelines with calls that wait, and the thread that sends those which have waited long enough."""

    def __init__(self) -> None:
        self._reset()
        atexit.register(self.flush_all)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._due: dict[Pipeline, float] = {}
        self._thread: threading.Thread | None = None

    def add(self, pipeline: Pipeline, due_at: float) -> None:
        if self._pid != os.getpid():
            self._reset()
        with self._changed:
            is_next = not self._due or due_at < min(self._due.values())
            self._due[pipeline] = due_at
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="pgtasks-pipelines", daemon=True)
                self._thread.start()
            elif is_next:
                self._changed.notify()

    def discard(self, pipeline: Pipeline) -> None:
        if self._pid == os.getpid():
            with self._changed:
                self._due.pop(pipeline, None)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not (late := self._late()):
                    self._changed.wait(min(self._due.values()) - time.monotonic() if self._due else None)
            for pipeline in late:
                self._send(pipeline)

    def _late(self) -> list[Pipeline]:
        now = time.monotonic()
        return [pipeline for pipeline, due_at in self._due.items() if due_at <= now]

    def _send(self, pipeline: Pipeline) -> None:
        self.discard(pipeline)
        try:
            pipeline.send_waiting()
        except OperationalError:
            self.add(pipeline, time.monotonic() + pipeline.linger_s)

    def flush_all(self) -> None:
        """At the end of the process: send what blocks that were never left have called."""
        if self._pid == os.getpid():
            for pipeline in list(self._due):
                pipeline.flush()


_lingering = _Lingering()
