"""Sets of results: which methods exist, what they return before and after, and how errors come out."""

from celery import Celery, chain, group
from celery.result import AsyncResult, GroupResult, ResultSet, result_from_tuple

from compat.harness import outcome, until, worker

app = Celery("result_sets")


@app.task
def number(n):
    return n


@app.task
def fail(n):
    raise ValueError(n)


def main():
    with worker():
        results = ResultSet([number.delay(n) for n in (3, 1, 2)])
        print(results.get(timeout=10), results.join(timeout=10), results.join_native(timeout=10))
        print(sorted(meta["result"] for _, meta in results.iter_native(timeout=10)))
        print(
            results.ready(),
            results.successful(),
            results.failed(),
            results.waiting(),
            results.completed_count(),
        )
        seen = []
        results.join(timeout=10, callback=lambda task_id, value: seen.append(value))
        print(seen, len(results), results[0].get(), [r.get() for r in results][:2])
        print(results.maybe_throw(), results.supports_native_join, results.backend is app.backend)
        mixed = group(number.s(1), fail.s(2), number.s(3))()
        until(mixed.ready)
        print(outcome(mixed.get, timeout=10), outcome(mixed.join, timeout=10), outcome(mixed.maybe_throw))
        print([repr(value) for value in mixed.get(timeout=10, propagate=False)])
        print([repr(value) for value in mixed.join(timeout=10, propagate=False)])
        print(mixed.completed_count(), mixed.failed(), mixed.successful(), mixed.ready(), mixed.waiting())
        nested = group(group(number.s(1), number.s(2)), number.s(3))()
        print(
            nested.get(timeout=10), [type(member).__name__ for member in nested.results], len(nested.children)
        )
        chained = chain(number.s(1), group(number.si(5), number.si(6)))()
        print(chained.get(timeout=10), type(chained.parent).__name__, chained.parent.get(timeout=10))
        as_tuple = chained.as_tuple()
        again = result_from_tuple(as_tuple)
        print(
            again == chained,
            again.parent == chained.parent,
            again.get(timeout=10),
            type(again) is type(chained),
        )
        print(result_from_tuple(chained.parent.as_tuple()) == chained.parent)
        chained.save()
        restored = GroupResult.restore(chained.id)
        print(restored.get(timeout=10), restored.id == chained.id, restored.parent == chained.parent)
        chained.delete()
        print(GroupResult.restore(chained.id))
        one = AsyncResult(mixed.results[0].id)
        print(
            one == mixed.results[0],
            one == mixed.results[0].id,
            one != mixed.results[1],
            len({one, mixed.results[0]}),
        )
        print(outcome(results.remove, "nothing"), results.discard("nothing"), outcome(ResultSet([]).get))
        mixed.forget()
        print([result.state for result in mixed])
