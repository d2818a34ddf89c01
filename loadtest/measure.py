"""What a benchmark reads beside its clock: CPU times, WAL, the machine it ran on, medians.

CPU times come from /proc and are known only for processes of this machine; elsewhere they are None. WAL is that of
the whole server, so nothing else may run on it. On a shared machine trust CPU times, bytes and ratios, not rates.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import psycopg

TICKS_PER_S = os.sysconf("SC_CLK_TCK")

#: Settings of the server on which its figures depend.
SETTINGS = (
    *("fsync", "synchronous_commit", "full_page_writes", "wal_compression", "wal_sync_method", "data_checksums"),
    *("shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "autovacuum_naptime", "jit"),
)

#: Figures of one run of one experiment, by name; None where a figure cannot be had here.
Figures = dict[str, Any]


# -- processes -------------------------------------------------------------------------------------------------


def process_cpu_s(pid: int) -> float:
    """The CPU time of the living threads of a process of this machine, to the nanosecond."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def resident_bytes(pid: int) -> int:
    """The memory that a process of this machine has; what it shares with others, such as its parent, included."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def children_of(pid: int) -> list[int]:
    """The processes that a process of this machine has forked and that are still there."""
    return [child for child, stat in _processes() if int(stat[1]) == pid]


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield int(entry.name), _stat(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


# -- the server ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spent:
    """Counters of the server at one moment; subtract two."""

    cpu_s: float | None
    wal_bytes: float

    def __sub__(self, earlier: Spent) -> Spent:
        return Spent(difference(self.cpu_s, earlier.cpu_s), self.wal_bytes - earlier.wal_bytes)


def spent(conn: psycopg.Connection[Any]) -> Spent:
    """Read the server's counters: CPU from /proc when local, and the WAL position."""
    row = conn.execute("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn").fetchone()
    assert row is not None
    return Spent(_server_cpu_s(conn.info.backend_pid) if is_local(conn) else None, float(row[0]))


def backend_cpu_s(conn: psycopg.Connection[Any]) -> float | None:
    """Return the CPU time of this connection's backend, or None when it is elsewhere."""
    return process_cpu_s(conn.info.backend_pid) if is_local(conn) else None


def is_local(conn: psycopg.Connection[Any]) -> bool:
    """Are the server's processes to be found in /proc? Those of a container or behind a pooler are not, wherever that is."""
    try:
        title = Path(f"/proc/{conn.info.backend_pid}/cmdline").read_bytes()
    except OSError:
        return False
    # Another server far away may by chance have a process of the same number.
    return title.startswith(b"postgres") and conn.info.dbname.encode() in title and Path("/proc/self/schedstat").exists()


def _server_cpu_s(backend: int) -> float:
    """Sum the CPU of the postmaster, of its living children and of those it has already buried."""
    postmaster = int(_stat(backend)[1])
    while True:
        own = _stat(postmaster)[11:15]
        living = sum(int(stat[11]) + int(stat[12]) for _, stat in _processes() if int(stat[1]) == postmaster)
        if _stat(postmaster)[13:15] == own[2:]:  # nobody was buried between the two readings
            return (sum(map(int, own)) + living) / TICKS_PER_S


def difference(later: float | None, earlier: float | None) -> float | None:
    """Subtract two readings, of which there may be none."""
    return None if later is None or earlier is None else later - earlier


def per_task_us(seconds: Iterable[float | None], tasks: int) -> float | None:
    """Share CPU seconds out among tasks, in microseconds; None when none of them is known."""
    known = [each for each in seconds if each is not None]
    return sum(known) / tasks * 1e6 if known else None


# -- the machine -----------------------------------------------------------------------------------------------


def machine() -> Figures:
    """Describe where this runs, and how busy it is with other things right now."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "libpq": psycopg.pq.version(),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def settings(conn: psycopg.Connection[Any]) -> dict[str, str]:
    """The server's version and those of its settings that matter here."""
    found = conn.execute(
        "SELECT name, current_setting(name) FROM pg_settings WHERE name = ANY (%s)", [["server_version", *SETTINGS]]
    )
    return dict(found.fetchall())


def crowding(samples: int = 200) -> float:
    """How much more CPU time the same work takes here than it would alone: others take caches away, and memory.

    A process that sleeps between pieces of work, as those that wait for a database do, feels this most.
    """
    words = [str(number) for number in range(2000)]
    took_s = []
    for _ in range(samples):
        time.sleep(0.001)
        began_at = time.process_time()
        sorted(words, key=len)
        took_s.append(time.process_time() - began_at)
    return statistics.median(took_s) / min(took_s)


def fsyncs_per_s(seconds: float = 0.5) -> float:
    """How often a block can be written and flushed here in a second, by one process: what a lone commit waits for."""
    block, count = os.urandom(8192), 0
    with TemporaryFile(buffering=0) as file:
        file.write(block * 64)
        os.fsync(file.fileno())
        began_at = time.perf_counter()
        while time.perf_counter() - began_at < seconds:
            file.seek(count % 64 * 8192)
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
        return count / (time.perf_counter() - began_at)


# -- rounds ----------------------------------------------------------------------------------------------------


def medians(runs: Sequence[Figures]) -> Figures:
    """Take the median of each figure over the runs of one case."""
    return {key: statistics.median(run[key] for run in runs) if runs[0][key] is not None else None for key in runs[0]}


def ratio(runs: Sequence[Figures], yardstick: Sequence[Figures], key: str) -> float:
    """Compare one figure round by round with another case, and take the median: slow minutes cancel out."""
    return float(statistics.median(run[key] / base[key] for run, base in zip(runs, yardstick, strict=True)))


def ratios(runs: Sequence[Figures], yardstick: Sequence[Figures], keys: Iterable[str]) -> Figures:
    """`ratio` for several figures, each as `<figure>_ratio`; those that are not known are left out."""
    return {f"{key}_ratio": ratio(runs, yardstick, key) for key in keys if runs[0][key]}
