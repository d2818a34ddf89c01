"""A caller may name the task id, any string; AsyncResult finds it again from anywhere."""

from celery import Celery, uuid
from celery.result import AsyncResult

from compat.harness import outcome, worker

app = Celery("task_ids")


@app.task(bind=True)
def own(self):
    return self.request.id, self.request.root_id, self.request.correlation_id


def main():
    with worker():
        result = own.apply_async(task_id="order-17")
        print(result.id, result.get(timeout=10))
        print(
            AsyncResult("order-17").state,
            own.AsyncResult("order-17").get(timeout=10)[0],
            app.AsyncResult("order-17").id,
        )
        made = uuid()
        print(
            len(made),
            own.apply_async(task_id=made).id == made,
            own.s().set(task_id="by-option").delay().get(timeout=10),
        )
        print(app.send_task("task_ids.own", task_id="sent é/1").get(timeout=10))
        print(AsyncResult("nobody").state, AsyncResult("nobody").result, isinstance(outcome(AsyncResult, None), str))
        print(
            own.s().freeze("frozen").id,
            result == AsyncResult("order-17"),
            result == "order-17",
            hash(result) == hash("order-17"),
        )
