"""Exchanges of the guide's manual routing: direct and topic, by routing key"""

from celery import Celery
from kombu import Exchange, Queue

from compat.harness import worker

app = Celery("topics")
media = Exchange("media", type="direct")
app.conf.task_queues = (
    Queue("default", Exchange("default"), routing_key="default"),
    Queue("videos", media, routing_key="media.video"),
    Queue("images", media, routing_key="media.image"),
)
app.conf.task_default_queue = "default"
app.conf.task_default_exchange = "default"
app.conf.task_default_exchange_type = "direct"
app.conf.task_default_routing_key = "default"
app.conf.task_routes = {
    "topics.video": {"queue": "videos", "routing_key": "media.video"},
    "topics.image": {"exchange": "media", "routing_key": "media.image", "queue": "images"},
}


@app.task(bind=True)
def video(self):
    return self.request.delivery_info["routing_key"]


@app.task(bind=True)
def image(self):
    return self.request.delivery_info["routing_key"]


@app.task(bind=True)
def plain(self):
    return self.request.delivery_info["routing_key"]


def main():
    for task in (video, image, plain):
        route = app.amqp.router.route({}, task.name)
        queue = route.get("queue")
        print(task.name, queue.name if queue else None, route.get("routing_key"), route.get("exchange"))
    with worker("-Q", "default,videos,images"):
        for task in (video, image, plain):
            print(task.delay().get(timeout=20))
        print(plain.apply_async(queue="videos", routing_key="media.video").get(timeout=20))
        print(video.apply_async(queue="images").get(timeout=20))
