"""States rank as in Celery."""

from __future__ import annotations

from itertools import product

import celery.states as theirs

from pgtasks import states


def test_every_name_and_set_is_celerys() -> None:
    for name in theirs.__all__:
        assert name in states.__all__
    for name in ("READY_STATES", "UNREADY_STATES", "EXCEPTION_STATES", "PROPAGATE_STATES", "ALL_STATES"):
        assert getattr(states, name) == getattr(theirs, name)


def test_every_pair_of_states_a_custom_one_included_compares_as_in_celery() -> None:
    names = [*theirs.PRECEDENCE_LOOKUP, "PROGRESS"]

    for left, right in product(names[:2] + names[3:], repeat=2):
        ours, other = states.state(left), theirs.state(left)
        assert (ours < right, ours <= right, ours > right, ours >= right, ours == right) == (
            other < right,
            other <= right,
            other > right,
            other >= right,
            other == right,
        )
