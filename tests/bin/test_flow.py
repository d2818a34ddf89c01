"""flow and queue: limits seen and changed from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pgtasks.app.discovery import find_app
from pgtasks.message import Limits
from pgtasks.store import flows
from tests.bin.conftest import Command


@pytest.fixture
def app(project: str, database_url: str) -> Any:
    app = find_app(project)
    app.database.run(flows.declare("mail", Limits(True, 2, None, None, None, None, None)))
    return app


def test_flows_are_listed_and_limited_by_hand_until_they_are_reset(command: Command, app: Any, project: str) -> None:
    flow = "-A", project, "flow"
    assert command(*flow, "list").stdout == "mail: concurrency 2, keys in turn; 0 let in, 0 held\n"

    assert command(*flow, "limit", "mail", "--rate", "10/m").stdout == (
        "The flow mail is limited to: rate 10/60s, keys in turn.\n"
    )
    (row,) = json.loads(command(*flow, "list", "--json").stdout)
    assert (row["rate"], row["period_s"], row["concurrency"], row["is_set_by_hand"]) == (10, 60.0, None, True)

    assert "goes by its code" in command(*flow, "reset", "mail").stdout
    assert command(*flow, "reset", "mail").exit_code == 2


def test_a_queue_is_limited_and_unlimited(command: Command, app: Any, project: str) -> None:
    queue = "-A", project, "queue"
    assert command(*queue, "limits").stdout == "- empty -\n"

    limited = command(*queue, "limit", "mail", "--concurrency", 4, "--per-worker", 1, "--rate", "3/30s")

    assert limited.stdout == "The queue mail is limited to: concurrency 4, per worker 1, rate 3/30s.\n"
    assert command(*queue, "limits").stdout == "mail: concurrency 4, per worker 1, rate 3/30s; 0 claimed\n"
    assert json.loads(command(*queue, "limits", "--json").stdout)[0]["per_worker"] == 1
    assert command(*queue, "unlimit", "mail").stdout == "The queue mail is limited no more.\n"
    assert command(*queue, "unlimit", "mail").stdout == "The queue mail was not limited.\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["queue", "limit", "mail"], "Give a --concurrency"),
        (["queue", "limit", "mail", "--concurrency", "-1"], "not a whole number, 0 or more"),
        (["queue", "limit", "mail", "--rate", "often"], "is not understood"),
        (["flow", "limit", "nobody", "--concurrency", "1"], "There are: mail"),
        (["flow", "limit", "mail", "--concurrency", "0"], "1 or more"),
    ],
)
def test_nonsense_is_refused_with_what_to_write(
    command: Command, app: Any, project: str, words: list[str], complaint: str, tmp_path: Path
) -> None:
    said = command("-A", project, *words)

    assert said.exit_code == 2
    assert complaint in said.stderr
