"""What cannot be serialised is refused at once by the caller, or becomes the task's failure."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery("unserialisable")


@app.task
def echo(value=None):
    return value


@app.task
def returns(what):
    return {
        "object": object(),
        "set": {1},
        "bytes": b"\xff\x00",
        "nan": float("nan"),
        "big": 2**70,
        "circle": circle(),
        "lambda": lambda: 1,
    }[what]


def circle():
    ring = []
    ring.append(ring)
    return ring


def main():
    print(outcome(echo.delay, object()).split(" at ")[0])
    print(outcome(echo.delay, circle()))
    print(outcome(echo.delay, lambda: 1).split(" at ")[0])
    with worker():
        for what in ("set", "bytes", "nan", "big"):
            print(what, outcome(returns.delay(what).get, timeout=10))
        for what in ("object", "circle", "lambda"):
            result = returns.delay(what)
            print(what, outcome(result.get, timeout=10).split(" at ")[0], result.state)
        print(echo.delay({1: "int key", "tuple": (1, 2)}).get(timeout=10))
        print(echo.delay("\ud800 lone surrogate").get(timeout=10) == "\ud800 lone surrogate")
        print(len(echo.delay("x" * 1_000_000).get(timeout=20)))
        print(echo.delay([2**70, -0.0, 1e300, "\u0000"]).get(timeout=10))
