"""Running as a system service: exit codes, pid files, daemonising, dropping privileges.

Names and behaviour are those of `celery.platforms`.
"""

from __future__ import annotations

import atexit
import errno
import grp
import os
import platform
import pwd
import signal
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing.process import current_process
from pathlib import Path
from typing import Any

from pgtasks.exceptions import SecurityError, SecurityWarning

__all__ = (
    "EX_CANTCREAT",
    "EX_FAILURE",
    "EX_OK",
    "EX_UNAVAILABLE",
    "EX_USAGE",
    "IS_WINDOWS",
    "SYSTEM",
    "IS_macOS",
    "LockFailed",
    "Pidfile",
    "check_privileges",
    "close_open_fds",
    "create_pidlock",
    "detach",
    "get_errno_name",
    "ignore_errno",
    "isatty",
    "maybe_drop_privileges",
    "parse_gid",
    "parse_uid",
    "pyimplementation",
    "refuse_second_process",
    "set_mp_process_title",
    "set_process_title",
    "signal_name",
    "signal_number",
)

SYSTEM = platform.system()
IS_macOS = SYSTEM == "Darwin"
IS_WINDOWS = SYSTEM == "Windows"

# From sysexits.h, but for EX_FAILURE.
EX_OK = 0
EX_FAILURE = 1
EX_USAGE = 64
EX_UNAVAILABLE = 69
EX_CANTCREAT = 73

#: Lets a worker that accepts pickle run as root; a project may set it as well as the environment.
C_FORCE_ROOT: Any = os.environ.get("C_FORCE_ROOT", False)

_PICKLES = frozenset({"pickle", "application/x-python-serialize", "application/group-python-serialize"})
_ROOT_GROUPS = frozenset({"sudo", "wheel"})


class LockFailed(Exception):
    """The pid file cannot be written."""


class Pidfile:
    """A file that holds the number of the process that made it, and keeps a second one from starting."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(path)

    def acquire(self) -> Pidfile:
        """Write this process's number; raises LockFailed when that is impossible or the file exists."""
        try:
            with open(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644), "w") as file:
                file.write(f"{os.getpid()}\n")
        except OSError as exc:
            raise LockFailed(str(exc)) from exc
        return self

    __enter__ = acquire

    def release(self, *args: object) -> None:
        self.remove()

    __exit__ = release

    def is_locked(self) -> bool:
        return os.path.exists(self.path)

    def read_pid(self) -> int | None:
        """Return the number in the file, None without a file; raises ValueError for other contents."""
        try:
            text = Path(self.path).read_text()
        except FileNotFoundError:
            return None
        if not text.endswith("\n") or not text.strip().isdigit():
            raise ValueError(f"The pid file {self.path} holds {text!r}, which is not a number and a newline.")
        return int(text)

    def remove(self) -> None:
        with suppress(FileNotFoundError, PermissionError):
            os.unlink(self.path)

    def remove_if_stale(self) -> bool:
        """Remove a file left by a process that is gone, and say whether it was."""
        try:
            pid = self.read_pid()
        except ValueError:
            pid = None
        # Its own number is common in containers, where numbers start again at 1.
        if pid and pid != os.getpid() and _is_ours(pid):
            return False
        self.remove()
        return True


def _is_ours(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # a process of another user was given the number since
        return False
    return True


def refuse_second_process(pidfile: str | os.PathLike[str]) -> None:
    """Raise LockFailed while the process runs that a pid file names; remove the file of one that does not."""
    lock = Pidfile(pidfile)
    if lock.is_locked() and not lock.remove_if_stale():
        raise LockFailed(f"Pidfile ({pidfile}) already exists.\nSeems we're already running? (pid: {lock.read_pid()})")


def create_pidlock(pidfile: str | os.PathLike[str]) -> Pidfile:
    """Write a pid file that is removed at exit; raises LockFailed while another process holds it."""
    refuse_second_process(pidfile)
    lock = Pidfile(pidfile)
    lock.acquire()
    owner = os.getpid()
    # Forked children run the exit handlers too, if they end in the ordinary way.
    atexit.register(lambda: lock.release() if os.getpid() == owner else None)
    return lock


def detach(logfile: str | None = None, umask: str | int | None = None) -> None:
    """Go to the background: return in a process without a terminal, whose files are /dev/null.

    Whether the log file can be written to is found out first: afterwards nobody would hear of it.
    """
    if logfile:
        open(logfile, "a").close()
    if os.fork():
        os._exit(EX_OK)
    os.setsid()
    if os.fork():  # not the leader of a session, so that no terminal can become its own
        os._exit(EX_OK)
    if umask is not None:
        os.umask(parse_umask(umask))
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)


def parse_umask(umask: str | int) -> int:
    """Read a mode mask: octal with a leading zero, else decimal, as Celery does."""
    return umask if isinstance(umask, int) else int(umask, 8 if umask.startswith("0") else 10)


def parse_uid(uid: str | int) -> int:
    """Return the number of a user given by name or number; raises KeyError when there is none."""
    if str(uid).isdigit():
        return int(uid)
    try:
        return pwd.getpwnam(str(uid)).pw_uid
    except KeyError:
        raise KeyError(f"User does not exist: {uid}") from None


def parse_gid(gid: str | int) -> int:
    """Return the number of a group given by name or number; raises KeyError when there is none."""
    if str(gid).isdigit():
        return int(gid)
    try:
        return grp.getgrnam(str(gid)).gr_gid
    except KeyError:
        raise KeyError(f"Group does not exist: {gid}") from None


def maybe_drop_privileges(uid: str | int | None = None, gid: str | int | None = None) -> None:
    """Become another user for good, with that user's groups, or a member of another group only.

    Without a group it is the user's primary one. Raises SecurityError if the way back is open.
    """
    if uid:
        user = parse_uid(uid)
        entry = pwd.getpwuid(user)
        group = parse_gid(gid) if gid else entry.pw_gid
        if os.geteuid() == 0:  # the groups first: who is not root cannot change them
            os.setgid(group)
            os.initgroups(entry.pw_name, group)
        os.setuid(user)
        if user != 0 and _can_become_root():
            raise SecurityError(f"The process could become root again after it became {entry.pw_name}.")
    elif gid:
        os.setgid(parse_gid(gid))


def _can_become_root() -> bool:
    try:
        os.setuid(0)
    except PermissionError:
        return False
    return True


def check_privileges(accept_content: Collection[str]) -> None:
    """Warn of a worker that runs as root; refuse one that accepts pickle as well.

    Whoever can write to the queue could then do anything on this machine. C_FORCE_ROOT allows it.
    """
    names = {entry.gr_name for entry in grp.getgrall() if entry.gr_gid in (os.getgid(), os.getegid())}
    if 0 not in (os.getuid(), os.geteuid()) and not names & _ROOT_GROUPS:
        return
    identity = f"uid={os.getuid()} euid={os.geteuid()} gid={os.getgid()} egid={os.getegid()}"
    if _PICKLES.intersection(accept_content) and not (C_FORCE_ROOT or os.environ.get("C_FORCE_ROOT")):
        raise SecurityError(
            "Running a worker with superuser privileges when the worker accepts messages serialized with "
            f"pickle is a very bad idea! ({identity}) Run it as another user, or take pickle out of "
            "accept_content. If you really want to continue, set the C_FORCE_ROOT environment variable."
        )
    warnings.warn(
        SecurityWarning(
            "You're running the worker with superuser privileges: this is absolutely not recommended! "
            f"Please specify a different user using the --uid option. ({identity})"
        ),
        stacklevel=2,
    )


def signal_name(given: str | int) -> str:
    """Return the name of a signal that is given by number, or by name with or without SIG; raises ValueError."""
    text = str(int(given) if isinstance(given, int) else given)
    try:
        number = signal.Signals(int(text)) if text.isdigit() else signal.Signals[f"SIG{text.upper().removeprefix('SIG')}"]
    except (KeyError, ValueError):
        raise ValueError(f"There is no signal {text!r} here. Name one as in TERM, SIGKILL or 9.") from None
    return number.name


def signal_number(name: str) -> int:
    """Return the number of a signal that was named elsewhere; that of SIGTERM, if there is no such signal here."""
    try:
        return signal.Signals[signal_name(name)]
    except ValueError:
        return signal.SIGTERM


def pyimplementation() -> str:
    """CPython, PyPy and the like."""
    return platform.python_implementation()


def isatty(fh: Any) -> bool:
    """Is it a terminal? No, if it cannot be asked."""
    try:
        return bool(fh.isatty())
    except AttributeError:
        return False


def close_open_fds(keep: Iterable[Any] | None = None) -> None:
    """Close every file descriptor of the process, the standard ones too, but for those in `keep`: numbers, or files."""
    kept = sorted(each if isinstance(each, int) else each.fileno() for each in keep or ())
    for low, high in zip([-1, *kept], [*kept, os.sysconf("SC_OPEN_MAX")], strict=True):
        os.closerange(low + 1, high)


def get_errno_name(n: int | str) -> int:
    """The number of an error given by name or number."""
    number: int = getattr(errno, n) if isinstance(n, str) else n
    return number


@contextmanager
def ignore_errno(*errnos: int | str, types: Any = Exception) -> Iterator[None]:
    """Let exceptions of these types pass that have one of these numbers: `ignore_errno("ENOENT")`."""
    numbers = [get_errno_name(each) for each in errnos]
    try:
        yield
    except types as exc:
        if getattr(exc, "errno", None) not in numbers:
            raise


def set_process_title(progname: str, info: str | None = None) -> str:
    """Have `ps` show this name, where the package setproctitle is installed; gives what it shows."""
    title = f"[{progname}] {info}" if info else f"[{progname}]"
    with suppress(ImportError):
        import_module("setproctitle").setproctitle(title)
    return title


def set_mp_process_title(progname: str, info: str | None = None, hostname: str | None = None) -> str:
    """`set_process_title` with the name of the process, as workers and their children have one."""
    where = f"{progname}: {hostname}" if hostname else progname
    return set_process_title(f"{where}:{current_process().name}", info)
