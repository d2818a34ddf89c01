"""Every setting there is, with default, type, old-style name, and what pgtasks does with it.

These are Celery's settings, all of them, and a few of our own (marked). A setting is honoured, accepted
without effect (`_none`, with the reason; `_later`, if that is to change) or refused; its line here says
which, and `docs/settings.md` is made from these lines. The settings that only concern other brokers and
result stores are in `pgtasks.app.foreign`.
"""

from datetime import timedelta
from functools import cache
from typing import Any, NamedTuple

from pgtasks.app.foreign import FOREIGN
from pgtasks.app.option import Effect, Namespace, Option, flatten

__all__ = ("DEFAULTS", "NAMESPACES", "OPTIONS", "SETTING_KEYS", "Effect", "Option", "find", "flatten")

DEFAULT_POOL = "prefork"
DEFAULT_ACCEPT_CONTENT = ("json",)
DEFAULT_PROCESS_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
DEFAULT_SECURITY_DIGEST = "sha256"

_CONNECTION = "pgtasks has no broker connection; the database's behaviour is set in its URL."
_POOLED = "Each process opens the few database connections it needs."
_CLASS = "The class is pgtasks' own."
_WAKE_UP = "Results are rows, not messages."
_SQLALCHEMY = "pgtasks does not use SQLAlchemy."
_ROWS = "Queues are rows, not something to be declared."
_SIGNING = "Messages are not signed: who may write to the database is Postgres' business."
_INTERNAL = "The worker takes care of this itself."


def _none(default: Any, type: str, why: str, **more: Any) -> Option:
    return Option(default, type, why, effect=Effect.NONE, **more)


def _later(default: Any, type: str, doc: str, **more: Any) -> Option:
    return Option(default, type, doc, effect=Effect.PENDING, **more)


def _own(default: Any, type: str, doc: str) -> Option:
    return Option(default, type, doc, own=True)


NAMESPACES: dict[str, Any] = {
    **Namespace(
        "CELERY_{}",
        accept_content=Option(DEFAULT_ACCEPT_CONTENT, "list", "Serializers whose tasks this worker decodes."),
        result_accept_content=Option(
            None,
            "list",
            "Serializers whose results are decoded; default: accept_content.",
            old="RESULT_ACCEPT_CONTENT",
        ),
        enable_utc=Option(
            True,
            "bool",
            "Naive times are in UTC rather than in local time.",
            old="ENABLE_UTC",
        ),
        imports=Option((), "tuple", "Modules a worker imports."),
        include=Option((), "tuple", "More modules a worker imports."),
        timezone=Option(None, "string", "The zone crontabs and naive times are in; default: UTC."),
    ),
    "beat": Namespace(
        "CELERYBEAT_{}",
        enable_remote_control=Option(False, "bool", "Beat answers `inspect ping`, as celerybeat@host."),
        remote_control_max_tick_age=Option(
            None,
            "float",
            "Seconds without a look at the schedule after which beat does not answer; 0: it always does. Default: twice the"
            " longest time between two looks, at least 60.",
        ),
        max_loop_interval=Option(0, "float", "How many seconds beat sleeps at most; 0: the scheduler's choice."),
        schedule=Option({}, "dict", "Periodic tasks: name to entry."),
        scheduler=Option("celery.beat:PersistentScheduler", "string", "The scheduler class."),
        schedule_filename=_none("celerybeat-schedule", "string", "The schedule's state is in the database."),
        sync_every=_none(0, "int", "The schedule's state is written with every task it sends."),
        cron_starting_deadline=Option(None, "int", "A run that was due longer ago than this many seconds is left out."),
    ),
    "broker": Namespace(
        url=Option(None, "string", "The Postgres URL; empty: a private server. PGTASKS_DATABASE_URL wins."),
        read_url=_none(None, "string", "Workers and callers use one database: broker_url."),
        write_url=_none(None, "string", "Workers and callers use one database: broker_url."),
        transport=_none(None, "string", "The transport is Postgres."),
        transport_options=_none({}, "dict", "There are no visibility timeouts or priority steps to set."),
        connection_timeout=_none(4, "float", _CONNECTION),
        connection_retry=Option(
            True, "bool", "Says what broker_connection_retry_on_startup does not; a running worker always waits."
        ),
        connection_retry_on_startup=Option(
            None, "bool", "A worker that starts waits for a server that cannot be reached yet; None: broker_connection_retry."
        ),
        connection_max_retries=Option(
            100, "int", "How often a worker that starts tries again to reach the server; 0 or None: for ever."
        ),
        channel_error_retry=_none(False, "bool", _CONNECTION),
        failover_strategy=_none(None, "string", "Name several hosts in the URL; libpq tries them in turn."),
        heartbeat=_none(120, "int", "See worker_lease."),
        heartbeat_checkrate=_none(3.0, "int", "See worker_lease."),
        login_method=_none(None, "string", _CONNECTION),
        native_delayed_delivery_queue_type=_none("quorum", "string", "Tasks for later are rows with a due time."),
        pool_limit=_none(10, "int", _POOLED),
        pool_acquire_timeout=_none(None, "float", _POOLED),
        use_ssl=_none(False, "bool", "Say sslmode=require in the URL."),
        host=_none(None, "string", "Use a URL."),
        port=_none(None, "int", "Use a URL."),
        user=_none(None, "string", "Use a URL."),
        password=_none(None, "string", "Use a URL."),
        vhost=_none(None, "string", "Use a URL."),
    ),
    **{name: FOREIGN[name] for name in ("cache", "cassandra", "s3", "azureblockblob", "gcs", "control")},
    **{name: FOREIGN[name] for name in ("couchbase", "arangodb", "mongodb", "cosmosdbsql", "event", "redis")},
    "result": Namespace(
        "CELERY_RESULT_{}",
        backend=Option(None, "string", "The Postgres URL, if broker_url has none; results are where the tasks are."),
        cache_max=Option(
            -1,
            "int",
            "How many results a client keeps in memory; 0: all, -1: none.",
            old="CELERY_MAX_CACHED_RESULTS",
        ),
        compression=Option(None, "string", "Compression of results: gzip, bzip2, lzma, zstd, ..."),
        exchange=_none("celeryresults", "string", _WAKE_UP),
        exchange_type=_none("direct", "string", _WAKE_UP),
        expires=Option(
            timedelta(days=1),
            "float",
            "How long results are kept, in seconds or as a timedelta; None: forever.",
            old="CELERY_TASK_RESULT_EXPIRES",
        ),
        chord_expires=_none(None, "float", "A chord's state is part of its tasks' rows."),
        failure_expires=_later(None, "float", "How long results of failed tasks are kept; default: result_expires."),
        persistent=_none(None, "bool", "Results are always persistent."),
        extended=Option(False, "bool", "Results tell name, arguments, worker, retries and queue of the task."),
        serializer=Option("json", "string", "The serializer of results."),
        backend_transport_options=_none({}, "dict", _CONNECTION),
        chord_retry_interval=_none(1.0, "float", "A chord is released by its last task, not by polling."),
        chord_join_timeout=Option(3.0, "float", "How many seconds a chord's header may take to be read."),
        backend_max_sleep_between_retries_ms=_none(10000, "int", _CONNECTION),
        backend_max_retries=_none(float("inf"), "float", _CONNECTION),
        backend_base_sleep_between_retries_ms=_none(10, "int", _CONNECTION),
        backend_always_retry=_none(False, "bool", "Transient database failures are always retried."),
    ),
    "elasticsearch": FOREIGN["elasticsearch"],
    "security": Namespace(
        "CELERY_SECURITY_{}",
        certificate=Option(None, "string", _SIGNING, effect=Effect.REFUSED),
        cert_store=Option(None, "string", _SIGNING, effect=Effect.REFUSED),
        key=Option(None, "string", _SIGNING, effect=Effect.REFUSED),
        key_password=_none(None, "bytes", _SIGNING),
        digest=_none(DEFAULT_SECURITY_DIGEST, "string", _SIGNING),
    ),
    "database": Namespace(
        url=Option(None, "string", "The Postgres URL, before broker_url.", old="CELERY_RESULT_DBURI"),
        engine_options=_none(
            {"pool_pre_ping": True, "pool_recycle": 3600},
            "dict",
            _SQLALCHEMY,
            old="CELERY_RESULT_ENGINE_OPTIONS",
        ),
        engine_callback=_none(None, "any", _SQLALCHEMY),
        short_lived_sessions=_none(False, "bool", _SQLALCHEMY, old="CELERY_RESULT_DB_SHORT_LIVED_SESSIONS"),
        table_schemas=_none(None, "dict", "The tables are in the schema pgtasks."),
        table_names=_none(None, "dict", "The tables' names are fixed.", old="CELERY_RESULT_DB_TABLENAMES"),
        create_tables_at_setup=_none(True, "bool", "The schema installs itself; see `pgtasks db`."),
    ),
    "task": Namespace(
        "CELERY_{}",
        acks_late=Option(
            None,
            "bool",
            "False given explicitly, here or on the task: at most once, a task whose worker dies fails. "
            "Otherwise a task is acknowledged with its result, so one whose worker dies runs again.",
        ),
        acks_on_failure_or_timeout=Option(
            True,
            "bool",
            "What the two below are unless they are given.",
            deprecated="Use task_acks_on_failure and task_acks_on_timeout.",
        ),
        acks_on_failure=_none(None, "bool", "A failed task is over; there are no dead-letter exchanges."),
        acks_on_timeout=Option(
            None,
            "bool",
            "False, with acks_late: a task past its hard time limit runs again, up to task_max_deliveries.",
        ),
        always_eager=Option(False, "bool", "Run tasks in place instead of sending them: for tests."),
        annotations=Option(None, "any", "Changes to tasks' attributes, by task name or for all."),
        compression=Option(
            None,
            "string",
            "Compression of arguments: gzip, bzip2, lzma, zstd, ...",
            old="CELERY_MESSAGE_COMPRESSION",
        ),
        create_missing_queues=Option(True, "bool", "Queues need not be named in task_queues."),
        create_missing_queue_type=_none("classic", "string", _ROWS),
        create_missing_queue_exchange_type=_none(None, "string", _ROWS),
        inherit_parent_priority=Option(False, "bool", "A task's children have its priority."),
        default_delivery_mode=_none(2, "string", "Every task is persistent."),
        default_queue=Option("celery", "string", "The queue of tasks that name none."),
        default_queue_type=_none("classic", "string", _ROWS),
        default_exchange=Option(None, "string", "The exchange routes see; default: task_default_queue."),
        default_exchange_type=Option("direct", "string", "The exchange type of declared queues that have none."),
        default_routing_key=Option(None, "string", "The routing key routes see; default: task_default_queue."),
        default_rate_limit=Option(None, "string", "Tasks started per worker, as in '10/m'."),
        default_priority=Option(None, "int", "The priority of tasks that name none; more is sooner."),
        eager_propagates=Option(
            False,
            "bool",
            "Tasks run in place raise their exceptions at once.",
            old="CELERY_EAGER_PROPAGATES_EXCEPTIONS",
        ),
        ignore_result=Option(False, "bool", "Tasks store no result."),
        store_eager_result=Option(False, "bool", "Tasks run in place store their results."),
        protocol=_none(2, "int", "Tasks are rows.", old="CELERY_TASK_PROTOCOL"),
        publish_retry=_none(
            True,
            "bool",
            "A call waits some seconds for a database that does not answer, whatever this says.",
            old="CELERY_TASK_PUBLISH_RETRY",
        ),
        publish_retry_policy=_none(
            {"max_retries": 3, "interval_start": 0, "interval_max": 1, "interval_step": 0.2},
            "dict",
            "See task_publish_retry.",
            old="CELERY_TASK_PUBLISH_RETRY_POLICY",
        ),
        queues=Option(None, "dict", "The queues that a worker consumes by default, and their routing keys."),
        queue_max_priority=_none(None, "int", "Priorities need no declaration."),
        reject_on_worker_lost=Option(
            None,
            "bool",
            "False given explicitly, here or on the task: a task whose process dies fails. "
            "Otherwise it is delivered again, up to task_max_deliveries.",
        ),
        retry_on_worker_lost=Option(
            False, "bool", "A task whose process dies is retried, after its default_retry_delay, up to its max_retries."
        ),
        remote_tracebacks=Option(False, "bool", "Exceptions carry the worker's traceback (needs tblib)."),
        repr_maxlevels=_later(3, "int", "How deep arguments are shown in logs and monitors."),
        routes=Option(None, "any", "Which task goes to which queue."),
        send_sent_event=Option(False, "bool", "Callers send a task-sent event.", old="CELERY_SEND_TASK_SENT_EVENT"),
        serializer=Option("json", "string", "The serializer of arguments.", old="CELERY_TASK_SERIALIZER"),
        soft_time_limit=Option(
            None,
            "float",
            "Seconds until SoftTimeLimitExceeded is raised in a task.",
            old="CELERYD_TASK_SOFT_TIME_LIMIT",
        ),
        time_limit=Option(None, "float", "Seconds until a task's process is killed.", old="CELERYD_TASK_TIME_LIMIT"),
        store_errors_even_if_ignored=Option(False, "bool", "Errors are stored even with ignore_result."),
        track_started=Option(False, "bool", "Tasks show STARTED while they run."),
        allow_error_cb_on_chord_header=Option(
            False, "bool", "A chord's link_error applies to each task of its header as well."
        ),
        max_deliveries=_own(5, "int", "A task that was lost this many times fails with WorkerLostError."),
        join_transaction=_own(
            True,
            "any",
            "Calls within Django's atomic() are part of it, if its database holds the tasks: True, an alias, or False.",
        ),
    ),
    "worker": Namespace(
        "CELERYD_{}",
        agent=_none(None, "string", _CLASS),
        autoscaler=_none("celery.worker.autoscale:Autoscaler", "string", _CLASS),
        cancel_long_running_tasks_on_connection_loss=_none(
            False,
            "bool",
            "A worker that cannot renew its lease always stops its tasks, since others take over.",
        ),
        soft_shutdown_timeout=Option(
            0.0, "float", "Seconds running tasks may still take after a second signal to stop."
        ),
        enable_soft_shutdown_on_idle=_none(
            False, "bool", "An idle worker holds nothing that it would have to give back, so it ends at once."
        ),
        concurrency=Option(None, "any", "How many tasks run at a time; default or 'auto': the number of CPUs."),
        consumer=_none("celery.worker.consumer:Consumer", "string", _CLASS),
        direct=Option(False, "bool", "Every worker has a queue of its own.", old="CELERY_WORKER_DIRECT"),
        disable_rate_limits=Option(False, "bool", "Rate limits are not applied.", old="CELERY_DISABLE_RATE_LIMITS"),
        deduplicate_successful_tasks=_none(False, "bool", "A task that has a result is never run again."),
        enable_remote_control=Option(
            True, "bool", "The worker obeys remote control.", old="CELERY_ENABLE_REMOTE_CONTROL"
        ),
        hijack_root_logger=Option(True, "bool", "The worker removes the handlers of the root logger."),
        log_color=Option(None, "bool", "Log in colour; default: on a terminal."),
        log_datefmt=Option(None, "string", "The date format of the log."),
        log_format=Option(
            DEFAULT_PROCESS_LOG_FMT, "string", "The format of the log of workers and schedulers; json: an object per line."
        ),
        lost_wait=_none(10.0, "float", _INTERNAL, old="CELERYD_WORKER_LOST_WAIT"),
        max_memory_per_child=Option(None, "int", "KiB a process may use before it is replaced."),
        max_tasks_per_child=Option(None, "int", "Tasks a process runs before it is replaced."),
        pool=Option(DEFAULT_POOL, "string", "How tasks run: prefork, threads, aio, gevent or solo."),
        pool_putlocks=_none(True, "bool", _INTERNAL),
        pool_restarts=Option(False, "bool", "The pool_restart command is allowed."),
        pool_start_method=_later("fork", "string", "How processes are made: fork, spawn or forkserver."),
        proc_alive_timeout=_later(4.0, "float", "Seconds a new process may take until it is ready."),
        prefetch_multiplier=_later(4, "int", "Tasks claimed ahead per slot at most; 0: as many as pay off."),
        eta_task_limit=_none(None, "int", "Tasks for later wait in the database, not in the worker."),
        enable_prefetch_count_reduction=_none(True, "bool", _INTERNAL),
        disable_prefetch=_later(False, "bool", "Claim a task only when a slot is free."),
        redirect_stdouts=Option(True, "bool", "What tasks print goes to the log.", old="CELERY_REDIRECT_STDOUTS"),
        redirect_stdouts_level=Option(
            "WARNING", "string", "The level it is logged at.", old="CELERY_REDIRECT_STDOUTS_LEVEL"
        ),
        send_task_events=Option(False, "bool", "The worker sends task events.", old="CELERY_SEND_EVENTS"),
        state_db=_none(None, "string", "Revoked tasks are in the database."),
        task_log_datefmt=Option(None, "string", "The date format of tasks' log lines."),
        task_log_format=Option(DEFAULT_TASK_LOG_FMT, "string", "The format of tasks' log lines."),
        timer=_none(None, "string", _CLASS),
        timer_precision=_none(1.0, "float", _INTERNAL),
        detect_quorum_queues=_none(True, "bool", _ROWS),
        lease=_own(
            20.0,
            "float",
            "Seconds without a heartbeat (sent every quarter of this) after which a worker counts as dead.",
        ),
    ),
}

OPTIONS: dict[str, Option] = dict(flatten(NAMESPACES))
DEFAULTS: dict[str, Any] = {key: option.default for key, option in OPTIONS.items()}
SETTING_KEYS = frozenset(OPTIONS)

_TO_OLD_KEY = {key: option.old or key.upper() for key, option in OPTIONS.items()}
_TO_NEW_KEY = {old: key for key, old in _TO_OLD_KEY.items()}
_OLD_DEFAULTS = {old: DEFAULTS[key] for old, key in _TO_NEW_KEY.items()}
_OLD_SETTING_KEYS = frozenset(_TO_NEW_KEY)


class searchresult(NamedTuple):
    """Where a setting was found."""

    namespace: str | None
    key: str
    type: Any


@cache
def find(name: str, namespace: str = "celery") -> searchresult:
    """Find a setting by its full name, or its name in a namespace, `namespace` being tried first.

    The name of a namespace finds that. Raises KeyError if there is nothing of that name.
    """
    name, namespace = name.lower(), namespace.lower()
    preferred = NAMESPACES.get(namespace)
    if isinstance(preferred, dict) and name in preferred:
        return searchresult(namespace, name, preferred[name])
    for space, options in NAMESPACES.items():
        if space == name:
            return searchresult(None, space, options)
        if isinstance(options, dict) and name in options:
            return searchresult(space, name, options[name])
    return searchresult(None, name, OPTIONS[name])
