"""The state that events add up to is the one that Celery's own class makes of the same events, in any order."""

from __future__ import annotations

import pickle
import time
from typing import Any

import celery.events.state as theirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pgtasks.events.state as ours
from pgtasks.events.members import heartbeat_expires

TASKS = ["t1", "t2", "t3"]
NODES = ["a@h", "b@h"]
NOW = time.time()

task_events = st.builds(
    lambda uuid, node, kind, clock, at, named, parent: {
        "type": f"task-{kind}",
        "uuid": uuid,
        "hostname": node,
        "clock": clock,
        "timestamp": NOW + at,
        "local_received": NOW + at,
        "pid": 1,
        **({"name": "proj.add", "args": "(1,)", "kwargs": "{}", "retries": 0} if named else {}),
        **({"parent_id": parent, "root_id": TASKS[0]} if parent not in (None, uuid) else {}),
        **({"result": "3", "runtime": 0.1} if kind == "succeeded" else {}),
        **({"exception": "ValueError()", "traceback": "..."} if kind in ("failed", "retried") else {}),
    },
    st.sampled_from(TASKS),
    st.sampled_from(NODES),
    st.sampled_from(["sent", "received", "started", "succeeded", "failed", "retried", "revoked", "rejected", "custom"]),
    st.integers(1, 50),
    st.integers(0, 10),
    st.booleans(),
    st.sampled_from([None, *TASKS]),
)
worker_events = st.builds(
    lambda node, kind, clock, at: {
        "type": f"worker-{kind}",
        "hostname": node,
        "clock": clock,
        "timestamp": NOW + at,
        "local_received": NOW + at,
        "freq": 2,
        "active": 1,
        "processed": 7,
        "pid": 1,
    },
    st.sampled_from(NODES),
    st.sampled_from(["online", "heartbeat", "offline"]),
    st.integers(1, 50),
    st.integers(0, 10),
)


def account(state: Any) -> Any:
    """What a monitor reads of a state."""
    fields = [field for field in ours.Task._fields if field not in ("worker", "root", "parent", "children")]
    return {
        "tasks": {
            uuid: {
                **{field: getattr(task, field, None) for field in fields},
                "worker": task.worker and task.worker.hostname,
                "children": sorted(child.uuid for child in task.children),
                "ready": task.ready,
                "info": task.info(),
                "origin": task.origin,
            }
            for uuid, task in state.itertasks()
        },
        "workers": {
            name: (worker.status_string, worker.heartbeats, worker.freq, worker.active, worker.processed, worker.id)
            for name, worker in state.workers.items()
        },
        "by_time": [uuid for uuid, _ in state.tasks_by_time()],
        "by_type": [uuid for uuid, _ in state.tasks_by_type("proj.add")],
        "indexed": sorted(task.uuid for task in state.tasks_by_type["proj.add"]),
        "by_worker": {node: sorted(task.uuid for task in state.tasks_by_worker[node]) for node in NODES},
        "types": state.task_types(),
        "counts": (state.event_count, state.task_count),
        "alive": sorted(worker.hostname for worker in state.alive_workers()),
        "repr": repr(state),
    }


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(task_events, worker_events), max_size=25))
def test_a_state_is_that_of_celery(events: list[dict[str, Any]]) -> None:
    their, our = theirs.State(), ours.State()

    for event in events:
        their.event(dict(event))
        our.event(dict(event))

    assert account(our) == account(their)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(task_events, worker_events), max_size=25))
def test_a_state_survives_pickling_with_all_it_knows(events: list[dict[str, Any]]) -> None:
    state = ours.State()
    for event in events:
        state.event(dict(event))

    again = pickle.loads(pickle.dumps(state))

    kept = ("types", "counts", "repr", "by_time", "by_type")  # of these Celery's forgets as well
    before, after = account(state), account(again)
    assert {key: value for key, value in after.items() if key not in kept}["workers"] == before["workers"]
    assert {uuid: task["state"] for uuid, task in after["tasks"].items()} == {
        uuid: task["state"] for uuid, task in before["tasks"].items()
    }


def received(uuid: str, at: float = 0.0) -> dict[str, Any]:
    event = {"type": "task-received", "uuid": uuid, "hostname": "a@h", "clock": 1, "name": "t", "pid": 1}
    return {**event, "timestamp": NOW + at, "local_received": NOW + at}


def test_no_more_is_kept_than_asked_for() -> None:
    state = ours.State(max_tasks_in_memory=10)

    for number in range(100):
        state.event(received(str(number), number))

    assert len(state.tasks) == 10
    assert len(state._taskheap) <= 40
    assert [uuid for uuid, _ in state.tasks_by_time(limit=1)] == ["99"]


def test_clearing_keeps_what_has_not_ended_unless_it_is_told_not_to() -> None:
    state = ours.State()
    for uuid in TASKS:
        state.event(received(uuid))
    state.event({**received("t1"), "type": "task-succeeded", "clock": 2})

    state.clear_tasks()
    assert set(state.tasks) == {"t2", "t3"}
    state.freeze_while(lambda: None, clear_after=True)
    assert set(state.tasks) == {"t2", "t3"}
    state.clear(ready=False)
    assert (set(state.tasks), set(state.workers), state.event_count) == (set(), set(), 0)


def test_a_worker_whose_clock_is_off_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    state = ours.State()
    late = {"type": "worker-heartbeat", "hostname": "off@h", "clock": 1, "timestamp": NOW - 3600, "local_received": NOW}

    for _ in range(3):
        state.event(dict(late))

    assert caplog.text.count("The clock of off@h seems to be 3600 s off") == 1


def test_who_joins_and_leaves_is_told() -> None:
    told: list[str] = []
    state = ours.State(
        on_node_join=lambda worker: told.append(f"+{worker.hostname}"),
        on_node_leave=lambda worker: told.append(f"-{worker.hostname}"),
    )
    for kind in ("online", "heartbeat", "offline"):
        event = {"type": f"worker-{kind}", "hostname": "a@h", "clock": 1, "timestamp": NOW, "local_received": NOW}
        state.event(event)

    assert told == ["+a@h", "-a@h"]
    assert heartbeat_expires(100, 2) == 104


def test_events_of_other_groups_have_handlers_of_their_own() -> None:
    state = ours.State()
    state.handlers["project"] = lambda subject, event: (subject, event["n"])

    assert state.event({"type": "project-built", "n": 7}) == (("built", 7), "built")
    assert state.event({"type": "unknown-thing"}) is None
