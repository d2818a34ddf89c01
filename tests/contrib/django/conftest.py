"""A Django project in a directory and a database of its own, and programs that run in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from tests.contrib.django.nursery import Nursery
from tests.support.postgres import new_database
from tests.support.workers import eventually

pytest.importorskip("django", reason="Django is not installed")

SITE = Path(__file__).parent / "site"
SETUP = "import django; django.setup()\n"


class Site:
    """The project: `run` gives what a program prints, as JSON."""

    def __init__(self, directory: Path, url: str, nursery: Nursery) -> None:
        self.directory, self.url = directory, url
        self.nursery = nursery
        self.databases = {"default": database_of(url)}
        self.settings: dict[str, Any] = {}
        self.environ: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        # The database is the one of DATABASES: nothing else names one.
        inherited = {k: v for k, v in os.environ.items() if k not in ("PGTASKS_DATABASE_URL", "DATABASE_URL")}
        return {
            **inherited,
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "SITE_DATABASES": json.dumps(self.databases),
            "SITE_SETTINGS": json.dumps(self.settings),
            "PYTHONUNBUFFERED": "1",
            **self.environ,
        }

    def python(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        said = self.nursery.run(arguments, self.directory, self.environment())
        assert status is None or said.returncode == status, said.stdout + said.stderr
        return said

    def manage(self, *arguments: str, status: int | None = 0) -> subprocess.CompletedProcess[str]:
        return self.python("manage.py", *arguments, status=status)

    def run(self, program: str) -> Any:
        """Run a program in the project; gives what it has left in `said`."""
        ending = "\nimport json; print(json.dumps(said, default=str))"
        return json.loads(self.python("-c", SETUP + program + ending).stdout.splitlines()[-1])

    @contextmanager
    def worker(self, *options: str) -> Iterator[subprocess.Popen[bytes]]:
        """A worker that is ready, started by manage.py; its end is waited for."""
        command = [sys.executable, "manage.py", "pgtasks", "worker", "-c", "1", "-l", "INFO", *options]
        log = self.directory / "worker.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=self.directory, env=self.environment(), stdout=out, stderr=subprocess.STDOUT
            )
        try:
            eventually(lambda: " ready." in log.read_text() or process.poll() is not None, "the worker is ready")
            assert process.poll() is None, log.read_text()
            yield process
        except BaseException as error:
            error.add_note(log.read_text()[-4000:])
            raise
        finally:
            process.terminate()
            status = process.wait(60)
        assert status == 0, log.read_text()


def database_of(url: str, **options: Any) -> Mapping[str, Any]:
    """What DATABASES says of a URL."""
    parts = psycopg.conninfo.conninfo_to_dict(url)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    return {
        "ENGINE": "django.db.backends.postgresql",
        **{names[key]: value for key, value in parts.items() if key in names},
        **options,
    }


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def migrated(server_url: str, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a database in which the project was migrated, to make others from."""
    name = f"django_template_{os.getpid()}"
    with new_database(server_url, name) as url, pytest.MonkeyPatch.context() as monkeypatch:
        _site(url, tmp_path_factory.mktemp("template"), monkeypatch, nursery).manage("migrate", "--verbosity", "0")
        yield name


@pytest.fixture
def site(server_url: str, migrated: str, nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with new_database(server_url, f"django_{uuid4().hex[:12]}", migrated) as url:
        yield _site(url, tmp_path, monkeypatch, nursery)


def _site(url: str, directory: Path, monkeypatch: pytest.MonkeyPatch, nursery: Nursery) -> Site:
    for name in ("PGTASKS_DATABASE_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    shutil.copytree(SITE, directory / "site", ignore=shutil.ignore_patterns("__pycache__"))
    return Site(directory / "site", url, nursery)
