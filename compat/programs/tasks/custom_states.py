"""update_state publishes progress under any state name, with any serialisable meta."""

from pathlib import Path

from celery import Celery, states

from compat.harness import outcome, scratch, until, worker

app = Celery("custom_states")


@app.task(bind=True)
def working(self):
    self.update_state(state="PROGRESS", meta={"done": 1, "of": 3})
    until(Path(scratch("go")).exists)
    self.update_state(meta={"only": "meta"}, state="SECOND")
    until(Path(scratch("end")).exists)
    return "done"


@app.task(bind=True)
def for_another(self, task_id):
    self.update_state(task_id=task_id, state="OUTSIDE", meta=["by", "another"])


@app.task(bind=True)
def as_failure(self):
    self.update_state(
        state=states.FAILURE, meta={"exc_type": "ValueError", "exc_message": ["by hand"], "exc_module": "builtins"}
    )
    from celery.exceptions import Ignore

    raise Ignore()


def main():
    with worker():
        result = working.delay()
        until(lambda: result.state == "PROGRESS")
        print(result.state, result.info, result.result, result.ready(), result.successful(), result.failed())
        print(outcome(result.get, timeout=0.1))
        Path(scratch("go")).touch()
        until(lambda: result.state == "SECOND")
        print(result.info)
        Path(scratch("end")).touch()
        print(result.get(timeout=10), result.state, result.info)

        other = app.AsyncResult("an-id-of-my-own")
        for_another.delay(other.id).get(timeout=10)
        print(other.state, other.info)
        failing = as_failure.delay()
        until(failing.ready)
        print(failing.state, repr(failing.result), outcome(failing.get, timeout=1))
