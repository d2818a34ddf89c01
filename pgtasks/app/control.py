"""`app.control`: orders about tasks and questions about workers, answered by the database.

A revocation is a row: it holds for tasks that wait, are scheduled or run, survives restarts, and needs no worker to be
there when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from pgtasks.exceptions import TaskRevokedError
from pgtasks.message import id_of
from pgtasks.serialization import encode, encode_exception
from pgtasks.store import fleet, tasks

__all__ = ("Control", "purge")


def _revoked() -> bytes:
    return encode(encode_exception(TaskRevokedError("revoked"))).body


def purge(app: Any, queues: Sequence[str]) -> int:
    """End every waiting task of some queues, in bounded steps; gives how many there were."""
    total = 0
    while count := app.database.run(tasks.purge(list(queues), _revoked())):
        total += count
    return total


class Control:
    """Orders to the workers of one app."""

    def __init__(self, app: Any = None) -> None:
        self.app = app

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str = "SIGTERM",
        **kwargs: Any,
    ) -> None:
        """End tasks that wait as REVOKED; with `terminate`, kill those that run by `signal`.

        Without `terminate` a task that runs already is left to end. `destination` is accepted and not needed: the
        database knows which worker has a task.
        """
        ids = [task_id] if isinstance(task_id, str) else list(task_id)
        keys = [id_of(one) for one in ids]
        database = self.app.database
        workers = database.run(tasks.revoke(keys, _revoked(), str(signal) if terminate else ""))
        if workers:
            database.run(fleet.nudge(workers))
        database.run(fleet.tell(keys))

    def terminate(self, task_id: str | Iterable[str], destination: Any = None, signal: str = "SIGTERM", **kwargs: Any) -> None:
        """`revoke` with `terminate=True`."""
        self.revoke(task_id, destination, terminate=True, signal=signal, **kwargs)

    def purge(self, connection: Any = None) -> int:
        """End every waiting task of the app's queues; gives how many there were."""
        return purge(self.app, list(self.app.amqp.queues.consume_from))

    discard_all = purge
