"""`pgtasks multi`: start, stop and restart several workers of this machine in the background.

\b
multi start 3 -c 3                      celery1, celery2, celery3, with three processes each
multi start image video data -c 3       workers of these names
multi start 5 -c 3 -c:1-3 10            the first three with ten processes
multi start image video -Q:image img    the queue img for the worker image
multi stopwait 3 --pidfile=/run/%n.pid  stop them, and wait until they are gone
multi restart 3 -c 3                    the same options again: they are kept nowhere
multi show 3 -c 3                       only print the commands
multi kill 3                            SIGKILL: tasks go to other workers when the lease is over

Nodes are found again by their pid files: say the same --pidfile to stop them as to start them.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from pgtasks.bin.nodes import Node, nodes_of, read, signal_in
from pgtasks.bin.options import CeleryCommand, CLIContext
from pgtasks.platforms import EX_FAILURE, EX_OK
from pgtasks.utils.text import pluralize

USAGE = """\
usage: pgtasks multi start <node1 node2 nodeN|range> [worker options]
       pgtasks multi stop <n1 n2 nN|range> [-SIG (default: -TERM)]
       pgtasks multi stopwait <n1 n2 nN|range> [-SIG]
       pgtasks multi restart <n1 n2 nN|range> [-SIG] [worker options]
       pgtasks multi kill <n1 n2 nN|range>

       pgtasks multi show <n1 n2 nN|range> [worker options]
       pgtasks multi get <nodename> <n1 n2 nN|range> [worker options]
       pgtasks multi names <n1 n2 nN|range>
       pgtasks multi expand <template> <n1 n2 nN|range>
       pgtasks multi help

additional options: --nosplash --quiet --verbose --no-color
"""
#: Seconds between two looks at whether a worker has gone, at first and at most.
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0
_RESERVED = {
    "--nosplash": "is_bare",
    "--quiet": "is_quiet",
    "-q": "is_quiet",
    "--verbose": "is_verbose",
    "--no-color": "",
}
#: Global options that are passed on to the workers, by the parameter of the root command.
_SHARED = {
    "app": "-A",
    "broker": "-b",
    "result_backend": "--result-backend",
    "loader": "--loader",
    "config": "--config",
    "as_celery": "--as-celery",
    "no_color": "--no-color",
    "skip_checks": "--skip-checks",
}


@click.command(
    cls=CeleryCommand,
    # All that follows the name is for `nodes` to read, `--` as well.
    context_settings={
        "allow_extra_args": True,
        "ignore_unknown_options": True,
        "allow_interspersed_args": False,
    },
)
@click.pass_context
def multi(ctx: click.Context, /, **_: Any) -> None:
    """Start, stop and restart several workers in the background.

    \b
    pgtasks -A proj multi start 3 -c 3 --pidfile=%n.pid --logfile=%n.log
    pgtasks -A proj multi restart 3 -c 3 --pidfile=%n.pid --logfile=%n.log
    pgtasks multi stopwait 3 --pidfile=%n.pid
    pgtasks multi help
    """
    words = [word for word in ctx.args if word not in _RESERVED]
    said = {_RESERVED[word] for word in ctx.args if word in _RESERVED}
    tool = Multi(ctx.obj, is_quiet="is_quiet" in said or ctx.obj.quiet, is_verbose="is_verbose" in said)
    if not words or words[0].startswith("-") or words[0] not in tool.commands:
        if words and not words[0].startswith("-"):
            ctx.obj.error(f"Invalid command: {words[0]}")
        ctx.obj.echo(USAGE)
        ctx.exit(EX_FAILURE)
    try:
        ctx.exit(tool.commands[words[0]](words[1:], _shared_options(ctx)))
    except KeyError as exc:
        raise click.UsageError(str(exc.args[0])) from exc


def _shared_options(ctx: click.Context) -> list[str]:
    """What was said before the command's name, for the workers."""
    root = ctx.find_root()
    shared = []
    for name, option in _SHARED.items():
        if root.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        value = root.params.get(name)
        shared += [option, value] if isinstance(value, str) else [option]
    return shared


class Multi:
    """What there is to do with nodes; each command gives an exit status."""

    def __init__(self, out: CLIContext, is_quiet: bool = False, is_verbose: bool = False) -> None:
        self._out = out
        self._is_quiet, self._is_verbose = is_quiet, is_verbose
        self.commands: dict[str, Callable[[list[str], list[str]], int]] = {
            "start": self.start,
            "stop": self.stop,
            "stopwait": self.stopwait,
            "stop_verify": self.stopwait,
            "restart": self.restart,
            "kill": self.kill,
            "show": self.show,
            "get": self.get,
            "names": self.names,
            "expand": self.expand,
            "help": self.help,
        }

    def _note(self, text: str, newline: bool = True) -> None:
        if not self._is_quiet:
            self._out.echo(text, nl=newline)

    # -- what changes something

    def start(self, words: list[str], shared: list[str]) -> int:
        self._note("> Starting nodes...")
        return self._start_all(nodes_of(read([*words, *shared])))

    def _start_all(self, nodes: Sequence[Node]) -> int:
        statuses = [self._start(node) for node in nodes]
        return int(any(statuses))

    def _start(self, node: Node) -> int:
        self._note(f"\t> {node.name}: ", newline=False)
        for path in (node.pidfile, node.logfile):
            path.parent.mkdir(parents=True, exist_ok=True)
        if self._is_verbose:
            self._note(f"  {' '.join(node.argv)}")
        status = subprocess.run(node.argv, check=False).returncode
        self._note(self._out.style("FAILED", fg="red") if status else self._out.OK)
        if status < 0:
            self._note(f"* Child was terminated by signal {-status}")
        elif status:
            self._note(f"* Child terminated with exit code {status}")
        return abs(status)

    def stop(self, words: list[str], shared: list[str]) -> int:
        self._signal_all(nodes_of(read([*words, *shared])), signal_in(words))
        return EX_OK

    def stopwait(self, words: list[str], shared: list[str]) -> int:
        self._wait_for(self._signal_all(nodes_of(read([*words, *shared])), signal_in(words)))
        return EX_OK

    def restart(self, words: list[str], shared: list[str]) -> int:
        signum = signal_in(words)
        options = [word for word in words if signal_in([word]) is None]
        nodes = nodes_of(read([*options, *shared]))
        self._wait_for(self._signal_all(nodes, signum))
        self._note("> Restarting nodes...")
        return self._start_all(nodes)

    def kill(self, words: list[str], shared: list[str]) -> int:
        self._signal_all(nodes_of(read([*words, *shared])), signal.SIGKILL)
        return EX_OK

    def _signal_all(self, nodes: Sequence[Node], signum: int | None) -> list[Node]:
        """Send a signal to all nodes; gives those that got it."""
        signum = signal.SIGTERM if signum is None else signum
        there = []
        for node in nodes:
            pid = node.pid
            if node.send(signum):
                self._note(f"\t> {node.name}: {signal.Signals(signum).name.removeprefix('SIG')} -> {pid}")
                there.append(node)
            else:
                self._note(f"> {node.name}: {self._out.style('DOWN', fg='magenta')}")
        return there

    def _wait_for(self, nodes: list[Node]) -> None:
        """Wait until nodes have gone, however long their tasks take."""
        if nodes:
            count = f"{len(nodes)} {pluralize(len(nodes), 'node')}"
            pids = [str(pid) for node in nodes if (pid := node.pid)]  # some may have gone by now
            self._note(f"> Waiting for {count} -> {', '.join(pids)}...")
        pause_s = FIRST_LOOK_S
        while nodes:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_LOOK_S)
            for node in [node for node in nodes if not node.send(0)]:
                self._note(f"\t> {node.name}: {self._out.OK}")
                nodes.remove(node)

    # -- what only tells

    def show(self, words: list[str], shared: list[str]) -> int:
        for node in nodes_of(read([*words, *shared])):
            self._out.echo(" ".join(node.argv))
        return EX_OK

    def names(self, words: list[str], shared: list[str]) -> int:
        for node in nodes_of(read(words)):
            self._out.echo(node.name)
        return EX_OK

    def get(self, words: list[str], shared: list[str]) -> int:
        wanted, *rest = words or [""]
        for node in nodes_of(read([*rest, *shared])):
            if node.name == wanted:
                self._out.echo(" ".join(node.argv[1:]))
                return EX_OK
        return EX_FAILURE

    def expand(self, words: list[str], shared: list[str]) -> int:
        template, *rest = words or [""]
        for node in nodes_of(read(rest)):
            self._out.echo(node.expand(template))
        return EX_OK

    def help(self, words: list[str], shared: list[str]) -> int:
        self._out.echo(f"{USAGE}\n{(__doc__ or '').replace(chr(8), '')}")
        return EX_OK
