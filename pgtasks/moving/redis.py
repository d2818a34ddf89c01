"""Redis as kombu uses it: a list per queue and priority, and a hash of what workers have and did not acknowledge.

Messages are moved, by one atomic script, from a queue's list to a list of the bridge's own beside it, and removed from
there once they are in Postgres. So no worker can take one that the bridge has read, and a bridge that dies leaves them where
the next one looks first. kombu's own way to consume has a moment between the list and the hash in which a process that is
killed loses what it holds.

What old workers hold, running or waiting for its ETA, is theirs: they give it back when they stop, and kombu gives it back
when its visibility timeout has passed; only then the bridge sees it. Priorities are the steps of kombu, 0 before 3 before 6
before 9, and become 0, -3, -6 and -9, so that the order stays.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from kombu.connection import Connection

from pgtasks.moving.parcel import Parcel, Standing, opened
from pgtasks.utils.text import mask_url

__all__ = ("RedisSource",)

#: Moves up to ARGV[1] messages to the bridge's own list, counting those that are there, and gives the oldest of them last.
_MOVE = """
for _ = redis.call('LLEN', KEYS[2]) + 1, tonumber(ARGV[1]) do
  if not redis.call('RPOPLPUSH', KEYS[1], KEYS[2]) then break end
end
return redis.call('LRANGE', KEYS[2], -ARGV[1], -1)
"""
_OWN = "pgtasks.bridge."
#: Exchanges whose queues are no task queues: remote control and events.
_NO_TASKS = re.compile(r"pidbox$|^celeryev$|^celery_delayed_")
_LOOK_S = 0.5
#: How often messages are looked for that no worker has acknowledged in time.
_RESTORE_S = 10.0


class _List(NamedTuple):
    """One list of messages: those of a queue that have the same priority."""

    queue: str
    step: int
    key: str
    own: str


class RedisSource:
    """Takes messages from the lists of some queues, or of all that are bound."""

    def __init__(self, url: str, queues: Sequence[str] = (), options: Mapping[str, Any] | None = None) -> None:
        self.name = mask_url(url)
        self._connection = Connection(url, transport_options=dict(options or {}))
        channel: Any = self._connection.default_channel
        self._channel, self._client, self._prefix = channel, channel.client, channel.global_keyprefix
        self._wanted = tuple(queues)
        self._next_restore = 0.0

    @property
    def queues(self) -> list[str]:
        """The queues that are asked for, else all that tasks were ever sent to."""
        return list(self._wanted) if self._wanted else self._bound()

    def _bound(self) -> list[str]:
        found = set()
        binding = f"{self._prefix}{self._channel.keyprefix_queue % ''}"
        for key in self._client.scan_iter(match=f"{binding}*"):
            exchange = key.decode().removeprefix(binding)
            if _NO_TASKS.search(exchange):
                continue
            for member in self._client.smembers(key.decode().removeprefix(self._prefix)):
                found.add(member.decode().rpartition(self._channel.sep)[2])
        return sorted(found)

    def _lists(self) -> Iterator[_List]:
        for queue in self.queues:
            for step in self._channel.priority_steps:
                key = f"{self._prefix}{self._channel._q_for_pri(queue, step)}"
                yield _List(queue, step, key, f"{self._prefix}{_OWN}{key.removeprefix(self._prefix)}")

    # -- taking

    def take(self, limit: int, patience_s: float) -> list[Parcel]:
        deadline = time.monotonic() + patience_s
        while True:
            self._restore_overdue()
            if parcels := self._move(limit):
                return parcels
            rest = deadline - time.monotonic()
            if rest <= 0:
                return []
            time.sleep(min(rest, _LOOK_S))

    def _move(self, limit: int) -> list[Parcel]:
        lists = list(self._lists())
        with self._client.pipeline(transaction=False) as pipe:
            for each in lists:
                pipe.eval(_MOVE, 2, each.key, each.own, limit)
            found = pipe.execute()
        return [
            opened(raw, each.queue, -each.step, each)
            for each, messages in zip(lists, found, strict=True)
            for raw in reversed(messages)
        ]

    def peek(self, limit: int) -> Iterator[Parcel]:
        """Read the next messages of each queue and leave them where they are."""
        for each in self._lists():
            for key in (each.own, each.key):
                for raw in reversed(self._client.execute_command("LRANGE", key, -limit, -1)):
                    yield opened(raw, each.queue, -each.step, each)

    def _restore_overdue(self) -> None:
        """Do what kombu's consumers do now and then: give back what nobody has acknowledged in time."""
        if time.monotonic() >= self._next_restore:
            self._next_restore = time.monotonic() + _RESTORE_S
            self._channel.qos.restore_visible(num=1000, interval=1)

    def reclaim(self) -> int:
        """Give all that is not acknowledged back to its queues, ahead of what waits; for when no worker is left."""
        qos = self._channel.qos
        tags = self._client.execute_command("ZRANGE", qos.unacked_index_key, 0, -1)
        if self._prefix == "":
            tags += sorted(set(self._client.execute_command("HKEYS", qos.unacked_key)) - set(tags))
        for tag in reversed(tags):
            qos.restore_by_tag(tag.decode(), leftmost=True)
        return len(tags)

    # -- when they are in Postgres

    def settle(self, parcels: list[Parcel]) -> None:
        with self._client.pipeline(transaction=False) as pipe:
            for parcel in parcels:
                # From the end that it was read from: it is near there.
                pipe.execute_command("LREM", parcel.handle.own, -1, parcel.raw)
            pipe.execute()

    def leave(self, parcels: list[Parcel], queue: str) -> None:
        with self._client.pipeline(transaction=True) as pipe:
            for parcel in parcels:
                pipe.execute_command("LREM", parcel.handle.own, -1, parcel.raw)
                pipe.execute_command("LPUSH", f"{self._prefix}{queue}", parcel.raw)
            pipe.execute()

    # -- looking

    def standing(self) -> Standing:
        waiting: dict[str, int] = {}
        lists = list(self._lists())
        with self._client.pipeline(transaction=False) as pipe:
            for each in lists:
                pipe.execute_command("LLEN", each.key)
                pipe.execute_command("LLEN", each.own)
            pipe.execute_command("HLEN", self._channel.unacked_key)
            *lengths, held = pipe.execute()
        for each, waits, own in zip(lists, lengths[::2], lengths[1::2], strict=True):
            waiting[each.queue] = waiting.get(each.queue, 0) + waits + own
        return Standing(waiting, held=held)

    def close(self) -> None:
        self._connection.release()
