"""Run one program on one implementation and keep what it printed, free of everything that differs between two runs."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compat import REMARK
from compat.implementations import Implementation

HERE = Path(__file__).parent
PROGRAMS = HERE / "programs"
GOLDEN = HERE / "golden"
PATIENCE_S = 120


@dataclass(frozen=True, order=True)
class Program:
    """A file below programs/, known by chapter and name."""

    chapter: str
    name: str

    def __str__(self) -> str:
        return f"{self.chapter}/{self.name}"

    @property
    def path(self) -> Path:
        return PROGRAMS / self.chapter / f"{self.name}.py"

    @property
    def golden(self) -> Path:
        """Where Celery's own transcript is recorded."""
        return GOLDEN / self.chapter / f"{self.name}.txt"

    @property
    def title(self) -> str:
        """The first line of the program's docstring."""
        return self.path.read_text().split('"""')[1].strip().splitlines()[0].rstrip(".")


@dataclass(frozen=True)
class Transcript:
    """What a program printed, or why it did not get to its end."""

    text: str
    error: str = ""
    remarks: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        return not self.error


def programs(selection: list[str]) -> Iterator[Program]:
    """The programs of the chapters and `chapter/name`s selected; all of them for an empty selection."""
    wanted = {chosen.removesuffix(".py") for chosen in selection}
    found = set()
    for path in sorted(PROGRAMS.glob("*/*.py")):
        program = Program(path.parent.name, path.stem)
        names = {program.chapter, program.name, str(program)} & wanted
        found |= names
        if names or not wanted:
            yield program
    if wanted - found:
        raise SystemExit(f"no such program or chapter: {', '.join(sorted(wanted - found))}")


def run(program: Program, implementation: Implementation, more: dict[str, str] | None = None) -> Transcript:
    """Run the program in a session of its own, so that a hanging one is stopped with all its workers.

    `more` is for its environment.
    """
    implementation.empty()
    with tempfile.TemporaryDirectory(prefix="compat-") as scratch:
        process = subprocess.Popen(
            implementation.launch,
            cwd=program.path.parent,
            env=_environment(program, implementation, scratch) | (more or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, complaints = process.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            printed, complaints = process.communicate()
            complaints += f"\nstill running after {PATIENCE_S} s"
        logs = "".join(f"--- {log.name}\n{_end_of(log.read_text())}" for log in sorted(Path(scratch).glob("*.log")))
        text = normalised(printed, scratch)
        remarks = tuple(line for line in complaints.splitlines() if line.startswith(REMARK))
    return Transcript(text, _end_of(complaints) + logs if process.returncode else "", remarks)


def normalised(text: str, scratch: str) -> str:
    """Replace what differs between two runs, or between two packages that hold the same class.

    Ids become `<id 1>`, `<id 2>`, ... in order of appearance; host names, processes, addresses and durations get
    a word; `celery.exceptions.Retry` becomes `Retry`.
    """
    numbers: dict[str, int] = {}

    def numbered(found: re.Match[str]) -> str:
        return f"<id {numbers.setdefault(found[0], len(numbers) + 1)}>"

    text = re.sub(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", numbered, text)
    text = re.sub(r"\b(?:celery|pgtasks|kombu|billiard)(?:\.\w+)*\.(?=[A-Z])", "", text)
    text = re.sub(r"\bgen\d+@", "gen<pid>@", text)
    text = re.sub(r"\b0x[0-9a-f]{6,}\b", "<address>", text)
    text = re.sub(r"\bin \d+(\.\d+)?(e-\d+)?s\b", "in <time>s", text)
    for place, word in (
        (scratch, "<scratch>"),
        (str(PROGRAMS), "<programs>"),
        (socket.gethostname(), "<host>"),
    ):
        text = text.replace(place, word)
    return text


def _end_of(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-30:]) + "\n"


def _environment(program: Program, implementation: Implementation, scratch: str) -> dict[str, str]:
    """The runner's environment without settings that would reach Celery or pgtasks by accident."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CELERY", "PGTASKS", "DJANGO", "DATABASE_URL", "C_FORCE_ROOT"))
    }
    return {
        **inherited,
        **implementation.environment,
        "COMPAT_COMMAND": json.dumps(implementation.command),
        "COMPAT_PROGRAM": program.name,
        "COMPAT_SCRATCH": scratch,
        "C_FORCE_ROOT": "yes",  # containers run this as root, and Celery then refuses pickle
        "PYTHONPATH": str(HERE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore",
        "TZ": "UTC",
    }
