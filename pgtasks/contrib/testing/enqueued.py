"""What was called and has not ended: `enqueued`, `assert_enqueued`, `assert_not_enqueued`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgtasks.serialization import decode
from pgtasks.store import overview

__all__ = ("Enqueued", "assert_enqueued", "assert_not_enqueued", "enqueued")

_ANY: Any = object()


class Enqueued(NamedTuple):
    """A call that waits, or runs."""

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    id: str
    queue: str
    priority: int
    due: datetime | None
    state: str
    group_id: str | None

    def __str__(self) -> str:
        given = [*map(repr, self.args), *(f"{key}={value!r}" for key, value in self.kwargs.items())]
        return f"{self.name}({', '.join(given)}) in {self.queue!r}, priority {self.priority}, {self.state}"


def enqueued(app: Any, task: Any = None, *, conn: Any = None, using: Any = None) -> list[Enqueued]:
    """The calls that have not ended, the oldest first; those of one task, given as itself or by its name.

    `conn=`, or `using=` for a Django alias, is the transaction whose own calls are to be seen too.
    """
    found = app.database.run(overview.unended(), using if conn is None else conn)
    calls = [_call(row) for row in found]
    return calls if task is None else [call for call in calls if call.name == getattr(task, "name", task)]


def _call(row: overview.Unended) -> Enqueued:
    # Written by this very test: whatever its serializer is, it may be read.
    args, kwargs, *_ = decode(row.payload, row.content_type, row.content_encoding, None)
    return Enqueued(
        row.name, tuple(args), kwargs, row.public_id, row.queue, row.priority, row.due, row.state, row.group_id
    )


def assert_enqueued(
    app: Any,
    task: Any,
    args: Sequence[Any] = _ANY,
    kwargs: dict[str, Any] = _ANY,
    *,
    count: int | None = None,
    conn: Any = None,
    using: Any = None,
    **attributes: Any,
) -> Enqueued:
    """Assert that a task was called, as often as `count` says or at least once; gives the first such call.

    What is given must fit: arguments, and attributes of `Enqueued` (queue, priority, due, state, ...).
    """
    calls = enqueued(app, task, conn=conn, using=using)
    fitting = [call for call in calls if _fits(call, args, kwargs, attributes)]
    if len(fitting) == count or (fitting and count is None):
        return fitting[0] if fitting else None  # type: ignore[return-value]  # only with count=0
    wanted = {"args": args, "kwargs": kwargs, **attributes}
    said = ", ".join(f"{name}={value!r}" for name, value in wanted.items() if value is not _ANY)
    often = "at least once" if count is None else f"{count} times"
    raise AssertionError(
        f"{getattr(task, 'name', task)}({said}) should be enqueued {often}, and is {len(fitting)} times.\n"
        + _listed(enqueued(app, conn=conn, using=using))
    )


def assert_not_enqueued(app: Any, task: Any = None, *, conn: Any = None, using: Any = None) -> None:
    """Assert that a task, or any, does not wait."""
    if calls := enqueued(app, task, conn=conn, using=using):
        raise AssertionError(f"{getattr(task, 'name', task) or 'Nothing'} should not be enqueued.\n{_listed(calls)}")


def _fits(call: Enqueued, args: Any, kwargs: Any, attributes: dict[str, Any]) -> bool:
    return (
        (args is _ANY or tuple(call.args) == tuple(args))
        and (kwargs is _ANY or call.kwargs == kwargs)
        and all(getattr(call, name) == value for name, value in attributes.items())
    )


def _listed(calls: Sequence[Enqueued]) -> str:
    return "\n".join(["What is enqueued:", *(f"  {call}" for call in calls)]) if calls else "Nothing is enqueued."
