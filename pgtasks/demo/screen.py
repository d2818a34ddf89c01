"""What the demo shows: lines that stay, and below them a bar that moves when this is a terminal."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from textwrap import wrap
from typing import Any

import click

_CLEAR = "\r\x1b[K"


class Screen:
    """Prints to standard output; where that is no terminal, the bar is a line for every tenth of the way."""

    def __init__(self, colour: bool = True) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._colour = colour and self._is_terminal
        self._full, self._empty = ("█", "░") if _can_print("█░") else ("#", ".")
        self._bar = ""
        self._tenths = 0

    def say(self, line: str = "") -> None:
        """Print a line above the bar."""
        self._write(f"{_CLEAR if self._bar else ''}{line}\n{self._bar}")

    def fact(self, name: str, value: str) -> None:
        """Print a name and what there is to say about it."""
        self._hang(f"{name:<10}", "cyan", value)

    def event(self, name: str, colour: str, value: str) -> None:
        """Print what has happened, with room around it."""
        self.end_progress()
        self.say()
        self._hang(f"{name}  ", colour, value)
        self.say()

    def _hang(self, name: str, colour: str, value: str) -> None:
        indent = f"  {name} "
        width = shutil.get_terminal_size().columns - 1
        first, *others = wrap(
            value, width, initial_indent=indent, subsequent_indent=" " * len(indent),
            break_long_words=False, break_on_hyphens=False,
        )  # fmt: skip
        for line in (first.replace(name, self.paint(name, fg=colour), 1), *others):
            self.say(line)

    def paint(self, text: str, **style: Any) -> str:
        return click.style(text, **style) if self._colour else text

    def progress(self, done: int, total: int, note: str) -> None:
        """Move the bar."""
        tenths = 10 * done // max(total, 1)
        words = f"{done:>{len(f'{total:,}')},} of {total:,} tasks  {note:<13}"
        if self._is_terminal:
            width = max(10, min(40, shutil.get_terminal_size().columns - len(words) - 8))
            filled = width * done // max(total, 1)
            bar = self.paint(self._full * filled, fg="green") + self._empty * (width - filled)
            self._bar = f"  {bar}  {words}"
            self._write(_CLEAR + self._bar)
        elif tenths > self._tenths:
            self._write(f"  {words.rstrip()}\n")
        self._tenths = tenths

    def end_progress(self) -> None:
        """Leave the bar as it stands and go on below it."""
        if self._bar:
            self._bar = ""
            self._write("\n")

    def table(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print rows as psql does."""
        cells = [list(names), *([_cell(value) for value in row] for row in rows)]
        widths = [max(len(row[at]) for row in cells) for at in range(len(names))]
        room = shutil.get_terminal_size().columns - 4
        for number, row in enumerate(cells):
            line = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            line = line if len(line) <= room else line[: room - 1] + "…"
            self.say("    " + (self.paint(line, bold=True) if number == 0 else line))

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _can_print(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
