"""get() tells on the way: every state to on_message, and that it waits to on_interval"""

from celery import Celery

from compat.harness import until, worker

app = Celery("on_message")


@app.task(bind=True)
def works(self, steps):
    for step in range(1, steps + 1):
        self.update_state(state="PROGRESS", meta={"done": step, "of": steps})
    return "all done"


@app.task
def fails():
    raise KeyError("lost")


def main():
    heard, waits = [], []
    with worker():
        result = works.delay(3)
        print(result.get(timeout=20, on_message=heard.append, interval=0.01, on_interval=lambda: waits.append(1)))
        last = heard[-1]
        print(last["status"], last["result"], last["task_id"] == result.id, set(last) >= {"traceback", "children"})
        print({meta["status"] for meta in heard} <= {"PROGRESS", "SUCCESS"})
        calls = []
        print(works.delay(1).get(timeout=20, callback=lambda id, value: calls.append(value)), calls)
        heard.clear()
        print(repr(fails.delay().get(timeout=20, propagate=False, on_message=heard.append)), heard[-1]["status"])
        slow = works.apply_async((1,), countdown=0.3)
        slow.get(timeout=20, interval=0.01, on_interval=lambda: waits.append(1))
        until(lambda: waits)
        print("waited", bool(waits))
