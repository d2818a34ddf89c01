"""`Request`: a claim as remote control, signals and logs see it.

The worker's parent never decodes messages to run them; a request does so when, and only if, somebody looks at the
arguments.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

from pgtasks.app.context import Context
from pgtasks.exceptions import Retry
from pgtasks.execution.reading import Unreadable, read, time_limits
from pgtasks.execution.site import Site
from pgtasks.message import Claim
from pgtasks.serialization import JSON
from pgtasks.utils.functional import maybe_list
from pgtasks.utils.saferepr import saferepr

__all__ = ("LogData", "Request")


class Request:
    """One task that a worker has claimed. Names that are not below are those of `task.request`."""

    #: What receivers of `task_received` and subclasses find in Celery's, and is the same for every message here.
    utc = True
    tzlocal = None
    connection_errors: tuple[type[BaseException], ...] = ()

    def __init__(
        self, site: Site, claim: Claim, *, worker_pid: int | None = None, began_at: float | None = None
    ) -> None:
        self._site = site
        self.claim = claim
        #: The process that runs it, and since when by the wall clock; None while it waits.
        self.worker_pid = worker_pid
        self.time_start = None if began_at is None else time.time() - (time.monotonic() - began_at)

    @property
    def app(self) -> Any:
        return self._site.app

    @property
    def task(self) -> Any:
        return self.app.tasks[self.claim.name]

    @property
    def id(self) -> str:
        return self.claim.public_id

    task_id = id

    @property
    def type(self) -> str:
        """The name of the task."""
        return self.claim.name

    @property
    def name(self) -> str:
        """The name it goes by in logs and monitors, which a call may give it."""
        options = self.claim.options
        # Few calls do: the options of the others need not be decoded.
        shadow: str | None = self.options.get("shadow") if options and b'"shadow"' in options else None
        return shadow or self.claim.name

    task_name = name

    @property
    def hostname(self) -> str:
        return self._site.hostname

    @property
    def eta(self) -> datetime | None:
        return self.claim.due

    @property
    def expires(self) -> datetime | None:
        return self.claim.expires

    @property
    def body(self) -> bytes:
        """The arguments as they were sent, serialised."""
        return self.claim.payload

    @property
    def content_type(self) -> str:
        return self.claim.content_type or JSON

    @property
    def content_encoding(self) -> str:
        return self.claim.content_encoding or "utf-8"

    @property
    def request_dict(self) -> dict[str, Any]:
        """What the task will see as its request, custom headers among it."""
        return dict(vars(self.context))

    @property
    def stamped_headers(self) -> list[str]:
        """The headers that are stamps."""
        return self.options.get("stamped_headers") or []

    @property
    def groups(self) -> list[Any]:
        """What a stamp of this name says, as older visitors of Celery give it."""
        return self.stamps.get("groups") or []

    @property
    def store_errors(self) -> bool:
        """Will an error be stored as the task's result?"""
        return not self.ignore_result or bool(self.task.store_errors_even_if_ignored)

    @property
    def acknowledged(self) -> bool:
        """Would Celery have acknowledged the message? It does when a task begins, or ends with `acks_late`."""
        task = self.app.tasks.get(self.claim.name)
        return self.time_start is not None and not (task is not None and task.acks_late)

    @cached_property
    def options(self) -> dict[str, Any]:
        """What the message says beside its arguments."""
        options: dict[str, Any] = json.loads(self.claim.options) if self.claim.options else {}
        return options

    @property
    def stamps(self) -> dict[str, Any]:
        """The stamps of the task, by header."""
        stamps: dict[str, Any] = self.options.get("stamps") or {}
        return stamps

    def matching(self, revoked: Mapping[str, Sequence[Any]]) -> dict[str, set[Any]]:
        """Which of its stamps are among the revoked ones, by header."""
        found = {}
        for header, stamps in revoked.items():
            carried = maybe_list(self.stamps.get(header)) or []
            if some := {stamp for stamp in carried if stamp in stamps}:
                found[header] = some
        return found

    @cached_property
    def context(self) -> Context:
        """What the task will see as its request."""
        try:
            return Context(read(self._site, self.claim), called_directly=False)
        except Unreadable as error:
            return Context(id=self.id, args=f"<unreadable: {error.__cause__!r}>", kwargs={}, delivery_info={})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.context, name)

    @property
    def argsrepr(self) -> str:
        # A call's arguments are a tuple; JSON has made a list of it.
        args = self.context.args
        given = tuple(args) if isinstance(args, list) else args
        return self.options.get("argsrepr") or saferepr(given, self.app.amqp.argsrepr_maxsize)

    @property
    def kwargsrepr(self) -> str:
        return self.options.get("kwargsrepr") or saferepr(self.context.kwargs, self.app.amqp.kwargsrepr_maxsize)

    # -- hooks, for classes of the project's own that a task names as its `Request`

    @property
    def time_limits(self) -> tuple[float | None, float | None]:
        """Its time limits, the hard one first, in seconds."""
        return time_limits(self._site, self.task, {"timelimit": self.context.timelimit})

    def on_success(self, failed__retval__runtime: tuple[bool, Any, float], **kwargs: Any) -> Any:
        """The task has ended, or is to be retried: whether it failed, its result or an `ExceptionInfo`, and how long it ran."""
        failed, retval, _ = failed__retval__runtime
        return self.on_failure(retval, return_ok=True) if failed else None

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """The task has failed, or is to be retried; called for time limits and lost processes as well."""
        return self.on_retry(exc_info) if isinstance(exc_info.exception, Retry) else None

    def on_retry(self, exc_info: Any) -> Any:
        """The task is to be retried."""

    def on_timeout(self, soft: bool, timeout: float | None) -> Any:
        """The task has failed at its hard time limit, or, if `soft`, for the soft one."""

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Describe the request as `inspect` does; with `safe`, the arguments as text."""
        return {
            "id": self.id,
            "name": self.name,
            "args": self.argsrepr if safe else self.context.args,
            "kwargs": self.kwargsrepr if safe else self.context.kwargs,
            "type": self.type,
            "hostname": self.hostname,
            "time_start": self.time_start,
            "acknowledged": self.acknowledged,
            "delivery_info": self.context.delivery_info,
            "worker_pid": self.worker_pid,
        }

    def humaninfo(self) -> str:
        return f"{self.name}[{self.id}]"

    def __str__(self) -> str:
        return self.humaninfo()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.humaninfo()}>"


class LogData(dict[str, Any]):
    """What a log line about a request may mention; arguments are decoded only if a format asks for them."""

    def __init__(self, request: Request) -> None:
        super().__init__(id=request.id, name=request.name, eta=request.claim.due)
        self._request = request

    def __missing__(self, key: str) -> str:
        if key not in ("args", "kwargs"):
            raise KeyError(key)
        text: str = self._request.argsrepr if key == "args" else self._request.kwargsrepr
        self[key] = text
        return text
