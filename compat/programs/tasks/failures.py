"""A failure is raised again by its class where that can be found, and else by a class made up with its name."""

from celery import Celery

from compat.harness import outcome, worker

app = Celery("failures")


class ShopError(Exception):
    pass


class TwoArguments(ShopError):
    def __init__(self, code, reason):
        super().__init__(code, reason)
        self.code = code


class Keyworded(ShopError):
    def __init__(self, *, code=1):
        super().__init__(f"code {code}")
        self.code = code


class Unfaithful(ShopError):
    def __init__(self, a, b):
        super().__init__("only one")


class Unpicklable(ShopError):
    def __init__(self):
        super().__init__(lambda: None)


def local():
    class Local(Exception):
        pass

    return Local("local", 1)


def chained():
    try:
        {}["key"]
    except KeyError as exc:
        raise ShopError("outer") from exc


CASES = {
    "plain": lambda: ShopError("plain", 2),
    "two": lambda: TwoArguments(3, "reason"),
    "keyworded": lambda: Keyworded(code=5),
    "unfaithful": lambda: Unfaithful(1, 2),
    "unpicklable": Unpicklable,
    "local": local,
    "empty": lambda: ValueError(),
    "unicode": lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    "os": lambda: FileNotFoundError(2, "No such file", "name"),
    "key": lambda: KeyError(("a", 1)),
    "stop": lambda: StopIteration(3),
    "bytes": lambda: ValueError(b"\xff"),
    "group": lambda: ExceptionGroup("many", [ValueError(1), TypeError(2)]),
    "dict": lambda: ValueError({"code": 7}),
}


@app.task
def fail(case):
    if case == "chained":
        chained()
    raise CASES[case]()


def main():
    with worker():
        for case in [*CASES, "chained"]:
            result = fail.delay(case)
            exc = result.get(timeout=10, propagate=False)
            print(f"{case}: {type(exc).__name__} {type(exc).__mro__[1].__name__} args={exc.args!r} str={exc}")
            print("   ", outcome(result.get).splitlines()[0], "|", result.traceback.strip().splitlines()[-1])
        print("During handling" in result.traceback, "direct cause" in result.traceback, exc.__cause__)
