"""Tasks that are sent, run or ended twice under one id: what waits for them is counted down once, and never hangs."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgtasks.exceptions import TaskSentBefore
from pgtasks.message import Message, new_id
from pgtasks.store import graphs, tasks
from pgtasks.store.database import Database
from tests.support.hands import NOBODY, Hand, back, done, ids, message, standing
from tests.support.links import Link, plan
from tests.support.threads import at_once

Conn = psycopg.Connection[Any]
REVOKED = b'{"exc_type": "TaskRevokedError"}'


def chord(database: Database) -> tuple[Message, Message, Message]:
    """Two tasks and a body that waits for both, enqueued."""
    first, second, body = message("first"), message("second"), message("body", inputs="list")
    database.run(tasks.enqueue([first, second, body], plan((first, body), (second, body))))
    return first, second, body


def pending(conn: Conn, body: Message) -> int | None:
    row = conn.execute("SELECT pending FROM pgtasks.waiting WHERE id = %s", [body.id]).fetchone()
    return None if row is None else row[0]


def sent_anew(database: Database, *messages: Message, links: Any = ()) -> list[Any]:
    ids_of = ids(messages)
    return database.run_at_once(tasks.hold(ids_of), tasks.clear(ids_of), tasks.enqueue(messages, links))


def redriven(database: Database, canvas: list[UUID]) -> int:
    return database.run_together(tasks.hold(canvas), graphs.redrive(canvas, canvas))[-1]


def test_a_task_that_another_canvas_waits_for_is_not_run_again_before_that_has_ended(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}
    hand.settle(done(claims[first.id]))

    sent_anew(database, first)
    hand.settle(*map(done, hand.claim()))

    assert pending(conn, body) == 1
    assert standing(conn, first) == ["SUCCESS"]
    hand.settle(done(claims[second.id]))
    hand.settle(*map(done, hand.claim()))
    assert standing(conn, body) == ["SUCCESS"]
    sent_anew(database, first)
    assert standing(conn, first) == ["ready"]


def test_a_canvas_with_a_task_that_another_one_waits_for_is_refused(database: Database, hand: Hand, conn: Conn) -> None:
    first, _, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}
    hand.settle(done(claims[first.id]))
    after = message("after", inputs="value")

    with pytest.raises(TaskSentBefore):
        sent_anew(database, first, after, links=plan((first, after)))

    assert standing(conn, after) == []
    assert (standing(conn, first), pending(conn, body)) == (["SUCCESS"], 1)


def test_a_task_that_was_ended_from_outside_is_not_sent_anew_while_it_runs(
    database: Database, hand: Hand, conn: Conn
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    database.run(tasks.store(task.id, "FAILURE", value=b"1"))

    sent_anew(database, task)
    assert standing(conn, task) == ["claimed", "FAILURE"]

    hand.settle(done(claim))
    sent_anew(database, task)
    assert standing(conn, task) == ["ready"]


def test_a_revoked_task_that_a_worker_takes_at_this_moment_is_not_sent_anew(
    database: Database, hand: Hand, conn: Conn, database_url: str
) -> None:
    task = message()
    database.run(tasks.enqueue([task]))
    database.run(tasks.revoke([task.id], REVOKED))
    with psycopg.connect(database_url) as taking:
        database.run(tasks.claim(hand.id, [tasks.Lane("celery")], 1, max_deliveries=5), taking)

        def commit() -> None:
            wait_for_lock(conn)
            taking.commit()

        at_once(lambda: sent_anew(database, task), commit)

    assert standing(conn, task) == ["claimed", "REVOKED"]


def wait_for_lock(conn: Conn) -> None:
    for _ in range(100_000):
        waiting = conn.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
        if waiting != (0,):
            return
    raise AssertionError("Nobody waits for a lock.")


def test_a_redrive_of_what_was_revoked_in_the_queue_leaves_each_task_in_one_place(
    database: Database, hand: Hand, conn: Conn
) -> None:
    tasks_of = chord(database)
    canvas = ids(tasks_of)
    database.run(tasks.revoke(canvas, REVOKED))

    assert redriven(database, canvas) == 3

    assert [standing(conn, each) for each in tasks_of] == [["ready"], ["ready"], ["waiting"]]
    hand.settle(*map(done, hand.claim()))
    assert ids(hand.claim()) == [tasks_of[2].id]


def test_a_canvas_is_not_redriven_while_a_task_that_was_ended_from_outside_still_runs(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}
    for each in (first, second, body):
        database.run(tasks.store(each.id, "FAILURE", value=b"1"))
    hand.settle(done(claims[first.id]))
    canvas = ids([first, second, body])

    assert redriven(database, canvas) == 0

    assert standing(conn, second) == ["claimed", "FAILURE"]


def test_a_member_that_ended_before_it_joined_does_not_hold_up_the_body(database: Database, hand: Hand, conn: Conn) -> None:
    member = message("member")
    database.run(tasks.enqueue([member]))
    hand.settle(*map(done, hand.claim()))
    first, _, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}
    mine = claims[first.id]

    join = tasks.join_chord(hand.id, mine.delivery, mine.id, member.id)
    with pytest.raises(TaskSentBefore):
        database.run_together(join, tasks.enqueue([member], [Link(mine.id, member.id)], running=[mine.id]))
    assert pending(conn, body) == 2

    database.run_at_once(
        tasks.hold([member.id]),
        tasks.clear([member.id]),
        join,
        tasks.enqueue([member], [Link(mine.id, member.id)], running=[mine.id]),
    )
    assert pending(conn, body) == 3
    hand.settle(*map(done, claims.values()))
    hand.settle(*map(done, hand.claim()))
    assert ids(hand.claim()) == [body.id]


def test_a_worker_that_lost_its_task_adds_nothing_to_the_chord(database: Database, hand: Hand, conn: Conn) -> None:
    first, second, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}
    mine = claims[first.id]
    hand.settle(back(mine))
    (newer,) = hand.claim()

    assert database.run(tasks.join_chord(hand.id, mine.delivery, mine.id, new_id())) == 0
    assert database.run(tasks.join_chord(NOBODY, newer.delivery, mine.id, new_id())) == 0

    assert pending(conn, body) == 2
    hand.settle(done(newer), done(claims[second.id]))
    assert ids(hand.claim()) == [body.id]


def test_a_replacement_whose_steps_ended_before_does_not_wait_for_them(database: Database, hand: Hand, conn: Conn) -> None:
    step = message("step")
    database.run(tasks.enqueue([step]))
    hand.settle(*map(done, hand.claim()))
    task = message()
    database.run(tasks.enqueue([task]))
    (claim,) = hand.claim()
    other = message("other", id=task.id, inputs="value")
    replace = tasks.replace(hand.id, claim.delivery, other, [step.id])

    with pytest.raises(TaskSentBefore):
        database.run_together(replace, tasks.enqueue([step], [Link(task.id, step.id)], running=[task.id]))

    assert standing(conn, task) == ["claimed"]


def test_a_task_is_not_sent_anew_while_what_was_ended_from_outside_still_waits_for_others(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}
    hand.settle(done(claims[first.id]))
    database.run(tasks.store(body.id, "FAILURE", value=b"1"))

    sent_anew(database, first)
    assert standing(conn, first) == ["SUCCESS"]

    # Both at once, the second end of the first would have counted for the body below nothing.
    hand.settle(done(claims[second.id]), *map(done, hand.claim()))
    assert not pending(conn, body)
    hand.settle(*map(done, hand.claim()))
    sent_anew(database, first)
    assert standing(conn, first) == ["ready"]


def test_a_task_that_is_sent_anew_is_no_part_of_its_last_canvas(database: Database, hand: Hand, conn: Conn) -> None:
    first, second, body = chord(database)
    for _ in range(2):
        hand.settle(*map(done, hand.claim()))
    after = message("after", inputs="value")

    sent_anew(database, first, after, links=plan((first, after)))

    assert {node.id for node in database.run(graphs.graph(first.id))} == {first.id, after.id}
    old = {node.id: node for node in database.run(graphs.graph(body.id))}
    # The body still knows that it had two inputs, one of which is gone.
    assert old.keys() == {second.id, body.id}
    assert len(old[body.id].preds) == 2


def test_a_redrive_does_nothing_when_a_fork_was_made_that_does_not_wait_for_its_inputs(
    database: Database, hand: Hand, conn: Conn
) -> None:
    first, second, body = chord(database)
    hand.settle(*(done(claim, state="FAILURE") for claim in hand.claim()))
    hand.settle(*(done(claim) for claim in hand.claim()))
    seen = [first.id, second.id, body.id]
    own, fork = message("own"), message("fork", inputs="list")
    database.run(tasks.enqueue([own, fork], plan((own, fork), (first, fork))))

    assert redriven(database, seen) == 0
    assert standing(conn, first) == ["FAILURE"]


def test_two_tasks_that_add_to_their_chord_at_the_same_moment_both_do(
    database: Database, hand: Hand, conn: Conn, database_url: str
) -> None:
    first, second, body = chord(database)
    claims = {claim.id: claim for claim in hand.claim()}

    def joining(task: Message) -> list[Any]:
        added, delivery = message("added"), claims[task.id].delivery
        join = tasks.join_chord(hand.id, delivery, task.id, added.id)
        return [graphs.lock_bodies(task.id), join, tasks.enqueue([added], plan((added, task)), running=[task.id])]

    with psycopg.connect(database_url) as adding:
        for query in joining(first):
            database.run(query, adding)

        def commit() -> None:
            wait_for_lock(conn)
            adding.commit()

        at_once(lambda: database.run_together(*joining(second)), commit)

    assert pending(conn, body) == 4
    (found,) = (node for node in database.run(graphs.graph(body.id)) if node.id == body.id)
    assert found.positions == [0, 1, 2, 3]
