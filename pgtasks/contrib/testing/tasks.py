"""Tasks for tests of workers."""

from __future__ import annotations

from pgtasks.app.sharing import shared_task

__all__ = ("answer", "ping")


def answer() -> str:
    """Answer: what `start_worker` asks a worker before a test may use it."""
    return "pong"


ping = shared_task(name="celery.ping")(answer)
