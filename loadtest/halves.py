"""What it costs the server to claim, to settle plain successes, and to do both in one round trip: for decision 0009.

    python -m loadtest.halves                   a Postgres of its own; half a minute

Medians, in microseconds of the backend's processor; batches of 1, 2 and 60 take turns, so that a slow moment harms all.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from loadtest import bench
from loadtest.measure import Figures, backend_cpu_s, difference
from loadtest.scale import SMALL, Ladder
from pgtasks.message import Claim, Outcome
from pgtasks.store import tasks

BATCHES = (1, 2, 60)


class Halves:
    """A worker that claims and settles by hand, and looks at what its backend has used."""

    def __init__(self, ladder: Ladder, ready: int) -> None:
        self.ladder = ladder
        self.lane = tasks.Lane(ladder._fill(ready))

    def round(self, batch: int) -> Figures:
        """Claim, settle that, then claim again and do both at once."""
        claimed, claim_us = self._timed(lambda: self.ladder.own.run(self._claim(batch)))
        _, settle_us = self._timed(lambda: self.ladder.own.run(self._finish(claimed)))
        again = self.ladder.own.run(self._claim(batch))
        (_, last), both_us = self._timed(
            lambda: self.ladder.own.run_at_once([self._finish(again), self._claim(batch)])
        )
        self.ladder.own.run(self._finish(last))
        return {"claim": claim_us, "settle": settle_us, "both": both_us}

    def _claim(self, batch: int) -> Any:
        return tasks.claim(self.ladder.worker, [self.lane], batch, max_deliveries=5)

    def _finish(self, claims: Sequence[Claim]) -> Any:
        return tasks.finish(self.ladder.worker, "w@scale", [Outcome(each.id, each.delivery, value=b"12345") for each in claims])

    def _timed(self, do: Callable[[], Any]) -> tuple[Any, float | None]:
        before = backend_cpu_s(self.ladder.own)
        found = do()
        spent_s = difference(backend_cpu_s(self.ladder.own), before)
        return found, None if spent_s is None else spent_s * 1e6


def run(server_url: str | None, rounds: int) -> dict[int, Figures]:
    """Per batch the medians; None where the server's processes are not to be seen."""
    with bench._server(server_url) as (server, _), bench._database(server) as url:
        bench.app.conf.broker_url = url
        bench.app.database.ping()
        ladder = Ladder(url, SMALL)
        ladder.enlist()
        halves = Halves(ladder, 3 * rounds * sum(BATCHES) + 1000)
        halves.round(1)  # statements are prepared
        turns = [{batch: halves.round(batch) for batch in BATCHES} for _ in range(rounds)]
        ladder.own.close()
        ladder.conn.close()
    return {batch: {what: _median([turn[batch][what] for turn in turns]) for what in turns[0][batch]} for batch in BATCHES}


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.halves", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", help="a server with nothing else to do; a database is made on it and dropped")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    for batch, figures in run(options.url, options.rounds).items():
        said = ", ".join(f"{what} {'?' if us is None else format(us, ',.0f')} us" for what, us in figures.items())
        print(f"{batch:>3} at a time: {said}")


if __name__ == "__main__":
    main()
