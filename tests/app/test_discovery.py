"""Which app a name stands for, by Celery's rules: the same cases are asked of Celery itself."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery.app.utils import find_app as find_celery_app

from pgtasks.app.discovery import find_app

FILES = {
    "with_app.py": "app = Celery('with_app')\nother = Celery('other')\n",
    "with_celery.py": "celery = Celery('with_celery')\n",
    "with_any.py": "x = 1\nworker_app = Celery('with_any')\n",
    "with_none.py": "x = 1\n",
    "package/__init__.py": "",
    "package/celery.py": "app = Celery('package')\n",
    "shadowed/__init__.py": "import package.celery as celery\nfrom package import celery as app\n",
    "shadowed/celery.py": "app = Celery('shadowed')\n",
}


@pytest.fixture(params=["pgtasks", "celery"])
def find(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    library = {"pgtasks": "from pgtasks.app.base import Celery\n", "celery": "from celery import Celery\n"}
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(library[request.param] + text if "Celery(" in text else text)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield find_app if request.param == "pgtasks" else find_celery_app
    for name in set(sys.modules) - before:
        if name.split(".")[0] in {Path(file).parts[0].removesuffix(".py") for file in FILES}:
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "main"),
    [
        ("with_app", "with_app"),
        ("with_app:other", "other"),
        ("with_app.other", "other"),
        ("with_celery", "with_celery"),
        ("with_any", "with_any"),
        ("package", "package"),
        ("package.celery", "package"),
        ("package.celery:app", "package"),
        ("package.celery.app", "package"),
        ("shadowed", "package"),
    ],
)
def test_a_name_stands_for_the_same_app_as_in_celery(find: Callable[[str], Any], name: str, main: str) -> None:
    assert find(name).main == main


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("with_none", AttributeError),
        ("no_module_of_this_name", ModuleNotFoundError),
    ],
)
def test_a_name_that_stands_for_no_app_is_the_same_error_as_in_celery(
    find: Callable[[str], Any], name: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        find(name)


def test_a_submodule_that_fails_to_import_something_is_not_mistaken_for_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "failing").mkdir()
    (tmp_path / "failing/__init__.py").write_text("")
    (tmp_path / "failing/celery.py").write_text("import not_installed_at_all\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ModuleNotFoundError, match="not_installed_at_all"):
        find_app("failing")


def test_an_attribute_that_is_not_there_is_not_looked_for_as_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "without_it.py").write_text("x = 1\n")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(AttributeError, match="'without_it' has no attribute 'app'"):
        find_app("without_it:app")
