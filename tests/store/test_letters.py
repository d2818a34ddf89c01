"""Letters to workers: whom they reach, and what becomes of those that nobody reads."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg

from pgtasks.store import fleet, letters, tasks
from pgtasks.store.database import Database
from pgtasks.store.letters import Letter, Reply
from pgtasks.store.listen import Doorbell
from tests.store.test_tasks import FUTURE
from tests.support.hands import Hand, message

Conn = psycopg.Connection[Any]
TICKET = UUID(int=7)


def letter(command: str = "ping", ticket: UUID | None = TICKET) -> Letter:
    return Letter(ticket, 1, command, None, None, b"{}")


def reply(hostname: str) -> Reply:
    return Reply(hostname, 1, None, None, b'{"ok":"pong"}')


def name_of(hand: Hand) -> str:
    return f"hand@{hand.id}"


def taken(database: Database, hand: Hand) -> list[str]:
    return [each.command for each in database.run(letters.take(hand.id))]


def test_a_letter_is_read_once_by_every_live_worker_and_tells_whom_it_reached(database: Database) -> None:
    hands = [Hand(database), Hand(database)]

    reached = database.run(letters.post(letter()))

    assert reached == sorted(map(name_of, hands))
    assert [taken(database, hand) for hand in hands] == [["ping"], ["ping"]]
    assert [taken(database, hand) for hand in hands] == [[], []]


def test_a_letter_to_one_worker_does_not_reach_another(database: Database) -> None:
    one, other = Hand(database), Hand(database)

    reached = database.run(letters.post(letter(), [name_of(one)]))

    assert reached == [name_of(one)]
    assert (taken(database, one), taken(database, other)) == (["ping"], [])


def test_nobody_waits_for_a_worker_whose_lease_is_over(database: Database, conn: Conn) -> None:
    Hand(database)
    conn.execute("UPDATE pgtasks.worker SET heartbeat_at = heartbeat_at - lease - interval '1 s'")

    assert database.run(letters.post(letter())) == []


def test_letters_are_read_in_the_order_they_were_posted(database: Database, hand: Hand) -> None:
    for command in ("first", "second", "third"):
        database.run(letters.post(letter(command)))

    assert taken(database, hand) == ["first", "second", "third"]


def test_a_worker_that_was_away_does_not_answer_a_question_that_nobody_waits_for(
    database: Database, hand: Hand, conn: Conn
) -> None:
    database.run(letters.post(letter("stale"), expires_in_s=60))
    conn.execute("UPDATE pgtasks.letter SET expires_at = expires_at - interval '61 s'")
    database.run(letters.post(letter("fresh"), expires_in_s=60))

    assert taken(database, hand) == ["fresh"]


def test_a_tick_tells_a_worker_that_has_not_heard_the_bell_of_its_letters(database: Database, hand: Hand) -> None:
    before = hand.tick().has_letters
    database.run(letters.post(letter()))

    assert (before, hand.tick().has_letters) == (False, True)


def test_replies_go_to_who_holds_the_ticket_and_ring_the_bell(database: Database) -> None:
    bell = Doorbell(database.url, f"pgtasks_ticket_{TICKET}")

    database.run(letters.answer(uuid4(), reply("stranger")))
    database.run(letters.answer(TICKET, reply("a")))
    database.run(letters.answer(TICKET, reply("b")))

    assert bell.rings(timeout_s=60)
    assert [each.hostname for each in database.run(letters.collect(TICKET))] == ["a", "b"]
    assert database.run(letters.collect(TICKET)) == []
    bell.close()


def test_what_nobody_reads_is_swept_away(database: Database, hand: Hand, conn: Conn) -> None:
    database.run(letters.post(letter()))
    database.run(letters.answer(TICKET, reply("late")))
    database.run(letters.answer(TICKET, reply("in time")))
    conn.execute("UPDATE pgtasks.reply SET at = at - interval '1 hour' WHERE hostname = 'late'")
    database.run(letters.sweep())
    still_there = taken(database, hand)
    database.run(letters.post(letter()))
    conn.execute("DELETE FROM pgtasks.worker")

    database.run(letters.sweep())

    assert still_there == ["ping"]
    assert conn.execute("SELECT count(*) FROM pgtasks.letter").fetchone() == (0,)
    assert [each.hostname for each in database.run(letters.collect(TICKET))] == ["in time"]


# -- what a worker tells of its queues


def test_of_all_workers_of_a_queue_only_one_tells_of_its_schedule(database: Database) -> None:
    mails = [Hand(database, queues=["mail"]), Hand(database, queues=["mail"])]
    elsewhere = Hand(database, queues=["other"])
    task = message(queue="mail", due=FUTURE)
    database.run(tasks.enqueue([task]))

    told = [database.run(fleet.agenda(hand.id, hand.queues)) for hand in (*mails, elsewhere)]

    assert sorted(map(len, told)) == [0, 0, 1]
    assert len(told[2]) == 0
    (claim,) = told[0] or told[1]
    assert (claim.id, claim.due) == (task.id, FUTURE)


def test_a_worker_with_other_queues_is_not_woken_for_the_old_ones(database: Database, conn: Conn) -> None:
    hand = Hand(database, queues=["old"])
    database.run(fleet.idle(hand.id, ["old"]))

    database.run(fleet.subscribe(hand.id, ["new"]))

    assert conn.execute("SELECT count(*) FROM pgtasks.idle").fetchone() == (0,)
    assert conn.execute("SELECT queues FROM pgtasks.worker").fetchone() == (["new"],)
