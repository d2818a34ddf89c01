"""Defects on purpose: a judge that has never found anything has shown nothing.

Each one takes a safety away that pgtasks has; chaos runs with it must be found guilty.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pgtasks.app import builtins
from pgtasks.canvas import undoing
from pgtasks.exceptions import OperationalError
from pgtasks.message import new_id
from pgtasks.store import fleet, sql, tasks
from pgtasks.worker.consumer import Consumer
from tests.support import history


def _edit(statements: Any, name: str, old: str, new: str) -> None:
    statement = statements[name]
    assert old in statement.sql, f"the statement {name} has changed; so must the mutant"
    statements[name] = sql._parse(name, statement.sql.replace(old, new))


def unfenced() -> None:
    """Whoever comes with a result has it stored, whoever holds the task."""
    fence = "AND worker = %(worker)s\n    AND delivery = (%(deliveries)b::int[])[array_position(%(ids)b::uuid[], id)]"
    for name in ("settle", "release", "finish"):
        _edit(tasks._SQL, name, fence, "")
    _edit(tasks._SQL, "pass_on", "AND worker = %(worker)s AND delivery = %(delivery)s", "")


def forgetful() -> None:
    """Taking over from the dead loses what they held."""
    _edit(
        fleet._SQL,
        "reap",
        "FROM freed f JOIN pgtasks.message m ON m.id = f.id",
        "FROM freed f JOIN pgtasks.message m ON false",
    )


def greedy() -> None:
    """Takes tasks over from workers that live."""
    _edit(fleet._SQL, "reap", "heartbeat_at < pgtasks.clock() - lease", "true")


def newid() -> None:
    """A producer that does not know whether its task is there sends another one; see `to_try_again`."""


def hasty() -> None:
    """Bodies wait for the first of their header only."""
    for name in ("settle", "release"):
        _edit(tasks._SQL, name, "THEN 0 ELSE w.pending - l.n END", "THEN 0 ELSE 0 END")


def undo_anew() -> None:
    """Undos that are sent a second time, since the worker died before that was noted, get new ids."""
    undoing._derived = lambda sender, number: new_id(sender)
    send = builtins.send_undos

    def send_twice(*arguments: Any) -> Any:
        send(*arguments)
        return send(*arguments)

    builtins.send_undos = send_twice


def stutter() -> None:
    """Not a defect: every fifth outcome is sent a second time, as after a lost answer, and must change nothing."""
    step = Consumer.step

    def step_and_repeat(self: Consumer, outcomes: Any, *others: Any, **options: Any) -> Any:
        claims = step(self, outcomes, *others, **options)
        again = [outcome for outcome in outcomes if random.random() < 0.2]
        with suppress(OperationalError):
            settled = self.database.run(tasks.settle(self.worker, self.hostname, again)) if again else None
            if settled:
                history.note(os.environ["CHAOS_HISTORY"], "twice", ids=[str(each) for each in settled.ended])
        return claims

    Consumer.step = step_and_repeat  # type: ignore[method-assign]


_MUTANTS: dict[str, Callable[[], None]] = {
    "unfenced": unfenced, "forgetful": forgetful, "greedy": greedy, "hasty": hasty, "newid": newid,
    "undo_anew": undo_anew, "stutter": stutter,
}  # fmt: skip


def apply(name: str | None) -> None:
    """Take on a defect."""
    if name:
        _MUTANTS[name]()


def to_try_again(request: Any) -> Any:
    """Another try of what may be there already: the same, of course, under the same ids."""
    if os.environ.get("CHAOS_MUTANT") == "newid":
        return type(request)(request.shape, request.arguments, request=request.request)
    return request
