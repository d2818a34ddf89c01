"""app.start and app.worker_main run commands from Python"""

import subprocess
import sys

from celery import Celery, signals

from compat.harness import outcome, said, say, show

app = Celery("worker_main")


@app.task
def add(x, y):
    return x + y


@signals.worker_ready.connect
def ready(**kwargs):
    say("ready")


def main():
    if "child" in sys.argv:
        return app.worker_main(argv=["worker", "--loglevel=ERROR", "--concurrency=1", "-n", "main@h"])
    print(outcome(app.worker_main, argv=["status"]).splitlines()[0])
    code = "import importlib; import sys; sys.argv.append('child'); importlib.import_module('worker_main').main()"
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
