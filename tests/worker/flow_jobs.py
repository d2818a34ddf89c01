"""Tasks under limits, for the tests of flow control: each notes when it begins and ends."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from pgtasks import Debounce, Flow, Unique, wf
from tests.worker.jobs import app, note, pass_gate

__all__ = ("app",)

CONCURRENCY, TOTAL, RATE, PERIOD_S = 2, 3, 4, 2
IN_QUEUE, PER_WORKER = 2, 1


@app.task(bind=True, flow=Flow(concurrency=1))
def alone(self: Any, name: str, gate: str | None = None) -> str:
    note("begin", id=self.request.id, name=name, key="")
    if gate is not None:
        pass_gate(gate)
    note("end", id=self.request.id, name=name)
    return name


@app.task(flow=Flow(concurrency=1))
async def alone_in_a_loop(name: str) -> str:
    note("begin", id=name, name=name, key="")
    await asyncio.sleep(0.01)
    note("end", id=name, name=name)
    return name


@app.task(bind=True, max_retries=1, flow=Flow(concurrency=1))
def second_try(self: Any) -> int:
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@app.task(bind=True, flow=Flow(key="tenant", concurrency=CONCURRENCY, total_concurrency=TOTAL))
def of_tenant(self: Any, tenant: str, takes_s: float = 0.01) -> str:
    note("begin", id=self.request.id, key=tenant)
    time.sleep(takes_s)
    note("end", id=self.request.id)
    return tenant


@app.task(bind=True, flow=Flow(rate=f"{RATE}/{PERIOD_S}s"))
def rated(self: Any, takes_s: float = 0.0) -> None:
    note("begin", id=self.request.id, key="rated")
    time.sleep(takes_s)
    note("end", id=self.request.id)


@app.task(bind=True, flow=Flow(key="tenant"))
def in_turn(self: Any, tenant: str) -> None:
    note("begin", id=self.request.id, key=tenant)


@app.task(unique=Unique("order"))
def once(order: int, gate: str = "once") -> int:
    pass_gate(gate)
    return order


@app.task(debounce=Debounce(0.5, key="document"))
def index(document: str, version: int) -> int:
    note("begin", id=document, version=version)
    return version


@app.task
def plain(value: Any = None, takes_s: float = 0.0) -> Any:
    note("begin", id=plain.request.id, key="plain", worker=os.getppid())
    time.sleep(takes_s)
    note("end", id=plain.request.id)
    return value


@app.task(transactional=True, flow=Flow(concurrency=1))
def booked() -> int:
    return os.getpid()


@app.workflow(flow=Flow(concurrency=1))
def sleeper(name: str, signal: str) -> str:
    note("begin", id=name, name=name, key="")
    wf.wait(signal)
    note("end", id=name, name=name)
    return name
