"""A run drawn in a terminal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from pgtasks.store.runs import Line, Sight
from pgtasks.workflow.timeline import draw, span_text

START = datetime(2026, 1, 1, tzinfo=UTC)
CHILD = str(UUID(int=7))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def sight(state: str, now: float, done: float | None = None) -> Sight:
    done_at = None if done is None else at(done)
    return Sight(UUID(int=1), None, "flow", "celery", START, state, done_at, None, 1, None, None, b"", None, at(now))


def line(seq: int, name: str, kind: str, when: float, state: str = "SUCCESS", **fields: Any) -> Line:
    others = {
        "due": None, "took_s": None, "attempts": 1, "delivery": 1, "source": None, "content_type": None,
        "content_encoding": None, "value": None,
    }  # fmt: skip
    return Line(seq, name, 0, kind, state, at(when), **{**others, **fields})


def test_what_ran_what_slept_and_what_came_of_it_are_drawn_on_one_scale() -> None:
    lines = [
        line(1, "charge", "task", 2, took_s=2.0),
        line(2, "delay render", "child", 2, source=CHILD),
        line(3, "wf.sleep", "sleep", 2, "PENDING", due=at(6)),
        line(4, f"get {CHILD}", "get", 6, source=CHILD),
        line(5, "check", "step", 8, "FAILURE", took_s=1.0, attempts=3,
             value=b'{"exc_type": "ValueError", "exc_message": ["no\\nmoney"], "exc_module": "builtins"}'),
    ]  # fmt: skip

    assert draw(sight("FAILURE", 100, done=8), lines, width=8) == [
        "   1  charge        ok         │██      │ +0.0ms, took 2.00s",
        f"   2  delay render  ok         │  █     │ +2.00s, task {CHILD}",
        "   3  wf.sleep      ok         │  ░░░░  │ +2.00s, for 4.00s",
        f"   4  get render    ok         │      █ │ +6.00s, task {CHILD}",
        "   5  check         failed     │       █│ +7.00s, took 1.00s, 3 tries, ValueError: no money",
    ]


def test_a_run_that_waits_for_days_shows_what_it_did_before() -> None:
    lines = [
        line(1, "charge", "task", 4, took_s=4.0),
        line(2, "wait packed", "wait", 4, "PENDING", due=at(900_000), source="packed"),
    ]

    first, second = draw(sight("SUSPENDED", 500_000), lines, width=10)

    assert "│████████  │" in first
    assert second == "   2  wait packed  waits      │        ░░│ +4.00s, until 2026-01-11 10:00:00"


def test_what_an_ended_run_waited_for_is_not_waited_for_any_more() -> None:
    (drawn,) = draw(sight("REVOKED", 9, done=8), [line(1, "wait x", "wait", 4, "PENDING", due=at(99))], width=8)

    assert drawn == "   1  wait x  left       │    ░░░░│ +4.00s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0004, "0.4ms"), (1.534, "1.53s"), (75, "1m15s"), (7500, "2h05m"), (273_700, "3d04h")],
)
def test_a_span_is_said_as_people_say_it(seconds: float, text: str) -> None:
    assert span_text(seconds) == text
