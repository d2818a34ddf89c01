"""Many calls of one task at once: `delay_many`, `apply_async_many`, and groups of nothing else.

    calls -> Pattern (what all have in common, composed once) -> batches of a thousand -> one statement each

Only ids and arguments are made per call, so a call costs its process a tenth of what `.delay()` does. The
statements of a stretch go in one transaction, and each is on its way while the next one is put together.
Where a call may differ from the next in more than that, since a signal has receivers, a router is asked or a
method is overridden, every call is composed on its own, and the batches stay. Eager calls, and those with
callbacks, are made one by one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import copy_context
from functools import cached_property
from itertools import chain
from typing import Any
from uuid import UUID

from pgtasks import signals
from pgtasks._state import current_run, get_current_worker_task
from pgtasks.app.call import Call, compose
from pgtasks.app.flows import asend_uniques, go_alone, is_repeatable, send_uniques
from pgtasks.app.pattern import Arguments, Pattern, are_alike, is_sent_plainly, result_of
from pgtasks.app.protocol import announce
from pgtasks.app.publish import acarrier, carrier, complete, put, relatives
from pgtasks.canvas.ids import fresh_id
from pgtasks.canvas.planner import PLACE_OPTIONS
from pgtasks.canvas.signature import Signature, without_nones
from pgtasks.message import Ids, Message, id_of, new_id
from pgtasks.result import ResultSet
from pgtasks.store import tasks
from pgtasks.store.sql import Query
from pgtasks.utils.functional import regen

__all__ = (
    "ManyResults",
    "aapply_async_many",
    "adelay_many",
    "apply_async_many",
    "asend_group",
    "delay_many",
    "send_group",
)

#: Calls per statement: enough to share its cost, few enough to be put together while another one is under
#: way.
BATCH = 1000
#: Calls per transaction, at most, of those that need not all be in one.
STRETCH = 16_000
#: Bytes of arguments after which no more of a source is read before what was read is sent: memory, and what a statement takes,
#: stay the same however large they are.
LARGE = 16_000_000
#: Of small calls every 13th is weighed, at a hundredth of what a call costs; of large ones each.
_SPARED = 12
#: What a slow source has given in this time is sent, however little it is.
_PATIENCE_S = 0.25
#: So few calls share their commit with those of other threads.
FEW = 50


class ManyResults(ResultSet):
    """The results of many calls, in their order: made when they are first looked at, until then eight bytes
    each."""

    def __init__(self, blocks: Sequence[Ids | Sequence[UUID]], make: Callable[[str], Any], app: Any) -> None:
        # Not ResultSet's: it would make the results.
        self._app = app
        self._blocks = blocks
        self._make = make

    @cached_property
    def results(self) -> list[Any]:  # type: ignore[override]
        """The results themselves, from here on kept as in any set."""
        return [self._make(task_id) for task_id in self.ids()]

    def ids(self) -> Iterator[str]:
        """The ids of all tasks; makes no results."""
        return (str(key) for block in self._blocks for key in block)

    def __len__(self) -> int:
        return len(self.results) if "results" in self.__dict__ else sum(map(len, self._blocks))

    def __reduce__(self) -> Any:
        return ResultSet, (self.results,)


# -- delay_many and apply_async_many: methods of `Task`


def delay_many(task: Any, calls: Iterable[Any]) -> ResultSet:
    """Have a worker run the task once for each item: a tuple is the arguments of a call, all else its only
    one.

    The items may come from a generator, of any length. Returns the results, in order. See `apply_async_many`.
    """
    return send_many(task._get_app(), task, map(_positional, calls), {})


async def adelay_many(task: Any, calls: Iterable[Any]) -> ResultSet:
    """`delay_many` for coroutines."""
    return await asend_many(task._get_app(), task, map(_positional, calls), {})


def apply_async_many(task: Any, calls: Iterable[Arguments], **options: Any) -> ResultSet:
    """Have a worker run the task once for each pair of positional and keyword arguments.

    Options are those of `apply_async`, for all calls, but for `task_id`. A thousand calls take one round
    trip. With `conn=` or `using=` all are in the caller's transaction. Without, up to 16,000 of them are in
    one: an error, such as arguments that cannot be written, leaves enqueued what was sent before it, and
    nothing of what came after.
    """
    return send_many(task._get_app(), task, calls, options)


async def aapply_async_many(task: Any, calls: Iterable[Arguments], **options: Any) -> ResultSet:
    """`apply_async_many` for coroutines; each thousand calls are in a transaction of their own."""
    return await asend_many(task._get_app(), task, calls, options)


def _positional(item: Any) -> Arguments:
    return (item if isinstance(item, tuple) else (item,)), None


def send_many(app: Any, task: Any, calls: Iterable[Arguments], options: dict[str, Any]) -> ResultSet:
    """Enqueue calls with their options in common; see `apply_async_many`."""
    _refuse_one_id(task, options)
    run = current_run.get()
    if run is not None and options.get("conn") is None and not options.get("using"):
        recorded: ResultSet = run.publish(task.name, lambda: send_many(app, task, calls, options))
        return recorded
    if app.conf.task_always_eager or options.get("link") or not is_sent_plainly(app, task) or go_alone(task, options):
        results: ResultSet = app.ResultSet([task.apply_async(args, kwargs, **options) for args, kwargs in calls])
        return results
    sending = _Sending(app, task, options)
    conn = carrier(app, sending.conn)
    for stretch in _stretches(calls):
        if not sending.are_alike or (conn is None and len(stretch) <= FEW):
            for batch in _batches(stretch):
                with_calls, messages = sending.compose(batch)
                if is_repeatable(messages):
                    sending.blocks[-1] = send_uniques(app, messages, conn)
                else:
                    put(app, messages, (), conn)
                sending.announce(with_calls, messages)
        elif conn is not None:
            for query in sending.queries(stretch):
                app.database.run(query, conn)
        else:
            _run_all(app, sending.queries(stretch), len(stretch))
    return sending.results()


async def asend_many(app: Any, task: Any, calls: Iterable[Arguments], options: dict[str, Any]) -> ResultSet:
    """`send_many` for coroutines."""
    _refuse_one_id(task, options)
    if current_run.get() is not None and options.get("conn") is None:
        return send_many(app, task, calls, options)
    if app.conf.task_always_eager or options.get("link") or not is_sent_plainly(app, task) or go_alone(task, options):
        made = [await task.aapply_async(args, kwargs, **options) for args, kwargs in calls]
        results: ResultSet = app.ResultSet(made)
        return results
    sending = _Sending(app, task, options)
    conn = await acarrier(app, sending.conn)
    for stretch in _stretches(calls):
        if sending.are_alike:
            for query in sending.queries(stretch):
                await app.adatabase.run(query, conn)
        else:
            for batch in _batches(stretch):
                with_calls, messages = sending.compose(batch)
                if is_repeatable(messages):
                    sending.blocks[-1] = await asend_uniques(app, messages, conn)
                else:
                    await app.adatabase.run(tasks.enqueue(messages, lets_in=conn is None), conn)
                sending.announce(with_calls, messages)
    return sending.results()


def _refuse_one_id(task: Any, options: Mapping[str, Any]) -> None:
    if options.get("task_id"):
        raise TypeError(
            f"task_id={options['task_id']!r} cannot be the id of many calls of {task.name!r}: leave it out, every call"
            " gets its own."
        )


class _Sending:
    """The calls of one `send_many`, and what is known of them so far."""

    def __init__(self, app: Any, task: Any, options: dict[str, Any]) -> None:
        self.app = app
        self.task = task
        conn, using = options.pop("conn", None), options.pop("using", None)
        #: False, as in `using=False`: not the transaction in which the call is made.
        self.conn = using if conn is None else conn
        self.add_to_parent = options.pop("add_to_parent", True)
        self.place = {name: options.pop(name, None) for name in ("link_error", "group_id", "root_id", "parent_id")}
        self.options = options
        self.are_alike = are_alike(app, task, options)
        self.blocks: list[Ids | Sequence[UUID]] = []
        self._pattern: Pattern | None = None

    def queries(self, calls: Sequence[Arguments]) -> Iterator[Query[None]]:
        """A statement for each batch of calls that are alike."""
        for batch in _batches(calls):
            query, ids = self._pattern_of(batch[0]).query(batch, 0)
            self.blocks.append(ids)
            yield query

    def compose(self, calls: Sequence[Arguments]) -> tuple[Sequence[Call], list[Message]]:
        """The messages of a batch, and the calls to announce."""
        if self.are_alike:
            messages, ids = self._pattern_of(calls[0]).messages(calls, 0)
            self.blocks.append(ids)
            return (), messages
        made = [self._call(*arguments) for arguments in calls]
        self.blocks.append([call.id for call in made])
        return made, [compose(self.app, call, self.task) for call in made]

    def announce(self, calls: Sequence[Call], messages: Sequence[Message]) -> None:
        if calls:
            for call, message, key in zip(calls, messages, self.blocks[-1], strict=True):
                if key == message.id:  # no other task stands for it
                    announce(self.app, call, message)

    def results(self) -> ResultSet:
        ignored = bool(self.options.get("ignore_result", self.task.ignore_result))
        results = ManyResults(self.blocks, lambda task_id: result_of(self.app, self.task, task_id, ignored), self.app)
        caller = get_current_worker_task()
        if caller is not None and self.add_to_parent and caller.trail:
            for result in results:
                caller.add_trail(result)
        return results

    def _pattern_of(self, first: Arguments) -> Pattern:
        if self._pattern is None:
            self._pattern = Pattern(self.app, self.task, self._call(*first))
        return self._pattern

    def _call(self, args: Any, kwargs: Any) -> Call:
        """One call, with what it inherits and with the options of the task."""
        options = dict(self.options)
        args, kwargs, shadow, options = self.task._prepare_call(args, kwargs, options.pop("shadow", None), options)
        if shadow is not None:
            options["shadow"] = shadow
        call = complete(self.app, self.task.name, args, kwargs, None, **self.place, options=options)
        if signals.before_task_publish.receivers:
            call.context = copy_context()
        return call


def _stretches(calls: Iterable[Arguments]) -> Iterator[list[Arguments]]:
    """Cut calls into lists, each to be sent at once, and read the source between transactions only: it may be
    slow."""
    source = iter(calls)
    while stretch := _read(source):
        yield stretch


def _read(source: Iterator[Arguments]) -> list[Arguments]:
    return _take(source, STRETCH, time.monotonic() + _PATIENCE_S)


def _take(source: Iterator[Arguments], at_most: int, until: float = math.inf) -> list[Arguments]:
    """Up to so many calls; fewer where they are large, or when it is late."""
    calls: list[Arguments] = []
    weight = spared = 0
    for call in source:
        calls.append(call)
        if spared:
            spared -= 1
        else:
            each = _weigh(call)
            spared = min(_SPARED, LARGE // 256 // each)
            weight += each * (spared + 1)
        if len(calls) >= at_most or weight >= LARGE or time.monotonic() > until:
            break
    return calls


def _weigh(value: Any, depth: int = 5) -> int:
    """Estimate how many bytes a value takes: the length of each text in it, and eight for anything else."""
    if isinstance(value, str | bytes | bytearray):
        return len(value) + 8
    if depth and isinstance(value, list | tuple | set | frozenset | dict):
        return 8 + sum(_weigh(part, depth - 1) for part in (value.values() if isinstance(value, dict) else value))
    return 8


def _run_all(app: Any, queries: Iterator[Query[None]], calls: int) -> None:
    """Run the statements for so many calls in one transaction; a single one is a transaction by itself."""
    if calls <= BATCH:
        first, second = next(queries), next(queries, None)
        if second is None:
            app.database.run(first)
            return
        queries = chain((first, second), queries)
    app.database.run_all(queries)


def _batches(calls: Sequence[Arguments]) -> Iterator[Sequence[Arguments]]:
    return (calls[start : start + BATCH] for start in range(0, len(calls), BATCH))


# -- groups


def send_group(group: Any, options: dict[str, Any]) -> Any:
    """Send a group that is nothing but plain calls of one task, in one transaction; returns its result.

    None when it is something else: then nothing has been sent, and it must be planned as a canvas.
    """
    found = _plain_group(group, options)
    if found is None:
        return None
    pattern, calls, conn = found
    app, blocks = pattern.app, []
    conn = carrier(app, conn)

    def queries() -> Iterator[Query[None]]:
        source, start = iter(calls), 0
        while batch := _take(source, BATCH):
            query, ids = pattern.query(batch, start)
            blocks.append(ids)
            start += len(batch)
            yield query

    if conn is not None:
        for query in queries():
            app.database.run(query, conn)
    elif len(calls) <= FEW:
        messages, ids = pattern.messages(calls, 0)
        put(app, messages, (), None)
        blocks.append(ids)
    else:
        _run_all(app, queries(), len(calls))
    return _group_result(pattern, blocks)


async def asend_group(group: Any, options: dict[str, Any]) -> Any:
    """`send_group` for coroutines, for groups that fit in one statement; others are planned."""
    found = _plain_group(group, options)
    if found is None or len(found[1]) > BATCH:
        return None
    pattern, calls, conn = found
    query, ids = pattern.query(calls, 0)
    await pattern.app.adatabase.run(query, await acarrier(pattern.app, conn))
    return _group_result(pattern, [ids])


def _group_result(pattern: Pattern, blocks: Sequence[Ids]) -> Any:
    ids = (str(key) for block in blocks for key in block)
    return pattern.app.GroupResult(pattern.alike.group_id, regen(map(pattern.result_of, ids)))


def _plain_group(group: Any, options: dict[str, Any]) -> tuple[Pattern, list[Arguments], Any] | None:
    """The pattern and the calls of a group, and the connection it is sent by; None when it is not that
    simple."""
    app, (_, _, options) = group.app, group._merge(options=options)
    conn, using = options.pop("conn", None), options.pop("using", None)
    members = group.tasks[:]  # also of a generator this is a list, and quicker to read
    if not _says_nothing_of_its_place(options, "task_id") or not _are_alike(members):
        return None
    first = members[0]
    task = first._type or app.tasks.get(first.task)
    _, _, merged = first._merge(options=without_nones(options))
    group_id = merged.pop("task_id", None) or fresh_id()
    if not are_alike(app, task, merged):
        return None
    if task is not None:
        _, _, shadow, merged = task._prepare_call(first.args, first.kwargs, merged.pop("shadow", None), merged)
        merged |= {} if shadow is None else {"shadow": shadow}
    call = Call(new_id(), None, first.task, (), {}, merged, group_id=group_id)
    caller = get_current_worker_task()
    if caller is not None and caller.request.id is not None:
        root_id, parent_id = caller.request.root_id or caller.request.id, caller.request.id
        call.root, call.parent = id_of(root_id), id_of(parent_id)
        call.extra = relatives(root_id, call.root, parent_id, call.parent)
    calls = [(member["args"], member["kwargs"]) for member in members]
    return Pattern(app, task, call, is_group=True), calls, using if conn is None else conn


def _are_alike(members: Sequence[Any]) -> bool:
    """Are they all plain signatures of one task, with the same options?"""
    first = members[0]
    if type(first) is not Signature or not _says_nothing_of_its_place(first.options):
        return False
    name, options, task, app = first.task, first.options, first._type, first._app
    for member in members:
        if type(member) is not Signature or member._type is not task or member._app is not app:
            return False
        if member["task"] != name or member["options"] != options:
            return False
    return True


def _says_nothing_of_its_place(options: Mapping[str, Any], *but_for: str) -> bool:
    """Is there nothing in these options that only a planner understands: ids, callbacks, stamps?"""
    return PLACE_OPTIONS.isdisjoint(options.keys() - but_for) and "stamped_headers" not in options
