"""The last app made is the current one of its thread; other threads see the default app."""

import threading

from celery import Celery, current_app, current_task, shared_task
from celery._state import get_current_app, get_current_task
from celery.app import app_or_default, default_app

first = Celery("first")
app = Celery("second")
aside = Celery("aside", set_as_current=False)


@shared_task
def whose():
    return whose.app.main


@app.task
def running_task():
    return current_task.name, get_current_task().name


def main():
    print(current_app.main, get_current_app() is app, app_or_default().main, app_or_default(first).main)
    first.set_current()
    print(current_app.main, whose())
    app.set_current()
    print(current_app.main, whose(), current_app._get_current_object() is app)
    print(running_task(), bool(current_task))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(current_app.main))
    thread.start()
    thread.join()
    print("other thread:", seen)
    app.set_default()
    thread = threading.Thread(target=lambda: seen.append(current_app.main))
    thread.start()
    thread.join()
    print("after set_default:", seen[-1], default_app.main)
    print(sorted(name for name in aside.tasks if not name.startswith("celery.")))
    print(sorted(name for name in first.tasks if not name.startswith("celery.")))
