"""The course of the demo: start, send, kill, watch, compare.

    two workers -> canvas sent -> a third done -> kill -9 -> lease runs out -> taken over -> all done
                                                                 answer == plain count in one process

It stops all that it started however it ends, and what it wrote to somebody's database is removed again.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

from pgtasks.demo import tasks, words
from pgtasks.demo.files import default_directories, find_files
from pgtasks.demo.look import Held, Look
from pgtasks.demo.screen import Screen
from pgtasks.demo.workers import WorkerProcess
from pgtasks.exceptions import CeleryError, ImproperlyConfigured
from pgtasks.store.embedded import Server
from pgtasks.store.url import configured_url
from pgtasks.utils.text import mask_url

#: Seconds without a sign of life that make a worker a dead one: short, for people who watch.
LEASE_S = 4.0
_START_WITHIN_S = 60.0
#: Without any task ending for so long, something is broken.
_STALLED_AFTER_S = 120.0
_LOOK_EVERY_S = 0.1
_EXIT_RIGHT, _EXIT_WRONG = 0, 1


class DemoFailed(CeleryError):
    """The demo could not be brought to its end."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the demo is asked to do."""

    directory: str | None
    files: int
    processes: int
    keep: bool


def run(plan: Plan, screen: Screen) -> int:
    """Run the demo; gives the exit status: 0 when the answer was right.

    Raises DemoFailed when there is nothing to count or the work does not go on.
    """
    with ExitStack() as stack:
        _end_on_signals(stack)
        try:
            return _Demo(plan, screen, stack).run()
        finally:
            screen.end_progress()
            for signum in _ENDING:  # tidying up takes a moment, and is not to be cut short
                signal.signal(signum, signal.SIG_IGN)


_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _end_on_signals(stack: ExitStack) -> None:
    """Have Ctrl-C, TERM and HUP end the demo by an exception, so that it tidies up."""

    def end(signum: int, frame: Any) -> NoReturn:
        raise SystemExit(128 + signum)

    for signum in _ENDING:
        stack.callback(signal.signal, signum, signal.signal(signum, end))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _Demo:
    """One run: the things it started, and what it saw."""

    def __init__(self, plan: Plan, screen: Screen, stack: ExitStack) -> None:
        self.plan, self.screen, self.stack = plan, screen, stack
        self.workers: list[WorkerProcess] = []
        self.total = 0
        self.killed_at = 0.0

    def run(self) -> int:
        paths = self._find()
        self._open_database()
        self._start_workers()
        answer = self._send(paths)
        began_at = time.monotonic()
        before = self._watch_until(lambda done: 3 * done >= self.total)
        rate = before / (time.monotonic() - began_at)
        victim = self._strike()
        if victim is not None:
            self._watch_takeover(victim)
        self._watch_until(lambda done: done >= self.total)
        took_s = time.monotonic() - began_at
        self.screen.end_progress()
        status = self._verify(answer.get(timeout=_STALLED_AFTER_S), paths)
        self._report(took_s, rate, victim)
        return status

    # -- start

    def _find(self) -> list[str]:
        given = self.plan.directory
        directories = [os.path.abspath(given)] if given else default_directories()
        paths = find_files(directories, self.plan.files)
        if not paths:
            raise DemoFailed(f"There are no files below {given}. Name another directory.")
        self.screen.say()
        title = self.screen.paint("pgtasks demo", bold=True)
        self.screen.say(f"  {title}: counting the words of {len(paths):,} files below {directories[0]}")
        self.screen.say()
        # What changes while it is read has no right answer: see _verify.
        self.stamps = [_stamp(path) for path in paths]
        return paths

    def _open_database(self) -> None:
        """Choose the database: the one that is named for pgtasks, else a server of the demo's own.

        DATABASE_URL alone does not count: it names what an application works with, not a place to play.
        """
        given = configured_url(environ={k: v for k, v in os.environ.items() if k != "DATABASE_URL"})
        own = None if given or self.plan.keep else self.stack.enter_context(_own_server())
        self.url = given or (own or Server.at()).start()
        self.queue = "demo" if own else f"demo-{uuid4().hex[:8]}"
        tasks.app.conf.task_default_queue = self.queue
        os.environ["PGTASKS_DATABASE_URL"] = self.url
        self.stack.callback(tasks.app.close)
        tasks.app.database.ping()
        self.look = Look(self.url, self.queue)
        self.stack.callback(self.look.close)
        if own is not None:
            self.look.make_durable()
            where = "a server of its own, durable as in production, gone when the demo ends"
        else:
            where = mask_url(self.url)
            if not self.plan.keep:
                self.stack.callback(self._clear)
        self.screen.fact("database", f"{self.look.server}, {where}")

    def _clear(self) -> None:
        """Remove the tasks; on a new connection, since the other may have been interrupted in a statement."""
        with suppress(Exception):
            look = Look(self.url, self.queue)
            look.clear()
            look.close()

    def _start_workers(self) -> None:
        logs = Path(tempfile.mkdtemp(prefix="pgtasks-demo-"))
        self.stack.callback(shutil.rmtree, logs, ignore_errors=True)
        for name in ("demo1@localhost", "demo2@localhost"):
            worker = WorkerProcess(name, self.queue, self.plan.processes, LEASE_S, self.url, logs)
            self.stack.callback(worker.stop)
            self.workers.append(worker)
        self.names = [worker.name for worker in self.workers]
        until = time.monotonic() + _START_WITHIN_S
        for worker in self.workers:
            while not self.look.is_online(worker.name):
                self._check_workers()
                if time.monotonic() > until:
                    raise DemoFailed(f"{worker.name} was not ready in time. Its log:\n{worker.last_words()}")
                time.sleep(0.05)
        pids = ", ".join(f"{worker.name} (pid {worker.pid})" for worker in self.workers)
        self.screen.fact("workers", f"{pids}, started as")
        self.screen.fact("", self.workers[0].command)
        self.screen.fact("lease", f"{LEASE_S:g} s here, so that nobody has to wait; 20 s is the default")

    def _send(self, paths: Sequence[str]) -> Any:
        began_at = time.monotonic()
        with _uninterrupted():  # or it might be written after all was tidied up
            answer = tasks.word_count(list(paths))()
        took_s = time.monotonic() - began_at
        self.total = self.look.find_tasks()
        batches = -(-len(paths) // tasks.BATCH)
        self.screen.fact(
            "canvas",
            f"{len(paths):,} count_words -> {batches:,} add_up -> 1 summarise, written in {took_s:.2f} s",
        )
        self.screen.say()
        return answer

    # -- watch

    def _watch_until(self, is_reached: Callable[[int], bool]) -> int:
        """Move the bar until this many tasks have ended, and return how many have."""
        return next(done for done in self._looks() if is_reached(done))

    def _looks(self) -> Iterator[int]:
        """Look again and again how many tasks have ended; raises DemoFailed when nothing happens any more."""
        seen: deque[tuple[int, float]] = deque(maxlen=10)  # for a rate that does not jump
        while True:
            done, now = self.look.tally().done, time.monotonic()
            if not seen or done > seen[-1][0]:
                seen.append((done, now))
            elif now - seen[-1][1] > _STALLED_AFTER_S:
                raise DemoFailed(f"Nothing has happened for {_STALLED_AFTER_S:g} s.{self._logs()}")
            rate = (done - seen[0][0]) / max(now - seen[0][1], 1e-6)
            self.screen.progress(done, self.total, f"{rate:,.0f} tasks/s" if rate else "")
            yield done
            self._check_workers()
            time.sleep(_LOOK_EVERY_S)

    def _check_workers(self) -> None:
        for worker in self.workers:
            if worker.has_ended():
                raise DemoFailed(f"{worker.name} ended by itself. Its log:\n{worker.last_words()}")

    def _logs(self) -> str:
        return "".join(f"\nThe log of {worker.name}:\n{worker.last_words()}" for worker in self.workers)

    # -- kill

    def _strike(self) -> Held | None:
        """Kill the worker with the most claimed tasks; None if the work was done before one was caught.

        It is frozen first, for then it cannot finish what it is seen to hold.
        """
        while self.look.tally().done < self.total:
            name = self.look.held(self.names)[0].name
            worker = next(worker for worker in self.workers if worker.name == name)
            worker.freeze()
            time.sleep(0.02)  # a statement that it had sent may still be under way
            held = next(held for held in self.look.held(self.names) if held.name == name)
            if held.tasks:
                self._kill(worker, held)
                return held
            worker.thaw()
        self.screen.say("  All was done before a worker could be caught at work. Try a larger directory.")
        return None

    def _kill(self, worker: WorkerProcess, held: Held) -> None:
        self.workers.remove(worker)
        self.killed_at = time.monotonic()
        children_are_gone = worker.kill()
        gone = "its processes are gone too" if children_are_gone else "its processes linger"
        self.screen.event(
            f"kill -9 {worker.pid}", "red", f"{worker.name}, with {held.tasks} claimed tasks; {gone}"
        )

    def _watch_takeover(self, victim: Held) -> None:
        for _ in self._looks():
            if not self.look.held_by(victim.id):
                break
        took_s = time.monotonic() - self.killed_at
        self.screen.event(
            "taken over",
            "green",
            f"after {took_s:.1f} s the lease of {victim.name} had run out; {victim.tasks} tasks went to "
            f"{self.workers[0].name}",
        )

    # -- end

    def _verify(self, answer: dict[str, Any], paths: Sequence[str]) -> int:
        began_at = time.monotonic()
        right = words.summary_of(words.total_of(map(words.words_of, paths)))
        took_s = time.monotonic() - began_at
        top = ", ".join(f"{word} {count:,}" for word, count in answer["top"])
        self.screen.say()
        self.screen.fact("answer", f"{answer['words']:,} words, {answer['distinct']:,} different; {top}")
        if answer == right:
            verdict = self.screen.paint("right", fg="green", bold=True)
            self.screen.fact("", f"{verdict}: the same as a plain count in one process ({took_s:.1f} s)")
            return _EXIT_RIGHT
        verdict = self.screen.paint("wrong", fg="red", bold=True)
        self.screen.fact("", f"{verdict}: a plain count in one process finds {right['words']:,} words")
        if self.stamps != [_stamp(path) for path in paths]:
            self.screen.fact("", "Files have changed meanwhile. Name a directory where nothing changes.")
        return _EXIT_WRONG

    def _report(self, took_s: float, rate: float, victim: Held | None) -> None:
        screen, tally = self.screen, self.look.tally()
        including = ", the wait for the lease included" if victim else ""
        screen.fact("tasks", f"{tally.done:,} in {took_s:.1f} s: {tally.done / took_s:,.0f} tasks/s{including}")
        screen.fact("", f"{rate:,.0f} tasks/s while there were two workers")
        screen.fact("", f"{tally.redelivered} delivered again, {self.total - tally.succeeded} lost or failed")
        for query in _QUERIES:
            lines = query.replace("%", f"'{self.queue}'").splitlines()
            screen.say()
            for line in lines:
                screen.say("  " + screen.paint(line, fg="blue"))
            screen.table(*self.look.shown("\n".join(lines)))
        screen.say()
        if self.plan.keep:
            screen.say(f"  The tasks are still there: psql '{mask_url(self.url)}'")
            screen.say()


#: Shown to the user as they are, with the queue for %.
_QUERIES = (
    """\
SELECT worker, count(*), count(*) FILTER (WHERE delivery > 1) AS redelivered
FROM pgtasks.tasks WHERE queue = % GROUP BY worker ORDER BY worker""",
    """\
SELECT name, state, count(*), round(extract(epoch FROM
       max(done_at) - min(created_at)), 1) AS seconds
FROM pgtasks.tasks WHERE queue = % GROUP BY name, state ORDER BY name""",
    """\
SELECT delivery, worker, right(split_part(payload, '"', 2), 35) AS path
FROM pgtasks.tasks WHERE queue = % AND name ~ 'count_words$' AND delivery > 1
LIMIT 3""",
)


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


@contextmanager
def _own_server() -> Iterator[Server]:
    """A server that is gone afterwards, also when its start is interrupted."""
    try:
        server = Server.throw_away()
    except ImproperlyConfigured as exc:
        raise DemoFailed(str(exc)) from exc
    try:
        yield server
    finally:
        server.stop("immediate")
        shutil.rmtree(server.home, ignore_errors=True)
