"""Every documented keyword argument reaches the handlers of task signals."""

from celery import Celery, signals

from compat.harness import outcome, said, say, show, worker

app = Celery("handler_arguments")
NAMES = (
    "before_task_publish after_task_publish task_received task_prerun task_postrun task_success task_failure task_retry "
    "task_revoked task_unknown worker_init worker_ready worker_shutting_down worker_shutdown worker_process_init "
    "worker_process_shutdown celeryd_init celeryd_after_setup import_modules"
).split()


def listener(name):
    def listen(**kwargs):
        say(name, sorted(kwargs))

    getattr(signals, name).connect(listen, weak=False)


for name in NAMES:
    listener(name)


@app.task(bind=True, max_retries=1)
def task(self, how=None):
    if how == "retry":
        self.retry(countdown=0)
    if how == "fail":
        raise ValueError


def main():
    with worker():
        task.delay().get(timeout=10)
        outcome(task.delay("fail").get, timeout=10)
        outcome(task.delay("retry").get, timeout=10)
        outcome(task.apply_async(expires=0.0001).get, timeout=10)
        outcome(app.send_task("no.such.task").get, timeout=10)
    show(sorted(set(said())))
