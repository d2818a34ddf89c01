"""Chaos on two servers: a primary and a standby that confirms every commit, of which each in turn becomes the primary.

    with Pair(seed=7) as pair:
        pair.start_workers(2)
        pair.torment(["fail_over", "kill"], seconds=10)
        assert pair.judge() == []

Clients know both servers by one URL, and none of what happens. Replication is synchronous, so what was acknowledged must survive
the loss of a primary, however it is lost.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg

from pgtasks.store.embedded import DATABASE, ROLE, Server
from tests.chaos.arena import Arena
from tests.support import history
from tests.support.workers import WorkerProcess, children_of, eventually

#: What shortens the moments without a standby, and what makes commits wait for one.
_SETTINGS = {
    "wal_retrieve_retry_interval": "'200ms'",
    "wal_receiver_timeout": "'3s'",
    "wal_sender_timeout": "'3s'",
    "synchronous_standby_names": "'*'",
}


class Pair(Arena):
    """Workers and producers on a primary with a synchronous standby."""

    def __enter__(self) -> Pair:
        super().__enter__()
        try:
            self._demand_confirmation()
            self.standby = self._standby_of(self.server, self.directory / "other")
            eventually(self.is_confirmed, "the standby to confirm commits")
            own, other = self.server.socket_directory, self.standby.socket_directory
            hosts = quote(f"{own},{other}", safe="")
            self.url = f"postgresql://{ROLE}@/{DATABASE}?host={hosts}&target_session_attrs=read-write&connect_timeout=2"
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        standby: Server | None = getattr(self, "standby", None)
        if standby is not None:
            standby.stop("immediate")
        super().__exit__(*exc)

    def start_worker(
        self, *options: str, through_proxy: bool = False, concurrency: int | None = None, **environ: str
    ) -> WorkerProcess:
        """Start a worker, which reaches both servers by itself: a proxy stands before one only."""
        return super().start_worker(*options, through_proxy=through_proxy, concurrency=concurrency, **environ)

    def is_confirmed(self) -> bool:
        """Has the primary a standby for whose word its commits wait?"""
        with psycopg.connect(self.server.url(), autocommit=True) as conn:
            row = conn.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'").fetchone()
        return row is not None and row[0] > 0

    def _demand_confirmation(self) -> None:
        """Have commits wait for a standby; before there is one, so that every copy has the setting."""
        with psycopg.connect(self.server.url(), autocommit=True) as conn:
            for name, value in _SETTINGS.items():
                conn.execute(f"ALTER SYSTEM SET {name} = {value}")
            conn.execute("SELECT pg_reload_conf()")

    def _standby_of(self, primary: Server, home: Path) -> Server:
        """Copy a server into a directory, and have the copy follow it."""
        data = home / primary.data.name
        home.mkdir(mode=0o755, exist_ok=True)
        shutil.rmtree(data, ignore_errors=True)
        data.mkdir(mode=0o700)
        primary.account.give(data)
        said = primary.account.run(
            primary.program("pg_basebackup"), "-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync",
            "-d", f"host={primary.socket_directory} user={ROLE}",
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        standby = Server.at(home)
        standby.start()
        return standby

    # -- faults

    def fail_over(self) -> None:
        """Lose the primary at once; the standby takes over, and the other becomes its standby."""
        history.note(self.history, "crash")
        self.server.stop("immediate")
        self._take_over()

    def _fail_over(self) -> None:
        self.fail_over()

    def _switch_over(self) -> None:
        """Have the two change places as an operator does: the primary ends when its standby has got everything."""
        history.note(self.history, "crash")  # what was claimed a moment ago may be claimed again
        self.server.stop("fast")
        self._take_over()

    def _outlive(self) -> None:
        """Let the primary stand still until another one has taken over, and then go on believing that it is one."""
        history.note(self.history, "crash")
        postmaster = self.server.status().pid
        assert postmaster is not None
        zombie = [postmaster, *children_of(postmaster)]
        for pid in zombie:
            os.kill(pid, signal.SIGSTOP)
        self._promote()
        time.sleep(self.random.uniform(0, 1.0))
        for pid in zombie:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        # It acknowledges nothing now, since nobody confirms it; those who were connected may still try.
        time.sleep(self.random.uniform(0, 1.0))
        self.server.stop("immediate")
        self._change_places()

    def _take_over(self) -> None:
        time.sleep(self.random.uniform(0, 0.5))
        self._promote()
        self._change_places()

    def _promote(self) -> None:
        said = self.standby.account.run(self.standby.program("pg_ctl"), "promote", "-w", "-D", self.standby.data)
        assert said.returncode == 0, said.stdout + said.stderr

    def _change_places(self) -> None:
        self.server, self.standby = self.standby, self.server
        self.standby = self._standby_of(self.server, self.standby.home)
        eventually(self.is_confirmed, "the new standby to confirm commits")

