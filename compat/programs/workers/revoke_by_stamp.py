"""Tasks are revoked by their stamped headers."""

from celery import Celery

from compat.harness import worker

app = Celery("revoke_by_stamp")


@app.task
def add(a, b):
    return a + b


def stamped(countdown, **stamps):
    signature = add.si(1, 2)
    signature.stamp(**stamps)
    return signature.apply_async(countdown=countdown)


def main():
    with worker("-n", "w@h"):
        first, second, other = stamped(2, order="a"), stamped(2, order="b"), stamped(2, order="c")
        app.control.revoke_by_stamped_headers({"order": ["a", "b"]})
        print([repr(result.get(timeout=15, propagate=False)) for result in (first, second, other)])
        third = stamped(1, tenant="acme")
        third.revoke_by_stamped_headers({"tenant": "acme"})
        print(third.get(timeout=15, propagate=False), third.state)
