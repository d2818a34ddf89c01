"""The app that the tests of workers run: tasks that behave in every way there is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from pgtasks import Celery, Task, shared_task, signals, wf
from pgtasks.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from pgtasks.utils.log import get_task_logger

app = Celery("jobs")
app.conf.update(json.loads(os.environ.get("JOBS_CONF", "{}")))
logger = get_task_logger(__name__)


def stage() -> Path:
    return Path(os.environ["JOBS_STAGE"])


def note(event: str, **facts: Any) -> None:
    """Add a line to the journal; one write, so that lines of several processes do not mix and none is lost."""
    line = json.dumps({"event": event, "pid": os.getpid(), "at": time.time(), **facts}) + "\n"
    journal = os.open(stage() / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)


def is_open(gate: str) -> bool:
    return (stage() / f"gate-{gate}").exists()


def pass_gate(gate: str) -> None:
    while not is_open(gate):
        time.sleep(0.005)


class Noted(Task):
    """Notes when it begins and ends, with the id and how often it was delivered."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        note("begin", id=self.request.id, name=self.name, retries=self.request.retries)
        value = super().__call__(*args, **kwargs)
        note("end", id=self.request.id, name=self.name)
        return value


task = partial(app.task, base=Noted)


@task
def add(x: Any, y: Any) -> Any:
    return x + y


@app.workflow
def walk(value: int) -> int:
    return wf.step(abs, value)


@task
def echo(value: Any) -> Any:
    return value


@task(ignore_result=True)
def forgotten() -> int:
    return 1


@task
def fail(text: str = "boom") -> None:
    raise ValueError(text)


class Unspeakable(Exception):
    """Cannot be described."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@task
def fail_unspeakably() -> None:
    raise Unspeakable


class Picky(Exception):
    """Cannot be made again from its args."""

    def __init__(self, one: int, two: int, *, three: int) -> None:
        super().__init__(one)
        self.lock = sys.stdout


@task
def fail_pickily() -> None:
    raise Picky(1, 2, three=3)


@task(bind=True, max_retries=3)
def retry_until(self: Any, count: int, countdown: float = 0.01) -> int:
    if self.request.retries < count:
        raise self.retry(countdown=countdown, exc=KeyError("not yet"))
    return int(self.request.retries)


@task(bind=True, max_retries=3)
def retry_as(self: Any, **options: Any) -> int:
    """Retry once, in another way."""
    if self.request.retries == 0:
        raise self.retry(**{"countdown": 0.01, **options})
    return int(self.request.retries)


@task
def ignore() -> None:
    raise Ignore


@task
def reject(requeue_once: bool = False) -> str:
    if requeue_once and len(list(stage().glob("rejected"))) == 0:
        (stage() / "rejected").touch()
        raise Reject("once", requeue=True)
    if not requeue_once:
        raise Reject("for good", requeue=False)
    return "second time"


@task(bind=True)
def progress(self: Any, gate: str) -> str:
    self.update_state(state="HALFWAY", meta={"done": 50})
    pass_gate(gate)
    return "all the way"


@task
def wait(gate: str, value: Any = None) -> Any:
    pass_gate(gate)
    return value


@task(track_started=True)
def tracked(gate: str) -> None:
    pass_gate(gate)


@task
def spin(catch: bool = False) -> str:
    """Run until something stops it."""
    try:
        while True:
            time.sleep(0.005)
    except SoftTimeLimitExceeded:
        if catch:
            return "cleaned up"
        raise


@task(bind=True, acks_late=True, acks_on_timeout=False, time_limit=0.5)
def spin_at_first(self: Any, times: int = 1) -> int:
    """Run past its time limit, the first so many times that it is run; then say how often that was."""
    marks = stage() / f"spins-{self.request.id}"
    with marks.open("a") as file:
        file.write("x")
    runs = marks.stat().st_size
    while runs <= times:
        time.sleep(0.005)
    return runs


@task
def shrug_off(gate: str) -> str:
    """Run on when told to stop."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    note("deaf")
    pass_gate(gate)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    return "still here"


@task
def tidy(gate: str, late: str | None = None) -> None:
    """Clean up in the end, which is not over before the second gate is open, if there is one."""
    try:
        pass_gate(gate)
    finally:
        note("tidied")
        if late is not None:
            pass_gate(late)


@task
def swallow(gate: str) -> str:
    """Catch what is to end it."""
    try:
        pass_gate(gate)
    except SystemExit:
        note("caught")
    return "still here"


@task
def make(what: str) -> Any:
    """Return what cannot be stored, or hardly."""
    circle: list[Any] = []
    circle.append(circle)
    return {
        "object": object(),
        "circle": circle,
        "bytes": b"\xff\x00",
        "nan": float("nan"),
        "deep": deep(100_000),
    }[what]


def deep(levels: int) -> Any:
    value: Any = None
    for _ in range(levels):
        value = [value]
    return value


@task
def big(size: int) -> str:
    return "x" * size


@task(bind=True)
def die(self: Any, times: int = 1_000_000) -> str:
    """Kill this process, the first so many times that it is run."""
    marks = stage() / f"deaths-{self.request.id}"
    with marks.open("a") as file:
        file.write("x")
    if marks.stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return "lived"


@task(bind=True, acks_late=False)
def die_at_most_once(self: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task(acks_late=False)
def wait_at_most_once(gate: str) -> None:
    pass_gate(gate)


@task
def exit_process(status: int = 3) -> None:
    os._exit(status)


class Wild(BaseException):
    """What `except Exception` does not catch."""


@task
def leave(kind: str) -> None:
    kinds = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "MemoryError": MemoryError, "Wild": Wild}
    raise kinds[kind]("left")


@task(bind=True, retry_on_worker_lost=True, max_retries=2, default_retry_delay=0)
def die_until_retried(self: Any, times: int) -> int:
    if self.request.retries < times:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(self.request.retries)


@task(acks_late=True, reject_on_worker_lost=False)
def die_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@task
def recurse() -> None:
    recurse.run()


_hoard: list[bytearray] = []


@task
def hoard(megabytes: int) -> int:
    block = bytearray(megabytes << 20)
    block[::4096] = b"x" * len(block[::4096])
    _hoard.append(block)
    return os.getpid()


@task
def pid() -> int:
    return os.getpid()


@task
def spawn(count: int) -> list[str]:
    return [add.delay(n, n).id for n in range(count)]


@task
def speak(text: str) -> None:
    logger.warning("spoken: %s", text)
    print(f"printed: {text}")


class Clumsy(Noted):
    """Its hooks raise."""

    abstract = True

    def before_start(self, *args: Any) -> None:
        note("before_start")
        if "before" in self.name:
            raise RuntimeError("before_start")

    def on_success(self, *args: Any) -> None:
        note("on_success")
        raise RuntimeError("on_success")

    def on_failure(self, *args: Any) -> None:
        note("on_failure")
        raise RuntimeError("on_failure")

    def after_return(self, *args: Any) -> None:
        note("after_return")
        raise RuntimeError("after_return")


@app.task(base=Clumsy)
def clumsy_success() -> str:
    return "done"


@app.task(base=Clumsy)
def clumsy_failure() -> None:
    raise ValueError("mine")


@app.task(base=Clumsy)
def clumsy_before() -> str:
    return "done"


@signals.task_prerun.connect
@signals.task_postrun.connect
@signals.task_success.connect
@signals.task_failure.connect
@signals.task_retry.connect
@signals.task_revoked.connect
def stumble(sender: Any = None, **kwargs: Any) -> None:
    """A receiver that raises must not matter to anybody."""
    # The tests' own process imports this module as well, and is no worker.
    if "JOBS_STAGE" in os.environ and is_open("stumble"):
        raise RuntimeError("a receiver stumbled")


@task
async def async_add(x: int, y: int) -> int:
    await asyncio.sleep(0.001)
    return x + y


@task
async def async_fail() -> None:
    await asyncio.sleep(0.001)
    raise ValueError("async boom")


@task
async def async_spin(catch: bool = False) -> str:
    try:
        while True:
            await asyncio.sleep(0.005)
    except SoftTimeLimitExceeded:
        if catch:
            return "cleaned up"
        raise


@shared_task
def shared(value: int) -> int:
    return value


@task
def tsum(values: list[int]) -> int:
    return sum(values)
