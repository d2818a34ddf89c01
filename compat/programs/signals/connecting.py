"""How handlers are connected, filtered by sender, found again, disconnected; and what their errors do."""

import gc

from celery import Celery
from celery.signals import before_task_publish, task_prerun, task_success
from celery.utils.dispatch import Signal

from compat.harness import outcome, said, say, show, worker

app = Celery("connecting")


@app.task
def first():
    return "first"


@app.task
def second():
    return "second"


@task_prerun.connect(sender=first)
def only_first(sender, **kwargs):
    say("only_first", sender.name)


@task_prerun.connect(sender="connecting.second")
def by_name(sender, **kwargs):
    say("by_name", sender.name)


@task_prerun.connect
def broken(**kwargs):
    say("broken handler")
    raise RuntimeError("in a handler")


@task_success.connect
def after_broken(sender, result, **kwargs):
    say("result", result)


def main():
    with worker() as running:
        first.delay().get(timeout=10), second.delay().get(timeout=10)
    show(said())
    print(any("in a handler" in line for line in running.log()))

    signal = Signal(name="my_signal", providing_args={"a"})
    print(signal.send("sender", a=1), signal.has_listeners())

    @signal.connect
    def one(sender, a, **kwargs):
        return "one", sender, a

    @signal.connect(sender="x", dispatch_uid="unique")
    def two(sender, **kwargs):
        return "two"

    @signal.connect(sender="x", dispatch_uid="unique")
    def replaced(sender, **kwargs):
        return "replaced?"

    print([(handler.__name__, value) for handler, value in signal.send("x", a=1)])
    print([value for _, value in signal.send("y", a=2)], signal.has_listeners())
    print(
        signal.disconnect(one),
        signal.disconnect(sender="x", dispatch_uid="unique"),
        signal.disconnect(two),
        signal.send("x", a=3),
    )

    @signal.connect
    def failing(sender, **kwargs):
        raise ValueError("failing")

    print(
        [repr(value) for _, value in signal.send("x", a=1)], [repr(value) for _, value in signal.send_robust("x", a=1)]
    )
    signal.disconnect(failing)

    def strong(sender, **kwargs):
        return "kept"

    signal.connect(lambda sender, **kwargs: "weak", weak=True)
    signal.connect(lambda sender, **kwargs: "strong", weak=False)
    gc.collect()
    print(
        [value for _, value in signal.send("x", a=1)], repr(signal), outcome(signal.connect, "not callable") is not None
    )
    print(outcome(signal.connect, lambda sender: None, weak=False) is not None)

    class Listener:
        def method(self, sender, **kwargs):
            return "method"

    listener = Listener()
    signal.connect(listener.method)
    print([value for _, value in signal.send("x", a=1) if value == "method"])
    del listener
    gc.collect()
    print(
        [value for _, value in signal.send("x", a=1) if value == "method"],
        repr(before_task_publish).startswith("<Signal: before_task_publish"),
    )
