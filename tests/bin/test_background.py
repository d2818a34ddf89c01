"""`pgtasks worker --detach`, for real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pgtasks.app.discovery import find_app


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_worker_in_the_background_runs_tasks_and_leaves_no_pid_file(
    project: str, database_url: str, tmp_path: Path
) -> None:
    options = ["-n", "w1@%h", "-c", "1", "-l", "INFO", "--pidfile", "%n.pid", "--logfile", "%n.log"]
    command = [sys.executable, "-m", "pgtasks", "-A", project, "worker", "--detach", *options]
    pidfile = tmp_path / "w1.pid"

    subprocess.run(command, cwd=tmp_path, check=True)
    wait_until(lambda: pidfile.exists() and pidfile.read_text().endswith("\n"))
    pid = int(pidfile.read_text())
    try:
        value = find_app(project).send_task(f"{project}.add", (1, 2)).get(timeout=60)
        second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not pidfile.exists())

    assert value == 3
    assert second.returncode == 73  # told before it went to the background, where nobody would hear
    assert f"already running? (pid: {pid})" in second.stderr
    assert "w1@" in (tmp_path / "w1.log").read_text()
