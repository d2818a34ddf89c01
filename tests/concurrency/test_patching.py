"""When the standard library is patched for greenlets: before anything else, and only where the pool asks for it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pgtasks.concurrency.patching import pool_asked_for


@pytest.mark.parametrize(
    ("line", "environ", "pool"),
    [
        ("-A proj worker -P gevent", {}, "gevent"),
        ("-A proj worker -Pgevent", {}, "gevent"),
        ("worker --pool gevent -c 5", {}, "gevent"),
        ("worker --pool=gevent", {"PGTASKS_WORKER_POOL": "solo"}, "gevent"),
        ("worker", {"PGTASKS_WORKER_POOL": "gevent"}, "gevent"),
        ("worker", {"CELERY_WORKER_POOL": "gevent"}, "gevent"),
        ("beat", {"PGTASKS_WORKER_POOL": "gevent"}, None),
        ("worker -P threads", {"PGTASKS_WORKER_POOL": "gevent"}, "threads"),
        ("worker --pool-start-method fork", {}, None),
        ("worker -P", {}, None),
        ("worker", {}, None),
    ],
)
def test_the_pool_is_found_where_the_command_line_will_find_it(
    line: str, environ: dict[str, str], pool: str | None
) -> None:
    assert pool_asked_for(["pgtasks", *line.split()], environ) == pool


def told(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_psycopg_is_imported_after_the_patch_so_that_its_waits_let_others_run() -> None:
    pytest.importorskip("gevent", reason="the gevent pool is an extra: pip install 'pgtasks[gevent]'")
    program = (
        "import sys; sys.argv = ['pgtasks', 'worker', '-P', 'gevent', '--help']\n"
        "import pgtasks.__main__, atexit\n"
        "def tell():\n"
        "    from psycopg import waiting; print('waits by', waiting.wait.__name__)\n"
        "atexit.register(tell)\n"
        "pgtasks.__main__.main()"
    )

    said = told(program)

    assert "waits by wait_poll" in said.stdout or "waits by wait_select" in said.stdout, said


def test_a_worker_that_was_not_patched_in_time_says_how_it_would_have_been() -> None:
    pytest.importorskip("gevent", reason="the gevent pool is an extra: pip install 'pgtasks[gevent]'")

    said = told("import pgtasks.concurrency.gevent")

    assert "pgtasks worker -P gevent" in said.stderr.splitlines()[-1]


def test_without_gevent_a_worker_says_what_to_install() -> None:
    said = told("import sys; sys.modules['gevent'] = None; import pgtasks.concurrency.gevent")

    assert "pip install 'pgtasks[gevent]'" in said.stderr.splitlines()[-1]
