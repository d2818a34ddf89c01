"""Callers that bring their own connection or producer, as the guide's bulk example does."""

from celery import Celery

from compat.harness import worker

app = Celery("connections")


@app.task
def add(a, b):
    return a + b


def main():
    with worker():
        with app.connection_for_write() as connection:
            connection.ensure_connection(max_retries=1)
            print(connection.connected, add.apply_async((1, 2), connection=connection).get(timeout=10))
        with app.producer_pool.acquire(block=True) as producer:
            results = [add.apply_async((n, n), producer=producer) for n in range(3)]
        print([result.get(timeout=10) for result in results])
        with app.producer_or_acquire() as producer:
            print(add.apply_async((3, 4), producer=producer).get(timeout=10))
        with app.connection_or_acquire() as connection:
            print(add.apply_async((5, 4), connection=connection).get(timeout=10))
        with app.pool.acquire(block=True) as connection:
            print(app.send_task("connections.add", (1, 1), connection=connection).get(timeout=10))
