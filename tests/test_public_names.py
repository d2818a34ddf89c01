"""Every public name of Celery is here, or declared to be absent: in `aliases.ABSENT`, if it is a module, or below."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from pgtasks.aliases import ABSENT, CELERY_VERSION

#: Names that are absent, by the reason; modules as `module:names`, attributes of objects as `Class():names`.
DECLARED = {
    "Python 2, or releases of Celery before 4": """
        celery: execute log messaging registry
        Celery.conf(): iteritems iterkeys itervalues
        celery.utils.abstract: CallableSignature CallableTask
    """,
    "messages are made and sent by a broker's client, and there is none": """
        celery.app.amqp: task_message
        celery.utils.threads: bound_open_broker_sockets
        Celery.amqp(): BrokerConnection Connection Consumer Producer TaskConsumer as_task_v1 as_task_v2
        Celery.amqp(): create_task_message producer_pool publisher_pool send_task_message task_protocols utc
        Celery.control(): Mailbox mailbox
    """,
    "how a store of keys and values, or one that polls, keeps results and counts chords": """
        Celery.backend(): Client add_to_chord always_retry apply_chord backend base_sleep_between_retries_ms
        Celery.backend(): chord_error_from_stack chord_expires chord_keyprefix client content_encoding content_type
        Celery.backend(): decode decode_result delete encode encoder exception_safe_to_retry expire
        Celery.backend(): fallback_chord_unlock get get_key_for_chord get_key_for_group get_key_for_task
        Celery.backend(): group_keyprefix implements_incr incr key_t max_retries max_sleep_between_retries_ms
        Celery.backend(): meta_from_decoded mget on_backend_retryable_error on_chord_part_return on_task_call
        Celery.backend(): options prepare_compression prepare_expires prepare_persistent reload_group_result
        Celery.backend(): retry_policy servers set set_chord_size subpolling_interval supports_failure_expires
        Celery.backend(): task_keyprefix thread_safe url
        chain(): prepare_steps
        chord(): run
    """,
    "the inside of a worker, which is another one here": """
        celery.app.trace: TraceInfo reset_worker_optimizations setup_worker_optimizations trace_task
        celery.bootsteps: Blueprint
        celery.concurrency: get_available_pool_names get_implementation
        celery.concurrency.base: BasePool apply_target
        celery.concurrency.prefork: TaskPool process_destructor process_initializer
        celery.concurrency.solo: TaskPool
        celery.concurrency.thread: TaskPool
        celery.worker.autoscale: WorkerComponent
        celery.worker.consumer.consumer: Evloop dump_body
        celery.worker.state: Persistent merge_revoked task_accepted task_ready task_reserved task_scheduled
        Celery(): use_fast_trace_task
        Task(): start_strategy
    """,
    "the inside of commands": """
        celery.app.utils: appstr sanitize_url
        celery.bin.base: handle_remote_command_error consume_preload_options
        celery.bin.multi: MultiTool
        celery.bin.worker: AUTOSCALE CELERY_BEAT CeleryBeat HOSTNAME WORKERS_POOL WorkersPool detach
    """,
    "the operating system's matters, for which Python has better names by now": """
        celery.platforms: DaemonContext SIGMAP detached fd_by_path get_fdmax initgroups setgid
        celery.platforms: setgroups setuid signals
        celery.utils.sysinfo: AUTO_CONCURRENCY df is_auto_concurrency
        celery.utils.threads: Local LocalManager bgThread default_socket_timeout get_ident
        Celery(): IS_WINDOWS IS_macOS SYSTEM
    """,
    "helpers that nobody but Celery has a use for": """
        celery.utils.collections: BufferMap Evictable Messagebuffer
        celery.utils.graph: DOT
        celery.utils.saferepr: reprstream
        Signal(): sender_receivers_cache
        events.State(): task_event worker_event
    """,
}


def declared() -> set[str]:
    lines = [line.split(":", 1) for text in DECLARED.values() for line in text.splitlines() if line.strip()]
    return {f"{owner.strip()}:{name}" for owner, names in lines for name in names.split()}


def is_in_an_absent_module(name: str) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in ABSENT)


def told(*arguments: str) -> str:
    # Neither an app's settings nor a database are looked at.
    environ = {key: value for key, value in os.environ.items() if key != "PGTASKS_DATABASE_URL"}
    command = [sys.executable, "-m", "tests.public_names", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environ, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(version("celery") != CELERY_VERSION, reason="another release of Celery has other names")
def test_no_public_name_of_celery_is_missing_without_being_declared_and_none_is_declared_that_is_there(
    tmp_path: Path,
) -> None:
    asked = tmp_path / "names.json"
    asked.write_text(told())

    missing = json.loads(told("--as-celery", str(asked)))

    names = {f"{owner}:{name}" for owner, names in json.loads(asked.read_text()).items() for name in names}
    assert sorted(name for name in missing if name not in declared() and not is_in_an_absent_module(name)) == []
    assert sorted((declared() & names) - set(missing)) == []


def test_modules_that_are_declared_absent_are_and_say_why() -> None:
    program = f"""
import importlib, pgtasks
pgtasks.install_as_celery()
for name in {sorted(ABSENT)!r}:
    try:
        importlib.import_module(name if name != "celery.backends" else "celery.backends.redis")
    except ModuleNotFoundError as error:
        print(error)
try:
    from celery.backends import redis
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    lines = done.stdout.splitlines()
    assert len(lines) == len(ABSENT) + 1, done.stderr
    assert all(line.startswith("There is no celery.") and " in pgtasks: " in line for line in lines)
    assert lines[-1] == f"There is no celery.backends.redis in pgtasks: {ABSENT['celery.backends']}"
