"""The JSON serializer carries dates, decimals, ids and bytes there and back."""

import datetime as dt
import decimal
import uuid

from celery import Celery

from compat.harness import worker

app = Celery("json_types")

VALUES = [
    dt.datetime(2024, 2, 29, 12, 30, 15, 123456),
    dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC),
    dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.timezone(dt.timedelta(hours=2))),
    dt.date(2024, 2, 29),
    dt.time(1, 2, 3),
    decimal.Decimal("1.10"),
    uuid.UUID(int=7),
    b"bytes",
    {"nested": [dt.date(2000, 1, 1), (1, 2)]},
]


@app.task
def look(value):
    return repr(value)


@app.task
def echo(value):
    return value


def main():
    with worker():
        for value in VALUES:
            print(repr(value), "->", look.delay(value).get(timeout=10), "->", repr(echo.delay(value).get(timeout=10)))
