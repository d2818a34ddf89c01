"""Write results of moved tasks to Celery's Redis result store, for callers that still wait there.

A key per task, with Celery's JSON, and a message to whoever waits for it. A result that was written twice is the same one, so a
crash between writing and forgetting costs nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from kombu.connection import Connection

from pgtasks.serialization import decode, encode
from pgtasks.store import moving
from pgtasks.store.database import Database, backoff
from pgtasks.store.moving import Due
from pgtasks.utils.log import get_logger

__all__ = ("Results",)

logger = get_logger("celery.bridge")

_LIMIT = 1000
_PAUSE_S = 0.5
#: Looking may take this share of the time.
_SHARE = 10


class Results:
    """Copies results that are owed into the Redis at `url`."""

    def __init__(self, app: Any, database: Database, url: str, *, key_prefix: str = "") -> None:
        self.database = database
        self.written = 0
        self._url = url
        self._prefix = f"{key_prefix}celery-task-meta-"
        self._serializer: str = app.conf.result_serializer
        self._accept = app.backend.accept
        expires = app.conf.result_expires
        self._expires_s = None if not expires else int(getattr(expires, "total_seconds", lambda: expires)())
        self._connection: Any = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="results", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write the results that have come so far, and end."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        attempt = 0
        while True:
            is_last = self._stopped.is_set()
            began_at = time.monotonic()
            try:
                while self.copy():
                    pass
                attempt = 0
            except Exception as error:
                if is_last:
                    logger.error("Some results have not reached the old store: %s", error)
                    return
                logger.warning("Results wait, none is lost: %s: %s", type(error).__name__, error)
                self._connection = None
                time.sleep(backoff(attempt + 2))
                attempt += 1
            if is_last:
                return
            self._stopped.wait(max(_PAUSE_S, _SHARE * (time.monotonic() - began_at)))

    def copy(self) -> int:
        """Write some results that are owed; gives how many there were."""
        due = self.database.run(moving.due_results(_LIMIT))
        if due:
            self._write([each for each in due if not each.hidden])
            self.database.run(moving.paid([each.id for each in due]))
            self.written += len(due)
        return len(due)

    def _write(self, due: Sequence[Due]) -> None:
        if self._connection is None:
            self._connection = Connection(self._url)
        client = self._connection.default_channel.client
        with client.pipeline(transaction=False) as pipe:
            for each in due:
                key, meta = f"{self._prefix}{each.task_id or each.id}", self._meta(each)
                pipe.set(key, meta, ex=self._expires_s)
                pipe.publish(key, meta)
            pipe.execute()

    def _meta(self, due: Due) -> bytes:
        """Task meta as Celery's result stores keep it; an exception is a mapping that names it."""
        value = due.value
        meta: dict[str, Any] = {
            "status": due.state,
            "result": None if value is None else decode(value, due.content_type, due.content_encoding, self._accept),
            "traceback": None if due.traceback is None else due.traceback.decode("utf-8", "replace"),
            "children": [],
            "date_done": due.done_at.isoformat(),
            "task_id": due.task_id or str(due.id),
        }
        if due.group_id is not None:
            meta["group_id"] = due.group_id
        if due.parent is not None:
            meta["parent_id"] = str(due.parent)
        return encode(meta, self._serializer).body
