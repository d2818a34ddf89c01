"""Results to rows and back: how a task's outcome is written down, and what is read from it as task meta.

Values are bytes with a content type, made by the `result_serializer`; NULL stands for JSON. What
`result_accept_content` (else `accept_content`) does not allow is not decoded. Exceptions travel as
`{exc_type, exc_message, exc_module}` and come back as exceptions; results that a task returns travel as
tuples of ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import tzinfo
from typing import Any, cast

from kombu.compression import encoders, get_encoder

from pgtasks import serialization, states
from pgtasks._state import get_current_task
from pgtasks.exceptions import EncodeError, ImproperlyConfigured
from pgtasks.joining import Meta, ResultBase
from pgtasks.message import Message, id_of, own_spelling
from pgtasks.store.results import Stored
from pgtasks.store.tasks import StateRow

__all__ = ("NO_STATE", "ResultCodec")

#: How the state of a task is stored that has told of its progress, and named no state.
NO_STATE = ""


class ResultCodec:
    """Writes and reads results as an app's settings say."""

    def __init__(self, conf: Any, timezone: tzinfo) -> None:
        self.serializer: str = conf.result_serializer
        self.compression: str | None = _known_compression(conf.result_compression)
        allowed = conf.accept_content if conf.result_accept_content is None else conf.result_accept_content
        self.accept = serialization.accepted(allowed)
        self._accept_payload = serialization.accepted(conf.accept_content)
        self._timezone = timezone

    # -- writing

    def encode_result(self, result: Any, state: str | None) -> Any:
        """Make a value or an exception fit to be serialised."""
        if state in states.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        return serialization.encode_exception(exc, serializer or self.serializer)

    def prepare_value(self, result: Any) -> Any:
        """Make ids of a result that a task returns; pickle takes it as it is."""
        if isinstance(result, ResultBase) and self.serializer != "pickle":
            return cast(Any, result).as_tuple()
        return result

    def row_of(self, prepared: Any, traceback: Any = None, request: Any = None) -> StateRow:
        """Write down what `encode_result` made, with what is known of the call; raises EncodeError."""
        content_type, content_encoding, body = serialization.encode(prepared, self.serializer, self.compression)
        is_plain = (content_type, content_encoding) == (serialization.JSON, "utf-8")
        children = self.current_task_children(request)
        return {
            "value": body,
            "content_type": None if is_plain else content_type,
            "content_encoding": None if is_plain else content_encoding,
            "traceback": None if traceback is None else str(traceback).encode("utf-8", "replace"),
            "children": json.dumps(children).encode() if children else None,
            "hostname": getattr(request, "hostname", None),
        }

    def call_of(self, task_id: str, request: Any) -> Message | None:
        """Write down how a task was called, by its request; None where that cannot be written as JSON."""
        names = ("task", "args", "kwargs", "delivery_info", "stamped_headers", "stamps", "retries")
        said = {name: getattr(request, name, None) for name in names}
        try:
            payload = serialization.encode([said.pop("args") or (), said.pop("kwargs") or {}, {}], "json").body
            key, name, route = id_of(task_id), said.pop("task") or "", said.pop("delivery_info") or {}
            options = json.dumps({key: value for key, value in said.items() if value}).encode()
        except (EncodeError, TypeError, ValueError):
            return None
        return Message(
            id=key,
            name=name,
            payload=payload,
            queue=route.get("routing_key") or "",
            task_id=own_spelling(task_id, key),
            options=options,
        )

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """The tasks that this request, or else the current task's, has called: their ids, as tuples."""
        request = request or getattr(get_current_task(), "request", None)
        return [child.as_tuple() for child in getattr(request, "children", None) or ()] if request else None

    # -- reading

    def meta_of(self, task_id: str, stored: Stored | None) -> Meta:
        """Make task meta of what the store knows; a task of which it knows nothing is PENDING."""
        if stored is None:
            return {"task_id": task_id, "status": states.PENDING, "result": None}
        state = states.PENDING if stored.state is None else None if stored.state == NO_STATE else stored.state
        value = self._decode(stored)
        meta = {
            "task_id": task_id,
            "status": state,
            "result": self.exception_to_python(value) if state in states.EXCEPTION_STATES else value,
            "traceback": None if stored.traceback is None else stored.traceback.decode("utf-8", "replace"),
            "children": _children_of(stored),
            "date_done": self._date_done(stored),
            "name": stored.name,
            "worker": stored.worker,
            "retries": stored.retries,
            "queue": stored.queue or None,
        }
        if stored.group_id is not None:
            meta["group_id"] = stored.group_id
        if stored.parent is not None:
            meta["parent_id"] = str(stored.parent)
        if stored.payload is not None:
            meta.update(self._known_call(stored))
        return meta

    def exception_to_python(self, exc: Any) -> BaseException | None:
        return serialization.decode_exception(exc)

    def _decode(self, stored: Stored) -> Any:
        if stored.value is None:
            return None
        return serialization.decode(stored.value, stored.content_type, stored.content_encoding, self.accept)

    def _date_done(self, stored: Stored) -> str | None:
        if stored.done_at is None or not stored.is_ended:
            return None
        return stored.done_at.astimezone(self._timezone).isoformat()

    def _known_call(self, stored: Stored) -> Meta:
        """How the task was called: its arguments and stamps (`result_extended`)."""
        body = cast(bytes, stored.payload)
        args, kwargs, *_ = serialization.decode(
            body, stored.payload_type, stored.payload_encoding, self._accept_payload
        )
        options = json.loads(stored.options) if stored.options else {}
        stamped = options.get("stamped_headers") or []
        stamps = {name: value for name, value in (options.get("stamps") or {}).items() if name in stamped}
        call = {"args": args, "kwargs": kwargs, "retries": stored.retries + options.get("retries", 0)}
        if "parent_id" in options:
            call["parent_id"] = options["parent_id"]
        return {**call, **({"stamped_headers": stamped, **stamps} if stamps else {})}


def _children_of(stored: Stored) -> list[Any] | None:
    """The tasks that this one called and those that followed it, as tuples; None while it has not ended."""
    if not stored.is_ended:
        return None if stored.children is None else cast(list[Any], json.loads(stored.children))
    called = json.loads(stored.children) if stored.children is not None else []
    return [*called, *_released(stored)]


def _released(stored: Stored) -> Iterator[Any]:
    """What this task has called by ending, as tuples: tasks, and groups with their results."""
    released = [
        _called(task_id, group_id, json.loads(options) if options else {})
        for task_id, group_id, options in zip(
            stored.released or (), stored.released_groups or (), stored.released_options or (), strict=True
        )
    ]
    groups: dict[str, dict[int, Any]] = {}
    # Callbacks are called before the next step.
    for task_id, group_id, said in sorted(released, key=lambda each: each[2].get("role") != "callback"):
        if said.get("role") in ("body", "member"):
            # It waits for all of a header, and none of its tasks has called it.
            continue
        begins = said.get("begins")
        if begins is None:
            groups[task_id] = {}
            continue
        group, member, place = (group_id, task_id, begins) if isinstance(begins, int) else begins
        groups.setdefault(str(group), {})[place] = member
    for called, members in groups.items():
        shown = [_tuple_of(members[place]) for place in sorted(members)]
        # As in Celery, a group of nothing but a chain that ends in a group is shown as that group.
        yield shown[0] if len(shown) == 1 and shown[0][1] is not None else ([called, None], shown or None)


def _called(task_id: str, group_id: str | None, said: Any) -> tuple[str, str | None, Any]:
    """The task that was called: the first task of what replaces another stands for that one."""
    stands_for = said.get("calls_for")
    return (task_id, group_id, said) if stands_for is None else (stands_for["id"], stands_for["group"], stands_for)


def _tuple_of(member: Any) -> Any:
    return member if isinstance(member, list) else [[member, None], None]


def _known_compression(name: str | None) -> str | None:
    try:
        if name:
            get_encoder(name)
    except KeyError:
        known = ", ".join(sorted(encoders()))
        raise ImproperlyConfigured(
            f"Unknown compression method {name!r} in result_compression. Available methods are: {known}."
        ) from None
    return name or None
