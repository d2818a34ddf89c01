"""call, result and purge on the command line."""

from celery import Celery

from compat.harness import command_line, show, worker

app = Celery("call_and_result")


@app.task
def add(a, b=1):
    return a + b


@app.task
def fail():
    raise ValueError("failed")


def tell(*arguments):
    status, out, err = command_line(*arguments)
    print("$", " ".join(arguments), "->", status)
    show(out.splitlines())
    show(err.splitlines()[-1:])
    return out.strip()


def main():
    one = tell("call", "call_and_result.add", "-a", "[1, 2]")
    two = tell(
        "call", "call_and_result.add", "--args", "[1]", "--kwargs", '{"b": 5}', "--queue", "celery", "--countdown", "0"
    )
    bad = tell("call", "call_and_result.fail")
    with worker():
        app.AsyncResult(bad).get(timeout=10, propagate=False)
        tell("result", one)
        tell("result", two)
        tell("result", bad)
        tell("result", "-t", "call_and_result.add", one)
    for n in range(3):
        add.delay(n)
    tell("purge", "-f")
    tell("purge", "-f")
    tell("purge", "-f", "-Q", "other")
