"""A loader of one's own reads the configuration and hears of the worker's life"""

from celery import Celery
from celery.loaders.base import BaseLoader

from compat.harness import said, say, show, worker


class Loader(BaseLoader):
    def read_configuration(self, env="CELERY_CONFIG_MODULE"):
        say("read_configuration")
        self.configured = True
        return {"task_default_queue": "loaded", "task_serializer": "json", "imports": ()}

    def on_worker_init(self):
        say("on_worker_init")

    def on_worker_process_init(self):
        say("on_worker_process_init")

    def on_task_init(self, task_id, task):
        say("on_task_init", task.name, bool(task_id))

    def on_process_cleanup(self):
        say("on_process_cleanup")

    def on_worker_shutdown(self):
        say("on_worker_shutdown")


app = Celery("own_loader", loader=Loader)


@app.task
def add(x, y):
    return x + y


def main():
    print(type(app.loader).__name__, app.conf.task_default_queue, isinstance(app.loader, BaseLoader))
    with worker():
        print(add.delay(1, 2).get(timeout=20))
    show(sorted(set(said())))
