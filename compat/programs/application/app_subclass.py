"""A subclass of Celery may name tasks, hook into configuration and wrap sending."""

from celery import Celery

from compat.harness import said, say, show, worker


class Shop(Celery):
    def gen_task_name(self, name, module):
        return "shop:" + super().gen_task_name(name, module.removesuffix("_tasks"))

    def on_init(self):
        print("on_init", self.main)

    def on_configure(self):
        say("on_configure")

    def send_task(self, name, *args, **kwargs):
        say("send_task", name)
        return super().send_task(name, *args, **kwargs)

    def now(self):
        return super().now().replace(year=2000)


app = Shop("app_subclass")


@app.task
def order(n):
    return n


def main():
    print(order.name, app.now().year)
    with worker():
        print(order.delay(1).get(timeout=10))
        print(app.send_task(order.name, (2,)).get(timeout=10))
        print(order.s(3).apply_async().get(timeout=10))
        print(app.signature(order.name, (4,)).apply_async().get(timeout=10))
    show(line for line in said() if line.startswith("send"))
