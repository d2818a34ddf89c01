"""Which files the demo reads."""

from __future__ import annotations

import os
import sysconfig
from collections.abc import Iterator, Sequence
from itertools import islice

_LEFT_OUT = {"__pycache__", ".git", "site-packages", "dist-packages"}


def default_directories() -> list[str]:
    """The Python standard library; then the installed packages, since some distributions ship a small one."""
    paths = sysconfig.get_paths()
    return [paths["stdlib"], paths["purelib"]]


def find_files(directories: Sequence[str], limit: int) -> list[str]:
    """Find up to `limit` regular files below the directories, in a fixed order.

    Links, pipes, sockets and devices are left out, and directories that may not be read are passed over.
    """
    found = (path for directory in directories for path in _below(directory))
    return list(islice(found, limit))


def _below(directory: str) -> Iterator[str]:
    try:
        with os.scandir(directory) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in inside:
        try:
            if entry.is_file(follow_symlinks=False):
                yield entry.path
            elif entry.is_dir(follow_symlinks=False) and entry.name not in _LEFT_OUT:
                yield from _below(entry.path)
        except OSError:
            continue
