"""What a task may say about its flow: `Flow` limits how it runs, `Unique` and `Debounce` make several calls one task.

    @app.task(flow=Flow(key="tenant", concurrency=2, total_rate="100/s"))
    def report(tenant, month): ...

    @app.task(unique=Unique("tenant"))          @app.task(debounce=Debounce(30, key="document"))

A key is taken from the arguments of the call: the name of one, as in "order" or "order.tenant", several names, or a function
that is given the arguments. Values that JSON can write are keys.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from hashlib import sha256
from typing import Any, Literal
from uuid import UUID

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.message import Limits, UniqueKey

__all__ = ("Debounce", "Flow", "Key", "Unique", "read_rate")

#: How the key of a call is found: names of its arguments, or a function of them.
Key = str | Sequence[str] | Callable[..., Any]

#: Longer keys are known by their hash.
LONGEST_KEY = 200
#: Every start within the period is a row, and counted.
MOST_IN_A_PERIOD = 10_000
#: 300 years.
LONGEST_S = 1e10
#: Names of flows that stand for the limits of queues.
QUEUE_PREFIX = "queue:"

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_RATE = re.compile(r"^\s*(\d+)\s*/\s*(\d+(?:\.\d+)?)?\s*([smhd])\s*$")


@dataclass(frozen=True, slots=True)
class Flow:
    """How many of a task may run at once, and begin in a time, in all workers together.

    `concurrency` and `rate` count for each key, or for all calls where there is no key; the total ones for all keys
    together. With a key, keys take turns. Tasks that name the same flow share its limits; one without a name is the task's own.
    """

    name: str | None = None
    _: KW_ONLY
    key: Key | None = None
    concurrency: int | None = None
    #: As in "10/s", "100/m", "3/30s".
    rate: str | None = None
    total_concurrency: int | None = None
    total_rate: str | None = None

    def __post_init__(self) -> None:
        if self.name is not None and (
            not isinstance(self.name, str) or not self.name or self.name.startswith(QUEUE_PREFIX) or "\0" in self.name
        ):
            raise ImproperlyConfigured(
                f"Flow name {self.name!r}: use a text that is not empty, and does not begin with {QUEUE_PREFIX!r}."
            )
        _check_key("Flow", self.key)
        for name in ("concurrency", "total_concurrency"):
            check_count(f"Flow({name}=)", getattr(self, name))
        read_rate(self.rate), read_rate(self.total_rate)
        if self.key is None and (self.total_concurrency is not None or self.total_rate is not None):
            raise ImproperlyConfigured(
                "A flow without a key has no total_concurrency and total_rate: its concurrency and rate count for all calls."
            )
        if self.key is None and self.concurrency is None and self.rate is None:
            raise ImproperlyConfigured("Flow() limits nothing: give it a concurrency, a rate, or a key to take turns by.")

    def limits(self) -> Limits:
        """The limits as the database keeps them."""
        rate, period_s = read_rate(self.rate)
        total_rate, total_period_s = read_rate(self.total_rate)
        return Limits(
            self.key is not None, self.concurrency, rate, period_s, self.total_concurrency, total_rate, total_period_s
        )

    def key_of(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """The key of a call, as text."""
        return "" if self.key is None else key_of(self.key, task, args, kwargs, "flow")


@dataclass(frozen=True, slots=True)
class Unique:
    """Calls with the same key are one task, for as long as the key is held: another call then returns the existing task.

    Without a key all arguments are it. It counts until the task has ended; with `until="begun"` only until a worker takes it;
    with a `period`, for so many seconds from the call that made it, whatever becomes of it.
    """

    key: Key | None = None
    _: KW_ONLY
    until: Literal["ended", "begun"] = "ended"
    period: float | timedelta | None = None
    #: What a call does that is not the first: give the result of that one, or raise `AlreadyEnqueued`.
    on_conflict: Literal["return", "raise"] = "return"

    def __post_init__(self) -> None:
        _check_key("Unique", self.key)
        if self.until not in ("ended", "begun"):
            raise ImproperlyConfigured(f"Unique(until={self.until!r}): it counts until it has 'ended' or 'begun'.")
        if self.on_conflict not in ("return", "raise"):
            raise ImproperlyConfigured(f"Unique(on_conflict={self.on_conflict!r}): it is 'return' or 'raise'.")
        if self.period is not None:
            _seconds("Unique(period=)", self.period)
            if self.until != "ended":
                raise ImproperlyConfigured("Unique: with a period, until= has no effect. Leave one of them out.")

    def of(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> UniqueKey:
        """The key of a call, and how long it counts."""
        key = f"unique {task.name} {key_of(self.key or _all_arguments, task, args, kwargs, 'unique')}"
        if self.period is not None:
            return UniqueKey(key, "period", _seconds("Unique(period=)", self.period), raises=self.on_conflict == "raise")
        return UniqueKey(key, self.until, raises=self.on_conflict == "raise")


@dataclass(frozen=True, slots=True)
class Debounce:
    """Calls with the same key are one task, with the arguments of the last, `wait` seconds after that.

    Without a key all calls of the task are. `max_wait`: seconds after the first call at which it runs at the latest.
    """

    wait: float | timedelta
    _: KW_ONLY
    key: Key | None = None
    max_wait: float | timedelta | None = None

    def __post_init__(self) -> None:
        _check_key("Debounce", self.key)
        wait_s = _seconds("Debounce(wait)", self.wait)
        if self.max_wait is not None and _seconds("Debounce(max_wait=)", self.max_wait) < wait_s:
            raise ImproperlyConfigured(f"Debounce: max_wait={self.max_wait} is shorter than the wait of {self.wait}.")

    def of(self, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> UniqueKey:
        """The key of a call, and how long it waits."""
        key = "" if self.key is None else key_of(self.key, task, args, kwargs, "debounce")
        longest_s = None if self.max_wait is None else _seconds("Debounce(max_wait=)", self.max_wait)
        wait_s = _seconds("Debounce(wait)", self.wait)
        return UniqueKey(f"debounce {task.name} {key}", "waiting", wait_s=wait_s, longest_s=longest_s)


# -- keys


def _all_arguments(*args: Any, **kwargs: Any) -> Any:
    return [args, kwargs]


def key_of(key: Key, task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], what: str) -> str:
    """The key of one call as text, the same for the same arguments however they are passed."""
    bound = _bound(task, args, kwargs, what)
    if isinstance(key, str):
        value: Any = _picked(key, bound, task, what)
    elif callable(key):
        value = key(*bound.args, **bound.kwargs)
    else:
        value = [_picked(name, bound, task, what) for name in key]
    return key_text(value, f"The {what} key of task {task.name!r}")


def key_text(value: Any, what: str) -> str:
    """A key as text: a text is itself, all else is its JSON; what is long, its hash."""
    try:
        # What the serializer turns into text, and back, has the key of its text.
        value = _plain(value) if isinstance(value, _WITH_A_TEXT) else value
        text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=_plain)
        text.encode()
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"{what} is {value!r}, which is no key: {error}. Keys are texts, numbers, and what JSON can write."
        ) from error
    if "\0" in text:
        raise ValueError(f"{what} is {value!r}, which contains a NUL character.")
    return text if len(text) <= LONGEST_KEY else f"sha256 {sha256(text.encode()).hexdigest()}"


_WITH_A_TEXT = (Enum, UUID, Decimal, date, datetime)


def _plain(value: Any) -> Any:
    """What JSON does not write and has one natural form."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, _WITH_A_TEXT):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    raise TypeError(f"a {type(value).__qualname__} has no such form")


def _bound(task: Any, args: Sequence[Any], kwargs: Mapping[str, Any], what: str) -> inspect.BoundArguments:
    try:
        bound = signature_of(task).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"The {what} key of task {task.name!r} needs its arguments, and {error}.") from error
    bound.apply_defaults()
    return bound


def _picked(path: str, bound: inspect.BoundArguments, task: Any, what: str) -> Any:
    """The argument of that name, or what is in it: an item of a mapping, or else an attribute."""
    name, *rest = path.split(".")
    value = bound.arguments[name]
    for part in rest:
        try:
            value = value[part] if isinstance(value, Mapping) else getattr(value, part)
        except (KeyError, AttributeError) as error:
            raise ValueError(f"The {what} key of task {task.name!r} is {path!r}, and {value!r} has no {part!r}.") from error
    return value


def signature_of(task: Any) -> inspect.Signature:
    """The signature of a task's body, or of its class', as callers see it."""
    cls: Any = task if isinstance(task, type) else task.__class__
    body = getattr(cls, "_decorated_fun", None)
    if body is None:
        return _without_first(inspect.signature(cls.run))
    found = inspect.signature(body)
    return found if isinstance(inspect.getattr_static(cls, "run"), staticmethod) else _without_first(found)


def _without_first(found: inspect.Signature) -> inspect.Signature:
    return found.replace(parameters=list(found.parameters.values())[1:])


def check_names(key: Key | None, task: Any, what: str) -> None:
    """Refuse names that no argument of the task has."""
    if key is None or (callable(key) and not isinstance(key, str)):
        return
    known = signature_of(task).parameters
    for path in (key,) if isinstance(key, str) else key:
        if path.partition(".")[0] not in known:
            raise ImproperlyConfigured(
                f"Task {task.name!r} has no argument {path.partition('.')[0]!r} for its {what} key."
                f" Its arguments are: {', '.join(known) or 'none'}."
            )


def _check_key(what: str, key: Any) -> None:
    if key is None or callable(key) or (isinstance(key, str) and key):
        return
    if isinstance(key, (list, tuple)) and key and all(isinstance(name, str) and name for name in key):
        return
    raise ImproperlyConfigured(f"{what}(key={key!r}): give the name of an argument, several names, or a function.")


# -- numbers


def read_rate(rate: str | None) -> tuple[int, float] | tuple[None, None]:
    """Read a rate, "10/s", "100/m", "3/30s", as a count and the seconds in which it counts."""
    if rate is None:
        return None, None
    found = _RATE.match(rate) if isinstance(rate, str) else None
    if found is None:
        raise ImproperlyConfigured(f"The rate {rate!r} is not understood: write '10/s', '100/m', '500/h', '1/d' or '3/30s'.")
    count, period_s = int(found[1]), float(found[2] or 1) * _UNITS[found[3]]
    if not 1 <= count <= MOST_IN_A_PERIOD or not 0 < period_s <= LONGEST_S:
        raise ImproperlyConfigured(
            f"The rate {rate!r}: from 1 to {MOST_IN_A_PERIOD} in a period, which is longer than nothing."
            " For more, count in a shorter period."
        )
    return count, period_s


def check_count(what: str, value: Any, least: int = 1) -> None:
    """Refuse what is not a number of tasks."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and least <= value < 2**31):
        return
    raise ImproperlyConfigured(f"{what} is {value!r}: it must be a whole number, {least} or more.")


def _seconds(what: str, value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= LONGEST_S:
        raise ImproperlyConfigured(f"{what} is {value!r}: give seconds, more than none, or a timedelta.")
    return float(seconds)
