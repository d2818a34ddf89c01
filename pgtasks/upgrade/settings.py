"""Settings under their old names, `CELERYD_CONCURRENCY`, to those that they have had since Celery 4, `worker_concurrency`.

The file is changed as text, name by name, so that comments, order and line ends stay as they are.
"""

from __future__ import annotations

import re
from pathlib import Path

from pgtasks.app.defaults import _TO_NEW_KEY

__all__ = ("back_up", "read", "renamed", "write")


def renamed(text: str, *, prefixed: bool = False) -> str:
    """The text with every old name replaced; `prefixed` makes `CELERY_WORKER_CONCURRENCY` of it, as Django wants it."""
    return _OLD_NAMES.sub(lambda found: _prefixed(_TO_NEW_KEY[found[0]]) if prefixed else _TO_NEW_KEY[found[0]], text)


_OLD_NAMES = re.compile(rf"\b(?:{'|'.join(map(re.escape, _TO_NEW_KEY))})\b")


def _prefixed(name: str) -> str:
    name = name.upper()
    return name if name.startswith("CELERY_") else f"CELERY_{name}"


def read(path: Path) -> str:
    """The text of a file with its own line ends."""
    with path.open(encoding="utf-8", newline="") as file:
        return file.read()


def write(path: Path, text: str) -> None:
    """The counterpart of `read`."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def back_up(path: Path) -> Path:
    """Copy a file to one beside it, with `.orig` after its name; returns that."""
    backup = path.with_name(f"{path.name}.orig")
    write(backup, read(path))
    return backup
