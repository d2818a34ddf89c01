"""`app.backend`: what is known of tasks, under the names that Celery's result backends use.

A facade over the verbs of `pgtasks.store.tasks`; `pgtasks.app.codec` turns rows into the dicts that Celery
calls task meta. An id that nobody enqueued is PENDING, as one that waits is. Reading is one round trip for
any number of ids. Waiting ends when the database says so; see `pgtasks.app.waiting`. Methods that start
with `a` are the same for coroutines.
"""

from __future__ import annotations

import asyncio
import json
import sys
import traceback as tracebacks
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import Any, TypeVar, cast
from uuid import UUID

from kombu.utils.functional import LRUCache
from kombu.utils.url import maybe_sanitize_url

from pgtasks import states
from pgtasks._state import get_current_app
from pgtasks.app import graph, rerun
from pgtasks.app.codec import NO_STATE, ResultCodec
from pgtasks.app.pipeline import flush_pipeline, open_pipeline
from pgtasks.app.waiting import Plan, Watch, meeting
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import TaskRevokedError, TimeoutError
from pgtasks.joining import Arrival, Meta, result_from_tuple
from pgtasks.message import id_of
from pgtasks.store import fleet, groups, results, tasks
from pgtasks.store.listen import AsyncWaiter, Ended, Waiter
from pgtasks.store.results import Stored
from pgtasks.store.sql import Query
from pgtasks.utils.plans import acarry_out, carry_out

__all__ = ("Backend",)

T = TypeVar("T")

#: How often a wait for one step of a chain looks whether an earlier step failed without this one being told.
PARENTS_EVERY_S = 2.0
#: How many tasks one statement of `cleanup` removes.
CLEANUP_STEP = 1000

W_EAGER = """\
Results are not stored in backend and should not be retrieved when task_always_eager is enabled, \
unless task_store_eager_result is enabled."""


class Backend(ResultCodec):
    """Where one app's results are."""

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES
    TimeoutError = TimeoutError

    supports_native_join = True
    supports_autoexpire = True
    supports_result_compression = True
    persistent = True
    is_async = True

    def __init__(self, app: Any) -> None:
        self.app = app
        conf = app.conf
        super().__init__(conf, app.timezone)
        expires = conf.result_expires
        self.expires = expires.total_seconds() if isinstance(expires, timedelta) else expires
        # Successes never change, so they may be remembered; -1 says not to.
        self._cache: Any = {} if conf.result_cache_max == -1 else LRUCache(limit=conf.result_cache_max)
        self._caches = conf.result_cache_max != -1
        #: Results that `then` asked to be told of, by task id; each is called to get the result, or None.
        self._pending: dict[str, list[Callable[[], Any]]] = {}
        self._awaiters: dict[asyncio.AbstractEventLoop, AsyncWaiter] = {}

    def __reduce__(self) -> Any:
        # An app has one backend, and apps are not pickled along with results.
        return _backend_of_current_app, ()

    def as_uri(self, include_password: bool = False) -> str:
        """The URL of the database, without the password unless asked for."""
        url: str = self.app.database.url
        return url if include_password else cast(str, maybe_sanitize_url(url))

    # -- carrying out plans

    def _run(self, plan: Plan[T]) -> T:
        flush_pipeline(self.app)
        return carry_out(plan, meeting(self.app.database.run, self._waiter.wait))

    async def _arun(self, plan: Plan[T]) -> T:
        if (pipeline := open_pipeline(self.app)) is not None:
            await pipeline.aflush()
        return await acarry_out(plan, meeting(self.app.adatabase.run, self._awaiter.wait))

    @cached_property
    def _waiter(self) -> Waiter:
        return Waiter(self.app.database)

    def close(self) -> None:
        """Close the connection by which results are waited for, if there is one."""
        if "_waiter" in self.__dict__:
            self._waiter.close()

    @property
    def _awaiter(self) -> AsyncWaiter:
        """The waiter of the running event loop; those of loops that are closed are dropped."""
        loop = asyncio.get_running_loop()
        if loop not in self._awaiters:
            for closed in [other for other in self._awaiters if other.is_closed()]:
                del self._awaiters[closed]
            self._awaiters[loop] = AsyncWaiter(self.app.adatabase)
        return self._awaiters[loop]

    # -- reading

    def get_task_meta(self, task_id: str, cache: bool = True) -> Meta:
        """What is known of a task: status, result, traceback, children, date_done, and so on."""
        return self.get_metas([task_id], cache)[task_id]

    def get_metas(self, task_ids: Collection[str], cache: bool = True) -> dict[str, Meta]:
        """What is known of some tasks, by id, in one round trip."""
        self._ensure_not_eager()
        return self._run(self._metas(task_ids, cache))

    async def aget_task_meta(self, task_id: str, cache: bool = True) -> Meta:
        return (await self.aget_metas([task_id], cache))[task_id]

    async def aget_metas(self, task_ids: Collection[str], cache: bool = True) -> dict[str, Meta]:
        self._ensure_not_eager()
        return await self._arun(self._metas(task_ids, cache))

    def _metas(self, task_ids: Collection[str], cache: bool = True) -> Plan[dict[str, Meta]]:
        known = {task_id: self._cache[task_id] for task_id in task_ids if cache and task_id in self._cache}
        keys = {id_of(task_id): task_id for task_id in task_ids if task_id not in known}
        if keys:
            found = yield self._fetch(keys)
            known.update({task_id: self._read(task_id, found.get(key)) for key, task_id in keys.items()})
        return known

    def _fetch(self, keys: Iterable[UUID]) -> Query[dict[UUID, Stored]]:
        return results.fetch(keys, with_payload=bool(self.app.conf.result_extended))

    def _read(self, task_id: str, stored: Stored | None) -> Meta:
        """Make a row into task meta, and tell those who asked `then` about this task."""
        meta = self.meta_of(task_id, stored)
        if stored is not None and stored.is_ended:
            if self._caches and meta["status"] == states.SUCCESS:
                self._cache[task_id] = meta
            for get_result in self._pending.pop(task_id, ()):
                if (result := get_result()) is not None:
                    result._maybe_set_cache(meta)
        return meta

    def get_state(self, task_id: str) -> str:
        return cast(str, self.get_task_meta(task_id)["status"])

    get_status = get_state

    def get_result(self, task_id: str) -> Any:
        return self.get_task_meta(task_id).get("result")

    def get_traceback(self, task_id: str) -> str | None:
        return self.get_task_meta(task_id).get("traceback")

    def get_children(self, task_id: str) -> list[Any] | None:
        return self.get_task_meta(task_id).get("children")

    def task_result_exists(self, task_id: str) -> bool:
        """Is there a result, or will there be? Not for an unknown id, nor once forgotten or ignored."""
        return self._run(self._exists(task_id))

    async def atask_result_exists(self, task_id: str) -> bool:
        return await self._arun(self._exists(task_id))

    def _exists(self, task_id: str) -> Plan[bool]:
        key = id_of(task_id)
        found: Stored | None = (yield results.fetch([key])).get(key)
        if found is None or found.state is not None:
            return found is not None
        return not (yield results.ended([key]))

    def reload_task_result(self, task_id: str) -> None:
        """Read a result again although it is remembered."""
        self.get_task_meta(task_id, cache=False)

    def is_cached(self, task_id: str) -> bool:
        return task_id in self._cache

    def _ensure_not_eager(self) -> None:
        conf = self.app.conf
        if conf.task_always_eager and not conf.task_store_eager_result:
            warnings.warn(W_EAGER, RuntimeWarning, stacklevel=3)

    # -- waiting

    def wait_for_pending(
        self,
        result: Any,
        timeout: float | None = None,
        interval: float = 0.5,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        follow_parents: bool = False,
    ) -> None:
        """Wait until a task has ended and tell its result object; raises `TimeoutError` when time is up.

        With `follow_parents` the error of an earlier step of the chain is raised, the earliest first.
        """
        self._ensure_not_eager()
        tick = interval if on_interval else None
        self._run(self._waiting_for(result, Watch([result.id], timeout, tick, on_interval, on_message), follow_parents))

    async def await_pending(self, result: Any, timeout: float | None = None, follow_parents: bool = False) -> None:
        self._ensure_not_eager()
        await self._arun(self._waiting_for(result, Watch([result.id], timeout), follow_parents))

    def _waiting_for(self, result: Any, watch: Watch, follow_parents: bool) -> Plan[None]:
        parents = _steps_before(result) if follow_parents else []
        if parents and watch.tick_s is None:
            watch.tick_s = PARENTS_EVERY_S
        while watch.waiting:
            if watch.has_looked:
                yield from self._raise_earliest_error(parents)
            for _, meta in (yield from self._arrivals(watch)):
                result._maybe_set_cache(meta)
                if meta["status"] in states.PROPAGATE_STATES:
                    yield from self._raise_earliest_error(parents)

    def _raise_earliest_error(self, results: list[Any]) -> Plan[None]:
        unknown = [result for result in results if result._cache is None]
        if unknown:
            metas = yield from self._metas({result.id for result in unknown})
            for result in unknown:
                result._maybe_set_cache(metas[result.id])
        for result in results:
            if result._cache is not None:
                result.maybe_throw()

    def _arrivals(self, watch: Watch) -> Plan[list[Arrival]]:
        """Wait until some task of the watch has ended or a tick has passed; the tasks that ended arrive."""
        if watch.looks_first():
            # Most results are there when asked for: look before waiting.
            found: dict[UUID, Stored] = yield self._fetch(watch.waiting)
            # As in Celery these arrive in the order asked for: of several that failed the first raises.
            ended = [key for key in watch.waiting if key in found and found[key].is_ended]
        else:
            announced: Ended = yield watch.next_wait()
            found = self._told(announced)
            if unknown := [key for key in announced if key not in found]:
                found |= yield self._fetch(unknown)
            ended = [key for key in announced if key in found and found[key].is_ended]
            if len(ended) < len(announced):
                # A hidden result arrives as PENDING, since nothing else will come of it; one of before a redrive does not.
                really: set[UUID] = yield results.ended(announced)
                ended = [key for key in announced if key in really]
                # One that was redriven may have ended between the two looks.
                if late := [key for key in ended if key not in found or not found[key].is_ended]:
                    found |= yield self._fetch(late)
            ended = watch.in_order(found, ended)
        return [watch.arrive(key, self._read(watch.waiting[key], found.get(key))) for key in ended]

    def _told(self, announced: Ended) -> dict[UUID, Stored]:
        """The results that came with their announcement, where nothing more is asked for."""
        if self.app.conf.result_extended:
            return {}
        return {key: stored for key, stored in announced.items() if stored is not None}

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[Arrival]:
        """Iterate over `(id, meta)` as tasks end; raises `TimeoutError` when time is up before the last."""
        self._ensure_not_eager()
        watch = Watch(task_ids, timeout, interval if on_interval else None, on_interval, on_message)
        yield from self._run(self._arrivals(watch))
        if watch.waiting:
            with self._waiter.holding(tuple(watch.waiting)):
                while watch.waiting:
                    yield from self._run(self._arrivals(watch))

    async def aget_many(self, task_ids: Iterable[str], timeout: float | None = None) -> AsyncIterator[Arrival]:
        self._ensure_not_eager()
        watch = Watch(task_ids, timeout)
        for arrival in await self._arun(self._arrivals(watch)):
            yield arrival
        if watch.waiting:
            async with self._awaiter.holding(tuple(watch.waiting)):
                while watch.waiting:
                    for arrival in await self._arun(self._arrivals(watch)):
                        yield arrival

    def iter_native(self, result: Any, **kwargs: Any) -> Iterator[tuple[str, Any]]:
        return cast(Iterator[tuple[str, Any]], result.iter_native(**kwargs))

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Meta:
        """Wait until a task has ended; returns its meta, whether it succeeded or not."""
        [(_, meta)] = self.get_many([task_id], timeout, interval, no_ack, None, on_interval)
        return meta

    def add_pending_result(self, result: Any, weak: bool = False) -> Any:
        """Notify this result object when any call of this process sees that the task has ended."""
        self._pending.setdefault(result.id, []).append(weakref.ref(result) if weak else lambda: result)
        return result

    def remove_pending_result(self, result: Any) -> Any:
        others = [get for get in self._pending.pop(result.id, ()) if get() not in (None, result)]
        if others:
            self._pending[result.id] = others
        return result

    # -- storing

    def store_result(
        self, task_id: str, result: Any, state: str | None, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store the state of a task, from outside its worker; returns the result as it was stored.

        A state that ends a task is stored once and stays: later ones change nothing. Others replace each
        other until the task ends; None is one of them.
        """
        prepared = self.encode_result(result, state)
        self._run(self._storing(task_id, prepared, state, traceback, request))
        return prepared

    async def astore_result(
        self, task_id: str, result: Any, state: str | None, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        prepared = self.encode_result(result, state)
        await self._arun(self._storing(task_id, prepared, state, traceback, request))
        return prepared

    def _storing(self, task_id: str, prepared: Any, state: str | None, traceback: Any, request: Any) -> Plan[None]:
        key = id_of(task_id)
        row = self.row_of(prepared, traceback, request)
        if state is None or state not in states.READY_STATES:
            yield tasks.mark(key, state or NO_STATE, **row)
        elif (yield tasks.store(key, state, **row)):
            call = self.call_of(task_id, request) if request is not None and self.app.conf.result_extended else None
            if call is not None:
                yield tasks.describe(call)
            yield fleet.tell([key])
        self._cache.pop(task_id, None)

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store a success, unless the request says to ignore it."""
        if store_result and not getattr(request, "ignore_result", False):
            self.store_result(task_id, result, state, request=request)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store a failure. What follows from it in a canvas is the worker's affair, not the backend's."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        if store_result:
            self.store_result(task_id, TaskRevokedError(reason), state, request=request)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: Any = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def fail_from_current_stack(self, task_id: str, exc: BaseException | None = None) -> ExceptionInfo:
        """Store the exception being handled as a failure, or another one with its traceback."""
        kind, current, tb = sys.exc_info()
        exc = current if exc is None else exc
        einfo = ExceptionInfo((kind, exc, tb))
        self.mark_as_failure(task_id, cast(BaseException, exc), einfo.traceback)
        # The frames of a stored failure must not keep alive what the task had in its variables.
        if tb is not None:
            tracebacks.clear_frames(tb)
        return einfo

    # -- forgetting

    def forget(self, task_id: str) -> None:
        """Remove what is stored of a task; if it has not ended, it still goes on."""
        self.forget_many([task_id])

    def forget_many(self, task_ids: Collection[str]) -> None:
        self.app.database.run(self._forgetting(task_ids))

    async def aforget_many(self, task_ids: Collection[str]) -> None:
        await self.app.adatabase.run(self._forgetting(task_ids))

    def _forgetting(self, task_ids: Collection[str]) -> Query[int]:
        for task_id in task_ids:
            self._cache.pop(task_id, None)
            self._pending.pop(task_id, None)
        return results.forget(id_of(task_id) for task_id in task_ids)

    def cleanup(self) -> None:
        """Remove the tasks that ended more than `result_expires` ago. Workers do so on their own."""
        if self.expires:
            while self.app.database.run(tasks.expire(self.expires, CLEANUP_STEP)) >= CLEANUP_STEP:
                pass

    def process_cleanup(self) -> None:
        """Nothing to do: connections stay open for the next task."""

    # -- groups

    def save_group(self, group_id: str, result: Any) -> Any:
        """Store which results belong to a group."""
        self.app.database.run(groups.save(group_id, json.dumps(result.as_tuple()).encode()))
        self._cache.pop(group_id, None)
        return result

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """Make the result of a saved group; None if none was saved."""
        members = self.app.database.run(groups.restore(group_id))
        return None if members is None else result_from_tuple(json.loads(members), self.app)

    def get_group_meta(self, group_id: str, cache: bool = True) -> Meta | None:
        result = self.restore_group(group_id)
        return None if result is None else {"result": result}

    def delete_group(self, group_id: str) -> None:
        self.app.database.run(groups.delete(group_id))

    # -- whole canvases

    def canvas_ids(self, task_id: str) -> list[str]:
        """The ids of all tasks of the canvas that a task is part of, without those that undo it."""
        return graph.ids_of(self.app, task_id)

    def redrive(self, task_id: str) -> int:
        """See `pgtasks.app.rerun.redrive`."""
        return rerun.redrive(self.app, task_id)

    def fork(self, task_id: str, from_node: str | None = None) -> dict[str, str]:
        """See `pgtasks.app.rerun.fork`."""
        return rerun.fork(self.app, task_id, from_node)

    def ensure_chords_allowed(self) -> None:
        """Nothing to do: chords work with this backend."""


def _steps_before(result: Any) -> list[Any]:
    """The results of the steps before one, the first step first."""
    before: list[Any] = []
    while (result := result.parent) is not None:
        before[:0] = result.leaves()
    return before


def _backend_of_current_app() -> Any:
    return get_current_app().backend
