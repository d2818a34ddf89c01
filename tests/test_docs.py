"""What the documentation says is so: its programs run, its SQL is right, its commands and settings exist."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import psycopg
import pytest

from pgtasks import signals
from pgtasks.app.defaults import DEFAULTS, SETTING_KEYS
from pgtasks.bin.base import COMMANDS, cli
from pgtasks.store import database, migrate, sql
from pgtasks.worker import consumer

CHECKOUT = Path(__file__).parent.parent
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
#: Commands that the pages name because they are not there yet.
NOT_YET: set[str] = set()

_BLOCK = re.compile(r"(?:^<!-- (?P<mark>[^>]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_LINK = re.compile(r"\]\((?!https?:)([^)#]*)(#[^)]+)?\)")


class Block(NamedTuple):
    """A fenced piece of a page."""

    page: Path
    language: str
    text: str
    mark: str

    @property
    def file(self) -> str:
        """The name of the file that it is, from its first line: `# tasks.py`."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else ""


def blocks(*languages: str) -> list[Block]:
    return [
        Block(page, match["language"], match["text"], match["mark"] or "")
        for page in PAGES
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))
        if match["language"] in languages
    ]


def inline() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for match in _INLINE.finditer(_BLOCK.sub("", page.read_text(encoding="utf-8"))):
            yield page, match[1]


def name_of(value: Any) -> str:
    return value.name if isinstance(value, Path) else ""


# -- Python


@pytest.mark.parametrize("page", sorted({block.page for block in blocks("python")}), ids=name_of)
def test_the_programs_of_a_page_run(page: Path, database_url: str, tmp_path: Path) -> None:
    files = [block for block in blocks("python") if block.page == page]
    assert all(block.file for block in files), "each begins with a comment that names its file"
    for block in files:
        (tmp_path / block.file).write_text(block.text)
    apps = [block for block in files if "= Celery(" in block.text]
    # Tests of a reader's own project run in tests/contrib/test_testing.py, by the plugin that they are about.
    programs = [block for block in files if block not in apps and not block.file.startswith("test_")]

    for app in apps:
        run(tmp_path, "-c", f"import {app.file.removesuffix('.py')} as it; it.app.finalize()")
    if programs:
        with worker_of(apps[0].file.removesuffix(".py"), tmp_path):
            for program in programs:
                run(tmp_path, program.file)


def run(directory: Path, *arguments: str) -> None:
    said = subprocess.run(
        [sys.executable, *arguments], cwd=directory, capture_output=True, text=True, timeout=120, check=False
    )
    assert said.returncode == 0, said.stdout + said.stderr


class worker_of:
    """A worker for as long as the block lasts."""

    def __init__(self, module: str, directory: Path) -> None:
        command = [sys.executable, "-m", "pgtasks", "-A", module, "worker", "-c", "2"]
        self.log = (directory / "worker.log").open("w+")
        self.process = subprocess.Popen(command, cwd=directory, stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self) -> None:
        """Programs may come first: their tasks wait for the worker."""

    def __exit__(self, *exc_info: object) -> None:
        self.process.terminate()
        status = self.process.wait(60)
        self.log.seek(0)
        assert status == 0, self.log.read()


# -- SQL


@pytest.mark.parametrize(
    "block", blocks("sql"), ids=lambda block: f"{block.page.name}-{' '.join(block.text.split())[:40]}"
)
def test_sql_fits_the_schema(block: Block, conn: psycopg.Connection[Any]) -> None:
    with conn.transaction(force_rollback=True):
        conn.execute("CREATE ROLE app; CREATE ROLE watcher")
        conn.execute(block.text.encode())


def test_a_role_with_the_documented_rights_sees_the_views_and_no_table(conn: psycopg.Connection[Any]) -> None:
    granting = next(block for block in blocks("sql") if "TO watcher" in block.text)

    with conn.transaction(force_rollback=True):
        conn.execute("CREATE ROLE watcher")
        conn.execute(granting.text.encode())
        conn.execute("SET LOCAL ROLE watcher")
        for view in ("queues", "workers", "schedules", "edges", "stuck"):
            conn.execute(f"SELECT * FROM pgtasks.{view}".encode())
        conn.execute("SELECT id, name, state FROM pgtasks.tasks")
        with pytest.raises(psycopg.errors.InsufficientPrivilege), conn.transaction():
            conn.execute("SELECT payload FROM pgtasks.tasks")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("SELECT * FROM pgtasks.message")


def test_the_grants_shown_are_those_printed() -> None:
    (shown,) = [block for block in blocks("sql") if block.mark == "output: pgtasks db sql --grant app"]

    assert shown.text == migrate.grants("app")


def test_every_view_of_the_schema_is_documented(conn: psycopg.Connection[Any]) -> None:
    text = (CHECKOUT / "docs/operations.md").read_text(encoding="utf-8")
    kinds = conn.execute(
        "SELECT relname, relkind::text FROM pg_class WHERE relnamespace = 'pgtasks'::regnamespace"
    ).fetchall()

    for name, kind in kinds:
        if kind in "rv":
            assert (f"`pgtasks.{name}`" if kind == "v" else f"`{name}`") in text


# -- the architecture page


def named_in_architecture(pattern: str) -> list[str]:
    page = CHECKOUT / "docs/architecture.md"
    return sorted({text for path, text in inline() if path == page and re.fullmatch(pattern, text)})


@pytest.mark.parametrize("name", named_in_architecture(r"[\w/]+(\.py|\.sql|/)"))
def test_a_file_that_the_architecture_page_names_exists(name: str) -> None:
    assert (CHECKOUT / "pgtasks" / name).exists() or (CHECKOUT / name).exists()


@pytest.mark.parametrize("name", named_in_architecture(r"(tasks|fleet|flows|workflows)\.\w+"))
def test_a_statement_that_the_architecture_page_names_exists(name: str) -> None:
    noun, _, statement = name.partition(".")

    assert statement in sql.load(noun)


# -- commands, settings, variables, links


def commands() -> list[str]:
    found = [text for _, text in inline() if text.startswith("pgtasks ")]
    for block in blocks("sh"):
        for line in block.text.splitlines():
            for piece in re.split(r"&&|\|", line):
                words = piece.strip().removeprefix(".venv/bin/")
                if words.startswith("pgtasks "):
                    found.append(words)
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_a_command_exists_with_its_options(line: str) -> None:
    ctx = click.Context(cli, info_name="pgtasks")
    words = shlex.split(line)[1:]
    while words and words[0].startswith("-"):
        option = next((each for each in cli.params if words[0] in each.opts), None)
        assert isinstance(option, click.Option), f"there is no option {words[0]!r}"
        del words[: 1 if option.is_flag else 2]
    command: click.Command = cli
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        name = words.pop(0)
        if command is cli and name in NOT_YET:
            assert name not in COMMANDS, f"`pgtasks {name}` is there: say so"
            return
        found = command.get_command(ctx, name)
        assert found is not None, f"there is no command {name!r}"
        command = found

    if command is not cli and (words or not isinstance(command, click.Group)):
        command.make_parser(click.Context(command, **command.context_settings)).parse_args(words)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"`{name}`" in (CHECKOUT / "README.md").read_text(encoding="utf-8")


def test_every_setting_that_is_named_exists() -> None:
    known = {*SETTING_KEYS, *vars(signals), "task_id", "task_name", "task_queue", "worker_process"}
    named = {
        (page.name, name)
        for page, text in inline()
        if page.name != "settings.md"
        for name in re.findall(r"\b(?:task|worker|result|broker|beat|security|database)_[a-z_]+", text)
    }

    assert {(page, name) for page, name in named if name not in known} == set()


def test_every_environment_variable_that_is_named_is_read() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "pgtasks").rglob("*.py"))
    named = {name for page in PAGES for name in re.findall(r"\bPGTASKS_[A-Z_]+", page.read_text(encoding="utf-8"))}

    assert {name for name in named if name not in sources} == set()


def test_every_link_leads_somewhere() -> None:
    broken = []
    for page in PAGES:
        for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
            place = (page.parent / target) if target else page
            if not place.exists():
                broken.append(f"{page.name}: {target}")
            elif anchor and anchor[1:] not in _anchors(place):
                broken.append(f"{page.name}: {target}{anchor}")

    assert broken == []


def _anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    ("page", "row", "value"),
    [
        ("operations.md", "a call is given up and its connection cut", f"{database.DEADLINE_S:g} s"),
        ("operations.md", "a call on a lost connection is tried again for", f"{database.PATIENCE_S:g} s"),
        ("operations.md", "a worker that cannot renew starts nothing new", f"({DEFAULTS['worker_lease']:g} s)"),
        ("operations.md", "it ends what it runs, and others take over", "about a second"),
        ("delivery.md", "it has been lost `task_max_deliveries` times", f"({DEFAULTS['task_max_deliveries']})"),
    ],
)
def test_a_figure_is_that_of_the_code(page: str, row: str, value: str) -> None:
    text = (CHECKOUT / "docs" / page).read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if row in line]

    assert value in line
    assert round(consumer.TICK_S) == 1, "say so in operations.md"


def test_the_readme_has_the_two_commands_of_a_fresh_machine() -> None:
    marks = {block.mark: block.text for block in blocks("sh")}

    assert "pgtasks demo" in marks["command: demo"]
    assert "pytest" in marks["command: test"]
    assert "command: test" in (CHECKOUT / ".ci/run").read_text(encoding="utf-8")
    assert all(marks[mark].count("\n") == 1 for mark in ("command: demo", "command: test"))


def test_the_readme_shows_tasks_in_twelve_lines() -> None:
    (tasks,) = [b for b in blocks("python") if b.page.name == "README.md" and b.file == "tasks.py"]

    assert len([line for line in tasks.text.splitlines() if line]) <= 12
