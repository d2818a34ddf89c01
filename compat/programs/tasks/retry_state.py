"""While a task waits for its retry its state is RETRY and its result the reason."""

from datetime import UTC, datetime, timedelta

from celery import Celery

from compat.harness import outcome, until, worker

app = Celery("retry_state")


@app.task(bind=True, max_retries=1)
def later(self):
    raise self.retry(exc=ConnectionError("down"), countdown=600)


@app.task(bind=True)
def at(self):
    if self.request.retries:
        return "again"
    self.retry(eta=datetime.now(UTC) + timedelta(seconds=0.3), exc=ValueError("soon"))


def main():
    with worker():
        result = later.delay()
        until(lambda: result.state == "RETRY")
        print(result.state, repr(result.result), result.ready(), result.failed(), result.successful())
        print(result.traceback.splitlines()[-1], "|", result.traceback.splitlines()[0])
        print(outcome(result.get, timeout=0.1))
        print(at.delay().get(timeout=10))
