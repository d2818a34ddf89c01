"""Reads the fields of a crontab.

    field  ::= part ("," part)*
    part   ::= span ("/" step)?
    span   ::= "*" | number | number "-" number        a range may wrap around: "22-2"
    number ::= digits | name                           "mon", "monday", "jan", ...

`ParseException` is for what is not of this form, ValueError for numbers out of range.
"""

import re
from typing import Any

from pgtasks.utils.time import weekday, yearmonth

__all__ = ("ParseException", "crontab_parser")


class ParseException(Exception):
    """The field is not of a form a crontab can have."""


_RANGE = re.compile(r"(\w+?)-(\w+)")
_RANGE_STEPS = re.compile(r"(\w+?)-(\w+)/(\w+)?")
_STAR_STEPS = re.compile(r"\*/(\w+)?")


class crontab_parser:
    """Expands a field to the numbers it stands for: from `min_`, `max_` of them.

    `crontab_parser(60).parse("*/15")` is {0, 15, 30, 45}; `crontab_parser(12, 1)` is for months.
    """

    ParseException = ParseException

    def __init__(self, max_: int = 60, min_: int = 0) -> None:
        self.max_ = max_
        self.min_ = min_

    def parse(self, spec: str) -> set[int]:
        """Return the numbers `spec` stands for."""
        numbers: set[int] = set()
        for part in spec.split(","):
            if not part:
                raise self.ParseException("empty part")
            numbers.update(self._parse_part(part))
        return numbers

    def _parse_part(self, part: str) -> list[int]:
        if found := _RANGE_STEPS.match(part):
            return self._range(found[1], found[2])[:: self._step(found[3])]
        if found := _RANGE.match(part):
            return self._range(found[1], found[2])
        if found := _STAR_STEPS.match(part):
            return self._everything()[:: self._step(found[1])]
        return self._everything() if part == "*" else [self._number(part)]

    def _everything(self) -> list[int]:
        return list(range(self.min_, self.max_ + self.min_))

    def _range(self, start: str, end: str) -> list[int]:
        first, last = self._number(start), self._number(end)
        if last < first:
            return [*range(first, self.min_ + self.max_), *range(self.min_, last + 1)]
        return list(range(first, last + 1))

    def _step(self, text: Any) -> int:
        if not text:
            raise self.ParseException("empty filter")
        return int(text)

    def _number(self, text: str) -> int:
        if text.startswith("-"):
            raise self.ParseException("negative numbers not supported")
        number = _named_number(text)
        last = self.min_ + self.max_ - 1
        if number > last:
            raise ValueError(f"Invalid end range: {number} > {last}.")
        if number < self.min_:
            raise ValueError(f"Invalid beginning range: {number} < {self.min_}.")
        return number


def _named_number(text: str) -> int:
    """Read digits, or the name of a month or a weekday."""
    for read in (int, yearmonth, weekday):
        try:
            return read(text)
        except (ValueError, KeyError):
            continue
    raise ValueError(f"Invalid weekday literal {text!r}.")
