"""Bringing a project of Celery's over: what is rewritten, and what is left with a word."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgtasks.bin.base import cli
from pgtasks.upgrade.imports import rewrite, sources
from pgtasks.upgrade.settings import renamed


def upgrade(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["upgrade", *map(str, arguments)])


# -- settings


def test_old_names_of_settings_become_new_ones_and_nothing_else_changes() -> None:
    text = "# été\r\nBROKER_URL = 'memory://'\r\nMY_BROKER_URL = BROKER_URL\r\nCELERYD_CONCURRENCY=4; broker_url2 = 1\r\n"

    assert renamed(text) == (
        "# été\r\nbroker_url = 'memory://'\r\nMY_BROKER_URL = broker_url\r\nworker_concurrency=4; broker_url2 = 1\r\n"
    )


def test_a_longer_name_is_not_taken_for_a_shorter_one() -> None:
    assert renamed("BROKER_TRANSPORT_OPTIONS, BROKER_TRANSPORT") == "broker_transport_options, broker_transport"


def test_names_for_django_have_the_prefix_once() -> None:
    text = "CELERY_ALWAYS_EAGER = True\nBROKER_URL = ''\n"

    assert renamed(text, prefixed=True) == "CELERY_TASK_ALWAYS_EAGER = True\nCELERY_BROKER_URL = ''\n"
    assert renamed(renamed(text, prefixed=True), prefixed=True) == renamed(text, prefixed=True)


def test_the_file_as_it_was_is_kept_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "celeryconfig.py"
    path.write_bytes(b"BROKER_URL = 1\r\n")

    assert "Changes to your setting have been made!" in upgrade("settings", path).stdout
    assert path.read_bytes() == b"broker_url = 1\r\n"
    assert path.with_name("celeryconfig.py.orig").read_bytes() == b"BROKER_URL = 1\r\n"
    assert "Does not seem to require any changes" in upgrade("settings", path, "--no-backup").stdout


def test_settings_that_are_not_there_are_a_word_and_no_traceback(tmp_path: Path) -> None:
    result = upgrade("settings", tmp_path / "nowhere.py")

    assert result.exit_code == 2
    assert "does not exist" in result.output


# -- imports


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("from celery import Celery, chain  # why", "from pgtasks import Celery, chain  # why"),
        ("from celery.app import (\n    trace,\n)", "from pgtasks.app import (\n    trace,\n)"),
        ("from celery.contrib.testing import worker", "from pgtasks.contrib.testing import worker"),
        ("from celery.loaders.app import AppLoader", "from pgtasks.app.loader import AppLoader"),
        ("from celery.signals import *", "from pgtasks.signals import *"),
        ("import celery", "import pgtasks as celery"),
        ("import celery.states", "import pgtasks as celery"),
        ("import os, celery.result as r", "import os, pgtasks.result as r"),
        ("from billiard.exceptions import WorkerLostError", "from pgtasks.exceptions import WorkerLostError"),
        ("if True:\n    from celery import group", "if True:\n    from pgtasks import group"),
    ],
)  # fmt: skip
def test_an_import_of_celery_becomes_one_of_pgtasks_and_the_rest_stays_as_written(before: str, after: str) -> None:
    pytest.importorskip("libcst")

    found = rewrite(f"# first\n{before}\n\nlast  =  1\n")

    assert found.source == f"# first\n{after}\n\nlast  =  1\n"
    assert (found.rewrites, found.left) == (1, [])


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("from celery.backends.redis import RedisBackend", "pgtasks has no module for celery.backends.redis"),
        ("from celery.canvas import Signature, _no_such", "pgtasks.canvas has no _no_such"),
        ("import billiard", "pgtasks has no module for billiard"),
        ("scheduler = 'celery.beat:PersistentScheduler'", "a text that may name something to be imported"),
    ],
)
def test_what_pgtasks_does_not_have_is_left_and_named_with_its_line(statement: str, why: str) -> None:
    found = rewrite(f"\n{statement}\n")

    assert (found.source, found.rewrites) == (f"\n{statement}\n", 0)
    assert [(left.line, left.why) for left in found.left] == [(2, why)]


@pytest.mark.parametrize(
    "statement",
    ["from .celery import app", "from proj.celery import app", "LOGGERS = ['celery', 'celery.task']", "'celery.chord'"],
)
def test_what_only_looks_like_celery_is_passed_over(statement: str) -> None:
    assert rewrite(statement) == (statement, 0, [])


def test_hidden_directories_and_installed_packages_are_not_touched(tmp_path: Path) -> None:
    for name in ("a.py", "sub/b.py", ".venv/c.py", "lib/site-packages/d.py", "e.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()

    assert [path.name for path in sources([tmp_path])] == ["a.py", "b.py"]


def test_a_dry_run_says_what_it_would_do_and_does_not_do_it(tmp_path: Path) -> None:
    pytest.importorskip("libcst")
    path = tmp_path / "proj.py"
    path.write_text("from celery import Celery\n")

    assert "1 imports in 1 files would be rewritten." in upgrade("imports", "--dry-run", tmp_path).stdout
    assert path.read_text() == "from celery import Celery\n"
    assert "1 imports in 1 files were rewritten." in upgrade("imports", path).stdout
    assert path.read_text() == "from pgtasks import Celery\n"


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("from celery import (\n")

    result = upgrade("imports", tmp_path)

    assert result.exit_code == 1
    assert "broken.py cannot be read as Python" in result.output


def test_without_libcst_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "libcst":
            raise ImportError(name)
        return import_module(name, *args, **kwargs)

    monkeypatch.setattr("pgtasks.upgrade.imports.import_module", missing)
    monkeypatch.setattr("pgtasks.upgrade.imports._missing", lambda target, names: [])

    with pytest.raises(Exception, match=r"pip install 'pgtasks\[migrate\]'"):
        rewrite("from celery import Celery\n")
