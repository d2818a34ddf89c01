"""From a claimed message to the request that its task sees: decoding, accept rules, what the predecessors returned."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgtasks import states
from pgtasks.canvas.nodes import shaped
from pgtasks.exceptions import ChordError, InvalidTaskError
from pgtasks.execution.site import Site
from pgtasks.message import Claim
from pgtasks.serialization import decode, load_json

__all__ = ("Unreadable", "read", "time_limits")


class Unreadable(Exception):
    """A message that cannot be run; the cause says why."""


def read(site: Site, claim: Claim) -> dict[str, Any]:
    """Decode a message into the attributes of the request that its task will see; raises `Unreadable`."""
    try:
        body = decode(claim.payload, claim.content_type, claim.content_encoding, site.rules.accept)
        args, kwargs, embed = body
        options = load_json(claim.options.decode("utf-8", "surrogatepass")) if claim.options else {}
        args = _with_inputs(site, claim, args, options)
        if not isinstance(kwargs, dict) or not isinstance(options, dict):
            raise InvalidTaskError("The keyword arguments of a message and its options must be mappings")
        return _request(site, claim, args, kwargs, embed or {}, options)
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
        raise ChordError(f"None of the {len(values)} tasks it waits for has succeeded; the first failed with {values[0]!r}")
    return found


def _request(
    site: Site, claim: Claim, args: Any, kwargs: Any, embed: Mapping[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    task_id = claim.public_id
    custom = options.get("headers")
    request = {
        "lang": "py",
        "task": claim.name,
        "id": task_id,
        "correlation_id": task_id,
        "args": args,
        "kwargs": kwargs,
        "root_id": str(claim.root) if claim.root else task_id,
        "parent_id": str(claim.parent) if claim.parent else None,
        "group": claim.group_id,
        "group_index": options.get("group_index"),
        "eta": claim.due.isoformat() if claim.due else None,
        "expires": claim.expires.isoformat() if claim.expires else None,
        "retries": claim.retries + options.get("retries", 0),
        "hostname": site.hostname,
        "delivery_info": {
            "exchange": options.get("exchange", ""),
            "routing_key": options.get("routing_key", claim.queue),
            "priority": -claim.rank,
            "redelivered": claim.delivery > claim.retries + 1,
        },
        "timelimit": options.get("timelimit", [None, None]),
        "callbacks": embed.get("callbacks"),
        "errbacks": embed.get("errbacks"),
        "chain": embed.get("chain"),
        "chord": embed.get("chord"),
        "utc": None,
        "origin": options.get("origin"),
        "reply_to": options.get("reply_to"),
        "shadow": options.get("shadow"),
        "ignore_result": options.get("ignore_result", False),
        "replaced_task_nesting": options.get("replaced_task_nesting", 0),
        "stamped_headers": options.get("stamped_headers"),
        "stamps": options.get("stamps") or {},
        # Headers within headers: so Sentry and Datadog see to it that theirs are found by their own kind.
        "headers": custom.get("headers") or custom if custom else None,
        "properties": {"correlation_id": task_id, **options.get("properties", {})},
    }
    for shown in ("argsrepr", "kwargsrepr"):
        if shown in options:
            request[shown] = options[shown]
    return {**custom, **request} if custom else request


def time_limits(site: Site, task: Any, request: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The hard and the soft time limit of one call, in seconds: the call's, else the task's, else the settings'."""
    hard, soft = request["timelimit"] or (None, None)
    rules = site.rules
    return hard or task.time_limit or rules.hard_s, soft or task.soft_time_limit or rules.soft_s
