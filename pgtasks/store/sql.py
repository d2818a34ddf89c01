"""Named SQL statements, and the `Query`: a statement with its values, not yet run.

Each noun of the store has a `<noun>.sql` beside its `<noun>.py`. A statement there starts with `-- name: the_name`;
the comment lines that follow say what it does and why. Values are `%(name)s` parameters and nothing else.
A verb pairs a statement with values and says how its rows are read; it touches no connection, so the same verb serves
the sync and the async executor, a caller's own transaction and a pipeline.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Generic, NamedTuple, TypeVar
from uuid import UUID

T = TypeVar("T")
Row = tuple[Any, ...]

_HEADER = re.compile(r"^-- name: (?P<name>[a-z_]+)$", re.MULTILINE)
_PARAMETER = re.compile(r"%\((\w+)\)[sb]")


class Statement(NamedTuple):
    """One named statement of a `.sql` file; `doc` is its leading comment.

    `sql` has named parameters. `numbered` is the same with $1, $2, ... for the values of `names`: psycopg parses a
    long statement with named parameters at every use, which takes up to 200 us.
    """

    name: str
    sql: str
    doc: str
    numbered: bytes
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A statement with its values, and how to read the rows that come back."""

    statement: Statement
    values: Mapping[str, Any]
    read: Callable[[Sequence[Row]], T]


def load(noun: str) -> Mapping[str, Statement]:
    """Read the statements of `pgtasks/store/<noun>.sql`, by name."""
    text = files("pgtasks.store").joinpath(f"{noun}.sql").read_text(encoding="utf-8")
    pieces = _HEADER.split(text)[1:]
    return {name: _parse(name, body) for name, body in zip(pieces[::2], pieces[1::2], strict=True)}


def _parse(name: str, body: str) -> Statement:
    lines = body.strip().splitlines()
    start = next(i for i, line in enumerate(lines) if not line.startswith("--"))
    doc = "\n".join(line.removeprefix("--").strip() for line in lines[:start])
    sql = "\n".join(lines[start:]).rstrip().removesuffix(";")
    numbers = {parameter: number for number, parameter in enumerate(dict.fromkeys(_PARAMETER.findall(sql)), 1)}
    numbered = _PARAMETER.sub(lambda found: f"${numbers[found[1]]}", sql)
    return Statement(name, sql, doc, numbered.encode(), tuple(numbers))


def rows(found: Sequence[Row]) -> Sequence[Row]:
    """Read the rows as they are."""
    return found


def nothing(found: Sequence[Row]) -> None:
    """Read no rows."""


def count(found: Sequence[Row]) -> int:
    """Read the number in the first column of the only row."""
    return int(found[0][0]) if found else 0


def column(found: Sequence[Row]) -> list[Any]:
    """Read the first column."""
    return [row[0] for row in found]


def id_set(found: Sequence[Row]) -> set[UUID]:
    """Read the first column, ids, as a set."""
    return {row[0] for row in found}
