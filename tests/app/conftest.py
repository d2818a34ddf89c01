"""Tests of apps leave no app and no shared task behind, neither in pgtasks nor in Celery, their judge."""

from __future__ import annotations

from importlib import import_module

import pytest


@pytest.fixture(autouse=True)
def _forget_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("celery", "pgtasks"):
        # Imported first: the built-in tasks connect themselves then, and must stay.
        import_module(f"{package}.app.base")
        state = import_module(f"{package}._state")
        monkeypatch.setattr(state, "default_app", None)
        monkeypatch.setattr(state._tls, "current_app", None)
        monkeypatch.setattr(state, "_on_app_finalizers", state._on_app_finalizers.copy())
