"""Custom, nested, unpicklable and strangely made exceptions, as they come back to the caller."""

from celery import Celery

from compat.harness import worker

app = Celery("odd_exceptions")


class Custom(Exception):
    pass


class WithFields(Exception):
    def __init__(self, code, *, detail="none"):
        super().__init__(code, detail)
        self.code, self.detail = code, detail


class TwoArguments(Exception):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class Unpicklable(Exception):
    def __init__(self):
        super().__init__(print)

    def __repr__(self):
        return "Unpicklable()"


class Outer:
    class Inner(Exception):
        pass


class Described(Exception):
    def __str__(self):
        return "described"


def local():
    class Local(Exception):
        pass

    return Local("made in a function")


MADE = {
    "custom": lambda: Custom("text", 1, {"a": [1]}),
    "empty": lambda: Custom(),
    "fields": lambda: WithFields(7, detail="d"),
    "two": lambda: TwoArguments("a", "b"),
    "unpicklable": lambda: Unpicklable(),
    "inner": lambda: Outer.Inner("inner"),
    "described": lambda: Described(1, 2),
    "local": local,
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "os": lambda: FileNotFoundError(2, "No such file", "name"),
    "key": lambda: KeyError("k"),
    "stop": lambda: StopIteration(5),
    "bytes": lambda: ValueError(b"\x00\xff"),
    "object": lambda: ValueError(object),
    "group": lambda: ExceptionGroup("several", [ValueError(1), KeyError(2)]),
    "assertion": lambda: AssertionError(),
}


@app.task
def fail(kind):
    raise MADE[kind]()


@app.task
def chained_error():
    try:
        {}["missing"]
    except KeyError as exc:
        raise Custom("outer") from exc


def main():
    with worker():
        for kind in MADE:
            result = fail.delay(kind)
            error = result.get(timeout=10, propagate=False)
            cls = type(error)
            print(f"{kind:12} {cls.__qualname__} {cls.__mro__[1].__name__} {repr(error.args)[:80]}")
            try:
                result.get(timeout=10)
            except Exception as raised:
                print(" " * 12, type(raised).__name__, raised is error, str(raised)[:90])
        result = chained_error.delay()
        error = result.get(timeout=10, propagate=False)
        print(
            repr(error),
            error.__cause__,
            "KeyError: 'missing'" in result.traceback,
            "direct cause" in result.traceback,
        )
        print(
            result.traceback.splitlines()[-1], result.info is not None, result.successful(), result.failed()
        )
