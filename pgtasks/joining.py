"""The common part of all results: whether waiting is allowed, the base class, and collecting the values of many.

A task that waits for another one occupies a worker slot. Enough of them occupy all slots, and wait for tasks
that get none: a deadlock. So waiting is refused within tasks, unless `allow_join_result` says that it is safe.

A `Gathering` takes the values of tasks in any order and returns them in the order of the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeAlias

from pgtasks import states
from pgtasks._state import _set_task_join_will_block, app_or_default, task_join_will_block

__all__ = (
    "Gathering",
    "ResultBase",
    "allow_join_result",
    "assert_will_not_block",
    "denied_join_result",
    "result_from_tuple",
)

#: What is known of a task: status, result, traceback, children, ... (see `Backend.get_task_meta`).
Meta: TypeAlias = dict[str, Any]
#: A task that ended, and its meta.
Arrival: TypeAlias = tuple[str, Meta]
#: The ids of a result: `((id, its parent's), those of its members or None)`.
ResultTuple: TypeAlias = tuple[tuple[str, Any], list[Any] | None]
#: Called with a task's id and what it returned.
Callback: TypeAlias = Callable[[str, Any], Any]

E_WOULD_BLOCK = """\
Never call result.get() within a task! It occupies a worker slot while it waits, and enough of them wait
forever. Use a chain or a chord, or `with allow_join_result():` if the tasks waited for run on other
workers.
"""


# -- may we wait?


def assert_will_not_block() -> None:
    """Raise RuntimeError when waiting for a result here would block a worker slot."""
    if task_join_will_block():
        raise RuntimeError(E_WOULD_BLOCK)


@contextmanager
def _joining(blocks: bool) -> Iterator[None]:
    before = task_join_will_block()
    _set_task_join_will_block(blocks)
    try:
        yield
    finally:
        _set_task_join_will_block(before)


def allow_join_result() -> AbstractContextManager[None]:
    """Allow waiting for results in the `with` block, even within a task."""
    return _joining(blocks=False)


def denied_join_result() -> AbstractContextManager[None]:
    """Refuse waiting for results in the `with` block."""
    return _joining(blocks=True)


# -- results


class ResultBase:
    """What every result is: one task's, or a set of results."""

    id: Any = None
    #: The result of the step before, when this is one of a chain.
    parent: Any = None
    #: Whether this is the result of one task.
    is_single = True

    _cache: Meta | None = None

    def leaves(self) -> Iterator[Any]:
        """Iterate over the results of single tasks: this one, or those in a set, however deep."""
        yield self

    def lineage(self) -> Iterator[Any]:
        """Iterate over the leaves of this result, and then over those of every step before."""
        yield from self.leaves()
        if self.parent is not None:
            yield from self.parent.lineage()

    def shape(self, values: Mapping[str, Any]) -> Any:
        """Arrange the values of the leaves, by id, as the results are."""
        return values[self.id]


def result_from_tuple(r: Any, app: Any = None) -> Any:
    """Make a result of what `as_tuple` returned; a result passes through."""
    if isinstance(r, ResultBase):
        return r
    app = app_or_default(app)
    head, nodes = r
    id, parent = head if isinstance(head, (list, tuple)) else (head, None)
    parent = result_from_tuple(parent, app) if parent else None
    if nodes is None:
        return app.AsyncResult(id, parent=parent)
    return app.GroupResult(id, [result_from_tuple(node, app) for node in nodes], parent=parent)


class Gathering:
    """What the tasks of a set returned, collected while they end."""

    def __init__(self, results: Any, propagate: bool, callback: Callback | None) -> None:
        self.results = results
        self.propagate = propagate
        self.callback = callback
        self.values: dict[str, Any] = {}
        self.leaves: dict[str, list[Any]] = {}
        for leaf in results.leaves():
            self.leaves.setdefault(leaf.id, []).append(leaf)
        self._single = {member.id for member in results if member.is_single}

    def start(self) -> list[str]:
        """Take what is known already; returns the ids of the tasks to wait for, in the order of the set."""
        missing = []
        for task_id, (leaf, *_) in self.leaves.items():
            if leaf._cache is None:
                missing.append(task_id)
            else:
                self.take(task_id, leaf._cache)
        return missing

    def take(self, task_id: str, meta: Meta) -> None:
        """Note the outcome of one task; raises its error when it failed and errors propagate."""
        for leaf in self.leaves[task_id]:
            if leaf._cache is None:
                leaf._maybe_set_cache(meta)
        value = meta["result"]
        if self.propagate and meta["status"] in states.PROPAGATE_STATES:
            raise as_error(value)
        self.values[task_id] = value
        if self.callback and task_id in self._single:
            self.callback(task_id, value)

    def finish(self) -> list[Any] | None:
        """List the values; with a callback, hand it those of the sets in this set instead."""
        if self.callback is None:
            return [member.shape(self.values) for member in self.results]
        for member in self.results:
            if not member.is_single:
                self.callback(member.id, member.shape(self.values))
        return None


def as_error(value: Any) -> BaseException:
    """Turn what a failed task stored into an exception that can be raised."""
    return value if isinstance(value, BaseException) else Exception(value)


def uncache(result: ResultBase) -> list[str]:
    """Drop what a result and the steps before it know; returns the ids of those that are stored."""
    stored = [leaf for leaf in result.lineage() if leaf.backend is not None]
    for leaf in stored:
        leaf._cache = None
    return [leaf.id for leaf in stored]
