"""worker -B runs beat within the worker; its signals tell which way it was started"""

from celery import Celery, signals

from compat.harness import background, said, say, show, worker

app = Celery("embedded_beat")
app.conf.beat_schedule = {"often": {"task": "embedded_beat.tick", "schedule": 0.2, "args": ("tick",)}}


@app.task
def tick(word):
    say(word)


@signals.beat_init.connect
def began(sender, **kwargs):
    say("beat_init", type(sender).__name__)


@signals.beat_embedded_init.connect
def embedded(sender, **kwargs):
    say("beat_embedded_init", type(sender).__name__)


def main():
    with worker("-B"):
        show(sorted(set(said(at_least=4))))
    with background("beat"):
        said(at_least=1 + len(said()))
    show(sorted(set(said())))
