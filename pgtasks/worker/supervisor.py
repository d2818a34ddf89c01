"""The worker: one process that supervises children, and never runs a task itself.

    start:  logging, task modules, signals -> children -> register -> banner
    loop:   hear children -> settle and claim -> hand out -> sleep on pipes, the doorbell, signals and timers
    stop:   warm (TERM, INT)  return what was not begun, wait for what was, sign off
            cold (QUIT, INT twice)  kill what runs, return it, sign off
            soft (worker_soft_shutdown_timeout)  warm for so long, then cold

Since no task code runs here, a task that never yields or dies cannot delay the heartbeat. When the database does not
answer, the worker goes on trying; it starts nothing new after half its lease and stops its children at the end of it,
since by then another worker may have taken over.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from pgtasks import __version__, signals
from pgtasks.app.control import purge
from pgtasks.concurrency.solo import LeaseKeeper
from pgtasks.exceptions import ImproperlyConfigured, OperationalError, WorkerShutdown, WorkerTerminate
from pgtasks.message import Claim
from pgtasks.store import fleet
from pgtasks.store.database import Database, backoff
from pgtasks.utils.log import get_logger
from pgtasks.utils.nodenames import default_nodename
from pgtasks.worker import state
from pgtasks.worker.alarm import Alarm
from pgtasks.worker.assembly import assemble, await_database, concurrency_of, select_queues
from pgtasks.worker.attendants import Attendants
from pgtasks.worker.banner import banner
from pgtasks.worker.consumer import BUSY_AFTER_S, Consumer
from pgtasks.worker.controlled import Controlled
from pgtasks.worker.letterbox import Letterbox
from pgtasks.worker.losses import returned
from pgtasks.worker.passing import Passing
from pgtasks.worker.reactor import Reactor
from pgtasks.worker.retention import Retention

logger = get_logger("celery.worker")
ready_logger = get_logger("celery.apps.worker")

EX_OK, EX_FAILURE = 0, 1
AGAIN_THEN_COLD = "Hitting Ctrl+C again will initiate cold shutdown, terminating all running tasks!"
AGAIN_THEN_OVER = "Hitting Ctrl+C again will terminate all running tasks!"
#: Outcomes wait this long for company while every slot has work, so that one round trip settles many.
GATHER_S = 0.005
GATHER_MOST = 192
SHORTEST_DOZE_S = 0.0005
#: Longest sleep of the loop.
NAP_S = 1.0


class Worker(Controlled):
    """A worker of one app; `start` runs it until it is told to stop and gives the exit status."""

    _stop_by: float | None = None
    _gathering_since: float | None = None
    _busy_since: float | None = None

    def __init__(
        self,
        app: Any,
        *,
        hostname: str | None = None,
        concurrency: int | str | None = None,
        pool: str | None = None,
        queues: Iterable[str] | None = None,
        exclude_queues: Iterable[str] | None = None,
        loglevel: int | str | None = "WARNING",
        logfile: str | None = None,
        max_tasks_per_child: int | None = None,
        max_memory_per_child: int | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        no_color: bool | None = None,
        redirect_stdouts: bool | None = None,
        quiet: bool = False,
        purge: bool = False,
        installs_signal_handlers: bool = True,
        **options: Any,
    ) -> None:
        conf = app.conf
        self.app = app
        self.hostname = default_nodename(hostname)
        self.pool = pool or conf.worker_pool or "prefork"
        self.concurrency, self.sizing = concurrency_of(concurrency or conf.worker_concurrency, self.pool)
        self.loglevel, self.logfile = loglevel, logfile
        self.max_tasks_per_child = max_tasks_per_child or conf.worker_max_tasks_per_child
        self.max_memory_per_child = max_memory_per_child or conf.worker_max_memory_per_child
        self.colorize = None if no_color is None else not no_color
        self.redirect_stdouts = conf.worker_redirect_stdouts if redirect_stdouts is None else redirect_stdouts
        self.quiet, self.purge = quiet, purge
        self.exitcode = EX_OK
        self._installs_signal_handlers = installs_signal_handlers
        select_queues(app, self.hostname, queues, exclude_queues)
        if time_limit is not None:
            conf.task_time_limit = time_limit
        if soft_time_limit is not None:
            conf.task_soft_time_limit = soft_time_limit
        self.attendants = Attendants(self, options)
        self._alarm = Alarm()
        self._began_at = time.monotonic()
        self.is_stopping = self._must_stop_now = False

    # -- start

    def start(self) -> int:
        """Run until told to stop; gives the exit status."""
        self._prepare()
        try:
            self.attendants.include_steps()
            self._open()
            self.attendants.start()
            self.on_consumer_ready(self.consumer)
            self._run()
        except (WorkerShutdown, WorkerTerminate) as stop:
            self.exitcode = stop.code if isinstance(stop.code, int) else EX_OK
        finally:
            self._close()
        return self.exitcode

    def on_consumer_ready(self, consumer: Consumer) -> None:
        """Called when the worker begins to consume; a hook for subclasses."""
        signals.worker_ready.send(sender=consumer)
        ready_logger.info("%s ready.", self.hostname)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """Ask for a shutdown, from any thread: a warm one, or the one that another signal stands for."""
        self._alarm.wish(how)

    def _prepare(self) -> None:
        app = self.app
        app.set_current()
        app.set_default()
        app.loader.init_worker()
        signals.celeryd_init.send(sender=self.hostname, instance=self, conf=app.conf, options=self._options())
        app.log.setup(
            self.loglevel, self.logfile,
            redirect_stdouts=self.redirect_stdouts,
            redirect_level=app.conf.worker_redirect_stdouts_level,
            colorize=self.colorize,
            hostname=self.hostname,
        )  # fmt: skip
        app.finalize()
        self._note_task_modules()
        signals.worker_init.send(sender=self)
        signals.celeryd_after_setup.send(sender=self.hostname, instance=self, conf=app.conf)
        if not self.queues:
            raise ImproperlyConfigured("No queue is left to consume. Check -Q, -X and task_queues.")
        if not self.quiet:
            # To the real stdout: logging may have taken the other one over.
            print(banner(self), file=sys.__stdout__, flush=True)

    def _note_task_modules(self) -> None:
        """Show in the settings, to whoever inspects them, which modules the tasks come from."""
        conf = self.app.conf
        conf.include = sorted({*(conf.include or ()), *(type(task).__module__ for task in self.app.tasks.values())})

    def _options(self) -> dict[str, Any]:
        """What this worker was told, as `celeryd_init` shows it."""
        names = ("hostname", "concurrency", "pool", "loglevel", "logfile", "purge", "quiet")
        return {name: getattr(self, name) for name in (*names, "max_tasks_per_child", "max_memory_per_child")}

    def _open(self) -> None:
        """Open everything, children first: they are forked before there are connections that they could inherit."""
        app, conf = self.app, self.app.conf
        self._reactor = Reactor()
        # A worker waits out the database's absence in its own loop, where it can mind its lease.
        url = app.database_url
        await_database(app, Database(url).ping)
        self.consumer = Consumer(
            Database(url, patience_s=0),
            {
                "hostname": self.hostname,
                "machine": platform.node(),
                "pool": self.pool,
                "concurrency": self.concurrency,
                "queues": self.queues,
                "version": __version__,
            },
            lease_s=float(conf.worker_lease),
            max_deliveries=int(conf.task_max_deliveries),
        )
        # What has signed on must sign off, however soon it is told to stop.
        if self._installs_signal_handlers:
            self._alarm.take_signals()
        # A server may go away right after it has answered.
        await_database(app, self.consumer.enlist, self._alarm.sleep)
        if self.purge:
            self._purge()
        self._assemble()
        self.letterbox = Letterbox(self)
        state.workers.add(self)
        self._reactor.watch(self._alarm.fileno(), self._hear_alarm)
        self._retention = Retention(self.consumer.database, app.backend.expires)

    def _assemble(self) -> None:
        """Make the crew for the current registration."""
        self.crew = assemble(self, is_at_most_once=self._is_at_most_once, private_descriptors=self._private_descriptors)
        self.passing = Passing(self)
        self.crew.muster()
        if self._lease_keeper is not None:
            self._lease_keeper.stop()
        if self.crew.options.serve is None:
            renewing = Database(self.app.database_url)
            renew = fleet.tick(self.consumer.worker, (), renew=True, limit=0)
            self._lease_keeper = LeaseKeeper(lambda: renewing.run(renew), self.consumer.lease_s / 4)
            self._lease_keeper.start()

    _lease_keeper: LeaseKeeper | None = None
    _restarts = False

    def _private_descriptors(self) -> list[int]:
        return [
            *self.consumer.descriptors(),
            *self._alarm.descriptors(),
            self._reactor.fileno(),
        ]

    def _is_at_most_once(self, claim: Claim) -> bool:
        task = self.app.tasks.get(claim.name)
        return task is not None and task.acks_late is False

    def _purge(self) -> None:
        count = purge(self.app, self.queues)
        logger.warning("purge: Erased %d messages from the queues.", count)

    # -- the loop

    def _run(self) -> None:
        attempt = 0
        while not self._is_finished():
            try:
                self._turn()
                if attempt:
                    logger.warning("The database answers again.")
                attempt = 0
            except OperationalError as error:
                if attempt == 0:
                    logger.error("Lost the database, trying again until it is back: %s", error)
                self._endure(backoff(attempt))
                attempt += 1

    def _is_finished(self) -> bool:
        if self._must_stop_now:
            return True
        if self._stop_by is not None and time.monotonic() > self._stop_by:
            self._stop_by, self._must_stop_now = None, True
            return True
        return self.is_stopping and not self.crew.busy() and not self.crew.has_outcomes

    def _turn(self) -> None:
        """One turn of the loop: settle, claim, tick, then sleep until something happens."""
        if self._has_lost_lease:
            self._rejoin()
        self._mind_children()
        self.passing.mind()
        if self._is_time_to_step():
            self._step()
        if self._has_nothing_to_do() and self.consumer.rest():
            # Somebody may have enqueued just before this worker was known to be idle.
            self._claims_now = True
            self._step()
        self._begin_suspects()
        if self._is_busy_for_long():
            self.consumer.rouse()
        self._maintain()
        if self.crew.has_outcomes < GATHER_MOST and (spare_s := self.crew.spare_s()) > SHORTEST_DOZE_S:
            # To be woken for each of many short tasks would cost more than to run them.
            time.sleep(min(spare_s, GATHER_S))
        self._sleep(self._next_event_at() - time.monotonic())

    def _mind_children(self) -> None:
        crew = self.crew
        crew.enforce_time_limits()
        crew.rebalance()
        if held_back := crew.release():
            self.receive(held_back)
        if not self.is_stopping:
            crew.give_back_surplus()

    def _has_nothing_to_do(self) -> bool:
        if self.crew.has_outcomes or self._claims_now or self.is_stopping:
            return False
        return not self.crew.busy() or self.crew.is_starving()

    def _is_time_to_step(self) -> bool:
        crew = self.crew
        if not crew.has_outcomes:
            self._gathering_since = None
            return self._claims_now
        now = time.monotonic()
        self._gathering_since = self._gathering_since or now
        return (
            self._claims_now
            or crew.is_starving()
            or crew.has_suspects
            or not crew.busy()
            or crew.has_outcomes >= GATHER_MOST
            or now - self._gathering_since >= GATHER_S
        )

    _claims_now = True

    def _step(self) -> None:
        """Settle what ended, claim for the room there is, hand it out."""
        crew, consumer = self.crew, self.consumer
        if consumer.must_compare:
            crew.catch_up()
        outcomes = crew.take_outcomes()
        self._gathering_since = None
        room = 0 if self.is_stopping else crew.room()
        consumer.slots = crew.slots
        try:
            claims = consumer.step(outcomes, room, crew.in_hand(), is_called=self._claims_now)
        except OperationalError:
            crew.put_back(outcomes)
            raise
        if lost := consumer.take_lost():
            crew.disclaim(lost)
        self.note_settled(outcomes)
        # Where there was more than room for, there may be more.
        self._claims_now = bool(claims) and len(claims) == room
        if claims:
            crew.catch_up()
            self.receive(crew.admit(claims))
        self._note_load(is_drained=len(claims) < room)

    def receive(self, claims: list[Claim]) -> None:
        """Have claims run, or end as what they are."""
        if at_most_once := [claim for claim in claims if claim.fate == "live" and self._is_at_most_once(claim)]:
            allowed = self.consumer.ack(at_most_once)
            claims = [claim for claim in claims if claim.id in allowed or claim not in at_most_once]
        claims = self.letterbox.judged(claims)
        self.announce(claims)
        self.crew.accept(claims)

    def _begin_suspects(self) -> None:
        """Begin tasks that were lost before, once all that has ended is settled: one of them may kill this process."""
        if self.crew.has_suspects and not self.crew.has_outcomes:
            suspects = self.crew.suspects()
            self.crew.begin(suspects, self.consumer.charge(suspects) if suspects else ())

    def _note_load(self, is_drained: bool) -> None:
        """A worker that has been busy for a while looks for work by itself and need not be woken.

        One with a free slot that has found nothing for it is not busy, however long its other tasks take.
        """
        if not self.crew.busy() or (is_drained and self.crew.is_starving()):
            self._busy_since = None
        else:
            self._busy_since = self._busy_since or time.monotonic()

    def _is_busy_for_long(self) -> bool:
        return self._busy_since is not None and time.monotonic() >= self._busy_since + BUSY_AFTER_S

    def _maintain(self) -> None:
        """What must be done from time to time."""
        now = time.monotonic()
        if self.consumer.has_heard:
            self._hear_doorbell()
        self.attendants.mind(now)
        if now >= self.consumer.next_tick_at(self.crew.room):
            tick = self.consumer.tick()
            if not tick.is_registered:
                self._rejoin()
                return
            for claim_id, signal_name in zip(tick.revoked_ids, tick.revoked_signals, strict=True):
                self.crew.revoke(claim_id, signal_name)
            if tick.has_letters:
                self.letterbox.empty()
            self.attendants.looked(tick)
            if self.consumer.reap(has_dead=tick.has_dead) or tick.promoted or tick.has_ready or self.consumer.must_compare:
                self._claims_now = True
        self._retention.mind(now)

    def _next_event_at(self) -> float:
        now = time.monotonic()
        if self.consumer.has_heard or (self._claims_now and self.crew.room() and not self.is_stopping):
            return now
        times = [now + NAP_S, self.consumer.next_tick_at(self.crew.room), *self.attendants.next_at()]
        if self._gathering_since is not None:
            times.append(self._gathering_since + GATHER_S)
        if self.crew.has_outcomes >= GATHER_MOST or (self.crew.has_outcomes and not self.crew.busy()):
            times.append(now)
        if self.consumer.is_idle and self._busy_since is not None:
            times.append(self._busy_since + BUSY_AFTER_S)

        deadline = self.crew.next_deadline()
        times.extend(at for at in (deadline, self._stop_by) if at is not None)
        if self.crew.is_crowded():
            times.append(now + 0.02)
        return min(times)

    def _sleep(self, timeout_s: float) -> None:
        """Sleep until a child, the doorbell or a signal has something to say."""
        self._reactor.follow(self.crew.children, self.crew.listen, self.consumer.bell, self._hear_doorbell)
        self._reactor.sleep(timeout_s)

    def _hear_doorbell(self) -> None:
        words = self.consumer.hear()
        if "letter" in words:
            self.letterbox.empty()
        self._claims_now = True
        if set(words) != {"ready"}:
            # It may have been about a task that is due soon, or about a claim that was revoked.
            self.consumer.tick_soon()

    # -- when the database is away

    def _endure(self, pause_s: float) -> None:
        """Let running tasks run while the database does not answer, for as long as the lease allows."""
        self.passing.forbid()
        left_s = self.consumer.lease_left_s()
        if left_s <= 0:
            self._lose_lease()
        elif left_s < self.consumer.lease_s / 2:
            self.crew.hold()
        until = time.monotonic() + (min(pause_s, left_s) if left_s > 0 else pause_s)
        while (wait_s := until - time.monotonic()) > 0 and not self._must_stop_now:
            self._sleep(wait_s)
        self._claims_now = True

    _has_lost_lease = False

    def _lose_lease(self) -> None:
        """Others may run what this worker runs: stop all of it, and start over when the database answers."""
        if self._has_lost_lease:
            return
        logger.error("%s lost its lease: its tasks go to other workers, and it starts over.", self.hostname)
        self._has_lost_lease = True
        self.crew.kill()
        self.crew.take_outcomes()
        self.crew.backlog.clear()

    def _rejoin(self) -> None:
        """Register again under a new id, with new children."""
        self._lose_lease()
        self.consumer.enlist()
        self._has_lost_lease = False
        self._assemble()
        self._claims_now = True

    # -- signals and the end

    def call_soon(self, call: Callable[[], Any]) -> None:
        """Have something called in the worker's own thread, from any thread."""
        self._alarm.wish(call)

    def _hear_alarm(self) -> None:
        for wish in self._alarm.heard():
            if isinstance(wish, int):
                self._heed(wish)
            else:
                wish()

    def _heed(self, signum: int) -> None:
        """Start the shutdown that a signal asks for; a second SIGINT turns a warm one cold."""
        if signum == signal.SIGHUP:
            self._restarts = True
        is_cold = signum == signal.SIGQUIT or (signum == signal.SIGINT and self.is_stopping)
        how = "Cold" if is_cold else "Warm"
        if self.is_stopping and not is_cold:
            return
        is_by_hand = signum in (signal.SIGINT, signal.SIGQUIT)
        self._say_how_it_stops(how, is_by_hand)
        if not self.is_stopping:
            name = signal.Signals(signum).name
            # As Celery's worker: of all clean stops, only the warm one by Ctrl-C ends with a status of its own.
            self.exitcode = EX_FAILURE if is_by_hand and not is_cold else EX_OK
            signals.worker_shutting_down.send(
                sender=self.hostname, sig=name, how=how, exitcode=EX_FAILURE if is_by_hand else EX_OK
            )
        self._begin_to_stop()
        if is_cold:
            self._stop_cold()

    def _say_how_it_stops(self, how: str, is_by_hand: bool) -> None:
        if is_by_hand:
            self._say(AGAIN_THEN_COLD if how == "Warm" else AGAIN_THEN_OVER)
        if how == "Warm":
            self._say("Warm shutdown (MainProcess)")
        self._has_to_say_cold = how == "Cold" and not self.is_stopping

    #: A soft shutdown comes first, and is no cold one.
    _has_to_say_cold = False

    def _say(self, line: str) -> None:
        if not self.quiet:
            print(f"\nworker: {line}\n", end="", file=sys.__stderr__, flush=True)

    def _begin_to_stop(self) -> None:
        self.is_stopping = True
        self.passing.forbid()
        self._claims_now = False
        self.crew.recall()
        self.consumer.rouse()

    def _stop_cold(self) -> None:
        self.exitcode = EX_OK
        grace_s = float(self.app.conf.worker_soft_shutdown_timeout or 0)
        if grace_s > 0 and self._stop_by is None and self.crew.busy():
            logger.warning("Initiating Soft Shutdown, terminating in %s seconds", grace_s)
            self._stop_by = time.monotonic() + grace_s
        else:
            self._must_stop_now = True

    def _close(self) -> None:
        """Leave nothing behind: end the children, settle what they said, give the rest back."""
        if not hasattr(self, "crew"):
            return
        if self._has_to_say_cold:
            self._say("Cold shutdown (MainProcess)")
        killed = self._end_children() if self._must_stop_now else self._release_children()
        outcomes = self.crew.take_outcomes()
        for claim in [*killed, *self.crew.backlog]:
            may_have_run = claim.fate == "live" and claim in killed
            outcomes.append(returned(claim, must_not_run=may_have_run and self._is_at_most_once(claim)))
        try:
            self.consumer.step(outcomes, 0, [])
            self.note_settled(outcomes)
            self.consumer.discharge()
        except OperationalError as error:
            logger.error("Could not sign off; others take over when the lease has run out: %s", error)
        self.attendants.stop(self._must_stop_now)
        if self._lease_keeper is not None:
            self._lease_keeper.stop()
        state.workers.discard(self)
        signals.worker_shutdown.send(sender=self)
        self.app.loader.shutdown_worker()
        self.consumer.close()
        self._reactor.close()
        if self._restarts:
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

    def _end_children(self) -> list[Claim]:
        """End what runs; whoever asks for it once more has it killed."""
        return [job.claim for job in self.crew.end(lambda: any(self._alarm.heard()))]

    def _release_children(self) -> list[Claim]:
        """Let the children end by themselves, as they have nothing left to do; those that do not are killed."""
        self.crew.dismiss()
        deadline = time.monotonic() + 5
        # The one of the solo pool is this process, and has nowhere to go.
        while any(child.pid for child in self.crew.children) and time.monotonic() < deadline:
            self._sleep(0.1)
        return [job.claim for job in self.crew.kill()]
