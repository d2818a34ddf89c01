"""app.backend as applications use it: storing, reading, forgetting results by hand."""

from celery import Celery, states
from celery.backends.base import DisabledBackend

from compat.harness import outcome, worker

app = Celery("backend")
META = {"children", "date_done", "result", "status", "task_id", "traceback"}


@app.task
def add(a, b):
    return a + b


def main():
    backend = app.backend
    print(
        backend.store_result("own-id", {"a": 1}, states.SUCCESS),
        backend.get_state("own-id"),
        backend.get_result("own-id"),
    )
    backend.store_result("own-id-2", {"step": 1}, "PROGRESS")
    print(backend.get_state("own-id-2"), backend.get_result("own-id-2"), backend.get_traceback("own-id-2"))
    backend.mark_as_failure("failed-id", ValueError("by hand"), traceback="a traceback")
    print(outcome(app.AsyncResult("failed-id").get, timeout=1), app.AsyncResult("failed-id").traceback)
    backend.mark_as_done("done-id", [1, 2])
    print(app.AsyncResult("done-id").get(timeout=1), backend.get_children("done-id") or [])
    backend.forget("own-id")
    print(backend.get_state("own-id"), backend.get_result("own-id"))
    meta = backend.get_task_meta("done-id")
    print(sorted(META & set(meta)), meta["status"], meta["result"], meta["task_id"])
    with worker():
        result = add.delay(1, 2)
        print(
            result.get(timeout=10),
            backend.get_task_meta(result.id)["result"],
            sorted(META & set(backend.get_task_meta(result.id))),
        )
    disabled = Celery("disabled", backend="disabled://", set_as_current=False)
    print(isinstance(disabled.backend, DisabledBackend))
