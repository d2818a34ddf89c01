"""When the message cannot be stored the caller gets OperationalError, after the retries it asked for."""

import os

os.environ["CELERY_BROKER_URL"] = "redis://127.0.0.1:1/0"
os.environ["PGTASKS_DATABASE_URL"] = "postgresql://127.0.0.1:1/nowhere"

from celery import Celery
from celery.exceptions import OperationalError
from kombu.exceptions import OperationalError as KombuOperationalError

app = Celery("publish_errors")


@app.task
def add(a, b):
    return a + b


def main():
    for options in (
        {"retry": False},
        {"retry": True, "retry_policy": {"max_retries": 1, "interval_start": 0, "interval_step": 0}},
    ):
        try:
            add.apply_async((1, 2), **options)
        except OperationalError as exc:
            print("OperationalError", isinstance(exc, KombuOperationalError), exc.__cause__ is not None)
    print(OperationalError is KombuOperationalError)
