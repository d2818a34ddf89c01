"""The scheduler whose memory is shared: each turn is sent once, whoever runs, whatever was missed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.beat import PersistentScheduler, durable
from pgtasks.beat.durable import next_run, turn_id, turns
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.schedules import BaseSchedule, crontab, schedule, solar

Conn = psycopg.Connection[Any]
MINUTE = timedelta(minutes=1)
MIDNIGHT = datetime(2030, 1, 1, tzinfo=UTC)


class Clock:
    """The time as all schedules of a test see it."""

    def __init__(self) -> None:
        self.now = MIDNIGHT

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    # What others did is looked for before every tick: no real time passes here.
    monkeypatch.setattr(durable, "LOOK_EVERY_S", 0)
    return Clock()


@pytest.fixture
def app(database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Celery]:
    with Celery("scheduled", broker=database_url, set_as_current=False) as app:
        monkeypatch.setattr(app, "now", clock)
        app.conf.beat_schedule = {"minutely": {"task": "t.minutely", "schedule": crontab()}}
        yield app


@pytest.fixture
def scheduler_of(app: Celery) -> Iterator[Callable[[], PersistentScheduler]]:
    made: list[PersistentScheduler] = []

    def make() -> PersistentScheduler:
        made.append(PersistentScheduler(app))
        return made[-1]

    yield make
    for each in made:
        each.close()


def entry(app: Celery, **fields: Any) -> None:
    app.conf.beat_schedule = {"it": {"task": "t.it", "schedule": crontab(), **fields}}


def tick_out(scheduler: PersistentScheduler) -> float:
    for _ in range(1000):
        if wait_s := scheduler.tick():
            return wait_s
    raise AssertionError("it never comes to rest")


def sent(conn: Conn) -> int:
    return conn.execute("SELECT count(*) FROM pgtasks.message").fetchone()[0]


def finish(conn: Conn) -> None:
    conn.execute(
        "INSERT INTO pgtasks.result (id, state) SELECT id, 'SUCCESS' FROM pgtasks.message ON CONFLICT DO NOTHING"
    )


# -- each turn once


def test_ten_schedulers_at_once_send_every_turn_exactly_once(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    app.conf.beat_schedule = {
        "minutely": {"task": "t.minutely", "schedule": crontab()},
        "often": {"task": "t.often", "schedule": schedule(timedelta(seconds=30))},
    }
    schedulers = [scheduler_of() for _ in range(10)]
    together = threading.Barrier(10)

    def tick(scheduler: PersistentScheduler) -> None:
        together.wait()
        tick_out(scheduler)

    with ThreadPoolExecutor(10) as threads:
        for _ in range(20):
            clock.now += MINUTE
            list(threads.map(tick, schedulers))

    found = conn.execute("SELECT name, count(*) FROM pgtasks.message GROUP BY name ORDER BY name").fetchall()
    assert found == [("t.minutely", 20), ("t.often", 20)]
    assert conn.execute("SELECT name, runs FROM pgtasks.schedules ORDER BY name").fetchall() == [
        ("minutely", 20),
        ("often", 20),
    ]


def test_a_scheduler_that_takes_over_waits_for_the_next_turn_and_not_for_a_whole_interval(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    entry(app, schedule=timedelta(hours=1))
    tick_out(scheduler_of())
    clock.now += timedelta(minutes=59)

    second = scheduler_of()
    assert tick_out(second) > 0
    assert sent(conn) == 0
    clock.now += MINUTE
    tick_out(second)

    assert sent(conn) == 1


def test_a_turn_is_not_sent_twice_when_the_memory_is_lost(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    scheduler = scheduler_of()
    clock.now += MINUTE
    tick_out(scheduler)

    conn.execute("UPDATE pgtasks.schedule SET last_run_at = %s", [MIDNIGHT])
    tick_out(scheduler)

    assert sent(conn) == 1


def test_a_row_that_is_gone_is_made_anew(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    scheduler = scheduler_of()
    conn.execute("DELETE FROM pgtasks.schedule")
    clock.now += MINUTE

    tick_out(scheduler)  # finds that it is gone
    clock.now += MINUTE
    tick_out(scheduler)

    assert conn.execute("SELECT name FROM pgtasks.schedule").fetchall() == [("minutely",)]
    assert sent(conn) >= 1


def test_what_cannot_be_sent_is_logged_and_takes_its_turn_and_the_next_is_sent(
    app: Celery,
    scheduler_of: Callable[[], PersistentScheduler],
    clock: Clock,
    conn: Conn,
    caplog: pytest.LogCaptureFixture,
) -> None:
    entry(app, args=[object()])
    scheduler = scheduler_of()
    clock.now += MINUTE
    tick_out(scheduler)
    assert "Couldn't apply scheduled task it" in caplog.text

    entry(app, options={"queue": "no\0t a queue"})
    scheduler.merge_inplace(app.conf.beat_schedule)
    clock.now += MINUTE
    tick_out(scheduler)
    assert sent(conn) == 0

    entry(app)
    scheduler.merge_inplace(app.conf.beat_schedule)
    clock.now += MINUTE
    tick_out(scheduler)

    assert sent(conn) == 1
    assert conn.execute("SELECT runs FROM pgtasks.schedule").fetchone() == (3,)


def test_two_apps_in_one_database_do_not_take_each_others_turns(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn, database_url: str
) -> None:
    with Celery("other", broker=database_url, set_as_current=False) as other:
        other.now = clock
        other.conf.beat_schedule = {"minutely": {"task": "other.minutely", "schedule": crontab()}}
        theirs, ours = PersistentScheduler(other), scheduler_of()
        clock.now += MINUTE
        tick_out(theirs)
        tick_out(ours)
        theirs.close()

    assert conn.execute("SELECT name FROM pgtasks.message ORDER BY name").fetchall() == [
        ("other.minutely",),
        ("t.minutely",),
    ]


def test_the_task_goes_out_with_the_options_of_the_entry_and_a_mark(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    entry(app, options={"queue": "reports", "priority": 7, "expires": 60})
    clock.now += timedelta(seconds=1)
    scheduler = scheduler_of()
    clock.now += MINUTE

    tick_out(scheduler)

    row = conn.execute(
        "SELECT queue, priority, expires IS NOT NULL, convert_from(options, 'utf-8')::json->'headers'->>'celery_beat_task'"
        " FROM pgtasks.message"
    ).fetchone()
    assert row == ("reports", 7, True, "true")


# -- policies


@pytest.mark.parametrize(("catch_up", "expected"), [("one", 1), ("all", 10), ("none", 0)])
def test_what_was_missed_is_made_up_for_as_the_entry_says(
    app: Celery,
    scheduler_of: Callable[[], PersistentScheduler],
    clock: Clock,
    conn: Conn,
    catch_up: str,
    expected: int,
) -> None:
    entry(app, catch_up=catch_up)
    scheduler_of()
    clock.now += 10 * MINUTE + timedelta(seconds=30)

    tick_out(scheduler_of())

    assert sent(conn) == expected
    clock.now += MINUTE
    tick_out(scheduler_of())
    assert sent(conn) == expected + 1


@pytest.mark.parametrize(("overlap", "counts"), [("allow", (2, 3, 4)), ("skip", (1, 1, 2)), ("wait", (1, 1, 2))])
def test_a_turn_while_the_task_of_an_earlier_one_has_not_ended_goes_as_the_entry_says(
    app: Celery,
    scheduler_of: Callable[[], PersistentScheduler],
    clock: Clock,
    conn: Conn,
    overlap: str,
    counts: tuple[int, int, int],
) -> None:
    entry(app, overlap=overlap)
    scheduler = scheduler_of()
    clock.now += MINUTE
    tick_out(scheduler)

    seen = []
    for ended in (False, False, True):
        if ended:
            finish(conn)
        clock.now += MINUTE
        tick_out(scheduler)
        seen.append(sent(conn))

    assert tuple(seen) == counts


def test_a_turn_that_waits_is_sent_when_the_earlier_one_has_ended_and_not_at_the_next_turn(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    entry(app, overlap="wait", schedule=crontab(minute="0"))
    scheduler = scheduler_of()
    for _ in range(2):
        clock.now += timedelta(hours=1)
        assert tick_out(scheduler) <= durable.AGAIN_S or sent(conn) == 1
    finish(conn)

    clock.now += timedelta(seconds=2)
    tick_out(scheduler)

    assert sent(conn) == 2


@pytest.mark.parametrize("policy", [{"catch_up": "some"}, {"overlap": "maybe"}])
def test_a_policy_that_is_mistyped_is_refused(app: Celery, policy: dict[str, str]) -> None:
    entry(app, **policy)

    with pytest.raises(ImproperlyConfigured, match="The periodic task 'it' has"):
        PersistentScheduler(app)


# -- pausing


def test_a_paused_task_takes_no_turns_and_goes_on_from_when_it_is_resumed(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    first, second = scheduler_of(), scheduler_of()
    app.database.run(durable.schedules.pause("scheduled", ["minutely"]))
    for _ in range(3):
        clock.now += MINUTE
        tick_out(first)
        tick_out(second)
    assert sent(conn) == 0

    conn.execute("SET pgtasks.now = '2030-01-01 00:03:00Z'")
    conn.execute("UPDATE pgtasks.schedule SET is_paused = false, last_run_at = pgtasks.clock()")
    tick_out(first)
    assert sent(conn) == 0
    clock.now += MINUTE
    tick_out(second)
    tick_out(first)

    assert sent(conn) == 1


def test_resuming_what_was_not_paused_changes_nothing(app: Celery, clock: Clock, conn: Conn) -> None:
    PersistentScheduler(app).close()

    assert app.database.run(durable.schedules.resume("scheduled", ["minutely", "unknown"])) == ["minutely"]
    assert conn.execute("SELECT last_run_at FROM pgtasks.schedule").fetchone() == (MIDNIGHT,)


def test_a_task_that_is_paused_at_this_very_moment_is_not_sent(
    app: Celery,
    scheduler_of: Callable[[], PersistentScheduler],
    clock: Clock,
    conn: Conn,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    scheduler = scheduler_of()
    tick_out(scheduler)
    monkeypatch.setattr(durable, "LOOK_EVERY_S", 1e9)
    conn.execute("UPDATE pgtasks.schedule SET is_paused = true")
    clock.now += MINUTE

    tick_out(scheduler)

    assert sent(conn) == 0


# -- past turns


def test_a_turn_that_no_scheduler_has_lived_to_see_is_late_all_the_same(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], conn: Conn
) -> None:
    scheduler_of()

    assert _next_run(conn, "minutely") == MIDNIGHT + MINUTE


def test_when_a_task_is_due_next_follows_its_schedule_a_pause_and_its_end(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    scheduler_of().tick()

    app.conf.beat_schedule = {"minutely": {"task": "t.minutely", "schedule": crontab(minute="30")}}
    scheduler_of()
    changed = _next_run(conn, "minutely")
    app.database.run(durable.schedules.pause("scheduled", ["minutely"]))
    app.database.run(durable.schedules.resume("scheduled", ["minutely"]))
    resumed = _next_run(conn, "minutely")
    app.conf.beat_schedule = {"hourly": {"task": "t.hourly", "schedule": crontab(minute="0")}}
    scheduler_of()

    assert changed == MIDNIGHT + 30 * MINUTE
    assert resumed is None
    assert _next_run(conn, "minutely") is None
    assert _next_run(conn, "hourly") == MIDNIGHT + 60 * MINUTE


def _next_run(conn: Conn, name: str) -> datetime | None:
    row = conn.execute("SELECT next_run_at FROM pgtasks.schedules WHERE name = %s", [name]).fetchone()
    assert row is not None
    return row[0]


def test_a_backfill_sends_each_past_turn_once_and_says_which_it_is(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], conn: Conn
) -> None:
    entry(app, schedule=crontab(minute="0", hour="4"))
    scheduler = scheduler_of()
    period = MIDNIGHT, MIDNIGHT + timedelta(days=3)

    dry = list(scheduler.backfill(scheduler.schedule["it"], *period, is_dry=True))
    done = list(scheduler.backfill(scheduler.schedule["it"], *period))
    again = list(scheduler.backfill(scheduler.schedule["it"], *period))

    assert [moment for moment, _ in dry] == [MIDNIGHT + timedelta(days=day, hours=4) for day in range(3)]
    assert [result.id for _, result in done] == [result.id for _, result in again]
    rows = conn.execute(
        "SELECT convert_from(options, 'utf-8')::json->'headers'->>'scheduled_for' FROM pgtasks.message ORDER BY id"
    ).fetchall()
    assert [datetime.fromisoformat(moment) for (moment,) in rows] == [moment for moment, _ in dry]


def test_turns_follow_the_clock_of_the_schedule_over_its_changes(app: Celery) -> None:
    app.conf.timezone = "Europe/Berlin"
    daily = crontab(minute="30", hour="2", app=app)
    start = datetime(2026, 3, 27, 12, tzinfo=ZoneInfo("Europe/Berlin"))

    found = [moment.astimezone(UTC) for moment in turns(daily, start, start + timedelta(days=4))]

    # On the 29th there is no half past two: it is made up for after the gap.
    assert [moment.strftime("%d %H:%M") for moment in found] == ["28 01:30", "29 01:30", "30 00:30", "31 00:30"]


def test_a_schedule_that_cannot_tell_its_turns_can_still_be_sent(
    app: Celery, scheduler_of: Callable[[], PersistentScheduler], clock: Clock, conn: Conn
) -> None:
    class Whenever(BaseSchedule):
        def is_due(self, last_run_at: datetime) -> Any:
            return clock.now > last_run_at, 10.0

    entry(app, schedule=Whenever(app=app))
    scheduler = scheduler_of()
    clock.now += MINUTE

    tick_out(scheduler)

    assert sent(conn) == 1
    assert next_run(Whenever(app=app), clock.now) is None


def test_the_sun_has_turns_as_well(app: Celery) -> None:
    found = list(turns(solar("sunrise", 52.5, 13.4, app=app), MIDNIGHT, MIDNIGHT + timedelta(days=3)))

    assert len(found) == 3


def test_the_id_of_a_turn_is_the_same_whoever_makes_it_and_differs_for_all_else() -> None:
    berlin = MIDNIGHT.astimezone(ZoneInfo("Europe/Berlin"))
    one = turn_id("app", "name", MIDNIGHT)

    assert one == turn_id("app", "name", berlin)
    assert one.version == 7
    assert one.variant == "specified in RFC 4122"
    others = {
        turn_id("app", "name", MIDNIGHT + MINUTE),
        turn_id("app2", "name", MIDNIGHT),
        turn_id("app", "n", MIDNIGHT),
    }
    assert len({one, *others}) == 4
    assert sorted([turn_id("a", "n", MIDNIGHT + MINUTE), one]) == [one, turn_id("a", "n", MIDNIGHT + MINUTE)]
