"""A task sent by a task is its child: root and parent ids, children, and the refusal to wait inside a task."""

from celery import Celery
from celery.result import allow_join_result

from compat.harness import outcome, worker

app = Celery("subtasks")


@app.task(bind=True)
def ids(self):
    return self.request.root_id, self.request.parent_id


@app.task(bind=True)
def parent(self):
    children = [ids.delay(), ids.apply_async(add_to_parent=False), ids.delay()]
    return self.request.id, [child.id for child in children], len(self.request.children)


@app.task(bind=True, trail=False)
def without_trail(self):
    ids.delay()
    return self.request.children


@app.task
def waits():
    return str(outcome(ids.delay().get, timeout=1)).split("!")[0]


@app.task
def waits_with_leave():
    with allow_join_result():
        first = ids.delay().get(timeout=10)
    second = ids.delay().get(timeout=10, disable_sync_subtasks=False)
    return len(first), len(second)


@app.task(bind=True)
def explicit(self):
    return ids.apply_async(root_id="my-root", parent_id="my-parent").id


def main():
    with worker("-c", "2"):
        result = parent.delay()
        own, children, remembered = result.get(timeout=10)
        print(own == result.id, remembered, [child.id for child in result.children] == [children[0], children[2]])
        for child in children:
            print(app.AsyncResult(child).get(timeout=10) == [own, own])
        print(without_trail.delay().get(timeout=10))
        print(waits.delay().get(timeout=10))
        print(waits_with_leave.delay().get(timeout=10))
        print(app.AsyncResult(explicit.delay().get(timeout=10)).get(timeout=10))
        print(len(list(result.collect())), result.graph and len(list(result.graph)))
