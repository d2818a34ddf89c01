"""How a task was called before its message was made anew, and by whom it was made: what running it again must know.

A retry with other arguments, and `replace`, write a new message over a task's own. What a predecessor returned is among
its arguments then, so that a run with other inputs needs the call as it was before. It stays among the options:

    as_sent         the call before retries and replacements by tasks: with the edges that the task has now
    as_first_sent   the call before replacements by canvases, with the edges it had then
    made_by         of a task of a canvas that replaces another task: that one
    added_by        of a task that came otherwise: with a replacement by a task, or by `add_to_chord`
    calls_for       of the first task of a replacement: whom it stands for among the children of those before it
    fork            of a copy: which fork it belongs to

Only the first and the latest form are kept, so that a task that replaces itself for ever does not grow.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as _replace
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks.message import Claim, Message

__all__ = (
    "Former", "Marks", "added", "copied", "first_form", "inherited", "made", "made_anew", "marks_of", "replaced", "sent_form",
)  # fmt: skip

_AS_SENT, _AS_FIRST_SENT = "as_sent", "as_first_sent"
_MADE_BY, _ADDED_BY, _CALLS_FOR, _FORK = "made_by", "added_by", "calls_for", "fork"
_MARKS = tuple(f'"{name}"'.encode() for name in (_AS_SENT, _AS_FIRST_SENT, _MADE_BY, _ADDED_BY, _CALLS_FOR, _FORK))
#: Why a task waits, and so whether those before it called it (see `pgtasks.canvas.nodes`).
_ROLE = ("role", "entry", "begins")


class Former(NamedTuple):
    """A predecessor that a task had, and its place among the inputs."""

    pred: UUID
    position: int


@dataclass(frozen=True, slots=True)
class Marks:
    """What the options of a task's message say of its past."""

    as_sent: dict[str, Any] | None = None
    as_first_sent: dict[str, Any] | None = None
    made_by: UUID | None = None
    added_by: UUID | None = None
    is_entry: bool = False
    fork: str | None = None

    @property
    def former(self) -> list[Former]:
        """The predecessors before the task was replaced by a canvas."""
        return [Former(UUID(pred), position) for pred, position in (self.as_first_sent or {}).get("preds", ())]


_NONE = Marks()


def marks_of(options: bytes | None) -> Marks:
    """Read them; most messages have none."""
    if options is None or not any(mark in options for mark in _MARKS):
        return _NONE
    said = json.loads(options)
    made_by, added_by = (UUID(said[name]) if name in said else None for name in (_MADE_BY, _ADDED_BY))
    return Marks(said.get(_AS_SENT), said.get(_AS_FIRST_SENT), made_by, added_by, _CALLS_FOR in said, said.get(_FORK))


# -- making a message anew


def inherited(claim: Claim) -> dict[str, Any]:
    """The options that the message of a retry takes over from the one before it."""
    return _kept(_options_of(claim), *_ROLE, *_INHERITED, _AS_SENT, "parent_id")


_INHERITED = (_AS_FIRST_SENT, _MADE_BY, _ADDED_BY, _CALLS_FOR, _FORK)


def made_anew(claim: Claim, message: Message) -> Message:
    """The message of a retry, with how the task was called before it if that is to be known."""
    said = _options_of(claim)
    # Without inputs, and with the arguments it had, the new message says all.
    if _AS_SENT in said or (claim.inputs not in ("value", "list") and claim.payload == message.payload):
        return message
    return _marked(message, {_AS_SENT: _written(claim, said)})


def replaced(claim: Claim, message: Message, former: Sequence[Former] | None) -> Message:
    """The message that takes the place of the running task's; `former` are the predecessors it loses, or None if it keeps
    those it has, and with them its place among the children of those before it.
    """
    said = _options_of(claim)
    options = json.loads(message.options or b"{}")
    options.setdefault("parent_id", claim.public_id if message.parent == claim.id else str(message.parent))
    options.update(_kept(said, *_INHERITED))
    if former is None:
        options.update({**_kept(said, *_ROLE), _AS_SENT: said.get(_AS_SENT) or _written(claim, said)})
    else:
        first = said.get(_AS_SENT) or _written(claim, said)
        options.setdefault(_AS_FIRST_SENT, {**first, "preds": [[str(pred), position] for pred, position in former]})
    return _with_options(message, options)


def made(claim: Claim, messages: Sequence[Message], entry: UUID | None) -> list[Message]:
    """The messages of the other tasks of a canvas that replaces the running task; `entry`, if any, stands for that one."""
    said = _options_of(claim)
    return [
        _marked(message, {_MADE_BY: str(claim.id), **(_standing_for(claim, said) if message.id == entry else {})})
        for message in messages
    ]


def _standing_for(claim: Claim, said: dict[str, Any]) -> dict[str, Any]:
    first = said.get(_AS_SENT) or {"inputs": claim.inputs}
    # The body of a chord is nobody's child.
    role = {"role": "body"} if first["inputs"] == "list" else _kept(said, "role", "begins")
    return {_CALLS_FOR: said.get(_CALLS_FOR) or {"id": claim.public_id, "group": claim.group_id, **role}}


def added(claim: Claim, messages: Sequence[Message]) -> list[Message]:
    """The messages of what a running task adds: to its chord, or as callbacks of the task that replaces it."""
    return [_marked(message, {_ADDED_BY: str(claim.id)}) for message in messages]


def _written(claim: Claim, said: dict[str, Any]) -> dict[str, Any]:
    """A call as JSON."""
    own = {name: value for name, value in said.items() if name != _AS_FIRST_SENT}
    return {
        **{
            name: getattr(claim, name)
            for name in ("name", "content_type", "content_encoding", "inputs", "queue", "trigger")
        },
        "priority": -claim.rank,
        "payload": b64encode(claim.payload).decode(),
        "options": json.dumps(own) if own else None,
    }


def _options_of(claim: Claim) -> dict[str, Any]:
    return json.loads(claim.options) if claim.options else {}


def _kept(said: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: said[name] for name in names if name in said}


# -- running again


def first_form(message: Message, marks: Marks) -> Message:
    """The message as it was before the task was replaced by a canvas, or retried, or replaced by another task."""
    return _form(message, marks.as_first_sent or marks.as_sent)


def sent_form(message: Message, marks: Marks) -> Message:
    """The message as it was before the task was retried, or replaced by another task."""
    form = _form(message, marks.as_sent)
    if form is message or marks.as_first_sent is None:
        return form
    return _marked(form, {_AS_FIRST_SENT: marks.as_first_sent})


def _form(message: Message, form: dict[str, Any] | None) -> Message:
    if form is None:
        return message
    options = form["options"]
    return Message(
        id=message.id, root=message.root, parent=message.parent, group_id=message.group_id, task_id=message.task_id,
        max_deliveries=message.max_deliveries, due=message.due, name=form["name"], queue=form["queue"],
        priority=form["priority"], inputs=form["inputs"], trigger=form.get("trigger"),
        content_type=form["content_type"], content_encoding=form["content_encoding"],
        payload=b64decode(form["payload"]), options=None if options is None else options.encode(),
    )  # fmt: skip


def copied(message: Message, fork: str, new_ids: Mapping[UUID, UUID]) -> Message:
    """The message as part of a fork, whose tasks have new ids."""
    options = json.loads(message.options or b"{}")
    for mark in (_MADE_BY, _ADDED_BY):
        maker = options.pop(mark, None)
        if maker is not None and UUID(maker) in new_ids:
            options[mark] = str(new_ids[UUID(maker)])
    return _with_options(message, {**options, _FORK: fork})


def _marked(message: Message, marks: dict[str, Any]) -> Message:
    return _with_options(message, {**json.loads(message.options or b"{}"), **marks})


def _with_options(message: Message, options: dict[str, Any]) -> Message:
    return _replace(message, options=json.dumps(options).encode())
