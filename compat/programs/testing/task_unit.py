"""What unit tests call: run, apply with throw, the task itself, s().apply, and mock of delay"""

from unittest.mock import patch

from celery import Celery, group
from celery.exceptions import Retry

from compat.harness import outcome

app = Celery("task_unit")


class OperationalError(Exception):
    pass


class Product:
    @staticmethod
    def order(quantity):
        raise NotImplementedError


@app.task(bind=True, max_retries=2, default_retry_delay=0)
def send_order(self, quantity):
    try:
        return Product.order(quantity)
    except OperationalError as exc:
        raise self.retry(exc=exc)


@app.task
def add(x, y):
    return x + y


def main():
    with patch.object(Product, "order") as order:
        send_order(3)
        print(order.call_args)
    with patch.object(Product, "order") as order, patch.object(send_order, "retry") as retry:
        retry.side_effect = Retry()
        order.side_effect = OperationalError()
        print(outcome(send_order, 30).split(":")[0])
    with patch.object(Product, "order", side_effect=OperationalError("down")) as order:
        print(outcome(send_order.apply, (1,), throw=True), order.call_count)
        failed = send_order.apply((1,))
        print(failed.state, repr(failed.result), order.call_count)
    print(add.apply((1, 2)).get(), add.s(1).apply((5,)).get(), add.run(1, 1), add(1, 1))
    with patch.object(add, "delay") as delay:
        add.delay(1, 2)
        delay.assert_called_once_with(1, 2)
    with patch("celery.app.task.Task.apply_async") as sent:
        add.delay(1, 2)
        add.s(1, 2).apply_async()
        print(sent.call_count, sent.call_args_list[0])
    print(group(add.s(1, 1), add.s(2, 2)).apply().get())
