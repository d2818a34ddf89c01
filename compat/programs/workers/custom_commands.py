"""Applications add their own inspect and control commands."""

from celery import Celery
from celery.worker.control import Panel, control_command, inspect_command

from compat.harness import said, say, show, worker

app = Celery("custom_commands")


@control_command(args=[("n", int)], signature="[N=1]")
def raise_the_flag(state, n=1):
    say("raised", n, state.hostname, state.app.main)
    return {"ok": f"flag {n}"}


@inspect_command()
def flags(state):
    return {"flags": 3}


@inspect_command(name="renamed")
def other(state, word="x"):
    return word * 2


@inspect_command()
def broken(state):
    raise ValueError("broken command")


@Panel.register
def old_way(state):
    return {"ok": "old"}


def main():
    with worker("-n", "w@h"):
        print(app.control.broadcast("raise_the_flag", arguments={"n": 2}, reply=True, timeout=2))
        print(app.control.broadcast("flags", reply=True, timeout=2))
        print(app.control.inspect(timeout=2)._request("renamed", word="y"))
        print(app.control.broadcast("broken", reply=True, timeout=2))
        print(app.control.broadcast("old_way", reply=True, timeout=2, limit=1))
    show(said())
