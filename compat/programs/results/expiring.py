"""result_expires: of the task, as number, timedelta and setting; forgotten results; results that stay"""

from datetime import timedelta

from celery import Celery

from compat.harness import outcome, worker

app = Celery("expiring")


@app.task
def add(x, y):
    return x + y


@app.task(ignore_result=True)
def quiet():
    return 1


def main():
    print(app.conf.result_expires, int(app.backend.expires))
    other = Celery("other", set_as_current=False)
    other.conf.result_expires = timedelta(hours=2)
    print(int(other.backend.expires))
    other.conf.result_expires = 60
    print(Celery("third", changes={"result_expires": 60}, set_as_current=False).backend.expires)
    with worker():
        result = add.delay(1, 2)
        print(result.get(timeout=20), result.state)
        result.forget()
        print(app.AsyncResult(result.id).state, app.AsyncResult(result.id).result)
        none = quiet.delay()
        print(none.get(timeout=20), add.delay(0, 0).get(timeout=20), none.state, none.ignored)
        kept = add.apply_async((1, 1), ignore_result=False)
        dropped = add.apply_async((1, 1), ignore_result=True)
        print(kept.get(timeout=20), dropped.get(timeout=20), app.AsyncResult(dropped.id).state)
        print(outcome(app.backend.cleanup))
