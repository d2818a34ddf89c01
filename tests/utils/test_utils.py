"""`pgtasks.utils` offers what Celery offers there, without importing it in advance."""

from __future__ import annotations

import subprocess
import sys

import celery.utils
import pytest

import pgtasks.utils


@pytest.mark.parametrize("name", celery.utils.__all__)
def test_every_name_is_there_and_means_the_same(name: str) -> None:
    assert getattr(pgtasks.utils, name).__class__ is getattr(celery.utils, name).__class__
    assert name in pgtasks.utils.__all__


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nope'"):
        pgtasks.utils.nope


def test_the_lowest_floor_imports_neither_the_app_nor_the_database() -> None:
    modules = ["states", "exceptions", "local", "signals", "serialization", "schedules", "app.settings"]
    code = (
        f"import sys, importlib; [importlib.import_module('pgtasks.' + name) for name in {modules}];print(*sys.modules)"
    )

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()

    assert not {"pgtasks.app.base", "pgtasks.store", "pgtasks.canvas", "psycopg", "celery"} & set(loaded)
