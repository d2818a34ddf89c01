"""A child that settles the link of a chain by itself and goes on with the next one.

    outcome -> pass_on (one statement, by the child's own connection) -> the next claim, which it runs

Otherwise the parent settles it and sends the next one: two more processes to wake per link, and half of the time a chain takes.
The parent permits it while it has nothing to decide (`Worker._may_pass_on`); docs/decisions/0010-links-settled-by-children.md.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import psycopg

from pgtasks.exceptions import SoftTimeLimitExceeded
from pgtasks.execution.site import Site
from pgtasks.message import Claim, Outcome
from pgtasks.store import tasks

__all__ = ("Links", "PassedOn")

#: So long the parent has the links when the database could not be asked from here.
REST_S = 5.0


class PassedOn(NamedTuple):
    """A link that is settled, with what comes next; None if that could not be taken."""

    claim: Claim | None


class Links:
    """Settles links of chains, in one child."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._not_before = 0.0

    def pass_on(self, claim: Claim, outcome: Outcome) -> PassedOn | None:
        """Settle the outcome of a link and take the next one; None if it is no such link, or nothing is known to be done.

        Then the parent settles it, which changes nothing if it was done after all and only the answer was lost; what was taken
        with that the parent finds when it compares.
        """
        is_link = tasks.is_release(outcome) and tasks.is_link(outcome)
        if not is_link or time.monotonic() < self._not_before:
            return None
        site = self._site
        # In a queue of which it has taken a task the worker may take another one; others are the parent's to know.
        query = tasks.pass_on(site.worker, site.hostname, outcome, queues=[claim.queue], may_lag=True)
        try:
            settled = site.app.database.run_once(query)
        except SoftTimeLimitExceeded:  # it came too late for the task
            return None
        except psycopg.Error:
            self._not_before = time.monotonic() + REST_S
            return None
        return None if settled is None else PassedOn(next(iter(settled.claims), None))

    def can_be_kept(self, claim: Claim) -> bool:
        """May it begin here at once? At-most-once tasks, and those that carry stamps, pass by the parent first."""
        task = self._site.app.tasks.get(claim.name)
        return (task is None or task.acks_late is not False) and not (claim.options and b'"stamps"' in claim.options)
