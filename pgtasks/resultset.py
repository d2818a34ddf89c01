"""Several results as one: `ResultSet`, and `GroupResult`, which a group returns.

A set reads all its members in one round trip and waits for all of them together. Semantics are those of
`celery.result`; import from `pgtasks.result`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import proxy

from vine import Thenable, barrier, promise

from pgtasks import states
from pgtasks._state import current_run, get_current_app
from pgtasks.joining import (
    Arrival,
    Callback,
    Gathering,
    Meta,
    ResultBase,
    ResultTuple,
    assert_will_not_block,
    uncache,
)

__all__ = ("GroupResult", "ResultSet")


@Thenable.register
class ResultSet(ResultBase):
    """A set of results that can be waited for and queried as one."""

    _app: Any = None
    is_single = False

    #: Fires when every member is ready; made when somebody first asks for it.
    _on_ready: Any = None
    _all_ready: Any = None

    def __init__(self, results: Iterable[Any], app: Any = None, **kwargs: Any) -> None:
        self._app = app
        self.results: list[Any] = results if isinstance(results, list) else list(results)

    # -- members

    def add(self, result: Any) -> None:
        """Add a member, unless it is one already."""
        if result in self.results:
            return
        self.results.append(result)
        if self._all_ready is None:
            return
        if self._all_ready.p.ready:
            self._listen_to_members()
        else:
            self._all_ready.add(result)

    def remove(self, result: Any) -> None:
        """Remove a member, given as a result or an id; raises KeyError when it is none."""
        if isinstance(result, str):
            result = self.app.AsyncResult(result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """Remove a member if it is one."""
        try:
            self.remove(result)
        except KeyError:
            pass

    def update(self, results: Iterable[Any]) -> None:
        """Add those that are not members yet."""
        self.results.extend(result for result in results if result not in self.results)

    def clear(self) -> None:
        """Remove all members; the list object stays the same."""
        self.results[:] = []

    def leaves(self) -> Iterator[Any]:
        for result in self.results:
            yield from result.leaves()

    def shape(self, values: Mapping[str, Any]) -> list[Any]:
        return [result.shape(values) for result in self.results]

    # -- states

    def _unknown(self) -> list[str]:
        """The ids of those not known to have ended."""
        return [leaf.id for leaf in self.leaves() if leaf._cache is None]

    def _read_states(self, metas: dict[str, Meta]) -> list[list[str]]:
        """The states of the tasks below each member."""
        return [
            [(metas[leaf.id] if leaf._cache is None else leaf._cache)["status"] for leaf in member.leaves()]
            for member in self.results
        ]

    def _states(self) -> list[list[str]]:
        unknown = self._unknown()
        return self._read_states(self.backend.get_metas(unknown) if unknown else {})

    async def _astates(self) -> list[list[str]]:
        unknown = self._unknown()
        return self._read_states(await self.backend.aget_metas(unknown) if unknown else {})

    def successful(self) -> bool:
        """Did every task end in success?"""
        return all(state == states.SUCCESS for member in self._states() for state in member)

    def failed(self) -> bool:
        """Did any task fail?"""
        return any(state == states.FAILURE for member in self._states() for state in member)

    def waiting(self) -> bool:
        """Is any task unfinished?"""
        return not self.ready()

    def ready(self) -> bool:
        """Did every task end, in success or failure?"""
        return all(state in states.READY_STATES for member in self._states() for state in member)

    def completed_count(self) -> int:
        """Count the members that ended in success."""
        return sum(all(state == states.SUCCESS for state in member) for member in self._states())

    async def aready(self) -> bool:
        """`ready`, for coroutines."""
        return all(state in states.READY_STATES for member in await self._astates() for state in member)

    async def asuccessful(self) -> bool:
        """`successful`, for coroutines."""
        return all(state == states.SUCCESS for member in await self._astates() for state in member)

    async def afailed(self) -> bool:
        """`failed`, for coroutines."""
        return any(state == states.FAILURE for member in await self._astates() for state in member)

    # -- values and errors

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Any:
        """Wait for all members and list what they returned, in their order. See `join_native`."""
        join = self.join_native if self.supports_native_join else self.join
        return join(
            timeout,
            propagate,
            interval,
            callback,
            no_ack,
            on_message,
            disable_sync_subtasks=disable_sync_subtasks,
            on_interval=on_interval,
        )

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        disable_sync_subtasks: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> list[Any]:
        """Wait for one member after the other, in their order; `timeout` is for all of them together.

        Raises the error of the first member that failed, unless `propagate` is false: then the error stands
        in the list. With a `callback(task_id, value)` the list stays empty.
        """
        if disable_sync_subtasks:
            assert_will_not_block()
        deadline = None if timeout is None else time.monotonic() + timeout
        values = []
        for result in self.results:
            value = result.get(
                timeout=None if deadline is None else max(deadline - time.monotonic(), 0.0),
                propagate=propagate,
                interval=interval,
                no_ack=no_ack,
                on_message=on_message,
                on_interval=on_interval,
                disable_sync_subtasks=disable_sync_subtasks,
            )
            if callback:
                callback(result.id, value)
            else:
                values.append(value)
        return values

    def join_native(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callback | None = None,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Any:
        """Wait for all members at once and list what they returned, in their order; a set in it is a list.

        Raises the error of the task that failed first, unless `propagate` is false: then the error stands
        in the list. With a `callback(task_id, value)` the values go there as they arrive, and None is
        returned.
        """
        if (run := current_run.get()) is not None:
            return run.get_results(self, propagate)
        if disable_sync_subtasks:
            assert_will_not_block()
        gathering = Gathering(self, propagate, callback)
        if missing := gathering.start():
            for arrival in self.backend.get_many(missing, timeout, interval, no_ack, on_message, on_interval):
                gathering.take(*arrival)
        return gathering.finish()

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        callback: Callback | None = None,
        disable_sync_subtasks: bool = True,
    ) -> Any:
        """`join_native`, for coroutines. Awaiting the set itself does the same."""
        if (run := current_run.get()) is not None:
            return await run.aget_results(self, propagate)
        if disable_sync_subtasks:
            assert_will_not_block()
        gathering = Gathering(self, propagate, callback)
        if missing := gathering.start():
            async for arrival in self.backend.aget_many(missing, timeout):
                gathering.take(*arrival)
        return gathering.finish()

    def __await__(self) -> Generator[Any, None, Any]:
        return self.aget().__await__()

    def iter_native(
        self,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
    ) -> Iterator[tuple[str, Any]]:
        """Iterate over `(id, meta)` as tasks end; first over `(id, members)` for every set in this one."""
        yield from ((member.id, member.results) for member in self.results if not member.is_single)
        single = [member for member in self.results if member.is_single]
        yield from ((member.id, member._cache) for member in single if member._cache is not None)
        missing = dict.fromkeys(member.id for member in single if member._cache is None)
        if missing:
            yield from self.backend.get_many(missing, timeout, interval, no_ack, on_message, on_interval)

    async def aiter_native(self, timeout: float | None = None) -> AsyncIterator[Arrival]:
        """Iterate over `(id, meta)` of the tasks below as they end, for coroutines."""
        missing = set(self._unknown())
        for leaf in self.leaves():
            if leaf.id not in missing:
                yield leaf.id, leaf._cache
        if missing:
            async for arrival in self.backend.aget_many(missing, timeout):
                yield arrival

    def maybe_throw(self, callback: Callback | None = None, propagate: bool = True) -> None:
        """Raise the error of the first member that failed, if any has by now."""
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # -- when they are ready

    @property
    def on_ready(self) -> Any:
        """A promise that this process fulfils when it sees the last member end."""
        if self._on_ready is None:
            self._listen_to_members()
        return self._on_ready

    def _listen_to_members(self) -> None:
        self._on_ready = promise(args=(proxy(self),))
        self._all_ready = barrier()
        self._all_ready.then(self._on_ready)
        for result in self.results:
            self._all_ready.add(result)
        # Last, because those that are ready already are counted while they are added.
        self._all_ready.finalize()

    def then(self, callback: Callable[..., Any], on_error: Any = None, weak: bool = False) -> Any:
        """Call `callback(self)` when every member is seen to be ready."""
        return self.on_ready.then(callback, on_error)

    # -- revoking, forgetting

    def forget(self) -> None:
        """Remove the stored results of all members, and of the steps before them."""
        if forgotten := uncache(self):
            self.backend.forget_many(forgotten)

    async def aforget(self) -> None:
        """`forget`, for coroutines."""
        if forgotten := uncache(self):
            await self.backend.aforget_many(forgotten)

    def revoke(
        self,
        connection: Any = None,
        terminate: bool = False,
        signal: str | None = None,
        wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Keep all members from running; with `terminate`, send those that are running a `signal` (TERM)."""
        self.app.control.revoke(
            [leaf.id for leaf in self.leaves()],
            connection=connection,
            timeout=timeout,
            terminate=terminate,
            signal=signal,
            reply=wait,
        )

    # -- as a sequence

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __getitem__(self, index: Any) -> Any:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, ResultSet):
            return other.results == self.results
        return NotImplemented

    # Members come and go, so a set that compares by them cannot be hashed.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self.results)}]>"

    def __reduce__(self) -> Any:
        return type(self), (self.results,)

    # -- where they are

    @property
    def supports_native_join(self) -> bool | None:
        return self.results[0].supports_native_join if self.results else None

    @property
    def app(self) -> Any:
        if self._app is None:
            self._app = self.results[0].app if self.results else get_current_app()
        return self._app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    @property
    def backend(self) -> Any:
        return self.app.backend if self.app else self.results[0].backend


@Thenable.register
class GroupResult(ResultSet):
    """The results of a group: a set with an id, which can be saved under it and restored by it."""

    def __init__(
        self,
        id: str | None = None,
        results: Iterable[Any] | None = None,
        parent: Any = None,
        **kwargs: Any,
    ) -> None:
        self.id = id
        self.parent = parent
        super().__init__([] if results is None else results, **kwargs)

    def save(self, backend: Any = None) -> Any:
        """Store which results belong to this group, for `restore`."""
        return (backend or self.app.backend).save_group(self.id, self)

    def delete(self, backend: Any = None) -> None:
        """Remove what `save` stored."""
        (backend or self.app.backend).delete_group(self.id)

    @classmethod
    def restore(cls, id: str, backend: Any = None, app: Any = None) -> Any:
        """Make the group's result from what `save` stored; None when there is nothing."""
        # In the subclass that every app makes for itself `cls.app` is that app, else a property of instances.
        own_app: Any = cls.app
        if isinstance(own_app, property):
            own_app = None
        return (backend or (app or own_app or get_current_app()).backend).restore_group(id)

    @property
    def children(self) -> Sequence[Any]:
        return self.results

    def as_tuple(self) -> ResultTuple:
        """The ids alone, nested as the results are; `result_from_tuple` undoes it."""
        parent = self.parent and self.parent.as_tuple()
        return (self.id, parent), [result.as_tuple() for result in self.results]

    def __bool__(self) -> bool:
        return bool(self.id or self.results)

    def __eq__(self, other: object) -> Any:
        if isinstance(other, GroupResult):
            return (other.id, other.results, other.parent) == (self.id, self.results, self.parent)
        if isinstance(other, str):
            return other == self.id
        return NotImplemented

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(self.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(result.id for result in self.results)}]>"

    def __str__(self) -> str:
        return str(self.id)

    def __reduce__(self) -> Any:
        return type(self), self.__reduce_args__()

    def __reduce_args__(self) -> tuple[Any, ...]:
        return self.id, self.results, self.parent
