"""How many statements a durable step and a run cost, counted in the server's own log.

    python -m loadtest.rivals.statements

The same program, a loop of steps that add 1, on pgtasks and on DBOS, one run at a time: a number of runs of five steps,
then of fifteen. The difference is what ten steps cost; what is left of the five, without its steps, is what a run costs beside
them. BEGIN and COMMIT count, since each is a round trip. What a program's other threads ask meanwhile is in it too, and small.
"""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import psycopg

from loadtest import bench
from loadtest.rivals import contenders
from loadtest.rivals.contenders import CONTENDERS, Contender, Ready

SHORT, LONG = 5, 15
_SENT = re.compile(r"LOG:  (?:statement|execute [^:]*): ")


class Cost(NamedTuple):
    """Statements."""

    per_step: float
    per_run: float


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.rivals.statements",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--home", type=Path, default=Path.home() / ".cache" / "pgtasks-rivals")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    for contender in CONTENDERS:
        if contender.name in ("pgtasks", "DBOS"):
            cost = count(contender, options.home, options.runs)
            print(f"{contender.name:<8}  a step: {cost.per_step:.1f}  a run, beside its steps: {cost.per_run:.1f}")


def count(contender: Contender, home: Path, runs: int) -> Cost:
    """Count what runs of one contender cost, on a server of its own."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="statements-")))
        directory.chmod(0o755)
        server, log = stack.enter_context(bench._server(None))
        assert log is not None
        environ = stack.enter_context(contenders.postgres(server, contender.name))
        ready = Ready(contender, contenders.environment(contender, home), environ, directory)
        ready.do("walk", 0, SHORT) if _walks_alone(contender) else ready.do("prepare")
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute("ALTER SYSTEM SET log_statement = 'all'")
            conn.execute("SELECT pg_reload_conf()")
        if not _walks_alone(contender):
            stack.enter_context(ready.worker())
        ready.do("walk", 5, SHORT)
        short = _counted(ready, log, runs, SHORT)
        long = _counted(ready, log, runs, LONG)
    per_step = (long - short) / (LONG - SHORT)
    return Cost(per_step, short - SHORT * per_step)


def _walks_alone(contender: Contender) -> bool:
    """Does it run workflows in the program that calls them?"""
    return contender.name == "DBOS"


def _counted(ready: Ready, log: Path, runs: int, steps: int) -> float:
    """Statements per run. To begin and end a program costs some, which a walk of no runs has too."""
    spent = []
    for number in (0, runs):
        before = log.stat().st_size
        ready.do("walk", number, steps)
        with log.open(encoding="utf-8", errors="replace") as file:
            file.seek(before)
            spent.append(len(_SENT.findall(file.read())))
    return (spent[1] - spent[0]) / runs


if __name__ == "__main__":
    main()
