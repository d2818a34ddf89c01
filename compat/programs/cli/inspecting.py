"""celery inspect and control from the command line: replies as text and as JSON, destinations, unknown commands"""

import json

from celery import Celery

from compat.harness import command_line, show, worker

app = Celery("inspecting")


@app.task(rate_limit="5/s")
def add(x, y):
    return x + y


def run(*arguments):
    status, out, err = command_line(*arguments)
    print(" ".join(arguments), "->", status)
    return out


def main():
    with worker("-n", "w@h", "-Q", "one,two"):
        show(run("inspect", "ping", "-d", "w@h").splitlines())
        print(json.loads(run("inspect", "ping", "-j")))
        print(sorted(queue["name"] for queue in json.loads(run("inspect", "active_queues", "--json"))["w@h"]))
        print(json.loads(run("inspect", "registered", "--json"))["w@h"])
        print(json.loads(run("inspect", "scheduled", "--json")))
        print(json.loads(run("control", "rate_limit", "inspecting.add", "10/m", "--json")))
        print(json.loads(run("control", "add_consumer", "three", "--json")))
        print(json.loads(run("control", "cancel_consumer", "three", "--json")))
        print(run("inspect", "ping", "-d", "nobody@h", "--timeout", "0.5").strip())
    print(run("inspect", "ping", "--timeout", "0.5").strip())
