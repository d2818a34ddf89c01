"""From a message of Celery to messages of pgtasks.

Both of Celery's message protocols are read (https://docs.celeryq.dev/en/stable/internals/protocol.html). The body of a
plain call stays as it is, byte for byte. Callbacks and the rest of a chain, which Celery carries in the body, become tasks
that wait in Postgres, under ids that follow from the id of the first: read again, a message is the same canvas.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from kombu.serialization import registry

from pgtasks.app.interchange import first_protocol, message_of, options_of
from pgtasks.app.planned import compose_plan
from pgtasks.canvas.ids import derived_from
from pgtasks.canvas.nodes import Edge, Node, Plan
from pgtasks.canvas.planner import After, Planner
from pgtasks.canvas.steps import as_signature
from pgtasks.message import Message, id_of
from pgtasks.moving.parcel import Parcel
from pgtasks.serialization import JSON, Encoded, decode, encode

__all__ = ("CHORDS", "GROUPS", "Reader", "Taken", "Unreadable")

#: What stays with the old workers: members of chords, or of groups of any kind.
CHORDS, GROUPS = "chords", "groups"

_UNLOCK_CHORD = "celery.chord_unlock"


class Unreadable(Exception):
    """Why a message cannot be taken over."""


class Taken(NamedTuple):
    """What a message of the old broker becomes here."""

    #: The task itself, then those that its callbacks and its chain become.
    messages: tuple[Message, ...]
    edges: tuple[Edge, ...] = ()
    #: Why only the old workers can finish it, if that is so: then it is left to them.
    stays: str = ""
    #: The tasks that a `celery.chord_unlock` polls for: it can be taken over when all of them were.
    polls: frozenset[UUID] = frozenset()


class _Call(NamedTuple):
    """A message in terms of protocol 2, whichever it came in."""

    headers: Mapping[str, Any]
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    embed: Mapping[str, Any]
    #: The body is `[args, kwargs, embed]` already.
    is_second: bool


class Reader:
    """Reads messages for one app, whose routes and accepted content count."""

    def __init__(self, app: Any, accept: Collection[str] | None, stays: str = CHORDS) -> None:
        self.app = app
        self.accept = accept
        self.stays = stays

    def read(self, parcel: Parcel) -> Taken:
        """Say what a message becomes; raises `Unreadable`."""
        if parcel.trouble:
            raise Unreadable(parcel.trouble)
        try:
            call = self._call_of(parcel)
            message = self._message(parcel, call)
            if why := self._must_stay(call):
                return Taken((message,), stays=why, polls=_polled(call))
            embed = call.embed
            if embed.get("callbacks") or embed.get("chain"):
                return self._unfolded(message, call)
            return Taken((message,))
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(f"{type(error).__name__}: {error}") from error

    # -- decoding

    def _call_of(self, parcel: Parcel) -> _Call:
        try:
            body = decode(parcel.body, parcel.content_type, parcel.content_encoding, self.accept)
        except Exception as error:
            raise Unreadable(f"its body cannot be read: {type(error).__name__}: {error}") from error
        if "task" in parcel.headers:
            return _second(parcel.headers, body)
        first = first_protocol(parcel.headers, body, self.app.timezone)
        if first is not None:
            headers, (args, kwargs, embed) = first
            return _Call(headers, args, kwargs, embed, False)
        raise Unreadable("it is not a task: neither its headers nor its body name one")

    def _must_stay(self, call: _Call) -> str:
        if call.headers["task"] == _UNLOCK_CHORD:
            return "waits for a chord's header, by polling the old result store"
        if call.embed.get("chord") or _mentions_chord(call.embed.get("chain")):
            return "is part of a chord that the old result store counts"
        if self.stays == GROUPS and call.headers.get("group"):
            return "is a member of a group"
        return ""

    # -- one message

    def _message(self, parcel: Parcel, call: _Call) -> Message:
        headers = call.headers
        info = parcel.properties.get("delivery_info") or {}
        exchange, routing_key = info.get("exchange") or "", info.get("routing_key") or parcel.queue
        options = options_of(headers, parcel.properties, parcel.queue, exchange, routing_key)
        if headers.get("retries"):
            options["retries"] = int(headers["retries"])
        return message_of(headers, _body(parcel, call), parcel.queue, parcel.priority, options)

    # -- what follows it

    def _unfolded(self, first: Message, call: _Call) -> Taken:
        """Plan callbacks and chain as tasks that wait for the first one."""
        root = first.root or first.id
        node = Node(
            id=first.id, task_id=str(call.headers["id"]), name=first.name, args=(), kwargs={},
            options={"priority": first.priority}, root=root, parent=first.parent, group_id=first.group_id,
        )  # fmt: skip
        planner = Planner(self.app)
        planner.stand(node)
        with derived_from(first.id, root):
            planner.link(node, call.embed.get("callbacks"))
            after = After((first.id,), "value", None, "step")
            for step in reversed(call.embed.get("chain") or ()):
                signature = as_signature(step, self.app, f"A step after {first.name!r}").clone()
                part = planner.add(signature, after.args, {}, {}, after)
                if part is not None:
                    after = part.then()
        nodes = tuple(each for each in planner.nodes.values() if each is not node)
        plan = Plan(nodes=nodes, result=None, trail=None, ends=(), names=planner.names)
        _, messages = compose_plan(self.app, plan)
        return Taken((first, *messages), tuple(plan.edges))


def _body(parcel: Parcel, call: _Call) -> Encoded:
    """The body as it came, or re-encoded without the parts that become tasks of their own."""
    content_type = parcel.content_type or JSON
    if call.is_second and not (call.embed.get("callbacks") or call.embed.get("chain")):
        return Encoded(content_type, parcel.content_encoding or "utf-8", parcel.body)
    embed = {name: value for name, value in call.embed.items() if name == "errbacks" and value}
    return encode((call.args, call.kwargs, embed), registry.type_to_name.get(content_type, content_type))


def _second(headers: Mapping[str, Any], body: Any) -> _Call:
    if not headers.get("id"):
        raise Unreadable("it has no task id")
    if not isinstance(body, list | tuple) or len(body) != 3:
        raise Unreadable("its body is not [args, kwargs, embed]")
    args, kwargs, embed = body
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise Unreadable("its arguments are not a list and a mapping")
    return _Call(headers, args, kwargs, embed if isinstance(embed, Mapping) else {}, True)


def _mentions_chord(signature: Any) -> bool:
    """Is a step of this chain, or of a canvas within it, a member of a chord's header, which Celery counts at its end?"""
    if isinstance(signature, list | tuple):
        return any(map(_mentions_chord, signature))
    if not isinstance(signature, Mapping):
        return False
    options = signature.get("options") or {}
    return bool(options.get("chord")) or _mentions_chord((signature.get("kwargs") or {}).get("tasks"))


def _polled(call: _Call) -> frozenset[UUID]:
    """The header's tasks that a `celery.chord_unlock` asks for: result tuples `[[id, parent], children]`."""
    if call.headers["task"] != _UNLOCK_CHORD:
        return frozenset()
    return frozenset(id_of(node[0][0]) for node in call.kwargs.get("result") or ())
