"""status and inspect ping tell by their exit status whether workers answer."""

from celery import Celery

from compat.harness import command_line, show, worker

app = Celery("status")


@app.task
def add(a, b):
    return a + b


def tell(*arguments):
    status, out, err = command_line(*arguments)
    print("$", " ".join(arguments), "->", status)
    show(line.rstrip() for line in (out + err).splitlines() if line.strip())


def main():
    tell("status", "-t", "1")
    tell("inspect", "ping", "-t", "1")
    with worker("-n", "w@h"):
        tell("status", "-t", "2")
        tell("inspect", "ping", "-t", "2")
        tell("inspect", "ping", "-d", "w@h", "--json", "-t", "2")
        tell("inspect", "ping", "-d", "x@h", "-t", "1")
        tell("inspect", "registered", "-t", "2")
        tell("inspect", "active", "-j", "-t", "2")
        tell("control", "rate_limit", "status.add", "10/m", "-t", "2")
        tell("control", "add_consumer", "extra", "-t", "2")
        print(command_line("inspect", "no_such_command")[0])
