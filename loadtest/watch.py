"""What happens while a load test runs, once a second: rates, latencies, waits, and who uses the processors.

Everything is seen from the server: a task's times are its rows' timestamps, so a generator out of breath
cannot make them look better. Latencies are those of every 32nd task, chosen by its id; that of a task with
predecessors has no queue wait. Wait events are sampled ten times a second. Processor times are from /proc, of
this machine only.

Rates count rows by their timestamps and not by the server's counters, which come late: a backend reports what it
has inserted once a second, and ten seconds later when it has become idle, so the counters saw tasks sent when
nobody sent any more. A second is counted up to the start of the oldest statement that is under way, whose rows
nobody sees yet; what it leaves out is in the next one.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from threading import Event, Thread
from typing import Any
from uuid import UUID

import psycopg

from loadtest.measure import Figures, children_of, is_local, process_cpu_s, spent

PERIOD_S = 1.0
_LOOKS = 10

#: What the busy backends of clients are doing, in the words of the report.
_ACTIVITY = """
SELECT CASE
         WHEN wait_event_type IS NULL THEN 'cpu'
         WHEN lower(wait_event) IN ('walsync', 'walwrite', 'waldatasync') THEN 'wal'
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

#: Up to when all that was written can be seen, but for what takes longer than half a minute; steps of workflows so far, which
#: have no index by time; how many tasks are ready, and how many are claimed.
_NOW = """
SELECT greatest(clock_timestamp() - interval '30 seconds', least(clock_timestamp(),
         (SELECT min(xact_start) FROM pg_stat_activity
          WHERE datname = current_database() AND backend_type = 'client backend'
            AND (state = 'active' OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()))),
       (SELECT n_tup_ins FROM pg_stat_user_tables WHERE relid = 'pgtasks.step'::regclass),
       (SELECT count(*) FROM (SELECT FROM pgtasks.ready LIMIT 200000) r),
       (SELECT count(*) FROM pgtasks.claim)
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

    def __init__(self, url: str, seen: Callable[[Figures], None] | None = None) -> None:
        """`seen` is called with every point."""
        self.url = url
        self.points: list[Figures] = []
        self._seen = seen
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
            while not self._over.is_set():
                waits = self._look(conn)
                if self.points and time.monotonic() - before["clock"] < PERIOD_S / 2:
                    return  # so short a time says nothing: counters of the server come once a second
                now = _counters(conn)
                if self.points and (now["at"] - before["at"]).total_seconds() < PERIOD_S / 2:
                    continue  # a long statement hides what was written meanwhile
                self.points.append({"t": time.monotonic() - began_at, **_between(conn, before, now), "waits": waits})
                before = now
                if self._seen is not None:
                    self._seen(self.points[-1])

    def _look(self, conn: psycopg.Connection[Any]) -> dict[str, float]:
        """The average number of backends per activity, over a period."""
        found: Counter[str] = Counter()
        for _ in range(_LOOKS):
            self._over.wait(PERIOD_S / _LOOKS)
            found.update(dict(conn.execute(_ACTIVITY).fetchall()))
        return {what: number / _LOOKS for what, number in found.items()}


def _counters(conn: psycopg.Connection[Any]) -> Figures:
    """What only grows: subtract two of these."""
    server = spent(conn)
    row = conn.execute(_NOW).fetchone()
    assert row is not None
    workers = (
        conn.execute("SELECT pid FROM pgtasks.worker WHERE machine <> 'pgbench'").fetchall() if is_local(conn) else []
    )
    return {
        "at": row[0],
        "steps": row[1],
        "ready": row[2],
        "claimed": row[3],
        "wal": server.wal_bytes,
        "server_cpu": server.cpu_s,
        "worker_cpu": _cpu_of(family for (pid,) in workers for family in (pid, *children_of(pid))),
        "generator_cpu": _cpu_of((os.getpid(), *children_of(os.getpid()))),
        # Side by side: on a busy machine a lot happens between two lines.
        "clock": time.monotonic(),
        "machine_cpu": _machine_cpu_s(),
    }


def _between(conn: psycopg.Connection[Any], before: Figures, now: Figures) -> Figures:
    took_s = now["clock"] - before["clock"]
    window = {"since": before["at"], "until": now["at"]}
    counted_s = max(0.001, (now["at"] - before["at"]).total_seconds())
    ended, queue_ms, run_ms, total_ms = _row(conn, _ENDED, {**window, "at": list(PERCENTILES)})
    # Two seconds for clocks that differ.
    since_id = UUID(int=int((before["at"].timestamp() - 2) * 1000) << 80)
    (sent,) = _row(conn, _SENT, {**window, "since_id": since_id})
    settled_in, sent_in = _row(conn, _BATCHES, window)
    workers = _rates(before["worker_cpu"], now["worker_cpu"], took_s)
    generators = _rates(before["generator_cpu"], now["generator_cpu"], took_s)
    return {
        "sent_per_s": sent / counted_s,
        "ended_per_s": ended / counted_s,
        "steps_per_s": (now["steps"] - before["steps"]) / took_s,
        "ready": now["ready"],
        "claimed": now["claimed"],
        "queue_ms": queue_ms,
        "run_ms": run_ms,
        "total_ms": total_ms,
        "settled_in": settled_in,
        "sent_in": sent_in,
        "wal_per_s": (now["wal"] - before["wal"]) / took_s,
        "server_cores": None if now["server_cpu"] is None else (now["server_cpu"] - before["server_cpu"]) / took_s,
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


def _rates(before: dict[int, float], now: dict[int, float], took_s: float) -> list[float]:
    return [(now[pid] - before[pid]) / took_s for pid in now if pid in before]


def _machine_cpu_s() -> float:
    """The processor time that this machine has spent on anything."""
    with open("/proc/stat") as file:
        user, nice, system, _, _, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
