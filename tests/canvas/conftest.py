"""Tests of canvases leave no app, and no shared task, behind."""

from __future__ import annotations

from importlib import import_module

import pytest

from pgtasks import _state

#: Its built-in tasks connect themselves when it is imported, and must stay.
import_module("pgtasks.app.base")


@pytest.fixture(autouse=True)
def _forget_apps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_state, "default_app", None)
    monkeypatch.setattr(_state._tls, "current_app", None)
    monkeypatch.setattr(_state, "_on_app_finalizers", _state._on_app_finalizers.copy())
