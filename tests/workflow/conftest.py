"""A worker worked by hand, in this process: tests decide what happens between any two of its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks.execution import Site, execute
from pgtasks.message import Claim, Outcome, id_of
from pgtasks.store import fleet, tasks
from tests.support.hands import Hand, standing
from tests.support.workers import Stage
from tests.workflow import flows


class Desk:
    """Claims tasks and runs them, one after the other."""

    def __init__(self, conn: psycopg.Connection[Any], stage: Stage) -> None:
        self.app = flows.app
        self.conn = conn
        self.stage = stage
        self.hand = Hand(self.app.database)

    # -- working

    def claim(self, limit: int = 10) -> list[Claim]:
        return self.hand.claim(limit)

    def run(self, claim: Claim) -> Outcome:
        """Run a claimed task, and do not settle it."""
        return execute(Site(self.app, self.hand.id, "desk"), claim)

    def settle(self, outcome: Outcome) -> None:
        if outcome.kind != "gone":
            settle = tasks.settle(self.hand.id, "desk", [outcome])
            follow_ups = [tasks.enqueue(*batch) for batch in outcome.follow_ups]
            self.app.database.run_together(settle, *follow_ups)

    def turn(self) -> int:
        """Run what is ready now; gives how many tasks that were."""
        claims = self.claim()
        for claim in claims:
            self.settle(self.run(claim))
        return len(claims)

    def drain(self) -> int:
        """Run until nothing is ready; gives how many deliveries that took."""
        count = 0
        while ran := self.turn():
            count += ran
        return count

    def get(self, result: Any) -> Any:
        """Run until nothing is ready, and give what came of a task."""
        self.drain()
        return result.get(timeout=0)

    # -- trouble

    def die(self) -> None:
        """Lose this worker with all that it holds, and come back as another one."""
        self.conn.execute("DELETE FROM pgtasks.worker WHERE id = %s", [self.hand.id])
        self.app.database.run(fleet.reap())
        self.hand = Hand(self.app.database)

    def travel(self, seconds: float) -> None:
        """Let time pass for all that waits, and move what is due."""
        for table in ("scheduled", "step"):
            self.conn.execute(
                f"UPDATE pgtasks.{table} SET due = due - %s * interval '1 second' WHERE due < '9999-01-01'".encode(),
                [seconds],
            )
        self.hand.tick()

    # -- looking

    def standing(self, result: Any) -> list[str]:
        return standing(self.conn, id_of(result.id))

    def is_suspended(self, result: Any) -> bool:
        row = self.conn.execute(
            "SELECT is_suspended FROM pgtasks.scheduled WHERE id = %s", [id_of(result.id)]
        ).fetchone()
        return row is not None and bool(row[0])

    def steps(self, result: Any) -> list[tuple[Any, ...]]:
        """Name, state and value of each step, in order."""
        query = "SELECT name, state, value FROM pgtasks.steps WHERE run = %s ORDER BY seq, name"
        return self.conn.execute(query, [id_of(result.id)]).fetchall()

    def effects(self) -> list[str]:
        """What was done in the world outside, in order."""
        return [line["name"] for line in self.stage.lines("effect")]


@pytest.fixture
def desk(conn: psycopg.Connection[Any], database_url: str, stage: Stage) -> Iterator[Desk]:
    flows.app.conf.database_url = database_url
    yield Desk(conn, stage)
    flows.app._close_parts()
