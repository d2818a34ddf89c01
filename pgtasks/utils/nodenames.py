"""Names of workers: `name@host`, by Celery's names.

Patterns in node names and log file names: `%h` the whole host name, `%n` the name before the @, `%d` the
domain, `%i` the number of the pool process (0 in the main process), `%I` the same with a dash before it, and
nothing in the main process.
"""

import os
import socket
from functools import cache, lru_cache
from multiprocessing.process import current_process
from typing import Any
from uuid import NAMESPACE_OID, uuid3

from kombu.entity import Exchange, Queue

from pgtasks.utils.text import simple_format

__all__ = (
    "anon_nodename",
    "current_process_index",
    "default_nodename",
    "gethostname",
    "host_format",
    "node_format",
    "nodename",
    "nodesplit",
    "reply_address",
    "worker_direct",
)

WORKER_DIRECT_EXCHANGE = Exchange("C.dq2")
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"
NODENAME_SEP = "@"
NODENAME_DEFAULT = "celery"


@cache
def gethostname() -> str:
    """Return the name of this machine; asked once."""
    return socket.gethostname()


def worker_direct(hostname: str | Queue) -> Queue:
    """Return the queue that only the worker of that name consumes."""
    if isinstance(hostname, Queue):
        return hostname
    return Queue(WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname), WORKER_DIRECT_EXCHANGE, hostname)


def nodename(name: str, hostname: str) -> str:
    """Join a name and a host."""
    return f"{name}{NODENAME_SEP}{hostname}"


def nodesplit(name: str) -> tuple[str | None, str]:
    """Split a node name into name and host; what has no @ is a host."""
    short, at, host = name.partition(NODENAME_SEP)
    return (short, host) if at else (None, name)


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """Name this process where it is not a worker: `gen123@host`."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


@lru_cache(maxsize=256)
def reply_address(origin: str | None) -> str | None:
    """Where Celery would send what a task of this origin returns: an id per process that calls tasks.

    Nothing is sent there, so it follows from the origin instead of travelling with every message.
    """
    return None if origin is None else str(uuid3(NAMESPACE_OID, origin))


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """Complete a node name: `celery@` before a lone host, this machine after a lone name."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: Any) -> str:
    """Replace the patterns in `s` for the node `name`, which is also `%p`."""
    short, host = nodesplit(name)
    return host_format(s, host, short or NODENAME_DEFAULT, p=name, **extra)


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: Any) -> str:
    """Replace the patterns in `s`; `extra` adds further one-letter keys."""
    host = host or gethostname()
    host_name, _, domain = host.partition(".")
    keys = {"h": host, "n": name or host_name, "d": domain, "i": _process_index, "I": _dashed_process_index}
    return simple_format(s, {**keys, **extra})


def current_process_index(base: int = 1) -> int | None:
    """Return the number of this pool process, counted from `base`; None outside of a pool.

    The pool says so in the attribute `index`, counted from 0, of `multiprocessing.current_process()`.
    """
    index: int | None = getattr(current_process(), "index", None)
    return None if index is None else index + base


def _process_index() -> str:
    return str(current_process_index() or 0)


def _dashed_process_index() -> str:
    index = current_process_index()
    return f"-{index}" if index else ""
