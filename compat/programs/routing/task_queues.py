"""task_queues declares queues; a worker reads them all, and what is unknown is made or refused."""

from celery import Celery
from kombu import Exchange, Queue

from compat.harness import outcome, worker

app = Celery("task_queues")
app.conf.task_queues = (
    Queue("default", routing_key="task.#"),
    Queue("feeds", Exchange("feeds"), routing_key="feed.import"),
    Queue("plain"),
)
app.conf.task_default_queue = "default"
app.conf.task_default_exchange = "tasks"
app.conf.task_default_exchange_type = "topic"
app.conf.task_default_routing_key = "task.default"


@app.task(bind=True)
def where(self):
    info = self.request.delivery_info
    return info["exchange"], info["routing_key"]


def main():
    print(sorted(app.amqp.queues), app.amqp.queues["feeds"].exchange.name, app.amqp.queues["feeds"].routing_key)
    with worker():
        print(
            where.delay().get(timeout=10),
            where.apply_async(queue="feeds").get(timeout=10),
            where.apply_async(queue="plain").get(timeout=10),
        )
        print(where.apply_async(queue=Queue("plain")).get(timeout=10))
        print(where.apply_async(exchange="feeds", routing_key="feed.import").get(timeout=10))
        print(where.apply_async(routing_key="task.anything").get(timeout=10))
    print("made" if where.apply_async(queue="unheard-of") else None, "unheard-of" in app.amqp.queues)
    strict = Celery(
        "strict",
        set_as_current=False,
        task_create_missing_queues=False,
        task_queues=[Queue("only")],
        task_default_queue="only",
    )

    @strict.task(shared=False)
    def task():
        pass

    print(outcome(task.apply_async, queue="missing"), bool(task.apply_async(queue="only")))
    print(outcome(lambda: strict.amqp.queues["missing"]))
    as_dict = Celery("as_dict", set_as_current=False, task_queues={"a": {"exchange": "x", "routing_key": "k"}, "b": {}})
    print({name: (queue.exchange.name, queue.routing_key) for name, queue in sorted(as_dict.amqp.queues.items())})
    as_dict.select_queues(["b"])
    print(sorted(as_dict.amqp.queues.consume_from), as_dict.amqp.queues.add("c").name, "c" in as_dict.amqp.queues)
    print(
        app.amqp.default_queue.name,
        app.amqp.default_exchange.name,
        app.amqp.router.route({"queue": "feeds"}, "x")["queue"].name,
    )
