"""`app.control`: remote control commands, and revoking tasks.

    broadcast -> a letter to each live worker -> it obeys -> its reply -> whoever asked

Since the database knows which workers live, whoever asks stops waiting when all of them have replied. What concerns
tasks does not depend on letters: a revocation is a row, holds for tasks that wait, are scheduled or run, survives
restarts, and needs no worker to be there when it is asked for; its letter only tells workers.

Names, arguments and replies are Celery's (user guide, "Workers Guide", remote control).
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any
from uuid import UUID, uuid4

import psycopg
from kombu.matcher import match as _match

from pgtasks.app import pidbox
from pgtasks.exceptions import DuplicateNodenameWarning, TaskRevokedError
from pgtasks.message import id_of
from pgtasks.platforms import signal_name
from pgtasks.serialization import accepted, decode, encode, encode_exception
from pgtasks.store import fleet, letters, tasks
from pgtasks.store.database import Database
from pgtasks.store.listen import Doorbell
from pgtasks.utils.text import pluralize

__all__ = ("Control", "Inspect", "flatten_reply", "purge", "revoke")

TERM_SIGNAME = "SIGTERM"
#: How often replies are looked for when no notification comes.
_FIRST_LOOK_S, _LAST_LOOK_S = 0.05, 0.5

Replies = list[dict[str, Any]]


def _revoked() -> bytes:
    return encode(encode_exception(TaskRevokedError("revoked"))).body


def purge(app: Any, queues: Sequence[str]) -> int:
    """End every waiting task of some queues, in bounded steps; gives how many there were."""
    total = 0
    while count := app.database.run(tasks.purge(list(queues), _revoked())):
        total += count
    return total


def revoke(database: Database, task_ids: Sequence[str], signal: str = "") -> None:
    """Revoke tasks, waiting or claimed; with the name of a signal, running ones are killed by it."""
    keys = [id_of(task_id) for task_id in task_ids]
    workers = database.run(tasks.revoke(keys, _revoked(), signal))
    if workers:
        database.run(fleet.nudge(workers))
    database.run(fleet.tell(keys))


def flatten_reply(reply: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Make one mapping, by node name, of a list of replies; warns of names that two nodes share."""
    nodes: dict[str, Any] = {}
    shared: set[str] = set()
    for item in reply:
        shared.update(nodes.keys() & item.keys())
        nodes.update(item)
    if shared:
        warnings.warn(
            DuplicateNodenameWarning(
                f"Received multiple replies from node {pluralize(len(shared), 'name')}: {', '.join(sorted(shared))}."
                " Give each worker a name of its own by the `-n` option of the worker."
            ),
            stacklevel=2,
        )
    return nodes


#: Does a name match a pattern, by glob or pcre? (kombu's annotations say bytes.)
_matches: Callable[[str, str, str | None], bool] = _match  # type: ignore[assignment]


class Inspect:
    """Queries to workers. An answer maps node names to replies; None when nobody replied in time."""

    app: Any = None

    def __init__(
        self,
        destination: Sequence[str] | str | None = None,
        timeout: float | None = 1.0,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        connection: Any = None,
        app: Any = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app or self.app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher

    def _request(self, command: str, **arguments: Any) -> Any:
        return self._prepare(
            self.app.control.broadcast(
                command,
                arguments=arguments,
                destination=self.destination,
                callback=self.callback,
                connection=self.connection,
                limit=self.limit,
                timeout=self.timeout,
                reply=True,
                pattern=self.pattern,
                matcher=self.matcher,
            )
        )

    def _prepare(self, reply: Replies) -> Any:
        if not reply:
            return None
        by_node = flatten_reply(reply)
        if isinstance(self.destination, str) and self.destination:
            return by_node.get(self.destination)
        if self.pattern:
            return {node: said for node, said in by_node.items() if _matches(node, self.pattern, self.matcher)}
        return by_node

    def ping(self, destination: Sequence[str] | None = None) -> Any:
        """`{'ok': 'pong'}` from every live worker, and from schedulers with `beat_enable_remote_control`."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active(self, safe: bool | None = None) -> Any:
        """The tasks that run; with `safe`, their arguments as text."""
        return self._request("active", safe=safe)

    def reserved(self, safe: bool | None = None) -> Any:
        """The tasks that a worker has claimed and not begun."""
        return self._request("reserved")

    def scheduled(self, safe: bool | None = None) -> Any:
        """The tasks that are not due yet. They are rows; of several workers of a queue one tells of them."""
        return self._request("scheduled")

    def registered(self, *taskinfoitems: str) -> Any:
        """The names of the tasks that a worker knows, with the attributes that are asked for."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def query_task(self, *ids: Any) -> Any:
        """What a worker knows of some tasks: their state there, and the same as `active` tells."""
        if len(ids) == 1 and isinstance(ids[0], list | tuple):
            ids = tuple(ids[0])
        return self._request("query_task", ids=ids)

    def memsample(self) -> Any:
        """What memory the worker's parent process uses now, in words."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Any:
        """What it used whenever it was asked, as text."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Any:
        """The file with a picture of what refers to objects of a type; the worker needs the package objgraph."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)

    def revoked(self) -> Any:
        """The ids of the tasks that were revoked while the worker ran."""
        return self._request("revoked")

    def active_queues(self) -> Any:
        """The queues that are consumed, as their declarations say."""
        return self._request("active_queues")

    def stats(self) -> Any:
        """What a worker has done, how it is made up, and what it uses."""
        return self._request("stats")

    def conf(self, with_defaults: bool = False) -> Any:
        """The settings, secrets masked."""
        return self._request("conf", with_defaults=with_defaults)

    def report(self) -> Any:
        """What to include in a bug report."""
        return self._request("report")

    def clock(self) -> Any:
        """The logical clock."""
        return self._request("clock")

    def hello(self, from_node: str, revoked: Any = None) -> Any:
        """What workers of Celery tell each other when they start."""
        return self._request("hello", from_node=from_node, revoked=revoked)


class Control:
    """Commands to the workers of one app, and about its tasks.

    Methods that are one command take the arguments of `broadcast` as well: destination=, reply=, timeout=, ...
    """

    def __init__(self, app: Any = None) -> None:
        self.app = app

    @cached_property
    def inspect(self) -> Any:
        """The class of questions, bound to the app: `app.control.inspect(timeout=3).active()`."""
        return self.app.subclass_with_self(Inspect, reverse="control.inspect")

    # -- tasks

    def purge(self, connection: Any = None) -> int:
        """End every waiting task of the app's queues; gives how many there were."""
        return purge(self.app, list(self.app.amqp.queues.consume_from))

    discard_all = purge

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Any = None,
        terminate: bool = False,
        signal: str | int | None = TERM_SIGNAME,
        *,
        conn: Any = None,
        **kwargs: Any,
    ) -> Any:
        """End tasks that wait as REVOKED; with `terminate`, kill those that run by `signal`.

        Without `terminate` a task that runs already is left to end. A task that is sent later under one of the ids
        does not run either. Holds everywhere, whatever `destination` says. A signal that there is not raises ValueError.
        With `conn` it is part of its transaction: done when that commits, and nobody is asked for a reply.
        """
        ids = [task_id] if isinstance(task_id, str) else [str(one) for one in task_id]
        signal = signal_name(signal or TERM_SIGNAME)
        if conn is not None:
            keys = [id_of(one) for one in ids]
            return self.app.database.run(tasks.revoke_at_commit(keys, signal if terminate else ""), conn)
        revoke(self.app.database, ids, signal if terminate else "")
        arguments = {"task_id": ids, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke", destination=destination, arguments=arguments, **kwargs)

    def terminate(
        self, task_id: str | Iterable[str], destination: Any = None, signal: str = TERM_SIGNAME, **kwargs: Any
    ) -> Any:
        """`revoke` with `terminate=True`."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def revoke_by_stamped_headers(
        self,
        headers: dict[str, Any],
        destination: Any = None,
        terminate: bool = False,
        signal: str = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Any:
        """Have the workers that run now refuse tasks with such stamps; with `terminate`, kill those that they run."""
        arguments = {"headers": headers, "terminate": terminate, "signal": signal}
        return self.broadcast("revoke_by_stamped_headers", destination=destination, arguments=arguments, **kwargs)

    def rate_limit(self, task_name: str, rate_limit: int | str, destination: Any = None, **kwargs: Any) -> Any:
        """Set how often tasks of a type may run, as in '10/m'."""
        arguments = {"task_name": task_name, "rate_limit": rate_limit}
        return self.broadcast("rate_limit", destination=destination, arguments=arguments, **kwargs)

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Set the time limits of tasks of a type, in seconds."""
        arguments = {"task_name": task_name, "hard": hard, "soft": soft}
        return self.broadcast("time_limit", destination=destination, arguments=arguments, **kwargs)

    # -- workers

    def ping(self, destination: Any = None, timeout: float | None = 1.0, **kwargs: Any) -> Any:
        """Ask workers whether they are there: `[{'celery@host': {'ok': 'pong'}}, ...]`."""
        return self.broadcast("ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs)

    def shutdown(self, destination: Any = None, **kwargs: Any) -> Any:
        """Tell workers to shut down once their running tasks have ended."""
        return self.broadcast("shutdown", destination=destination, **kwargs)

    def add_consumer(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: dict[str, Any] | None = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Tell workers to start consuming a queue."""
        arguments = {"queue": queue, "exchange": exchange, "exchange_type": exchange_type, "routing_key": routing_key}
        return self.broadcast(
            "add_consumer", destination=destination, arguments={**arguments, **(options or {})}, **kwargs
        )

    def cancel_consumer(self, queue: str, destination: Any = None, **kwargs: Any) -> Any:
        """Tell workers to stop consuming a queue."""
        return self.broadcast("cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs)

    def pool_grow(self, n: int = 1, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers start `n` more processes."""
        return self.broadcast("pool_grow", destination=destination, arguments={"n": n}, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers end `n` processes."""
        return self.broadcast("pool_shrink", destination=destination, arguments={"n": n}, **kwargs)

    def pool_restart(
        self,
        modules: Sequence[str] | None = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Have workers import modules and replace their processes."""
        arguments = {"modules": modules, "reload": reload, "reloader": reloader}
        return self.broadcast("pool_restart", destination=destination, arguments=arguments, **kwargs)

    def autoscale(self, max: int, min: int, destination: Any = None, **kwargs: Any) -> Any:
        """Set the maximum and minimum number of processes of autoscaling workers."""
        return self.broadcast("autoscale", destination=destination, arguments={"max": max, "min": min}, **kwargs)

    def enable_events(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send events about tasks."""
        return self.broadcast("enable_events", destination=destination, **kwargs)

    def disable_events(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send no events about tasks."""
        return self.broadcast("disable_events", destination=destination, **kwargs)

    def heartbeat(self, destination: Any = None, **kwargs: Any) -> Any:
        """Have workers send a heartbeat event now."""
        return self.broadcast("heartbeat", destination=destination, **kwargs)

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Have exactly one worker of all send a task, a signature given as `action`; `topic` is "task"."""
        self.broadcast("election", arguments={"id": id, "topic": topic, "action": action})

    # -- any command

    def broadcast(
        self,
        command: str,
        arguments: dict[str, Any] | None = None,
        destination: Sequence[str] | None = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        only_workers: bool = False,
        **extra_kwargs: Any,
    ) -> Any:
        """Give all live workers a command, or those of some names, or whose names match a pattern.

        Schedulers with remote control are asked as well whether they are there, unless it is for `only_workers`.

        With `reply`, gives a list of `{hostname: reply}`: it is complete when everybody has replied, `limit` replies
        have come, or none has for `timeout` seconds. `callback` gets each as it comes. `connection` and `channel`
        are accepted and not needed.
        """
        hostnames = self._addressees(destination, pattern, matcher)
        known = "" if only_workers else command
        others = pidbox.nodes(self.app, known, hostnames if destination else None, pattern, matcher)
        arguments = {**(arguments or {}), **extra_kwargs}
        body = encode(arguments, self.app.conf.task_serializer)
        ticket = uuid4() if reply else None
        letter = letters.Letter(ticket, self.app.clock.forward(), command, *body)
        if ticket is None:
            self.app.database.run(letters.post(letter, hostnames))
            pidbox.ask(self.app, others, command, arguments, reply=False)
            return None
        posted = letters.post(letter, hostnames, timeout)
        replies = _Replies(self.app, ticket).to(posted, timeout, limit, callback)
        left = limit - len(replies) if limit else None
        return replies + pidbox.ask(self.app, others, command, arguments, timeout, left, callback)

    def _addressees(
        self, destination: Sequence[str] | None, pattern: str | None, matcher: str | None
    ) -> Sequence[str] | None:
        if isinstance(destination, str):
            destination = [destination]
        if destination is not None and not isinstance(destination, list | tuple):
            raise ValueError(f"destination must be a list/tuple not {type(destination)}")
        if not (pattern and matcher) or destination:
            return destination or None
        if not (isinstance(pattern, str) and isinstance(matcher, str)):
            raise ValueError(f"pattern and matcher must be strings not {type(pattern)}, {type(matcher)}")
        names = {row[0] for row in self.app.database.run(fleet.workers())}
        return [name for name in names if _matches(name, pattern, matcher)]


class _Replies:
    """Collects the replies to one letter."""

    def __init__(self, app: Any, ticket: UUID) -> None:
        self._app = app
        self._ticket = ticket
        self._accept = accepted(app.conf.accept_content)

    def to(
        self,
        letter: Any,
        timeout_s: float | None,
        limit: int | None,
        callback: Callable[[dict[str, Any]], Any] | None,
    ) -> Replies:
        """Post the letter and wait for the replies."""
        bell = self._bell()
        try:
            expected = len(self._app.database.run(letter))
            return self._collect(bell, min(expected, limit or expected), timeout_s, callback)
        finally:
            if bell is not None:
                bell.close()

    def _bell(self) -> Doorbell | None:
        with suppress(psycopg.Error):
            return Doorbell(self._app.database.url, f"pgtasks_ticket_{self._ticket}")
        return None

    def _collect(
        self,
        bell: Doorbell | None,
        expected: int,
        timeout_s: float | None,
        callback: Callable[[dict[str, Any]], Any] | None,
    ) -> Replies:
        replies: Replies = []
        heard_at = time.monotonic()
        pause = _FIRST_LOOK_S
        while len(replies) < expected:
            for said in self._app.database.run(letters.collect(self._ticket)):
                replies.append(self._read(said))
                heard_at, pause = time.monotonic(), _FIRST_LOOK_S
                if callback is not None:
                    callback(replies[-1])
            left = pause if timeout_s is None else heard_at + timeout_s - time.monotonic()
            if left <= 0 or len(replies) >= expected:
                break
            _listen(bell, min(pause, left))
            pause = min(pause * 2, _LAST_LOOK_S)
        return replies

    def _read(self, said: letters.Reply) -> dict[str, Any]:
        self._app.clock.adjust(said.clock)
        return {said.hostname: decode(said.body, said.content_type, said.content_encoding, self._accept)}


def _listen(bell: Doorbell | None, timeout_s: float) -> None:
    if bell is None:
        time.sleep(timeout_s)
    elif bell.rings(timeout_s):
        with suppress(psycopg.Error):
            bell.heard()
