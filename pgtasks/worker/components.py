"""The names of the components of Celery's worker, for the `requires` of a project's bootsteps.

The classes are empty: a worker here has everything ready before it starts any step.
"""

from __future__ import annotations

from pgtasks.bootsteps import StartStopStep, Step

__all__ = (
    *("Agent", "Beat", "Connection", "Consumer", "Control", "DelayedDelivery", "Events", "Evloop"),
    *("Gossip", "Heart", "Hub", "Mingle", "Pool", "StateDB", "Tasks", "Timer"),
)


class Timer(Step):
    """`worker.timer`."""


class Hub(StartStopStep):
    """The loop."""


class Pool(StartStopStep):
    """The children."""


class StateDB(Step):
    """What survives the worker, which here is in the database."""


class Beat(StartStopStep):
    """The scheduler of `-B`."""


class Consumer(StartStopStep):
    """What claims tasks."""


class Connection(StartStopStep):
    """The way to the tasks: a connection to the database."""


class Events(StartStopStep):
    """What sends events."""


class Heart(StartStopStep):
    """The heartbeat."""


class Mingle(StartStopStep):
    """Asking the other workers at the start: they are rows here."""


class Gossip(StartStopStep):
    """Listening to the other workers: they are rows here."""


class Tasks(StartStopStep):
    """The queues."""


class Control(StartStopStep):
    """Remote control."""


class DelayedDelivery(StartStopStep):
    """Queues for what is not due: rows here."""


class Agent(StartStopStep):
    """Never anything in Celery either, unless configured."""


class Evloop(StartStopStep):
    """The loop, once more."""
