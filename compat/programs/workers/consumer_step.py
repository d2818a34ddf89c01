"""A ConsumerStep reads a queue of its own, with messages that are no tasks"""

import json

from celery import Celery, bootsteps
from kombu import Consumer, Exchange, Queue

from compat.harness import said, say, show, worker

my_queue = Queue("custom", Exchange("custom"), "routing_key")

app = Celery("consumer_step")


class MyConsumerStep(bootsteps.ConsumerStep):
    def get_consumers(self, channel):
        return [Consumer(channel, queues=[my_queue], callbacks=[self.handle_message], accept=["json"])]

    def handle_message(self, body, message):
        say("received", json.dumps(body))
        message.ack()


app.steps["consumer"].add(MyConsumerStep)


@app.task
def add(x, y):
    return x + y


def send_me_a_message(who, producer=None):
    with app.producer_or_acquire(producer) as producer:
        producer.publish(
            {"hello": who},
            serializer="json",
            exchange=my_queue.exchange,
            routing_key="routing_key",
            declare=[my_queue],
            retry=True,
        )


def main():
    with worker():
        send_me_a_message("world!")
        print(add.delay(1, 2).get(timeout=20))
        show(said(at_least=1))
