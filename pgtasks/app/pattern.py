"""`Pattern`: the part of a message that many calls of one task share, composed once; and whether they share it.

A call of `.delay()` is routed, completed, checked and encoded; for calls that differ in nothing but their
arguments only the last two have to be done per call. `Pattern` makes their messages, or the statement that
adds a thousand of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import repeat
from typing import Any

from pgtasks import signals
from pgtasks.app.call import Call, compose
from pgtasks.app.collecting import is_collecting
from pgtasks.app.flows import FLOW_OPTIONS
from pgtasks.app.protocol import PLAIN_PUBLISH, Producer
from pgtasks.app.routes import MapRoute
from pgtasks.canvas.calls import sends_plainly, under_way
from pgtasks.exceptions import EncodeError
from pgtasks.message import Ids, Message, new_ids
from pgtasks.serialization import body_encoder
from pgtasks.store import tasks
from pgtasks.store.sql import Query

__all__ = ("Arguments", "Pattern", "are_alike", "is_sent_plainly", "result_of")

#: The positional and the keyword arguments of a call.
Arguments = tuple[Any, Any]


class Pattern:
    """What calls of one task have in common, and how their messages are made from it.

    Members of a group are numbered, and their ids share the slot of their root, or of the group's first.
    """

    def __init__(self, app: Any, task: Any, call: Call, *, is_group: bool = False) -> None:
        self.app = app
        self.task = task
        self.is_group = is_group
        self.slot = call.root or (call.id if is_group else None)
        self.embed = call.embed
        without_arguments = replace(call, args=(), kwargs={})
        self.alike = compose(app, without_arguments, task)
        options = without_arguments.options  # as the route has completed them
        self.ignored = bool(options.get("ignore_result"))
        self.serializer = serializer = options.get("serializer") or app.conf.task_serializer
        self._write = body_encoder(serializer, options.get("compression") or app.conf.task_compression)
        self._dump_models = task._dump_pydantic_arguments if task is not None and serializer != "pickle" else None
        self._check = getattr(task, "__header__", None) if task is not None and task.typing else None

    def query(self, calls: Sequence[Arguments], start: int) -> tuple[Query[None], Ids]:
        """The statement for some calls, the first of them number `start`, and their ids."""
        if self.alike.is_plain:
            ids, payloads = new_ids(len(calls), self.slot), self._payloads(calls)
            return tasks.enqueue_many(self.alike, ids, payloads, self._options(start, len(calls))), ids
        messages, ids = self.messages(calls, start)
        return tasks.enqueue(messages), ids

    def messages(self, calls: Sequence[Arguments], start: int) -> tuple[list[Message], Ids]:
        """The messages of some calls, for a statement that they share with others, and their ids."""
        ids, payloads = new_ids(len(calls), self.slot), self._payloads(calls)
        options = self._options(start, len(calls)) or repeat(self.alike.options)
        each = zip(ids, payloads, options, strict=False)
        return [replace(self.alike, id=key, payload=payload, options=own) for key, payload, own in each], ids

    def result_of(self, task_id: str) -> Any:
        return result_of(self.app, self.task, task_id, self.ignored)

    def _payloads(self, calls: Sequence[Arguments]) -> list[bytes]:
        check, dump_models, write, embed = self._check, self._dump_models, self._write, self.embed
        payloads = []
        for args, kwargs in calls:
            args, kwargs = () if args is None else args, {} if kwargs is None else kwargs
            if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
                raise TypeError(
                    f"A call of {self.alike.name!r} got {args!r} and {kwargs!r}: pass a list or tuple of positional"
                    " arguments, and a mapping of the others."
                )
            if check is not None:
                check(*args, **kwargs)
            if dump_models is not None:
                args, kwargs = dump_models(args, kwargs)
            try:
                payloads.append(write((args, kwargs, embed)))
            except EncodeError as error:
                raise EncodeError(
                    f"The arguments of {self.alike.name!r} cannot be written as {self.serializer}: {error}."
                    " Pass plain data, or choose another serializer."
                ) from error
        return payloads

    def _options(self, start: int, count: int) -> list[bytes]:
        """The options of each call, where they differ: by its number in the group."""
        if not self.is_group:
            return []
        common = (self.alike.options or b"{}")[:-1]
        return [b'%b,"group_index":%d}' % (common, number) for number in range(start, start + count)]


def are_alike(app: Any, task: Any, options: Mapping[str, Any]) -> bool:
    """Do calls of a task with these options differ in nothing but their arguments, and does nobody watch
    them?"""
    if signals.before_task_publish.receivers or signals.after_task_publish.receivers or is_collecting():
        return False
    if options.get("router") is not None or not all(type(route) is MapRoute for route in app.amqp.router.routes):
        return False
    if not FLOW_OPTIONS.isdisjoint(options) or (task is not None and task.is_controlled):
        return False
    return is_sent_plainly(app, task) and (task is None or not task.overrides("shadow_name"))


def is_sent_plainly(app: Any, task: Any) -> bool:
    """Is nobody's own code in the way of a call, so that nobody minds not being called for each?"""
    return Producer.publish is PLAIN_PUBLISH and under_way.get() is None and sends_plainly(app, task)


def result_of(app: Any, task: Any, task_id: str, ignored: bool) -> Any:
    """The result object of a call, of a class that the task may choose."""
    result = (app if task is None else task).AsyncResult(task_id)
    result.ignored = ignored
    return result
