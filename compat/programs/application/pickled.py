"""Apps, tasks, signatures and results survive pickling, and are the same ones afterwards"""

import pickle

from celery import Celery, chain, group, signature

app = Celery("pickled", set_as_current=True)
app.conf.task_default_queue = "mine"


@app.task
def add(x, y):
    return x + y


def again(value):
    return pickle.loads(pickle.dumps(value))


def main():
    other = again(app)
    print(type(other).__name__, other.main, other.conf.task_default_queue)
    print(again(add) is add, again(add).name)
    sig = add.s(1, 2).set(queue="q", link=add.s(3))
    print(again(sig) == sig, type(again(sig)).__name__, again(sig).options["queue"])
    for canvas in (chain(add.s(1, 2), add.s(3)), group(add.s(1, 2), add.s(3, 4)), group(add.s(1, 2)) | add.s(4)):
        copy = again(canvas)
        print(type(copy).__name__, copy == canvas, repr(copy) == repr(canvas))
    result = app.AsyncResult("some-id")
    print(again(result) == result, again(result).id)
    members = app.GroupResult("group-id", [app.AsyncResult("one"), app.AsyncResult("two")])
    print(again(members) == members, [member.id for member in again(members)])
    print(signature(dict(sig)) == sig)
