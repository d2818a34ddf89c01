"""`pgtasks demo`: watch tasks survive a `kill -9`, on real files."""

from __future__ import annotations

import os

import click

from pgtasks.bin.options import CeleryCommand, CLIContext
from pgtasks.demo.run import DemoFailed, Plan, run
from pgtasks.demo.screen import Screen
from pgtasks.exceptions import CeleryCommandException
from pgtasks.platforms import EX_FAILURE


def _processes() -> int:
    return min(4, max(2, (os.cpu_count() or 2) // 2))


@click.command(cls=CeleryCommand)
@click.argument("directory", required=False, type=click.Path(exists=True, file_okay=False))
@click.option(
    "--files",
    type=click.IntRange(1, 100_000),
    default=3000,
    show_default=True,
    help="Maximum number of files to read.",
)
@click.option(
    "-c", "--concurrency", type=click.IntRange(1, 64), default=_processes,
    show_default="half the CPUs, 2 to 4", help="Processes of each worker.",
)  # fmt: skip
@click.option(
    "--keep", is_flag=True,
    help="Use your private server instead of a temporary one; leave it running, with the tasks in it.",
)  # fmt: skip
@click.pass_context
def demo(ctx: click.Context, /, directory: str | None, files: int, concurrency: int, keep: bool) -> None:
    """Count words with two workers, and kill one of them.

    A program written against Celery's API counts the words of the files below DIRECTORY, by default those of
    the Python standard library and the packages installed here. In the middle, one of the two workers is
    killed with SIGKILL; the other one takes over. The answer is compared with a plain count in one process,
    and the exit status says whether it was right.

    It needs no set-up: it starts a Postgres of its own and removes it. With -b or PGTASKS_DATABASE_URL it
    uses that database, in a queue of its own, and removes its tasks again.
    """
    obj: CLIContext = ctx.obj
    plan = Plan(directory, files, concurrency, keep)
    try:
        ctx.exit(run(plan, Screen(colour=not obj.no_color)))
    except DemoFailed as exc:
        raise CeleryCommandException(str(exc), EX_FAILURE) from exc
