"""Workers and tasks tell what happens to them as events."""

import threading

from celery import Celery
from celery.events.state import State

from compat.harness import show, until, worker

app = Celery("events", task_send_sent_event=True, worker_send_task_events=True)


@app.task
def add(a, b):
    return a + b


@app.task
def fail():
    raise ValueError("failed")


@app.task(bind=True)
def custom(self):
    self.send_event("task-progress", done=1)
    if not self.request.retries:
        self.retry(countdown=0, exc=KeyError("again"))


FIELDS = (
    "name",
    "args",
    "kwargs",
    "retries",
    "queue",
    "exchange",
    "routing_key",
    "hostname",
    "result",
    "exception",
    "done",
    "sw_ident",
)


def main():
    heard, state = [], State()
    with app.connection_for_read() as connection:

        def listen(event):
            state.event(event)
            heard.append(event)

        receiver = app.events.Receiver(connection, handlers={"*": listen})

        def capture():
            try:
                receiver.capture(limit=None, timeout=60, wakeup=True)
            except Exception:
                pass

        threading.Thread(target=capture, daemon=True).start()
        with worker("-n", "w@h", "-E"):
            until(lambda: any(event["type"].startswith("worker-") for event in heard))
            for result in (add.delay(1, 2), fail.delay(), custom.delay()):
                result.get(timeout=10, propagate=False)
            until(lambda: sum(event["type"] == "task-succeeded" for event in heard) == 2)
        until(lambda: any(event["type"] == "worker-offline" for event in heard))
        receiver.should_stop = True
    kinds = {event["type"] for event in heard}
    print(sorted(kinds))
    for kind in sorted(kinds):
        event = next(event for event in heard if event["type"] == kind)
        hostname = "a client" if event["hostname"].startswith("gen") else event["hostname"]
        show(
            [
                (kind, sorted(set(event) - {"local_received", "clock"})),
                [(name, hostname if name == "hostname" else event[name]) for name in FIELDS if name in event],
            ]
        )
    print(sorted((task.name, task.state, task.result) for task in state.tasks.values() if task.name))
    print(sorted(state.workers))
