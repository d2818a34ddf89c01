"""`pgtasks multi`: lines mean what they mean to Celery's, and nodes start, stop and start again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery.apps.multi import MultiParser, NamespacedOptionParser
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtasks.bin.nodes import nodes_of, read, signal_in
from pgtasks.platforms import Pidfile
from pgtasks.utils.nodenames import gethostname
from tests.bin.conftest import Command
from tests.support.workers import eventually

FILES = ["--pidfile=%n.pid", "--logfile=%n.log", "--executable=python"]

options = st.sampled_from(
    [
        *(["-c", "3"], ["-c:1", "10"], ["-c:2,3", "5"], ["-l", "INFO"], ["-E"], ["--purge"], ["--time-limit=3"]),
        *(["--time-limit:2=9"], ["--hostname=x.org"], ["-n", "y.org"], ["--prefix=p-"], ["--suffix=s.org"]),
        *(["--range-prefix=w"], ["--logfile:1=%n-%h.log"], ["-A", "proj"], ["--workdir=/tmp/%n"]),
    ]
)
ranges = st.sampled_from([["-c:1-2", "7"], ["--time-limit:1-3=2"], ["-Q:2", "a"]])
names = st.sampled_from([["-c:image", "7"], ["-Q:image,data", "q"], ["-Q:2", "q"]])
lines = st.one_of(
    st.tuples(st.just(["3"]), st.lists(st.one_of(options, ranges), max_size=6)),
    st.tuples(st.just(["image", "video@%h", "data"]), st.lists(st.one_of(options, names), max_size=6)),
)


def of_celery(words: list[str]) -> list[list[str]]:
    parser = NamespacedOptionParser(words)
    parser.parse()
    return [
        sorted(" ".join(node.argv_with_executable).split())
        for node in MultiParser(cmd="-m celery worker").parse(parser)
    ]


@settings(max_examples=300, deadline=None)
@given(lines)
def test_a_line_means_what_it_means_to_celery(line: tuple[list[str], list[list[str]]]) -> None:
    words = [*line[0], *(word for option in line[1] for word in option), *FILES, "--cmd=-m celery worker"]

    assert [sorted(node.argv) for node in nodes_of(read(words))] == of_celery([*words[:-1]])


def test_global_options_come_before_the_command_and_those_after_two_dashes_last() -> None:
    (node,) = nodes_of(read(["one@h", *FILES, "-A", "proj", "--", "worker.prefetch_multiplier=1"]))

    assert node.argv == [
        *("python", "-m", "pgtasks", "-A", "proj", "worker", "--detach", "-n", "one@h"),
        *("--pidfile=one.pid", "--logfile=one.log", "--executable=python", "--", "worker.prefetch_multiplier=1"),
    ]


@pytest.mark.parametrize("words", [["a", "-c:2", "3"], ["a", "-c:0", "3"]])
def test_a_position_without_a_node_is_refused(words: list[str]) -> None:
    with pytest.raises(KeyError, match="ndex"):
        nodes_of(read(words))


@pytest.mark.parametrize(
    ("words", "signum"),
    [
        (["-9"], 9),
        (["-KILL"], 9),
        (["-SIGINT"], 2),
        (["-c", "3"], None),
        (["-l", "-TERM", "-15"], 15),
        (["--TERM"], None),
    ],
)
def test_a_signal_is_found_among_options(words: list[str], signum: int | None) -> None:
    assert signal_in(words) == signum


def test_what_only_tells_touches_nothing(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    host = gethostname()

    assert command("multi", "names", "2").stdout == f"celery1@{host}\ncelery2@{host}\n"
    assert command("multi", "expand", "%n-%d", "a@b.c").stdout == "a-b.c\n"
    shown = command("multi", "show", "a@h", "-c", "3", "--pidfile=run/%n.pid", "--logfile=log/%n.log").stdout
    assert "worker --detach -n a@h -c 3 --pidfile=run/a.pid --logfile=log/a.log" in shown
    assert command("multi", "get", "a@h", "a@h", "-c", "3").stdout.split()[:5] == [
        "-m",
        "pgtasks",
        "worker",
        "--detach",
        "-n",
    ]
    assert command("multi", "get", "b@h", "a@h").exit_code == 1
    assert list(tmp_path.iterdir()) == []


def test_mistakes_end_with_the_usage(command: Command) -> None:
    assert "usage: pgtasks multi start" in command("multi").stdout
    wrong = command("multi", "begin", "3")
    assert (wrong.exit_code, "Invalid command: begin" in wrong.stderr) == (1, True)
    assert command("multi", "start", "a", "-c:7", "3").exit_code == 2
    assert "multi restart 3" in command("multi", "help").stdout


@pytest.fixture
def _no_node_survives(tmp_path: Path) -> Iterator[None]:
    yield
    for path in tmp_path.glob("*.pid"):
        if pid := Pidfile(path).read_pid():
            os.kill(pid, signal.SIGKILL)


@pytest.mark.usefixtures("_no_node_survives")
def test_nodes_start_stop_and_start_again(
    command: Command, project: str, tmp_path: Path, database_url: str, conn: psycopg.Connection[Any]
) -> None:
    where = [f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log", "-l", "INFO"]

    def multi(*words: str) -> Any:
        result = command("-C", "-A", project, "multi", *words, *where)
        assert result.exit_code == 0, result.output
        return result.stdout

    def online() -> list[str]:
        rows = conn.execute("SELECT hostname FROM pgtasks.workers WHERE is_alive ORDER BY hostname").fetchall()
        return [name for (name,) in rows]

    def await_ready(name: str, count: int) -> None:
        eventually(lambda: (tmp_path / f"{name}.log").read_text().count(f"{name}@h ready.") == count)

    both = ["one@h", "two@h"]
    assert multi("start", "one@h", "two@h", "-c", "1", "-c:2", "2").count("OK") == 2
    eventually(lambda: online() == both)
    concurrency = conn.execute("SELECT concurrency FROM pgtasks.workers ORDER BY hostname").fetchall()
    assert concurrency == [(1,), (2,)]
    first = Pidfile(tmp_path / "one.pid").read_pid()

    assert f"one@h: TERM -> {first}" in multi("restart", "one@h", "-c", "1")
    await_ready("one", 2)
    await_ready("two", 1)
    assert online() == both
    assert Pidfile(tmp_path / "one.pid").read_pid() != first

    assert "two@h: OK" in multi("stopwait", "one@h", "two@h", "-TERM")
    assert online() == []
    assert "one@h: DOWN" in multi("stop", "one@h")
