"""Reading times that are written in ISO 8601, as Celery did before Python could; new code has `datetime.fromisoformat`."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone, tzinfo

__all__ = ("parse_iso8601",)

_ISO8601 = re.compile(
    r"(?P<year>\d{4})-(?P<month>\d{1,2})-(?P<day>\d{1,2})"
    r"(?:.(?P<hour>\d{2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?:\.(?P<fraction>\d+))?)?"
    r"(?P<zone>Z|[-+]\d{2}:\d{2})?)?"
)


def parse_iso8601(datestring: str) -> datetime:
    """Read the time at the start of a string, aware if it names a zone; raises ValueError when there is none."""
    found = _ISO8601.match(datestring)
    if found is None:
        raise ValueError(f"unable to parse date string {datestring!r}")
    parts = found.groupdict()
    year, month, day, hour, minute, second = (
        int(parts[name] or 0) for name in ("year", "month", "day", "hour", "minute", "second")
    )
    microsecond = int((parts["fraction"] or "").ljust(6, "0")[:6])
    return datetime(year, month, day, hour, minute, second, microsecond, _zone(parts["zone"]))


def _zone(text: str | None) -> tzinfo | None:
    if text is None:
        return None
    hours, minutes = (0, 0) if text == "Z" else (int(text[1:3]), int(text[4:6]))
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)
