"""Where chaos runs: a Postgres of its own, workers behind proxies, producers, and faults to throw at all of them.

    with Arena(seed=7) as arena:
        arena.start_workers(3)
        arena.start_producers(2)
        arena.torment(["kill", "freeze", "restart"], seconds=20)
        assert arena.judge() == []

`judge` stops the producers and the faults, waits until nothing is left to do, and compares what was promised with what
happened (`tests.support.history`).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg

from pgtasks.store import migrate
from pgtasks.store.embedded import Server
from tests.support import history
from tests.support.proxy import FaultProxy
from tests.support.workers import REPOSITORY, WorkerProcess, eventually

#: Short, so that a run can have many of them.
LEASE_S = 2.0
_LIVE = """
SELECT (SELECT count(*) FROM pgtasks.ready) + (SELECT count(*) FROM pgtasks.scheduled) + (SELECT count(*) FROM pgtasks.claim)
     + (SELECT count(*) FROM pgtasks.waiting WHERE pending > 0)
"""
#: Statements that a proxy cuts before or after: claims, settles, enqueues, ticks, and the end of transactions.
_NEEDLES = (b"SKIP LOCKED", b"let_go AS", b"INSERT INTO pgtasks.message", b"heartbeat_at", b"COMMIT", b"SELECT")


class Arena:
    """One database server and everybody who uses it."""

    def __init__(
        self,
        seed: int = 0,
        *,
        mutant: str | None = None,
        lease_s: float = LEASE_S,
        migrated: bool = True,
        concurrency: int = 2,
        **conf: Any,
    ) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.concurrency = concurrency
        self.directory = Path(tempfile.mkdtemp(prefix="pgtasks-chaos-", dir="/tmp"))
        self.directory.chmod(0o755)
        self.history = self.directory / "history"
        self.history.touch()  # the last round may be over before anything is noted
        self.server = Server.at(self.directory / "server")
        self.workers: list[WorkerProcess] = []
        self.proxies: dict[int, FaultProxy] = {}
        self.producers: list[subprocess.Popen[bytes]] = []
        self.faults: list[str] = []
        self._is_migrated = migrated
        self._environ = {
            "CHAOS_HISTORY": str(self.history),
            "CHAOS_CONF": json.dumps({"worker_lease": lease_s, "task_max_deliveries": 1000, **conf}),
            "CHAOS_MUTANT": mutant or "",
        }

    def __enter__(self) -> Arena:
        try:
            self.url = self.server.start()
            with self.connect() as conn:
                # A crash of the server is in the programme, one of the machine is not.
                conn.execute("ALTER SYSTEM SET fsync = off")
                conn.execute("ALTER SYSTEM SET deadlock_timeout = '100ms'")
                conn.execute("SELECT pg_reload_conf()")
                if self._is_migrated:
                    migrate.upgrade(conn)
                    self.audit(conn)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for producer in self.producers:
            producer.kill()
            producer.wait()
        for worker in self.workers:
            worker.kill()
        for proxy in self.proxies.values():
            proxy.close()
        self.server.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=True)

    # -- who takes part

    def start_worker(
        self, *options: str, through_proxy: bool = True, concurrency: int | None = None, **environ: str
    ) -> WorkerProcess:
        """Start a worker."""
        url = self.url
        proxy = FaultProxy(self.url) if through_proxy else None
        if proxy is not None:
            url = proxy.url
        worker = WorkerProcess(
            self.directory / "logs", *options, module="tests.chaos.jobs", concurrency=concurrency or self.concurrency,
            environ={**self._environ, "PGTASKS_DATABASE_URL": url, **environ},
        )  # fmt: skip
        if proxy is not None:
            self.proxies[worker.pid] = proxy
        self.workers.append(worker)
        return worker

    def start_workers(self, count: int) -> None:
        for _ in range(count):
            self.start_worker()

    def request(self, shape: str, **arguments: Any) -> list[str]:
        """Enqueue one request and wait until that is done; gives its ids."""
        return self.requests([(shape, arguments)])[0]

    def requests(self, wanted: Sequence[tuple[str, dict[str, Any]]]) -> list[list[str]]:
        """Enqueue requests, each a shape with arguments, one after the other; gives the ids of each."""
        command = [sys.executable, "-m", "tests.chaos.producer", "some", json.dumps(wanted)]
        environ = {**os.environ, **self._environ, "PGTASKS_DATABASE_URL": self.url}
        said = subprocess.run(command, cwd=REPOSITORY, env=environ, check=True, capture_output=True, timeout=60)
        ids: list[list[str]] = json.loads(said.stdout)
        return ids

    def begun(self, task_id: str) -> list[dict[str, Any]]:
        """The runs of a task so far."""
        return [line for line in history.notes(self.history) if line["event"] == "begin" and line["id"] == task_id]

    def start_producers(
        self, count: int, *, pause_s: float = 0.05, through_proxy: bool = True, patience_s: float = 5.0
    ) -> None:
        """Start programs that enqueue until the end; they give one try up after `patience_s`, and try again."""
        for number in range(count):
            url = self.url
            if through_proxy:
                proxy = self.proxies[-1 - number] = FaultProxy(self.url)
                url = proxy.url
            self.producers.append(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        "tests.chaos.producer",
                        str(self.seed * 100 + number),
                        str(pause_s),
                        str(patience_s),
                    ],
                    stdin=subprocess.PIPE,
                    cwd=REPOSITORY,
                    env={**os.environ, **self._environ, "PGTASKS_DATABASE_URL": url},
                )
            )

    def audit(self, conn: psycopg.Connection[Any]) -> None:
        """Have every claim and result noted from now on."""
        conn.execute(history.AUDIT)

    def migrations(self) -> Sequence[migrate.Migration]:
        return migrate.migrations()

    def ended(self) -> int:
        """How many tasks have ended."""
        with self.connect() as conn:
            return _ended(conn)

    def idle(self) -> int:
        """How many workers have declared themselves idle."""
        with self.connect() as conn:
            row = conn.execute("SELECT count(DISTINCT worker) FROM pgtasks.idle").fetchone()
        return int(row[0]) if row else 0

    def statements_in(self, seconds: float) -> int:
        """How many transactions, each of one statement, everybody else commits in so many seconds."""
        query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        with self.connect() as conn:
            counts = []
            for _ in range(2):
                conn.execute("SELECT pg_stat_force_next_flush()")
                row = conn.execute(query).fetchone()
                assert row is not None
                counts.append(int(row[0]))
                time.sleep(seconds if len(counts) == 1 else 0)
        return counts[1] - counts[0] - 3

    # -- faults

    def torment(self, names: Sequence[str], seconds: float, *, pause_s: float = 0.4) -> None:
        """Throw faults by these names, in random order, for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            name = self.random.choice(names)
            self.faults.append(name)
            try:
                getattr(self, f"_{name}")()
            except psycopg.OperationalError:
                pass  # a fault that needs the database came when that was away
            self.replace_the_dead()
            time.sleep(self.random.uniform(0, pause_s))

    def replace_the_dead(self) -> None:
        for worker in [worker for worker in self.workers if worker.process.poll() is not None]:
            self.workers.remove(worker)
            if proxy := self.proxies.pop(worker.pid, None):
                proxy.close()
            self.start_worker()

    def bury(self, worker: WorkerProcess) -> None:
        """Forget a worker that has died, without having another one in its place."""
        self.workers.remove(worker)
        self.proxies.pop(worker.pid).close()

    def _any(self) -> WorkerProcess:
        return self.random.choice(self.workers)

    def _kill(self) -> None:
        self._any().kill()

    def _kill_parent(self) -> None:
        worker = self._any()
        os.kill(worker.pid, signal.SIGKILL)
        worker.process.wait()

    def _kill_child(self) -> None:
        if children := self._any().children():
            os.kill(self.random.choice(children), signal.SIGKILL)

    def _freeze(self) -> None:
        """Stop a worker for longer than its lease, with or without its children, and let it go on."""
        worker = self._any()
        stop, resume = (os.killpg, os.killpg) if self.random.random() < 0.5 else (os.kill, os.kill)
        stop(worker.pid, signal.SIGSTOP)
        time.sleep(self.random.uniform(1.0, 1.6) * LEASE_S)
        resume(worker.pid, signal.SIGCONT)

    def _terminate(self) -> None:
        with self.connect() as conn:
            conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgtasks'"
                " ORDER BY random() LIMIT 3"
            )

    def restart(self) -> None:
        """Crash the server and start it again."""
        self._restart()

    def _restart(self) -> None:
        history.note(self.history, "crash")
        self.server.stop("immediate")
        time.sleep(self.random.uniform(0, 0.5))
        self.server.start()

    def _proxy(self) -> FaultProxy:
        return self.random.choice(list(self.proxies.values()))

    def _cut(self) -> None:
        proxy, needle = self._proxy(), self.random.choice(_NEEDLES)
        cut = proxy.cut_before if self.random.random() < 0.5 else proxy.cut_after
        cut(needle, skip=self.random.randrange(5))

    def _partition(self) -> None:
        proxy = self._proxy()
        proxy.freeze()
        time.sleep(self.random.uniform(0.2, 1.3) * LEASE_S)
        if self.random.random() < 0.5:
            proxy.reset()
        proxy.thaw()

    def _refuse(self) -> None:
        proxy = self._proxy()
        proxy.refuse()
        time.sleep(self.random.uniform(0.2, 1.3) * LEASE_S)
        proxy.accept()

    def _stop(self) -> None:
        """Stop a worker as an operator does, and have another one start."""
        worker = self._any()
        worker.stop(self.random.choice([signal.SIGTERM, signal.SIGQUIT, signal.SIGINT]))

    # -- the end

    def settle_down(self, seconds: float = 120, *, replacing: bool = False) -> None:
        """Stop the producers, and wait until nothing is left to do; `replacing` workers that die meanwhile.

        Fails when nothing has ended for so many seconds.
        """
        for proxy in self.proxies.values():
            proxy.disarm()
            proxy.accept()
            proxy.thaw()
        for producer in self.producers:
            assert producer.stdin is not None
            producer.stdin.close()
            assert producer.wait(120) == 0, "a producer failed"
        self.replace_the_dead()
        with self.connect() as conn:
            deadline, ended = time.monotonic() + seconds, _ended(conn)
            while (left := conn.execute(_LIVE).fetchone()) != (0,):
                if (now_ended := _ended(conn)) > ended:
                    ended, deadline = now_ended, time.monotonic() + seconds
                if time.monotonic() > deadline:
                    raise AssertionError(f"{left} tasks are still there:\n{self.describe(conn)}")
                if replacing:
                    self.replace_the_dead()
                time.sleep(0.05)

    def judge(self, seconds: float = 120) -> list[history.Violation]:
        """Settle down, and say what has happened that must not."""
        self.settle_down(seconds)
        with self.connect() as conn:
            return history.violations(history.notes(self.history), history.read_tables(conn))

    def describe(self, conn: psycopg.Connection[Any]) -> str:
        """What is needed to understand a run that did not end well."""
        stuck = conn.execute("SELECT * FROM pgtasks.stuck LIMIT 10").fetchall()
        live = conn.execute(
            "SELECT id, name, state, pending, worker FROM pgtasks.tasks WHERE done_at IS NULL LIMIT 10"
        ).fetchall()
        logs = "\n".join(f"-- {worker.pid}\n{worker.output()[-1500:]}" for worker in self.workers)
        return f"seed {self.seed}, faults {self.faults}\nlive {live}\nstuck {stuck}\n{logs}"

    def wait_for(self, look: Callable[[], Any], what: str = "") -> Any:
        return eventually(look, what)


def _ended(conn: psycopg.Connection[Any]) -> int:
    row = conn.execute("SELECT count(*) FROM pgtasks.result").fetchone()
    return int(row[0]) if row else 0
