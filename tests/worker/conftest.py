"""A stage for jobs, and a connection to look behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.workers import Stage


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(tmp_path)
    for name, value in stage.environ().items():
        monkeypatch.setenv(name, value)
    return stage
