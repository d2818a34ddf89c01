"""Log records as JSON, one object per line: `worker_log_format = "json"`, or `pgtasks worker --log-format json`.

    {"time": "2026-03-01T12:00:00.123Z", "level": "INFO", "logger": "celery.app.trace", "message": "Task ... succeeded ...",
     "process": "ForkPoolWorker-1", "pid": 4711, "task_id": "...", "task_name": "proj.mail", "data": {"runtime": 0.02, ...}}

Whatever is logged with `extra=` is there under its own name. What looks like a secret by its name is masked, at any depth, and
so are passwords in URLs and in what looks like `password=...`, also within messages and tracebacks. docs/operations.md lists the
fields.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from pgtasks._state import get_current_task
from pgtasks.utils.saferepr import saferepr

__all__ = ("JSON", "JSONFormatter")

#: The format by this name is not a format string.
JSON = "json"
MASK = "********"
#: How deep containers are written as such; what is deeper is text.
DEEPEST = 6

_SECRET_NAME = re.compile(
    r"(?:^|[_.-])(?:api_?key|secret(?:_key)?|token|pass(?:word|wd)?|authorization|cookie|private_key|credentials?)(?:$|[_.-])",
    re.IGNORECASE,
)
_SECRET_TEXT = (
    # postgresql://user:password@host
    (re.compile(r"(://[^:/?#@\s]*:)[^/?#@\s]+@"), rf"\g<1>{MASK}@"),
    # password=..., 'api_key': '...', "token": "..."
    (
        re.compile(
            r"(\b\w*(?:password|passwd|secret|token|api_?key)\w*['\"]?\s*[=:]\s*)(?!['\"]?\*{8})('[^']*'|\"[^\"]*\"|[^\s,;&'\")\]}]+)",
            re.IGNORECASE,
        ),
        rf"\g<1>{MASK}",
    ),
)
#: What every record has: its own words, and what other fields are made of.
_USUAL = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName", "task_id", "task_name", "data"}


class JSONFormatter(logging.Formatter):
    """Formats records as JSON. The arguments are those of the formatters it stands in for, and have no effect."""

    def __init__(self, fmt: str | None = None, use_color: bool = False, datefmt: str | None = None) -> None:
        super().__init__()

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": mask_text(record.getMessage()),
            "process": record.processName,
            "pid": record.process,
            **_about_task(record),
            **_about_trace(),
            **self._about_error(record),
        }
        for name, value in record.__dict__.items():
            if name not in _USUAL:
                said.setdefault(name, plain(value, name))
        return json.dumps(said)

    def _about_error(self, record: logging.LogRecord) -> dict[str, Any]:
        found: Any = record.exc_info
        if found and not isinstance(found, tuple):  # `exc_info=1`, where no logger has looked at it
            found = sys.exc_info()
        if not isinstance(found, tuple) or found[0] is None:
            return {}
        kind, error, _ = found
        return {
            "exception": f"{kind.__module__}.{kind.__qualname__}",
            "error": mask_text(str(error)),
            "traceback": mask_text(self.formatException(found)),
        }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _about_task(record: logging.LogRecord) -> dict[str, Any]:
    """Which task logs, or is logged about; what the record says of it."""
    data = getattr(record, "data", None)
    about: dict[str, Any] = {}
    if isinstance(data, Mapping):
        about = {"task_id": data.get("id"), "task_name": data.get("name"), "data": plain(dict(data))}
    elif data is not None:
        about = {"data": plain(data)}
    task = get_current_task()
    if task is not None and task.request:
        request = task.request
        about |= {"task_id": request.id, "task_name": task.name, "root_id": request.root_id, "retries": request.retries}
    return {name: value for name, value in about.items() if value is not None}


def _about_trace() -> dict[str, Any]:
    """The span that this belongs to, where OpenTelemetry is in use."""
    opentelemetry = sys.modules.get("opentelemetry.trace")
    if opentelemetry is None:
        return {}
    context = opentelemetry.get_current_span().get_span_context()
    return {"trace_id": f"{context.trace_id:032x}", "span_id": f"{context.span_id:016x}"} if context.is_valid else {}


def mask_text(text: str) -> str:
    """Mask the secrets in a text that can be recognised by their form."""
    for pattern, masked in _SECRET_TEXT:
        text = pattern.sub(masked, text)
    return text


def plain(value: Any, name: str = "", depth: int = DEEPEST) -> Any:
    """Make a value serializable as JSON and mask its secrets; what JSON cannot represent becomes text."""
    if name and _SECRET_NAME.search(name):
        return MASK
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)  # JSON has neither infinity nor NaN
    if isinstance(value, str):
        return mask_text(value)
    if depth and isinstance(value, Mapping):
        return {str(key): plain(item, str(key), depth - 1) for key, item in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [plain(item, depth=depth - 1) for item in value]
    return mask_text(saferepr(value))
