"""Flower, unmodified and in a browser, over workers of ours: its pages, and its buttons."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from celery import Celery

from pgtasks.kombu import link
from tests.kombu.conftest import eventually, rows
from tests.support.workers import REPOSITORY, STUCK_S, WorkerProcess

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS = {
    "the package flower": find_spec("flower"),
    "the package playwright": find_spec("playwright"),
    "chromium": CHROMIUM,
}
LACKING = [what for what, found in NEEDS.items() if not found]

pytestmark = pytest.mark.skipif(bool(LACKING), reason=f"needs {', '.join(LACKING)}")

Start = Callable[..., WorkerProcess]


class Flower:
    """One `celery flower`."""

    def __init__(self, log: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.url = f"http://127.0.0.1:{free.getsockname()[1]}"
        self.log = log
        configuration = log.with_name("flowerconfig.py")
        configuration.write_text("from pgtasks.contrib import flower\n")
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "tests.kombu.theirs",
            "flower",
            "--address=127.0.0.1",
            f"--conf={configuration}",
        ]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*command, f"--port={self.url.rpartition(':')[2]}"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=REPOSITORY,
                env={**os.environ, "FLOWER_UNAUTHENTICATED_API": "true"},
            )  # fmt: skip
        eventually(self._answers, log.read_text)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urllib.request.urlopen(f"{self.url}/healthcheck") as answer:
                return bool(answer.status == 200)
        except urllib.error.URLError:
            return False


@pytest.fixture
def flower(database_url: str, tmp_path: Path) -> Iterator[Flower]:
    flower = Flower(tmp_path / "flower.log")
    yield flower
    flower.process.kill()
    flower.process.wait()


@pytest.fixture
def page() -> Iterator[Any]:
    # Imported here, since it is not there where these tests are skipped.
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(STUCK_S * 1000)
        page.on("dialog", lambda dialog: dialog.accept())
        yield page
        browser.close()


def press(page: Any, button: str, says: str) -> None:
    """Press a button of a worker's or a task's page, and wait for what Flower says came of it."""
    page.locator(f"[id='{button}']").click()
    page.locator("#toast-container .toast", has_text=says).last.wait_for()


def visit(page: Any, url: str, wanted: str) -> None:
    """Load a page until it has what Flower has yet to hear of."""

    def look() -> bool:
        page.goto(url)
        return bool(page.locator(wanted).count())

    eventually(look, wanted)


def test_flower_shows_workers_and_tasks_and_its_buttons_do_what_they_say(
    start: Start, flower: Flower, theirs: Celery, page: Any, tmp_path: Path
) -> None:
    worker = start("ours", "-E")
    stage = tmp_path / "stage"
    stage.mkdir()

    page.goto(flower.url)
    row = page.locator("#workers-table tbody tr", has_text="ours@h")
    row.locator("text=Online").wait_for()
    done = [theirs.send_task("mixed.add", (n, 1)) for n in range(3)]
    failed = theirs.send_task("mixed.fail")
    running = theirs.send_task("mixed.hold", (str(stage),))
    assert [result.get(timeout=STUCK_S) for result in done] == [1, 2, 3]
    eventually(lambda: list(stage.glob("began-*")))

    page.goto(f"{flower.url}/broker")
    ready, consumers = (page.locator("#queue-table tr#celery td").nth(n) for n in (3, 4))
    assert (ready.inner_text(), consumers.inner_text()) == ("0", "1")

    page.goto(f"{flower.url}/tasks")
    page.locator("#tasks-table tbody tr", has_text="mixed.fail").locator("text=FAILURE").wait_for()
    assert page.locator("#tasks-table tbody tr", has_text="mixed.add").count() == 3
    visit(page, f"{flower.url}/task/{failed.id}", "text=ValueError('as asked')")
    visit(page, f"{flower.url}/task/{running.id}", "#task-terminate")
    press(page, "task-terminate", "Revoked")
    eventually(lambda: running.state == "REVOKED")

    visit(page, f"{flower.url}/worker/ours@h", "#worker-pool-grow")
    press(page, "worker-pool-grow", "Pool")
    eventually(lambda: len(worker.children()) == 3)
    press(page, "worker-pool-shrink", "Pool")
    eventually(lambda: len(worker.children()) == 2)
    page.locator("#worker-tab-queues").click()
    page.locator("#add-consumer-name").fill("added")
    press(page, "worker-add-consumer", "add consumer added")
    assert theirs.send_task("mixed.who", queue="added").get(timeout=STUCK_S) == "ours@h"
    page.locator("#worker-tab-limits").click()
    page.locator("tr", has=page.locator("[id='task-rate-limit-mixed.add']")).locator("input").first.fill("7")
    press(page, "task-rate-limit-mixed.add", "new rate limit set successfully")
    page.locator("tr", has=page.locator("[id='task-timeout-soft-mixed.add']")).locator("input").last.fill("9")
    press(page, "task-timeout-soft-mixed.add", "time limits set successfully")
    # A worker that was slow to tell its queues has none on the page.
    visit(page, f"{flower.url}/worker/ours@h", "[id='worker-cancel-consumer-celery']")
    page.locator("#worker-tab-queues").click()
    press(page, "worker-cancel-consumer-celery", "no longer consuming from celery")
    page.locator("#worker-group").click()
    press(page, "worker-shutdown", "Shutting down")

    assert worker.join() == 0
    page.goto(flower.url)
    page.locator("#workers-table tbody tr", has_text="ours@h").locator("text=Offline").wait_for()


def test_a_flower_that_was_killed_leaves_nothing_behind_for_long(
    start: Start, flower: Flower, theirs: Celery, conn: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    start("ours", "-E")
    eventually(lambda: rows(conn, "listener"))
    theirs.send_task("mixed.add", (1, 1)).get(timeout=STUCK_S)

    flower.process.send_signal(signal.SIGKILL)
    flower.process.wait()
    conn.execute("UPDATE pgtasks.listener SET seen_at = seen_at - interval '16 seconds'")
    kept = rows(conn, "event")
    for n in range(3):
        theirs.send_task("mixed.add", (n, 1)).get(timeout=STUCK_S)
    assert rows(conn, "event") <= kept + 1
    conn.execute("UPDATE pgtasks.mailbox SET seen_at = seen_at - interval '10 minutes'")
    conn.execute("UPDATE pgtasks.listener SET seen_at = seen_at - interval '10 minutes'")
    killed = conn.execute("SELECT array_agg(id) FROM pgtasks.listener").fetchone()
    # Whoever listens next tidies up, if it is some time since that was done, and no worker of ours does it before.
    monkeypatch.setattr(link, "_swept_at", float("-inf"))
    with theirs.connection_for_read() as connection:
        theirs.events.Receiver(connection, app=theirs).queue(connection.default_channel).declare()

    assert conn.execute("SELECT FROM pgtasks.event WHERE listener = ANY (%s)", killed).fetchall() == []
    lost = "SELECT FROM pgtasks.mail WHERE mailbox NOT IN (SELECT name FROM pgtasks.mailbox)"
    assert conn.execute(lost).fetchall() == []
