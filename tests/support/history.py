"""What happened, and whether it was allowed to: the judge of every chaos run.

A history has three witnesses:

    producers   note before and after every enqueue: tried, acked or unknown, with the ids and the shape
    tasks       note when they begin and end, each run with a token of its own, which is also in the value it returns
    the tables  an audit of every claim and result, written by triggers in the transactions that make them, and what is
                left in the end

`violations` compares them. Notes are lines in files opened with O_APPEND, one write each, so that they survive `kill -9`
of the process that made them and are not mixed up. The invariants:

    I1  every acked task, and all of its canvas, has ended, and as it should: none fails but those at most once, and
        those that are meant to
    I2  nothing runs that nobody tried to enqueue; a request is there once, with all of its canvas or not at all
    I3  a task has one result, and its value is of a run of the worker that held the claim when it was stored
    I5  a task is run at most as often as it was handed out, and once more for every crash of the server, which may undo a
        claim that was just made; its deliveries have different numbers; at-most-once tasks run once
    I6  a task is in the hands of one worker at a time
    I7  a task that has ended is not handed out again
    I8  a task that waits for one is handed out after that has succeeded, and sees its value
    I9  a task that waits for several is handed out once all have succeeded, and sees the values in the canvas' order
    I10 what a canvas that fails must undo is undone once, and what came later before what came earlier
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg

AUDIT = """
CREATE SCHEMA IF NOT EXISTS audit;
CREATE TABLE IF NOT EXISTS audit.event (
  n bigint GENERATED ALWAYS AS IDENTITY, at timestamptz DEFAULT clock_timestamp(), what text, id uuid, worker uuid, pid int,
  delivery int, state text, value text);
CREATE OR REPLACE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_TABLE_NAME = 'claim' AND TG_OP = 'INSERT' THEN
    INSERT INTO audit.event (what, id, worker, pid, delivery)
    VALUES ('grant', NEW.id, NEW.worker, (SELECT pid FROM pgtasks.worker WHERE id = NEW.worker), NEW.delivery);
  ELSIF TG_TABLE_NAME = 'claim' THEN
    INSERT INTO audit.event (what, id, worker, delivery) VALUES ('release', OLD.id, OLD.worker, OLD.delivery);
  ELSE
    INSERT INTO audit.event (what, id, delivery, state, value)
    VALUES ('end', NEW.id, NEW.delivery, NEW.state, encode(NEW.value, 'escape'));
  END IF;
  RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER audit AFTER INSERT OR DELETE ON pgtasks.claim FOR EACH ROW EXECUTE FUNCTION audit.note();
CREATE OR REPLACE TRIGGER audit AFTER INSERT ON pgtasks.result FOR EACH ROW EXECUTE FUNCTION audit.note();
"""


def note(path: Path | str, event: str, **facts: Any) -> None:
    """Add one line to a history."""
    line = json.dumps({"event": event, "pid": os.getpid(), **facts}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def notes(path: Path) -> list[dict[str, Any]]:
    """The lines of a history; the last one of a process that was killed may be torn, and is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


class Event(NamedTuple):
    """One line of the audit."""

    n: int
    at: Any
    what: str
    id: UUID
    worker: UUID | None = None
    pid: int | None = None
    delivery: int | None = None
    state: str | None = None
    value: str | None = None


@dataclass
class Tables:
    """What the database says in the end."""

    audit: list[Event] = field(default_factory=list)
    #: Where each task stands: ready, scheduled, waiting, claimed or the state it ended in. A task may not be in two places.
    standing: dict[UUID, list[str]] = field(default_factory=lambda: defaultdict(list))
    #: The ids of the messages of each request, which is an argument of its tasks.
    requests: dict[str, set[UUID]] = field(default_factory=lambda: defaultdict(set))
    #: The ids of the tasks that undo each request.
    undos: dict[str, list[UUID]] = field(default_factory=lambda: defaultdict(list))


_PLACES = """
SELECT id, 'ready' FROM pgtasks.ready
UNION ALL SELECT id, 'scheduled' FROM pgtasks.scheduled
UNION ALL SELECT id, 'waiting' FROM pgtasks.waiting WHERE pending > 0
UNION ALL SELECT id, 'claimed' FROM pgtasks.claim
UNION ALL SELECT id, state FROM pgtasks.result
"""


def read_tables(conn: psycopg.Connection[Any]) -> Tables:
    """Read the tables; call this when nothing moves any more."""
    tables = Tables()
    tables.audit = [
        Event(*row)
        for row in conn.execute(
            "SELECT n, at, what, id, worker, pid, delivery, state, value FROM audit.event ORDER BY n"
        )
    ]
    for task_id, place in conn.execute(_PLACES):
        tables.standing[task_id].append(place)
    for task_id, payload in conn.execute("SELECT id, payload FROM pgtasks.message"):
        _, kwargs, *_ = json.loads(payload)
        if "request" in kwargs:
            tables.requests[kwargs["request"]].add(task_id)
        elif "undoes" in kwargs:
            tables.undos[kwargs["undoes"]].append(task_id)
    return tables


class Violation(NamedTuple):
    """One thing that must not be."""

    invariant: str
    id: Any
    what: str


def violations(lines: Iterable[dict[str, Any]], tables: Tables) -> list[Violation]:
    """Everything in a history that must not be."""
    return [*_Judge(list(lines), tables).verdict()]


class _Judge:
    def __init__(self, lines: list[dict[str, Any]], tables: Tables) -> None:
        self.tables = tables
        self.tried = {line["request"]: line for line in lines if line["event"] == "try"}
        self.acked = {line["request"] for line in lines if line["event"] == "acked"}
        self.twice = [task_id for line in lines if line["event"] == "twice" for task_id in line["ids"]]
        self.crashes = sum(line["event"] == "crash" for line in lines)
        self.begun: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        for line in lines:
            if line["event"] == "begin":
                self.begun[UUID(line["id"])].append(line)
        self.audit: dict[UUID, list[Event]] = defaultdict(list)
        for event in tables.audit:
            self.audit[event.id].append(event)
        self.ids = {request: [UUID(each) for each in line["ids"]] for request, line in self.tried.items()}
        self.request_of = {task_id: request for request, ids in self.ids.items() for task_id in ids}

    def verdict(self) -> Iterator[Violation]:
        for request in self.tried:
            yield from self._presence(request)
        for task_id in self.begun.keys() - self.request_of.keys():
            yield Violation("I2", task_id, "ran, but nobody tried to enqueue it")
        for task_id in self.twice:
            yield Violation("I3", task_id, "was settled a second time by the same outcome")
        for task_id, events in self.audit.items():
            yield from self._grants(task_id, events)
        for task_id in self.request_of:
            yield from self._runs(task_id)
        for request, line in self.tried.items():
            yield from self._canvas(line)
            yield from self._undos(request, line)

    def _presence(self, request: str) -> Iterator[Violation]:
        ids, there = self.ids[request], self.tables.requests.get(request, set())
        if extra := there - set(ids):
            yield Violation("I2", request, f"is there more than once: {sorted(map(str, extra))} beside what was tried")
        if there and not there >= set(ids):
            yield Violation("I2", request, f"is there in part: {len(there)} of {len(ids)} tasks")
        for task_id in ids:
            places = self.tables.standing.get(task_id, [])
            if len(places) > 1:
                yield Violation("I3", task_id, f"is in several places: {places}")
            if request in self.acked and not any(place.isupper() for place in places):
                yield Violation("I1", task_id, f"was acked and has not ended: {places or 'there is no trace of it'}")
            elif self.tried[request]["shape"] != "once" and places not in ([], [self._should_end(request, task_id)]):
                yield Violation("I1", task_id, f"ended {places} and not {self._should_end(request, task_id)}")

    def _should_end(self, request: str, task_id: UUID) -> str:
        state: str = self.tried[request].get("ends", {}).get(str(task_id), "SUCCESS")
        return state

    def _grants(self, task_id: UUID, events: list[Event]) -> Iterator[Violation]:
        held: Event | None = None
        numbers: set[int | None] = set()
        ended: Event | None = None
        for event in events:
            if event.what == "grant":
                if held is not None:
                    yield Violation("I6", task_id, f"was handed to {event.worker} while {held.worker} held it")
                if event.delivery in numbers:
                    yield Violation("I5", task_id, f"was handed out twice as delivery {event.delivery}")
                if ended is not None and ended.state != "REVOKED":
                    yield Violation("I7", task_id, f"was handed out after it had ended {ended.state}")
                numbers.add(event.delivery)
                held = event
            elif event.what == "release":
                held = None
            else:
                if ended is not None:
                    yield Violation("I3", task_id, f"ended twice: {ended.state}, then {event.state}")
                ended = event

    def _runs(self, task_id: UUID) -> Iterator[Violation]:
        runs, events = self.begun.get(task_id, []), self.audit.get(task_id, [])
        grants = [event for event in events if event.what == "grant"]
        if len(runs) > len(grants) + self.crashes:
            yield Violation("I5", task_id, f"ran {len(runs)} times and was handed out {len(grants)} times")
        if len(runs) > 1 and runs[0].get("once"):
            yield Violation("I5", task_id, f"is at most once and ran {len(runs)} times")
        end = next((event for event in events if event.what == "end"), None)
        if end is None or end.state != "SUCCESS":
            return
        token = json.loads(end.value or "null")["token"]
        winner = next((run for run in runs if run["token"] == token), None)
        holder = [grant for grant in grants if grant.n < end.n][-1]
        if winner is None:
            yield Violation("I3", task_id, "has the value of a run that never was")
        elif winner["parent"] != holder.pid:
            yield Violation(
                "I3", task_id, f"has the value of a run in worker {winner['parent']} while worker {holder.pid} held it"
            )

    def _canvas(self, line: dict[str, Any]) -> Iterator[Violation]:
        for task_id, preds in line.get("after", {}).items():
            invariant = "I8" if len(preds) == 1 else "I9"
            for pred in preds:
                yield from self._order(invariant, UUID(pred), UUID(task_id))
            value, sees = self._value(UUID(task_id)), line["sees"].get(task_id)
            if value is not None and sees is not None and value["seen"] != sees:
                yield Violation(invariant, task_id, f"saw {value['seen']} and not {sees}")

    def _undos(self, request: str, line: dict[str, Any]) -> Iterator[Violation]:
        """In which order, and how often, a canvas was undone; an undo that has not ended is found too."""
        ends: list[tuple[int, int]] = []
        for undo in self.tables.undos.get(request, ()):
            value = self._value(undo)
            if value is None:
                yield Violation("I10", undo, f"undoes a task of {request} and has not succeeded")
            else:
                ends.append((next(event.n for event in self.audit[undo] if event.what == "end"), value["undone"]))
        undone = [number for _, number in sorted(ends)]
        must = line.get("undone", []) if any(self.tables.standing.get(each) for each in self.ids[request]) else []
        if sorted(undone) != sorted(must):
            yield Violation("I10", request, f"has undone {undone} and not {must}")
        ids = line["ids"]
        for earlier, later in ((pred, succ) for succ, preds in line.get("after", {}).items() for pred in preds):
            pair = [each for each in undone if ids[each] in (earlier, later)]
            if len(pair) == 2 and ids[pair[0]] == earlier:
                yield Violation("I10", request, f"has undone {pair[0]} before {pair[1]}, which came after it")

    def _order(self, invariant: str, pred: UUID, succ: UUID) -> Iterator[Violation]:
        grant = next((event for event in self.audit.get(succ, []) if event.what == "grant"), None)
        end = next((event for event in self.audit.get(pred, []) if event.what == "end"), None)
        if grant is not None and (end is None or end.state != "SUCCESS" or grant.at < end.at):
            yield Violation(invariant, succ, f"was handed out before {pred} had succeeded")

    def _value(self, task_id: UUID) -> Any:
        end = next((event for event in self.audit.get(task_id, []) if event.what == "end"), None)
        return json.loads(end.value or "null") if end is not None and end.state == "SUCCESS" else None
