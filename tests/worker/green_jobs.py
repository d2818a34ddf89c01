"""The app of the tests of the gevent pool."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from pgtasks import Celery
from tests.worker.jobs import note, pass_gate

app = Celery("green_jobs")
app.conf.task_track_started = True


@app.task(bind=True)
def gather_at(self: Any, gate: str) -> int:
    note("waits", id=self.request.id)
    self.update_state(state="WAITS")
    pass_gate(gate)
    return os.getpid()


@app.task(bind=True)
def tell_what_ends_it(self: Any) -> None:
    note("waits", id=self.request.id)
    try:
        time.sleep(3600)
    except BaseException as error:
        note("ended by", id=self.request.id, error=type(error).__name__)
        raise


@app.task(acks_late=True, acks_on_timeout=False, bind=True, time_limit=0.2)
def sleep_at_first(self: Any) -> int:
    """Wait for too long, but not when it is delivered again."""
    note("waits", id=self.request.id)
    if not self.request.delivery_info["redelivered"]:
        time.sleep(3600)
    return os.getpid()


@app.task
async def after_a_while(value: int) -> int:
    await asyncio.sleep(0.01)
    return value


@app.task
def ask_another(value: int) -> int:
    asked: int = after_a_while.delay(value).get(timeout=60)
    return asked
