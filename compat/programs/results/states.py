"""The state constants, their sets and their precedence."""

from celery import states


def main():
    for name in ("READY_STATES", "UNREADY_STATES", "EXCEPTION_STATES", "PROPAGATE_STATES", "ALL_STATES"):
        print(name, sorted(getattr(states, name)))
    print(states.PRECEDENCE)
    print([states.precedence(state) for state in ("SUCCESS", "CUSTOM", None, "PENDING")])
    print(
        states.state("PROGRESS") > states.PENDING,
        states.state("STARTED") < states.SUCCESS,
        states.state("FAILURE") > states.state("SUCCESS"),
    )
    print(
        states.state(states.REVOKED) <= states.state("CUSTOM"),
        str(states.state("SUCCESS")),
        isinstance(states.state("X"), str),
    )
    print(
        states.RECEIVED,
        states.REJECTED,
        states.IGNORED,
        states.RETRY,
        sorted([states.state("RETRY"), states.state("SUCCESS"), states.state("STARTED")]),
    )
