"""`Tester`: an app under test, with all that tests want to do with it in one place."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime, timedelta
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgtasks.contrib.testing import enqueued as looking
from pgtasks.contrib.testing.draining import Ran, drain
from pgtasks.contrib.testing.enqueued import Enqueued
from pgtasks.contrib.testing.processes import WorkerProcess, worker_process
from pgtasks.contrib.testing.worker import TestWorkController, start_worker
from pgtasks.store import health

__all__ = ("Tester", "travel")


class Tester:
    """An app under test. `conn=`, or `using=` for a Django alias, is the transaction of a test that keeps to one."""

    #: pytest would take it for a test.
    __test__ = False

    def __init__(self, app: Any) -> None:
        self.app = app

    @property
    def database_url(self) -> str:
        """Where the tasks are."""
        url: str = self.app.database_url
        return url

    # -- what was called

    def enqueued(self, task: Any = None, *, conn: Any = None, using: Any = None) -> list[Enqueued]:
        """The calls that have not ended; see `pgtasks.contrib.testing.enqueued`."""
        return looking.enqueued(self.app, task, conn=conn, using=using)

    def assert_enqueued(self, task: Any, *args: Any, **kwargs: Any) -> Enqueued:
        """Assert that a task was called, with these arguments, in this queue, ...; gives the first such call."""
        return looking.assert_enqueued(self.app, task, *args, **kwargs)

    def assert_not_enqueued(self, task: Any = None, *, conn: Any = None, using: Any = None) -> None:
        """Assert that a task, or any, does not wait."""
        looking.assert_not_enqueued(self.app, task, conn=conn, using=using)

    # -- running it

    def drain(
        self,
        conn: Any = None,
        *,
        using: Any = None,
        queues: Sequence[str] | None = None,
        until: datetime | timedelta | None = None,
    ) -> list[Ran]:
        """Run what was called, and what that calls, here and now; see `pgtasks.contrib.testing.draining.drain`."""
        return drain(self.app, conn, using=using, queues=queues, until=until)

    def worker(self, **options: Any) -> AbstractContextManager[TestWorkController]:
        """A worker in a thread of this process, for as long as a `with` block lasts; options are those of `start_worker`."""
        return start_worker(self.app, **options)

    def worker_process(self, app: str, *options: str, **kwargs: Any) -> AbstractContextManager[WorkerProcess]:
        """A worker in processes of its own, to be killed; `app` is what `-A` says."""
        return worker_process(app, *options, **kwargs)

    # -- time

    def travel(self, to: datetime | timedelta) -> AbstractContextManager[datetime]:
        """Set the clock for the duration of a `with` block; see `travel`."""
        return travel(self.app, to)


@contextmanager
def travel(app: Any, to: datetime | timedelta) -> Iterator[datetime]:
    """Set the database's clock to a moment, or by an offset from now, for the duration of the block; gives the moment.

    It stands still there, for this app, and for workers and other programs that are started in the block. It is the
    database that says what is due, has expired, or was when: for what Python code asks of its own clock there are
    freezegun and time-machine.
    """
    moment = to if isinstance(to, datetime) else app.database.run(health.clock()) + to
    url = app.database_url
    given = conninfo_to_dict(url)
    options = f"{given.get('options') or ''} -c pgtasks.now={moment.isoformat()}".strip()
    before = os.environ.get("PGTASKS_DATABASE_URL")
    # Every connection that is opened from here on begins with it.
    os.environ["PGTASKS_DATABASE_URL"] = make_conninfo("", **{**given, "options": options})
    app.forget_database()
    try:
        yield moment
    finally:
        if before is None:
            del os.environ["PGTASKS_DATABASE_URL"]
        else:
            os.environ["PGTASKS_DATABASE_URL"] = before
        app.forget_database()
