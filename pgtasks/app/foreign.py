"""Settings that mean something to Celery's brokers and result stores, and nothing to Postgres.

They are accepted, keep Celery's defaults and can be read, so that a project's settings move over unedited.
Each group says why its settings have no effect.
"""

from typing import Any

from pgtasks.app.option import Effect, Namespace, Option

__all__ = ("FOREIGN", "inert")


def inert(reason: str, old: str = "", **settings: Any) -> dict[str, Option]:
    """Make settings without effect from pairs of default and type."""
    options = {key: Option(default, kind, reason, effect=Effect.NONE) for key, (default, kind) in settings.items()}
    return Namespace(old, **options)


def _store(name: str, old: str = "", **settings: Any) -> dict[str, Option]:
    return inert(f"Results are in Postgres, not in {name}.", old, **settings)


FOREIGN: dict[str, dict[str, Option]] = {
    "cache": _store("a cache", "CELERY_CACHE_{}", backend=(None, "string"), backend_options=({}, "dict")),
    "cassandra": _store(
        "Cassandra",
        entry_ttl=(None, "float"),
        keyspace=(None, "string"),
        port=(None, "string"),
        read_consistency=(None, "string"),
        servers=(None, "list"),
        bundle_path=(None, "string"),
        table=(None, "string"),
        write_consistency=(None, "string"),
        auth_provider=(None, "string"),
        auth_kwargs=(None, "string"),
        options=({}, "dict"),
    ),
    "s3": _store(
        "S3",
        access_key_id=(None, "string"),
        secret_access_key=(None, "string"),
        bucket=(None, "string"),
        base_path=(None, "string"),
        endpoint_url=(None, "string"),
        region=(None, "string"),
    ),
    "azureblockblob": _store(
        "Azure",
        container_name=("celery", "string"),
        retry_initial_backoff_sec=(2, "int"),
        retry_increment_base=(2, "int"),
        retry_max_attempts=(3, "int"),
        base_path=("", "string"),
        connection_timeout=(20, "int"),
        read_timeout=(120, "int"),
    ),
    "gcs": _store(
        "Google Cloud",
        bucket=(None, "string"),
        project=(None, "string"),
        base_path=("", "string"),
        ttl=(0, "float"),
    ),
    "control": inert(
        "Remote control commands are rows, not messages in queues of their own.",
        queue_ttl=(300.0, "float"),
        queue_expires=(10.0, "float"),
        queue_exclusive=(True, "bool"),
        queue_durable=(False, "bool"),
        exchange=("celery", "string"),
    ),
    "couchbase": _store("Couchbase", "CELERY_COUCHBASE_{}", backend_settings=(None, "dict")),
    "arangodb": _store("ArangoDB", "CELERY_ARANGODB_{}", backend_settings=(None, "dict")),
    "mongodb": _store("MongoDB", "CELERY_MONGODB_{}", backend_settings=(None, "dict")),
    "cosmosdbsql": _store(
        "Cosmos DB",
        database_name=("celerydb", "string"),
        collection_name=("celerycol", "string"),
        consistency_level=("Session", "string"),
        max_retry_attempts=(9, "int"),
        max_retry_wait_time=(30, "int"),
    ),
    "event": inert(
        "Events are rows, not messages in queues of their own.",
        "CELERY_EVENT_{}",
        queue_expires=(60.0, "float"),
        queue_ttl=(5.0, "float"),
        queue_prefix=("celeryev", "string"),
        queue_exclusive=(True, "bool"),
        queue_durable=(False, "bool"),
        serializer=("json", "string"),
        exchange=("celeryev", "string"),
    ),
    "redis": _store(
        "Redis",
        "CELERY_REDIS_{}",
        backend_use_ssl=(None, "dict"),
        db=(None, "int"),
        host=(None, "string"),
        max_connections=(None, "int"),
        username=(None, "string"),
        password=(None, "string"),
        port=(None, "int"),
        socket_timeout=(120.0, "float"),
        socket_connect_timeout=(None, "float"),
        retry_on_timeout=(False, "bool"),
        socket_keepalive=(False, "bool"),
    ),
    "elasticsearch": _store(
        "Elasticsearch",
        "CELERY_ELASTICSEARCH_{}",
        retry_on_timeout=(None, "bool"),
        max_retries=(None, "int"),
        timeout=(None, "float"),
        save_meta_as_text=(True, "bool"),
    ),
}
