"""The result backend: `result_backend = "pgtasks+postgresql://user@host/db"` in programs of Celery itself.

Results are where our own programs keep theirs, so it does not matter who runs a task and who asks for it.
Waiting ends by a notification. The end of a task that others wait for, of a canvas of ours or of a chord,
releases them in one statement.

A chord that Celery sends becomes such a canvas: its body is written first, as a task that waits for the
header, and whoever ends the last task of the header releases it. No task looks again and again whether the
header is done.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import celery.exceptions
from celery import maybe_signature
from celery.backends.base import BaseBackend
from celery.exceptions import TimeoutError
from celery.result import result_from_tuple

from pgtasks import states
from pgtasks.app.codec import ResultCodec
from pgtasks.exceptions import OperationalError
from pgtasks.kombu.conversion import HEADER_OF_CHORD, RESULTS_OF_HEADER
from pgtasks.kombu.ending import settle
from pgtasks.message import id_of
from pgtasks.store import groups, mail, results, tasks
from pgtasks.store.database import Database
from pgtasks.store.listen import Waiter
from pgtasks.store.url import as_conninfo

__all__ = ("Backend",)

#: How many tasks one statement of `cleanup` removes.
CLEANUP_STEP = 1000
#: Seconds between looks for the result of a task that has ended without one.
UNKEPT_LOOK_S = 0.5

Meta = dict[str, Any]


class _Codec(ResultCodec):
    """Writes and reads results as ours do, with Celery's exceptions."""

    def __init__(self, backend: Any) -> None:
        super().__init__(backend.app.conf, backend.app.timezone)
        self._backend = backend

    def exception_to_python(self, exc: Any) -> BaseException | None:
        is_ours = isinstance(exc, dict) and exc.get("exc_module") == "pgtasks.exceptions"
        if is_ours and hasattr(celery.exceptions, str(exc.get("exc_type"))):
            exc = {**exc, "exc_module": "celery.exceptions"}
        found: BaseException | None = self._backend.exception_to_python(exc)
        return found


class Backend(BaseBackend):  # type: ignore[misc]
    """What Celery asks of a result backend."""

    supports_native_join = True

    def __init__(self, app: Any, url: str | None = None, **kwargs: Any) -> None:
        super().__init__(app, url=url, **kwargs)
        self._conninfo = as_conninfo(url or "") or url or ""
        self._database = Database(self._conninfo)

    @cached_property
    def _codec(self) -> _Codec:
        return _Codec(self)

    @cached_property
    def _waiter(self) -> Waiter:
        return Waiter(self._database)

    def as_uri(self, include_password: bool = False) -> str:
        return f"pgtasks+{super().as_uri(include_password)}"

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        return isinstance(exc, OperationalError)

    # -- storing

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **kwargs: Any
    ) -> Any:
        """Store a state; the first one that ends the task stays, and releases what waits for it."""
        key, row = id_of(task_id), self._codec.row_of(result, traceback, request)
        if state not in states.READY_STATES:
            self._database.run(tasks.mark(key, state, **row))
            return result
        found = self._database.run(mail.finish(key, state, getattr(request, "retries", None) or 0, **row))
        if found.worker is not None and found.delivery is not None:
            error = self.exception_to_python(result) if state in states.EXCEPTION_STATES else None
            settle(self._conninfo, key, task_id, found.worker, found.delivery, state, row, error)
        elif not found.was_found:
            self._database.run(mail.come_home(key))
        return result

    def _forget(self, task_id: str) -> None:
        self._database.run(results.forget([id_of(task_id)]))

    def cleanup(self) -> None:
        """Remove the tasks that ended more than `result_expires` ago, as workers of ours do on their own."""
        if self.expires:
            while self._database.run(tasks.expire(float(self.expires), CLEANUP_STEP)) >= CLEANUP_STEP:
                pass

    # -- reading

    def _get_task_meta_for(self, task_id: str) -> Meta:
        return self._metas([task_id])[task_id]

    def _metas(self, task_ids: Iterable[str]) -> dict[str, Meta]:
        keys = {id_of(task_id): task_id for task_id in task_ids}
        extended = bool(self.app.conf.result_extended)
        found = self._database.run(results.fetch(keys, with_payload=extended))
        return {task_id: self._codec.meta_of(task_id, found.get(key)) for key, task_id in keys.items()}

    def wait_for(
        self,
        task_id: str,
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_interval: Callable[[], Any] | None = None,
    ) -> Meta:
        """Wait until a task has ended; gives its meta."""
        for _, meta in self.get_many([task_id], timeout, interval, no_ack, None, on_interval):
            return meta
        raise TimeoutError("The operation timed out.")

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float = 0.5,
        no_ack: bool = True,
        on_message: Callable[[Meta], Any] | None = None,
        on_interval: Callable[[], Any] | None = None,
        **kwargs: Any,
    ) -> Iterator[tuple[str, Meta]]:
        """Iterate over ids and metas as tasks end; raises TimeoutError when time is up before the last."""
        self._ensure_not_eager()
        deadline = None if timeout is None else time.monotonic() + timeout
        waiting = {id_of(task_id): task_id for task_id in task_ids}
        with self._waiter.holding(tuple(waiting)):
            while waiting:
                ended = [
                    meta
                    for meta in self._metas(waiting.values()).items()
                    if meta[1]["status"] in states.READY_STATES
                ]
                for task_id, meta in ended:
                    del waiting[id_of(task_id)]
                    if on_message is not None:
                        on_message(meta)
                    yield task_id, meta
                if waiting and not ended:
                    self._await(waiting, deadline, interval if on_interval else None)
                    if on_interval is not None:
                        on_interval()

    def _await(self, waiting: Iterable[Any], deadline: float | None, tick_s: float | None) -> None:
        """Sleep until one of the tasks has ended, or a tick has passed."""
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError("The operation timed out.")
        nap_s = min((each for each in (left_s, tick_s) if each is not None), default=None)
        ended = self._waiter.wait(tuple(waiting), nap_s)
        if ended and not any(
            meta["status"] in states.READY_STATES for meta in self._metas(map(str, ended)).values()
        ):
            # Ended with a result that is not kept: nothing will come of it.
            time.sleep(UNKEPT_LOOK_S if nap_s is None else min(nap_s, UNKEPT_LOOK_S))

    # -- groups

    def _save_group(self, group_id: str, result: Any) -> Any:
        self._database.run(groups.save(group_id, json.dumps(result.as_tuple()).encode()))
        return result

    def _restore_group(self, group_id: str) -> Meta | None:
        members = self._database.run(groups.restore(group_id))
        return None if members is None else {"result": result_from_tuple(json.loads(members), self.app)}

    def _delete_group(self, group_id: str) -> None:
        self._database.run(groups.delete(group_id))

    # -- chords

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Write the body of a chord, as a task that waits for the header, which is sent next."""
        if not self._is_broker_ours():
            # Where the body would go, nobody would release it.
            super().apply_chord(header_result_args, body, **kwargs)
            return
        header = list(_leaves(self.app.GroupResult(*header_result_args)))
        headers = {**(body.options.get("headers") or {}), HEADER_OF_CHORD: header}
        maybe_signature(dict(body), app=self.app).apply_async((RESULTS_OF_HEADER,), headers=headers)

    def _is_broker_ours(self) -> bool:
        with self.app.connection_for_write() as connection:
            return bool(connection.transport.driver_type == "pgtasks")

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Nothing to do: the stored end of the last task of a header has released the body."""
        if not self._is_broker_ours():
            super().on_chord_part_return(request, state, result, **kwargs)


def _leaves(result: Any) -> Iterator[str]:
    """The ids of the tasks whose results a chord's body gets."""
    for each in result.results:
        if hasattr(each, "results"):
            yield from _leaves(each)
        else:
            yield each.id
