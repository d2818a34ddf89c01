"""The banner and the log of a worker say which app, queues and tasks it has, and when it is ready."""

from celery import Celery

from compat.harness import show, until, worker

app = Celery("banner")


@app.task
def first():
    pass


@app.task(name="named.task")
def second():
    pass


def main():
    with worker("-n", "w1@h", "-c", "2", "-Q", "celery,extra", "-E") as running:
        until(lambda: any("ready." in line for line in running.log()))
    lines = running.log()
    words = (".> concurrency", ".> task events", ".> extra", ".> celery", "  . ")
    show(line[line.index(". " if "  . " in line else ".>") :] for line in lines if any(word in line for word in words))
    print([line.split("] ")[-1] for line in lines if "ready." in line or "shutdown" in line])
