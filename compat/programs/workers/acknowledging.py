"""Late acknowledgement after a failure: by default the message is done with; it may be rejected instead."""

from celery import Celery

from compat.harness import outcome, said, say, show, worker

app = Celery("acknowledging")


@app.task(bind=True, acks_late=True)
def acknowledged(self):
    say("acknowledged runs, redelivered", self.request.delivery_info["redelivered"])
    raise ValueError("failed")


@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False)
def rejected(self):
    say("rejected runs, redelivered", self.request.delivery_info["redelivered"])
    raise ValueError("failed")


@app.task
def fine():
    return "fine"


def main():
    for _ in range(2):
        with worker():
            print(outcome(acknowledged.delay().get, timeout=10), outcome(rejected.delay().get, timeout=10))
            print(fine.delay().get(timeout=10))
    show(said())
