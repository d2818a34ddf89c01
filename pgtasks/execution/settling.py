"""The effects of one attempt to run a task, collected into one outcome.

While the task runs nothing is written but what it asks for (STARTED, its own states, a replacement of itself). What its end
means - the result, a retry, the tasks that wait for it and now never run, the errbacks that are tasks - becomes one
`Outcome`, which its claimer settles in one statement.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from traceback import format_exception
from typing import Any
from uuid import UUID

from pgtasks import states
from pgtasks.app import forms, trace
from pgtasks.app.call import Call, compose
from pgtasks.app.canvases import Ask, clear
from pgtasks.app.collecting import collecting
from pgtasks.app.context import Context
from pgtasks.app.linked import call_errbacks, publish_callbacks, waited_for
from pgtasks.app.moments import due_of
from pgtasks.app.planned import compose_plan
from pgtasks.app.protocol import announce
from pgtasks.app.publish import relatives
from pgtasks.canvas.calls import as_called, sends_plainly
from pgtasks.canvas.failing import Fall, Waiting, falls
from pgtasks.canvas.nodes import Edge
from pgtasks.canvas.plan import plan, remembered
from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import (
    ChordError,
    EncodeError,
    ImproperlyConfigured,
    Retry,
    TaskRevokedError,
    TaskSentBefore,
)
from pgtasks.execution.site import Site
from pgtasks.message import Batch, Casualty, Claim, Message, Outcome, new_id
from pgtasks.serialization import decode, encode_exception
from pgtasks.store import flows, graphs, tasks
from pgtasks.store.sql import Query
from pgtasks.store.tasks import StateRow
from pgtasks.utils.functional import maybe_list, noop
from pgtasks.utils.log import get_logger

__all__ = ("Settling",)

logger = get_logger("celery.worker.request")

#: How many of the tasks that fail with another one keep a copy of its traceback.
MAX_TRACEBACKS = 1000


class _LostError(Exception):
    """The task is not ours any more: what was done in this transaction is to be undone."""


class Settling(trace.Effects):
    """Collects, while a task is traced, what must be stored when it has ended."""

    row: StateRow | None = None
    is_hidden = False
    #: The task has a flow, and so perhaps a place in it.
    is_limited = False
    casualties: tuple[Casualty, ...] = ()
    follow_ups: tuple[Batch, ...] = ()
    #: A retry: its signature, and its message unless that is the one there is.
    again: tuple[Any, Message | None] | None = None
    is_gone = False
    #: Hard and soft, in seconds.
    time_limits: tuple[float | None, float | None] = (None, None)

    def __init__(self, site: Site, claim: Claim, *, is_quiet: bool = False) -> None:
        #: Quiet: no errback is called, since none of the task's own code may run here.
        self.is_quiet = is_quiet
        self.site = site
        self.claim = claim

    def begun(self) -> None:
        hard, soft = self.time_limits
        if hard or soft:
            self.site.limits.arm(hard, soft)

    def _stop_counting(self) -> None:
        if self.site.limits.disarm():
            soft_s, claim = self.time_limits[1], self.claim
            logger.warning("Soft time limit (%ss) exceeded for %s[%s]", soft_s, claim.name, claim.public_id)

    def started(self, task: Any, request: Context) -> None:
        backend = self.site.app.backend
        row = backend.row_of(trace.started_meta(request), request=request)
        self._mark(states.STARTED, row)

    def _mark(self, state: str, row: StateRow) -> None:
        claim = self.claim
        query = tasks.mark(claim.id, state, worker=self.site.worker, delivery=claim.delivery, **row)
        self.site.app.database.run(query)

    def succeeded(self, task: Any, request: Context, retval: Any, store: bool) -> None:
        self._stop_counting()
        if request.callbacks or request.chain:
            self._follow(request, retval)
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

    def _follow(self, request: Context, retval: Any) -> None:
        """Send with the outcome what follows on a task that Celery itself has sent; of our own canvases it is there."""
        with collecting() as batches:
            publish_callbacks(self.site.app, request, retval)
        waited = waited_for(request)
        for messages, edges in batches:
            # The edge to the body was written before its header; here it only says that somebody waits.
            bound = tuple(Edge(message.id, self.claim.id, 0) for message in messages if message.id in waited)
            self.follow_ups += ((messages, (*edges, *bound)),)

    def cancelled(self, cancelled: BaseException) -> Exception | None:
        return self.site.limits.translate()

    def resubmit(self, sig: Any, is_same: bool) -> None:
        """Take a retry, with the same arguments or others, which becomes part of this attempt's outcome."""
        try:
            self.again = sig, _recomposed(self.site.app, self.claim, sig)
        except EncodeError:
            # Errors in the places of results, as a body gets them that runs when all are done, can seldom be written.
            if not is_same or self.claim.inputs not in ("value", "list"):
                raise
            self.again = sig, None

    def become(self, sig: Any) -> None:
        """Go on as another canvas, whose last task takes this one's id and so its place among the others."""
        app, claim = self.site.app, self.claim
        planned = plan(sig)
        calls, messages = compose_plan(app, planned)
        new = {message.id: message for message in messages}
        if claim.id not in new:
            raise ImproperlyConfigured(
                f"What replaces task {claim.name}[{claim.public_id}] takes its id, and {sig!r} has an id of its own,"
                f" {planned.result.id}. Replace it with a signature that was not frozen."
            )
        edges = list(planned.edges)
        preds = [edge.pred for edge in edges if edge.succ == claim.id]
        own = new.pop(claim.id)
        # It waits for others now. What it waited for before stays in the canvas, before the first of them.
        former = [forms.Former(*each) for each in app.database.run(graphs.predecessors(claim.id))] if preds else []
        entry = next((key for key in new if not any(edge.succ == key for edge in edges)), None) if former else None
        before = [] if entry is None else [Edge(each.pred, entry, each.position) for each in former]
        mine = forms.replaced(claim, own, former if preds else None)
        has_successors = any(edge.pred == claim.id for edge in edges)
        place = tasks.replace(self.site.worker, claim.delivery, mine, preds, has_successors=has_successors)
        others = list(new.values())
        others = forms.made(claim, others, entry) if preds else forms.added(claim, others)
        self._enqueue_with(place, others, [*before, *edges])
        for call, message in zip(calls, messages, strict=True):
            announce(app, call, message)
        self.is_gone = True

    def join(self, sig: Any, lazy: bool) -> Any:
        """Add a task to the header of the chord that this one is in."""
        app = self.site.app
        planned = plan(sig)
        calls, messages = compose_plan(app, planned)
        (member,) = planned.ends
        messages = forms.added(self.claim, messages)
        # The edge from the new member is written by join_chord; here it only says that somebody waits for it.
        edges = [*planned.edges, Edge(member, self.claim.id, 0)]
        join = tasks.join_chord(self.site.worker, self.claim.delivery, self.claim.id, member)
        if not self._enqueue_with(join, messages, edges, lock=graphs.lock_bodies(self.claim.id)):
            # The body has failed already. The task runs all the same, as the others of the header do.
            app.database.run(tasks.enqueue(messages, edges))
        for call, message in zip(calls, messages, strict=True):
            announce(app, call, message)
        return sig if lazy else remembered(planned.result, planned.trail, True)

    def _enqueue_with(
        self, change: Query[int], messages: Sequence[Message], edges: Sequence[Edge], lock: Query[int] | None = None
    ) -> bool:
        """Enqueue tasks that this one, or what waits for it, will wait for, if `change` says that it is still ours.

        Callbacks of a replacement wait for this very task.
        """
        transact = self.site.app.database.transact
        enqueue = tasks.enqueue(messages, edges, running=[self.claim.id])
        changes = [change] if lock is None else [lock, change]

        def added(ask: Ask) -> bool:
            is_ours = all(map(ask, changes))
            if is_ours and messages:
                ask(enqueue)
            return is_ours

        def anew(ask: Ask) -> None:
            # Before the change, after which something waits for them.
            clear(ask, messages)
            if not added(ask):
                raise _LostError

        try:
            return bool(transact(added))
        except TaskSentBefore:
            with suppress(_LostError):
                transact(anew)
                return True
            return False

    def retried(self, task: Any, request: Context, retry: Retry, einfo: ExceptionInfo, store: bool) -> None:
        self._stop_counting()
        self.is_hidden = not store
        self.row = self.error_row(retry.exc or retry, request, str(einfo.traceback))

    def failed(self, task: Any, request: Context, exc: BaseException, einfo: ExceptionInfo, store: bool) -> None:
        self._stop_counting()
        self.is_hidden = not store
        self.row = self.error_row(exc, request, str(einfo.traceback))
        self.spread(request, exc, einfo.traceback)

    def spread(self, request: Any, exc: BaseException, traceback: Any) -> None:
        """Fail what waits for this task and call the errbacks; those that are tasks go with the outcome."""
        self.casualties = self._fell(exc, traceback)
        self._call_errbacks(request, exc, traceback, partial(self._show_failure, exc))

    def _show_failure(self, exc: BaseException) -> None:
        """Let an errback that looks up its task find it failed; the outcome, which is stored later, is what counts."""
        if self.row is not None and not self.is_hidden:
            self._mark(states.REVOKED if isinstance(exc, TaskRevokedError) else states.FAILURE, self.row)

    def _call_errbacks(
        self, request: Any, exc: BaseException, traceback: Any, before_calls: Callable[[], Any] = noop
    ) -> None:
        if not request.errbacks or self.is_quiet:
            return

        @contextmanager
        def sending() -> Iterator[None]:
            with collecting() as batches:
                yield
            self.follow_ups += tuple(batches)

        try:
            call_errbacks(self.site.app, request, exc, traceback, sending, before_calls)
        except Exception:
            logger.exception("An errback of task %s raised; the task has failed all the same.", request.id)

    def _fell(self, exc: BaseException, traceback: Any) -> tuple[Casualty, ...]:
        """Say how the tasks end that can never run since this one failed, and call the errbacks of chord bodies."""
        site, claim = self.site, self.claim
        if not claim.has_successors:
            return ()
        rows = site.app.database.run(graphs.successors(claim.id))
        successors = {row.id: row for row in rows}
        # One with a trigger of its own is told of the failure by the settle, and may yet run.
        waiting = (_waiting(row) for row in rows if row.trigger is None)
        fallen = list(falls(claim.id, claim.public_id, exc, waiting))
        called = self._trail()
        self._call_errbacks_of([(_context_of(site, successors[f.id]), f) for f in fallen if f.calls_errbacks])
        errbacks = self._trail()[len(called) :]
        text = None if traceback is None else str(traceback).encode("utf-8", "replace")
        # A large group that comes next has members enough that what they share would outweigh all else.
        return tuple(
            _casualty(site, fall, text if place < MAX_TRACEBACKS else None, errbacks)
            for place, fall in enumerate(fallen)
        )

    def _trail(self) -> list[Any]:
        """What the task that runs here has called so far."""
        return self.site.app.backend.current_task_children() or []

    def _call_errbacks_of(self, fallen: Sequence[tuple[Context, Fall]]) -> None:
        """Call the errbacks of chord bodies, unless another task of the same header has failed before this one."""
        with_errbacks = [(context, fall) for context, fall in fallen if context.errbacks]
        if not with_errbacks:
            return
        query = tasks.fell(self.claim.id, [fall.id for _, fall in with_errbacks])
        mine = set(self.site.app.database.run(query))
        called: dict[UUID | None, list[Any]] = {None: []}
        for context, fall in with_errbacks:
            before = called.get(fall.within, [])
            called[fall.id] = [*before, *context.errbacks]
            if fall.id in mine:
                context.errbacks = [errback for errback in context.errbacks if errback not in before]
                self._call_errbacks(context, fall.error, None)

    def error_row(self, exc: BaseException, request: Any, traceback: str | None) -> StateRow:
        """Write an error down."""
        backend = self.site.app.backend
        row: StateRow = backend.row_of(backend.prepare_exception(exc), traceback, request)
        return row

    def conclude(self, attempt: trace.Attempt) -> Outcome:
        """Make the outcome of an attempt."""
        self._stop_counting()
        if self.is_gone:
            if self.is_limited:
                self.site.app.database.run(flows.leave([self.claim.id]))
            return Outcome(id=self.claim.id, delivery=self.claim.delivery, kind="gone")
        state = attempt.state
        if state == states.REJECTED:
            return Outcome(
                id=self.claim.id,
                delivery=self.claim.delivery,
                kind="back",
                state=state,
                retries=self.claim.retries,
                losses=self.claim.losses,
            )
        if state == states.RETRY and self.again is not None:
            return self._retry(*self.again)
        if state == states.SUCCESS and self.again is not None:
            # retry(throw=False): it asked to run again, and went on to its end. That is a result, and one more run.
            self.follow_ups += _another(self.claim, *self.again)
        if state in (states.SUCCESS, states.FAILURE):
            return self.ended(state)
        # IGNORED, and whatever else was not decided: over, without a result that anybody sees.
        self.is_hidden, self.row = True, None
        self.casualties = self._fell(attempt.retval, None)
        return self.ended(state or states.IGNORED)

    def ended(self, state: str) -> Outcome:
        """The outcome of a task that is over, with what was collected."""
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
            follow_ups=self.follow_ups,
            is_limited=self.is_limited,
            is_member=claim.group_id is not None,
        )

    def _retry(self, sig: Any, changes: Message | None) -> Outcome:
        retries = sig.options.get("retries", self.claim.retries + 1)
        delay_s, due = due_of(self.site.app, sig.options) if changes is None else (changes.countdown_s, changes.due)
        return self.once_more(delay_s=delay_s, due=due, retries=retries, changes=changes)

    def once_more(
        self, *, retries: int, delay_s: float | None, due: datetime | None = None, changes: Message | None = None
    ) -> Outcome:
        """The outcome of a task that is to run once more."""
        claim, row = self.claim, self.row or {}
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
            delay_s=delay_s,
            due=due,
            retries=retries,
            changes=changes,
            is_limited=self.is_limited,
        )


#: What a body carries beside the arguments, by the option it was.
_EMBEDDED = {"link": "callbacks", "link_error": "errbacks", "chain": "chain", "chord": "chord"}


def _recomposed(app: Any, claim: Claim, sig: Any) -> Message:
    """The message of a retry: the arguments it was given, now with what the predecessors returned among them."""
    task = app.tasks.get(claim.name)
    args, kwargs, options = sig.args, sig.kwargs, dict(sig.options)
    if not sends_plainly(app, task):
        args, kwargs, options = as_called(app, task, claim.name, args, kwargs, options) or (args, kwargs, options)
    retries = options.pop("retries", claim.retries + 1)
    names = relatives(options.get("root_id"), claim.root, options.get("parent_id"), claim.parent)
    for place in ("task_id", "root_id", "parent_id", "group_id"):
        options.pop(place, None)
    # What follows a call of ours has rows; that of a call which Celery has sent, and errbacks, are in its body.
    carried = {name: options.pop(option, None) for option, name in _EMBEDDED.items()}
    embed = {name: value if name == "chord" else maybe_list(value) for name, value in carried.items() if value}
    call = Call(
        claim.id, claim.public_id, claim.name, args, kwargs, options, embed, claim.root, claim.parent, claim.group_id,
        extra={**forms.inherited(claim), **names}, retries=retries,
    )  # fmt: skip
    message = forms.made_anew(claim, compose(app, call, task))
    announce(app, call, message)
    return message


def _another(claim: Claim, sig: Any, message: Message | None) -> tuple[Batch, ...]:
    """The message of a retry as that of a task of its own, since the one that asked for it has a result."""
    root = claim.root or claim.id
    retries = sig.options.get("retries", claim.retries + 1)
    if message is None:
        logger.error("Task %s[%s] has ended and cannot run once more: its inputs cannot be written as arguments.",
                     claim.name, claim.public_id)  # fmt: skip
        return ()
    options = {**json.loads(message.options or b"{}"), "retries": retries}
    another = replace(message, id=new_id(root), task_id=None, root=root, options=json.dumps(options).encode())
    return (((another,), ()),)


def _waiting(successor: graphs.Successor) -> Waiting:
    options = json.loads(successor.options) if successor.options else {}
    entry = options.get("entry")
    return Waiting(
        successor.id, successor.pred, _public_id(successor), options.get("role", "step"), UUID(entry) if entry else None
    )


def _public_id(successor: graphs.Successor) -> str:
    return successor.task_id or str(successor.id)


def _context_of(site: Site, successor: graphs.Successor) -> Context:
    try:
        _, _, embed = decode(successor.payload, successor.content_type, successor.content_encoding, site.rules.accept)
    except Exception:
        embed = {}
    errbacks = (embed or {}).get("errbacks")
    return Context(id=_public_id(successor), task=successor.name, errbacks=errbacks, called_directly=False)


def _casualty(site: Site, fall: Fall, traceback: bytes | None, errbacks: Sequence[Any]) -> Casualty:
    """How a task ends that never ran: with the traceback of what failed, and its errbacks as children."""
    backend = site.app.backend
    value = backend.row_of(encode_exception(fall.error, backend.serializer))["value"]
    if fall.is_silent:
        return Casualty(id=fall.id, state=states.IGNORED, value=value, hidden=True)
    is_of_chord = isinstance(fall.error, ChordError)
    if is_of_chord:
        traceback = "".join(format_exception(fall.error)).encode("utf-8", "replace")
    children = json.dumps(errbacks).encode() if errbacks and (is_of_chord or fall.calls_errbacks) else None
    return Casualty(id=fall.id, state=states.FAILURE, value=value, traceback=traceback, children=children)
