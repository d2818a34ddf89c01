"""`pgtasks demo`, on a small directory and on the test's database."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from pgtasks.demo import words
from pgtasks.demo.files import find_files

DEMO = [sys.executable, "-m", "pgtasks", "demo"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Files with work for about two seconds, so that a worker can be caught at it."""
    directory = tmp_path / "text"
    directory.mkdir()
    text = [f"{a}{b}{c} " for a in "abcdefgh" for b in "ijklmnop" for c in "qrstuvwx"]
    for number in range(120):
        (directory / f"{number}.txt").write_text("".join(text[number:]) * 25)
    return directory


@pytest.fixture
def odd(text: Path) -> Iterator[Path]:
    """The same with what else is found in directories."""
    Path(os.fsdecode(os.fsencode(text) + b"/caf\xe9.txt")).write_bytes(b"caf\xe9 au lait")
    (text / "binary").write_bytes(b"words\0and bytes" * 100)
    (text / "empty").touch()
    (text / "dangling").symlink_to("nowhere")
    (text / "loop").symlink_to(text)
    os.mkfifo(text / "pipe")
    (text / "secret").write_text("nobody may read this")
    (text / "secret").chmod(0)
    (text / "closed").mkdir(mode=0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(text / "s"))
        yield text
    (text / "closed").chmod(0o700)


def processes() -> str:
    """The command lines of all processes, one per line."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it has just ended
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    assert any("pytest" in line for line in lines), "there is nothing to see in /proc"
    return "\n".join(lines)


def rows_left(conn: psycopg.Connection[Any]) -> int:
    counts = conn.execute(
        "SELECT (SELECT count(*) FROM pgtasks.message) + (SELECT count(*) FROM pgtasks.result)"
        " + (SELECT count(*) FROM pgtasks.edge) + (SELECT count(*) FROM pgtasks.waiting)"
        " + (SELECT count(*) FROM pgtasks.ready) + (SELECT count(*) FROM pgtasks.claim)"
    ).fetchone()
    assert counts is not None
    return int(counts[0])


def test_the_answer_is_right_though_a_worker_is_killed_and_nothing_is_left_behind(
    conn: psycopg.Connection[Any], odd: Path
) -> None:
    said = subprocess.run([*DEMO, "-c", "1", str(odd)], capture_output=True, text=True, timeout=240)

    assert said.returncode == 0, said.stdout + said.stderr
    assert "kill -9" in said.stdout
    assert "right: the same as a plain count" in said.stdout
    again = re.search(r"(\d+) delivered again, 0 lost or failed", said.stdout)
    assert again
    assert int(again[1]) > 0
    queue = re.search(r"demo-\w+", said.stdout)
    assert queue
    assert queue[0] not in processes()
    assert rows_left(conn) == 0


def test_a_wrong_answer_is_told_by_the_exit_status(database_url: str, text: Path) -> None:
    program = (
        "import sys; from pgtasks.demo import run, screen, words;"
        " words.words_of = lambda path: {'only': 1};"
        f" sys.exit(run.run(run.Plan({str(text)!r}, 20, 1, False), screen.Screen()))"
    )

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=240)

    assert said.returncode == 1, said.stdout + said.stderr
    assert "wrong: a plain count in one process finds 20 words" in said.stdout


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stops_all_it_has_started_when_it_is_interrupted(
    conn: psycopg.Connection[Any], text: Path, signum: int
) -> None:
    with subprocess.Popen([*DEMO, str(text)], stdout=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        said = ""
        for line in demo.stdout:
            said += line
            if "canvas" in line:
                demo.send_signal(signum)

    assert demo.returncode == 128 + signum, said
    queue = re.search(r"demo-\w+", said)
    assert queue
    assert queue[0] not in processes()
    assert rows_left(conn) == 0


def test_a_directory_without_files_is_no_traceback(database_url: str, tmp_path: Path) -> None:
    said = subprocess.run([*DEMO, str(tmp_path)], capture_output=True, text=True, timeout=60)

    assert said.returncode == 1
    assert said.stderr.startswith(f"Error: There are no files below {tmp_path}.")


def test_only_regular_files_are_read(odd: Path) -> None:
    names = {os.path.basename(path) for path in find_files([str(odd)], 1000)}

    assert {"binary", "empty", "secret", "0.txt", os.fsdecode(b"caf\xe9.txt")} <= names
    assert not names & {"dangling", "loop", "pipe", "s", "closed"}


def test_files_are_found_in_the_same_order_every_time_up_to_the_limit(text: Path) -> None:
    assert find_files([str(text)], 7) == sorted(str(path) for path in text.iterdir())[:7]


def test_a_file_that_is_gone_or_binary_has_no_words(odd: Path) -> None:
    assert not words.words_of(str(odd / "nowhere"))
    assert not words.words_of(str(odd / "binary"))
    assert words.words_of(os.fsdecode(os.fsencode(odd) + b"/caf\xe9.txt")) == {"caf": 1, "au": 1, "lait": 1}
