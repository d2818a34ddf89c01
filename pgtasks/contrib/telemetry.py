"""OpenTelemetry spans from a call to its result: `instrument(app)`, with `pip install 'pgtasks[otel]'`.

    span of the caller
      send proj.ship        PRODUCER   the call, until it is stored; its context travels in the message's headers
        process proj.ship   CONSUMER   one attempt, in the worker; the spans of the task's own code are below it
          step charge       INTERNAL   one attempt of a step of a workflow; nothing for steps that are only remembered

A retry is sent by the attempt that asks for it, a canvas by the span in which it was applied. With `links=True` an
attempt begins a trace of its own, with a link to the call: for calls that lead to very many tasks. Nothing here is
imported, and nothing costs anything, until a project calls `instrument`. Attribute names are those of OpenTelemetry's
conventions for messaging, and `pgtasks.*`.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from pgtasks import signals
from pgtasks.exceptions import ImproperlyConfigured

try:
    from opentelemetry import context, propagate, trace
    from opentelemetry.propagators.textmap import Getter
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode
except ImportError as missing:
    raise ImproperlyConfigured(
        "pgtasks.contrib.telemetry needs OpenTelemetry, which is not installed here: pip install 'pgtasks[otel]'."
    ) from missing

__all__ = ("Telemetry", "instrument")

#: Calls that are under way at once, at most; the spans of others, whose call has failed, are ended.
MOST_UNDER_WAY = 10_000


def instrument(app: Any, *, tracer_provider: Any = None, links: bool = False) -> Telemetry:
    """Trace the calls, the tasks and the workflows of this process; in a worker, of its children too.

    The provider is the global one unless given. Set it up where spans are exported: with the prefork pool on
    `worker_process_init`, since exporters' threads do not survive a fork. Gives what `uninstrument` ends.
    """
    telemetry = Telemetry(app, tracer_provider, links=links)
    telemetry.instrument()
    return telemetry


class Telemetry:
    """Makes spans from signals."""

    def __init__(self, app: Any, tracer_provider: Any = None, *, links: bool = False) -> None:
        self.app = app
        self._provider = tracer_provider
        self._links = links
        #: Spans of calls that are not stored yet, by task id.
        self._sending: dict[str, Span] = {}

    @property
    def tracer(self) -> trace.Tracer:
        """Asked for each time: a child process sets a provider of its own."""
        return trace.get_tracer("pgtasks", tracer_provider=self._provider)

    def instrument(self) -> None:
        """Begin."""
        for signal, receiver in self._receivers():
            signal.connect(receiver, weak=False)
        self.app.around_step = self.around_step

    def uninstrument(self) -> None:
        """End."""
        for signal, receiver in self._receivers():
            signal.disconnect(receiver)
        self.app.around_step = None

    def _receivers(self) -> list[tuple[Any, Callable[..., None]]]:
        return [
            (signals.before_task_publish, self._begin_call),
            (signals.after_task_publish, self._end_call),
            (signals.task_prerun, self._begin_run),
            (signals.task_failure, self._note_failure),
            (signals.task_retry, self._note_retry),
            (signals.task_postrun, self._end_run),
        ]

    # -- calls

    def _begin_call(self, sender: str, headers: dict[str, Any], routing_key: str = "", **kwargs: Any) -> None:
        attributes = {**_message("send", routing_key, headers["id"]), "pgtasks.task": sender}
        span = self.tracer.start_span(f"send {sender}", kind=SpanKind.PRODUCER, attributes=attributes)
        # A message that is sent again, as for a retry, has the headers of the first one: they are replaced.
        for name in propagate.get_global_textmap().fields:
            headers.pop(name, None)
        propagate.inject(headers, trace.set_span_in_context(span))
        self._sending[headers["id"]] = span
        while len(self._sending) > MOST_UNDER_WAY:
            self._sending.pop(next(iter(self._sending))).end()

    def _end_call(self, sender: str, headers: Mapping[str, Any], **kwargs: Any) -> None:
        span = self._sending.pop(headers["id"], None)
        if span is not None:
            span.end()

    # -- runs

    def _begin_run(self, sender: Any, task_id: str, **kwargs: Any) -> None:
        request = sender.request
        caller = propagate.extract(request, getter=_REQUEST)
        link = trace.get_current_span(caller).get_span_context()
        span = self.tracer.start_span(
            f"process {sender.name}",
            context=context.Context() if self._links else caller,
            kind=SpanKind.CONSUMER,
            links=[Link(link)] if self._links and link.is_valid else None,
            attributes=_of_run(sender, request, task_id),
        )
        request.telemetry = span, context.attach(trace.set_span_in_context(span))

    def _note_failure(self, sender: Any, exception: BaseException, **kwargs: Any) -> None:
        span = _span_of(sender)
        span.record_exception(exception)
        span.set_status(Status(StatusCode.ERROR, str(exception)))

    def _note_retry(self, sender: Any, reason: Any = None, **kwargs: Any) -> None:
        _span_of(sender).add_event("retry", {"pgtasks.reason": str(reason)})

    def _end_run(self, sender: Any, state: str | None = None, **kwargs: Any) -> None:
        span, token = sender.request.__dict__.pop("telemetry", (None, None))
        if span is not None:
            span.set_attribute("pgtasks.state", state or "SUSPENDED")
            span.end()
            context.detach(token)

    # -- steps

    def around_step(self, run: UUID, name: str, ordinal: int, kind: str, call: Callable[[], Any]) -> Callable[[], Any]:
        """A step's body with a span around it; where that is a coroutine, the span is around all of it."""
        attributes: dict[str, Any] = {"pgtasks.run": str(run)}
        attributes |= {"pgtasks.step.ordinal": ordinal, "pgtasks.step.kind": kind}
        # Of where the step is called from: its body may run in another thread.
        caller = context.get_current()

        def traced() -> Any:
            span = self.tracer.start_span(f"step {name}", context=caller, attributes=attributes)
            with trace.use_span(span, end_on_exit=False):
                try:
                    value = call()
                except BaseException:
                    span.end()
                    raise
            if inspect.isawaitable(value):
                return _awaited(span, value)
            span.end()
            return value

        return traced


async def _awaited(span: Span, value: Awaitable[Any]) -> Any:
    with trace.use_span(span, end_on_exit=True):
        return await value


class _RequestGetter(Getter[Any]):
    """Finds what a message's headers said in the request that is made of them."""

    def get(self, carrier: Any, key: str) -> list[str] | None:
        value = getattr(carrier, key, None)
        return None if value is None else [value] if isinstance(value, str) else list(value)

    def keys(self, carrier: Any) -> list[str]:
        return list(carrier.__dict__)


_REQUEST = _RequestGetter()


def _message(operation: str, queue: str, task_id: str) -> dict[str, str]:
    return {
        "messaging.system": "pgtasks",
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": queue,
        "messaging.message.id": task_id,
    }


def _of_run(task: Any, request: Any, task_id: str) -> dict[str, Any]:
    queue = (request.delivery_info or {}).get("routing_key") or ""
    attributes = {
        **_message("process", queue, task_id),
        "pgtasks.task": task.name,
        "pgtasks.retries": request.retries or 0,
        "pgtasks.worker": request.hostname or "",
        "pgtasks.root": request.root_id or task_id,
    }
    waited_s = _waited_s(task_id) if not request.retries else None
    return attributes if waited_s is None else {**attributes, "pgtasks.waited_s": waited_s}


def _waited_s(task_id: str) -> float | None:
    """How long ago the id was made, which says so; an id of the caller's own does not."""
    try:
        key = UUID(task_id)
    except ValueError:
        return None
    return max(0.0, time.time() - (key.int >> 80) / 1000) if key.version == 7 else None


def _span_of(task: Any) -> Span:
    """The span of the attempt that runs; one that does nothing, for a task that fails without running."""
    span: Span = getattr(task.request, "telemetry", (trace.INVALID_SPAN,))[0]
    return span
