"""The observer pattern: what signals are made of.

A signal keeps a list of `((receiver id, sender id), receiver)`; a receiver is a weak reference unless asked
otherwise. Sending walks over a copy of the list and takes no lock; a signal nobody listens to costs one truth
test.
"""

import logging
import threading
import warnings
import weakref
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from kombu.utils.functional import retry_over_time

from pgtasks.exceptions import CDeprecationWarning
from pgtasks.local import PromiseProxy, Proxy
from pgtasks.utils.functional import fun_accepts_kwargs
from pgtasks.utils.time import humanize_seconds

__all__ = ("Signal",)

logger = logging.getLogger("celery.utils.dispatch.signal")

Receiver = Callable[..., Any]


def _identity(target: Any) -> Any:
    """Return what tells `target` apart: text stands for itself, a bound method for instance and function."""
    if isinstance(target, Proxy):
        target = target._get_current_object()
    if isinstance(target, (bytes, str)):
        return target  # so that a task's name can be the sender
    if hasattr(target, "__func__"):
        return id(getattr(target, "__self__", None)), id(target.__func__)
    return id(target)


_ANY_SENDER = _identity(None)


def _lookup_key(receiver: Any, sender: Any, dispatch_uid: Any) -> tuple[Any, Any]:
    uid = dispatch_uid or getattr(receiver, "_dispatch_uid", None) or _identity(receiver)
    return uid, _identity(sender)


def _is_dead(receiver: Any) -> bool:
    return isinstance(receiver, weakref.ReferenceType) and receiver() is None


class Signal:
    """A named event that receivers can be connected to.

    `providing_args` documents what is sent with it; it is not enforced.
    """

    def __init__(
        self,
        providing_args: Iterable[str] | None = None,
        use_caching: bool = False,
        name: str | None = None,
    ) -> None:
        self.receivers: list[tuple[tuple[Any, Any], Any]] = []
        self.providing_args = set(providing_args or ())
        self.use_caching = use_caching  # accepted for compatibility: there is nothing worth caching
        self.name = name
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.name} providing_args={self.providing_args!r}>"

    # -- receivers ----------------------------------------------------------------------------------------

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        """Call a function whenever the signal is sent; also a decorator, with or without arguments.

        `connect(fun=None, sender=None, weak=True, dispatch_uid=None, retry=False)`. `fun` must accept any
        keyword argument (ValueError otherwise). With a `sender`, only what that object, or that string,
        sends is received. Connecting again with the same `dispatch_uid` (default: the function) changes
        nothing. `weak=False` keeps functions alive that nothing else refers to. `retry=True` calls a
        receiver that raises again and again, with growing pauses, until it succeeds.
        """
        if args and callable(args[0]):
            return self._connect(*args, **kwargs)
        return lambda fun: self._connect(fun, *args, **kwargs)

    def _connect(
        self,
        fun: Receiver,
        sender: Any = None,
        weak: bool = True,
        dispatch_uid: Any = None,
        retry: bool = False,
    ) -> Receiver:
        if not fun_accepts_kwargs(fun):
            raise ValueError(
                f"Signal receiver must accept keyword arguments. Add **kwargs to the signature of {fun!r}."
            )
        if retry:
            dispatch_uid = dispatch_uid or _identity(fun)
            fun, weak = _retrying(fun, dispatch_uid), False
        if isinstance(sender, PromiseProxy):  # a task of an app that is not finalized yet
            sender.__then__(lambda: self._add(fun, sender._get_current_object(), weak, dispatch_uid))
        else:
            self._add(fun, sender, weak, dispatch_uid)
        return fun

    def _add(self, fun: Receiver, sender: Any, weak: bool, dispatch_uid: Any) -> None:
        key = _lookup_key(fun, sender, dispatch_uid)
        receiver: Any = fun
        if weak:
            # A bound method is a new object each time it is looked up: refer to its instance.
            receiver = weakref.WeakMethod(fun) if hasattr(fun, "__self__") else weakref.ref(fun)
        with self.lock:
            self._forget(lambda known: False)
            if all(known != key for known, _ in self.receivers):
                self.receivers.append((key, receiver))

    def disconnect(self, receiver: Any = None, sender: Any = None, weak: Any = None, dispatch_uid: Any = None) -> bool:
        """Undo `connect` with the same arguments; say whether anything was connected."""
        if weak is not None:
            warnings.warn("Passing `weak` to disconnect has no effect.", CDeprecationWarning, stacklevel=2)
        key = _lookup_key(receiver, sender, dispatch_uid)
        with self.lock:
            found = any(known == key for known, _ in self.receivers)
            self._forget(lambda known: known == key)
        return found

    def _forget(self, unwanted: Callable[[Any], bool]) -> None:
        """Drop the receivers with an unwanted key, and those that have ceased to exist."""
        kept = [(key, fun) for key, fun in self.receivers if not unwanted(key) and not _is_dead(fun)]
        self.receivers[:] = kept

    def has_listeners(self, sender: Any = None) -> bool:
        """Say whether anything would be called if `sender` sent this."""
        return bool(self.receivers) and bool(self._live_receivers(sender))

    def _live_receivers(self, sender: Any) -> list[Receiver]:
        identity = _identity(sender)
        live, some_are_dead = [], False
        for (_, wanted), receiver in self.receivers.copy():
            fun = receiver() if isinstance(receiver, weakref.ReferenceType) else receiver
            if fun is None:
                some_are_dead = True
            elif wanted in (_ANY_SENDER, identity):
                live.append(fun)
        if some_are_dead:
            with self.lock:
                self._forget(lambda known: False)
        return live

    # -- sending ------------------------------------------------------------------------------------------

    def send(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Call every receiver with `signal`, `sender` and `named`; return `(receiver, answer)` pairs.

        A receiver that raises does not disturb the others or the sender: its exception is logged and
        returned as its answer.
        """
        if not self.receivers:
            return []
        return [(receiver, self._ask(receiver, sender, named)) for receiver in self._live_receivers(sender)]

    send_robust = send  # Django's name

    def send_or_raise(self, sender: Any, **named: Any) -> list[tuple[Receiver, Any]]:
        """Send, then raise the first exception among the answers.

        For signals sent before logging is set up (`import_modules`, `setup_logging`): a log line would be
        lost.
        """
        answers = self.send(sender, **named)
        for _, answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _ask(self, receiver: Receiver, sender: Any, named: dict[str, Any]) -> Any:
        try:
            return receiver(signal=self, sender=sender, **named)
        except Exception as exc:
            logger.exception("Signal handler %r raised: %r", receiver, exc)
            return exc


def _retrying(fun: Receiver, dispatch_uid: Any) -> Receiver:
    """Wrap `fun` so that it is called until it does not raise."""

    def on_error(exc: BaseException, intervals: Any, retries: int) -> Any:
        interval = next(intervals)
        when = humanize_seconds(interval, "in", " ")
        logger.error("Could not process signal receiver %s. Retrying %s...", fun, when)
        return interval

    @wraps(fun)
    def until_it_succeeds(*args: Any, **kwargs: Any) -> Any:
        return retry_over_time(fun, Exception, args, kwargs, on_error)

    until_it_succeeds._dispatch_uid = dispatch_uid  # type: ignore[attr-defined]
    return until_it_succeeds
