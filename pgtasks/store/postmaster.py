"""What a data directory says about its server: whether it runs, as which process, where its socket is.

Postgres keeps this in `postmaster.pid` (source: src/include/utils/pidfile.h): the first line is the number of the
process, the eighth its state. The file outlives a server that was killed, and its number may since belong to
another process, so neither is believed without asking the system.
"""

from __future__ import annotations

import os
import socket
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store.binaries import Account

PORT = 5432  # only a part of the socket's name
#: The address of a unix socket is at most 107 bytes on Linux, 103 on macOS and the BSDs.
_LONGEST_SOCKET = 103


class Postmaster(NamedTuple):
    """A server's process; `pid` is None when there is none. States: stopped, starting, ready, stopping."""

    pid: int | None
    state: str


def look(data: Path) -> Postmaster:
    """Say what the server of a data directory is doing; raises ImproperlyConfigured for another user's."""
    try:
        lines = (data / "postmaster.pid").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return Postmaster(None, "stopped")
    except PermissionError as exc:
        raise ImproperlyConfigured(
            f"{data} is closed to {Account.of(os.geteuid()).name}: the database there is another user's. "
            "Run as that user, or set PGTASKS_HOME to a directory of your own, or PGTASKS_DATABASE_URL to "
            "another database."
        ) from exc
    if not lines or not lines[0].isdigit():  # being written
        return Postmaster(None, "starting")
    if not _is_server_of(int(lines[0]), data):
        return Postmaster(None, "stopped")
    return Postmaster(int(lines[0]), lines[7].strip() if len(lines) > 7 else "starting")


def _is_server_of(pid: int, data: Path) -> bool:
    """Is this process alive, and the server of this directory?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # no /proc on this system
        said = subprocess.run(["ps", "-o", "state=,command=", "-p", str(pid)], capture_output=True)
        state, command = said.stdout.decode(errors="replace")[:1], said.stdout
    return state != "Z" and os.fsencode(data) in command


def disown_stale_pids(data: Path, account: Account) -> None:
    """Keep the lock files of a dead server from naming a process that has nothing to do with it.

    Postgres refuses to start while that process exists and is of the same user, which is common in containers,
    where numbers start again at 1. postmaster.pid must not be removed, for its shared memory key tells Postgres
    whether processes of the dead server are left. So the number is replaced with this process's own: Postgres
    knows that pg_ctl's parent is not a server.
    """
    for path in (data / "postmaster.pid", Path(f"{socket_path(socket_directory(data, account))}.lock")):
        try:
            first, rest = path.read_text(errors="replace").split("\n", 1)
        except (FileNotFoundError, ValueError):
            continue
        if first != str(os.getpid()):
            account.run("tee", path, stdin=f"{os.getpid()}\n{rest}")


# -- the socket


def socket_directory(data: Path, account: Account) -> Path:
    """Return the data directory, or a private one below /tmp if libpq could not make an address of that path."""
    if len(os.fsencode(socket_path(data))) <= _LONGEST_SOCKET and "," not in str(data):
        return data
    name = sha256(os.fsencode(data)).hexdigest()[:16]
    return Path("/tmp", f"pgtasks-{account.uid}-{name}")


def socket_path(directory: Path) -> str:
    return f"{directory}/.s.PGSQL.{PORT}"


def answers(directory: Path) -> bool:
    """Does somebody listen on the socket in this directory?"""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5)
        try:
            probe.connect(socket_path(directory))
        except OSError:
            return False
    return True


def make_private(directory: Path, account: Account) -> None:
    """Make a directory that only the account can enter; refuse one that another user has put there."""
    try:
        directory.mkdir(mode=0o700)
        account.give(directory)
    except FileExistsError:
        found = directory.lstat()
        if found.st_uid != account.uid or found.st_mode & 0o077 or directory.is_symlink():
            raise ImproperlyConfigured(
                f"{directory} is to hold the database's socket, but it does not belong to {account.name} "
                "alone. Remove it, or set PGTASKS_HOME to a directory with a shorter path."
            ) from None
