"""A worker that dies right before, or right after, every single statement that a workflow makes it send.

The statements are counted in a run without trouble; then there is one run per statement and side of it. Every run must come
to the same end, with every recorded step once, every child once, and no effect oftener than its step could be lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pgtasks.message import id_of
from pgtasks.store import runs
from tests.workflow import flows
from tests.workflow.conftest import Desk

EXPECTED = [1, 2, 8, 2, 4, [3, 4], "went", 2, 10]


#: Statements of the test itself, or with their own tests.
NOT_A_RUNS = {"tick", "reap", "enlist", "signal", "fetch", "enqueue_one"}


class Died(BaseException):
    """The worker is gone, at this very place."""


class Wire:
    """Counts the statements to the database, and breaks at one of them."""

    def __init__(self, desk: Desk) -> None:
        self.database = desk.app.database
        self.sent: list[str] = []
        self.breaks_at: int | None = None
        self.breaks_on: str | None = None
        self.is_after = False

    def _pass(self, name: str, send: Callable[[], Any]) -> Any:
        at = len(self.sent)
        self.sent.append(name)
        if at != self.breaks_at and name != self.breaks_on:
            return send()
        self.breaks_at = self.breaks_on = None
        if self.is_after:
            send()
        raise Died(name)

    @contextmanager
    def tapped(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        run = self.database.run
        with monkeypatch.context() as patch:
            patch.setattr(
                self.database,
                "run",
                lambda query, conn=None: self._pass(query.statement.name, lambda: run(query, conn)),
            )
            transact = self.database.transact
            patch.setattr(self.database, "transact", lambda work: self._pass("transact", lambda: transact(work)))
            for together in ("run_together", "run_at_once"):
                send = getattr(self.database, together)
                patch.setattr(
                    self.database,
                    together,
                    lambda *queries, send=send: self._pass(queries[0].statement.name, lambda: send(*queries)),
                )
            yield


def play(desk: Desk, wire: Wire, result: Any) -> None:
    """Work until nothing is left to do; a worker that dies is followed by another one."""
    for _ in range(12):
        try:
            while claims := desk.claim(1):
                outcome = desk.run(claims[0])
                if isinstance(outcome.value, bytes) and b"Died" in outcome.value:
                    raise Died
                desk.settle(outcome)
        except Died:
            desk.die()
            continue
        if desk.standing(result) == ["SUCCESS"]:
            return
        if "wait go" in [name for name, state, _ in desk.steps(result) if state == "PENDING"]:
            result.signal("go", "went", key="once")
        desk.travel(61)


def scene(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, flow: Any, breaks_at: int | None, is_after: bool
) -> tuple[Any, Wire]:
    path = desk.stage.directory / f"tries-{flow.name}-{breaks_at}-{is_after}"
    result = flow.delay(str(path))
    if flow is flows.everything_else:
        for answer in ("again", "on"):
            result.signal("round", answer)
    wire = Wire(desk)
    wire.breaks_at, wire.is_after = breaks_at, is_after
    with wire.tapped(monkeypatch):
        play(desk, wire, result)
    return result, wire


def judge(desk: Desk, flow: Any, result: Any) -> None:
    result._cache = None
    value = result.get(timeout=0)
    if flow is flows.everything:
        assert value[:7] == EXPECTED[:7]
        assert value[8] == EXPECTED[8]
    else:
        assert value[:3] == [7, 7, 8]
    assert desk.standing(result) == ["SUCCESS"]
    steps = desk.conn.execute(
        "SELECT name, ordinal FROM pgtasks.step WHERE run = %s AND state = 'SUCCESS'", [id_of(result.id)]
    ).fetchall()
    assert len(steps) == len(set(steps))
    children = desk.conn.execute(
        "SELECT count(*) FROM pgtasks.message WHERE parent = %s", [id_of(result.id)]
    ).fetchone()
    assert children == (4,) if flow is flows.everything else children in {(2,), (3,)}
    effects = Counter((line["name"], str(line.get("values")), line.get("key")) for line in desk.stage.lines("effect")
                      if line["name"] != "flaky")  # fmt: skip
    # A task may be sent twice by this run, and one of the two is lost with its worker.
    assert all(count <= (3 if name == "packed" else 2) for (name, *_), count in effects.items())
    for table in ("claim", "ready", "scheduled", "waiting"):
        assert desk.conn.execute(f"SELECT count(*) FROM pgtasks.{table}".encode()).fetchone() == (0,), table


def clean(desk: Desk) -> None:
    desk.stage.journal.write_text("")
    for table in ("message", "result", "step", "signal", "awaited", "divergence", "unique_key"):
        desk.conn.execute(f"DELETE FROM pgtasks.{table}".encode())


def enumerate_crashes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, flow: Any, chosen: Callable[[int, str], bool]
) -> int:
    result, wire = scene(desk, monkeypatch, flow, None, False)
    judge(desk, flow, result)
    count = 0
    for at, name in enumerate(wire.sent):
        for is_after in (False, True):
            if name not in NOT_A_RUNS and chosen(at, name):
                clean(desk)
                result, _ = scene(desk, monkeypatch, flow, at, is_after)
                judge(desk, flow, result)
                count += 1
    return count


@pytest.mark.parametrize(
    ("flow", "must_be"),
    [
        (flows.everything, {"remember", "adopt", "suspend", "recall", "receive", "collect", "amend", "claim", "settle"}),
        (flows.everything_else, {"restart", "transact", "forget_failure"}),
    ],
    ids=["everything", "everything else"],
)
def test_a_worker_that_dies_at_one_statement_of_each_kind_is_survived(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, flow: Any, must_be: set[str]
) -> None:
    kinds: dict[str, int] = {}

    def first_of_kind(at: int, name: str) -> bool:
        return name in must_be and kinds.setdefault(name, at) == at

    assert enumerate_crashes(desk, monkeypatch, flow, first_of_kind) >= 2 * len(must_be)
    assert must_be <= set(kinds)


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("statement", ["diverge", "postpone", "blame"])
def test_a_worker_that_dies_where_code_and_history_part_or_where_a_run_fails_is_survived(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, statement: str, is_after: bool
) -> None:
    result = flows.fails.delay() if statement == "blame" else flows.changing_strictly.delay()
    desk.drain()
    code = desk.stage.directory / "code.json"
    if statement == "blame":
        desk.app.database.run(runs.redrive([id_of(result.id)]))  # a run that fails, once more
    else:
        code.write_text('{"before": ["a", "c", "b"]}')
        result.signal("deployed")
    wire = Wire(desk)
    wire.breaks_on, wire.is_after = statement, is_after
    with wire.tapped(monkeypatch):
        (claim,) = desk.claim()
        with pytest.raises(Died):
            outcome = desk.run(claim)
            raise Died if b"Died" in (outcome.value or b"") else AssertionError(outcome)
    desk.die()
    code.unlink(missing_ok=True)
    desk.drain()
    desk.travel(61)
    desk.drain()

    assert desk.standing(result) == ["FAILURE" if statement == "blame" else "SUCCESS"]
    done = Counter(desk.effects())
    assert all(count == 1 for name, count in done.items() if name != "refuse")


@pytest.mark.chaos
@pytest.mark.parametrize("flow", [flows.everything, flows.everything_else], ids=["everything", "everything else"])
def test_a_worker_that_dies_at_any_statement_is_survived(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, flow: Any
) -> None:
    assert enumerate_crashes(desk, monkeypatch, flow, lambda at, name: True) > 20
