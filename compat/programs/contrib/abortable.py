"""celery.contrib.abortable: a task that looks whether it should stop."""

from celery import Celery
from celery.contrib.abortable import AbortableAsyncResult, AbortableTask

from compat.harness import said, say, until, worker

app = Celery("abortable")


@app.task(bind=True, base=AbortableTask)
def patient(self):
    say("running", self.is_aborted())
    until(self.is_aborted)
    return "stopped"


def main():
    with worker():
        result = patient.delay()
        print(type(result).__name__, result.is_aborted())
        said(at_least=1)
        AbortableAsyncResult(result.id).abort()
        print(result.is_aborted(), result.state)
        until(lambda: result.state == "SUCCESS")
        print(result.get(timeout=10))
    print(said())
