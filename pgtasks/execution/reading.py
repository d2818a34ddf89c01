"""Turn a claimed message into the task's request: decode it, apply `accept_content`, insert predecessors' results."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pgtasks import states
from pgtasks.app.context import Whole
from pgtasks.canvas.nodes import shaped
from pgtasks.exceptions import ChordError, InvalidTaskError
from pgtasks.execution.site import Site
from pgtasks.message import Claim
from pgtasks.serialization import decode, load_json
from pgtasks.utils.nodenames import reply_address

__all__ = ("Unreadable", "read", "time_limits")

#: What follows on a task, as Celery puts it into the body of its message.
_EMBEDDED = ("callbacks", "errbacks", "chain", "chord")
#: What few calls have.
_UNSET = dict.fromkeys(("group", "eta", "expires", *_EMBEDDED))


class Unreadable(Exception):
    """A message that cannot be run; the cause says why."""


def read(site: Site, claim: Claim) -> dict[str, Any]:
    """Decode a message into the attributes of the request that its task will see; raises `Unreadable`."""
    try:
        body = decode(claim.payload, claim.content_type, claim.content_encoding, site.rules.accept)
        args, kwargs, embed = body
        likes = _likes_of(site, claim)
        args = _with_inputs(site, claim, args, likes.options)
        if not isinstance(kwargs, dict):
            raise InvalidTaskError("The keyword arguments of a message must be a mapping")
        return _request(claim, args, kwargs, embed or {}, likes)
    except Exception as error:
        raise Unreadable(claim.public_id) from error


def _with_inputs(site: Site, claim: Claim, args: Any, options: Mapping[str, Any]) -> Any:
    """Put what the predecessors returned before the arguments."""
    if claim.inputs not in ("value", "list") or claim.input_values is None:
        return args
    values = [_result(site, *parts) for parts in _inputs(claim)]
    if claim.trigger == "any":
        return [_successes(claim, values), *args]
    first = values[0] if claim.inputs == "value" else shaped(values, options.get("shape"))
    return [first, *args]


def _inputs(claim: Claim) -> Iterator[tuple[str, bytes | None, str | None, str | None]]:
    return zip(
        claim.input_states or (),
        claim.input_values or (),
        claim.input_types or (),
        claim.input_encodings or (),
        strict=True,
    )


def _result(site: Site, state: str, value: bytes | None, content_type: str | None, encoding: str | None) -> Any:
    """What a predecessor returned; the exception it raised, where the task asked to run all the same."""
    if value is None:
        return None
    decoded = decode(value, content_type, encoding, site.app.backend.accept)
    return site.app.backend.exception_to_python(decoded) if state in states.EXCEPTION_STATES else decoded


def _successes(claim: Claim, values: list[Any]) -> list[Any]:
    """The results there are, in the order of the canvas, for a task that runs once there is any."""
    found = [value for value, (state, *_) in zip(values, _inputs(claim), strict=True) if state == states.SUCCESS]
    if not found:
        raise ChordError(
            f"None of the {len(values)} tasks it waits for has succeeded; the first failed with {values[0]!r}"
        )
    return found


class _Likes(NamedTuple):
    """What calls of a task have in common that were sent with the same options."""

    options: dict[str, Any]
    #: Attributes of their requests.
    request: dict[str, Any]
    delivery_info: dict[str, Any]
    properties: dict[str, Any]


def _likes_of(site: Site, claim: Claim) -> _Likes:
    """Read the options of a message; those that are like others, as most are, only once."""
    key = claim.options, claim.name, claim.queue, claim.rank, site.hostname
    known = _known_likes.get(key)
    if known is None:
        options = load_json(claim.options.decode("utf-8", "surrogatepass")) if claim.options else {}
        if not isinstance(options, dict):
            raise InvalidTaskError("The options of a message must be a mapping")
        known = _read_likes(site, claim, options)
        # What a task could change must be its own.
        if not any(isinstance(value, dict | list) for value in options.values()):
            if len(_known_likes) >= _MOST_LIKES:
                _known_likes.clear()
            _known_likes[key] = known
    return known


_known_likes: dict[tuple[bytes | None, str, str, int, str], _Likes] = {}
_MOST_LIKES = 1000


def _read_likes(site: Site, claim: Claim, options: dict[str, Any]) -> _Likes:
    custom = options.get("headers")
    timelimit = options.get("timelimit") or (None, None)
    request = {
        "lang": "py",
        "task": claim.name,
        "group_index": options.get("group_index"),
        "hostname": site.hostname,
        "time_limit": timelimit[0],
        "soft_time_limit": timelimit[1],
        "utc": None,
        "origin": options.get("origin"),
        "reply_to": options.get("reply_to") or reply_address(options.get("origin")),
        "shadow": options.get("shadow"),
        "ignore_result": options.get("ignore_result", False),
        "replaced_task_nesting": options.get("replaced_task_nesting", 0),
        "stamped_headers": options.get("stamped_headers"),
        **_UNSET,
        # Headers within headers: so Sentry and Datadog see to it that theirs are found by their own kind.
        "headers": custom.get("headers") or custom if custom else None,
    }
    for shown in ("argsrepr", "kwargsrepr"):
        if shown in options:
            request[shown] = options[shown]
    delivery_info = {
        "exchange": options.get("exchange", ""),
        "routing_key": options.get("routing_key", claim.queue),
        "priority": -claim.rank,
    }
    properties = {"priority": -claim.rank, **options.get("properties", {})}
    return _Likes(options, {**custom, **request} if custom else request, delivery_info, properties)


def _request(claim: Claim, args: Any, kwargs: Any, embed: Mapping[str, Any], likes: _Likes) -> dict[str, Any]:
    task_id, options = claim.public_id, likes.options
    request = Whole(likes.request)
    request["id"] = request["correlation_id"] = task_id
    request["args"], request["kwargs"] = args, kwargs
    request["root_id"] = options.get("root_id") or (str(claim.root) if claim.root else task_id)
    request["parent_id"] = options.get("parent_id") or _parent_id(claim, task_id)
    request["retries"] = claim.retries + options.get("retries", 0)
    request["timelimit"] = options.get("timelimit") or [None, None]
    request["stamps"] = options.get("stamps") or {}
    request["delivery_info"] = {**likes.delivery_info, "redelivered": claim.delivery > claim.retries + 1}
    request["properties"] = {"correlation_id": task_id, **likes.properties}
    if claim.group_id is not None:
        request["group"] = claim.group_id
    if claim.due:
        request["eta"] = claim.due.isoformat()
    if claim.expires:
        request["expires"] = claim.expires.isoformat()
    if embed:
        request.update((what, embed.get(what)) for what in _EMBEDDED)
    return request


def _parent_id(claim: Claim, task_id: str) -> str | None:
    if claim.parent is not None:
        return str(claim.parent)
    # In Celery a retry is sent by the task itself, which so becomes the parent of what had none.
    return task_id if claim.retries else None


def time_limits(site: Site, task: Any, request: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The hard and the soft time limit of one call, in seconds: the call's, else the task's, else the settings'."""
    hard, soft = request["timelimit"] or (None, None)
    rules = site.rules
    return hard or task.time_limit or rules.hard_s, soft or task.soft_time_limit or rules.soft_s
