"""How tasks are unit tested: patched apply_async, pushed requests, mocked retry."""

from unittest.mock import Mock, patch

from celery import Celery, current_app
from celery.exceptions import Retry

from compat.harness import outcome

app = Celery("unit_tests")


@app.task
def send_mail(address):
    return f"sent to {address}"


@app.task
def signup(address):
    return send_mail.delay(address)


@app.task(bind=True)
def order(self, price):
    if price < 0:
        raise self.retry(exc=ValueError("negative"), countdown=10)
    return self.request.id, price


def main():
    with patch.object(send_mail, "delay") as delay:
        signup("a@b")
        print(delay.call_args)
    with patch("unit_tests.send_mail.apply_async") as apply_async:
        send_mail.delay("c@d")
        print(apply_async.call_args)
    with patch.object(order, "retry", side_effect=Retry()) as retry:
        print(outcome(order, -1), retry.call_args)
    order.push_request(id="pushed-id", retries=1)
    try:
        print(order.run(3))
    finally:
        order.pop_request()
    with patch("celery.app.base.Celery.send_task", return_value=Mock(id="fake")) as send_task:
        print(current_app.send_task("unit_tests.send_mail", ("e@f",)).id, send_task.call_count)
    with patch.object(app.Task, "apply_async", return_value="patched"):
        print(send_mail.delay("x"), send_mail.s("x").apply_async())
    print(order(5), order.run(5))
