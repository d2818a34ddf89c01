"""What happens while a load test runs, once a second: rates, latencies, waits, and who uses the processors.

Everything is seen from the server: a task's times are its rows' timestamps, so a generator out of breath
cannot make them look better. Latencies are those of every 32nd task, chosen by its id; that of a task with
predecessors has no queue wait. Wait events are sampled ten times a second. Processor times are from /proc, of
this machine only.

Rates count rows by their timestamps and not by the server's counters, which come late: a backend reports what it
has inserted once a second, and ten seconds later when it has become idle, so the counters saw tasks sent when
nobody sent any more. A second is counted up to the start of the oldest statement that is under way, whose rows
nobody sees yet; what it leaves out is in the next one. While such a statement hides all of a second, its rates are not
known; when they are, those of the seconds that were hidden are the mean over all of them.
"""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from threading import Event, Thread
from typing import Any
from uuid import UUID

import psycopg

from loadtest.measure import Figures, children_of, is_local, process_cpu_s, resident_bytes, spent

PERIOD_S = 1.0
_LOOKS = 10

#: What the busy backends of clients are doing, in the words of the report.
_ACTIVITY = """
SELECT CASE
         WHEN wait_event_type IS NULL THEN 'cpu'
         WHEN lower(wait_event) IN ('walsync', 'walwrite', 'waldatasync', 'commitdelay') THEN 'wal'
         WHEN wait_event_type = 'Lock' THEN 'lock'
         WHEN wait_event_type = 'LWLock' THEN 'lwlock'
         WHEN wait_event_type = 'IO' THEN 'io'
         ELSE 'other'
       END, count(*)
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND state = 'active'
  AND pid <> pg_backend_pid() AND (wait_event_type IS NULL OR wait_event_type <> 'Client')
GROUP BY 1
"""

_BACKENDS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""

#: Up to when all that was written can be seen, but for what takes longer than half a minute; steps of workflows so far, which
#: have no index by time; how many tasks are ready, and how many are claimed; dead rows, as autovacuum counts them, and bytes.
_NOW = """
SELECT greatest(clock_timestamp() - interval '30 seconds', least(clock_timestamp(),
         (SELECT min(xact_start) FROM pg_stat_activity
          WHERE datname = current_database() AND backend_type = 'client backend'
            AND (state = 'active' OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()))),
       (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'pgtasks.step'::regclass),
       (SELECT count(*) FROM (SELECT FROM pgtasks.ready LIMIT 200000) r),
       (SELECT count(*) FROM pgtasks.claim),
       (SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE schemaname = 'pgtasks')::float8,
       pg_database_size(current_database())
"""

#: Tasks that were sent between two moments. Their ids begin with their makers' time, which finds them.
_SENT = """
SELECT count(*) FROM pgtasks.message
WHERE id >= %(since_id)s AND created_at > %(since)s AND created_at <= %(until)s
"""

#: Tasks that ended between two moments: how many, and the times of a part of them, in ms.
_ENDED = """
SELECT (SELECT count(*) FROM pgtasks.result WHERE done_at > %(since)s AND done_at <= %(until)s),
       percentile_cont(%(at)s::float8[]) WITHIN GROUP (ORDER BY extract(epoch FROM claimed_at - created_at) * 1000)
         FILTER (WHERE inputs IS NULL),
       percentile_cont(%(at)s::float8[]) WITHIN GROUP (ORDER BY extract(epoch FROM done_at - claimed_at) * 1000),
       percentile_cont(%(at)s::float8[]) WITHIN GROUP (ORDER BY extract(epoch FROM done_at - created_at) * 1000)
         FILTER (WHERE inputs IS NULL)
FROM (SELECT id, done_at, claimed_at FROM pgtasks.result
      WHERE done_at > %(since)s AND done_at <= %(until)s AND get_byte(uuid_send(id), 9) < 8) r
JOIN pgtasks.message m USING (id)
"""

#: How many messages there are per statement that wrote them; and per statement that settled.
_BATCHES = """
SELECT (SELECT count(*)::float8 / nullif(count(DISTINCT done_at), 0) FROM
          (SELECT done_at FROM pgtasks.result WHERE done_at > %(since)s AND done_at <= %(until)s LIMIT 5000) r),
       (SELECT count(*)::float8 / nullif(count(DISTINCT created_at), 0) FROM
          (SELECT m.created_at FROM pgtasks.result r JOIN pgtasks.message m USING (id)
           WHERE r.done_at > %(since)s AND r.done_at <= %(until)s LIMIT 5000) m)
"""

PERCENTILES = (0.5, 0.95, 0.99)


class Watch:
    """Looks at a database and at this machine until it is stopped; `points` are what it saw."""

    def __init__(self, url: str, users: Callable[[], int] = lambda: 0) -> None:
        """`users` says how many there are at the moment."""
        self.url = url
        self.users = users
        self.points: list[Figures] = []
        self._over = Event()
        self._thread = Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Look no more; what was being looked at is still seen, if it has lasted long enough."""
        self._over.set()
        self._thread.join(30)

    def _watch(self) -> None:
        with psycopg.connect(self.url, autocommit=True, application_name="loadtest watch") as conn:
            began_at = time.monotonic()
            before = _counters(conn)
            conn.execute("SET lock_timeout = '300ms'")
            looks: list[dict[str, int]] = []
            while not self._over.is_set():
                users = self.users()
                looks += self._look(conn)
                if self.points and time.monotonic() - before["clock"] < PERIOD_S / 2:
                    return  # so short a time says nothing: counters of the server come once a second
                try:
                    now, point = _looked(conn, before)
                except psycopg.errors.LockNotAvailable:
                    continue  # somebody has a table for himself; the next point is of all the time until then
                if point["sent_per_s"] is not None:
                    self._reveal(point)
                self.points.append(
                    {"t": time.monotonic() - began_at, "users": users, **point, "waits": _averages(looks)}
                )
                before, looks = now, []

    def _reveal(self, point: Figures) -> None:
        """The window of a point begins where the last one's ended: its rates are those of the seconds hidden between."""
        for hidden in reversed(self.points):
            if hidden["sent_per_s"] is not None:
                return
            hidden |= {name: point[name] for name in ("sent_per_s", "ended_per_s")}

    def _look(self, conn: psycopg.Connection[Any]) -> list[dict[str, int]]:
        """How many backends there are per activity, several times in a period."""
        found = []
        for _ in range(_LOOKS):
            self._over.wait(PERIOD_S / _LOOKS)
            found.append(dict(conn.execute(_ACTIVITY).fetchall()))
        return found


def _averages(looks: Sequence[Mapping[str, int]]) -> dict[str, float]:
    found: Counter[str] = Counter()
    for look in looks:
        found.update(look)
    return {what: number / len(looks) for what, number in found.items()}


def _looked(conn: psycopg.Connection[Any], before: Figures) -> tuple[Figures, Figures]:
    """Look again; gives the counters, from which the next look counts, and what is between the two looks."""
    now = _counters(conn)
    point = _used(before, now)
    if (now["at"] - before["at"]).total_seconds() < PERIOD_S / 2:
        return now | {"at": before["at"]}, point | _HIDDEN
    return now, point | _done(conn, before["at"], now["at"])


def _counters(conn: psycopg.Connection[Any]) -> Figures:
    """What only grows: subtract two of these."""
    server = spent(conn)
    row = conn.execute(_NOW).fetchone()
    assert row is not None
    workers = conn.execute("SELECT pid FROM pgtasks.worker WHERE machine = %s", [platform.node()]).fetchall()
    family = [each for (pid,) in workers for each in (pid, *children_of(pid))]
    backends = conn.execute(_BACKENDS).fetchall() if is_local(conn) else []
    return {
        "at": row[0],
        "steps": row[1],
        "ready": row[2],
        "claimed": row[3],
        "dead_rows": row[4],
        "database_bytes": row[5],
        "wal": server.wal_bytes,
        "server_cpu": server.cpu_s,
        "backend_cpu": _cpu_of(pid for (pid,) in backends),
        "worker_cpu": _cpu_of(family),
        "worker_bytes": _bytes_of(family),
        "generator_cpu": _cpu_of((os.getpid(), *children_of(os.getpid()))),
        # Side by side: on a busy machine a lot happens between two lines.
        "clock": time.monotonic(),
        "machine_cpu": _machine_cpu_s(),
    }


#: Of a second of which nothing is known yet that tasks have done.
_HIDDEN: Figures = dict.fromkeys(
    ("sent_per_s", "ended_per_s", "queue_ms", "run_ms", "total_ms", "settled_in", "sent_in"), None
)


def _done(conn: psycopg.Connection[Any], since: datetime, until: datetime) -> Figures:
    """What became of tasks between two moments, by the clock of the server."""
    window = {"since": since, "until": until}
    counted_s = (until - since).total_seconds()
    ended, queue_ms, run_ms, total_ms = _row(conn, _ENDED, {**window, "at": list(PERCENTILES)})
    # Two seconds for clocks that differ.
    since_id = UUID(int=int((since.timestamp() - 2) * 1000) << 80)
    (sent,) = _row(conn, _SENT, {**window, "since_id": since_id})
    settled_in, sent_in = _row(conn, _BATCHES, window)
    return {
        "sent_per_s": sent / counted_s,
        "ended_per_s": ended / counted_s,
        "queue_ms": queue_ms,
        "run_ms": run_ms,
        "total_ms": total_ms,
        "settled_in": settled_in,
        "sent_in": sent_in,
    }


def _used(before: Figures, now: Figures) -> Figures:
    """What was used between two readings, and what there is at the second."""
    took_s = now["clock"] - before["clock"]
    workers = _rates(before["worker_cpu"], now["worker_cpu"], took_s)
    generators = _rates(before["generator_cpu"], now["generator_cpu"], took_s)
    return {
        "steps_per_s": (now["steps"] - before["steps"]) / took_s,
        "ready": now["ready"],
        "claimed": now["claimed"],
        "dead_rows": now["dead_rows"],
        "database_bytes": now["database_bytes"],
        "worker_bytes": now["worker_bytes"],
        "wal_per_s": (now["wal"] - before["wal"]) / took_s,
        "server_cores": None if now["server_cpu"] is None else (now["server_cpu"] - before["server_cpu"]) / took_s,
        "server_busiest": max(_rates(before["backend_cpu"], now["backend_cpu"], took_s), default=0.0),
        "worker_cores": sum(workers),
        "worker_busiest": max(workers, default=0.0),
        "generator_cores": sum(generators),
        "generator_busiest": max(generators, default=0.0),
        "machine_cores": (now["machine_cpu"] - before["machine_cpu"]) / took_s,
    }


def _row(conn: psycopg.Connection[Any], query: str, given: Mapping[str, Any]) -> tuple[Any, ...]:
    row = conn.execute(query.encode(), given).fetchone()
    assert row is not None
    return row


def _cpu_of(pids: Iterable[int]) -> dict[int, float]:
    found = {}
    for pid in pids:
        try:
            found[pid] = process_cpu_s(pid)
        except OSError:  # it has ended meanwhile
            continue
    return found


def _bytes_of(pids: Iterable[int]) -> int:
    found = 0
    for pid in pids:
        with suppress(OSError):
            found += resident_bytes(pid)
    return found


def _rates(before: dict[int, float], now: dict[int, float], took_s: float) -> list[float]:
    return [(now[pid] - before[pid]) / took_s for pid in now if pid in before]


def _machine_cpu_s() -> float:
    """The processor time that this machine has spent on anything."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
