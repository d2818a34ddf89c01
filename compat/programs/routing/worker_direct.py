"""worker_direct gives each worker a queue of its own, for tasks meant for that one"""

from celery import Celery
from celery.utils.nodenames import worker_direct

from compat.harness import worker

app = Celery("worker_direct")
app.conf.worker_direct = True


@app.task(bind=True)
def whoami(self):
    return self.request.hostname


def main():
    print(worker_direct("w1@h").name, worker_direct("w1@h").routing_key, worker_direct("w1@h").exchange.name)
    with worker("-n", "w1@h"), worker("-n", "w2@h"):
        for name in ("w1@h", "w2@h", "w2@h", "w1@h"):
            print(name, whoami.apply_async(queue=worker_direct(name)).get(timeout=20))
