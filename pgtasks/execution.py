"""Running one claimed task and saying what came of it.

    claim -> read (decode the message) -> trace (run the task) -> Outcome
          -> refuse: unknown task, bytes that do not decode, content that is not accepted
          -> condemn: revoked, expired, or its worker died too often: the task is not run, it fails

An outcome carries everything that ends with the task: its result, a retry's new message, the tasks that can never run
since it failed. It is stored by whoever claimed the task, in one statement. User code that belongs to the end - hooks,
signals, errbacks - has run by then.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple
from uuid import UUID

from pgtasks import signals, states
from pgtasks.app import trace
from pgtasks.app.context import Context
from pgtasks.app.linked import call_errbacks, publish_callbacks
from pgtasks.app.publish import Call, announce, collecting, compose, compose_plan
from pgtasks.canvas.nodes import Edge, shaped
from pgtasks.canvas.plan import plan
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import (
    ChordError,
    ContentDisallowed,
    DecodeError,
    EncodeError,
    InvalidTaskError,
    NotRegistered,
    Retry,
    TaskRevokedError,
    TimeLimitExceeded,
    WorkerLostError,
)
from pgtasks.message import Batch, Casualty, Claim, Outcome
from pgtasks.serialization import accepted, decode, encode_exception
from pgtasks.store import tasks
from pgtasks.utils.log import get_logger

__all__ = ("Site", "aexecute", "execute")

logger = get_logger("celery.worker")


class Limits:
    """How a pool keeps the time limits of a running task; not at all, in this base class."""

    def arm(self, hard_s: float | None, soft_s: float | None) -> None:
        """The task begins: count from now."""

    def disarm(self) -> None:
        """The task's own code is over: nothing may be raised any more."""

    def translate(self) -> Exception | None:
        """The exception that a cancellation of the running coroutine stands for, if it was a limit's."""
        return None


class Site(NamedTuple):
    """Where tasks are run: the app, the worker that claimed them, and how time limits are kept there."""

    app: Any
    worker: UUID
    hostname: str
    limits: Limits = Limits()


class Unreadable(Exception):
    """A message that cannot be run; the cause says why."""


def execute(site: Site, claim: Claim) -> Outcome:
    """Run one claimed task and say what came of it; raises only what ends the process."""
    prepared = _prepare(site, claim)
    if isinstance(prepared, Outcome):
        return prepared
    task, request, effects = prepared
    tracer = _tracer(site.app, task)
    attempt = tracer(request["id"], request["args"], request["kwargs"], request, effects)
    return effects.conclude(attempt)


async def aexecute(site: Site, claim: Claim) -> Outcome:
    """`execute` for a task whose body is a coroutine function, on the running event loop."""
    prepared = _prepare(site, claim)
    if isinstance(prepared, Outcome):
        return prepared
    task, request, effects = prepared
    tracer = _tracer(site.app, task, awaits=True)
    attempt = await tracer(request["id"], request["args"], request["kwargs"], request, effects)
    return effects.conclude(attempt)


_tracers: dict[tuple[int, str, bool], tuple[Any, Any, Any]] = {}


def _tracer(app: Any, task: Any, awaits: bool = False) -> Any:
    key = (id(app), task.name, awaits)
    known = _tracers.get(key)
    # A monitoring library may have put its own function in the place of build_tracer since.
    if known is None or known[0] is not task or known[1] is not trace.build_tracer:
        tracer = trace.build_tracer(task.name, task, app=app, awaits=awaits)
        known = _tracers[key] = (task, trace.build_tracer, tracer)
    return known[2]


def _prepare(site: Site, claim: Claim) -> tuple[Any, dict[str, Any], _Settling] | Outcome:
    """Read a message and find its task, or say at once what becomes of a claim that cannot or must not be run."""
    task = site.app.tasks.get(claim.name)
    try:
        request = _read(site, claim)
    except Unreadable as error:
        return _refuse(site, claim, error.__cause__ or error, unreadable=True)
    if task is None:
        return _refuse(site, claim, NotRegistered(claim.name), request)
    effects = _Settling(site, claim)
    if claim.fate != "live":
        return _condemn(site, claim, task, request, effects)
    _arm_time_limits(site, task, request)
    request["resubmit"] = effects.resubmit
    request["become"] = effects.become
    request["join"] = effects.join if claim.has_successors and claim.group_id else None
    return task, request, effects


# -- reading a message


def _read(site: Site, claim: Claim) -> dict[str, Any]:
    """Decode a message into the attributes of the request that its task will see; raises `Unreadable`."""
    conf = site.app.conf
    try:
        body = decode(claim.payload, claim.content_type, claim.content_encoding, _accepted(conf))
        args, kwargs, embed = body
        options = json.loads(claim.options) if claim.options else {}
        args = _with_inputs(site, claim, args, options)
        if not isinstance(kwargs, dict) or not isinstance(options, dict):
            raise InvalidTaskError("The keyword arguments of a message and its options must be mappings")
        return _request(site, claim, args, kwargs, embed or {}, options)
    except Exception as error:
        raise Unreadable(claim.public_id) from error


def _accepted(conf: Any) -> Any:
    names = conf.accept_content
    known = _accepted_by_names.get(id(names))
    if known is None or known[0] is not names:
        known = _accepted_by_names[id(names)] = (names, accepted(names))
    return known[1]


_accepted_by_names: dict[int, tuple[Any, Any]] = {}


def _with_inputs(site: Site, claim: Claim, args: Any, options: Mapping[str, Any]) -> Any:
    """Put what the predecessors returned before the arguments."""
    if claim.inputs not in ("value", "list") or claim.input_values is None:
        return args
    accept = site.app.backend.accept
    values = [
        None if value is None else decode(value, content_type, encoding, accept)
        for value, content_type, encoding in zip(
            claim.input_values, claim.input_types or (), claim.input_encodings or (), strict=True
        )
    ]
    first = values[0] if claim.inputs == "value" else shaped(values, options.get("shape"))
    return [first, *args]


def _request(
    site: Site, claim: Claim, args: Any, kwargs: Any, embed: Mapping[str, Any], options: dict[str, Any]
) -> dict[str, Any]:
    task_id = claim.public_id
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
        "timelimit": options.get("timelimit", (None, None)),
        "callbacks": embed.get("callbacks"),
        "errbacks": embed.get("errbacks"),
        "chain": embed.get("chain"),
        "chord": embed.get("chord"),
        "utc": True,
        "origin": options.get("origin"),
        "reply_to": options.get("reply_to"),
        "shadow": options.get("shadow"),
        "ignore_result": options.get("ignore_result", False),
        "replaced_task_nesting": options.get("replaced_task_nesting", 0),
        "stamped_headers": options.get("stamped_headers"),
        "stamps": options.get("stamps") or {},
        "headers": options.get("headers"),
        "argsrepr": options.get("argsrepr"),
        "kwargsrepr": options.get("kwargsrepr"),
        "properties": {"correlation_id": task_id, **options.get("properties", {})},
    }
    custom = options.get("headers")
    return {**custom, **request} if custom else request


def time_limits(app: Any, task: Any, request: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The hard and the soft time limit of one call, in seconds: the call's, else the task's, else the app's."""
    hard, soft = request["timelimit"] or (None, None)
    conf = app.conf
    return (
        hard or task.time_limit or conf.task_time_limit,
        soft or task.soft_time_limit or conf.task_soft_time_limit,
    )


def _arm_time_limits(site: Site, task: Any, request: dict[str, Any]) -> None:
    hard, soft = time_limits(site.app, task, request)
    if hard or soft:
        request["timelimit"] = (hard, soft)
        site.limits.arm(hard, soft)


# -- what comes of an attempt


class _Settling(trace.Effects):
    """Collects, while a task is traced, what must be stored when it has ended."""

    def __init__(self, site: Site, claim: Claim) -> None:
        self.site = site
        self.claim = claim
        self.row: Mapping[str, Any] | None = None
        self.is_hidden = False
        self.casualties: tuple[Casualty, ...] = ()
        self.follow_ups: list[Batch] = []
        self.again: Any = None
        self.is_gone = False

    def started(self, task: Any, request: Context) -> None:
        backend = self.site.app.backend
        row = backend.row_of(trace.started_meta(request), request=request)
        self._mark(states.STARTED, row)

    def _mark(self, state: str, row: Mapping[str, Any]) -> None:
        claim = self.claim
        query = tasks.mark(claim.id, state, worker=self.site.worker, delivery=claim.delivery, **row)
        self.site.app.database.run(query)

    def succeeded(self, task: Any, request: Context, retval: Any, store: bool) -> None:
        self.site.limits.disarm()
        if request.callbacks or request.chain:
            publish_callbacks(self.site.app, request, retval)
        self.is_hidden = not store
        # What others wait for is kept for them, whether its caller wants it or not.
        if store or self.claim.has_successors:
            backend = self.site.app.backend
            try:
                self.row = backend.row_of(backend.prepare_value(retval), request=request)
            except EncodeError as error:
                raise EncodeError(
                    f"Task {task.name!r} returned a {type(retval).__name__} that cannot be written as"
                    f" {backend.serializer}: {error}. Return plain data, or set result_serializer."
                ) from error

    def cancelled(self, cancelled: BaseException) -> Exception | None:
        return self.site.limits.translate()

    def resubmit(self, sig: Any) -> None:
        """Take a retry, which becomes part of this attempt's outcome instead of a message of its own."""
        self.again = sig

    def become(self, sig: Any) -> None:
        """Go on as another canvas, whose last task takes this one's id and so its place among the others."""
        app, claim = self.site.app, self.claim
        planned = plan(sig)
        calls, messages = compose_plan(app, planned)
        new = {message.id: message for message in messages}
        mine = new.pop(claim.id)
        preds = [edge.pred for edge in planned.edges if edge.succ == claim.id]
        queries = [tasks.replace(self.site.worker, claim.delivery, mine, preds)]
        if new:
            queries.append(tasks.enqueue(list(new.values()), planned.edges))
        app.database.run_together(*queries)
        for call, message in zip(calls, messages, strict=True):
            announce(app, call, message)
        self.is_gone = True

    def join(self, sig: Any, lazy: bool) -> Any:
        """Add a task to the header of the chord that this one is in."""
        app = self.site.app
        planned = plan(sig)
        calls, messages = compose_plan(app, planned)
        (member,) = planned.ends
        # The edge from the new member is written by join_chord; here it only says that somebody waits for it.
        edges = [*planned.edges, Edge(member, self.claim.id, 0)]
        app.database.run_together(tasks.join_chord(self.claim.id, member), tasks.enqueue(messages, edges))
        for call, message in zip(calls, messages, strict=True):
            announce(app, call, message)
        return sig if lazy else planned.result

    def retried(self, task: Any, request: Context, retry: Retry, einfo: ExceptionInfo, store: bool) -> None:
        self.site.limits.disarm()
        self.is_hidden = not store
        self.row = self._error_row(retry.exc or retry, request, str(einfo.traceback))

    def failed(self, task: Any, request: Context, exc: BaseException, einfo: ExceptionInfo, store: bool) -> None:
        self.site.limits.disarm()
        self.is_hidden = not store
        self.row = self._error_row(exc, request, str(einfo.traceback))
        self._spread(request, exc, einfo.traceback)

    def _spread(self, request: Any, exc: BaseException, traceback: Any) -> None:
        """Fail what waits for this task and call the errbacks; those that are tasks go with the outcome."""
        self.casualties = self._fell(exc, traceback)
        self._call_errbacks(request, exc, traceback)

    def _call_errbacks(self, request: Any, exc: BaseException, traceback: Any) -> None:
        if not request.errbacks:
            return

        @contextmanager
        def sending() -> Iterator[None]:
            with collecting() as batches:
                yield
            self.follow_ups.extend(batches)

        try:
            call_errbacks(self.site.app, request, exc, traceback, sending)
        except Exception:
            logger.exception("An errback of task %s raised; the task has failed all the same.", request.id)

    def _fell(self, exc: BaseException, traceback: Any) -> tuple[Casualty, ...]:
        """Say how the tasks end that can never run since this one failed, and call the errbacks of chord bodies.

        The rest of a chain fails with the same error, a chord's body with ChordError; the members of a body that is a
        group with the same error; a callback does not happen.
        """
        site, claim = self.site, self.claim
        if not claim.has_successors:
            return ()
        errors: dict[UUID, tuple[str, BaseException]] = {claim.id: (claim.public_id, exc)}
        casualties = []
        for successor in site.app.database.run(tasks.successors(claim.id)):
            if successor.pred not in errors:
                continue
            failed_id, error = errors[successor.pred]
            options = json.loads(successor.options) if successor.options else {}
            role, public_id = options.get("role"), successor.task_id or str(successor.id)
            if role == "body" and not isinstance(error, ChordError):
                error, cause = ChordError(f"Dependency {failed_id} raised {error!r}"), error
                error.__cause__ = cause
            errors[successor.id] = (public_id, error)
            if role in ("body", "member"):
                self._call_errbacks(_context_of(site, successor, public_id), error, traceback)
            casualties.append(_casualty(site, successor, error, role))
        return tuple(casualties)

    def _error_row(self, exc: BaseException, request: Any, traceback: str | None) -> Mapping[str, Any]:
        backend = self.site.app.backend
        row: Mapping[str, Any] = backend.row_of(backend.prepare_exception(exc), traceback, request)
        return row

    def conclude(self, attempt: trace.Attempt) -> Outcome:
        """Make the outcome of an attempt."""
        self.site.limits.disarm()
        if self.is_gone:
            return Outcome(id=self.claim.id, delivery=self.claim.delivery, kind="gone")
        state = attempt.state
        if state == states.REJECTED:
            return self._rejected(attempt.retval)
        if state == states.RETRY and self.again is not None:
            return self._retry()
        if state in (states.SUCCESS, states.FAILURE):
            return self._ended(state)
        # IGNORED, and whatever else was not decided: over, without a result that anybody sees.
        self.is_hidden, self.row = True, None
        self.casualties = self._fell(attempt.retval, None)
        return self._ended(state or states.IGNORED)

    def _ended(self, state: str) -> Outcome:
        claim, row = self.claim, self.row or {}
        return Outcome(
            id=claim.id,
            delivery=claim.delivery,
            state=state,
            value=row.get("value"),
            content_type=row.get("content_type"),
            content_encoding=row.get("content_encoding"),
            traceback=row.get("traceback"),
            children=row.get("children"),
            hidden=self.is_hidden,
            has_successors=claim.has_successors,
            fails=self.casualties,
            follow_ups=tuple(self.follow_ups),
        )

    def _retry(self) -> Outcome:
        claim, row, sig = self.claim, self.row or {}, self.again
        changes = _recomposed(self.site.app, claim, sig)
        return Outcome(
            id=claim.id,
            delivery=claim.delivery,
            kind="again",
            state=states.RETRY,
            value=row.get("value"),
            content_type=row.get("content_type"),
            content_encoding=row.get("content_encoding"),
            traceback=row.get("traceback"),
            children=row.get("children"),
            hidden=self.is_hidden,
            delay_s=changes.countdown_s,
            due=changes.due,
            retries=sig.options.get("retries", claim.retries + 1),
            changes=changes,
        )

    def _rejected(self, reject: Any) -> Outcome:
        claim = self.claim
        if reject.requeue:
            return Outcome(
                id=claim.id, delivery=claim.delivery, kind="back", retries=claim.retries, losses=claim.losses
            )
        task = self.site.app.tasks[claim.name]
        return fail(self.site, claim, task, _read(self.site, claim), reject)


def _recomposed(app: Any, claim: Claim, sig: Any) -> Any:
    """The message of a retry: the arguments it was given, now with what the predecessors returned among them."""
    options = dict(sig.options)
    for place in ("retries", "task_id", "root_id", "parent_id", "group_id", "chord", "chain", "link"):
        options.pop(place, None)
    errbacks = options.pop("link_error", None)
    embed = {"errbacks": errbacks} if errbacks else {}
    call = Call(
        claim.id, claim.public_id, claim.name, sig.args, sig.kwargs, options, embed, claim.root, claim.parent, claim.group_id
    )
    return compose(app, call, app.tasks.get(claim.name))


# -- failures


def fail(
    site: Site,
    claim: Claim,
    task: Any,
    request: Mapping[str, Any],
    exc: BaseException,
    *,
    state: str = states.FAILURE,
    announce: Callable[[Context, ExceptionInfo], None] | None = None,
) -> Outcome:
    """Fail a task without running it: store the error, fail what waits for it, call its errbacks, tell the signals."""
    context = Context(request, called_directly=False)
    einfo = ExceptionInfo((type(exc), exc, None))
    effects = _Settling(site, claim)
    stored = not trace.get_actual_ignore_result(task, context) or bool(task.store_errors_even_if_ignored)
    effects.failed(task, context, exc, einfo, stored)
    if announce is None:
        task.push_request(**request)
        try:
            signals.task_failure.send(
                sender=task,
                task_id=context.id,
                exception=exc,
                args=context.args,
                kwargs=context.kwargs,
                traceback=None,
                einfo=einfo,
            )
        finally:
            task.pop_request()
        logger.error("Task %s[%s] failed: %s", claim.name, claim.public_id, exc)
    else:
        announce(context, einfo)
    return effects._ended(state)


def _refuse(
    site: Site, claim: Claim, error: BaseException, request: Mapping[str, Any] | None = None, *, unreadable: bool = False
) -> Outcome:
    """Fail a message that no task here can run; its error says to its caller what was wrong."""
    if unreadable:
        logger.critical(
            "Cannot read the message of task %s[%s] (%s, %d bytes): %r. It has failed with this error; check"
            " accept_content and who sends to queue %s.",
            claim.name, claim.public_id, claim.content_type or "json", len(claim.payload), error, claim.queue,
        )
        if not isinstance(error, ContentDisallowed | DecodeError | InvalidTaskError):
            error = InvalidTaskError(f"The message of task {claim.name!r} cannot be read: {error!r}")
    else:
        logger.error(
            "Received unregistered task of type %r (id %s). Is its module in imports= or autodiscovered by this worker?"
            " Workers here know: %s",
            claim.name, claim.public_id, ", ".join(sorted(n for n in site.app.tasks if not n.startswith("celery."))),
        )
        signals.task_unknown.send(sender=site, message=claim, exc=error, name=claim.name, id=claim.public_id)
    effects = _Settling(site, claim)
    context = Context(request or {}, id=claim.public_id, called_directly=False)
    effects.row = effects._error_row(error, None, None)
    effects._spread(context, error, None)
    return effects._ended(states.FAILURE)


def _condemn(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], effects: _Settling) -> Outcome:
    """End a task that must not be run, or that was stopped from outside; `claim.fate` says why."""
    fate, _, detail = claim.fate.partition(":")
    if fate in ("revoked", "expired", "terminated"):
        return _revoke(site, claim, task, request, fate, detail)
    if fate == "timeout":
        logger.error("Hard time limit (%ss) exceeded for %s[%s]", detail, claim.name, claim.public_id)
        return fail(site, claim, task, request, TimeLimitExceeded(float(detail)))
    return fail(site, claim, task, request, WorkerLostError(detail or _lost(claim)))


def _lost(claim: Claim) -> str:
    if claim.losses >= 32767:
        return (
            "Its worker died while it may have been running, and acks_late=False says that it must not run twice."
            f" Job: {claim.public_id}."
        )
    return (
        f"Its worker or its process died {claim.losses} times while it may have been running, which is what"
        f" task_max_deliveries allows. Job: {claim.public_id}."
    )


def _revoke(site: Site, claim: Claim, task: Any, request: Mapping[str, Any], fate: str, detail: str) -> Outcome:
    is_terminated = fate == "terminated"
    number = getattr(signal, detail, None) if is_terminated else None

    def announce(context: Context, einfo: ExceptionInfo) -> None:
        logger.info("Discarding revoked task: %s[%s]", claim.name, claim.public_id)
        signals.task_revoked.send(
            sender=task, request=context, terminated=is_terminated, signum=number, expired=fate == "expired"
        )

    return fail(site, claim, task, request, TaskRevokedError(fate), state=states.REVOKED, announce=announce)


def _context_of(site: Site, successor: tasks.Successor, public_id: str) -> Context:
    try:
        _, _, embed = decode(
            successor.payload, successor.content_type, successor.content_encoding, _accepted(site.app.conf)
        )
    except Exception:
        embed = {}
    return Context(id=public_id, task=successor.name, errbacks=(embed or {}).get("errbacks"), called_directly=False)


def _casualty(site: Site, successor: tasks.Successor, error: BaseException, role: str | None) -> Casualty:
    backend = site.app.backend
    row = backend.row_of(encode_exception(error, backend.serializer))
    state = states.IGNORED if role == "callback" else states.FAILURE
    return Casualty(id=successor.id, state=state, value=row["value"], hidden=role == "callback")
