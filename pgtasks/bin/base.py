"""The `pgtasks` command: global options, finding the app, and the subcommands.

A subcommand is imported when it is called, so that `pgtasks worker` does not load what only `pgtasks shell`
needs. Others can add subcommands by an entry point in the group `pgtasks.commands` or `celery.commands`.

What a user can do something about - a wrong option, a module that is not there, a database that does not
answer - is one line on stderr and an exit status, never a traceback: 2 for wrong usage, 69 (EX_UNAVAILABLE)
for a database or workers that do not answer, 1 for everything else.
"""

from __future__ import annotations

import difflib
import inspect
import os
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from pgtasks import __version__, aliases, signals
from pgtasks.bin.options import (
    COMMA_SEPARATED_LIST,
    ENVVAR_PREFIX,
    ISO8601,
    ISO8601_OR_FLOAT,
    JSON_ARRAY,
    JSON_OBJECT,
    LOG_LEVEL,
    CeleryCommand,
    CeleryDaemonCommand,
    CeleryOption,
    CLIContext,
    CommaSeparatedList,
    DaemonOption,
    ISO8601DateTime,
    ISO8601DateTimeOrFloat,
    JsonArray,
    JsonObject,
    LogLevel,
    option,
)
from pgtasks.exceptions import CeleryCommandException, DatabaseUnavailable, ImproperlyConfigured, OperationalError
from pgtasks.platforms import EX_FAILURE, EX_UNAVAILABLE
from pgtasks.store.url import as_conninfo

__all__ = (
    "COMMA_SEPARATED_LIST",
    "ISO8601",
    "ISO8601_OR_FLOAT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LOG_LEVEL",
    "CLIContext",
    "CeleryCommand",
    "CeleryDaemonCommand",
    "CeleryOption",
    "CommaSeparatedList",
    "DaemonOption",
    "ISO8601DateTime",
    "ISO8601DateTimeOrFloat",
    "JsonArray",
    "JsonObject",
    "LogLevel",
    "cli",
    "handle_preload_options",
    "main",
)

#: Where each command is, and what the list of commands says about it, so that listing imports none of them.
COMMANDS = {
    "beat": ("pgtasks.bin.beat:beat", "Start the scheduler of periodic tasks."),
    "bridge": ("pgtasks.bin.bridge:bridge", "Move tasks from Redis or RabbitMQ into Postgres, and back."),
    "call": ("pgtasks.bin.call:call", "Call a task by name."),
    "control": ("pgtasks.bin.control:control", "Send a remote control command to workers."),
    "db": ("pgtasks.bin.db:db", "Manage the database: schema, private server, psql."),
    "demo": ("pgtasks.bin.demo:demo", "Watch tasks survive a kill -9, on real files."),
    "doctor": ("pgtasks.bin.doctor:doctor", "Check the installation, and say how to fix what is wrong."),
    "events": ("pgtasks.bin.events:events", "Print monitoring events, or run a snapshot camera."),
    "flow": ("pgtasks.bin.flow:flow", "Show and change the limits of flows."),
    "graph": ("pgtasks.bin.graph:graph", "Show the canvas that a task is part of."),
    "inspect": ("pgtasks.bin.inspect:inspect", "Query workers."),
    "list": ("pgtasks.bin.list:list_", "List queues and bindings."),
    "metrics": ("pgtasks.bin.metrics:metrics", "Serve metrics to Prometheus."),
    "multi": ("pgtasks.bin.multi:multi", "Start, stop and restart several workers in the background."),
    "purge": ("pgtasks.bin.purge:purge", "Delete all waiting tasks of queues."),
    "queue": ("pgtasks.bin.flow:queue", "Show and change the limits of queues."),
    "replay": ("pgtasks.bin.workflow:replay", "Check the current code against recorded workflow runs."),
    "report": ("pgtasks.bin.report:report", "Print what a bug report should include."),
    "result": ("pgtasks.bin.result:result", "Print the result of a task."),
    "shell": ("pgtasks.bin.shell:shell", "Start a Python shell with the app and its tasks."),
    "status": ("pgtasks.bin.status:status", "Show the workers that are online."),
    "top": ("pgtasks.bin.top:top", "Show queues, workers and tasks, live."),
    "upgrade": ("pgtasks.bin.upgrade:upgrade", "Rewrite the imports or settings of a Celery project."),
    "worker": ("pgtasks.bin.worker:worker", "Start a worker."),
    "workflow": ("pgtasks.bin.workflow:workflow", "Inspect, signal, cancel and rerun workflows."),
}
PLUGIN_GROUPS = ("pgtasks.commands", "celery.commands")
_PRELOAD = "_pgtasks_preload_options"


class Commands(click.Group):
    """The group of all commands, imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*COMMANDS, *(plugin.name for plugin in _plugins()), *self.commands})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.commands:
            command = _builtin(cmd_name) or _plugged_in(cmd_name)
            if command is None:
                return None
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            close = difflib.get_close_matches(name, self.list_commands(ctx))
            hint = f" Did you mean {' or '.join(close)}?" if close else " `pgtasks --help` lists them."
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, _short_help(self, ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as exc:
            if exc.option_name in ("-A", "--app") and exc.ctx is not None and exc.ctx is not ctx:
                ctx.fail(
                    f"You are using `{exc.option_name}` as an option of the {exc.ctx.info_name} "
                    f"sub-command. It is a global option: pgtasks {exc.option_name} proj "
                    f"{exc.ctx.info_name} ..."
                )
            raise
        except OperationalError as exc:
            # The project's own errors say what was tried, and what to do.
            prefix = "" if isinstance(exc, DatabaseUnavailable) else "The database does not answer: "
            raise CeleryCommandException(f"{prefix}{_one_line(exc)}", EX_UNAVAILABLE) from exc
        except ImproperlyConfigured as exc:
            raise CeleryCommandException(str(exc), EX_FAILURE) from exc


def _builtin(name: str) -> click.Command | None:
    if name not in COMMANDS:
        return None
    module, _, attribute = COMMANDS[name][0].partition(":")
    command: click.Command = getattr(import_module(module), attribute)
    return command


def _plugins() -> Sequence[EntryPoint]:
    return [point for group in PLUGIN_GROUPS for point in entry_points(group=group)]


def _plugged_in(name: str) -> click.Command | None:
    for point in _plugins():
        if point.name == name:
            try:
                command: click.Command = point.load()
            except Exception as exc:
                raise CeleryCommandException(
                    f"The command {name!r} is from {point.value}, which cannot be imported: "
                    f"{_one_line(exc)}. Repair or uninstall the package it is from.",
                    EX_FAILURE,
                ) from exc
            return command
    return None


def _short_help(group: Commands, ctx: click.Context, name: str) -> str:
    if name in COMMANDS:
        return COMMANDS[name][1]
    try:
        command = group.get_command(ctx, name)
    except CeleryCommandException as exc:
        return f"(broken) {exc.message}"
    return command.get_short_help_str(limit=80) if command else ""


def _change_directory(ctx: click.Context, param: click.Parameter, value: Path | None) -> None:
    if value is not None:
        try:
            os.chdir(value)
        except OSError as exc:
            raise click.BadParameter(f"cannot change to {str(value)!r}: {exc.strerror}.", ctx, param) from exc


def _install_as_celery(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        aliases.install_as_celery()


_global_option = partial(option, heading="Global Options")


@click.group(cls=Commands, invoke_without_command=True, context_settings={"auto_envvar_prefix": ENVVAR_PREFIX})
# UNPROCESSED: a string from the command line, or the app itself when it runs a command.
@_global_option("-A", "--app", envvar="APP", type=click.UNPROCESSED, help="Where the app is, as in proj.celery:app.")
@_global_option("-b", "--broker", envvar="BROKER_URL", help="URL of the database.")
@_global_option("--result-backend", envvar="RESULT_BACKEND", help="URL of the database, for results.")
@_global_option("--loader", envvar="LOADER", help="Loader class, for an app that names none.")
@_global_option("--config", envvar="CONFIG_MODULE", help="Module with the settings.")
@_global_option(
    "--workdir",
    type=Path,
    callback=_change_directory,
    is_eager=True,
    expose_value=False,
    help="Directory to change to.",
)
@_global_option(
    "--as-celery",
    is_flag=True,
    callback=_install_as_celery,
    is_eager=True,
    expose_value=False,
    help="Let `import celery` mean pgtasks, in unmodified projects.",
)
@_global_option("-C", "--no-color", envvar="NO_COLOR", is_flag=True, help="No colours.")
@_global_option("-q", "--quiet", is_flag=True, help="Say less.")
@_global_option("--version", is_flag=True, help="Print the version.")
@_global_option("--skip-checks", envvar="SKIP_CHECKS", is_flag=True, help="Skip Django's checks on start.")
@click.pass_context
def cli(ctx: click.Context, /, app: Any, version: bool, no_color: bool, quiet: bool, **options: Any) -> None:
    """Celery's tasks, on Postgres alone."""
    if version:
        click.echo(f"pgtasks {__version__}")
        ctx.exit()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit()
    _pass_on(ctx, options)
    if isinstance(app, str):
        app = _load_app(ctx, app)
    ctx.obj = CLIContext(app=app or None, no_color=no_color, quiet=quiet)
    if app:
        _add_user_options(ctx, app)


def _pass_on(ctx: click.Context, options: dict[str, Any]) -> None:
    """Tell apps, those of subprocesses too, by environment variables, as Celery does."""
    for name, value in options.items():
        variable = {"broker": "BROKER_URL", "config": "CONFIG_MODULE"}.get(name, name.upper())
        if value:
            os.environ[f"CELERY_{variable}"] = "true" if value is True else value
    broker = options["broker"]
    if ctx.get_parameter_source("broker") is ParameterSource.COMMANDLINE and as_conninfo(broker):
        # What is said on the command line wins over the environment, which wins over settings.
        os.environ["PGTASKS_DATABASE_URL"] = broker


def _load_app(ctx: click.Context, name: str) -> Any:
    from pgtasks.app.discovery import find_app  # slow: all of the app, which --help and db can do without

    try:
        return find_app(name)
    except ModuleNotFoundError as exc:
        if exc.name and (name.partition(":")[0] + ".").startswith(f"{exc.name}."):
            ctx.fail(
                f"Unable to load celery application. The module {exc.name} was not found. It is looked for "
                f"in {os.getcwd()} and on PYTHONPATH; --workdir names another directory."
            )
        ctx.fail(_while_loading(name))
    except AttributeError as exc:
        if exc.__traceback__ is not None and _is_from_discovery(exc):
            ctx.fail(f"Unable to load celery application. {str(exc).capitalize()}. Name the app as in -A {name}:app.")
        ctx.fail(_while_loading(name))
    except Exception:
        ctx.fail(_while_loading(name))


def _is_from_discovery(exc: BaseException) -> bool:
    """Was it raised while looking for the app, rather than by the user's module as it was imported?"""
    frames = traceback.extract_tb(exc.__traceback__)
    return "import_module" not in {frame.name for frame in frames}


def _while_loading(name: str) -> str:
    return (
        f"Unable to load celery application.\nWhile trying to load the module {name} the following error "
        f"occurred:\n{traceback.format_exc()}"
    )


def _one_line(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


# -- options that an app adds to commands: app.user_options


def _add_user_options(ctx: click.Context, app: Any) -> None:
    name = str(ctx.invoked_subcommand)
    command = cli.get_command(ctx, name)
    assert command is not None
    preload = list(app.user_options.get("preload", ()))
    for added in [*app.user_options.get(name, ()), *preload]:
        if added not in command.params:
            command.params.append(added)
    if preload and command.callback is not None and not hasattr(command.callback, _PRELOAD):
        command.callback = _announcing_preload_options(command.callback)


def _announcing_preload_options(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Send the values of the app's own options as a signal; only callbacks that name them get them too."""
    accepted = inspect.signature(callback).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in accepted.values())

    def announce(*args: Any, **kwargs: Any) -> Any:
        app = click.get_current_context().obj.app
        names = [option.name for option in app.user_options.get("preload", ())]
        options = {name: kwargs[name] for name in names if name in kwargs}
        signals.user_preload_options.send(sender=callback, app=app, options=options)
        if not takes_all:
            kwargs = {name: value for name, value in kwargs.items() if name in accepted or name not in options}
        return callback(*args, **kwargs)

    setattr(announce, _PRELOAD, True)
    announce.__doc__ = callback.__doc__
    return announce


def handle_preload_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Do nothing: every command gets the app's own options. Plugins written for Celery decorate with it."""
    return command


def main(argv: Sequence[str] | None = None, app: Any = None) -> Any:
    """Run the command line, with the process's own arguments unless some are given, and exit.

    On behalf of an app, `app.start(argv)`, errors are raised and results returned instead.
    """
    if app is None:
        return cli.main(args=argv, prog_name="pgtasks")
    return cli.main(args=argv, prog_name="pgtasks", default_map={"app": app}, standalone_mode=False)
