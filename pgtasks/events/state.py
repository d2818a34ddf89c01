"""The state of a cluster as its events tell it: the workers and tasks that monitors keep track of.

    state = app.events.State()
    app.events.Receiver(connection, handlers={"*": state.event}).capture()

Events may come in any order. A task's state is the one that is furthest on by Celery's order of states, and what is known
of a task is kept whichever event said it. The names are Celery's, for dashboards and cameras that read them.
"""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any
from weakref import WeakSet, ref

from kombu.clocks import timetuple
from kombu.utils.functional import LRUCache

from pgtasks.events import members
from pgtasks.events.members import (
    HEARTBEAT_DRIFT_MAX,
    HEARTBEAT_EXPIRE_WINDOW,
    TASK_EVENT_TO_STATE,
    Task,
    Worker,
    heartbeat_expires,
)

__all__ = (
    "HEARTBEAT_DRIFT_MAX",
    "HEARTBEAT_EXPIRE_WINDOW",
    "TASK_EVENT_TO_STATE",
    "State",
    "Task",
    "Worker",
    "heartbeat_expires",
)


class _Index(defaultdict[str, "WeakSet[Task]"]):
    """Tasks by a key; called, it gives those of one key in the order of time."""

    def __init__(self, look_up: Callable[..., Iterator[tuple[str, Task]]]) -> None:
        super().__init__(WeakSet)
        self._look_up = look_up

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, Task]]:
        return self._look_up(*args, **kwargs)


class State:
    """Keeps track of workers and tasks, of a limited number of each: those seen last."""

    Worker = Worker
    Task = Task
    event_count = 0
    task_count = 0
    heap_multiplier = 4

    def __init__(
        self,
        callback: Callable[[State, dict[str, Any]], Any] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: list[Any] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[members.Worker], Any] | None = None,
        on_node_leave: Callable[[members.Worker], Any] | None = None,
        tasks_by_type: Mapping[str, Sequence[str]] | None = None,
        tasks_by_worker: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers = LRUCache(max_workers_in_memory) if workers is None else workers
        self.tasks = LRUCache(max_tasks_in_memory) if tasks is None else tasks
        self.max_workers_in_memory, self.max_tasks_in_memory = max_workers_in_memory, max_tasks_in_memory
        self.on_node_join, self.on_node_leave = on_node_join, on_node_leave
        #: Functions for events of other groups than `worker` and `task`, by group.
        self.handlers: dict[str, Callable[[str, dict[str, Any]], Any]] = {}
        self._mutex = threading.Lock()
        self._seen_types: set[str] = set()
        self._orphans = LRUCache(max_tasks_in_memory)
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self.rebuild_taskheap()
        self.tasks_by_type = _Index(self._tasks_by_type)
        self.tasks_by_worker = _Index(self._tasks_by_worker)
        for index, known in ((self.tasks_by_type, tasks_by_type), (self.tasks_by_worker, tasks_by_worker)):
            for key, ids in (known or {}).items():
                index[key] = WeakSet(self.tasks[each] for each in ids if each in self.tasks)

    # -- events

    def event(self, event: dict[str, Any]) -> Any:
        """Take in one event; gives what it is about and whether that is new, and the last word of its type."""
        with self._mutex:
            return self._event(event)

    def _event(self, event: dict[str, Any]) -> Any:
        self.event_count += 1
        if self.event_callback:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        if group in self.handlers:
            return self.handlers[group](subject, event), subject
        if group == "worker":
            return self._worker_event(subject, event)
        return self._task_event(subject, event) if group == "task" else None

    def _worker_event(self, subject: str, event: dict[str, Any]) -> Any:
        if not {"hostname", "timestamp", "local_received"} <= event.keys():
            return None
        hostname = event["hostname"]
        worker, is_new = self.workers.data.get(hostname), False
        if worker is None:
            worker, is_new = self.Worker(hostname), subject != "offline"
            if is_new:
                self.workers[hostname] = worker
        worker.event(subject, event["timestamp"], event["local_received"], event)
        if self.on_node_join and (is_new or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave and subject == "offline":
            # Without somebody to tell it stays, for people to see that it has gone.
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return (worker, is_new), subject

    def _task_event(self, subject: str, event: dict[str, Any]) -> Any:
        uuid, hostname, timestamp = event["uuid"], event["hostname"], event["timestamp"]
        task, is_new = self.tasks.data.get(uuid), False
        if task is None:
            task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
            is_new = True
        if subject == "sent":  # by whoever called it
            task.client = origin = hostname
        else:
            task.worker = self._worker_of(hostname, event)
            origin = task.worker.id
        self._note_time(timetuple(event["clock"], timestamp, origin, ref(task)))
        self.task_count += subject == "received"
        task.event(subject, timestamp, event["local_received"], event)
        if task.name is not None:
            self._seen_types.add(task.name)
            if is_new:
                self.tasks_by_type[task.name].add(task)
                self.tasks_by_worker[hostname].add(task)
        self._note_family(task)
        return (task, is_new), subject

    def _worker_of(self, hostname: str, event: dict[str, Any]) -> members.Worker:
        worker = self.workers.data.get(hostname)
        if worker is None:
            worker = self.workers[hostname] = self.Worker(hostname)
        if event["local_received"]:
            worker.event(None, event["timestamp"], event["local_received"])
        found: members.Worker = worker
        return found

    def _note_time(self, moment: Any) -> None:
        heap = self._taskheap
        if len(heap) >= self.max_tasks_in_memory * self.heap_multiplier:
            del heap[0]
        if not heap or moment > heap[-1]:
            heap.append(moment)
        else:
            bisect.insort(heap, moment)

    def _note_family(self, task: members.Task) -> None:
        if task.parent_id:
            parent = self.tasks.data.get(task.parent_id)
            if parent is not None:
                parent.children.add(task)
            else:
                self._orphans.setdefault(task.parent_id, WeakSet()).add(task)
        if task.uuid in self._orphans:
            task.children.update(self._orphans.pop(task.uuid))

    def get_or_create_worker(self, hostname: str, **fields: Any) -> tuple[members.Worker, bool]:
        """The worker of a name, and whether it is new."""
        if hostname in self.workers:
            worker = self.workers[hostname]
            worker.update(fields)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **fields)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[members.Task, bool]:
        """The task of an id, and whether it is new."""
        if uuid in self.tasks:
            return self.tasks[uuid], False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    # -- looking

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function while nothing changes; with `clear_after`, forget everything then."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, members.Task]]:
        return islice(self.tasks.items(), limit)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, members.Task]]:
        """Ids and tasks, those that were heard of last first, or last if not `reverse`."""
        heap = reversed(self._taskheap) if reverse else iter(self._taskheap)
        seen = set()
        for moment in islice(heap, 0, limit):
            task = moment[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    tasks_by_timestamp = tasks_by_time

    def _tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, members.Task]]:
        found = ((uuid, task) for uuid, task in self.tasks_by_time(reverse=reverse) if task.name == name)
        return islice(found, 0, limit)

    def _tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, members.Task]]:
        tasks = self.tasks_by_time(reverse=reverse)
        found = ((uuid, task) for uuid, task in tasks if task.worker is not None and task.worker.hostname == hostname)
        return islice(found, 0, limit)

    def task_types(self) -> list[str]:
        """The names of all tasks seen."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[members.Worker]:
        return (worker for worker in self.workers.values() if worker.alive)

    # -- forgetting

    def clear(self, ready: bool = True) -> None:
        """Forget everything; with `ready`, tasks that have not ended are kept."""
        with self._mutex:
            self._clear(ready)

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget tasks; with `ready`, only those that have ended."""
        with self._mutex:
            self._clear_tasks(ready)

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def _clear_tasks(self, ready: bool = True) -> None:
        kept = {uuid: task for uuid, task in self.itertasks() if not task.ready} if ready else {}
        self.tasks.clear()
        self.tasks.update(kept)
        self._taskheap.clear()

    def rebuild_taskheap(self) -> None:
        """Sort the tasks by time again."""
        self._taskheap[:] = sorted(
            timetuple(task.clock, task.timestamp, task.origin, ref(task)) for task in self.tasks.values()
        )

    def __reduce__(self) -> Any:
        indexes = [{key: [task.id for task in tasks] for key, tasks in index.items()}
                   for index in (self.tasks_by_type, self.tasks_by_worker)]  # fmt: skip
        limits = (self.max_workers_in_memory, self.max_tasks_in_memory)
        hooks = (self.on_node_join, self.on_node_leave)
        return type(self), (self.event_callback, self.workers, self.tasks, None, *limits, *hooks, *indexes)

    def __repr__(self) -> str:
        return f"<State: events={self.event_count} tasks={self.task_count}>"
