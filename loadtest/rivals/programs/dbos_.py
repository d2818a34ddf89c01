"""DBOS: every task is a workflow, its result stored; one worker process, a hundred at a time.

Queues and results are polled every 10 ms in the place of every second. Many at once are a thousand in a transaction.
Workflows of steps wait in a queue as well, but for a single one, which runs where it is called: the fastest way
there is.
"""

import signal
import threading

import sqlalchemy as sa
from common import URL, main, note, note_end, note_step, several, timed
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
    return note_step(number)


@DBOS.workflow()
def walk(steps: int) -> int:
    number = 0
    for _ in range(steps):
        number = step(number)
    return number


@DBOS.workflow()
def five(number: int) -> int:
    for _ in range(5):
        number = step(number)
    return note_end(number)


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


def options_of(name):
    return {"queue_name": "rivals", "workflow_name": name, "app_version": "1"}


def calling(name):
    client = DBOSClient(system_database_url=URL)
    options = options_of(name)
    return lambda number: client.enqueue(options, number)


def in_transactions(workflow, count):
    client = DBOSClient(system_database_url=URL)
    options = options_of(workflow.__qualname__)
    engine = sa.create_engine(sa.make_url(URL).set(drivername="postgresql+psycopg"))
    for start in range(0, count, 1000):
        with engine.begin() as connection:
            for number in range(start, min(start + 1000, count)):
                client.enqueue_in_transaction(connection, options, number)


def sending(workflow, count):
    call = calling(workflow.__qualname__)
    return timed(lambda: [call(number) for number in range(count)])


def trips(count):
    call = calling(follow.__qualname__)
    return several(count, lambda: call(1).get_result(polling_interval_sec=0.01), 2)


def walks(count, steps):
    # Without a queue, which would be polled meanwhile.
    DBOS(config=CONFIG)
    DBOS.launch()
    found = timed(lambda: [walk(steps) for _ in range(count)])
    DBOS.destroy()
    return found


def flow(count):
    launch()
    found = several(count, lambda: five(0), 5)
    DBOS.destroy()
    return found


if __name__ == "__main__":
    main(
        prepare=prepare,
        worker=worker,
        send=lambda count: sending(noop, count),
        bulk=lambda count: timed(lambda: in_transactions(noop, count)),
        flows=lambda count: sending(five, count),
        trip=trips,
        flow=flow,
        walk=walks,
    )
