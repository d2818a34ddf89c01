"""`pgtasks bridge`: move tasks from Redis or RabbitMQ into Postgres, and back."""

from __future__ import annotations

import json
import logging
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from kombu.exceptions import OperationalError as BrokerError

from pgtasks import serialization
from pgtasks.bin.options import COMMA_SEPARATED_LIST, JSON_OBJECT, CeleryCommand, CLIContext, json_option, option
from pgtasks.exceptions import CeleryCommandException
from pgtasks.moving.amqp import AmqpSource
from pgtasks.moving.parcel import Source
from pgtasks.moving.reading import CHORDS, GROUPS, Reader, Unreadable
from pgtasks.moving.redis import RedisSource
from pgtasks.moving.results import Results
from pgtasks.moving.to_broker import ToBroker
from pgtasks.moving.to_postgres import Counts, ToPostgres, Until, retake
from pgtasks.platforms import EX_FAILURE, EX_UNAVAILABLE
from pgtasks.store import moving as store
from pgtasks.store.database import Database
from pgtasks.store.url import as_conninfo
from pgtasks.utils.text import mask_url

_REDIS = re.compile(r"^(redis|rediss|redis\+socket|sentinel|valkey)://")
_AMQP = re.compile(r"^(amqp|amqps|pyamqp|pyamqps)://")
#: Messages of each queue that a dry run reads.
_PEEK = 1000
_SAY_S = 1.0


@click.command(cls=CeleryCommand)
@option("--from", "origin", metavar="URL", help="The old broker, redis:// or amqp://; else the app's broker_url.")
@option("--to", "target", metavar="URL", help="The database, else the configured one; a broker's URL is the way back.")
@option("-Q", "--queues", type=COMMA_SEPARATED_LIST, help="Queues, separated by commas. Default: for Redis, all"
        " that it knows; for RabbitMQ and the way back, those of the app.")  # fmt: skip
@option("--once", is_flag=True, help="Exit when nothing waits.")
@option("--until-empty", is_flag=True, help="Exit when nothing waits and no old worker holds or consumes anything.")
@option("--dry-run", is_flag=True, help="Report what would be done; change nothing.")
@option("--batch", "limit", type=click.IntRange(1, 10_000), default=500, show_default=True,
        help="Messages per queue and transaction.")  # fmt: skip
@option("--leave", "stays", type=click.Choice([CHORDS, GROUPS]), default=CHORDS, show_default=True,
        help="What old workers must finish: chords under way, or all groups (result stores other than Redis).")  # fmt: skip
@option("--leave-to", "chords", default="pgtasks.chords", show_default=True,
        help="The queue of the old broker that this goes to: keep an old worker on it until it is empty.")  # fmt: skip
@option("--results", metavar="URL", help="Write results of what is taken over to this old Redis result store as well.")
@option("--reclaim", is_flag=True, help="Redis: take the unfinished messages of old workers. Only when all of them are"
        " gone: what one still runs would run twice.")  # fmt: skip
@option("--again", is_flag=True, help="Retry the messages that were set aside, and exit.")
@option("--accept", type=COMMA_SEPARATED_LIST, help="Serializers of messages to accept; else the app's accept_content.")
@option("--transport-options", type=JSON_OBJECT, help="Options of the old broker's transport, as JSON; else the app's.")
@json_option
@click.pass_obj
def bridge(obj: CLIContext, /, **given: Any) -> None:
    """Move the tasks of a running Celery installation into Postgres, and back.

    What waits at the old broker is enqueued here under the same ids, in order, and then taken off the broker; it may be
    stopped and killed at any point. Without --once or --until-empty it goes on until it is stopped. Give the app
    with -A: its routes say where the next steps of chains go, and its accept_content what is read.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    app = obj.app
    target = given["target"] or ""
    if _is_broker(target):
        _to_broker(obj, app, target, given)
        return
    if given["once"] and given["until_empty"]:
        raise click.UsageError("Give --once or --until-empty, not both.")
    database = _database(app, target)
    reader = Reader(app, serialization.accepted(given["accept"] or app.conf.accept_content), given["stays"])
    if given["again"]:
        taken, rest = retake(database, reader)
        _say(obj, given, {"taken": taken, "aside": rest}, f"Taken over: {taken}. Still set aside: {rest}.")
        return
    origin = given["origin"] or _text(app.conf.broker_url)
    connect = _connector(app, origin, given)
    if given["dry_run"]:
        _dry_run(obj, given, reader, _opened(connect, origin))
    else:
        _to_postgres(obj, app, given, database, reader, connect, origin)


# -- to Postgres


def _to_postgres(
    obj: CLIContext,
    app: Any,
    given: dict[str, Any],
    database: Database,
    reader: Reader,
    connect: Callable[[], Source],
    origin: str,
) -> None:
    database.ping()
    source = _opened(connect, origin)
    if given["reclaim"]:
        if not isinstance(source, RedisSource):
            raise click.UsageError("--reclaim is for Redis: RabbitMQ gives back by itself what a worker had.")
        obj.error(f"Reclaimed from workers that are gone: {source.reclaim()}.")
    source.close()
    progress = _Progress(obj, given["as_json"])
    moving = ToPostgres(
        database, reader, connect,
        limit=given["limit"], chords=given["chords"], owes=bool(given["results"]), tell=progress.show,
    )  # fmt: skip
    results = Results(app, database, given["results"]) if given["results"] else None
    if results:
        results.start()
    _stop_on_signals(moving.stop)
    until: Until = "once" if given["once"] else "empty" if given["until_empty"] else "stopped"
    try:
        counts = moving.run(until)
    finally:
        if results:
            results.stop()
    _summary(obj, given, moving, counts, results)


def _summary(
    obj: CLIContext, given: dict[str, Any], moving: ToPostgres, counts: Counts, results: Results | None
) -> None:
    standing = moving.standing()
    aside = len(moving.database.run(store.aside(10_000)))
    moving.close()
    facts = {
        "taken": counts.taken, "following": counts.following, "queues": counts.by_queue, "aside": counts.aside,
        "left": counts.left, "waiting": dict(standing.waiting), "held": standing.held,
        "consumers": standing.consumers, "results": results.written if results else None,
    }  # fmt: skip
    lines = [f"Taken over: {counts.taken} messages{_in_queues(counts)}, and {counts.following} that follow them."]
    if counts.left:
        lines.append(
            f"Left to the old workers: {counts.left}, in their queue {given['chords']!r}. Keep one that consumes it"
            " until it is empty."
        )
    if aside:
        lines.append(
            f"Set aside, since they cannot be read: {aside}, in the table pgtasks.set_aside, with the reasons. Once"
            " these are gone, `pgtasks bridge --again` takes them over."
        )
    if waiting := sum(standing.waiting.values()):
        lines.append(f"Still waiting at the old broker: {waiting}.")
    if standing.held:
        lines.append(f"In the hands of old workers, running or held for their ETA: {standing.held}.")
    if standing.consumers:
        lines.append(f"Old workers that still consume: {standing.consumers}.")
    if results:
        lines.append(f"Results written to the old store: {results.written}.")
    _say(obj, given, facts, "\n".join(lines))


def _in_queues(counts: Counts) -> str:
    named = ", ".join(f"{queue} {number}" for queue, number in sorted(counts.by_queue.items()))
    return f" ({named})" if named else ""


class _Progress:
    """One line on stderr that says how far it is: rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self, obj: CLIContext, is_quiet: bool) -> None:
        self.obj = obj
        self.is_quiet = is_quiet
        self.began_at = time.monotonic()
        self.next_at = 0.0
        self.is_terminal = sys.stderr.isatty()

    def show(self, counts: Counts) -> None:
        self.say(counts.taken, f"{counts.taken} taken over, {counts.left} left, {counts.aside} set aside")

    def say(self, done: int, words: str) -> None:
        now = time.monotonic()
        if self.is_quiet or now < self.next_at:
            return
        self.next_at = now + (_SAY_S if self.is_terminal else 10 * _SAY_S)
        line = f"{words}, {done / max(now - self.began_at, 0.001):.0f}/s"
        self.obj.error(f"\r{line}\x1b[K" if self.is_terminal else line, nl=not self.is_terminal)


# -- dry run


def _dry_run(obj: CLIContext, given: dict[str, Any], reader: Reader, source: Source) -> None:
    standing = source.standing()
    found: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for parcel in source.peek(_PEEK):
        try:
            taken = reader.read(parcel)
        except Unreadable as error:
            found["aside"] += 1
            reasons[str(error)[:200]] += 1
            continue
        found["left" if taken.stays else "taken"] += 1
        found["following"] += len(taken.messages) - 1
    source.close()
    facts = {
        "source": source.name, "waiting": dict(standing.waiting), "held": standing.held,
        "consumers": standing.consumers, "read": dict(found), "reasons": dict(reasons),
    }  # fmt: skip
    lines = [f"{source.name}:", *(f"  {queue:<30} {number} waiting" for queue, number in standing.waiting.items())]
    if standing.held is not None:
        lines.append(f"In the hands of old workers: {standing.held}.")
    if found:
        lines.append(
            f"Of the first {_PEEK} of each list: {found['taken']} to take over, and {found['following']} that follow"
            f" them; {found['left']} to leave; {found['aside']} to set aside."
        )
    lines += [f"  {number} x {reason}" for reason, number in reasons.most_common(10)]
    _say(obj, given, facts, "\n".join(lines))


# -- to the broker


def _to_broker(obj: CLIContext, app: Any, target: str, given: dict[str, Any]) -> None:
    origin = given["origin"]
    if origin and not as_conninfo(origin):
        raise click.UsageError("Between two brokers there is no bridge: --from or --to must be a Postgres.")
    queues = given["queues"] or sorted(app.amqp.queues)
    progress = _Progress(obj, given["as_json"])
    moving = ToBroker(
        app, _database(app, origin or ""), target, queues,
        limit=given["limit"], options=_transport_options(app, given),
        tell=lambda moved: progress.say(moved, f"{moved} moved"),
    )  # fmt: skip
    before = moving.staying()
    if given["dry_run"]:
        text = ", ".join(f"{why} {number}" for why, number in sorted(before.items())) or "nothing"
        _say(obj, given, before, f"In {', '.join(queues)}: {text}. Those that wait can be moved to {moving.name}.")
        return
    with _first_contact(target):
        moving.connect()
    _stop_on_signals(moving.stop)
    moved = moving.run()
    after = {why: number for why, number in moving.staying().items() if why != "waiting"}
    lines = [f"Moved to {moving.name}: {moved}."]
    if after:
        named = ", ".join(f"{number} {why}" for why, number in sorted(after.items()))
        lines.append(f"Left here, since only pgtasks can finish them: {named}. Keep a worker until they have ended.")
    _say(obj, given, {"moved": moved, "staying": after}, "\n".join(lines))


# -- what both need


def _is_broker(url: str) -> bool:
    return bool(_REDIS.match(url) or _AMQP.match(url))


def _text(url: Any) -> str:
    return str((url[0] if isinstance(url, list | tuple) and url else url) or "")


def _database(app: Any, url: str) -> Database:
    if not url:
        database: Database = app.database
        return database
    if not (conninfo := as_conninfo(url)):
        raise click.UsageError(f"{mask_url(url)!r} is neither a Postgres nor a broker that the bridge knows.")
    return Database(conninfo)


def _transport_options(app: Any, given: dict[str, Any]) -> dict[str, Any]:
    return dict(given["transport_options"] or app.conf.broker_transport_options or {})


def _connector(app: Any, origin: str, given: dict[str, Any]) -> Callable[[], Source]:
    """How to connect to the old broker, each time that is needed."""
    options, queues = _transport_options(app, given), given["queues"]
    if _REDIS.match(origin):
        return lambda: RedisSource(origin, queues or (), options)
    if _AMQP.match(origin):
        names: Sequence[str] = queues or sorted(app.amqp.queues)
        return lambda: AmqpSource(origin, names, options)
    raise click.UsageError(
        f"--from {mask_url(origin)!r} is no broker that the bridge knows. Give --from redis://... or amqp://...,"
        " or name with -A an app whose broker_url is one."
    )


def _opened(connect: Callable[[], Source], origin: str) -> Source:
    with _first_contact(origin):
        source = connect()
        source.standing()
    return source


@contextmanager
def _first_contact(url: str) -> Iterator[None]:
    """Connect for the first time: a mistake shall be said at once, and not be waited for."""
    try:
        yield
    except ImportError as error:
        raise CeleryCommandException(
            f"A library for this broker is missing: {error}. `pip install 'pgtasks[bridge]'`.", EX_FAILURE
        ) from error
    except (BrokerError, OSError) as error:
        raise CeleryCommandException(f"{mask_url(url)} does not answer: {error}", EX_UNAVAILABLE) from error


def _stop_on_signals(stop: Callable[..., None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _say(obj: CLIContext, given: dict[str, Any], facts: Any, words: str) -> None:
    obj.echo(json.dumps(facts) if given["as_json"] else words)
