"""The guide's monitor: a Receiver with one handler per event, and a State that knows the tasks"""

import threading

from celery import Celery

from compat.harness import until, worker

app = Celery("real_time")


@app.task
def fails(x):
    raise ValueError(f"no {x}")


@app.task
def works(x):
    return x


class Monitor(threading.Thread):
    def __init__(self):
        super().__init__(daemon=True)
        self.heard, self.listens = [], threading.Event()

    def run(self):
        state = app.events.State()

        def announce_failed_tasks(event):
            state.event(event)
            task = state.tasks.get(event["uuid"])
            self.heard.append(("failed", task.name, task.info()["args"], task.exception))

        def announce_others(event):
            state.event(event)
            if event["type"] == "task-succeeded":
                task = state.tasks.get(event["uuid"])
                self.heard.append((task.state, task.name, task.result, task.worker.hostname))
            self.listens.set()

        with app.connection() as connection:
            recv = app.events.Receiver(
                connection, handlers={"task-failed": announce_failed_tasks, "*": announce_others}
            )
            recv.capture(limit=None, timeout=None, wakeup=True)


def main():
    monitor = Monitor()
    with worker("-E", "-n", "w@h", "--heartbeat-interval=1"):
        monitor.start()
        assert monitor.listens.wait(60)
        fails.delay(1)
        until(lambda: len(monitor.heard) >= 1, patience_s=60)
        works.delay(2)
        until(lambda: len(monitor.heard) >= 2, patience_s=60)
    for line in monitor.heard:
        print(line)
