"""An app with results, of either library: what can be asked of both is asked of both."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import celery
import celery.exceptions
import celery.result
import pytest

import pgtasks.exceptions
import pgtasks.result
from pgtasks.app.base import Celery


@pytest.fixture
def app(database_url: str) -> Iterator[Any]:
    app = Celery("results", broker=database_url, set_as_current=False)
    yield app
    app.close()


@pytest.fixture(params=["celery", "pgtasks"])
def kit(request: pytest.FixtureRequest) -> SimpleNamespace:
    """An app with a result backend, and the modules that belong to it: Celery's own, or ours."""
    if request.param == "celery":
        app = celery.Celery("results", broker="memory://", backend="cache+memory://", set_as_current=False)
        return SimpleNamespace(name="celery", app=app, result=celery.result, exceptions=celery.exceptions)
    app = request.getfixturevalue("app")
    return SimpleNamespace(name="pgtasks", app=app, result=pgtasks.result, exceptions=pgtasks.exceptions)
