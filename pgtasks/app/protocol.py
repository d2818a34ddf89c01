"""A call as Celery's message protocol shows it, to those who watch messages being published.

Receivers of `before_task_publish` may change the arguments, headers and properties; receivers of
`after_task_publish` only look. Monitoring libraries also wrap kombu's `Producer.publish`, through which Celery sends
every message. Nothing is sent through it here, but a wrapped one is called for every message all the same, with
nothing behind it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from kombu.messaging import Producer

from pgtasks import signals
from pgtasks.app.moments import due_of, expiry_of
from pgtasks.message import Message
from pgtasks.utils.saferepr import saferepr

__all__ = (
    "HEADERS",
    "PLAIN_PUBLISH",
    "Producer",
    "announce",
    "let_publishers_see",
    "protocol_headers",
    "show_to_watchers",
)

#: Options that become headers under their own names.
HEADERS = frozenset(
    ("shadow", "reply_to", "group_index", "replaced_task_nesting", "argsrepr", "kwargsrepr", "stamped_headers")
)


def let_publishers_see(
    app: Any, call: Any, destination: Any, headers: dict[str, Any], args: Any, kwargs: Any
) -> tuple[dict[str, Any], Any, Any]:
    """Show `before_task_publish` the message as Celery's protocol has it, and take what handlers changed."""
    shown = protocol_headers(app, call, headers, args, kwargs)
    properties = {
        "correlation_id": call.task_id,
        "reply_to": headers.get("reply_to") or "",
        **headers.get("properties", {}),
    }
    known = frozenset(shown) - frozenset(headers.get("headers") or ())
    body = [args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **call.embed}]
    call.signal(
        signals.before_task_publish.send,
        body=body,
        exchange=destination.exchange,
        routing_key=destination.routing_key,
        declare=[app.amqp.queues[queue] for queue in destination.queues],
        headers=shown,
        properties=properties,
        retry_policy=app.conf.task_publish_retry_policy,
    )
    changed = {**headers}
    custom = {key: value for key, value in shown.items() if key not in known}
    if custom:
        changed["headers"] = custom
    added = {k: v for k, v in properties.items() if k not in ("correlation_id", "reply_to")}
    if added:
        changed["properties"] = added
    for key in HEADERS:
        if shown.get(key) and shown[key] != _default(key):
            changed[key] = shown[key]
    return changed, body[0], body[1]


def _default(key: str) -> Any:
    """What a header of the protocol says when the call said nothing."""
    return 0 if key == "replaced_task_nesting" else None


def protocol_headers(app: Any, call: Any, headers: Mapping[str, Any], args: Any, kwargs: Any) -> dict[str, Any]:
    """The headers of Celery's message protocol 2 for a call."""
    options = call.options
    return {
        **(headers.get("headers") or {}),
        "lang": "py",
        "task": call.name,
        "id": call.task_id,
        "shadow": headers.get("shadow"),
        "eta": _moment_of(app, *due_of(app, options)),
        "expires": _moment_of(app, *expiry_of(app, options)),
        "group": call.group_id,
        "group_index": headers.get("group_index"),
        "retries": headers.get("retries", call.retries),
        "timelimit": headers.get("timelimit", [None, None]),
        "root_id": headers.get("root_id") or (str(call.root) if call.root else call.task_id),
        "parent_id": headers.get("parent_id") or (str(call.parent) if call.parent else None),
        "argsrepr": headers.get("argsrepr") or saferepr(args, app.amqp.argsrepr_maxsize),
        "kwargsrepr": headers.get("kwargsrepr") or saferepr(kwargs, app.amqp.kwargsrepr_maxsize),
        "origin": headers["origin"],
        "ignore_result": headers.get("ignore_result", False),
        "replaced_task_nesting": headers.get("replaced_task_nesting", 0),
        "stamped_headers": headers.get("stamped_headers"),
        "stamps": headers.get("stamps", {}),
    }


def _moment_of(app: Any, seconds: float | None, moment: datetime | None) -> str | None:
    if seconds is not None:
        moment = app.now() + timedelta(seconds=seconds)
    return None if moment is None else moment.isoformat()


def announce(app: Any, call: Any, message: Message) -> None:
    """Send `after_task_publish`."""
    if not signals.after_task_publish.receivers:
        return
    headers = json.loads(message.options or b"{}")
    args, kwargs = call.args or (), call.kwargs or {}
    call.signal(
        signals.after_task_publish.send,
        body=(args, kwargs, {"callbacks": None, "errbacks": None, "chain": None, "chord": None, **call.embed}),
        headers=protocol_headers(app, call, headers, args, kwargs),
        exchange=headers.get("exchange", ""),
        routing_key=headers.get("routing_key", message.queue),
    )


# -- kombu's Producer.publish, when somebody has wrapped it

#: `Producer.publish` is this while nobody has wrapped it.
PLAIN_PUBLISH = Producer.publish


class _NowhereProducer(Producer):
    """Publishes to nowhere: what is wrapped around `publish` sees the message, and that is all that happens."""

    auto_declare = False

    def __init__(self, app: Any) -> None:
        # No channel to open: there is no broker.
        self._connection = app.connection_for_write()

    @property
    def connection(self) -> Any:
        return self._connection

    def _delivery_details(self, exchange: Any, *_: Any, **__: Any) -> tuple[str, int]:
        return str(exchange or ""), 2

    def _publish(self, *args: Any) -> None:
        """Nothing to send."""


def show_to_watchers(app: Any, task: Any, name: str, args: Any, kwargs: Any, options: dict[str, Any]) -> None:
    """Call the wrapped `Producer.publish` with what Celery would publish for a call; the body is left out."""
    _, destination = app.amqp.route(options, name, args, kwargs, task)
    headers = {"lang": "py", "task": name, "id": options.get("task_id"), "retries": options.get("retries") or 0}
    publish: Any = _NowhereProducer(app).publish
    publish(
        b"",
        exchange=destination.exchange,
        routing_key=destination.routing_key,
        headers={**(options.get("headers") or {}), **headers},
        content_type="application/data",
        content_encoding="binary",
    )
