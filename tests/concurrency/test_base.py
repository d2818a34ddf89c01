"""The line between a worker and its children: what was sent and not begun can be taken back, and nothing else."""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Any

import pytest

from pgtasks.concurrency.base import Child, ChildOptions
from pgtasks.concurrency.line import Ended, Line, pack_claim, unpack_claim
from pgtasks.message import Claim, Outcome, new_id
from tests.support.workers import eventually


def claim(**fields: Any) -> Claim:
    values: dict[str, Any] = dict.fromkeys(Claim._fields)
    values |= {
        "id": new_id(), "delivery": 1, "retries": 0, "rank": 0, "seq": 1, "losses": 0, "fate": "live", "name": "job",
        "queue": "celery", "payload": b"[]", "has_successors": False,
    }  # fmt: skip
    return Claim._make({**values, **fields}.values())


class _Loader:
    def init_worker_process(self) -> None: ...


class _Log:
    def setup_pool_process(self) -> None: ...


class _Site:
    hostname = "tests@here"

    class app:
        loader = _Loader()
        log = _Log()


def serve(line: Line, site: Any, options: ChildOptions) -> int:
    """Take claims and report their payloads; one that says so ends the child."""
    while (taken := line.take()) is not None:
        number, claim = taken
        if claim.name == "exit":
            return 7
        if claim.name == "hang":
            signal.pause()
        line.report(Ended(number, Outcome(id=claim.id, delivery=claim.delivery, value=claim.payload), 0.0))
    return 0


@pytest.fixture
def child() -> Any:
    child = Child(serve, _Site(), ChildOptions(slots=1), lambda: None)
    yield child
    child.kill()
    try:
        child.bury()
    except ChildProcessError:
        pass


def ended(child: Child, count: int) -> list[Outcome]:
    outcomes: list[Outcome] = []

    def receive() -> bool:
        child.flush()
        outcomes.extend(report.outcome for report in child.receive() or () if isinstance(report, Ended))
        return len(outcomes) >= count

    eventually(receive)
    return outcomes


def test_a_claim_crosses_the_line_as_it_was() -> None:
    from datetime import UTC, datetime

    one = claim(
        due=datetime(2030, 1, 1, 12, 0, 0, 123456, tzinfo=UTC), root=new_id(), parent=new_id(), task_id="ä",
        payload=b"\0\xff" * 100, options=b"{}", input_values=[None, b"1"], input_types=[None, "x"],
    )  # fmt: skip

    assert unpack_claim(pack_claim(one)) == one
    assert unpack_claim(pack_claim(claim()._replace(id=one.id))) == claim()._replace(id=one.id)


def test_claims_are_run_in_their_order(child: Child) -> None:
    claims = [claim(payload=str(n).encode()) for n in range(200)]
    child.send(claims)

    assert [outcome.value for outcome in ended(child, 200)] == [each.payload for each in claims]
    assert not child.jobs


def test_a_payload_larger_than_every_buffer_gets_through_in_both_directions(child: Child) -> None:
    large = os.urandom(5_000_000)
    child.send([claim(payload=large), claim(payload=b"after")])

    assert [outcome.value for outcome in ended(child, 2)] == [large, b"after"]


def test_a_child_runs_many_short_tasks_while_its_parent_does_not_listen(child: Child) -> None:
    child.send([claim() for _ in range(1200)])

    eventually(lambda: len(child.begun()) == 1200, "it has begun all")

    assert len(ended(child, 1200)) == 1200


def test_what_has_not_been_begun_is_taken_back_and_what_has_been_is_not(child: Child) -> None:
    hanging, waiting = claim(name="hang"), [claim() for _ in range(50)]
    child.send([hanging])
    eventually(lambda: _is_begun(child), "the first has been begun")
    child.send(waiting)

    assert child.take_back() == waiting
    assert child.take_back() == []
    assert [job.claim for job in child.jobs.values()] == [hanging]


def _is_begun(child: Child) -> bool:
    try:
        return not child._tickets_read.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return True


def test_of_a_dead_child_everything_but_what_it_had_begun_comes_back(child: Child) -> None:
    last, rest = claim(name="exit"), [claim() for _ in range(20)]
    child.send([last, *rest])

    eventually(lambda: child.receive() is None)

    assert child.take_back() == rest
    assert [job.claim for job in child.jobs.values()] == [last]
    assert child.bury() == 7


def test_each_claim_is_either_run_or_taken_back_however_they_race(child: Child) -> None:
    claims = [claim() for _ in range(3000)]
    child.send(claims)
    back: list[Claim] = []
    outcomes: list[Outcome] = []
    while child.jobs:
        child.flush()
        outcomes += [report.outcome for report in child.receive() or () if isinstance(report, Ended)]
        back += child.take_back()[:]

    ids = [each.id for each in back] + [outcome.id for outcome in outcomes]
    assert sorted(ids) == sorted(each.id for each in claims)


def test_sending_to_a_dead_child_loses_nothing(child: Child) -> None:
    child.kill()
    eventually(lambda: child.receive() is None)
    claims = [claim(), claim()]

    child.send(claims)

    assert {*child.take_back(), *(job.claim for job in child.jobs.values())} == set(claims)


def test_a_dead_child_is_heard_of_once_though_both_of_its_sockets_tell(child: Child) -> None:
    heard = []

    def listen(child: Child) -> None:
        heard.append(child.receive())
        child.bury()

    hear = child.hear_with(listen)
    child.kill()
    eventually(child.has_ended)

    hear()
    hear()

    assert heard == [None]


def test_what_a_child_reported_before_it_was_killed_is_heard(child: Child) -> None:
    done, hanging = claim(payload=b"done"), claim(name="hang")
    child.send([done, hanging])
    eventually(lambda: len(child.begun()) == 2, "it has begun the second")
    child.kill()

    reports = child.last_words()

    assert [report.outcome.value for report in reports if isinstance(report, Ended)] == [b"done"]
    assert [job.claim for job in child.jobs.values()] == [hanging]


def test_a_child_that_is_dismissed_ends_what_it_has_and_leaves(child: Child) -> None:
    child.send([claim(payload=b"x")])
    child.dismiss()

    eventually(lambda: child.receive() is None)

    assert child.bury() == 0


def test_what_was_taken_back_leaves_nothing_in_the_child() -> None:
    parent, theirs = socket.socketpair()
    tickets, tickets_read = socket.socketpair()
    line = Line(theirs, tickets_read, reports=-1)
    child = object.__new__(Child)
    child.jobs, child._next, child._unsent = {}, 0, bytearray()
    child._sock, child._tickets, child._tickets_read = parent, tickets, tickets_read
    dropped, kept = [claim() for _ in range(10)], claim(payload=b"kept")
    child.send(dropped)
    child.take_back()
    child.send([kept])

    taken = line.take()

    assert taken is not None
    assert taken[1] == kept
    assert not line._inbox


def test_the_slots_of_one_child_share_its_tickets_without_loss_or_repetition() -> None:
    parent, theirs = socket.socketpair()
    tickets, tickets_read = socket.socketpair()
    line = Line(theirs, tickets_read, reports=-1)
    child = object.__new__(Child)
    child.jobs, child._next, child._unsent = {}, 0, bytearray()
    child._sock, child._tickets, child._tickets_read = parent, tickets, tickets_read
    claims = [claim() for _ in range(300)]
    taken: list[Claim] = []

    def slot() -> None:
        while (each := line.take()) is not None:
            taken.append(each[1])

    threads = [threading.Thread(target=slot) for _ in range(8)]
    for thread in threads:
        thread.start()
    for start in range(0, 300, 10):
        child.send(claims[start : start + 10])
    child.dismiss()
    for thread in threads:
        thread.join(20)

    assert sorted(each.id for each in taken) == sorted(each.id for each in claims)
