"""How a run creates child tasks exactly once: messages are collected, and enqueued together with the step that records them.

Unique and debounced calls take their keys in the same transaction. When another task already holds the key, the run
records that task, which is not its child.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.app.collecting import collecting
from pgtasks.app.flows import is_repeatable, take_places
from pgtasks.exceptions import AlreadyEnqueued, TaskSentBefore
from pgtasks.joining import result_from_tuple
from pgtasks.message import Batch, Message, id_of
from pgtasks.serialization import encode
from pgtasks.store import tasks, workflows
from pgtasks.store.sql import Query
from pgtasks.store.workflows import Place, Together
from pgtasks.workflow.base import BaseRun, is_there, outside
from pgtasks.workflow.effects import Plan, Transaction

__all__ = ("spawn",)


class _Edge(NamedTuple):
    """Says that somebody waits for a task; it is not written, for the run is no task of that call."""

    succ: UUID
    pred: UUID
    position: int = 0


class _Made(NamedTuple):
    """What is remembered of tasks that were made: those of its own, and the shape of the result that tells of them."""

    tasks: list[str]
    result: Any
    ignored: bool

    @classmethod
    def of(cls, result: Any, messages: Sequence[Message]) -> _Made:
        shape = result.as_tuple() if hasattr(result, "as_tuple") else [str(each.id) for each in result]
        return cls([str(message.id) for message in messages], shape, bool(getattr(result, "ignored", False)))

    def with_holders(self, holders: Mapping[str, str]) -> _Made:
        """The same, where other tasks stand for some of these."""
        own = [each for each in self.tasks if each not in holders]
        return self._replace(tasks=own, result=_renamed(self.result, holders))


def spawn(run: BaseRun, place: Place, send: Callable[[], Any]) -> Plan[Any]:
    """Make tasks, exactly once: `send` publishes them, into what is recorded and enqueued in one transaction."""
    known = yield from run.known(place)
    if known is not None:
        return _result_of(run, run.replay(place, known))
    with outside(), collecting(with_unique=True) as batches:
        result = send()
    messages = [message for batch, _ in batches for message in batch]
    if not messages:
        return result
    made = _Made.of(result, messages)
    try:
        if is_repeatable(messages):
            made = yield Transaction(lambda ask: _take_and_record(run, place, batches, made, ask))
            result = _result_of(run, made._asdict())
        else:
            # One round trip.
            queries: list[Query[Any]] = [_record(run, place, made)]
            queries += [tasks.enqueue(batch, _edges(run, batch, edges)) for batch, edges in batches]
            yield Together(queries)
    except AlreadyEnqueued as error:
        yield from run.fail(place, "child", error, 1, 0.0, False)
        raise
    except Exception as error:
        if workflows.is_lost(error):
            run.check(None)
        if not is_there(error) and not isinstance(error, TaskSentBefore):
            raise
        adopted = yield from run.adopt(place, error)
        run.note_children(adopted)
        return _result_of(run, run.replay(place, adopted))
    run.children.update(map(UUID, made.tasks))
    return result


def _take_and_record(
    run: BaseRun, place: Place, batches: Sequence[Batch], made: _Made, ask: Callable[[Query[Any]], Any]
) -> _Made:
    holders: dict[str, str] = {}
    for batch, edges in batches:
        holder = take_places(ask, batch, _edges(run, batch, edges))
        if holder is not None:
            holders[str(batch[0].id)] = str(holder)
    made = made.with_holders(holders)
    ask(_record(run, place, made))
    return made


def _record(run: BaseRun, place: Place, made: _Made) -> Query[int]:
    ids = [UUID(each) for each in made.tasks]
    # The task whose result it is, where that is one task.
    source = str(id_of(made.result[0][0])) if _is_single(made.result) else None
    return workflows.adopt(run.hold, place, encode(made._asdict()).body, source, ids)


def _is_single(shape: Any) -> bool:
    """Is this the result of one task, and not of several?"""
    return isinstance(shape, tuple) and shape[1] is None


def _edges(run: BaseRun, batch: Sequence[Message], edges: Sequence[Any]) -> list[Any]:
    return [*edges, *(_Edge(run.hold.run, message.id) for message in batch)]


def _renamed(shape: Any, names: Mapping[str, str]) -> Any:
    """The shape of a result with other ids in it."""
    if isinstance(shape, list | tuple):
        return type(shape)(_renamed(each, names) for each in shape)
    return names.get(shape, shape)


def _result_of(run: BaseRun, value: Mapping[str, Any]) -> Any:
    ids = value["result"]
    if all(isinstance(each, str) for each in ids):
        return run.app.ResultSet([run.app.AsyncResult(each) for each in ids])
    result = result_from_tuple(ids, run.app)
    if value["ignored"]:
        result.ignored = True
    return result
