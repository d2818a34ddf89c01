"""The plan of a frequent statement, made once per connection, serves it whatever the tables hold by then.

The worst moment to make it is when the tables are empty and the planner knows that: of a join with an empty table it
makes one that reads all of it. So plans are made at that moment, and none may read a large table from end to end.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks.store import database
from pgtasks.store.sql import load
from tests.support import postgres

#: By file, the statements that are sent all the time, or by many.
FREQUENT = {
    "tasks": (
        *("enqueue_one", "enqueue", "enqueue_line", "enqueue_many", "claim", "finish", "settle", "release", "pass_on"),
        *("ack", "charge"),
        *("mark", "store", "fell"),
    ),
    "results": ("fetch", "ended"),
    "fleet": ("tick", "idle", "busy", "watch", "unwatch", "tell"),
}
#: Tables that grow with the backlog or with what has ended; also those that an old snapshot keeps full of dead rows.
LARGE = {"message", "result", "ready", "scheduled", "waiting", "edge", "claim", "progress", "waiter"}


@pytest.fixture(scope="module")
def known_to_be_empty(server_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection set up as pgtasks' own are, to a database of which the planner knows that it is empty."""
    template = postgres.make_template(server_url)
    with postgres.new_database(server_url, f"pgtasks_plans_{os.getpid()}", template) as url, database.connect(url) as conn:
        conn.execute("VACUUM (ANALYZE)")
        yield conn


@pytest.mark.parametrize(
    ("noun", "name"), [(noun, name) for noun, names in FREQUENT.items() for name in names], ids=lambda part: part
)
def test_a_plan_made_for_empty_tables_reads_no_table_from_end_to_end(
    known_to_be_empty: psycopg.Connection[Any], noun: str, name: str
) -> None:
    statement = load(noun)[name]
    conn = known_to_be_empty

    conn.execute(b"PREPARE planned AS " + statement.numbered)
    nulls = ", ".join(["NULL"] * len(statement.names))
    row = conn.execute(f"EXPLAIN (FORMAT JSON) EXECUTE planned({nulls})").fetchone()
    conn.execute("DEALLOCATE planned")

    assert row is not None
    assert list(_whole_reads(row[0][0]["Plan"])) == []


def _whole_reads(node: dict[str, Any]) -> Iterator[str]:
    """The large tables that a plan reads without a condition that an index helps with."""
    is_scan = node["Node Type"] in ("Seq Scan", "Index Scan", "Index Only Scan")
    if is_scan and node["Relation Name"] in LARGE and "Index Cond" not in node:
        yield f"{node['Node Type']} of {node['Relation Name']}, filter {node.get('Filter')}"
    for child in node.get("Plans", ()):
        yield from _whole_reads(child)
