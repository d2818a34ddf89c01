"""Procrastinate: it keeps no results; one worker process, twenty coroutines."""

from common import URL, main, note, timed
from procrastinate import App, PsycopgConnector, SyncPsycopgConnector

app = App(connector=PsycopgConnector(conninfo=URL))


@app.task(name="noop")
async def noop(number):
    return note(number)


def sending(send):
    with app.replace_connector(SyncPsycopgConnector(conninfo=URL)) as sender, sender.open():
        task = sender.tasks["noop"]
        return timed(lambda: send(task))


def prepare():
    with app.replace_connector(SyncPsycopgConnector(conninfo=URL)) as owner, owner.open():
        owner.schema_manager.apply_schema()


def in_batches(task, count):
    for start in range(0, count, 1000):
        task.batch_defer(*({"number": number} for number in range(start, min(start + 1000, count))))


if __name__ == "__main__":
    main(
        prepare=prepare,
        worker=lambda: app.run_worker(concurrency=20),
        send=lambda count: sending(lambda task: [task.defer(number=number) for number in range(count)]),
        bulk=lambda count: sending(lambda task: in_batches(task, count)),
    )
