"""Subtasks inherit their parent's priority only when told to; queues are never inherited."""

import os

from celery import Celery, chain

from compat.harness import worker

app = Celery("inherited_priority", task_inherit_parent_priority=bool(os.environ.get("INHERIT")))


@app.task(bind=True)
def look(self, *args):
    return self.request.delivery_info["priority"], self.request.delivery_info["routing_key"]


@app.task(bind=True)
def parent(self):
    return look.delay().id


def main():
    for inherit in (False, True):
        app.conf.task_inherit_parent_priority = inherit
        os.environ["INHERIT"] = "yes" if inherit else ""
        with worker("-Q", "celery,other"):
            child = parent.apply_async(priority=5, queue="other").get(timeout=10)
            print(inherit, app.AsyncResult(child).get(timeout=10))
            print(chain(look.s(), look.s()).apply_async(priority=4).get(timeout=10))
