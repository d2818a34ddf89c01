"""The contract of `Scheduler` and `ScheduleEntry`, which schedulers from elsewhere subclass."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgtasks import Celery
from pgtasks.beat import BeatLazyFunc, EmbeddedService, ScheduleEntry, Scheduler, SchedulingError
from pgtasks.beat.service import scheduler_class
from pgtasks.exceptions import ImproperlyConfigured
from tests.support.workers import eventually

HOUR = timedelta(hours=1)
OPTIONS = {"queue": "other", "headers": {"own": 1}}


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("beat", broker=database_url, set_as_current=False)
    app.conf.beat_schedule = {
        "hourly": {"task": "note", "schedule": HOUR, "args": (1,), "options": OPTIONS},
        "daily": {"task": "elsewhere", "schedule": timedelta(days=1)},
    }
    yield app
    app.close()


class Collecting(Scheduler):
    """Notes what it would send."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sent: list[Any] = []
        super().__init__(*args, **kwargs)

    def send_task(self, *args: Any, **kwargs: Any) -> Any:
        if args[0] == "broken":
            raise OSError("no way")
        self.sent.append((*args, kwargs))


def an_hour_ago(scheduler: Scheduler, *names: str) -> None:
    for name in names:
        scheduler.schedule[name].last_run_at -= HOUR
    scheduler.populate_heap()


def tick_out(scheduler: Scheduler) -> float:
    """Tick until there is nothing to do at the moment."""
    while not (wait_s := scheduler.tick()):
        pass
    return wait_s


def test_an_entry_that_is_due_is_sent_once_with_its_options_and_a_mark(app: Celery) -> None:
    scheduler = Collecting(app)
    assert scheduler.tick() > 0
    assert scheduler.sent == []

    an_hour_ago(scheduler, "hourly")
    assert scheduler.tick() == 0
    tick_out(scheduler)

    assert scheduler.sent == [
        ("note", [1], {}, {"producer": None, "queue": "other", "headers": {"own": 1, "celery_beat_task": True}})
    ]
    assert scheduler.schedule["hourly"].total_run_count == 1
    assert app.conf.beat_schedule["hourly"]["options"]["headers"] == {"own": 1}


def test_a_task_that_is_known_is_sent_as_itself(app: Celery, conn: psycopg.Connection[Any]) -> None:
    @app.task(name="note", shared=False)
    def note(word: int) -> None: ...

    scheduler = Collecting(app)

    result = scheduler.apply_async(scheduler.schedule["hourly"])

    assert scheduler.sent == []
    rows = conn.execute("SELECT id::text, name, queue FROM pgtasks.message").fetchall()
    assert rows == [(result.id, "note", "other")]


def test_an_entry_that_cannot_be_sent_stops_no_other_one(app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    app.conf.beat_schedule = {
        "first": {"task": "broken", "schedule": HOUR},
        "second": {"task": "fine", "schedule": HOUR},
        "third": {"task": "never", "schedule": HOUR},
    }
    scheduler = Collecting(app)
    scheduler.schedule["third"].is_due = lambda: 1 / 0
    an_hour_ago(scheduler, "first", "second")

    tick_out(scheduler)

    assert [sent[0] for sent in scheduler.sent] == ["fine"]
    assert "Couldn't apply scheduled task first: no way" in caplog.text
    assert "Cannot compute when 'third' is due" in caplog.text
    with pytest.raises(SchedulingError, match="first: no way"):
        scheduler.apply_async(scheduler.schedule["first"])


def test_entries_that_change_keep_the_memory_of_when_they_were_sent(app: Celery) -> None:
    scheduler = Collecting(app)
    before = scheduler.schedule["hourly"].last_run_at

    scheduler.merge_inplace({"hourly": {"task": "other", "schedule": 60}, "new": {"task": "new", "schedule": 5}})

    assert set(scheduler.schedule) == {"hourly", "new"}
    assert scheduler.schedule["hourly"].task == "other"
    assert scheduler.schedule["hourly"].last_run_at == before


def test_arguments_that_are_functions_are_called_for_every_run(app: Celery) -> None:
    scheduler = Collecting(app, lazy=True)
    numbers = iter(range(10))
    lazy = {"args": (BeatLazyFunc(next, numbers),), "kwargs": {"k": BeatLazyFunc(int)}}
    scheduler.add(name="lazy", task="t", schedule=HOUR, **lazy)

    for _ in range(2):
        scheduler.apply_async(scheduler.schedule["lazy"])

    assert [sent[1:3] for sent in scheduler.sent] == [([0], {"k": 0}), ([1], {"k": 0})]


def test_it_syncs_after_as_many_tasks_as_asked_for(app: Celery) -> None:
    class Syncing(Collecting):
        syncs = 0

        def sync(self) -> None:
            self.syncs += 1

    scheduler = Syncing(app, sync_every_tasks=2)
    for _ in range(5):
        scheduler.apply_async(scheduler.schedule["daily"])

    assert scheduler.syncs == 3  # the first is due at once
    scheduler.close()
    assert scheduler.syncs == 4


def test_an_entry_survives_pickling_and_compares_by_what_it_calls_and_when(app: Celery) -> None:
    entry = ScheduleEntry("name", "task", schedule=HOUR, args=(1,), kwargs={"k": 2}, app=app)

    again = pickle.loads(pickle.dumps(entry))

    assert again == entry
    assert next(again) == entry
    assert (next(again).total_run_count, entry.total_run_count) == (1, 0)
    assert ScheduleEntry("name", "other", schedule=HOUR, app=app) != entry


def test_an_entry_that_is_added_while_it_runs_gets_its_turn(app: Celery) -> None:
    scheduler = Collecting(app)
    tick_out(scheduler)

    scheduler.add(name="new", task="new", schedule=HOUR, last_run_at=app.now() - HOUR)
    tick_out(scheduler)

    assert [sent[0] for sent in scheduler.sent] == ["new"]


def test_an_entry_that_wants_to_be_asked_later_does_not_keep_the_others_from_their_turn(app: Celery) -> None:
    scheduler = Collecting(app)
    an_hour_ago(scheduler, "hourly")
    stubborn = scheduler.schedule["daily"]
    stubborn.is_due = lambda: (False, 0)
    scheduler.populate_heap()

    for _ in range(3):
        scheduler.tick()

    assert [sent[0] for sent in scheduler.sent] == ["note"]


def test_it_sleeps_no_longer_than_it_may(app: Celery) -> None:
    assert Collecting(app, max_interval=7).tick() == 7
    app.conf.beat_max_loop_interval = 3
    assert Collecting(app).tick() == 3
    app.conf.beat_schedule = {}
    assert Collecting(app).tick() == 3


def test_the_next_entry_is_as_of_now_or_as_of_the_time_that_is_said(app: Celery) -> None:
    entry = Collecting(app).schedule["hourly"]
    then = datetime(2020, 1, 1, tzinfo=UTC)

    assert next(entry).last_run_at > then
    assert (entry.next(then).last_run_at, entry.next(then).total_run_count) == (then, entry.total_run_count + 1)


@pytest.mark.parametrize("thread", [True, False])
def test_a_service_runs_within_a_program_until_it_is_stopped(
    database_url: str, conn: psycopg.Connection[Any], thread: bool
) -> None:
    app = Celery("embedded", broker=database_url, set_as_current=False)
    app.conf.beat_schedule = {"often": {"task": "note", "schedule": timedelta(seconds=0.05)}}
    service = EmbeddedService(app, thread=thread)

    service.start()
    eventually(lambda: conn.execute("SELECT count(*) FROM pgtasks.message WHERE name = 'note'").fetchone() != (0,))
    service.stop()

    assert not service.is_alive()
    app.close()


def test_a_scheduler_that_cannot_be_imported_is_named_with_the_reason() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"'nowhere.Scheduler' .*cannot be imported: No module named 'nowhere'"):
        scheduler_class("nowhere.Scheduler")


def test_a_service_that_never_ran_is_stopped_at_once() -> None:
    app = Celery("embedded", broker="postgresql://nowhere.invalid/db", set_as_current=False)

    EmbeddedService(app, thread=True).stop()
