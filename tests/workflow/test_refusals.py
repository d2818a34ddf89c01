"""What cannot be meant is refused where it is said, by an error that names it, and no run is tried again for ever over it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from pgtasks import wf
from pgtasks.exceptions import EncodeError, WorkflowError
from tests.workflow import flows
from tests.workflow.conftest import Desk

#: No index takes this: it is long, and cannot be compressed.
LONG = "".join(chr(33 + n * n * 7919 % 90) for n in range(5000))


async def _fetch() -> None: ...


def _fails() -> None:
    raise ValueError("no")


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a step with a name that no index takes": (lambda: wf.step(int, name=LONG), "wf.step got a name of 5000 bytes"),
    "a step with NUL in its name": (lambda: wf.step(int, name="a\0"), "without NUL"),
    "a step with half a character in its name": (lambda: wf.step(int, name="\ud800"), "no Unicode text"),
    "a step with a number for its name": (lambda: wf.step(int, name=5), "got 5 for a name"),  # type: ignore[arg-type]
    "a step that was called already": (lambda: wf.step(5), "which cannot be called"),  # type: ignore[arg-type]
    "a step that is a coroutine": (lambda: wf.step(_fetch()), "Pass the function itself"),  # type: ignore[arg-type]
    "retries that are no number": (lambda: wf.step(_fails, retries="5"), "retries='5'"),  # type: ignore[arg-type]
    "retries beyond counting": (lambda: wf.step(_fails, retries=40_000), "from 0 to 32000"),
    "a pause that is negative": (lambda: wf.step(_fails, retries=1, delay=-5), "not negative"),
    "a pause that is no time": (lambda: wf.step(_fails, retries=1, delay=float("nan")), "got nan for a time"),
    "errors that are no classes": (lambda: wf.step(_fails, retries=1, on="x"), "on='x'"),  # type: ignore[arg-type]
    "retries in a transaction": (lambda: wf.step(_fails, retries=1, transactional=True), "Leave retries out"),
    "a sleep of no time": (lambda: wf.sleep(None), "got None for a time"),  # type: ignore[arg-type]
    "a sleep beyond all dates": (lambda: wf.sleep(4e11), "300 years"),
    "a sleep beyond all intervals": (lambda: wf.sleep(timedelta.max), "300 years"),
    "a sleep until the end of time": (lambda: wf.sleep_until(datetime.max), "calendar"),
    "a wait for a signal without a text": (lambda: wf.wait(5), "got 5 for a name"),  # type: ignore[arg-type]
    "a wait for a signal that nobody can send": (lambda: wf.wait(LONG), "wf.wait got a name of 5000"),
    "a wait for nothing": (lambda: wf.wait_any(), r"wf.wait_any got \(\)"),
    "a wait for what is no task": (lambda: wf.wait_any("a", 5), r"wf.wait_any got \('a', 5\)"),
    "a wait for its own end": (lambda: flows.app.AsyncResult(wf.run_id()).get(), "waits for its own end"),
    "a stream whose name is too long": (lambda: wf.emit(1, LONG), "wf.emit got a name"),
    "a value whose name is too long": (lambda: wf.set(LONG, 1), "wf.set got a name"),
    "a change whose name is too long": (lambda: wf.patched(LONG), "wf.patched got a name"),
    "an approval whose name is too long": (lambda: wf.approval(LONG), "wf.approval got a name"),
    "an undo that was called already": (lambda: wf.on_undo(5), "which cannot be called"),  # type: ignore[arg-type]
}


@flows.app.workflow
def refused(what: str) -> Any:
    return REFUSED[what][0]()


def test_what_cannot_be_meant_fails_its_run_and_says_why(desk: Desk) -> None:
    results = {what: refused.delay(what) for what in REFUSED}
    while desk.turn():
        pass

    for what, result in results.items():
        assert desk.standing(result) == ["FAILURE"], what
        with pytest.raises(WorkflowError, match=REFUSED[what][1]):
            result.get(timeout=0)


@pytest.mark.parametrize(("name", "key"), [(LONG, None), ("go", LONG), ("a\0", None)])
def test_a_signal_that_the_database_cannot_keep_is_refused_to_its_sender(desk: Desk, name: str, key: str | None) -> None:
    result = flows.waiter.delay("go")

    with pytest.raises(WorkflowError, match="Use one of at most 1000"):
        result.signal(name, key=key)


@flows.app.workflow
def patient(pause: float) -> Any:
    return wf.step(_fails, retries=1100, delay=pause, backoff=2.0, max_delay=0.0)


def test_a_pause_that_doubles_a_thousand_times_is_the_longest_one(desk: Desk) -> None:
    result = patient.delay(0.001)

    with pytest.raises(ValueError, match="no"):
        desk.get(result)
    assert desk.conn.execute("SELECT attempts FROM pgtasks.step").fetchone() == (1101,)


def test_a_number_of_thousands_of_digits_fails_the_step_that_gave_it(desk: Desk) -> None:
    result = huge.delay()

    with pytest.raises(EncodeError, match="Step 'huge' returned a int"):
        desk.get(result)


@flows.app.workflow
def huge() -> Any:
    return wf.step(lambda: 10**5000, name="huge")
