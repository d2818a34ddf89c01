"""-Q chooses the queues a worker reads, -X leaves some out; purge empties them."""

from celery import Celery
from kombu import Queue

from compat.harness import said, say, show, worker

app = Celery("queues")
app.conf.task_queues = [Queue("celery"), Queue("video"), Queue("mail")]


@app.task
def note(word):
    say(word)


def main():
    sent = {name: note.apply_async((name,), queue=name) for name in ("celery", "video", "mail")}
    with worker("-Q", "video"):
        sent["video"].get(timeout=10)
        print({name: result.state for name, result in sent.items()})
    with worker("-X", "mail"):
        sent["celery"].get(timeout=10)
        print({name: result.state for name, result in sent.items()})
    with worker() as running:
        sent["mail"].get(timeout=10)
        banner = [line.split()[1] for line in running.log() if ".> " in line and "exchange=" in line]
        print(sorted(banner))
    show(said())
    for n in range(3):
        note.delay(n)
    print("purged", app.control.purge(), "again", app.control.purge(), "discard_all", app.control.discard_all())
