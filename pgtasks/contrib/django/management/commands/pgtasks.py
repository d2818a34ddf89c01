"""`manage.py pgtasks ...`: the command line of pgtasks, with the project's app and its settings."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import click
from django.core.management.base import BaseCommand

from pgtasks.bin.base import cli
from pgtasks.contrib.django.app import project_app


class Command(BaseCommand):
    help = "Run pgtasks with the app of this project: manage.py pgtasks worker -l INFO, ... beat, ... inspect active, ..."
    #: The worker runs them when it has imported the task modules.
    requires_system_checks: list[str] = []

    def run_from_argv(self, argv: list[str]) -> None:
        """Hand the arguments on as they are: the options are those of pgtasks, not of manage.py."""
        arguments, settings = _without_settings(argv[2:])
        if settings:
            os.environ["DJANGO_SETTINGS_MODULE"] = settings
        sys.exit(self._run(arguments, standalone_mode=True))

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("arguments", nargs=argparse.REMAINDER)

    def handle(self, *args: Any, **options: Any) -> Any:
        """`call_command("pgtasks", "purge", "-f")`."""
        try:
            self._run([*options["arguments"]], standalone_mode=False)
        except click.exceptions.Exit as exit:
            if exit.exit_code:
                raise

    def _run(self, arguments: list[str], standalone_mode: bool) -> Any:
        return cli.main(
            args=arguments or ["--help"],
            prog_name="manage.py pgtasks",
            default_map={"app": project_app()},
            standalone_mode=standalone_mode,
        )


def _without_settings(arguments: list[str]) -> tuple[list[str], str | None]:
    """Take out --settings and --pythonpath, which manage.py has acted upon already."""
    kept: list[str] = []
    settings = None
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name not in ("--settings", "--pythonpath"):
            kept.append(argument)
            continue
        value = value if equals else next(rest, "")
        settings = value if name == "--settings" else settings
    return kept, settings
