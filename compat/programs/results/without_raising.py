"""propagate=False, info, state and traceback: every way to ask how a task ended without an exception."""

from celery import Celery, chain, states
from celery.exceptions import Ignore

from compat.harness import outcome, until, worker

app = Celery("without_raising", task_track_started=True)


@app.task
def fine():
    return {"a": 1}


@app.task
def fail():
    raise RuntimeError("no")


@app.task(bind=True)
def own_state(self):
    self.update_state(state="HALFWAY", meta={"done": 50})
    raise Ignore()


@app.task(bind=True)
def own_failure(self):
    self.update_state(
        state=states.FAILURE,
        meta={"exc_type": "ValueError", "exc_message": ["custom"], "exc_module": "builtins"},
    )
    raise Ignore()


@app.task(bind=True)
def progress(self):
    self.update_state(state="PROGRESS", meta={"current": 1})
    return app.AsyncResult(self.request.id).state, app.AsyncResult(self.request.id).info


def tell(name, result):
    until(lambda: result.state not in ("PENDING", "STARTED"))
    print(
        f"{name:10} {result.state:8} {result.result!r} {result.info!r} {result.ready()} {result.successful()} {result.failed()}"
    )


def main():
    pending = app.AsyncResult("never-sent")
    print(
        pending.state,
        pending.status,
        pending.result,
        pending.info,
        pending.ready(),
        pending.traceback,
        pending.children,
    )
    print(
        outcome(pending.get, timeout=0.05, propagate=False), pending.date_done, pending.task_id, pending.name
    )
    with worker():
        tell("fine", result := fine.delay())
        print(
            result.get(propagate=False), result.traceback, result.date_done is not None, result.maybe_throw()
        )
        tell("fail", result := fail.delay())
        print(
            repr(result.get(propagate=False)),
            outcome(result.maybe_throw),
            outcome(result.get),
            result.failed(),
        )
        print(repr(result.maybe_throw(propagate=False)), result.traceback.splitlines()[0])
        seen, result = [], fail.delay()
        print(
            repr(
                result.get(
                    timeout=10, propagate=False, callback=lambda task_id, value: seen.append(repr(value))
                )
            ),
            seen,
        )
        tell("own state", own_state.delay())
        tell("own fail", own_failure.delay())
        print(progress.delay().get(timeout=10))
        result = chain(fine.si(), fail.si(), fine.si())()
        print(
            repr(result.get(timeout=10, propagate=False)),
            repr(result.parent.get(propagate=False)),
            result.parent.parent.get(),
        )
        print(outcome(result.get, follow_parents=False), outcome(result.parent.parent.get))
        result.forget()
        print(result.state, result.result)
