"""Messages and results may be compressed, by call, task or setting."""

from celery import Celery
from celery.signals import before_task_publish

from compat.harness import worker

app = Celery("compression", result_compression="bzip2")


@before_task_publish.connect
def publishing(properties, **kwargs):
    pass


@app.task
def size(text):
    return len(text)


@app.task(compression="zlib")
def compressed(text):
    return text


def main():
    with worker():
        for method in ("gzip", "bzip2", "zlib", "application/x-gzip", None):
            print(method, size.apply_async(("x" * 10000,), compression=method).get(timeout=10))
        print(len(compressed.delay("y" * 5000).get(timeout=10)))
        app.conf.task_compression = "gzip"
        print(size.delay("z" * 100).get(timeout=10))
