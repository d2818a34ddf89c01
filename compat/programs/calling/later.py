"""countdown and eta delay a task, expires gives it up: as numbers, dates or text."""

from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.exceptions import TaskRevokedError

from compat.harness import outcome, until, worker

app = Celery("later")


@app.task(bind=True)
def when(self):
    return self.request.eta, self.request.expires


@app.task(expires=0.001)
def short_lived():
    return "ran"


def now():
    return datetime.now(UTC)


def main():
    gone = [
        when.apply_async(expires=0.001),
        when.apply_async(expires=now() - timedelta(seconds=5)),
        when.apply_async(expires=(now() - timedelta(seconds=5)).isoformat()),
        short_lived.delay(),
    ]
    with worker():
        for result in gone:
            until(result.ready)
            print(result.state, isinstance(result.result, TaskRevokedError), outcome(result.get, timeout=1))
        print(short_lived.apply_async(expires=600).get(timeout=10))

        sent = now()
        for options in (
            {"countdown": 0.3},
            {"eta": sent + timedelta(seconds=0.3)},
            {"countdown": 0.2, "eta": sent + timedelta(days=1)},
        ):
            eta, expires = when.apply_async(**options).get(timeout=10)
            print(datetime.fromisoformat(eta) > sent, datetime.fromisoformat(eta) < now(), expires)
        eta, expires = when.apply_async(expires=600).get(timeout=10)
        left = datetime.fromisoformat(expires) - now()
        print(eta, timedelta(seconds=590) < left < timedelta(seconds=600), datetime.fromisoformat(expires).utcoffset())
        print(when.apply_async(eta=now() - timedelta(days=1)).get(timeout=10)[0] is None)
        print(when.apply_async(countdown=0).get(timeout=10)[0] is None)
