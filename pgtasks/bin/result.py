"""`pgtasks result`: print the result of a task."""

from __future__ import annotations

import click
from kombu.utils.json import dumps

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option, option
from pgtasks.exceptions import CeleryCommandException, TimeoutError
from pgtasks.platforms import EX_FAILURE, EX_UNAVAILABLE


@click.command(cls=CeleryCommand)
@click.argument("task_id")
@option("-t", "--task", heading="Result Options", help="Name of the task; not needed.")
@option(
    "--traceback",
    is_flag=True,
    heading="Result Options",
    help="Print the traceback instead.",
)
@option(
    "--timeout",
    type=float,
    heading="Result Options",
    help="Seconds to wait. Default: no limit.",
)
@json_option
@click.pass_obj
def result(
    obj: CLIContext, /, task_id: str, task: str | None, traceback: bool, timeout: float | None, as_json: bool
) -> None:
    """Print the value of a task, waiting for it if need be; a task that failed exits with status 1."""
    found = obj.app.AsyncResult(task_id)
    if traceback:
        obj.echo(dumps({"id": task_id, "traceback": found.traceback}) if as_json else found.traceback)
        return
    try:
        value = found.get(timeout=timeout, propagate=False)
    except TimeoutError as exc:
        message = f"Task {task_id} is {found.state} after {timeout:g} s. Is a worker consuming its queue?"
        raise CeleryCommandException(message, EX_UNAVAILABLE) from exc
    if as_json:
        shown = repr(value) if isinstance(value, BaseException) else value
        obj.echo(dumps({"id": task_id, "status": found.state, "result": shown}))
    elif found.successful():
        obj.echo(value)
    if not found.successful():
        raise CeleryCommandException(f"Task {task_id} ended {found.state}: {value!r}", EX_FAILURE)
