"""A task's own `Request` class is told what came of the task, and can do no harm to the worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from pgtasks import Celery, Task
from pgtasks.contrib.testing.worker import start_worker
from pgtasks.exceptions import Reject, Retry
from pgtasks.signals import task_failure, task_received
from pgtasks.worker import hooks
from pgtasks.worker.request import Request

#: What hooks were told; the worker runs in this process.
told: list[tuple[Any, ...]] = []


class Told(Request):
    def on_success(self, failed__retval__runtime: tuple[bool, Any, float], **kwargs: Any) -> Any:
        failed, retval, runtime = failed__retval__runtime
        told.append(("ended", self.name, failed, None if failed else retval, runtime >= 0))
        return super().on_success(failed__retval__runtime, **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        told.append(("failed", self.name, type(exc_info.exception), return_ok))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_retry(self, exc_info: Any) -> Any:
        told.append(("retried", self.name, str(exc_info.exception.exc), "later" in exc_info.traceback))
        return super().on_retry(exc_info)


class Angry(Request):
    def on_success(self, failed__retval__runtime: tuple[bool, Any, float], **kwargs: Any) -> Any:
        raise RuntimeError("a hook that raises")


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("hooked", broker=database_url, set_as_current=False)
    told.clear()

    class Watched(Task):
        Request = Told

    @app.task(name="works", base=Watched)
    def works() -> str:
        return "fine"

    @app.task(name="fails", base=Watched)
    def fails() -> None:
        raise KeyError("on purpose")

    @app.task(name="again", base=Watched, bind=True)
    def again(self: Any) -> int:
        if not self.request.retries:
            raise self.retry(exc=LookupError("later"), countdown=0)
        return int(self.request.retries)

    @app.task(name="angry")
    def angry() -> str:
        return "fine"

    @app.task(name="plain")
    def plain() -> str:
        return "fine"

    @app.task(name="odd")
    def odd() -> str:
        return "fine"

    app.finalize()
    app.tasks["angry"].Request = Angry
    app.tasks["odd"].Request = "collections:OrderedDict"
    yield app
    app.close()


def test_hooks_are_told_of_success_failure_and_retries(app: Celery) -> None:
    with start_worker(app, pool="solo", perform_ping_check=False):
        assert app.tasks["works"].delay().get(timeout=60) == "fine"
        assert isinstance(app.tasks["fails"].delay().get(timeout=60, propagate=False), KeyError)
        assert app.tasks["again"].delay().get(timeout=60) == 1
        assert app.tasks["plain"].delay().get(timeout=60) == "fine"

    assert told == [
        ("ended", "works", False, "fine", True),
        ("ended", "fails", True, None, True),
        ("failed", "fails", KeyError, True),
        ("ended", "again", True, None, True),
        ("failed", "again", Retry, True),
        ("retried", "again", "later", True),
        ("ended", "again", False, 1, True),
    ]


def test_a_hook_that_raises_and_a_class_that_is_no_request_do_not_stop_the_worker(
    app: Celery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The worker's own set-up takes the root's handlers away, and caplog's with them.
    monkeypatch.setattr(hooks.logger, "handlers", [caplog.handler])
    with start_worker(app, pool="solo", perform_ping_check=False, loglevel="WARNING"):
        assert app.tasks["angry"].delay().get(timeout=60) == "fine"
        assert app.tasks["odd"].delay().get(timeout=60) == "fine"

    assert "A hook of the Request class of task angry" in caplog.text
    assert "a hook that raises" in caplog.text
    assert "The Request class of task 'odd' is <class 'collections.OrderedDict'>" in caplog.text


def test_a_receiver_of_task_received_reads_from_the_request_what_celerys_has(app: Celery) -> None:
    seen: list[dict[str, Any]] = []

    def look(request: Request, **_: Any) -> None:
        names = (
            "content_type",
            "content_encoding",
            "utc",
            "store_errors",
            "stamped_headers",
            "stamps",
            "replaced_task_nesting",
            "groups",
            "connection_errors",
        )
        seen.append({name: getattr(request, name) for name in names})
        seen.append({"body": request.body, "own": request.request_dict["own"], "expires": request.expires})
        assert request.eta is None

    task_received.connect(look)
    try:
        with start_worker(app, pool="solo", perform_ping_check=False):
            app.tasks["plain"].apply_async(headers={"own": "x"}, expires=600).get(timeout=60)
    finally:
        task_received.disconnect(look)

    constant, own = seen
    assert constant == {
        "content_type": "application/json",
        "content_encoding": "utf-8",
        "utc": True,
        "store_errors": True,
        "stamped_headers": [],
        "stamps": {},
        "replaced_task_nesting": 0,
        "groups": [],
        "connection_errors": (),
    }
    assert own["own"] == "x"
    assert own["body"].startswith(b"[[], {}")
    assert own["expires"].tzinfo is not None


def test_a_task_that_rejects_its_message_for_good_has_failed_for_receivers_and_callers_but_not_for_its_own_hooks(
    app: Celery,
) -> None:
    failed = []

    class Own(Task):
        def on_failure(self, *args: Any) -> None:
            failed.append("on_failure")

        def after_return(self, *args: Any) -> None:
            failed.append("after_return")

    @app.task(name="rejects", base=Own)
    def rejects() -> None:
        raise Reject("no use", requeue=False)

    def hear(sender: Any, exception: BaseException, **_: Any) -> None:
        failed.append((sender.name, str(exception)))

    task_failure.connect(hear)
    try:
        with start_worker(app, pool="solo", perform_ping_check=False):
            error = rejects.delay().get(timeout=60, propagate=False)
    finally:
        task_failure.disconnect(hear)

    assert "no use" in str(error)
    assert failed == [("rejects", str(error))]
