"""The nodes that `multi` starts: what its line of names, ranges and options means for each of them.

    multi start 3 -c 3 -c:1 10          celery1, celery2 and celery3, the first with ten processes
    multi start image video -Q:image,video a -Q:2 b

An option goes to all nodes, or after a colon to some: by name, by position from 1, by a list, and where the nodes are so many
by a range. The grammar is that of Celery's `multi`.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pgtasks.platforms import Pidfile
from pgtasks.utils.nodenames import gethostname, host_format, node_format, nodesplit

__all__ = ("Line", "Node", "nodes_of", "read", "signal_in")

Options = dict[str, str | None]

#: Options that belong before the name of the command.
GLOBAL = {
    *("-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"),
    *("-C", "--no-color", "-q", "--quiet", "--as-celery", "--skip-checks"),
}
COMMAND = "-m pgtasks worker --detach"
PIDFILE, LOGFILE = "/var/run/celery/%n.pid", "/var/log/celery/%n%I.log"


class Line(NamedTuple):
    """A line, read: names or a number of nodes, options for all, options for some, and what follows `--`."""

    names: list[str]
    options: Options
    some: dict[str, Options]
    passed_on: list[str]


def read(words: Iterable[str]) -> Line:
    """Read the words of a line."""
    names: list[str] = []
    options: Options = {}
    some: dict[str, Options] = defaultdict(dict)
    rest = [word for word in words if word]
    while rest:
        word = rest.pop(0)
        if word == "--":
            return Line(names, options, some, [word, *rest])
        if not word.startswith("-"):
            names.append(word)
            continue
        value: str | None = None
        if word.startswith("--"):
            word, has_value, text = word.partition("=")
            value = text if has_value else None
        elif rest and not rest[0].startswith("-"):
            value = rest.pop(0)
        option, _, whose = word.partition(":")
        (some[whose] if whose else options)[option] = value
    return Line(names, options, some, [])


def signal_in(words: Iterable[str]) -> int | None:
    """The signal that a word like -9 or -TERM names, the last one if there are several."""
    found = None
    for word in words:
        name = word[1:].upper()
        if not word.startswith("-") or word.startswith("--"):
            continue
        if name.isdigit():
            found = int(name)
        else:
            found = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", found)
    return found


class Node:
    """A worker that is started and found by its name, its pid file and its options."""

    def __init__(
        self, name: str, options: Options, *, command: str = COMMAND, append: str = "", passed_on: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.options: Options = {"-n": name, **options}
        self.options["-n"] = name
        for alternatives, default in ((("--pidfile", "-p"), PIDFILE), (("--logfile", "-f"), LOGFILE)):
            if not any(option in self.options for option in alternatives):
                self.options[alternatives[0]] = default
        self.options.setdefault("--executable", sys.executable)
        self._command, self._append, self._passed_on = command, append, passed_on

    def expand(self, template: str | None) -> str:
        """Fill the node's names in; %i and %I stay for the worker."""
        short, host = nodesplit(self.name)
        return str(node_format(template or "", self.name, N=short, d=host, h=self.name, i="%i", I="%I"))

    @property
    def argv(self) -> list[str]:
        """The command that starts it."""
        first, *command = [str(self.options["--executable"]), *shlex.split(self._command)]
        own = [
            word for option, value in self.options.items() if option not in GLOBAL for word in self._said(option, value)
        ]
        shared = [
            word for option, value in self.options.items() if option in GLOBAL for word in self._said(option, value)
        ]
        at = next((i + 1 for i, word in enumerate(command) if Path(word).name in ("pgtasks", "celery")), 0)
        append = [self.expand(self._append)] if self._append else []
        return [first, *command[:at], *shared, *command[at:], *own, *self._passed_on, *append]

    def _said(self, option: str, value: str | None) -> list[str]:
        if not value:
            return [option]
        expanded = self.expand(value)
        if option in ("--pidfile", "-p", "--logfile", "-f", "--workdir"):
            expanded = os.path.expanduser(expanded)
        return [f"{option}={expanded}"] if option.startswith("--") else [option, expanded]

    @property
    def pidfile(self) -> Path:
        return self._path("--pidfile", "-p")

    @property
    def logfile(self) -> Path:
        return self._path("--logfile", "-f")

    def _path(self, *alternatives: str) -> Path:
        template = next(self.options[option] for option in alternatives if option in self.options)
        # The worker fills in what is left.
        return Path(os.path.expanduser(str(node_format(self.expand(template), self.name))))

    @property
    def pid(self) -> int | None:
        """The process, if its pid file names one."""
        try:
            return Pidfile(self.pidfile).read_pid()
        except ValueError:
            return None

    def send(self, signum: int) -> bool:
        """Send a signal; False when there is nobody to get it."""
        pid = self.pid
        if not pid or _is_zombie(pid):
            return False
        try:
            os.kill(pid, signum)
        except (ProcessLookupError, PermissionError):  # gone, and another user's process has its number
            return False
        return True

    def __repr__(self) -> str:
        return f"<Node: {self.name}>"


def _is_zombie(pid: int) -> bool:
    """Has it ended, with nobody who asks for its status? In containers that happens."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return False


def nodes_of(line: Line) -> list[Node]:
    """The nodes that a line names, each with its options. Raises KeyError for a position there is no node at."""
    options = dict(line.options)
    command = options.pop("--cmd", None) or COMMAND
    append = options.pop("--append", None) or ""
    host = options.pop("--hostname", None) or options.pop("-n", None) or gethostname()
    prefix = options.pop("--prefix", None) or ""
    suffix = options.pop("--suffix", None) or host
    range_prefix = options.pop("--range-prefix", None) or "celery"
    is_range = len(line.names) == 1 and line.names[0].isdigit()
    names = [str(number) for number in range(1, int(line.names[0]) + 1)] if is_range else line.names
    some = _by_name(line.some, names, is_range)
    nodes = []
    for name in names:
        key, full = _full_name(name, range_prefix if is_range else prefix, "" if suffix in ('""', "''") else suffix)
        chosen = some.get(full) or some.get(key) or {}
        nodes.append(Node(full, {**options, **chosen}, command=command, append=append, passed_on=line.passed_on))
    return nodes


def _full_name(name: str, prefix: str, suffix: str) -> tuple[str, str]:
    """What options call a node, and its full name."""
    if "@" in name:
        full = host_format(name)
        return str(nodesplit(full)[0]), full
    return name, host_format(f"{prefix}{name}@{suffix}")


def _by_name(some: dict[str, Options], names: Sequence[str], is_range: bool) -> dict[str, Options]:
    """Options for some nodes, by name rather than by list, range and position."""
    split: dict[str, Options] = defaultdict(dict)
    # As with Celery's, a list wins over a single one, and a position over a name.
    for whose, options in sorted(some.items(), key=lambda item: len(_members(item[0], is_range)) > 1):
        for each in _members(whose, is_range):
            split[each].update(options)
    found: dict[str, Options] = defaultdict(dict)
    for whose, options in sorted(split.items(), key=lambda item: item[0].isdigit()):
        found[_at(int(whose), names, is_range) if whose.isdigit() else whose].update(options)
    return found


def _members(whose: str, is_range: bool) -> list[str]:
    members: list[str] = []
    for part in whose.split(","):
        first, dash, last = part.partition("-")
        is_span = is_range and dash and first.isdigit() and last.isdigit()
        members.extend(map(str, range(int(first), int(last) + 1)) if is_span else [part])
    return members


def _at(position: int, names: Sequence[str], is_range: bool) -> Any:
    if position < 1:
        raise KeyError(f"Indexes start at 1, got: {position}")
    if position <= len(names):
        return names[position - 1]
    if is_range:  # the end of a range may lie beyond the last node
        return str(position)
    raise KeyError(f"No node at index {position}: there are {len(names)}")
