"""Ask the real Celery what canvases come to: python -m tests.canvas.ask_celery COUNT SEED > more.jsonl

Every task returns its arguments as a list and has a label as its own argument, so what a canvas returns
shows which results went where. `calls` are the arguments of all the calls that were made. Needs a
redis-server on the PATH; it and a worker run for as long as this does. Canvases that Celery loses (no answer
in three seconds) are left out. Answers that pgtasks does not give as well are to be looked at before they are
added to `answers.jsonl`: Celery loses arguments and runs bodies twice when groups follow groups.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import count
from pathlib import Path

import celery
import celery.canvas
import redis

from tests.canvas.recipes import Library

PORT = 16_399
app = celery.Celery("oracle", broker=f"redis://127.0.0.1:{PORT}/0", backend=f"redis://127.0.0.1:{PORT}/1")
app.conf.update(worker_prefetch_multiplier=1, result_chord_join_timeout=3, worker_enable_remote_control=False)
log = redis.Redis(port=PORT, db=2)


@app.task(name="say", shared=False)
def say(*args):
    log.rpush("calls", json.dumps(args))
    return list(args)


def recipe(rng, depth, labels):
    """A random canvas, nested at most `depth` deep."""
    dice = rng.random()
    if depth == 0 or dice < 0.3:
        task = ("s", say.name, (f"t{next(labels)}",), rng.random() < 0.12)
        return ("link", task, recipe(rng, max(depth - 1, 0), labels)) if rng.random() < 0.05 else task
    members = [recipe(rng, depth - 1, labels) for _ in range(rng.choice([0, 1, 2, 2, 2, 3]))]
    if dice < 0.5:
        return ("chain", members or [recipe(rng, 0, labels)])
    if dice < 0.75:
        return ("group" if rng.random() < 0.9 else "lazy_group", members)
    if dice < 0.9:
        return ("chord", members, recipe(rng, depth - 1, labels))
    return ("bar", recipe(rng, depth - 1, labels), recipe(rng, depth - 1, labels))


def answer(library, asked, args):
    """What the canvas returns and which calls it makes, once no more are seen for a while."""
    log.delete("calls")
    result = library.cook(asked).apply_async(args)
    value = None if result is None else result.get(timeout=3)
    seen = -1
    while seen != log.llen("calls"):
        seen = log.llen("calls")
        time.sleep(0.3)
    return {
        "recipe": asked,
        "args": args,
        "value": value,
        "calls": sorted_calls(map(json.loads, log.lrange("calls", 0, -1))),
    }


def sorted_calls(calls):
    """Calls in an order that does not depend on when they were made."""
    return sorted(calls, key=json.dumps)


def main(how_many, seed):
    rng, library = random.Random(seed), Library(celery.canvas, app)
    for _ in range(how_many):
        try:
            print(
                json.dumps(answer(library, recipe(rng, 3, count(1)), rng.choice([(), ("x",)])), separators=(",", ":"))
            )
        except celery.exceptions.TimeoutError:
            continue


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory, Path(directory, "log").open("w") as output:
        server = subprocess.Popen(
            ["redis-server", "--port", str(PORT), "--bind", "127.0.0.1", "--save", ""],
            stdout=output,
            cwd=directory,
        )
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.canvas.ask_celery",
            "worker",
            "-P",
            "threads",
            "-c",
            "6",
        ]
        worker = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            while socket.socket().connect_ex(("127.0.0.1", PORT)):
                time.sleep(0.1)
            main(int(sys.argv[1]), int(sys.argv[2]))
        finally:
            worker.terminate()
            worker.wait()
            server.terminate()
