"""A plain chain has a statement of its own, `enqueue_line`, which leaves exactly what `enqueue` would."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgtasks.exceptions import TaskSentBefore
from pgtasks.message import Message, new_id
from pgtasks.store import fleet, tasks
from pgtasks.store.database import Database
from tests.support.hands import Hand, done, ids, message, standing
from tests.support.links import plan
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]

PLAIN = [message("first"), message("second", inputs="value"), message("third", inputs="none")]
RICH = [
    message(
        name, id=new_id(), queue=f"queue {name}", priority=place, inputs="value" if place else None, root=new_id(),
        parent=new_id(), group_id="group", task_id=f"own {name}", max_deliveries=2 + place,
        expires=datetime.now(UTC) + timedelta(days=1 + place), content_type="application/x-yaml", content_encoding="utf-8",
        options=b"{}", payload=b"[[], {}, {}]",
    )
    for place, name in enumerate(("first", "second"))
]  # fmt: skip


def links(messages: list[Message]) -> Any:
    return plan(*zip(messages, messages[1:], strict=False))


def anew(messages: list[Message]) -> list[Message]:
    return [replace(each, id=new_id()) for each in messages]


def is_line(messages: list[Message], edges: Any, **options: Any) -> bool:
    return tasks.enqueue(messages, edges, **options).statement.name == "enqueue_line"


def tables(conn: Conn, messages: list[Message]) -> list[Any]:
    """What the tables say of them, without what is never twice the same: ids as places in the chain."""
    own = ids(messages)

    def rows(table: str, columns: str, key: str = "id") -> list[Any]:
        found = conn.execute(
            f"SELECT array_position(%(own)s::uuid[], {key}), {columns} FROM pgtasks.{table}"
            f" WHERE {key} = ANY (%(own)s::uuid[]) ORDER BY 1",
            {"own": own},
        )
        return found.fetchall()

    return [
        rows("message", "priority, max_deliveries, has_successors, inputs, trigger, root, parent, due, countdown, expires, name,"
             " queue, task_id, group_id, content_type, content_encoding, options, payload"),
        rows("waiting", "pending, delivery"),
        rows("ready", "queue, rank, delivery"),
        rows("edge", "position", "succ"),
        rows("edge", "position", "pred"),
    ]  # fmt: skip


@pytest.mark.parametrize("messages", [PLAIN, RICH], ids=["plain", "rich"])
def test_it_leaves_what_enqueue_leaves(database: Database, conn: Conn, messages: list[Message]) -> None:
    line, other = anew(messages), anew(messages)
    assert is_line(line, links(line))

    database.run(tasks.enqueue(line, links(line)))
    # One more task beside it, and it is no line any more.
    database.run(tasks.enqueue([*other, message("beside")], links(other)))

    assert tables(conn, line) == tables(conn, other)


def test_what_expires_in_a_while_expires_then(database: Database, conn: Conn) -> None:
    line = [message("first", expires_in_s=3600.0), message("second", inputs="value")]

    database.run(tasks.enqueue(line, links(line)))

    (row,) = conn.execute(
        "SELECT expires BETWEEN now() + '59 minutes' AND now() + '61 minutes' FROM pgtasks.message WHERE expires IS NOT NULL"
    )
    assert row == (True,)


def test_it_runs_link_by_link(database: Database, hand: Hand, conn: Conn) -> None:
    line = anew(PLAIN)

    database.run(tasks.enqueue(line, links(line)))

    for each in line:
        (claim,) = hand.claim()
        assert claim.id == each.id
        hand.settle(done(claim))
    assert [standing(conn, each) for each in line] == [["SUCCESS"]] * 3


def test_sent_twice_since_the_answer_was_lost_it_is_one_chain(database: Database, hand: Hand, conn: Conn) -> None:
    line = anew(PLAIN)

    for _ in range(2):
        database.run(tasks.enqueue(line, links(line)))

    assert [standing(conn, each) for each in line] == [["ready"], ["waiting"], ["waiting"]]
    for _ in line:
        (claim,) = hand.claim()
        hand.settle(done(claim))
    database.run(tasks.enqueue(line, links(line)))
    assert [standing(conn, each) for each in line] == [["SUCCESS"]] * 3
    assert hand.claim() == []


@pytest.mark.parametrize("there", [0, 1, 2])
def test_a_chain_of_which_a_part_was_sent_before_is_refused_whole(database: Database, conn: Conn, there: int) -> None:
    line = anew(PLAIN)
    database.run(tasks.enqueue([replace(line[there], inputs=None)]))

    with pytest.raises(TaskSentBefore):
        database.run(tasks.enqueue(line, links(line)))

    assert [standing(conn, each) for each in line] == [["ready"] if place == there else [] for place in range(3)]


def test_two_that_send_the_same_chain_at_once_send_it_once(database: Database, conn: Conn) -> None:
    line = anew(PLAIN)

    at_once(*[lambda: database.run(tasks.enqueue(line, links(line)))] * 4)

    assert [standing(conn, each) for each in line] == [["ready"], ["waiting"], ["waiting"]]
    assert conn.execute("SELECT array_agg(pending) FROM pgtasks.waiting").fetchone() == ([1, 1],)


def test_it_wakes_an_idle_worker_of_the_first_queue(database: Database, hand: Hand, conn: Conn) -> None:
    line = [message("first", queue="near"), message("second", queue="far", inputs="value")]
    database.run(fleet.idle(hand.id, ["near"]))
    conn.execute(f'LISTEN "pgtasks_worker_{hand.id}"')

    database.run(tasks.enqueue(line, links(line)))

    assert [notice.payload for notice in conn.notifies(timeout=30, stop_after=1)] == ["ready"]


def test_whatever_is_out_of_the_ordinary_is_no_line() -> None:
    line = anew(PLAIN)
    first, second, third = line
    edges = links(line)

    assert is_line(line, edges)
    assert not is_line(line, edges, running=[new_id()])
    assert not is_line(line, edges[:1])
    assert not is_line(line, edges[::-1])
    assert not is_line([first, third, second], edges)
    assert not is_line([first, second, first], links([first, second, first]))
    assert not is_line(line, [edges[0], edges[1]._replace(position=1)])
    assert not is_line(line, [edges[0], edges[1]._replace(pred=first.id)])
    for changes in ({"due": datetime.now(UTC)}, {"countdown_s": 1.0}, {"flow": ("flow", "key")}, {"trigger": "all_done"}):
        assert not is_line([first, second, replace(third, **changes)], edges)
        assert "trigger" in changes or not is_line([replace(first, **changes), second, third], edges)
    assert not is_line([first, second, replace(third, inputs="list")], edges)
    assert not is_line([replace(first, inputs="value"), second, third], edges)
