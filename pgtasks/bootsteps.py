"""Steps: what a project starts and stops with its workers.

    class Liveness(bootsteps.StartStopStep):
        def start(self, worker): ...
        def stop(self, worker): ...

    app.steps["worker"].add(Liveness)

Steps of `app.steps["worker"]` get the worker, those of `app.steps["consumer"]` its consumer. Both run in the worker's parent
process, which runs no tasks: what takes long belongs into a thread. `requires` orders steps among each other; requirements
of Celery's own steps, such as a connection or a timer, are met before any step starts.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from contextlib import suppress
from graphlib import TopologicalSorter
from typing import Any

from pgtasks.utils.imports import instantiate, symbol_by_name
from pgtasks.utils.saferepr import saferepr

__all__ = ("ConsumerStep", "StartStopStep", "Step", "in_order")

logger = logging.getLogger("celery.worker.consumer")

#: Seconds after which the thread of a consumer step looks whether it should end, after which it begins again when the
#: database was away, and for which its end is waited for.
_TURN_S, _REST_S, _PATIENCE_S = 1.0, 5.0, 5.0


class Step:
    """Something that is made with its parent. `enabled`, or `include_if`, says whether it is."""

    name: str | None = None
    label: str | None = None
    conditional = False
    requires: Iterable[Any] = ()
    last = False
    enabled: Any = True

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        """Get the parent before it starts, and the options it was started with."""

    def include_if(self, parent: Any) -> Any:
        return self.enabled

    def instantiate(self, name: Any, *args: Any, **kwargs: Any) -> Any:
        return instantiate(name, *args, **kwargs)

    def _should_include(self, parent: Any) -> tuple[bool, Any]:
        return (True, self.create(parent)) if self.include_if(parent) else (False, None)

    def include(self, parent: Any) -> bool:
        return self._should_include(parent)[0]

    def create(self, parent: Any) -> Any:
        """Make what the step is about."""

    def info(self, parent: Any) -> Any:
        """What `inspect stats` shows of it, a mapping."""

    @property
    def alias(self) -> str:
        return self.label or type(self).__name__

    def __repr__(self) -> str:
        return f"<step: {self.alias}>"


class StartStopStep(Step):
    """A step that is started and stopped; by default it is what `create` gave that is."""

    obj: Any = None

    def start(self, parent: Any) -> Any:
        if self.obj:
            return self.obj.start()
        return None

    def stop(self, parent: Any) -> Any:
        if self.obj:
            return self.obj.stop()
        return None

    def close(self, parent: Any) -> Any:
        """Called before the first step is stopped."""

    def terminate(self, parent: Any) -> Any:
        """Called instead of `stop` when the worker is told to end at once."""
        if self.obj:
            return getattr(self.obj, "terminate", self.obj.stop)()
        return None

    def include(self, parent: Any) -> bool:
        is_included, made = self._should_include(parent)
        if is_included:
            self.obj = made
            parent.steps.append(self)
        return is_included


class ConsumerStep(StartStopStep):
    """A step that consumes messages of its own, which are no tasks, with kombu's consumers on a channel of this database.

    A thread of its own calls their callbacks. A message that is not acknowledged comes again when the worker has gone. One
    that cannot be read is logged and rejected, unless the consumer has an `on_decode_error` of its own.
    """

    _reader: threading.Thread | None = None

    def get_consumers(self, channel: Any) -> Any:
        raise NotImplementedError("missing get_consumers")

    def start(self, parent: Any) -> None:
        self._leaving = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(parent.app,), name=self.alias, daemon=True)
        self._reader.start()

    def stop(self, parent: Any) -> None:
        if self._reader is not None:
            self._leaving.set()
            self._reader.join(_PATIENCE_S)

    terminate = stop

    def _read(self, app: Any) -> None:
        """Consume until told to stop; what breaks off is begun again."""
        while not self._leaving.is_set():
            try:
                with app.connection_for_read().of_kombu() as connection:
                    self._consume(connection)
            except Exception:
                logger.exception("The step %s could not consume; it tries again in %s s", self.alias, _REST_S)
                self._leaving.wait(_REST_S)

    def _consume(self, connection: Any) -> None:
        for consumer in self.get_consumers(connection.default_channel):
            # Raised, it would come again and again, and what waits behind it never.
            consumer.on_decode_error = consumer.on_decode_error or self._reject
            consumer.consume()
        while not self._leaving.is_set():
            with suppress(TimeoutError):
                connection.drain_events(timeout=_TURN_S)


    def _reject(self, message: Any, error: Exception) -> None:
        logger.error(
            "The step %s rejected a message that cannot be read: %s [type:%r encoding:%r headers:%s] %s",
            self.alias, error, message.content_type, message.content_encoding, message.headers, saferepr(message.body, 500),
        )  # fmt: skip
        message.reject()


def in_order(steps: Iterable[Any]) -> list[Any]:
    """Classes of steps, or the paths of some, each after those it requires."""
    classes = {symbol_by_name(step) for step in steps}
    graph: TopologicalSorter[Any] = TopologicalSorter()
    for cls in sorted(classes, key=lambda cls: (bool(cls.last), cls.__module__, cls.__qualname__)):
        graph.add(cls, *(required for required in cls.requires if required in classes))
    return list(graph.static_order())
