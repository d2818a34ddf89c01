"""`pgtasks top`: a live view of queues, workers and tasks.

It reads the views of the schema, so it needs no events and no answer of any worker, and shows what waits as well.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import click

from pgtasks.bin.options import CeleryCommand, CLIContext, option
from pgtasks.exceptions import OperationalError
from pgtasks.store import overview

#: Terminal: another screen and no cursor; back; home and clear; bold; plain.
_ENTER, _LEAVE, _HOME, _BOLD, _PLAIN = (
    "\x1b[?1049h\x1b[?25l",
    "\x1b[?25h\x1b[?1049l",
    "\x1b[H\x1b[2J",
    "\x1b[1m",
    "\x1b[0m",
)


@click.command(cls=CeleryCommand)
@option("-i", "--interval", type=float, default=1.0, show_default=True, help="Seconds between refreshes.")
@option("--once", is_flag=True, help="Print once, and exit.")
@click.pass_obj
def top(obj: CLIContext, /, interval: float, once: bool) -> None:
    """Show queues, workers and tasks, live. Ctrl-C exits."""
    if once:
        obj.echo(page(obj.app.database.run(overview.look()), 10_000, 200))
        return
    with suppress(KeyboardInterrupt):
        live(obj.app, interval, is_coloured=not obj.no_color)


def live(app: Any, interval_s: float = 1.0, is_coloured: bool = True) -> None:
    """Show the view until interrupted; a database that does not answer is waited for."""
    with _other_screen():
        while True:
            size = shutil.get_terminal_size()
            try:
                text = page(app.database.run(overview.look()), size.lines - 1, size.columns, is_coloured)
            except OperationalError as error:
                text = f"The database does not answer: {error}"[: size.columns]
            sys.stdout.write(_HOME + text)
            sys.stdout.flush()
            time.sleep(interval_s)


@contextmanager
def _other_screen() -> Iterator[None]:
    sys.stdout.write(_ENTER)
    try:
        yield
    finally:
        sys.stdout.write(_LEAVE)
        sys.stdout.flush()


def page(seen: overview.Overview, lines: int, columns: int, is_coloured: bool = False) -> str:
    """Lay out a snapshot for a terminal size: queues, workers, running tasks, tasks that ended last."""
    head = (
        f"{seen.now:%H:%M:%S}  ready {seen.ready}  scheduled {seen.scheduled}  running {len(seen.running)}"
        f"  ended in the last minute {seen.ended} ({seen.failed} failed)"
    )
    tables: list[tuple[tuple[str, ...], list[tuple[Any, ...]]]] = [
        (("QUEUE", "READY", "SCHEDULED", "WAITING"), seen.queues),
        (("WORKER", "POOL", "SLOTS", "CLAIMED", "UP", "QUEUES"), seen.workers),
        (("RUNNING", "TASK", "WORKER", "FOR"), seen.running),
        (("ENDED", "TASK", "STATE", "TOOK"), seen.latest),
    ]
    text = [head]
    for titles, rows in tables:
        text += ["", *_table(titles, rows, is_coloured)]
    return "\n".join(_cut(line, columns) for line in text[:lines])


def _table(titles: tuple[str, ...], rows: list[tuple[Any, ...]], is_coloured: bool) -> list[str]:
    cells = [tuple(_cell(value) for value in row) for row in rows]
    widths = [max(len(row[at]) for row in [titles, *cells]) for at in range(len(titles))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [titles, *cells]]
    return [f"{_BOLD}{lines[0]}{_PLAIN}" if is_coloured else lines[0], *lines[1:]]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return f"{seconds:.1f}s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
    return ",".join(value) if isinstance(value, list) else str(value)


def _cut(line: str, columns: int) -> str:
    is_bold = line.startswith(_BOLD)
    return line if is_bold else line[:columns]
