"""Receivers: weak and strong, by sender, by task name, once by dispatch_uid, failing, disconnected, retried."""

import gc

from celery import Celery, signals
from celery.utils.dispatch import Signal

from compat.harness import said, say, show, worker

app = Celery("receivers")


@app.task
def one():
    return 1


@app.task
def two():
    return 2


@signals.task_success.connect(sender="receivers.one")
def by_name(sender, result, **kwargs):
    say("by name", sender.name, result)


@signals.task_success.connect(sender=two)
def by_task(sender, result, **kwargs):
    say("by task", sender.name, result)


@signals.task_prerun.connect
def failing(**kwargs):
    raise RuntimeError("a receiver fails")


@signals.task_prerun.connect(dispatch_uid="once")
def first(task, **kwargs):
    say("first", task.name)


@signals.task_prerun.connect(dispatch_uid="once")
def second(task, **kwargs):
    say("never: the uid is taken")


def main():
    signal = Signal(name="own", providing_args={"value"})
    seen = []

    class Receiver:
        def method(self, value, **kwargs):
            seen.append(("method", value))

    def local(value, **kwargs):
        seen.append(("local", value))
        return value * 2

    receiver = Receiver()
    signal.connect(receiver.method)
    signal.connect(local, weak=False)
    print([answer for _, answer in signal.send(sender=None, value=1)], seen)
    seen.clear()
    del receiver
    gc.collect()
    print([answer for _, answer in signal.send(sender=None, value=2)], seen, signal.has_listeners())
    signal.connect(lambda **kwargs: seen.append("a lambda"), weak=True)
    gc.collect()
    signal.send(sender=None, value=3)
    print(seen)
    print(signal.disconnect(local), signal.has_listeners(), signal.send(sender=None, value=4))

    @signal.connect(weak=False)
    def bad(**kwargs):
        raise KeyError("bad")

    print([(receiver.__name__, repr(answer)) for receiver, answer in signal.send(sender=None, value=5)])
    print(
        [(receiver.__name__, repr(answer)) for receiver, answer in signal.send_robust(sender=None, value=5)]
    )
    print(repr(signal)[:12], signal.name)

    @signal.connect(sender="only me", weak=False)
    def picky(sender, **kwargs):
        return "picked"

    print(len(signal.send(sender="only me", value=6)), len(signal.send(sender="another", value=6)))
    with worker():
        print(one.delay().get(timeout=10), two.delay().get(timeout=10))
    show(sorted(said()))
