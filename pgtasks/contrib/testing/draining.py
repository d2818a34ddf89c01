"""Running enqueued tasks in the calling thread: a worker without a process, for tests.

    with transaction.atomic():                 # or psycopg, or SQLAlchemy: the test's own transaction
        order = place_order()                  # calls tasks
        drain(app, using="default")            # runs them, and what they call, until nothing is left
        assert order.is_shipped

Everything is done by the statements of a real worker - claims, results, retries, chords - but on the given connection, so
tasks see what the transaction has written, and a rollback undoes all of it. Without a connection each task is committed.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

import psycopg

from pgtasks import __version__
from pgtasks.execution import Site, execute
from pgtasks.message import Claim, Outcome
from pgtasks.store import borrow, fleet, health, overview
from pgtasks.store.database import Database, connect
from pgtasks.store.outbox import Outbox
from pgtasks.store.sql import Query
from pgtasks.worker.consumer import Consumer

__all__ = ("Ran", "borrowing", "drain")

T = TypeVar("T")

#: Tasks after which a drain gives up: something calls itself for ever.
MOST = 10_000
#: Nobody takes over from a drain, wherever its clock goes.
_LEASE_S = 1e9
#: Due times are told in seconds, as floats.
_A_MOMENT = timedelta(milliseconds=1)


class Ran(NamedTuple):
    """One attempt of a task: its name, its id, and the state it came to."""

    name: str
    id: str
    state: str


class BorrowedDatabase(Database):
    """An app's database, but everything happens on one connection of somebody else's."""

    def __init__(self, url: str, source: Any) -> None:
        super().__init__(url)
        self._source = source

    def run(self, query: Query[T], conn: Any = None) -> T:
        return borrow.run(self._source if conn is None else conn, query)

    def run_at_once(self, *queries: Query[Any]) -> list[Any]:
        return self.transact(lambda ask: [ask(query) for query in queries])

    def transact(self, work: Callable[[Callable[[Query[Any]], Any]], T]) -> T:
        with borrow.savepoint(self._source):
            return work(self.run)

    def run_all(self, queries: Iterable[Query[None]]) -> None:
        with borrow.savepoint(self._source):
            for query in queries:
                self.run(query)

    def ping(self) -> None:
        """The connection is somebody else's to look after."""


@contextmanager
def borrowing(app: Any, source: Any) -> Iterator[None]:
    """Run everything that an app does in this block on one connection, which belongs to the caller."""
    # Before the connection is borrowed: to make the tables is not for somebody else's transaction.
    app.database.ping()
    before = {name: app.__dict__.pop(name) for name in ("database", "outbox") if name in app.__dict__}
    app.__dict__["database"] = BorrowedDatabase(before["database"].url, source)
    app.__dict__["outbox"] = Outbox(app.__dict__["database"])
    # A connection that begins a transaction with its first statement has begun it now, and not within a savepoint.
    app.database.run(health.clock())
    try:
        yield
    finally:
        app.__dict__.pop("outbox", None)
        app.__dict__.update(before)


@contextmanager
def _given_or_own(app: Any, source: Any) -> Iterator[Any]:
    if source is not None:
        yield source
        return
    with connect(app.database.url) as own:
        yield own


class _Drain(Consumer):
    """A consumer that nobody has to wake."""

    def _listen(self) -> None:
        """What there is, is found by looking."""

    def tick(self) -> fleet.Tick:
        """Look at all there is and will be, however far away: here the clock goes on by leaps."""
        return self.database.run(fleet.tick(self.worker, self.queues, renew=False))

    def look_everywhere(self) -> list[Claim]:
        """Move what is due, and claim from the start of every queue."""
        self.tick()
        self._lanes.forget()
        return self.step((), 1, ())


def drain(
    app: Any,
    conn: Any = None,
    *,
    using: Any = None,
    queues: Sequence[str] | None = None,
    until: datetime | timedelta | None = None,
) -> list[Ran]:
    """Run what is ready, and what that calls, until nothing is; gives each attempt, in order.

    `conn=`, or `using=` for a Django alias, is the transaction in which all of it happens. `queues` are the app's by default,
    and those that anything waits in. With `until`, a moment or so long from now, what is due by then runs too: the clock of
    the database goes on to each due time, and back in the end. Tasks that fail do so as in a worker: their results say it.
    """
    with _given_or_own(app, using if conn is None else conn) as source, borrowing(app, source):
        database = app.database
        consumer = _Drain(database, _description(app, queues), lease_s=_LEASE_S, max_deliveries=app.conf.task_max_deliveries)
        consumer.enlist()
        run = _Run(consumer, Site(app, consumer.worker, consumer.hostname), follows_queues=queues is None)
        try:
            run.all_that_is_ready()
            if until is not None:
                run.all_that_is_due(until if isinstance(until, datetime) else database.run(health.clock()) + until)
        finally:
            # Where an error has broken the transaction, its end does both.
            with suppress(psycopg.Error):
                database.run(health.set_clock(None))
                consumer.discharge()
    return run.ran


def _description(app: Any, queues: Sequence[str] | None) -> dict[str, Any]:
    queues = [*{*app.amqp.queues, app.conf.task_default_queue}] if queues is None else [*queues]
    machine = platform.node()
    about = {"machine": machine, "pool": "solo", "concurrency": 1, "version": __version__}
    return {**about, "hostname": f"drain@{machine}", "queues": queues}


class _Run:
    """What runs in one drain."""

    def __init__(self, consumer: _Drain, site: Site, follows_queues: bool) -> None:
        self.ran: list[Ran] = []
        self._consumer = consumer
        self._site = site
        self._follows_queues = follows_queues

    def all_that_is_ready(self) -> None:
        self._empty_queues()
        while self._follows_queues and (others := self._other_queues()):
            self._consumer.subscribe([*self._consumer.queues, *others])
            self._empty_queues()

    def _other_queues(self) -> set[str]:
        """Queues in which something waits, and which are not consumed yet."""
        waiting = self._consumer.database.run(overview.unended())
        return {task.queue for task in waiting}.difference(self._consumer.queues)

    def _empty_queues(self) -> None:
        outcomes: list[Outcome] = []
        while True:
            claims = self._consumer.step(outcomes, 1, ())
            claims = claims or self._consumer.look_everywhere()
            if not claims:
                return
            outcomes = [self._execute(claim) for claim in claims]

    def _execute(self, claim: Claim) -> Outcome:
        if len(self.ran) >= MOST:
            raise RuntimeError(
                f"{MOST} tasks have run, the last of them {claim.name}[{claim.public_id}], and there are more. Does one call"
                " itself?"
            )
        outcome = execute(self._site, claim)
        self.ran.append(Ran(claim.name, claim.public_id, outcome.state))
        return outcome

    def all_that_is_due(self, end: datetime) -> None:
        """Go on from one due time to the next, as far as that is before the end."""
        database = self._consumer.database
        while (due_in_s := self._consumer.tick().next_due_s) is not None:
            due = database.run(health.clock()) + timedelta(seconds=due_in_s) + _A_MOMENT
            if due > end:
                break
            database.run(health.set_clock(due))
            self.all_that_is_ready()
        database.run(health.set_clock(end))
