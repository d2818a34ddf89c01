"""DBOS: every task is a workflow, its result stored; one worker process, a hundred at a time.

Queues and results are polled every 10 ms in the place of every second. Workflows of steps run where they are
started, by no queue, which is the fastest way there is.
"""

import signal
import threading

from common import URL, main, note, several, timed
from dbos import DBOS, DBOSClient, DBOSConfig

CONFIG: DBOSConfig = {
    "name": "rivals", "system_database_url": URL, "application_version": "1", "log_level": "WARNING",
}  # fmt: skip


@DBOS.workflow()
def noop(number: int) -> int:
    return note(number)


@DBOS.workflow()
def follow(number: int) -> int:
    return number + 1


@DBOS.step()
def step(number: int) -> int:
    return number + 1


@DBOS.workflow()
def five(number: int) -> int:
    for _ in range(5):
        number = step(number)
    return number


def launch():
    DBOS(config=CONFIG)
    DBOS.launch()
    DBOS.register_queue("rivals", worker_concurrency=100, polling_interval_sec=0.01)


def prepare():
    launch()
    DBOS.destroy()


def worker():
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: over.set())
    launch()
    over.wait()
    DBOS.destroy()


def calling(name):
    client = DBOSClient(system_database_url=URL)
    options = {"queue_name": "rivals", "workflow_name": name, "app_version": "1"}
    return lambda number: client.enqueue(options, number)


def sending(count):
    call = calling(noop.__qualname__)
    return timed(lambda: [call(number) for number in range(count)])


def trips(count):
    call = calling(follow.__qualname__)
    return several(count, lambda: call(1).get_result(polling_interval_sec=0.01), 2)


def flows(count):
    def all_of_them():
        handles = [DBOS.start_workflow(five, 0) for _ in range(count)]
        assert [handle.get_result(polling_interval_sec=0.01) for handle in handles] == [5] * count

    launch()
    found = timed(all_of_them)
    DBOS.destroy()
    return found


if __name__ == "__main__":
    main(prepare=prepare, worker=worker, send=sending, trip=trips, flow=flows)
