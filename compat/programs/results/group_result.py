"""GroupResult and ResultSet: joining, counting, saving, errors, timeouts."""

from celery import Celery, group
from celery.result import GroupResult, ResultSet

from compat.harness import outcome, worker

app = Celery("group_result")


@app.task
def number(n):
    return n


@app.task
def fail(n=0):
    raise ValueError(n)


def main():
    waiting = group(number.s(1), number.s(2))()
    print(
        waiting.ready(),
        waiting.waiting(),
        waiting.successful(),
        waiting.failed(),
        waiting.completed_count(),
        outcome(waiting.get, timeout=0.1),
    )
    with worker():
        print(
            waiting.get(timeout=10),
            waiting.ready(),
            waiting.waiting(),
            waiting.successful(),
            waiting.completed_count(),
            len(waiting),
        )
        print(
            [result.get() for result in waiting], waiting[1].get(), waiting.children == waiting.results, bool(waiting)
        )
        print(
            waiting.join(timeout=10),
            [value for _, value in waiting.iter_native(timeout=10)] and waiting.join_native(timeout=10),
        )
        seen = []
        print(waiting.get(timeout=10, callback=lambda task_id, value: seen.append(value)), seen)
        waiting.save()
        restored = GroupResult.restore(waiting.id)
        print(restored == waiting, restored.get(timeout=1), app.GroupResult.restore(waiting.id).id == waiting.id)
        restored.delete()
        print(GroupResult.restore(waiting.id), outcome(GroupResult.restore, "no-such-group"))
        failed = group(number.s(1), fail.s(2), fail.s(3))()
        print(
            outcome(failed.get, timeout=10),
            failed.failed(),
            failed.successful(),
            [repr(v) for v in failed.get(timeout=10, propagate=False)],
        )
        print(failed.completed_count(), outcome(failed.maybe_throw), failed.ready())
        results = ResultSet([number.delay(n) for n in range(3)])
        extra = number.delay(9)
        results.add(extra), results.add(extra)
        print(results.get(timeout=10), len(results), results.join(timeout=10), results.successful())
        results.discard(extra)
        results.update([number.delay(5)])
        print(
            results.get(timeout=10),
            outcome(results.remove, "no-such-id"),
            results == ResultSet(list(results)),
            results.supports_native_join in (True, False),
        )
        results.forget()
        print([result.state for result in results])
        results.clear()
        print(
            len(results), results.get(), ResultSet([]).get(timeout=1), ResultSet([]).ready(), ResultSet([]).successful()
        )
        revoked = group(number.s(1), number.s(2)).apply_async(countdown=600)
        revoked.revoke()
        print([type(v).__name__ for v in revoked.get(timeout=10, propagate=False)])
        print(repr(waiting) == f"<GroupResult: {waiting.id} [{', '.join(r.id for r in waiting)}]>", waiting.parent)
