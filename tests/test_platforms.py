"""Pid files, privileges, the background."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pgtasks import platforms
from pgtasks.exceptions import SecurityError, SecurityWarning
from pgtasks.platforms import LockFailed, Pidfile, check_privileges, create_pidlock

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as process:
        pass
    return process.pid


def test_a_pid_file_of_a_process_that_runs_keeps_a_second_one_from_starting(tmp_path: Path) -> None:
    path = tmp_path / "x.pid"
    path.write_text(f"{os.getppid()}\n")

    with pytest.raises(LockFailed, match=f"already running.*{os.getppid()}"):
        create_pidlock(path)


@pytest.mark.parametrize("content", ["{dead}\n", "{own}\n", "garbage\n", "123", ""])
def test_a_pid_file_that_was_left_behind_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.pid"
    path.write_text(content.format(dead=dead_pid(), own=os.getpid()))

    lock = create_pidlock(path)

    assert Pidfile(path).read_pid() == os.getpid()
    lock.release()
    assert not path.exists()


def test_a_forked_child_does_not_remove_its_parents_pid_file_at_exit(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pgtasks.platforms import create_pidlock; create_pidlock(sys.argv[1])\n"
        "if os.fork(): os.wait(); print(os.path.exists(sys.argv[1]))\n"
    )
    path = tmp_path / "x.pid"

    said = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)

    assert said.stdout == "True\n"
    assert not path.exists()


def test_a_process_in_the_background_has_no_terminal_and_a_session_of_its_own(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pgtasks.platforms import detach; session = os.getsid(0); detach(umask='077')\n"
        "facts = [os.getsid(0) != session, os.getsid(0) != os.getpid(), os.umask(0)]\n"
        "facts.append(os.readlink('/proc/self/fd/2'))\n"
        "open(sys.argv[1], 'w').write(repr(facts))\n"
        "os.close(int(sys.argv[2]))"
    )
    reader, writer = os.pipe()
    path = tmp_path / "facts"

    subprocess.run([sys.executable, "-c", program, path, str(writer)], pass_fds=[writer], check=True)
    os.close(writer)
    os.read(reader, 1)  # ends when the last process in the background has closed it
    os.close(reader)

    assert path.read_text() == "[True, True, 63, '/dev/null']"


def test_users_and_groups_can_be_names_or_numbers() -> None:
    assert platforms.parse_uid("root") == platforms.parse_uid("0") == platforms.parse_uid(0) == 0
    assert platforms.parse_gid("0") == 0
    with pytest.raises(KeyError, match="User does not exist: nobody-at-all"):
        platforms.parse_uid("nobody-at-all")
    with pytest.raises(KeyError, match="Group does not exist: nobody-at-all"):
        platforms.parse_gid("nobody-at-all")


@as_root
def test_privileges_are_dropped_for_good_and_with_the_groups() -> None:
    program = (
        "import os; from pgtasks.platforms import maybe_drop_privileges as drop\n"
        "drop('nobody'); drop('nobody')\n"
        "print(os.getresuid(), 0 in os.getgroups(), 0 in os.getresgid())"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert said == "(65534, 65534, 65534) False False\n"


@as_root
def test_root_does_not_unpickle_what_it_is_sent_unless_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    with pytest.raises(SecurityError, match="C_FORCE_ROOT"):
        check_privileges(["json", "pickle"])
    with pytest.warns(SecurityWarning, match="superuser privileges"):
        check_privileges(["json"])

    monkeypatch.setenv("C_FORCE_ROOT", "1")
    with pytest.warns(SecurityWarning):
        check_privileges(["json", "pickle"])


def test_a_project_may_force_what_the_environment_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.delenv("C_FORCE_ROOT", raising=False)
    monkeypatch.setattr(platforms, "C_FORCE_ROOT", True)

    with pytest.warns(SecurityWarning):
        check_privileges({"pickle"})


def test_errors_with_an_expected_number_pass_and_others_do_not() -> None:
    with platforms.ignore_errno("ENOENT"):
        os.stat("/nowhere/at/all")
    with pytest.raises(FileNotFoundError), platforms.ignore_errno("EPERM"):
        os.stat("/nowhere/at/all")
    with pytest.raises(ValueError, match="of another kind"), platforms.ignore_errno("ENOENT"):
        raise ValueError("of another kind")


def test_all_descriptors_are_closed_but_those_that_are_kept(tmp_path: Path) -> None:
    program = """
import os
from pgtasks.platforms import close_open_fds

kept, other, number = open("kept", "w"), open("other", "w"), os.open("number", os.O_WRONLY | os.O_CREAT)
close_open_fds([kept, number])
still = {fd for fd in (0, 1, 2, other.fileno(), kept.fileno(), number) if os.path.exists(f"/proc/self/fd/{fd}")}
kept.write(str(still == {kept.fileno(), number}))
kept.flush()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)

    assert (tmp_path / "kept").read_text() == "True"


def test_the_title_of_a_process_names_what_it_is() -> None:
    assert platforms.set_process_title("pgtasks", "worker") == "[pgtasks] worker"
    assert platforms.set_mp_process_title("pgtasks", hostname="w@h") == "[pgtasks: w@h:MainProcess]"


@pytest.mark.parametrize("given", [9, "9", signal.SIGKILL, "KILL", "SIGKILL", "sigkill", "kill"])
def test_a_signal_has_one_name_however_it_is_given(given: str | int) -> None:
    assert platforms.signal_name(given) == "SIGKILL"


@pytest.mark.parametrize("given", ["FOO", "", 0, 1000, "SIG", "5a9b3c1e-3a54-4b7e-9d0a-2f3c1c7a8b11"])
def test_a_signal_that_there_is_not_is_refused_and_does_not_become_another_one(given: str | int) -> None:
    with pytest.raises(ValueError, match="There is no signal"):
        platforms.signal_name(given)
