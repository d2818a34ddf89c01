"""autodiscover_tasks imports the `tasks` module of each package, but only when the app needs its tasks."""

import sys

from celery import Celery

from compat.harness import outcome, worker

app = Celery("autodiscovery")
app.autodiscover_tasks(["autodiscovered", "autodiscovered.nested"])
app.autodiscover_tasks(lambda: ["autodiscovered"], related_name="jobs")


def main():
    print("before:", "autodiscovered.tasks" in sys.modules)
    with worker():
        print(app.send_task("autodiscovered.tasks.one").get(timeout=10))
        print(app.send_task("autodiscovered.nested.tasks.two").get(timeout=10))
        print(app.send_task("autodiscovered.jobs.three").get(timeout=10))
    print("here, still:", "autodiscovered.tasks" in sys.modules)
    app.loader.import_default_modules()
    print("after importing:", sorted(name for name in app.tasks if name.startswith("auto")))
    forced = Celery("forced", set_as_current=False)
    forced.autodiscover_tasks(["json"], related_name="no_such_module_there", force=True)
    print(outcome(forced.autodiscover_tasks, ["no_such_package_here"], force=True))
