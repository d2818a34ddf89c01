"""A visitor stamps the tasks of a canvas; stamps travel as headers to the worker."""

from celery import Celery, chain, chord, group
from celery.canvas import StampingVisitor

from compat.harness import said, say, show, worker

app = Celery("stamping", result_extended=True)


class Tenant(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"tenant": "acme", "task": sig.task, "stamped_headers": ["tenant"]}


class Everything(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"kind": "signature"}

    def on_group_start(self, sig, **headers):
        return {"in_group": True}

    def on_chain_start(self, sig, **headers):
        return {"in_chain": True}

    def on_chord_header_start(self, sig, **headers):
        return super().on_chord_header_start(sig, **headers)

    def on_chord_body(self, sig, **headers):
        return {"in_body": True}

    def on_callback(self, callback, **headers):
        return {"is_callback": True}

    def on_errback(self, errback, **headers):
        return {"is_errback": True}


@app.task(bind=True)
def stamps(self, *args):
    return {"stamps": dict(sorted(self.request.stamps.items())), "names": sorted(self.request.stamped_headers or [])}


@app.task(bind=True)
def note(self, *args):
    say("note", sorted(self.request.stamps.items()), sorted(self.request.stamped_headers or []))


@app.task(bind=True)
def retried(self):
    if not self.request.retries:
        self.retry(countdown=0)
    return self.request.stamps


@app.task(bind=True)
def replaced(self):
    self.replace(stamps.s())


def main():
    with worker():
        print(stamps.delay().get(timeout=10))
        signature = stamps.s()
        signature.stamp(Tenant())
        print(signature.options.get("stamped_headers"), signature.options.get("tenant"))
        print(signature.delay().get(timeout=10))
        by_hand = stamps.s()
        by_hand.stamp(order=7, kind=["a", "b"])
        print(by_hand.apply_async().get(timeout=10))
        for canvas in (
            chain(stamps.s(), stamps.s()),
            group(stamps.s(), stamps.s()),
            chord([stamps.s(), stamps.s()], stamps.s()),
        ):
            canvas.stamp(Everything())
            result = canvas.delay()
            print(result.get(timeout=10))
            if result.parent:
                print("    parent:", result.parent.get())
        linked = stamps.s().set(link=note.s())
        linked.stamp(Everything())
        linked.delay().get(timeout=10)
        again = retried.s()
        again.stamp(once=1)
        print(again.delay().get(timeout=10))
        for task in (replaced.s(),):
            task.stamp(kept="yes")
            print(task.delay().get(timeout=10))
        stamps.delay().get(timeout=10)
    show(said())
