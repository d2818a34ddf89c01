"""`task.request`: the context of the call that a running task executes.

A context is an open record: the attributes below have defaults, and a caller or the task may add any others with
`update`. Keys that are not known here are custom headers of the message; they are in `headers` as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pgtasks.utils.saferepr import saferepr

__all__ = ("Context", "Whole", "get_actual_ignore_result")

_UNSET = object()

#: Headers that RabbitMQ adds when it dead-letters a message. Sent again they look like a delivery cycle to
#: it.
_DEAD_LETTER_HEADERS = frozenset(
    (
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    )
)


class Whole(dict[str, Any]):
    """The attributes of a request, complete: `Context` takes them as they are, and looks for no headers or time limits."""


class Context:
    """The request of one execution of a task."""

    _children: list[Any] | None = None
    #: Set once a custom `__call__` has called `Task.__call__` for this request, which must run the body then.
    _protected = 0
    args: Any = None
    callbacks: Any = None
    called_directly = True
    chain: Any = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: Any = None
    errbacks: Any = None
    eta: Any = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    headers: dict[str, Any] | None = None
    hostname: str | None = None
    id: Any = None
    ignore_result = False
    is_eager = False
    #: For a transactional task: stores its success in the transaction it is given, and says afterwards whether that was
    #: committed, when an error came instead of the answer.
    commit_within: Any = None
    was_committed: Any = None
    #: By what a worker holds a task that remembers, until its run has taken it.
    hold: Any = None
    kwargs: Any = None
    logfile: Any = None
    loglevel: Any = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    retries: int = 0
    reply_to: str | None = None
    replaced_task_nesting: int = 0
    #: Takes the signature of a retry. Where it is None, a retry is published like any other call.
    resubmit: Callable[[Any, bool], None] | None = None
    #: Takes the signature that replaces this task, under its id. Where it is None, that is published like any call.
    become: Callable[[Any], None] | None = None
    #: Takes the signature of a new member of the chord this task is in. None when it is in none.
    join: Callable[[Any, bool], Any] | None = None
    root_id: str | None = None
    shadow: str | None = None
    taskset: str | None = None
    timelimit: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    utc: bool | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if args and type(args[0]) is Whole:
            self.__dict__.update(*args, **kwargs)
            return
        self.update(*args, **kwargs)
        if self.headers is None and not self.__dict__.keys() <= _NOT_A_HEADER:
            self.headers = {k: v for k, v in self.__dict__.items() if k not in _NOT_A_HEADER}

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set attributes, as `dict.update` does; `timelimit` also sets `time_limit` and `soft_time_limit`."""
        before = self.__dict__.get("timelimit", _UNSET)
        self.__dict__.update(*args, **kwargs)
        limits = self.__dict__.get("timelimit", _UNSET)
        if limits is not before:
            known = isinstance(limits, list | tuple) and len(limits) >= 2
            self.time_limit, self.soft_time_limit = limits[:2] if known else (None, None)

    def clear(self) -> None:
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def __getattr__(self, name: str) -> Any:
        if name in _SHOWN and not (self.is_eager or self.called_directly):
            # Made when somebody looks: few do.
            arguments = getattr(self, _SHOWN[name])
            shown = tuple(arguments) if isinstance(arguments, list) else arguments
            return saferepr(shown, _SHOWN_MAXSIZE)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    @property
    def children(self) -> list[Any]:
        """The results of the tasks that this one has called."""
        if self._children is None:
            self._children = []
        return self._children

    def as_execution_options(self) -> dict[str, Any]:
        """The options with which the call can be made again, as for a retry."""
        hard_limit, soft_limit = self.timelimit or (None, None)
        headers = {k: v for k, v in (self.headers or {}).items() if k not in _DEAD_LETTER_HEADERS}
        options = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft_limit,
            "time_limit": hard_limit,
            "headers": headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamps is not None and self.stamped_headers is not None:
            options["stamped_headers"] = self.stamped_headers
            options.update({k: v for k, v in self.stamps.items() if k in self.stamped_headers})
        return options


#: How the arguments are shown, where the call did not say: for logs and monitors.
_SHOWN = {"argsrepr": "args", "kwargsrepr": "kwargs"}
_SHOWN_MAXSIZE = 1024

_NOT_A_HEADER = frozenset((*vars(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"))


def get_actual_ignore_result(task: Any, request: Any) -> Any:
    """Should the result be dropped: what the call said, else what the task says."""
    if request is None:
        return task.ignore_result
    if isinstance(request, Context):
        # The class's own False means that the call said nothing.
        said = request.__dict__.get("ignore_result")
    else:
        said = getattr(request, "ignore_result", None)
    return task.ignore_result if said is None else said
