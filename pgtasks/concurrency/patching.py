"""Monkey patching for the gevent pool, which must come before anything is imported that waits.

The name of the pool is looked for where the command line finds it later: `-P gevent`, `--pool=gevent`, or the environment
variables of that option. This module imports nothing of pgtasks, so that nothing is there before the patch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

__all__ = ("is_patched", "maybe_patch_concurrency", "pool_asked_for")

_VARIABLES = ("PGTASKS_WORKER_POOL", "CELERY_WORKER_POOL")


def maybe_patch_concurrency(argv: Sequence[str] | None = None) -> None:
    """Patch the standard library if the command line asks for the gevent pool; programs that start workers call it first."""
    argv = sys.argv if argv is None else argv
    # multi starts workers, each of which patches itself.
    if "multi" in argv or pool_asked_for(argv, os.environ) != "gevent":
        return
    with suppress(ImportError):  # the worker says what is missing
        # An extra, and slow.
        from gevent import monkey

        monkey.patch_all()


def pool_asked_for(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """The pool that this command line names; None when it leaves that to the settings."""
    for at, word in enumerate(argv[1:], start=1):
        if word in ("-P", "--pool"):
            return argv[at + 1] if at + 1 < len(argv) else None
        if word.startswith("--pool="):
            return word.partition("=")[2]
        if word.startswith("-P"):
            return word[2:]
    return next((environ[name] for name in _VARIABLES if environ.get(name) and "worker" in argv), None)


def is_patched() -> bool:
    """Do sockets of this process let other greenlets run while they wait?"""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("socket"))
