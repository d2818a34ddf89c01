"""Workers whose children are killed at the very statement of a workflow, by a proxy on the way: a peer finishes everything.

One run per kind of statement and side of it; every child exactly once, every step recorded once, the run ended. Run by
`pytest -m chaos`; the same in one process, statement by statement, is in test_crash_points.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.message import id_of
from tests.support.hands import standing
from tests.support.proxy import FaultProxy
from tests.support.workers import STUCK_S, Stage, WorkerProcess, eventually, running
from tests.workflow import flows

pytestmark = pytest.mark.chaos

#: A part of each statement, by which the proxy knows it.
STATEMENTS = {
    "remember": b"SELECT is_cancelled FROM fence",
    "adopt": b"'child'",
    "collect": b"'get'",
    "receive": b"first AS MATERIALIZED",
    "suspend": b"pgtasks.suspend(",
    "recall": b"due <= pgtasks.clock(), source",
    "settle": b"let_go AS",
}
#: Those that the parent sends.
OF_THE_PARENT = {"settle"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_worker_killed_at(
    statement: str, when: str, stage: Stage, tmp_path: Path, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    flows.app.conf.database_url = database_url
    results = [flows.everything.delay(str(tmp_path / f"tries-{n}")) for n in range(3)]
    for result in results:
        result.signal("go", "went")
    with FaultProxy(database_url) as proxy:
        doomed = WorkerProcess(
            tmp_path / "doomed", module="tests.workflow.flows", concurrency=2, conf={"worker_lease": 1},
            environ={"PGTASKS_DATABASE_URL": proxy.url},
        )  # fmt: skip
        try:
            doomed.await_ready()
            sprung = getattr(proxy, when)(STATEMENTS[statement], _killer(doomed, statement in OF_THE_PARENT))
            _hurry(conn, sprung.is_set)
            doomed.kill()
            with running(tmp_path / "heir", module="tests.workflow.flows", conf={"worker_lease": 1}):
                _hurry(conn, lambda: all(standing(conn, id_of(each.id)) == ["SUCCESS"] for each in results))
        finally:
            doomed.kill()
            flows.app._close_parts()

    assert [result.get(timeout=STUCK_S)[6] for result in results] == ["went"] * 3
    made = conn.execute(
        "SELECT parent, count(*) FROM pgtasks.message WHERE parent IS NOT NULL GROUP BY parent"
    ).fetchall()
    assert sorted(made) == sorted((id_of(result.id), 4) for result in results)
    assert conn.execute("SELECT count(*) FROM pgtasks.claim").fetchone() == (0,)


def _killer(worker: WorkerProcess, whole: bool) -> Callable[[], None]:
    def strike() -> None:
        try:
            if whole:
                os.killpg(worker.pid, signal.SIGKILL)
            else:
                for pid in worker.children():
                    os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    return strike


def _hurry(conn: psycopg.Connection[Any], is_done: Callable[[], bool]) -> None:
    """Wait for something, while time passes quickly for what waits."""

    def look() -> bool:
        for table in ("scheduled", "step"):
            conn.execute(f"UPDATE pgtasks.{table} SET due = due - interval '9 s' WHERE due < '9999-01-01'".encode())
        return is_done()

    eventually(look)
