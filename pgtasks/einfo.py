"""What is known about an exception a task raised: the value that hooks and signals receive as `einfo`.

The names and their behaviour are those of `billiard.einfo`, which user code imports: until the failure has
been logged `exception` is an `ExceptionWithTraceback`, afterwards the exception itself. An `ExceptionInfo`
can be pickled; the live traceback stays behind, its text goes along.
"""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Any, TypeAlias

__all__ = ("ExceptionInfo", "ExceptionWithTraceback", "RemoteTraceback")

ExcInfo: TypeAlias = tuple[Any, Any, TracebackType | None]


class RemoteTraceback(Exception):
    """The text of a traceback from another process, shown as the cause of the exception it belongs to."""

    def __init__(self, text: str) -> None:
        self.tb = text

    def __str__(self) -> str:
        return self.tb


class ExceptionWithTraceback(Exception):
    """An exception and the text of its traceback; unpickled, the exception with the text as its cause."""

    def __init__(self, exc: BaseException | None, tb: str) -> None:
        super().__init__()
        self.exc = exc
        self.tb = f'\n"""\n{tb}"""'

    def __str__(self) -> str:
        return self.tb

    def __reduce__(self) -> Any:
        return rebuild_exc, (self.exc, self.tb)


def rebuild_exc(exc: BaseException, text: str) -> BaseException:
    exc.__cause__ = RemoteTraceback(text)
    return exc


class ExceptionInfo:
    """The exception being handled, or the one given, with its traceback as text."""

    def __init__(self, exc_info: ExcInfo | None = None, internal: bool = False) -> None:
        kind, exception, tb = exc_info or sys.exc_info()
        self.type: Any = kind
        self.tb = tb
        self.traceback = "".join(traceback.format_exception(kind, exception, tb))
        #: True when the error is the library's or the configuration's, not the task's.
        self.internal = internal
        self.exception: Any = ExceptionWithTraceback(exception, self.traceback)

    @classmethod
    def of(cls, exc: BaseException, internal: bool = False) -> ExceptionInfo:
        return cls((type(exc), exc, exc.__traceback__), internal)

    @property
    def exc_info(self) -> ExcInfo:
        return self.type, self.exception, self.tb

    def unwrap(self) -> BaseException:
        """Replace `exception` by the bare exception, and return it."""
        if isinstance(self.exception, ExceptionWithTraceback):
            self.exception = self.exception.exc
        bare: BaseException = self.exception
        return bare

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.exception!r}>"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "tb": None}
