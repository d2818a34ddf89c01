"""Each call may choose its serializer, and a worker refuses content it does not accept."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery(
    "serializers", accept_content=["json", "pickle", "yaml", "msgpack"], result_accept_content=["json", "pickle"]
)
strict = Celery("strict", accept_content=["json"], set_as_current=False)


@app.task
def echo(value):
    return repr(value)


@app.task(serializer="pickle")
def kind(value):
    return type(value).__name__


def main():
    with worker():
        for serializer in ("json", "pickle", "yaml", "msgpack"):
            print(
                serializer,
                echo.apply_async(({"a": [1, 2.5, None, True], "é": (1,)},), serializer=serializer).get(timeout=10),
            )
        print(kind.delay({1, 2}).get(timeout=10), kind.apply_async((frozenset(),)).get(timeout=10))
        print(echo.apply_async((b"\xff\x00",), serializer="msgpack").get(timeout=10))
        print(outcome(echo.apply_async, (1,), serializer="no-such-serializer"))
        print(outcome(kind.apply_async, ({1},), serializer="json"))
        print(outcome(echo.apply_async, (object(),), serializer="msgpack") is not None)
