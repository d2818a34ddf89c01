"""What `inspect`, `control` and `status` share: reading the arguments of a command, and showing the replies.

Commands, their arguments, what is printed and the exit statuses are Celery's: 69 when nobody has replied in time. An
error that a worker replies is printed as one, and is no failure of the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import click

from pgtasks.bin.options import COMMA_SEPARATED_LIST, CLIContext, Command, option
from pgtasks.exceptions import CeleryCommandException
from pgtasks.platforms import EX_UNAVAILABLE
from pgtasks.utils.text import indent, pluralize
from pgtasks.worker.control import Panel

__all__ = ("SILENCE", "commands_of", "compile_arguments", "count_nodes", "list_option", "remote_options", "say_reply")

SILENCE = "No nodes replied within time constraint"

remote = partial(option, heading="Remote Control Options")


def remote_options(command: Command) -> Command:
    """Add --timeout, --destination and --json."""
    for add in (
        remote("-j", "--json", is_flag=True, help="Print JSON."),
        remote("-d", "--destination", type=COMMA_SEPARATED_LIST, help="Only these nodes, separated by commas."),
        remote(
            "-t", "--timeout", type=float, default=1.0, show_default=True,
            help="Seconds to wait for replies; ends earlier once all live workers have replied.",
        ),
    ):  # fmt: skip
        command = add(command)
    return command


def commands_of(kind: str) -> dict[str, Any]:
    """The commands of a kind, "inspect" or "control", that the command line shows, those of the app too."""
    found = {name: meta for name, meta in Panel.meta.items() if meta.type == kind and meta.visible}
    return dict(sorted(found.items()))


def list_option(kind: str) -> Callable[[Command], Command]:
    """Add --list, which shows the commands of a kind and ends."""

    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if not value:
            return
        formatter = click.HelpFormatter()
        with formatter.section(f"{kind.capitalize()} Commands"):
            formatter.write_dl(
                [(f"{name} {meta.signature or ''}".strip(), meta.help) for name, meta in commands_of(kind).items()]
            )
        ctx.obj.echo(formatter.getvalue(), nl=False)
        ctx.exit()

    return click.option(
        "--list", is_flag=True, is_eager=True, expose_value=False, callback=show, help=f"List the {kind} commands."
    )


def compile_arguments(kind: str, name: str, words: Sequence[str]) -> dict[str, Any]:
    """Read the words after a command as its arguments; raises `click.UsageError` where they do not fit."""
    known = commands_of(kind)
    if name not in known:
        raise click.UsageError(f"Command {name} not recognized. Available {kind} commands: {', '.join(known)}")
    meta = known[name]
    declared = list(meta.args or ())
    if len(words) > len(declared) and not meta.variadic:
        raise click.UsageError(f"Command {name!r} takes arguments: {meta.signature or 'none'}")
    arguments = {}
    for (argument, read), word in zip(declared, words, strict=False):
        try:
            arguments[argument] = word if read is None else read(word)
        except (TypeError, ValueError) as error:
            raise click.UsageError(
                f"Command {name!r} takes arguments: {meta.signature}. {argument}={word!r} does not fit: {error}."
            ) from error
    if meta.variadic:
        arguments[meta.variadic] = list(words[len(declared) :])
    return arguments


def say_reply(obj: CLIContext, reply: dict[str, Any], show_body: bool = True) -> None:
    """Print one reply, as it comes."""
    node, answer = next(iter(reply.items()))
    status, body = obj.pretty(answer)
    title = f"{obj.style(f'{node}: ', fg='cyan', bold=True)}{status}"
    obj.say_chat("->", title, indent(body, 4), show_body=show_body)


def count_nodes(obj: CLIContext, replies: Any) -> None:
    """Print how many nodes have replied, unless quiet; raises when none has."""
    require_replies(replies)
    if not obj.quiet:
        obj.echo(f"\n{len(replies)} {pluralize(len(replies), 'node')} online.")


def require_replies(replies: Any, more: str = "") -> None:
    """Raise, with exit status 69, when nobody has replied."""
    if not replies:
        raise CeleryCommandException(f"{SILENCE}{more}", EX_UNAVAILABLE)
