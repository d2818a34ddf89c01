"""`autoretry_for`: a task whose body retries by itself on the exceptions it names."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

from pgtasks.exceptions import Ignore, Retry
from pgtasks.utils.time import get_exponential_backoff_interval

__all__ = ("add_autoretry_behaviour",)

ExceptionTypes = tuple[type[BaseException], ...]


@dataclass(frozen=True, slots=True)
class _Policy:
    """The retry options of one task."""

    retry_on: ExceptionTypes
    #: Never retried: control flow, and what the user excluded.
    let_through: ExceptionTypes
    retry_kwargs: dict[str, Any]
    backoff: float
    backoff_max: int
    jitter: bool

    @classmethod
    def of(cls, task: Any, options: dict[str, Any]) -> _Policy:
        def option(name: str, default: Any) -> Any:
            return options.get(name, getattr(task, name, default))

        return cls(
            retry_on=tuple(option("autoretry_for", ())),
            let_through=(Ignore, Retry, *option("dont_autoretry_for", ())),
            retry_kwargs=option("retry_kwargs", {}),
            backoff=float(option("retry_backoff", False)),
            backoff_max=int(option("retry_backoff_max", 600)),
            jitter=option("retry_jitter", True),
        )

    def retry(self, task: Any, exc: BaseException) -> BaseException:
        """Retry `task` and return the `Retry` to raise; raises `exc` itself when no retries are left."""
        kwargs = dict(self.retry_kwargs)
        if self.backoff:
            kwargs["countdown"] = self._countdown_s(task.request.retries)
        # The body may have called retry(max_retries=...) and swallowed the exception: its limit goes on.
        if hasattr(task, "override_max_retries"):
            kwargs["max_retries"] = task.override_max_retries
        retry: BaseException = task.retry(exc=exc, **kwargs)
        if hasattr(task, "override_max_retries"):
            del task.override_max_retries
        return retry

    def _countdown_s(self, retries: int) -> int:
        factor = int(max(1.0, self.backoff))
        return get_exponential_backoff_interval(factor, retries, self.backoff_max, full_jitter=self.jitter)


def add_autoretry_behaviour(task: Any, **options: Any) -> None:
    """Wrap the task's `run`, once, when its options or attributes name exceptions to retry on."""
    policy = _Policy.of(task, options)
    if not policy.retry_on or hasattr(task, "_orig_run"):
        return
    task._orig_run = task.run
    wrap = _wrap_coroutine if inspect.iscoroutinefunction(task.run) else _wrap_function
    task.run = wrap(task, policy)


def _wrap_function(task: Any, policy: _Policy) -> Callable[..., Any]:
    @wraps(task._orig_run)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return task._orig_run(*args, **kwargs)
        except policy.let_through:
            raise
        except policy.retry_on as exc:
            raise policy.retry(task, exc)

    return run


def _wrap_coroutine(task: Any, policy: _Policy) -> Callable[..., Any]:
    @wraps(task._orig_run)
    async def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return await task._orig_run(*args, **kwargs)
        except policy.let_through:
            raise
        except policy.retry_on as exc:
            raise policy.retry(task, exc)

    return run
