"""PgQueuer: it keeps no results; one worker process, batches of a hundred."""

import asyncio
import signal

import asyncpg
import uvloop
from common import URL, main, note, timed
from pgqueuer import PgQueuer
from pgqueuer.adapters.drivers.asyncpg import AsyncpgDriver
from pgqueuer.queries import Queries


async def prepare():
    connection = await asyncpg.connect(URL)
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


async def worker():
    connection = await asyncpg.connect(URL)
    queuer = PgQueuer(AsyncpgDriver(connection))

    @queuer.entrypoint("noop")
    async def noop(job):
        note(int(job.payload))

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
    await queuer.run(batch_size=100)


async def send(count):
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    for number in range(count):
        await queries.enqueue("noop", str(number).encode())
    await connection.close()


async def bulk(count):
    connection = await asyncpg.connect(URL)
    queries = Queries(AsyncpgDriver(connection))
    for start in range(0, count, 1000):
        numbers = range(start, min(start + 1000, count))
        await queries.enqueue(["noop"] * len(numbers), [str(number).encode() for number in numbers], [0] * len(numbers))
    await connection.close()


if __name__ == "__main__":
    main(
        prepare=lambda: asyncio.run(prepare()),
        worker=lambda: uvloop.run(worker()),
        send=lambda count: timed(lambda: uvloop.run(send(count))),
        bulk=lambda count: timed(lambda: uvloop.run(bulk(count))),
    )
