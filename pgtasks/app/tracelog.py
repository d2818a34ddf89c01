"""Log messages and levels for the end of a task.

The logger's name, the messages and the `data` of the records are API: people's log handlers, alerts and
monitoring read them. They are Celery's, word for word.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from kombu.utils.encoding import safe_repr, safe_str

from pgtasks.einfo import ExceptionInfo
from pgtasks.exceptions import Ignore, Reject, Retry
from pgtasks.utils.log import get_logger
from pgtasks.utils.saferepr import saferepr

__all__ = ("LogPolicy", "get_log_policy", "log_error", "log_retry", "log_success", "shown_name")

logger = get_logger("celery.app.trace")

LOG_RECEIVED = "Task %(name)s[%(id)s] received"
LOG_SUCCESS = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
LOG_FAILURE = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
LOG_INTERNAL_ERROR = LOG_FAILURE
LOG_IGNORED = "Task %(name)s[%(id)s] %(description)s"
LOG_REJECTED = "Task %(name)s[%(id)s] %(exc)s"
LOG_RETRY = "Task %(name)s[%(id)s] retry: %(exc)s"


class LogPolicy(NamedTuple):
    """How a kind of error is logged."""

    format: str
    description: str
    severity: int
    traceback: bool


_REJECTED = LogPolicy(LOG_REJECTED, "rejected", logging.WARNING, True)
_IGNORED = LogPolicy(LOG_IGNORED, "ignored", logging.INFO, False)
_INTERNAL = LogPolicy(LOG_INTERNAL_ERROR, "INTERNAL ERROR", logging.CRITICAL, True)
_EXPECTED = LogPolicy(LOG_FAILURE, "raised expected", logging.INFO, False)
_UNEXPECTED = LogPolicy(LOG_FAILURE, "raised unexpected", logging.ERROR, True)


def get_log_policy(task: Any, einfo: ExceptionInfo, exc: BaseException | None) -> LogPolicy:
    """How to log that `task` raised `exc`."""
    if isinstance(exc, Reject):
        return _REJECTED
    if isinstance(exc, Ignore):
        return _IGNORED
    if einfo.internal:
        return _INTERNAL
    return _EXPECTED if task.throws and isinstance(exc, task.throws) else _UNEXPECTED


def log_success(task: Any, request: Any, task_id: str, retval: Any, runtime_s: float) -> None:
    """Log that a task has returned; the caller has seen to it that somebody listens, for it takes a repr."""
    _info(
        LOG_SUCCESS,
        {
            "id": task_id,
            "name": shown_name(task, request),
            "return_value": saferepr(retval, task.resultrepr_maxsize),
            "runtime": runtime_s,
            "args": request.get("argsrepr") or safe_repr(request.args),
            "kwargs": request.get("kwargsrepr") or safe_repr(request.kwargs),
        },
    )


def log_retry(task: Any, request: Any, retry: Retry) -> None:
    """Log that a task will be run again."""
    _info(LOG_RETRY, {"id": request.id, "name": shown_name(task, request), "exc": str(retry)})


def log_error(task: Any, request: Any, einfo: ExceptionInfo) -> None:
    """Log an error of a task; `einfo.exception` is the bare exception from then on."""
    exc = einfo.unwrap()
    policy = get_log_policy(task, einfo, exc)
    context = {
        "hostname": request.hostname,
        "id": request.id,
        "name": shown_name(task, request),
        "exc": safe_repr(exc),
        "traceback": safe_str(einfo.traceback),
        "args": request.get("argsrepr") or safe_repr(request.args),
        "kwargs": request.get("kwargsrepr") or safe_repr(request.kwargs),
        "description": policy.description,
        "internal": einfo.internal,
    }
    exc_info: Any = einfo.exc_info if policy.traceback else None
    logger.log(policy.severity, policy.format, context, exc_info=exc_info, extra={"data": context})


def shown_name(task: Any, request: Any) -> Any:
    """The name that logs show: the call's own, if it has one."""
    return getattr(request, "shadow", None) or task.name


def _info(format: str, context: dict[str, Any]) -> None:
    logger.info(format, context, extra={"data": context})
