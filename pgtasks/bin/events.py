"""`pgtasks events`: print events, or run a snapshot camera; without either, a live view."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any

import click

from pgtasks.bin.daemon import become_a_service
from pgtasks.bin.options import LOG_LEVEL, CeleryDaemonCommand, CLIContext, option
from pgtasks.bin.top import live
from pgtasks.events.dumper import evdump
from pgtasks.events.snapshot import evcam
from pgtasks.utils.imports import import_from_cwd, symbol_by_name
from pgtasks.utils.nodenames import gethostname

of_camera = partial(option, heading="Snapshot")


@click.command(cls=CeleryDaemonCommand)
@option("-d", "--dump", is_flag=True, heading="Dumper", help="Print events as they arrive.")
@of_camera("-c", "--camera", help="Camera class, as in proj.cameras.Camera.")
@of_camera("--detach", is_flag=True, help="Run the camera in the background.")
@of_camera("-F", "--frequency", "--freq", type=float, default=1.0, show_default=True, help="Seconds between pictures.")
@of_camera("-r", "--maxrate", help="Maximum rate of snapshots, as in 10/m.")
@of_camera("-l", "--loglevel", type=LOG_LEVEL, default="WARNING", show_default=True, help="What to log.")
@click.pass_obj
def events(obj: CLIContext, /, dump: bool, camera: str | None, frequency: float, **options: Any) -> None:
    """Watch workers through their monitoring events.

    \b
    pgtasks -A proj events --dump
    pgtasks -A proj events -c proj.cameras.Camera --freq 2

    Workers send events about themselves while anyone listens, and about their tasks when started with -E or enabled by
    `pgtasks control enable_events`.
    """
    with suppress(KeyboardInterrupt):
        if dump:
            evdump(app=obj.app)
        elif camera:
            become_a_service(obj.app, gethostname(), options)
            evcam(
                _camera(camera), freq=frequency, maxrate=options["maxrate"], loglevel=options["loglevel"],
                logfile=options["logfile"], app=obj.app,
            )  # fmt: skip
        else:
            live(obj.app, is_coloured=not obj.no_color)


def _camera(path: str) -> Any:
    try:
        return symbol_by_name(path, imp=import_from_cwd)
    except (ImportError, AttributeError) as exc:
        raise click.BadParameter(f"{path!r} cannot be imported: {exc}", param_hint="'-c' / '--camera'") from exc
