"""How the load changes over time, chosen by `--load-shape` or in Locust's web form.

    steps   more users at each step, until more of them bring no more
    soak    the same load for long: `--users` for `--run-time`, with what grows as time goes by in view
    spike   a tenth of `--users`, all of them for a moment, and a tenth again
    drain   a backlog is built up, then nobody sends any more; over when the queue is empty

Without one Locust's own options say it all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from locust import LoadTestShape

#: Tasks per second and ready tasks at the moment, as the watch has seen them; set by the locustfile.
Seen = Callable[[], tuple[float, int]]

Tick = tuple[int, float] | None


class Shaped(LoadTestShape):
    """A shape that knows Locust's options and what is seen of the server."""

    abstract = True
    use_common_options: ClassVar[bool] = True

    def __init__(self, options: Any, seen: Seen) -> None:
        super().__init__()
        self.options = options
        self.seen = seen

    @property
    def users(self) -> int:
        return int(self.options.num_users or 1)

    @property
    def seconds(self) -> float:
        return float(self.options.run_time or 60)


class Steps(Shaped):
    """Adds users until a step brings less than five percent, or all of them are there for a step."""

    enough = 1.05

    def __init__(self, options: Any, seen: Seen) -> None:
        super().__init__(options, seen)
        self.reached: list[float] = []

    def tick(self) -> Tick:
        step_s = float(self.options.step_seconds)
        number = int(self.get_run_time() // step_s)
        while len(self.reached) < number:
            self.reached.append(self.seen()[0])
        users = 2**number
        if users >= 2 * self.users or self.is_saturated():
            return None
        return min(users, self.users), float(self.users)

    def is_saturated(self) -> bool:
        """Have the last two steps brought next to nothing?"""
        *before, last, least = [0.0, 0.0, *self.reached]
        return len(self.reached) > 2 and max(last, least) < self.enough * max(before)


class Soak(Shaped):
    """The same users all the time."""

    def tick(self) -> Tick:
        return (self.users, float(self.users)) if self.get_run_time() < self.seconds else None


class Spike(Shaped):
    """All users in the middle fifth of the time."""

    def tick(self) -> Tick:
        passed = self.get_run_time() / self.seconds
        if passed >= 1:
            return None
        return (self.users if 0.4 <= passed < 0.6 else max(1, self.users // 10)), float(self.users)


class Drain(Shaped):
    """Users for the first half of the time; then none, until nothing is ready, four times as long at most."""

    def tick(self) -> Tick:
        passed = self.get_run_time() / self.seconds
        if passed < 0.5:
            return self.users, float(self.users)
        if passed < 0.55 or (self.seen()[1] and passed < 4.5):
            return 0, float(self.users)
        return None


SHAPES: dict[str, type[Shaped]] = {"steps": Steps, "soak": Soak, "spike": Spike, "drain": Drain}
