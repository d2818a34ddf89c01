"""Stand-ins for unit tests: task messages as a consumer would get them, and mocks for `with`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

from kombu.serialization import dumps
from kombu.utils.uuid import uuid

__all__ = ("ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig")


def TaskMessage(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Mock:
    """Make a message of Celery's protocol 2: metadata in headers, `[args, kwargs, embed]` in the body."""
    id = id or uuid()
    message = Mock(name=f"TaskMessage-{id}")
    message.headers = {"id": id, "task": name, "shadow": shadow, **options}
    message.payload = (args, kwargs or {}, {"callbacks": callbacks, "errbacks": errbacks, "chain": chain})
    message.content_type, message.content_encoding, message.body = dumps(message.payload, serializer="json")
    return message


def TaskMessage1(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    **options: Any,
) -> Mock:
    """Make a message of Celery's protocol 1: everything in the body."""
    id = id or uuid()
    message = Mock(name=f"TaskMessage-{id}")
    message.headers = {}
    body = {"task": name, "id": id, "args": args, "kwargs": kwargs or {}, "callbacks": callbacks}
    message.payload = {**body, "errbacks": errbacks, **options}
    message.content_type, message.content_encoding, message.body = dumps(message.payload)
    return message


def task_message_from_sig(app: Any, sig: Any, utc: bool = True, TaskMessage: Callable[..., Mock] = TaskMessage) -> Mock:
    """Make the message that applying a signature would send; its options are used up."""
    sig.freeze()
    options = sig.options
    callbacks, errbacks = options.pop("link", None), options.pop("link_error", None)
    countdown = options.pop("countdown", None)
    eta = app.now() + timedelta(seconds=countdown) if countdown else options.pop("eta", None)
    expires = options.pop("expires", None)
    if expires and isinstance(expires, int | float):
        expires = app.now() + timedelta(seconds=expires)
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        callbacks=[dict(each) for each in callbacks] if callbacks else None,
        errbacks=[dict(each) for each in errbacks] if errbacks else None,
        eta=eta.isoformat() if isinstance(eta, datetime) else eta,
        expires=expires.isoformat() if isinstance(expires, datetime) else expires,
        utc=utc,
        **options,
    )


class _ContextMock(Mock):
    """`with` looks for these two in the class, where a mock has none."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Let exceptions pass."""


def ContextMock(*args: Any, **kwargs: Any) -> Any:
    """Make a mock that works in `with` statements, and whose entering and leaving can be asserted."""
    mock: Any = _ContextMock(*args, **kwargs)
    mock.attach_mock(_ContextMock(), "__enter__")
    mock.attach_mock(_ContextMock(), "__exit__")
    mock.__enter__.return_value = mock
    # A true value would swallow the exceptions of the block.
    mock.__exit__.return_value = None
    return mock
