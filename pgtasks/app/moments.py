"""Read `eta`, `countdown` and `expires` in every form that Celery accepts."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from pgtasks.utils.time import maybe_make_aware

__all__ = ("END_OF_TIME", "due_of", "expiry_of")

#: What `datetime.max`, as in "never", becomes: the last moment that is one in every time zone.
END_OF_TIME = datetime(9998, 12, 31, tzinfo=UTC)


def due_of(app: Any, options: Mapping[str, Any]) -> tuple[float | None, datetime | None]:
    """When a call is due: seconds from now by the database's clock, or a moment; both are None when it is due at once."""
    countdown, eta = options.get("countdown"), options.get("eta")
    if countdown:
        if isinstance(countdown, timedelta):
            countdown = countdown.total_seconds()
        try:
            return float(countdown), None
        except (TypeError, ValueError):
            raise TypeError(f"The countdown is {countdown!r}. Give a number of seconds.") from None
    return None, _moment(app, eta) if eta else None


def expiry_of(app: Any, options: Mapping[str, Any]) -> tuple[float | None, datetime | None]:
    """When a call expires: seconds from the enqueue, or a moment; both are None when it does not."""
    expires = options.get("expires")
    if expires is None:
        return None, None
    if isinstance(expires, timedelta):
        expires = expires.total_seconds()
    if isinstance(expires, int | float):
        return float(expires), None
    return None, _moment(app, expires)


def _moment(app: Any, value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is no moment. Give a datetime, or a string in ISO 8601.") from None
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no moment. Give a datetime, or a string in ISO 8601.")
    aware: datetime = maybe_make_aware(value, app.timezone)
    return min(aware, END_OF_TIME)
