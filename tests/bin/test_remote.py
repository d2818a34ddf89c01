"""inspect, control and status, asking a worker: what they print, byte for byte, is what Celery's print."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks.app.discovery import find_app
from pgtasks.contrib.testing.worker import TestWorkController, start_worker
from pgtasks.message import new_id
from pgtasks.worker import state
from pgtasks.worker.panel import Panel, inspect_command
from tests.bin.conftest import Command

pytestmark = pytest.mark.usefixtures("only_built_in_tasks")

NODE = "w1@h"
Conn = psycopg.Connection[Any]


@pytest.fixture
def app(project: str, database_url: str) -> Any:
    return find_app(project)


@pytest.fixture
def worker(app: Any) -> Iterator[TestWorkController]:
    state.reset_state()
    with start_worker(app, pool="prefork", hostname=NODE, perform_ping_check=False) as worker:
        yield worker


@pytest.mark.parametrize(
    ("line", "printed"),
    [
        ("inspect ping", f"->  {NODE}: OK\n        pong\n\n1 node online.\n"),
        ("inspect ping -j", f'{{"{NODE}": {{"ok": "pong"}}}}\n'),
        ("inspect -d w1@h ping", f"->  {NODE}: OK\n        pong\n\n1 node online.\n"),
        ("-q inspect ping", f" {NODE}: OK\n        pong\n"),
        ("status", f"->  {NODE}: OK\n\n1 node online.\n"),
        ("status --json", f'{{"{NODE}": {{"ok": "pong"}}}}\n'),
        ("inspect active", f"->  {NODE}: OK\n    - empty -\n\n1 node online.\n"),
        ("inspect registered", f"->  {NODE}: OK\n    * PROJ.add\n\n1 node online.\n"),
        ("inspect query_task a b", f"->  {NODE}: OK\n    {{}}\n\n1 node online.\n"),
        ("inspect revoked", f"->  {NODE}: OK\n    - empty -\n\n1 node online.\n"),
        ("control time_limit PROJ.add 1 2", f"->  {NODE}: OK\n        time limits set successfully\n"),
        ("control rate_limit PROJ.add 10/m", f"->  {NODE}: OK\n        new rate limit set successfully\n"),
        ("control rate_limit PROJ.nope 10/m", f"->  {NODE}: ERROR\n        unknown task\n"),
        ("control autoscale 3 1", f"->  {NODE}: ERROR\n        ValueError('Autoscale not enabled')\n"),
        ("control pool_restart", f"->  {NODE}: ERROR\n        ValueError('Pool restarts not enabled')\n"),
        ("control add_consumer q2", f"->  {NODE}: OK\n        add consumer q2\n"),
        ("control cancel_consumer q2", f"->  {NODE}: OK\n        no longer consuming from q2\n"),
        ("control -j pool_grow", f'[{{"{NODE}": {{"ok": "pool will grow"}}}}]\n'),
        ("control revoke abc", f"->  {NODE}: OK\n        tasks {{'abc'}} flagged as revoked\n"),
        ("control terminate SIGTERM abc", f"->  {NODE}: OK\n        terminate: tasks unknown\n"),
        (
            "control revoke_by_stamped_headers a=b",
            f"->  {NODE}: OK\n        headers {{'a': 'b'}} flagged as revoked, but not terminated\n",
        ),
        ("control heartbeat", f"->  {NODE}: OK\n    None\n"),
    ],
)
def test_what_is_printed_is_what_celery_prints(
    command: Command, worker: TestWorkController, project: str, line: str, printed: str
) -> None:
    result = command("-C", "-A", project, *line.replace("PROJ", project).split())

    assert result.stdout == printed.replace("PROJ", project)
    assert result.exit_code == 0


@pytest.mark.parametrize("line", ["inspect ping", "inspect ping --json", "status", "status -j", "control pool_grow"])
def test_when_nobody_replies_nothing_is_printed_and_the_status_is_that_of_unavailable(
    command: Command, app: Any, project: str, line: str
) -> None:
    result = command("-A", project, *line.split())

    assert (result.exit_code, result.stdout) == (69, "")
    assert result.stderr == "Error: No nodes replied within time constraint\n"


@pytest.mark.parametrize("line", ["inspect ping", "status"])
def test_a_health_check_of_another_node_than_those_that_live_fails(
    command: Command, worker: TestWorkController, project: str, line: str
) -> None:
    assert command("-A", project, *line.split(), "-d", "other@h").exit_code == 69


def test_a_worker_that_hangs_is_not_healthy_whatever_its_lease_says(
    command: Command, app: Any, project: str, conn: Conn
) -> None:
    conn.execute(
        "INSERT INTO pgtasks.worker (id, hostname, machine, pid, pool, concurrency, queues, version, lease)"
        " VALUES (gen_random_uuid(), 'hung@h', 'h', 1, 'prefork', 1, '{celery}', '1', '20 s')"
    )

    assert command("-A", project, "status", "-t", "0.1").exit_code == 69
    assert command("-A", project, "inspect", "ping", "-t", "0.1").exit_code == 69


def test_a_task_is_revoked_although_no_worker_hears_of_it(command: Command, app: Any, project: str, conn: Conn) -> None:
    waiting = app.tasks[f"{project}.add"].delay(1, 2)

    result = command("-A", project, "control", "revoke", waiting.id)

    assert result.exit_code == 69
    assert "The revocation is stored in the database" in result.stderr
    assert conn.execute("SELECT id FROM pgtasks.revoked").fetchall() == [(waiting.id and _uuid(waiting.id),)]


def _uuid(text: str) -> Any:
    return type(new_id())(text)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("inspect nonsense", "Command nonsense not recognized. Available inspect commands: active, active_queues,"),
        ("control ping", "Command ping not recognized. Available control commands: add_consumer, autoscale,"),
        ("control pool_grow 1 2", "Command 'pool_grow' takes arguments: [N=1]"),
        ("control pool_grow many", "n='many' does not fit"),
        ("control terminate FOO 1", "signal='FOO' does not fit: There is no signal 'FOO' here."),
        ("control terminate", "Command 'terminate' takes arguments: <signal> [id1"),
    ],
)
def test_a_command_that_is_mistyped_reaches_nobody(
    command: Command, worker: TestWorkController, project: str, line: str, reason: str
) -> None:
    result = command("-A", project, *line.split())

    assert result.exit_code == 2
    assert reason in " ".join(result.stderr.split())


def test_commands_of_the_app_are_listed_and_can_be_given(
    command: Command, worker: TestWorkController, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Panel, "meta", dict(Panel.meta))
    monkeypatch.setattr(Panel, "data", dict(Panel.data))

    @inspect_command(args=[("n", int)], signature="[N=1]")
    def doubled(state: Any, n: int = 1) -> Any:
        """Twice a number."""
        return {"twice": 2 * n}

    listed = command("-A", project, "inspect", "--list")
    answered = command("-A", project, "inspect", "doubled", "21", "--json")

    assert "doubled [N=1]" in listed.stdout
    assert "Twice a number." in listed.stdout
    assert json.loads(answered.stdout) == {NODE: {"twice": 42}}


def test_memory_is_sampled_and_the_samples_are_told_once(
    command: Command, worker: TestWorkController, project: str
) -> None:
    sampled = json.loads(command("-A", project, "inspect", "memsample", "--json").stdout)[NODE]
    first = json.loads(command("-A", project, "inspect", "memdump", "--json").stdout)[NODE]
    second = json.loads(command("-A", project, "inspect", "memdump", "--json").stdout)[NODE]

    assert f"- rss (sample): {sampled}.\n- rss (end): " in first
    assert second.startswith("- rss (end): ")


def test_an_election_has_one_task_run_whoever_sends_it(app: Any, project: str, conn: Conn) -> None:
    with start_worker(app, pool="prefork", hostname="a@h", perform_ping_check=False):
        app.control.election("chosen", "task", app.tasks[f"{project}.add"].s(1, 2))
        app.control.election("chosen", "task", app.tasks[f"{project}.add"].s(1, 2))

        assert app.AsyncResult("chosen").get(timeout=60) == 3

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (1,)
