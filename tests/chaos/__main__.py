"""Chaos by hand: `python -m tests.chaos --seconds 600`.

Runs with one seed after the other until the time is over, all faults at once, and stops at the first violation, keeping
the history. The seed that is printed repeats the choice of faults, though not their timing.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from pathlib import Path

from tests.chaos.arena import Arena

FAULTS = (
    "kill", "kill_parent", "kill_child", "freeze", "cut", "cut", "terminate", "restart", "partition", "refuse", "stop"
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60, help="how long in all")
    parser.add_argument("--round", type=float, default=30, help="seconds of faults with one seed")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="the first seed")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--faults", default=",".join(FAULTS), help="which, separated by commas")
    parser.add_argument("--mutant", help="a defect to have on purpose; see tests/chaos/mutants.py")
    options = parser.parse_args()
    until, seed = time.monotonic() + options.seconds, options.seed
    while time.monotonic() < until:
        with Arena(seed, mutant=options.mutant) as arena:
            arena.start_workers(options.workers)
            arena.start_producers(options.producers)
            arena.torment(options.faults.split(","), min(options.round, until - time.monotonic()))
            found = arena.judge(120)
            requests = arena.history.read_text().count('"acked"')
            print(f"seed {seed}: {len(arena.faults)} faults, {requests} requests, {len(found)} violations", flush=True)
            if found:
                kept = Path(f"chaos-{seed}.history")
                shutil.copy(arena.history, kept)
                for violation in found[:20]:
                    print(*violation)
                print(f"The history is in {kept}.")
                return 1
        seed += 1
    return 0


sys.exit(main())
