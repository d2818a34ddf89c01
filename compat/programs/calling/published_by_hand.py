"""Messages that a program of another language would send: the protocol as documented, on a plain connection"""

import json
import os
import socket
from uuid import uuid4

from celery import Celery

from compat.harness import worker

app = Celery("published_by_hand")


@app.task(bind=True)
def add(self, x, y=0):
    return [x + y, self.request.id, self.request.root_id, self.request.get("origin")]


def send(producer, task_id, args, kwargs, embed, **headers):
    producer.publish(
        (args, kwargs, embed),
        serializer="json",
        routing_key="celery",
        exchange="",
        correlation_id=task_id,
        headers={"lang": "py", "task": "published_by_hand.add", "id": task_id, "root_id": task_id, **headers},
    )


def main():
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    with worker(), app.connection_for_write() as connection:
        producer = connection.Producer(auto_declare=False)
        for args, kwargs, headers in (
            ((1, 2), {}, {}),
            ((1,), {"y": 5}, {"origin": f"{os.getpid()}@{socket.gethostname()}"}),
            ((1, 1), {}, {"argsrepr": "(1, 1)", "kwargsrepr": "{}", "parent_id": None, "group": None, "retries": 0}),
        ):
            task_id = str(uuid4())
            send(producer, task_id, args, kwargs, embed, **headers)
            value, own, root, origin = app.AsyncResult(task_id).get(timeout=20)
            print(value, own == task_id, root == task_id, bool(origin))
        followed = str(uuid4())
        step = json.loads(json.dumps(add.s(100)))
        send(producer, followed, (1, 2), {}, {**embed, "callbacks": [dict(step)]})
        print(app.AsyncResult(followed).get(timeout=20)[0])
