"""The programs that the documentation shows for Flask and FastAPI, each with a worker beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pgtasks.contrib.testing.processes import worker_process

PAGE = Path(__file__).parents[2] / "docs" / "frameworks.md"


def programs() -> dict[str, str]:
    return dict(re.findall(r"^```py\n# (\w+)\.py\n(.*?)^```$", PAGE.read_text(), re.M | re.S))


@pytest.mark.parametrize(
    ("framework", "app", "client", "options"),
    [("flask", "flaskshop:celery_app", "flaskclient", ()), ("fastapi", "fastshop:celery", "fastclient", ("-P", "aio"))],
)
def test_a_request_and_its_task_are_committed_together(
    framework: str, app: str, client: str, options: tuple[str, ...], database_url: str, tmp_path: Path
) -> None:
    for needed in (framework, "sqlalchemy", *(["httpx"] if framework == "fastapi" else [])):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    for name, text in programs().items():
        (tmp_path / f"{name}.py").write_text(text)

    with worker_process(app, "-c", "2", *options, cwd=tmp_path) as worker:
        said = subprocess.run(
            [sys.executable, f"{client}.py"], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=120,
            check=False,
        )  # fmt: skip

        assert said.returncode == 0, said.stdout + said.stderr + worker.log()
        assert worker.stop() == 0
