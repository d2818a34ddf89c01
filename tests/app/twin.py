"""Run one program against real Celery and against pgtasks, and write down what it saw.

A program is a function of a `Library`; the transcript is what it recorded: return values, hooks, signals and
log records. Ids, addresses, times and the library's own name are made equal, so transcripts can be compared
with ==.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from traceback import format_exception_only
from typing import Any

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ADDRESS = re.compile(r"0x[0-9a-f]+")
_RUNTIME = re.compile(r"succeeded in [\d.e-]+s")
#: Celery's Retry has itself for its first argument when it has no message.
_SELF_CONTAINED = re.compile(r"Retry\(Retry\(\.\.\.\)")
_ADVICE = re.compile(r"Never call result\.get\(\) within a task![^']*")
_PACKAGE = re.compile(r"\b(celery|pgtasks)\.(exceptions|result|canvas|app|joining|asyncresult)\b")

TASK_SIGNALS = (
    "task_prerun",
    "task_postrun",
    "task_success",
    "task_failure",
    "task_retry",
    "task_internal_error",
)


Program = Callable[["Library"], Any]


class Programs(list[Program]):
    """The programs of a test module; decorates each of them."""

    def __call__(self, program: Program) -> Program:
        self.append(program)
        return program


class Library:
    """One of the two packages, by the names user code imports."""

    def __init__(self, package: str) -> None:
        self.package = package
        self.entries: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        root = import_module(self.package)
        return getattr(root, name) if name in root.__all__ else import_module(f"{self.package}.{name}")

    def app(self, name: str = "proj", **settings: Any) -> Any:
        """An app for eager use, whose tasks say which of their hooks are called."""
        app = self.Celery(name, set_as_current=False, task_cls=self._talkative_task(), **settings)
        return app

    def _talkative_task(self) -> Any:
        note = self.note

        class Talkative(import_module(f"{self.package}.app.task").Task):  # type: ignore[misc]
            abstract = True

            def before_start(self, task_id: Any, args: Any, kwargs: Any) -> None:
                note("before_start", self.name, args, kwargs)

            def on_success(self, retval: Any, task_id: Any, args: Any, kwargs: Any) -> None:
                note("on_success", self.name, retval, args, kwargs)

            def on_retry(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
                note(
                    "on_retry",
                    self.name,
                    exc,
                    args,
                    kwargs,
                    type(einfo).__name__,
                    type(einfo.exception).__name__,
                )

            def on_failure(self, exc: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
                note(
                    "on_failure",
                    self.name,
                    exc,
                    args,
                    kwargs,
                    einfo.type.__name__,
                    tells(einfo.traceback, exc),
                )

            def after_return(self, status: Any, retval: Any, task_id: Any, args: Any, kwargs: Any, einfo: Any) -> None:
                note("after_return", self.name, status, retval, args, kwargs, einfo)

        return Talkative

    def note(self, *what: Any) -> None:
        self.entries.append(tuple(plain(value) for value in what))

    def tried(self, act: Callable[[], Any]) -> None:
        """Note what `act` returns, or what it raises and why."""
        try:
            self.note("returned", act())
        except Exception as exc:
            self.note("raised", type(exc).__name__, str(exc))

    def result(self, result: Any) -> None:
        """Note everything that a result object says."""
        text = result.traceback and tells(result.traceback, result.result)
        self.note("result", type(result).__name__, result.state, result.result, text, result.name)


def tells(traceback: str, exc: BaseException) -> bool:
    """Is it the traceback of this exception?"""
    return traceback.startswith("Traceback") and traceback.endswith("".join(format_exception_only(exc)))


def plain(value: Any) -> Any:
    if isinstance(value, bool | int | type(None)):
        return value
    if isinstance(value, float):
        return "a float"
    if isinstance(value, list | tuple):
        return [plain(item) for item in value] if isinstance(value, list) else tuple(plain(item) for item in value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    text = value if isinstance(value, str) else repr(value)
    text = _PACKAGE.sub(r"library.\2", _ADDRESS.sub("<address>", _UUID.sub("<id>", text)))
    text = _ADVICE.sub("Never call result.get() within a task!", _SELF_CONTAINED.sub("Retry(None", text))
    return _RUNTIME.sub("succeeded in <runtime>s", text)


class _Records(logging.Handler):
    def __init__(self, note: Callable[..., None]) -> None:
        super().__init__(logging.INFO)
        self.note = note

    def emit(self, record: logging.LogRecord) -> None:
        data = getattr(record, "data", None)
        if data is not None:
            data = {key: value for key, value in data.items() if key not in ("traceback", "hostname")}
        self.note("log", record.name, record.levelname, record.getMessage(), bool(record.exc_info), data)


@contextmanager
def _listening(library: Library) -> Iterator[None]:
    signals = import_module(f"{library.package}.signals")
    with ExitStack() as stack:
        for name in TASK_SIGNALS:
            signal = getattr(signals, name)

            def receive(sender: Any = None, signal: Any = None, name: str = name, **given: Any) -> None:
                shown = {key: value for key, value in given.items() if key not in ("task", "traceback")}
                if "request" in shown:
                    shown["request"] = getattr(shown["request"], "id", None)
                if "einfo" in shown:
                    shown["einfo"] = (shown["einfo"].type.__name__, shown["einfo"].internal)
                library.note(name, sender.name, shown)

            signal.connect(receive, weak=False)
            stack.callback(signal.disconnect, receive)
        yield


def transcript(package: str, program: Program) -> list[Any]:
    """What `program` sees of the library in `package`."""
    library = Library(package)
    logger = logging.getLogger("celery")
    handler, level = _Records(library.note), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with _listening(library), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            program(library)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    library.entries += [
        ("warning", item.category.__name__) for item in caught if issubclass(item.category, UserWarning)
    ]
    return library.entries
