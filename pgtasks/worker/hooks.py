"""`Task.Request`: a class of the project's own, whose hooks are told in the worker's parent what came of its tasks.

The hooks are those that Celery documents for it: `on_success`, `on_failure`, `on_retry` and `on_timeout`. They are called once
the end of the task is stored. They run in the worker's loop, as receivers of `task_received` do, so they must be quick; what
they raise is logged. For tasks without such a class nothing is kept and nothing is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any
from uuid import UUID

from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import Retry, SoftTimeLimitExceeded, TimeLimitExceeded, WorkerLostError
from pgtasks.message import Claim, Outcome
from pgtasks.serialization import decode
from pgtasks.utils.imports import symbol_by_name
from pgtasks.utils.log import get_logger
from pgtasks.worker.reporter import traceback_text
from pgtasks.worker.request import Request

__all__ = ("RequestHooks",)

logger = get_logger("celery.worker.request")

#: So many requests are kept before those are dropped that this worker has lost to others.
MOST_KEPT = 10_000


class RequestHooks:
    """The requests of one worker whose tasks have a class of their own for them."""

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._kept: dict[UUID, Request] = {}

    @cached_property
    def classes(self) -> dict[str, type[Request]]:
        """The classes by name of the task, of those tasks that have one; looked up when the first task is received."""
        found = {name: _class_of(task) for name, task in self._worker.app.tasks.items()}
        own = {name: cls for name, cls in found.items() if cls is not Request}
        if own:
            self._worker.attendants.reporter.time_tasks()
        return own

    def requests(self, claims: Sequence[Claim]) -> list[Request]:
        """The requests of tasks that were received, each of its own class."""
        site = self._worker.crew.site
        made = [self.classes.get(claim.name, Request)(site, claim) for claim in claims]
        self._keep(request for request in made if type(request) is not Request)
        return made

    def _keep(self, requests: Iterable[Request]) -> None:
        self._kept.update((request.claim.id, request) for request in requests)
        if len(self._kept) > MOST_KEPT:
            held = {claim.id for claim in self._worker.crew.in_hand()}
            self._kept = {key: request for key, request in self._kept.items() if key in held}

    def settled(self, outcomes: Iterable[Outcome], runtimes: dict[UUID, float]) -> None:
        """Call the hooks of those tasks that have ended, or are to be retried."""
        for outcome in outcomes:
            request = self._kept.pop(outcome.id, None)
            if request is None or outcome.kind == "back":
                continue
            try:
                self._tell(request, outcome, runtimes.get(outcome.id, 0.0))
            except Exception:
                logger.exception("A hook of the Request class of task %s raised.", request)

    def _tell(self, request: Request, outcome: Outcome, runtime: float) -> None:
        if outcome.state == "SUCCESS":
            request.on_success((False, self._value(outcome), runtime))
        elif outcome.state in ("FAILURE", "RETRY"):
            self._tell_failure(request, outcome, runtime)

    def _tell_failure(self, request: Request, outcome: Outcome, runtime: float) -> None:
        error = self._worker.app.backend.exception_to_python(self._value(outcome))
        error = error if isinstance(error, BaseException) else Exception(repr(error))
        is_retry = outcome.state == "RETRY"
        info = ExceptionInfo.of(Retry(exc=error) if is_retry else error)
        info.traceback = traceback_text(outcome.traceback) or ""
        if isinstance(error, TimeLimitExceeded | WorkerLostError) and not is_retry:
            # Of these the pool tells, not the task.
            request.on_failure(info)
        else:
            if isinstance(error, SoftTimeLimitExceeded) and not is_retry:
                request.on_timeout(True, request.time_limits[1])
            info.unwrap()
            request.on_success((True, info, runtime))
        if isinstance(error, TimeLimitExceeded) and not is_retry:
            request.on_timeout(False, request.time_limits[0])

    def _value(self, outcome: Outcome) -> Any:
        if outcome.value is None:
            return None
        return decode(outcome.value, outcome.content_type, outcome.content_encoding, self._worker.app.backend.accept)


def _class_of(task: Any) -> type[Request]:
    cls = symbol_by_name(task.Request)
    if isinstance(cls, type) and issubclass(cls, Request):
        return cls
    logger.warning(
        "The Request class of task %r is %r, which does not derive from pgtasks.worker.request.Request: it is not used.",
        task.name,
        cls,
    )
    return Request
