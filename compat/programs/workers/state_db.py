"""--statedb keeps revoked ids over a restart of the worker"""

from celery import Celery

from compat.harness import outcome, scratch, until, worker

app = Celery("state_db")


@app.task
def add(x, y):
    return x + y


def main():
    path = scratch("worker.state")
    with worker("--statedb", path, "-n", "w@h"):
        app.control.revoke("to-be-revoked")
        until(lambda: "to-be-revoked" in (app.control.inspect(["w@h"], timeout=1).revoked() or {}).get("w@h", []))
    late = add.apply_async((1, 1), task_id="to-be-revoked")
    with worker("--statedb", path, "-n", "w@h"):
        print(outcome(late.get, timeout=20))
        print(late.state, add.delay(2, 2).get(timeout=20))
