"""The selector that a worker sleeps on: sockets of its children, the doorbell and the alarm."""

from __future__ import annotations

import selectors
from collections.abc import Callable
from functools import partial
from typing import Any

React = Callable[[], None]


class Reactor:
    """Sleeps until something happens, and calls the callback registered for it."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._constant: set[int] = set()
        self._followed: list[tuple[Any, bool]] = []
        self._bell: Any = None
        self._hear_bell: React = lambda: None

    def fileno(self) -> int:
        """The selector's own descriptor; -1 where it has none, as those of gevent."""
        fileno: Callable[[], int] = getattr(self._selector, "fileno", lambda: -1)
        return fileno()

    def watch(self, descriptor: int, react: React) -> None:
        """Watch a descriptor from now on."""
        self._constant.add(descriptor)
        self._selector.register(descriptor, selectors.EVENT_READ, react)

    def follow(self, children: list[Any], listen: Callable[[Any], None], bell: Any, hear: React) -> None:
        """Keep in step with the children and the doorbell, which come and go."""
        followed = [(bell, False), *[(child, child.wants_to_write) for child in children]]
        if followed == self._followed:
            return
        self._followed = followed
        wanted: dict[int, tuple[int, React]] = {}
        for child in children:
            if child.fileno() >= 0:
                wanted[child.fileno()] = (selectors.EVENT_READ, child.hear_with(listen))
                if child.wants_to_write:
                    wanted[child.outlet()] = (selectors.EVENT_WRITE, child.hear_with(listen))
        if bell is not None:
            if bell is not self._bell:
                # Of its own, as with children, since the number may be that of the bell before.
                self._bell, self._hear_bell = bell, partial(hear)
            wanted[bell.fileno()] = (selectors.EVENT_READ, self._hear_bell)
        known = {key.fd: key for key in self._selector.get_map().values() if key.fd not in self._constant}
        for descriptor, key in known.items():
            # A new child may have got the number of one that is gone, which the kernel has forgotten by itself.
            if descriptor not in wanted or wanted[descriptor][1] != key.data:
                self._selector.unregister(descriptor)
        for descriptor, (events, react) in wanted.items():
            before = known.get(descriptor)
            if before is None or before.data != react:
                self._selector.register(descriptor, events, react)

    def sleep(self, timeout_s: float) -> None:
        """Sleep until something happens, for `timeout_s` seconds at the most, and let it be reacted to."""
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            key.data()

    def close(self) -> None:
        self._selector.close()
