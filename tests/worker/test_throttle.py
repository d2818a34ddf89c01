"""Rate limits: what runs now, what is held, what goes back, and that nothing else waits for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.contrib.testing.app import TestApp, setup_default_app
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.message import Claim, new_id
from pgtasks.worker import throttle
from pgtasks.worker.throttle import Throttle
from tests.support.workers import eventually

pytestmark = pytest.mark.usefixtures("only_built_in_tasks")

Conn = psycopg.Connection[Any]


class Clock:
    """The monotonic clock, set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(throttle, "time", clock)
    return clock


def throttle_of(**rates: Any) -> Throttle:
    return Throttle({name: SimpleNamespace(rate_limit=each) for name, each in rates.items()})


def claim(name: str, delivery: int = 1, fate: str = "live") -> Claim:
    empty = Claim._make([None] * len(Claim._fields))
    return empty._replace(id=new_id(), name=name, delivery=delivery, fate=fate, retries=0, losses=0, seq=0)


def test_the_first_runs_the_next_are_held_for_their_turn_and_the_rest_goes_back_one_after_the_other(
    clock: Clock,
) -> None:
    limited = throttle_of(mail="1/s")
    claims = [claim("mail") for _ in range(6)]

    admitted = limited.admit(claims)
    back = list(limited.take_outcomes())

    assert admitted == claims[:1]
    assert list(limited.held()) == claims[1:3]
    assert [(outcome.id, outcome.delay_s) for outcome in back] == [
        (claims[3].id, 3.0),
        (claims[4].id, 4.0),
        (claims[5].id, 5.0),
    ]


def test_what_is_held_runs_at_the_rate_and_in_order(clock: Clock) -> None:
    limited = throttle_of(mail="1/s")
    first, second, third = claims = [claim("mail") for _ in range(3)]
    assert limited.admit(claims) == [first]

    assert (limited.release(), limited.next_release_at()) == ([], clock.now + 1)
    clock.now += 1
    assert limited.release() == [second]
    assert limited.release() == []
    clock.now += 60
    assert limited.release() == [third]
    assert limited.release() == []


def test_a_worker_that_was_idle_has_saved_up_one_token_and_no_more(clock: Clock) -> None:
    limited = throttle_of(mail="10/s")
    clock.now += 3600

    assert len(limited.admit([claim("mail") for _ in range(5)])) == 1


def test_what_comes_now_does_not_overtake_what_was_sent_back(clock: Clock) -> None:
    limited = throttle_of(mail="6/m")
    limited.admit([claim("mail") for _ in range(3)])
    limited.take_outcomes()
    clock.now += 10

    fresh, returning = claim("mail"), claim("mail", delivery=2)

    assert limited.admit([fresh, returning]) == [returning]
    assert [outcome.delay_s for outcome in limited.take_outcomes()] == [pytest.approx(20.0)]


def test_other_tasks_and_those_that_only_end_are_not_limited(clock: Clock) -> None:
    limited = throttle_of(mail="1/h", other=None, third="0")
    claims = [claim("mail"), claim("other"), claim("third"), claim("unknown"), claim("mail", fate="revoked")]

    assert limited.admit([*claims, claim("mail")]) == claims


def test_a_limit_that_is_lifted_lets_go_of_what_is_held(clock: Clock) -> None:
    tasks = {"mail": SimpleNamespace(rate_limit="1/s")}
    limited = Throttle(tasks)
    claims = [claim("mail"), claim("mail")]
    limited.admit(claims)

    tasks["mail"].rate_limit = None
    limited.reset()

    assert [(outcome.id, outcome.delay_s) for outcome in limited.take_outcomes()] == [(claims[1].id, None)]
    assert list(limited.held()) == []


def test_limits_can_be_switched_off_as_a_whole() -> None:
    limited = Throttle({"mail": SimpleNamespace(rate_limit="1/h")}, is_disabled=True)
    claims = [claim("mail"), claim("mail")]

    assert limited.admit(claims) == claims


# -- in a worker


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = TestApp("limited", broker=database_url)
    with setup_default_app(app):

        @app.task(name="rare", rate_limit="1/h")
        def rare(n: int) -> int:
            return n

        @app.task(name="often")
        def often(n: int) -> int:
            return n

        yield app


def test_tasks_over_their_rate_wait_in_the_database_and_others_pass_them(app: Celery, conn: Conn) -> None:
    rare = [app.tasks["rare"].delay(n) for n in range(20)]
    often = app.tasks["often"].delay(1)

    with start_worker(app, pool="prefork", concurrency=1, perform_ping_check=False):
        assert often.get(timeout=60) == 1
        assert rare[0].get(timeout=60) == 0
        eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.scheduled").fetchone() == (19,))
        due = conn.execute("SELECT due - pgtasks.clock() FROM pgtasks.scheduled ORDER BY due").fetchall()

    hours = [round(left.total_seconds() / 3600) for (left,) in due]
    assert hours == list(range(1, 20))
    assert conn.execute("SELECT count(*) FROM pgtasks.result").fetchone() == (2,)


def test_what_is_held_at_the_end_goes_back_to_the_queue(
    app: Celery, conn: Conn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "HOLD_S", 1e9)
    waiting = [app.tasks["rare"].delay(n) for n in range(3)]

    with start_worker(app, pool="prefork", concurrency=1, hostname="w@h", perform_ping_check=False):
        assert waiting[0].get(timeout=60) == 0
        eventually(lambda: len(app.control.inspect(timeout=30).reserved()["w@h"]) == 2)

    assert conn.execute("SELECT count(*), sum(losses) FROM pgtasks.ready").fetchone() == (2, 0)


def test_a_held_task_can_be_revoked(app: Celery, conn: Conn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "HOLD_S", 1e9)
    first, second = app.tasks["rare"].delay(1), app.tasks["rare"].delay(2)

    with start_worker(app, pool="prefork", concurrency=1, hostname="w@h", perform_ping_check=False):
        assert first.get(timeout=60) == 1
        eventually(lambda: app.control.inspect(timeout=30).reserved()["w@h"])
        second.revoke()
        eventually(lambda: second.state == "REVOKED")


def test_a_new_limit_holds_at_once_and_none_lets_all_run(app: Celery, tmp_path: Path) -> None:
    with start_worker(app, pool="prefork", concurrency=1, hostname="w@h", perform_ping_check=False):
        assert told(app, "often", "1/h") == {"ok": "new rate limit set successfully"}
        assert app.tasks["often"].delay(1).get(timeout=60) == 1
        assert told(app, "often", "0") == {"ok": "new rate limit set successfully"}
        assert told(app, "often", None) == {"ok": "rate limit disabled successfully"}
        assert [app.tasks["often"].delay(n).get(timeout=60) for n in range(3)] == [0, 1, 2]


def told(app: Celery, name: str, limit: Any) -> Any:
    (reply,) = app.control.rate_limit(name, limit, reply=True, timeout=30)
    return reply["w@h"]
