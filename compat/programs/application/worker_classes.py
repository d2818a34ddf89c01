"""app.Worker and app.Beat are classes that know their app: subclassed, and started from Python"""

import subprocess
import sys

from celery import Celery

from compat.harness import said, say, show

app = Celery("worker_classes")


@app.task
def add(x, y):
    return x + y


class Telling(app.Worker):
    """Tells when it is ready, as workers with health checks of their own do."""

    def on_consumer_ready(self, consumer):
        super().on_consumer_ready(consumer)
        say("ready", self.hostname, self.app is app)


def main():
    if "child" in sys.argv:
        worker = Telling(hostname="own@h", concurrency=1, loglevel="ERROR", quiet=True)
        worker.start()
        sys.exit(worker.exitcode)
    print(issubclass(Telling, app.Worker), app.Worker.app is app, app.Beat.app is app, app.Worker is app.Worker)
    code = "import importlib; import sys; sys.argv.append('child'); importlib.import_module('worker_classes').main()"
    if Celery.__module__.startswith("pgtasks"):
        code = "import pgtasks; pgtasks.install_as_celery(); " + code
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        said(at_least=1)
        print(add.delay(2, 3).get(timeout=20))
    finally:
        child.terminate()
        print(child.wait(30))
    show(said())
