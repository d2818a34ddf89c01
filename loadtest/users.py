"""Who loads the server: one kind of Locust user per way to use pgtasks.

Each call is a request in Locust's statistics, under the name of what was called and as a failure when the
answer is wrong. A user begins its next call when the last one is over, with no pause, so a few users are a
lot of load.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from locust import User, tag, task

from loadtest.jobs import burn, five_steps, follow, noop, total
from pgtasks import chain, chord

#: Longest wait for an answer; a server that is overloaded on purpose takes long.
PATIENCE_S = 60.0


class WrongAnswer(Exception):
    """A task returned something else than it should."""


class TaskUser(User):
    """Times calls for Locust."""

    abstract = True

    def timed(self, kind: str, name: str, call: Callable[[], Any], expected: Any = None, size: int = 0) -> None:
        """Make a call; `size` is what Locust shows as content length, here the number of tasks."""
        error: Exception | None = None
        began_at = time.perf_counter()
        try:
            answer = call()
            if expected is not None and answer != expected:
                error = WrongAnswer(f"{answer!r} in the place of {expected!r}")
        except Exception as caught:
            error = caught
        self.environment.events.request.fire(
            request_type=kind,
            name=name,
            response_time=(time.perf_counter() - began_at) * 1000,
            response_length=size,
            exception=error,
            context=self.context(),
        )

    @property
    def tasks_per_call(self) -> int:
        """How many tasks a bulk has."""
        return int(self.environment.parsed_options.bulk_size)

    @property
    def plain(self) -> tuple[Any, float]:
        """The task of calls that do not wait for an answer, and what it is called with."""
        ms = float(self.environment.parsed_options.task_ms)
        return (burn, ms) if ms else (noop, 1)


class Single(TaskUser):
    """`.delay()`: one durable task per call."""

    @tag("enqueue")
    @task
    def delay(self) -> None:
        plain, given = self.plain
        self.timed("SEND", "delay", lambda: plain.delay(given), size=1)


class Bulk(TaskUser):
    """`.delay_many()`: so many tasks per call as `--bulk-size` says."""

    @tag("enqueue")
    @task
    def delay_many(self) -> None:
        size, (plain, given) = self.tasks_per_call, self.plain
        self.timed("SEND", f"delay_many of {size}", lambda: len(plain.delay_many([given] * size)), size, size)


class RoundTrip(TaskUser):
    """`.delay().get()`: until the result is there."""

    @task
    def get(self) -> None:
        self.timed("TRIP", "delay().get()", lambda: follow.delay(1).get(timeout=PATIENCE_S), 2, 1)


class Chain(TaskUser):
    """A chain of ten."""

    @task
    def ten(self) -> None:
        links = [follow.s(0), *(follow.s() for _ in range(9))]
        self.timed("TRIP", "chain of 10", lambda: chain(*links).delay().get(timeout=PATIENCE_S), 10, 10)


class Chord(TaskUser):
    """A chord of a hundred."""

    @task
    def hundred(self) -> None:
        header = [follow.s(number) for number in range(100)]
        self.timed("TRIP", "chord of 100", lambda: chord(header)(total.s()).get(timeout=PATIENCE_S), 5050, 101)


class Workflow(TaskUser):
    """A durable workflow of five steps."""

    @task
    def five(self) -> None:
        self.timed("TRIP", "workflow of 5 steps", lambda: five_steps.delay(0).get(timeout=PATIENCE_S), 5, 1)


class Mix(TaskUser):
    """What an application does: mostly single calls, some that wait, few canvases."""

    delay = task(60)(Single.delay)
    delay_many = task(1)(Bulk.delay_many)
    get = task(25)(RoundTrip.get)
    ten = task(10)(Chain.ten)
    hundred = task(4)(Chord.hundred)


USERS = (Single, Bulk, RoundTrip, Chain, Chord, Workflow, Mix)
