"""Enqueues requests of every shape and notes what it was told: `python -m tests.chaos.producer SEED PAUSE_S PATIENCE_S`."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any

from pgtasks.exceptions import OperationalError
from tests.chaos import jobs, mutants
from tests.chaos.shapes import COMMON, Request
from tests.support import history


class Producer:
    """Enqueues requests of every shape, each under ids that it has chosen before, until it is told that they are there."""

    def __init__(self, path: str, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)

    def request(self, shape: str | None = None, **arguments: Any) -> list[str]:
        """Enqueue one request; gives its ids once it is known to be there."""
        request = Request(shape or self.random.choice(COMMON), arguments)
        history.note(self.path, "try", **request.facts())
        while True:
            try:
                request.send()
            except OperationalError as error:
                history.note(self.path, "unknown", request=request.request, error=str(error)[:200])
                request = mutants.to_try_again(request)
                continue
            history.note(self.path, "acked", request=request.request)
            return request.ids


def main() -> None:
    """Produce until standard input is closed; or, as "some REQUESTS", those requests, whose ids are printed."""
    path = os.environ["CHAOS_HISTORY"]
    if sys.argv[1] == "some":
        producer = Producer(path, 0)
        print(json.dumps([producer.request(shape, **arguments) for shape, arguments in json.loads(sys.argv[2])]))
        return
    seed, pause_s, patience_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    jobs.app.database.patience_s = patience_s
    producer = Producer(path, seed)
    os.set_blocking(0, False)
    while not _is_closed():
        producer.request()
        time.sleep(pause_s)


def _is_closed() -> bool:
    try:
        return not os.read(0, 1)
    except BlockingIOError:
        return False


if __name__ == "__main__":
    main()
