"""What the documentation asks of the views stays quick with many rows: the plans go by indexes."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from pgtasks.message import id_of
from pgtasks.store import runs
from tests.workflow import flows
from tests.workflow.conftest import Desk

MANY = 20_000

_FILL = """
INSERT INTO pgtasks.message (id, name, queue, payload, created_at)
  SELECT gen_random_uuid(), CASE WHEN i % 50 = 0 THEN 'shop.checkout' ELSE 'other' END, 'celery', '[]',
         now() - i * interval '1 minute'
  FROM generate_series(1, %(many)s) i;
INSERT INTO pgtasks.result (id, state, done_at)
  SELECT id, CASE WHEN random() < 0.1 THEN 'FAILURE' ELSE 'SUCCESS' END, created_at FROM pgtasks.message ORDER BY created_at;
INSERT INTO pgtasks.message (id, name, queue, payload)
  SELECT gen_random_uuid(), 'shop.checkout', 'celery', '[]' FROM generate_series(1, 50);
INSERT INTO pgtasks.scheduled (id, due, rank, queue, is_suspended)
  SELECT m.id, '9999-01-01', 0, 'celery', true FROM pgtasks.message m
  WHERE NOT EXISTS (SELECT FROM pgtasks.result r WHERE r.id = m.id);
INSERT INTO pgtasks.scheduled (id, due, rank, queue)
  SELECT gen_random_uuid(), now() + i * interval '1 minute', 0, 'celery' FROM generate_series(1, %(many)s) i;
INSERT INTO pgtasks.step (run, name, ordinal, seq, delivery, kind, state)
  SELECT id, 'charge', 0, 1, 1, 'step', 'SUCCESS' FROM pgtasks.message;
SELECT brin_summarize_new_values('pgtasks.result_done_at');
ANALYZE pgtasks.message, pgtasks.result, pgtasks.step, pgtasks.scheduled;
"""

QUERIES = {
    "failed runs of a workflow in the last hour": """
        SELECT id, done_at, error FROM pgtasks.failures
        WHERE name = 'shop.checkout' AND done_at > now() - interval '1 hour'""",
    "what is stuck, and on what": """
        SELECT id, name, since, waits_for, waits_for_tasks FROM pgtasks.suspended
        WHERE wakes_at IS NULL ORDER BY id LIMIT 20""",
    "the steps of a run": "SELECT * FROM pgtasks.steps WHERE run = '00000000-0000-0000-0000-000000000001'",
    "one run": "SELECT * FROM pgtasks.runs WHERE id = '00000000-0000-0000-0000-000000000001'",
    "the signals of a run": "SELECT * FROM pgtasks.signals WHERE run = '00000000-0000-0000-0000-000000000001'",
}


@pytest.fixture
def filled(desk: Desk) -> Desk:
    desk.conn.execute(_FILL.replace("%(many)s", str(MANY)).encode())
    return desk


@pytest.mark.parametrize("question", QUERIES)
def test_a_question_reads_a_small_part_of_the_tables(filled: Desk, question: str) -> None:
    assert read(filled.conn, QUERIES[question]) < MANY / 4


def test_the_views_for_operators_go_by_their_indexes(filled: Desk) -> None:
    plans = [
        str(filled.conn.execute(f"EXPLAIN (FORMAT JSON) {QUERIES[question]}".encode()).fetchone())
        for question in ("failed runs of a workflow in the last hour", "what is stuck, and on what")
    ]

    assert "result_failed" in plans[0]
    assert "scheduled_suspended" in plans[1]


def test_a_suspended_run_is_shown_with_what_it_waits_for(desk: Desk) -> None:
    signalled, parent = flows.waiter.delay("go"), flows.parent.delay(1)
    for claim in desk.claim():
        desk.settle(desk.run(claim))

    rows = desk.conn.execute("SELECT id, waits_for, waits_for_tasks FROM pgtasks.suspended ORDER BY id").fetchall()

    assert [row[0] for row in rows] == [id_of(signalled.id), id_of(parent.id)]
    assert rows[0][1] == ["go"]
    assert [each.partition(" ")[0] for each in rows[1][2]] == ["tests.workflow.flows.add"]
    assert rows[1][2][0].endswith("READY")


def test_a_failed_run_is_shown_with_its_error(desk: Desk) -> None:
    result = flows.fails.delay()
    desk.drain()

    row = desk.conn.execute("SELECT id, name, error FROM pgtasks.failures").fetchone()

    assert row is not None
    assert row[:2] == (id_of(result.id), "tests.workflow.flows.fails")
    assert "for good" in row[2]


def test_a_list_of_what_failed_lately_reads_a_small_part_of_the_tables(filled: Desk) -> None:
    row = filled.conn.execute("SELECT now() - interval '1 hour'").fetchone()
    assert row is not None
    query = runs.find(["shop.checkout"], ["FAILURE"], row[0])

    assert read(filled.conn, query.statement.sql.replace("%(names)b", "%(names)s"), dict(query.values)) < MANY / 4


def read(conn: psycopg.Connection[Any], query: str, values: Any = None) -> int:
    """How many rows the scans of a query looked at."""
    row = conn.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) {query}".encode(), values).fetchone()
    assert row is not None
    return sum(_looked_at(row[0][0]["Plan"]))


def _looked_at(plan: dict[str, Any]) -> list[int]:
    own = []
    if plan["Node Type"].endswith("Scan") and "Relation Name" in plan:
        removed = plan.get("Rows Removed by Filter", 0) + plan.get("Rows Removed by Index Recheck", 0)
        own = [(plan["Actual Rows"] + removed) * plan["Actual Loops"]]
    return own + [count for child in plan.get("Plans", ()) for count in _looked_at(child)]
