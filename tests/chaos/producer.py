"""A program that enqueues requests of every shape and notes what it was told: `python -m tests.chaos.producer SEED PAUSE_S PATIENCE_S`."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from typing import Any
from uuid import uuid4

from pgtasks import chain, chord
from pgtasks.exceptions import OperationalError
from pgtasks.message import new_id
from tests.chaos import jobs, mutants
from tests.support import history


class Producer:
    """Enqueues requests of every shape, each under ids that it has chosen before, until it is told that they are there."""

    SHAPES = ("plain", "plain", "later", "flaky", "once", "chain", "chord")

    def __init__(self, path: str, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)

    def request(self, shape: str | None = None, **arguments: Any) -> list[str]:
        """Enqueue one request; gives its ids once it is known to be there."""
        shape = shape or self.random.choice(self.SHAPES)
        size = {"chain": 4, "chord": 5}.get(shape, 1)
        request, ids = uuid4().hex, [str(new_id()) for _ in range(size)]
        history.note(self.path, "try", request=request, shape=shape, ids=ids)
        while True:
            try:
                self._send(shape, request, ids, arguments)
            except OperationalError as error:
                history.note(self.path, "unknown", request=request, error=str(error)[:200])
                ids = mutants.ids_to_try_again(ids)
                continue
            history.note(self.path, "acked", request=request)
            return ids

    def _send(self, shape: str, request: str, ids: list[str], arguments: dict[str, Any]) -> None:
        given = {"request": request, **arguments}
        if shape == "chain":
            links = [
                (jobs.link.si if n == 0 else jobs.link.s)(n=n, **given).set(task_id=task_id)
                for n, task_id in enumerate(ids)
            ]
            chain(*links).apply_async()
        elif shape == "chord":
            header = [jobs.link.s(n=n, **given).set(task_id=task_id) for n, task_id in enumerate(ids[:-1])]
            chord(header)(jobs.body.s(**given).set(task_id=ids[-1]))
        else:
            task = {"plain": jobs.work, "later": jobs.work, "flaky": jobs.flaky, "once": jobs.once}[shape]
            task.apply_async(kwargs=given, task_id=ids[0], countdown=0.3 if shape == "later" else None)


def main() -> None:
    """Produce until standard input is closed; or, as "one SHAPE ARGUMENTS", one request, whose ids are printed."""
    path = os.environ["CHAOS_HISTORY"]
    if sys.argv[1] == "one":
        print(json.dumps(Producer(path, 0).request(sys.argv[2], **json.loads(sys.argv[3]))))
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
