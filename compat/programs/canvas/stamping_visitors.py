"""Visitors walk a canvas in order, stamp what they like, and add to or replace the stamps that are there."""

from celery import Celery, chain, chord, group
from celery.canvas import StampingVisitor

from compat.harness import show, worker

app = Celery("stamping_visitors", result_extended=True)


@app.task(bind=True)
def stamps(self, *args):
    return sorted((self.request.stamps or {}).items()), sorted(self.request.stamped_headers or [])


class Trace(StampingVisitor):
    def __init__(self):
        self.seen = []

    def on_signature(self, sig, **headers):
        self.seen.append(("signature", sig.task, sorted(headers)))
        return {"name": sig.task.split(".")[-1], "n": len(self.seen)}

    def on_group_start(self, group, **headers):
        self.seen.append(("group starts", len(group.tasks)))
        return {"grouped": "g"}

    def on_group_end(self, group, **headers):
        self.seen.append(("group ends",))

    def on_chain_start(self, chain, **headers):
        self.seen.append(("chain starts", len(chain.tasks)))
        return {"chained": "c"}

    def on_chain_end(self, chain, **headers):
        self.seen.append(("chain ends",))

    def on_chord_header_start(self, chord, **headers):
        self.seen.append(("chord header starts",))
        return super().on_chord_header_start(chord, **headers)

    def on_chord_header_end(self, chord, **headers):
        self.seen.append(("chord header ends",))

    def on_chord_body(self, chord, **headers):
        self.seen.append(("chord body",))
        return {"body": "b"}

    def on_callback(self, callback, **header):
        self.seen.append(("callback", callback.task))
        return {"callback": True}

    def on_errback(self, errback, **header):
        self.seen.append(("errback", errback.task))
        return {"errback": True}


class Only(StampingVisitor):
    def on_signature(self, sig, **headers):
        return {"kept": 1, "dropped": 2, "stamped_headers": ["kept"]}


def main():
    for name, canvas in {
        "task": stamps.s(),
        "group": group(stamps.s(), stamps.s()),
        "chain": chain(stamps.si(), stamps.si()),
        "chord": chord([stamps.s()], stamps.si()),
        "linked": stamps.s().set(link=[stamps.si()], link_error=[stamps.si()]),
    }.items():
        visitor = Trace()
        canvas.stamp(visitor)
        print(name)
        show(visitor.seen)
    with worker():
        signature = stamps.s()
        signature.stamp(customer=1)
        print(signature.apply_async().get(timeout=10))
        signature.stamp(customer=2, other="x")
        print(signature.apply_async().get(timeout=10))
        signature = stamps.s()
        signature.stamp(customer=1)
        signature.stamp(append_stamps=True, customer=2)
        print(signature.apply_async().get(timeout=10))
        signature = stamps.s()
        signature.stamp(Only())
        print(signature.options.get("stamped_headers"), signature.apply_async().get(timeout=10))
        canvas = chain(stamps.si(), group(stamps.si(), stamps.si()))
        canvas.stamp(Only())
        result = canvas.apply_async()
        show(result.get(timeout=10))
        print(result.parent.get())
        print(stamps.apply_async(stamped_headers=["a"], a="by hand").get(timeout=10))
        clone = signature.clone()
        print(clone.options["kept"], clone.options["stamped_headers"])
