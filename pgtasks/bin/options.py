"""What commands are made of: option and command classes, types of values, and the context they share.

The names are those of `celery.bin.base`, so commands that are plugged in from other packages find what they
know.
"""

from __future__ import annotations

import json
import numbers
import os
from collections.abc import Callable
from pathlib import Path
from pprint import pformat
from typing import Any, TypeVar

import click

from pgtasks._state import get_current_app
from pgtasks.app.defaults import DEFAULTS
from pgtasks.app.jsonlog import JSON
from pgtasks.utils import text
from pgtasks.utils.log import mlevel
from pgtasks.utils.time import maybe_iso8601

Command = TypeVar("Command", bound=Callable[..., Any] | click.Command)

#: The prefix of environment variables for options, as in PGTASKS_WORKER_CONCURRENCY; Celery's is understood
#: too.
ENVVAR_PREFIX = "PGTASKS"
_CELERYS_PREFIX = "CELERY"


class CLIContext:
    """What the root command hands to the subcommands, as `ctx.obj`."""

    def __init__(
        self, app: Any = None, no_color: bool = False, workdir: Path | None = None, quiet: bool = False
    ) -> None:
        self.given_app = app
        self.no_color = no_color
        self.workdir = workdir
        self.quiet = quiet

    @property
    def app(self) -> Any:
        """The app named with -A, or the current one."""
        return self.given_app or get_current_app()

    @property
    def OK(self) -> str:
        return self.style("OK", fg="green", bold=True)

    @property
    def ERROR(self) -> str:
        return self.style("ERROR", fg="red", bold=True)

    def style(self, message: Any = None, **style: Any) -> str:
        return str(message) if self.no_color else click.style(message, **style)

    def echo(self, message: Any = None, **kwargs: Any) -> None:
        click.echo(message, **self._coloured(kwargs))

    def secho(self, message: Any = None, **kwargs: Any) -> None:
        echo: Callable[..., None] = click.echo if self.no_color else click.secho
        echo(message, **self._coloured(kwargs))

    def error(self, message: Any = None, **kwargs: Any) -> None:
        self.secho(message, err=True, **kwargs)

    def _coloured(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        if not self.no_color:
            return kwargs
        return {"nl": kwargs.get("nl", True), "err": kwargs.get("err", False), "color": False}

    def pretty(self, reply: Any) -> tuple[str, str]:
        """Return OK or ERROR, and a worker's reply in lines for people."""
        match reply:
            case list():
                star = self.style("*", fg="white")
                return self.OK, "\n".join(f"{star} {item}" for item in reply) or "- empty -"
            case {"ok": answer}:
                return self.OK, text.indent(self.pretty(answer)[1], 4)
            case {"error": answer}:
                return self.ERROR, text.indent(self.pretty(answer)[1], 4)
            case dict():
                return self.OK, json.dumps(reply, sort_keys=True, indent=4, default=str)
            case str():
                return self.OK, reply
        return self.OK, pformat(reply)

    def say_chat(self, direction: str, title: str, body: str = "", show_body: bool = False) -> None:
        """Print what was sent to a worker (<-), unless quiet, or what it answered (->)."""
        if direction == "<-" and self.quiet:
            return
        arrow = "" if self.quiet else f"{self.style(direction, fg='white', bold=True)} "
        self.echo(f"{arrow} {title}")
        if body and show_body:
            self.echo(body)


class CeleryOption(click.Option):
    """An option with a heading of its own in the help, read from variables of either prefix."""

    def __init__(self, *args: Any, help_group: str | None = None, **kwargs: Any) -> None:
        self.default_value_from_context = kwargs.pop("default_value_from_context", None)
        self.help_group = help_group
        super().__init__(*args, **kwargs)

    def get_default(self, ctx: click.Context, call: bool = True) -> Any:
        if self.default_value_from_context:
            self.default = ctx.obj[self.default_value_from_context]
        return super().get_default(ctx, call=call)

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is not None or not self.allow_from_autoenv or not ctx.auto_envvar_prefix:
            return value
        prefix = ctx.auto_envvar_prefix.replace(ENVVAR_PREFIX, _CELERYS_PREFIX, 1)
        return os.environ.get(f"{prefix}_{str(self.name).upper()}") or None


class CeleryCommand(click.Command):
    """A command whose help lists the options by heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            # The usage line names the arguments; newer releases of click give them an empty record as well.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                groups.setdefault(getattr(param, "help_group", None) or "Options", []).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


class DaemonOption(CeleryOption):
    """An option of long-running commands; its default is a setting, such as `worker_pidfile`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("help_group", "Daemonization Options")
        kwargs.setdefault("callback", self.daemon_setting)
        super().__init__(args, **kwargs)

    def daemon_setting(self, ctx: click.Context, opt: click.Parameter, value: Any) -> Any:
        if value or ctx.resilient_parsing:
            return value
        return getattr(ctx.obj.app.conf, f"{ctx.command.name}_{self.name}", None)


class CeleryDaemonCommand(CeleryCommand):
    """A command that can run in the background."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            DaemonOption("--logfile", "-f", help="File to log to; stderr without. Expands %n, %h, %i and %I."),
            DaemonOption("--pidfile", help="File for the process id; a second start is refused."),
            DaemonOption("--uid", help="User to run as, by name or number."),
            DaemonOption("--gid", help="Group to run as, by name or number."),
            DaemonOption("--umask", help="File mode creation mask, octal."),
            DaemonOption("--executable", help="Python executable for the background process."),
        ]


class CommaSeparatedList(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """Words separated by commas."""

    name = "comma separated list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return text.str_to_list(value)


class _Json(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    kind: type
    noun: str

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, self.kind):
            return value
        try:
            parsed = json.loads(value)
        except ValueError as exc:
            self.fail(f"{value!r} is not JSON: {exc}", param, ctx)
        if not isinstance(parsed, self.kind):
            self.fail(f"{value} was not {self.noun}", param, ctx)
        return parsed


class JsonArray(_Json):
    """A list, in JSON."""

    name, kind, noun = "json array", list, "an array"


class JsonObject(_Json):
    """A mapping, in JSON."""

    name, kind, noun = "json object", dict, "an object"


class ISO8601DateTime(click.ParamType):  # type: ignore[type-arg]  # generic only in newer releases of click
    """A time, in ISO 8601."""

    name = "iso-8601"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return maybe_iso8601(value)
        except (TypeError, ValueError) as exc:
            self.fail(str(exc), param, ctx)


class ISO8601DateTimeOrFloat(ISO8601DateTime):
    """A time, in ISO 8601, or a number of seconds from now."""

    name = "iso-8601 or float"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return float(value)
        except (TypeError, ValueError):
            return super().convert(value, param, ctx)


class LogLevel(click.Choice):  # type: ignore[type-arg]
    """A log level, by name in any case, or by number."""

    def __init__(self) -> None:
        super().__init__(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", "FATAL"))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if isinstance(value, numbers.Integral):
            return value
        return mlevel(super().convert(value.upper(), param, ctx))


JSON_ARRAY = JsonArray()
JSON_OBJECT = JsonObject()
ISO8601 = ISO8601DateTime()
ISO8601_OR_FLOAT = ISO8601DateTimeOrFloat()
LOG_LEVEL = LogLevel()
COMMA_SEPARATED_LIST = CommaSeparatedList()
LOG_FORMATS = ("text", JSON)


def set_log_format(app: Any, chosen: str | None) -> None:
    """Log in the format that was chosen, whatever the settings say."""
    if chosen == JSON:
        app.conf.worker_log_format = JSON
    elif chosen is not None and app.conf.worker_log_format == JSON:
        app.conf.worker_log_format = DEFAULTS["worker_log_format"]


def option(*names: str, heading: str | None = None, **attributes: Any) -> Callable[[Command], Command]:
    """Add an option, listed below `heading` in the help, to a command."""
    return click.option(*names, cls=CeleryOption, help_group=heading, **attributes)


#: For every command that prints something.
json_option = option("--json", "-j", "as_json", is_flag=True, help="Print JSON.")
