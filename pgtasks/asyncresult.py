"""The result of one task, looked up by its id: `AsyncResult`.

A result holds an id and asks `backend` for the rest. The data of a task that has ended is cached and not read again.
Every method that reads or waits has a coroutine version with the prefix `a`: `await result.aget()` (or just
`await result`), `await result.aready()`. Semantics are those of `celery.result`; import from `pgtasks.result`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from functools import cached_property
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

from vine import Thenable, promise

from pgtasks import states
from pgtasks._state import app_or_default, current_run
from pgtasks.exceptions import IncompleteStream, TimeoutError
from pgtasks.joining import (
    Callback,
    Meta,
    ResultBase,
    ResultTuple,
    as_error,
    assert_will_not_block,
    result_from_tuple,
    uncache,
)
from pgtasks.utils.graph import DependencyGraph, GraphFormatter
from pgtasks.workflowhandle import WorkflowHandle

__all__ = ("AsyncResult",)

R = TypeVar("R")


@Thenable.register
class AsyncResult(WorkflowHandle, ResultBase, Generic[R]):
    """The result of one task, wherever it runs and whether or not it has ended; `id` is the task's."""

    TimeoutError = TimeoutError

    #: In the subclass that every app makes for itself: that app.
    app: Any = None
    backend: Any = None

    _ignored = False
    #: Made when somebody first asks for `on_ready`.
    _promise: Any = None

    def __init__(
        self, id: str, backend: Any = None, task_name: str | None = None, app: Any = None, parent: Any = None
    ) -> None:
        if id is None:
            raise ValueError("AsyncResult requires valid id, not None. Pass the id that apply_async() returned.")
        self.id = id
        self.app = app_or_default(app or self.app)
        self.backend = backend or self.app.backend
        self.parent = parent

    # -- what is known

    def _maybe_set_cache(self, meta: Meta) -> Meta:
        """Keep what is known of the task if it has ended, and tell those who wait for that."""
        if meta["status"] in states.READY_STATES and self._cache is None:
            children = [result_from_tuple(child, self.app) for child in meta.get("children") or ()]
            self._cache = {**meta, "children": children or meta.get("children")}
            if self._promise is not None:
                self.backend.remove_pending_result(self)
                self._promise(self)
        return self._cache or meta

    def _get_task_meta(self) -> Meta:
        return self._cache or self._maybe_set_cache(self.backend.get_task_meta(self.id))

    async def _aget_task_meta(self) -> Meta:
        return self._cache or self._maybe_set_cache(await self.backend.aget_task_meta(self.id))

    @property
    def state(self) -> str:
        """PENDING (not started, or unknown), STARTED, RETRY, SUCCESS, FAILURE, REVOKED or one of your own."""
        return cast(str, self._get_task_meta()["status"])

    status = state

    @property
    def result(self) -> Any:
        """What the task returned; the exception if it failed; before that, what `update_state` stored."""
        return self._get_task_meta()["result"]

    info = result

    @property
    def traceback(self) -> str | None:
        return self._get_task_meta().get("traceback")

    @property
    def children(self) -> list[Any] | None:
        """The results of the tasks that this one called, if it keeps a trail."""
        return self._get_task_meta().get("children")

    @property
    def date_done(self) -> datetime | None:
        """When the task ended, in the app's time zone."""
        done = self._get_task_meta().get("date_done")
        return datetime.fromisoformat(done) if isinstance(done, str) else done

    @property
    def name(self) -> str | None:
        return self._get_task_meta().get("name")

    @property
    def args(self) -> Any:
        """The arguments, if `result_extended` is set."""
        return self._get_task_meta().get("args")

    @property
    def kwargs(self) -> Any:
        """The keyword arguments, if `result_extended` is set."""
        return self._get_task_meta().get("kwargs")

    @property
    def worker(self) -> str | None:
        return self._get_task_meta().get("worker")

    @property
    def retries(self) -> int | None:
        return self._get_task_meta().get("retries")

    @property
    def queue(self) -> str | None:
        return self._get_task_meta().get("queue")

    @property
    def ignored(self) -> bool:
        """Whether the task was called with `ignore_result`: then `get()` returns None at once."""
        return self._ignored

    @ignored.setter
    def ignored(self, value: bool) -> None:
        self._ignored = value

    # -- has it ended?

    def ready(self) -> bool:
        """Did the task end, in success or failure?"""
        return self.state in states.READY_STATES

    def successful(self) -> bool:
        return self.state == states.SUCCESS

    def failed(self) -> bool:
        return self.state == states.FAILURE

    def exists(self) -> bool:
        """Is anything known of this id? PENDING alone is also the state of a task that never was."""
        return cast(bool, self.backend.task_result_exists(self.id))

    async def astate(self) -> str:
        """`state`, for coroutines. Once the task has ended, the other properties ask the database no more."""
        return cast(str, (await self._aget_task_meta())["status"])

    async def aready(self) -> bool:
        """`ready`, for coroutines."""
        return await self.astate() in states.READY_STATES

    async def asuccessful(self) -> bool:
        """`successful`, for coroutines."""
        return await self.astate() == states.SUCCESS

    async def afailed(self) -> bool:
        """`failed`, for coroutines."""
        return await self.astate() == states.FAILURE

    async def aexists(self) -> bool:
        """`exists`, for coroutines."""
        return cast(bool, await self.backend.atask_result_exists(self.id))

    # -- values and errors

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        no_ack: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """Wait until the task has ended and return what it returned; None at once if its result is ignored.

        Raises the task's error, or with `follow_parents` that of the earliest step that failed; with
        `propagate` false the error is returned instead. Raises `pgtasks.exceptions.TimeoutError` after
        `timeout` seconds; 0 asks once. The wait ends when the database announces the result: `interval`
        only says how often `on_interval()` is called. `callback(id, value)` is called with the value,
        `on_message(meta)` before that.
        """
        if (run := current_run.get()) is not None:
            return cast(R, run.get_result(self, timeout, propagate))
        if self.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._must_look(propagate and follow_parents):
            self.backend.wait_for_pending(
                self,
                timeout=timeout,
                interval=interval,
                on_message=on_message,
                on_interval=on_interval,
                follow_parents=follow_parents and propagate,
            )
        return self._finish(propagate, callback)

    def wait(self, *args: Any, **kwargs: Any) -> R:
        """Another name for `get`."""
        return self.get(*args, **kwargs)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        follow_parents: bool = True,
        callback: Callback | None = None,
        disable_sync_subtasks: bool = True,
    ) -> R:
        """`get`, for coroutines. Awaiting the result itself does the same."""
        if (run := current_run.get()) is not None:
            return cast(R, await run.aget_result(self, timeout, propagate))
        if self.ignored:
            return cast(R, None)
        if disable_sync_subtasks:
            assert_will_not_block()
        if self._must_look(propagate and follow_parents):
            await self.backend.await_pending(self, timeout=timeout, follow_parents=follow_parents and propagate)
        return self._finish(propagate, callback)

    def __await__(self) -> Generator[Any, None, R]:
        return self.aget().__await__()

    def _must_look(self, follow_parents: bool) -> bool:
        """Is the end not known yet; or, of one that failed, which step before it failed first?"""
        if self._cache is None:
            return True
        return follow_parents and self.parent is not None and self._cache["status"] in states.PROPAGATE_STATES

    def _finish(self, propagate: bool, callback: Callback | None) -> R:
        if self._cache is None:
            # It ended without leaving a result, which nobody announced to this process.
            return cast(R, None)
        return cast(R, self.maybe_throw(propagate=propagate, callback=callback))

    def maybe_throw(self, propagate: bool = True, callback: Callback | None = None) -> Any:
        """Raise the task's error if it has failed by now, else return what is known of its result."""
        meta = self._get_task_meta()
        if propagate and meta["status"] in states.PROPAGATE_STATES:
            self.throw(as_error(meta["result"]), self._to_remote_traceback(meta.get("traceback")))
        if callback is not None:
            callback(self.id, meta["result"])
        return meta["result"]

    maybe_reraise = maybe_throw

    def throw(self, exc: BaseException, tb: TracebackType | None = None) -> None:
        """Raise an error, and tell it those who ask `then` for errors from now on."""
        self.on_ready.throw(exc, tb)

    def _to_remote_traceback(self, text: str | None) -> TracebackType | None:
        if not text or self.app is None or not self.app.conf.task_remote_tracebacks:
            return None
        # Optional: without tblib the text alone is known of a remote traceback.
        try:
            from tblib import Traceback
        except ImportError:
            return None
        return cast(TracebackType, Traceback.from_string(text).as_traceback())

    # -- what it led to

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Iterate over `(parent, result)` of the tasks that this one called, and they called, level by level.

        Raises `IncompleteStream` at one that has not ended, unless `intermediate` says to skip what is
        below it.
        """
        queue: deque[tuple[Any, Any]] = deque([(None, self)])
        while queue:
            parent, node = queue.popleft()
            yield parent, node
            if node.ready():
                queue.extend((node, child) for child in node.children or ())
            elif not intermediate:
                raise IncompleteStream()

    def collect(self, intermediate: bool = False, **kwargs: Any) -> Iterator[tuple[Any, Any]]:
        """Iterate over `(result, value)` of this task and those it led to, waiting for each: `iterdeps`."""
        for _, node in self.iterdeps(intermediate=intermediate):
            yield node, node.get(**kwargs)

    def get_leaf(self) -> Any:
        """Return the value of the last task that this one led to."""
        value = None
        for _, node in self.iterdeps():
            value = node.get()
        return value

    def build_graph(self, intermediate: bool = False, formatter: GraphFormatter | None = None) -> DependencyGraph:
        """Make a graph of the results of this task and those it led to; see `iterdeps`."""
        graph = DependencyGraph(formatter=formatter or GraphFormatter(root=self.id, shape="oval"))
        for parent, node in self.iterdeps(intermediate=intermediate):
            graph.add_arc(node)
            if parent:
                graph.add_edge(parent, node)
        return graph

    @cached_property
    def graph(self) -> DependencyGraph:
        return self.build_graph()

    # -- when it is ready

    @property
    def on_ready(self) -> Any:
        """A promise that this process fulfils with this result when it sees the task end."""
        if self._promise is None:
            self._promise = promise()
            if self._cache is not None:
                self._promise(self)
        return self._promise

    def then(self, callback: Callable[..., Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call `callback(self)` when the task is seen to end, and `on_error(exc)` when its error is raised.

        Seeing it takes somebody who waits for or asks for this id: nothing runs in the background.
        """
        on_ready = self.on_ready
        if self._cache is None:
            self.backend.add_pending_result(self, weak=weak)
        return on_ready.then(callback, on_error)

    # -- revoking, rerunning, forgetting

    def forget(self) -> None:
        """Remove the stored result, and those of the steps before."""
        self.backend.forget_many(uncache(self))

    async def aforget(self) -> None:
        """`forget`, for coroutines."""
        await self.backend.aforget_many(uncache(self))

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
        canvas: bool = False,
        conn: Any = None,
    ) -> None:
        """Keep the task from running; with `terminate`, send the process that runs it a `signal` (TERM).

        With `canvas`, the same for every task of the canvas it is part of; with `conn`, when the transaction commits.
        """
        self.app.control.revoke(
            self.backend.canvas_ids(self.id) if canvas else self.id,
            conn=conn,
            connection=connection,
            terminate=terminate,
            signal=signal or "SIGTERM",
            reply=wait,
            timeout=timeout,
        )

    def redrive(self) -> int:
        """Run again what failed in the canvas that this task is part of; what succeeded keeps its result.

        Gives how many tasks run again. Raises `ImproperlyConfigured` while tasks of the canvas have not ended.
        """
        uncache(self)
        redriven: int = self.backend.redrive(self.id)
        return redriven

    def fork(self, from_node: str | None = None) -> AsyncResult[R]:
        """Run copies of this task, or of the canvas from the task `from_node` on; what came before is not run again.

        Gives the result of this task's copy, or that of `from_node`'s when this task does not come after it.
        """
        copies = self.backend.fork(self.id, from_node)
        forked: AsyncResult[R] = self.app.AsyncResult(copies.get(self.id) or copies[from_node])
        return forked

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Keep the tasks that carry all these stamps from running; see `revoke`."""
        self.app.control.revoke_by_stamped_headers(
            headers,
            connection=connection,
            terminate=terminate,
            signal=signal,
            reply=wait,
            timeout=timeout,
        )

    # -- as a value

    @property
    def task_id(self) -> str:
        return cast(str, self.id)

    @task_id.setter
    def task_id(self, id: str) -> None:
        self.id = id

    @property
    def supports_native_join(self) -> bool:
        return cast(bool, self.backend.supports_native_join)

    def as_tuple(self) -> ResultTuple:
        """The ids alone, with those of the steps before; `result_from_tuple` undoes it."""
        return (self.id, self.parent and self.parent.as_tuple()), None

    def as_list(self) -> list[str]:
        """The ids of this task and of the steps before."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else ())]

    def __str__(self) -> str:
        return str(self.id)

    def __hash__(self) -> int:
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __eq__(self, other: object) -> Any:
        if isinstance(other, AsyncResult):
            return other.id == self.id
        if isinstance(other, str):
            return other == self.id
        return NotImplemented

    def __copy__(self) -> Any:
        return type(self)(self.id, self.backend, None, self.app, self.parent)

    def __reduce__(self) -> Any:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.backend, None, None, self.parent
