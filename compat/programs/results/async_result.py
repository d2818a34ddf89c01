"""AsyncResult from the first look to forget: states, values, errors, timeouts."""

import copy
import pickle
from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.result import AsyncResult

from compat.harness import outcome, worker

app = Celery("async_result")


@app.task
def add(a, b):
    return a + b


@app.task
def fail():
    raise KeyError("failed")


def main():
    pending = add.delay(1, 2)
    print(
        pending.state,
        pending.status,
        pending.result,
        pending.info,
        pending.ready(),
        pending.successful(),
        pending.failed(),
    )
    print(
        outcome(pending.get, timeout=0.1),
        outcome(pending.get, timeout=0),
        pending.traceback,
        pending.date_done,
        pending.children,
    )
    with worker():
        print(
            pending.get(timeout=10),
            pending.wait(timeout=1),
            pending.result,
            pending.info,
            pending.state,
            pending.ready(),
            pending.successful(),
        )
        done = pending.date_done
        print(type(done).__name__, done.tzinfo is not None, abs(datetime.now(UTC) - done) < timedelta(minutes=1))
        failed = fail.delay()
        print(
            outcome(failed.get, timeout=10),
            repr(failed.get(propagate=False)),
            failed.state,
            repr(failed.result),
            failed.failed(),
        )
        print(
            failed.traceback.splitlines()[0],
            failed.traceback.splitlines()[-1],
            outcome(failed.maybe_throw),
            outcome(failed.maybe_reraise),
        )
        print(failed.maybe_throw(propagate=False).__class__.__name__, pending.maybe_throw())
        found = AsyncResult(pending.id)
        print(
            found == pending,
            found == pending.id,
            found != failed,
            hash(found) == hash(pending),
            len({found, pending}),
            str(found) == pending.id,
        )
        print(
            copy.copy(found) == pending,
            pickle.loads(pickle.dumps(found)) == pending,
            repr(found) == f"<AsyncResult: {pending.id}>",
        )
        print(
            found.as_tuple()[0][0] == pending.id,
            found.as_tuple()[1],
            found.as_list() == [pending.id],
            found.parent,
            found.supports_native_join in (True, False),
        )
        seen = []
        print(add.delay(3, 4).get(timeout=10, callback=lambda task_id, value: seen.append(value)), seen)
        found.forget()
        print(found.state, found.result, AsyncResult(pending.id).state)
        ignored = add.apply_async((1, 1), ignore_result=True)
        print(ignored.ignored, ignored.get())
        print(failed.exists(), AsyncResult("no-such-id").exists(), AsyncResult("no-such-id").ready())
        print(isinstance(add.AsyncResult(failed.id), app.AsyncResult), app.AsyncResult.app is app)
        later = add.apply_async((5, 5), countdown=0.3)
        called = []
        later.then(lambda result: called.append(result.result))
        print(later.get(timeout=10), called)
