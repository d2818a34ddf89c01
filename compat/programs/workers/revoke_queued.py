"""Revoking a queued or scheduled task keeps it from running; its result is TaskRevokedError."""

from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.signals import task_revoked

from compat.harness import outcome, said, say, show, until, worker

app = Celery("revoke_queued")


@app.task
def add(a, b):
    say("ran", a, b)
    return a + b


@task_revoked.connect
def revoked(sender, request, terminated, signum, expired, **kwargs):
    say("task_revoked", sender.name, terminated, signum, expired)


def main():
    with worker("-n", "w@h"):
        later = add.apply_async((1, 2), countdown=600)
        until(lambda: app.control.inspect().scheduled()["w@h"])
        later.revoke()
        until(lambda: later.id in app.control.inspect().revoked()["w@h"])
        soon = add.apply_async((3, 4), countdown=1)
        app.control.revoke(soon.id)
        print(repr(soon.get(timeout=10, propagate=False)), soon.state, isinstance(soon.result, TaskRevokedError))
        print(outcome(soon.get, timeout=1), soon.failed(), soon.successful(), soon.traceback)
        several = [add.apply_async((n, n), countdown=1) for n in range(2)]
        app.control.revoke([result.id for result in several])
        print([repr(result.get(timeout=10, propagate=False)) for result in several])
        done = add.delay(5, 6)
        print(done.get(timeout=10))
        done.revoke()
        add.delay(7, 8).get(timeout=10)
        print(done.state)
        outcome(until, lambda: sum(line.startswith("task_revoked") for line in said()) >= 3, patience_s=6)
    show(sorted(set(said())))
