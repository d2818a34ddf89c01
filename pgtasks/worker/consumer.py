"""A worker's database side: claiming, settling, the lease, idling and being woken.

    step    settle what ended and claim for the free slots: one round trip with plain successes, one more for the rest
    tick    once a second: move what is due, look for anything missed, and every few seconds renew the lease
    reap    when a tick has seen a dead worker, and now and then: take over from the dead

An idle worker says so in the table `idle`, looks once more, and sleeps until it is notified or the next tick.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID, uuid4

import psycopg

from pgtasks.exceptions import OperationalError, TaskSentBefore
from pgtasks.message import Claim, Outcome
from pgtasks.store import fleet, flows, graphs, tasks
from pgtasks.store.database import Database
from pgtasks.store.listen import Doorbell, SharedDoorbell
from pgtasks.store.sql import Query
from pgtasks.utils.log import get_logger
from pgtasks.worker.lanes import Lanes
from pgtasks.worker.limits import claim_limited
from pgtasks.worker.lookout import Lookout
from pgtasks.worker.losses import unstorable

logger = get_logger("celery.worker.consumer")

#: With what else is done now and then, an idle worker sends less than one statement per second.
TICK_S = 1.1
#: Claims whose worker has no row any more are looked for this often.
REAP_EVERY_S = 60.0
#: Most claims that one reap takes back.
REAP_MOST = 500
#: Ids of settled tasks that fit in the payload of one notification.
MOST_PLAIN = 200
#: A worker with work for this long need not be woken.
BUSY_AFTER_S = 0.05
#: Seconds in which a child says what it has taken, unless it has died before.
DOUBT_S = 1.0
#: Seconds after falling asleep at which a worker looks again: an enqueue that was under way at that moment did not know
#: that somebody had to be woken.
LOOK_AGAIN_S = (0.01, 0.05, 0.2)


class Consumer:
    """One worker's registration, claims and outcomes in the database."""

    #: The worker, for commands of remote control, and what sends events, if anything does.
    controller: Any = None
    event_dispatcher: Any = None

    #: Has the doorbell a connection of its own? For who cannot ask whether it `has_heard` before each sleep.
    listens_apart = False

    def __init__(self, database: Database, description: dict[str, Any], *, lease_s: float, max_deliveries: int) -> None:
        self.database = database
        self.lease_s = lease_s
        self.worker = uuid4()
        self._description = description
        self.hostname: str = description["hostname"]
        #: How many tasks it may run at a time; follows the pool, which may grow and shrink.
        self.slots: int = description["concurrency"]
        self._max_deliveries = max_deliveries
        self._lanes = Lanes()
        self._bell: Doorbell | None = None
        self._is_idle = False
        #: The last claim got less than it asked for: nothing waits in the queues, as far as is known.
        self._is_drained = False
        self._is_unsure = False
        self._doubts_at: float | None = None
        self._connects = 0
        self._lost: set[UUID] = set()
        now = time.monotonic()
        self._reaped_at = -math.inf
        self._lookout = Lookout()
        self.renewed_at = now
        self._ticked_at = -math.inf
        self._next_due_at: float | None = None
        self._look_again_at: list[float] = []
        #: Queues that are claimed from one by one, under their limits.
        self._limited: list[str] = []

    @property
    def queues(self) -> list[str]:
        queues: list[str] = self._description["queues"]
        return queues

    @property
    def app(self) -> Any:
        """For steps and commands of the project, as is `timer`."""
        return self.controller.app

    @property
    def timer(self) -> Any:
        return self.controller.timer

    # -- membership

    def enlist(self) -> None:
        """Register under a new id."""
        self.worker = uuid4()
        sent_at = time.monotonic()
        self.database.run(fleet.enlist(self.worker, lease_s=self.lease_s, pid=os.getpid(), **self._description))
        self.renewed_at = sent_at
        self._is_idle = self._is_unsure = False
        self._connects = self.database.connects
        self._lanes.forget()
        self._limit([each.queue for each in self.database.run(flows.queue_limits(self.queues))])
        self._listen()

    def subscribe(self, queues: list[str]) -> None:
        """Consume these queues from now on."""
        self.database.run(fleet.subscribe(self.worker, queues))
        self._description["queues"] = queues
        self._is_idle = False
        self._limit([each.queue for each in self.database.run(flows.queue_limits(queues))])

    def _limit(self, limited: list[str]) -> None:
        """Claim from these of the queues under their limits, and as one likes from the others."""
        self._limited = limited
        self._lanes.limit([queue for queue in self.queues if queue not in limited])

    def discharge(self) -> int:
        """Sign off; gives how many claims went back to their queues with it."""
        return self.database.run(fleet.discharge(self.worker))

    def take_lost(self) -> set[UUID]:
        """Claims that were found not to be this worker's any more, once."""
        lost, self._lost = self._lost, set()
        return lost

    def close(self) -> None:
        if self._bell is not None:
            self._bell.close()
        self.database.close()

    def lease_left_s(self) -> float:
        """Seconds until others may take over, counted from before the last renewal was sent."""
        return self.renewed_at + self.lease_s - time.monotonic()

    # -- the doorbell

    def _listen(self) -> None:
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        channel, database = f"pgtasks_worker_{self.worker}", self.database
        try:
            self._bell = Doorbell(database.url, channel) if self.listens_apart else SharedDoorbell(database, channel)
        except (psycopg.Error, OperationalError) as error:
            logger.warning("Cannot listen for notifications, looking once a second instead: %s", error)

    @property
    def bell(self) -> Doorbell | None:
        return None if self._bell is None or self._bell.is_broken else self._bell

    @property
    def has_heard(self) -> bool:
        """Is there something to `hear` of which the socket says nothing any more?"""
        return self._bell is not None and self._bell.has_heard

    def descriptors(self) -> list[int]:
        """Sockets that children must not inherit."""
        return list({*self.database.descriptors(), *([self.bell.fileno()] if self.bell else [])})

    def hear(self) -> list[str]:
        """Read notifications and return their payloads; a broken doorbell is replaced by the next tick."""
        try:
            return self._bell.heard() if self._bell is not None else []
        except psycopg.Error:
            if self._bell is not None:
                self._bell.close()
                self._bell = None
            return []

    # -- settle and claim

    def step(
        self, outcomes: Sequence[Outcome], room: int, known: Collection[Claim], *, is_called: bool = True
    ) -> list[Claim]:
        """Settle outcomes and claim up to `room` tasks. `is_called` says that there may be new ones.

        Raises when the database does not answer; the same outcomes may then be given again, since those that were
        settled already do not match any more. `known` are the claims that the worker knows of, to find those that a
        lost answer may have added.
        """
        if self.must_compare:
            self._compare([(c.id, c.delivery) for c in known] + [(o.id, o.delivery) for o in outcomes])
        plain: list[Outcome] = []
        others: list[Outcome] = []
        for outcome in outcomes:
            (plain if tasks.is_plain_success(outcome) else others).append(outcome)
        self._is_unsure = True
        for outcome in [o for o in others if o.follow_ups]:
            others.remove(outcome)
            self._settle_with_follow_ups(outcome)
        releases = [o for o in others if tasks.is_release(o)]
        taken = self._release(releases, room) if releases else []
        if rest := [o for o in others if not tasks.is_release(o)]:
            taken = [*taken, *self._settle(rest, room - len(taken))]
        if self._is_idle and not is_called:
            # It is woken for what is new; who waits for these results need not wait while it looks for what it overlooked.
            self._finish(plain)
            claims = taken or self._look((), room)
        else:
            claims = [*taken, *self._look(plain, room - len(taken))]
        if self._limited:
            # No more than can begin at once: what waits behind others would be counted as running.
            free = self.slots - len(known) - len(claims)
            claims += self._claim_limited(min(free, room - len(claims)))
        self._is_unsure = False
        return claims

    @property
    def has_nothing_to_decide(self) -> bool:
        """Would whatever follows a task that ends now be this worker's to run, and would it be woken for anything else?"""
        is_sure = not self._has_lost_answers and not self.database.is_pooled
        return self._is_idle and self._is_drained and not self._limited and is_sure

    def doubt(self) -> None:
        """Have a step compare what is in hand with the tables: a child may have taken a claim that it could not tell of."""
        self._doubts_at = time.monotonic() + DOUBT_S

    @property
    def _has_lost_answers(self) -> bool:
        return self._is_unsure or self.database.connects > self._connects

    @property
    def must_compare(self) -> bool:
        """Must the next step? After a doubt not at once, since other children take claims too, and say so a moment later."""
        return self._has_lost_answers or (self._doubts_at is not None and time.monotonic() >= self._doubts_at)

    def _compare(self, in_hand: Sequence[tuple[UUID, int]]) -> None:
        """When something may have been lost on the way: compare the claims in hand with the tables, which are right."""
        spare_s = 0.0 if self._has_lost_answers else DOUBT_S
        back, lost, spared = self.database.run(fleet.disown(self.worker, in_hand, spare_s=spare_s))
        self._doubts_at = time.monotonic() + DOUBT_S if spared else None
        if back:
            logger.warning("%d claims whose answer was lost on the way went back to their queues", back)
        self._lost.update(lost)
        self._is_unsure, self._connects = False, self.database.connects

    def _release(self, outcomes: Sequence[Outcome], room: int) -> list[Claim]:
        """Settle successes that others wait for; takes what they release when nothing else waits for its turn."""
        room = room if self._is_drained else 0
        may_lag, queues = not self.database.is_pooled, self._lanes.queues
        settled: tasks.Settled | None = None
        try:
            if room and len(outcomes) == 1 and tasks.is_link(outcomes[0]):
                link = tasks.pass_on(self.worker, self.hostname, outcomes[0], queues=queues, may_lag=may_lag)
                settled = self.database.run(link)
            if settled is None:
                release = tasks.release(self.worker, self.hostname, outcomes, queues=queues, room=room, may_lag=may_lag)
                settled = self.database.run(release)
        except OperationalError:
            raise
        except Exception:
            # One of them has ended otherwise meanwhile, or cannot be stored.
            return self._settle(outcomes, room)
        self._check(len(outcomes), len(settled.ended))
        self._expect(settled.later_s)
        return settled.claims

    def _settle(self, outcomes: Sequence[Outcome], room: int) -> list[Claim]:
        """Settle outcomes of any kind; takes what they release when nothing else waits for its turn in the queues."""
        try:
            settled = self.database.run(
                tasks.settle(
                    self.worker, self.hostname, outcomes, queues=self._lanes.queues, room=room if self._is_drained else 0
                )
            )
        except OperationalError:
            raise
        except Exception:
            # One of them is to blame, and none was settled.
            for outcome in outcomes:
                self._settle_alone(outcome)
            return []
        self._check(len(outcomes), len(settled.ended))
        self._expect(settled.later_s, *(o.delay_s for o in outcomes if o.kind != "done"))
        return settled.claims

    def _settle_alone(self, outcome: Outcome) -> None:
        """Settle one outcome; one that the database refuses is a failure that says so."""
        try:
            self.database.run(tasks.settle(self.worker, self.hostname, [outcome]))
        except OperationalError:
            raise
        except Exception as error:
            logger.error(
                "The outcome %s of task %s cannot be stored, so it has failed: %s", outcome.state, outcome.id, error
            )
            successors = self.database.run(graphs.successors(outcome.id)) if outcome.has_successors else []
            failure = unstorable(outcome, error, successors)
            self.database.run(tasks.settle(self.worker, self.hostname, [failure]))

    def _settle_with_follow_ups(self, outcome: Outcome) -> None:
        """Settle one outcome and enqueue what comes with it, in one transaction."""
        enqueues = [tasks.enqueue(messages, edges, lets_in=False) for messages, edges in outcome.follow_ups]
        settle = tasks.settle(self.worker, self.hostname, [outcome])
        try:
            settled, *_ = self.database.run_together(settle, *enqueues)
        except TaskSentBefore as error:
            logger.error(
                "What follows task %s was not sent, and the task has ended as %s all the same: %s",
                outcome.id,
                outcome.state,
                error,
            )
            settled = self.database.run(settle)
        self._check(1, len(settled.ended))

    def _expect(self, *delays_s: float | None) -> None:
        """Remember when the first of what was just scheduled is due, a retry or a later step, so as not to sleep past it."""
        for delay_s in filter(None, delays_s):
            due_at = time.monotonic() + delay_s
            self._next_due_at = due_at if self._next_due_at is None else min(self._next_due_at, due_at)

    def _look(self, plain: Sequence[Outcome], room: int) -> list[Claim]:
        """Settle plain successes and claim up to `room` tasks."""
        if not room:
            self._finish(plain)
            self._is_drained = False
            return []
        if self._lanes.must_sweep():
            claims = self._sweep(plain, room)
        else:
            claims = self._claim(plain, self._lanes.ahead(), room)
            if not claims and self._lanes.may_sweep():
                claims = self._sweep((), room)
        self._is_drained = len(claims) < room
        return claims

    def _sweep(self, plain: Sequence[Outcome], room: int) -> list[Claim]:
        with self._lanes.sweep() as lanes:
            return self._claim(plain, lanes, room)

    def _finish(self, plain: Sequence[Outcome]) -> None:
        if plain:
            self._check(len(plain), sum(self.database.run_at_once(*self._finishes(plain))))

    def _finishes(self, plain: Sequence[Outcome]) -> list[Query[int]]:
        parts = (plain[at : at + MOST_PLAIN] for at in range(0, len(plain), MOST_PLAIN))
        return [tasks.finish(self.worker, self.hostname, part) for part in parts]

    def _claim(self, plain: Sequence[Outcome], lanes: Sequence[tasks.Lane], room: int) -> list[Claim]:
        """Settle plain successes and claim, in one round trip and one commit."""
        claims: list[Claim]
        claim = tasks.claim(self.worker, lanes, room, max_deliveries=self._max_deliveries, may_lag=not plain)
        if plain:
            *settled, claims = self.database.run_at_once(*self._finishes(plain), claim)
            self._check(len(plain), sum(settled))
        else:
            claims = self.database.run(claim)
        self._lanes.advance(claims)
        return claims

    def _claim_limited(self, room: int) -> list[Claim]:
        """Claim from the limited queues, by turns, what their limits leave; the others' claims wait that long for the lock."""
        claims: list[Claim] = []
        self._limited = [*self._limited[1:], *self._limited[:1]]
        for queue in self._limited:
            if (wanted := room - len(claims)) > 0:
                claims += claim_limited(self.database, self.worker, queue, wanted, self._max_deliveries)
        return claims

    def _check(self, sent: int, settled: int) -> None:
        if settled < sent:
            # Or a child has settled one of them itself, and the answer, with what it had taken, was lost.
            self.doubt()
            logger.warning(
                "%d of %d results were not taken: their claims had ended or were taken over by another worker",
                sent - settled,
                sent,
            )

    def ack(self, claims: Sequence[Claim]) -> set[UUID]:
        """Note that at-most-once tasks begin; gives those that may.

        Raises when the database does not answer: the claims are then given back by the next step, unbegun.
        """
        self._is_unsure = True
        allowed = self.database.run(tasks.ack(self.worker, claims))
        self._is_unsure = False
        return allowed

    def charge(self, claims: Sequence[Claim]) -> set[UUID]:
        """Count the loss of this worker in advance for tasks that begin; gives those that may. Done twice, it counts once."""
        return self.database.run(tasks.charge(self.worker, claims))

    # -- once a second

    def next_tick_at(self, room: Callable[[], int]) -> float:
        """When to tick next: in a second, soon after falling asleep, or when a task is due that there is room for."""
        # A lease of a few seconds wants looking after more often.
        usual = min((self._ticked_at + min(TICK_S, self.lease_s / 4), *self._look_again_at))
        if self._next_due_at is not None and room():
            return min(usual, max(self._next_due_at, self._ticked_at + 0.002))
        return usual

    def tick(self) -> fleet.Tick:
        """Look around; renews the lease when a quarter of it has passed."""
        sent_at = time.monotonic()
        self._look_again_at = [at for at in self._look_again_at if at > sent_at]
        renew = sent_at - self.renewed_at >= self.lease_s / 4
        with self._lookout.back_s(sent_at) as back_s:
            lanes = None if back_s is None else self._lanes.ahead()
            tick = self.database.run(fleet.tick(self.worker, self.queues, renew=renew, lanes=lanes, back_s=back_s))
        if renew and tick.is_registered:
            self.renewed_at = sent_at
        self._ticked_at = time.monotonic()
        self._next_due_at = None if tick.next_due_s is None else self._ticked_at + tick.next_due_s
        if tick.limited_queues != sorted(self._limited):
            self._limit(tick.limited_queues)
        if self.bell is None and not self.database.is_pooled:
            self._listen()
        return tick

    def let_in(self) -> None:
        """Put right what limits hold back; a rate that lets more in before the next tick is looked at when it does."""
        swept = self.database.run(flows.sweep())
        if swept.opens_in_s is not None and swept.opens_in_s < TICK_S:
            self._look_again_at.append(time.monotonic() + swept.opens_in_s)

    def tick_soon(self) -> None:
        """Have the next tick come at once."""
        self._look_again_at.append(time.monotonic())

    def reap(self, *, has_dead: bool) -> int:
        """Take the claims of dead workers back to their queues if there are any; gives how many went back."""
        now = time.monotonic()
        if not has_dead and now - self._reaped_at < REAP_EVERY_S:
            return 0
        reaped = self.database.run(fleet.reap(REAP_MOST))
        self._reaped_at = now if reaped.returned < REAP_MOST else -math.inf
        if reaped.dead or reaped.returned:
            logger.warning(
                "Took over %d tasks from workers that are gone%s",
                reaped.returned,
                f": {', '.join(map(str, reaped.dead))}" if reaped.dead else "",
            )
        return reaped.returned

    # -- idle

    @property
    def is_idle(self) -> bool:
        """True when an enqueue wakes this worker."""
        return self._is_idle

    def rest(self) -> bool:
        """Declare this worker idle before it sleeps; True if it must look once more first."""
        if self._is_idle:
            return False
        self.database.run(fleet.idle(self.worker, self.queues))
        self._is_idle = True
        now = time.monotonic()
        self._look_again_at = [now + pause for pause in LOOK_AGAIN_S]
        return True

    def rouse(self) -> None:
        """Declare this worker busy: it looks for work by itself."""
        if self._is_idle:
            self._is_idle = False
            with suppress(Exception):
                self.database.run(fleet.busy(self.worker))
