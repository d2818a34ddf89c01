"""A signature is a dictionary that survives JSON: its form, its merging rules, its copies."""

import json

from celery import Celery, Signature, chain, chord, group, maybe_signature, signature

from compat.harness import outcome, worker

app = Celery("signatures")


@app.task
def add(a, b, c=0):
    return a + b + c


def main():
    plain = add.s(1, c=2).set(countdown=3)
    print(json.dumps(plain, sort_keys=True))
    for canvas in (
        chain(add.s(1, 2), add.s(3)),
        group(add.s(1, 2), add.si(3, 4)),
        chord([add.s(1, 2)], add.s(3)),
        add.map([1, 2]),
        add.starmap([(1, 2)]),
        add.chunks([(1, 2), (3, 4)], 1),
    ):
        print(json.dumps(canvas, sort_keys=True))
        again = maybe_signature(json.loads(json.dumps(canvas)), app=app)
        print(type(again).__name__, again == canvas, repr(again))

    partial = add.s(2)
    print(partial.clone((1,)), partial.clone(kwargs={"c": 9}), partial.clone((1,), countdown=5).options)
    print(partial(1), add.s(1, 2)(c=5), add.si(1, 2).clone((9,)), add.si(1, 2).immutable)
    base = add.s(1, c=1).set(queue="a", priority=3)
    print(base.clone((0,), {"c": 2}, queue="b").options, base.options, base.clone((0,), {"c": 2}))
    print(base.replace(args=(7,), kwargs={}, options={}), base)
    frozen = add.si(1, 2).set(immutable=False)
    print(frozen.immutable, frozen.set_immutable(True), frozen.immutable)
    print(base.task, base.name, base.args, base.kwargs, base.type.name, base.id, base.subtask_type, base.app is app)
    print(
        signature("other.task", args=(1,), kwargs={"a": 2}, countdown=1),
        signature(base) == base,
        signature(dict(base)) == base,
    )
    print(
        outcome(
            lambda: signature(
                {"task": "x", "args": [1], "kwargs": {}, "options": {}, "subtask_type": None, "immutable": False}
            )
        )
    )
    print(
        Signature.from_dict(dict(chain(add.s(1, 2)))).__class__.__name__,
        maybe_signature(None),
        type(maybe_signature(dict(base))).__name__,
    )
    print(isinstance(base, dict), base == dict(base), hasattr(base, "delay"))
    one = add.s(1)
    one.link(add.s(2)), one.link(add.s(2)), one.link_error(add.s(3))
    print(len(one.options["link"]), len(one.options["link_error"]), one.flatten_links())
    with worker():
        sent = maybe_signature(
            json.loads(json.dumps(chain(add.s(1, 2), group(add.s(1), add.s(2)), add.si(3, 4)))), app=app
        )
        print(sent.delay().get(timeout=10))
        print(
            signature("signatures.add", (1, 2)).delay().get(timeout=10),
            Signature("signatures.add", (1, 2), app=app).apply_async().get(timeout=10),
        )
