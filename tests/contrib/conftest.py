"""The fixtures under test, on the test's own database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pgtasks import Celery, _state
from pgtasks.contrib.testing.app import TestApp, setup_default_app


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = TestApp("testing", broker=database_url)
    with setup_default_app(app):
        yield app


@pytest.fixture(autouse=True)
def _no_app_of_another_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state._tls, "current_app", None)
