"""result_extended keeps name, arguments, worker, retries and queue with the result."""

from celery import Celery, group

from compat.harness import worker

app = Celery("extended", result_extended=True)


@app.task
def add(a, b=0):
    return a + b


@app.task
def fail():
    raise ValueError("failed")


def main():
    with worker("-n", "w@h"):
        for result in (add.delay(1, b=2), add.apply_async((1,), retries=2, priority=3)):
            result.get(timeout=10)
            print(result.name, result.args, result.kwargs, result.worker, result.retries, result.queue)
        failed = fail.delay()
        failed.get(timeout=10, propagate=False)
        print(failed.name, failed.args, failed.worker)
        meta = app.backend.get_task_meta(result.id)
        print(sorted(meta), meta["status"])
        grouped = group(add.s(1, 1), add.s(2, 2))()
        grouped.get(timeout=10)
        print(app.backend.get_task_meta(grouped.results[0].id)["group_id"] == grouped.id)
