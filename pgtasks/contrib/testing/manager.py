"""What an integration test asks of a worker: wait until tasks were received or begun, join results, be idle again."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, TextIO

from kombu.exceptions import ContentDisallowed
from kombu.utils.functional import retry_over_time

from pgtasks import states
from pgtasks.exceptions import OperationalError, TimeoutError
from pgtasks.resultset import ResultSet
from pgtasks.utils.text import truncate
from pgtasks.utils.time import humanize_seconds

__all__ = ("Manager", "ManagerMixin", "Sentinel")


class Sentinel(Exception):
    """What is waited for has not happened yet."""


class ManagerMixin:
    """Adds the waiting of `Manager` to a class with an app; call `_init_manager` first."""

    app: Any

    def _init_manager(
        self,
        block_timeout: float = 30 * 60.0,
        no_join: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.stdout = sys.stdout if stdout is None else stdout
        self.stderr = sys.stderr if stderr is None else stderr
        self.connerrors = (OperationalError,)
        self.block_timeout = block_timeout
        self.no_join = no_join

    def remark(self, s: str, sep: str = "-") -> None:
        """Tell whoever watches the test."""
        self.stdout.write(f"{sep}{s}\n")

    def warn(self, s: str) -> None:
        self.stderr.write(f"{s}\n")

    def missing_results(self, r: Iterable[Any]) -> list[str]:
        """The ids of the results that are not there."""
        return [result.id for result in r if not result.ready()]

    # -- waiting

    def wait_for(
        self,
        fun: Callable[..., Any],
        catch: tuple[type[Exception], ...],
        desc: str = "thing",
        args: Iterable[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        errback: Callable[[Exception, float, int], Any] | None = None,
        max_retries: int | None = 10,
        interval_start: float = 0.1,
        interval_step: float = 0.5,
        interval_max: float = 5.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> Any:
        """Call `fun` until it no longer raises one of `catch`, and give what it returns; the last error is raised."""

        def pause(exc: Exception, intervals: Iterator[float], retries: int) -> float:
            interval = next(intervals)
            if emit_warning:
                when = humanize_seconds(interval, "in", " ", microseconds=True)
                self.warn(f"Still waiting for {desc}.  Trying again {when}: {exc!r}")
            if errback:
                errback(exc, interval, retries)
            return interval

        return self.retry_over_time(
            fun,
            catch,
            args=list(args),
            kwargs=dict(kwargs or {}),
            errback=pause,
            max_retries=max_retries,
            interval_start=interval_start,
            interval_step=interval_step,
            interval_max=interval_max,
            **options,
        )

    def ensure_not_for_a_while(
        self,
        fun: Callable[..., Any],
        catch: tuple[type[Exception], ...],
        desc: str = "thing",
        max_retries: int = 20,
        interval_start: float = 0.1,
        interval_step: float = 0.02,
        interval_max: float = 1.0,
        emit_warning: bool = False,
        **options: Any,
    ) -> None:
        """Make sure that `fun` goes on raising one of `catch`, as long as it is tried."""
        try:
            self.wait_for(
                fun,
                catch,
                desc=desc,
                max_retries=max_retries,
                interval_start=interval_start,
                interval_step=interval_step,
                interval_max=interval_max,
                emit_warning=emit_warning,
            )
        except catch:
            return
        raise AssertionError(f"Should not have happened: {desc}")

    def retry_over_time(self, *args: Any, **kwargs: Any) -> Any:
        return retry_over_time(*args, **kwargs)

    def join(self, r: Any, propagate: bool = False, max_retries: int = 10, **kwargs: Any) -> Any:
        """Get the results of a result or a set of them, trying again after timeouts and lost connections."""
        if self.no_join:
            return None
        results = r if isinstance(r, ResultSet) else self.app.ResultSet([r])
        for _ in range(max_retries) if max_retries else count():
            try:
                return results.get(propagate=propagate, **kwargs)
            except TimeoutError as exc:
                missing = self.missing_results(results)
                names = truncate(", ".join(missing))
                self.remark(f"Still waiting for {len(missing)}/{len(results)}: [{names}]: {exc!r}", "!")
            except self.connerrors as exc:
                self.remark(f"join: connection lost: {exc!r}", "!")
        raise AssertionError("Test failed: Missing task results")

    # -- asking

    def inspect(self, timeout: float = 3.0) -> Any:
        return self.app.control.inspect(timeout=timeout)

    def query_tasks(self, ids: Iterable[str], timeout: float = 0.5) -> Iterator[tuple[str, Any]]:
        """What each worker knows of some tasks."""
        yield from (self.inspect(timeout).query_task(*ids) or {}).items()

    def query_task_states(self, ids: Iterable[str], timeout: float = 0.5) -> dict[str, set[str]]:
        """The ids of tasks by their state in the workers: active, reserved, scheduled or ready."""
        found: dict[str, set[str]] = {"active": set(), "reserved": set(), "scheduled": set(), "ready": set()}
        for _, reply in self.query_tasks(ids, timeout=timeout):
            for task_id, (state, _) in reply.items():
                found.setdefault(state, set()).add(task_id)
        return found

    def assert_accepted(
        self, ids: Iterable[str], interval: float = 0.5, desc: str = "waiting for tasks to be accepted", **policy: Any
    ) -> Any:
        """Wait until workers have begun all of these tasks."""
        return self.assert_task_worker_state(self.is_accepted, ids, interval=interval, desc=desc, **policy)

    def assert_received(
        self, ids: Iterable[str], interval: float = 0.5, desc: str = "waiting for tasks to be received", **policy: Any
    ) -> Any:
        """Wait until workers have all of these tasks."""
        return self.assert_task_worker_state(self.is_received, ids, interval=interval, desc=desc, **policy)

    def assert_result_tasks_in_progress_or_completed(
        self,
        async_results: Iterable[Any],
        interval: float = 0.5,
        desc: str = "waiting for tasks to be started or completed",
        **policy: Any,
    ) -> Any:
        """Wait until these results say STARTED or SUCCESS."""
        return self.assert_task_state_from_result(
            self.is_result_task_in_progress, async_results, interval=interval, desc=desc, **policy
        )

    def assert_task_state_from_result(
        self, fun: Callable[..., Any], results: Iterable[Any], interval: float = 0.5, **policy: Any
    ) -> Any:
        return self.wait_for(lambda: self.true_or_raise(fun, results, timeout=interval), (Sentinel,), **policy)

    def assert_task_worker_state(
        self, fun: Callable[..., Any], ids: Iterable[str], interval: float = 0.5, **policy: Any
    ) -> Any:
        return self.wait_for(lambda: self.true_or_raise(fun, ids, timeout=interval), (Sentinel,), **policy)

    @staticmethod
    def is_result_task_in_progress(results: Iterable[Any], **kwargs: Any) -> bool:
        return all(result.state in (states.STARTED, states.SUCCESS) for result in results)

    def is_received(self, ids: Iterable[str], **kwargs: Any) -> bool:
        return self._are_all_in(("reserved", "active", "ready"), ids, **kwargs)

    def is_accepted(self, ids: Iterable[str], **kwargs: Any) -> bool:
        return self._are_all_in(("active", "ready"), ids, **kwargs)

    def _are_all_in(self, wanted: Iterable[str], ids: Iterable[str], timeout: float = 0.5) -> bool:
        found = self.query_task_states(ids, timeout=timeout)
        return set(ids) <= set().union(*(found[state] for state in wanted))

    def true_or_raise(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Give what `fun` returns if it is true, else raise `Sentinel`."""
        if not (answer := fun(*args, **kwargs)):
            raise Sentinel
        return answer

    def wait_until_idle(self) -> None:
        """Throw away what waits in the app's queues, and wait until no worker runs a task."""
        control = self.app.control
        while control.purge():
            pass
        inspect = control.inspect()
        while True:
            try:
                if not any((inspect.active() or {}).values()):
                    return
            except ContentDisallowed:
                return


class Manager(ManagerMixin):
    """Helps tests of one app."""

    def __init__(self, app: Any, **kwargs: Any) -> None:
        self.app = app
        self._init_manager(**kwargs)
