"""revoke(terminate=True) kills the process of a running task; without terminate the task goes on."""

from pathlib import Path

from celery import Celery
from celery.signals import task_failure, task_revoked

from compat.harness import outcome, said, say, scratch, show, until, worker

app = Celery("revoke_running")


@app.task(bind=True)
def blocked(self, name):
    say("running", name)
    until(Path(scratch(name)).exists)
    return name


@app.task
def fine():
    return "fine"


@task_revoked.connect
def revoked(sender, request, terminated, signum, expired, **kwargs):
    say("task_revoked", sender.name, terminated, signum, expired)


@task_failure.connect
def failed(sender, **kwargs):
    say("task_failure", sender.name)


def main():
    with worker("-n", "w@h"):
        result = blocked.delay("goes on")
        until(lambda: said(1))
        result.revoke()
        until(lambda: result.id in app.control.inspect().revoked()["w@h"])
        Path(scratch("goes on")).touch()
        print(result.get(timeout=10))
        for signal in (None, "SIGKILL"):
            result = blocked.delay(f"killed by {signal}")
            until(lambda: said()[-1].startswith("running killed"))
            result.revoke(terminate=True, signal=signal)
            print(repr(result.get(timeout=10, propagate=False)), result.state, outcome(result.get, timeout=1))
            print(fine.delay().get(timeout=10))
    show(said())
