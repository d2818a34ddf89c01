"""The tasks of a mixed fleet: the same names in a program of Celery and in one of ours."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any


def declare(app: Any) -> None:
    """Give an app, of either kind, the tasks of the tests."""

    @app.task(name="mixed.add", shared=False)
    def add(x: Any, y: Any) -> Any:
        return x + y

    @app.task(name="mixed.total", shared=False)
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="mixed.fail", shared=False)
    def fail(*args: Any) -> None:
        raise ValueError("as asked")

    @app.task(name="mixed.again", shared=False, bind=True, max_retries=5)
    def again(self: Any, times: int) -> int:
        if self.request.retries < times:
            raise self.retry(countdown=0.05)
        return int(self.request.retries)

    @app.task(name="mixed.who", shared=False, bind=True)
    def who(self: Any, *args: Any) -> str:
        return str(self.request.hostname)

    @app.task(name="mixed.hold", shared=False, bind=True, acks_late=True)
    def hold(self: Any, directory: str) -> str:
        """Note that it runs, and run until the gate is open."""
        stage = Path(directory)
        (stage / f"began-{os.getpid()}").touch()
        while not (stage / "gate").exists():
            time.sleep(0.01)
        return str(self.request.hostname)

    @app.task(name="mixed.request", shared=False, bind=True)
    def request(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        seen = self.request
        return {
            "id": seen.id,
            "root_id": seen.root_id,
            "parent_id": seen.parent_id,
            "group": seen.group,
            "priority": (seen.delivery_info or {}).get("priority"),
            "eta": seen.eta,
            "expires": seen.expires,
            "timelimit": list(seen.timelimit or ()),
            "trace": getattr(seen, "trace", None),
            "args": list(args),
            "kwargs": kwargs,
        }
