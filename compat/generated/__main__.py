"""Make canvases from seeds, run them on real Celery and on pgtasks, and tell where they differ.

    python -m compat.generated 0:500                  the programs of 500 seeds
    python -m compat.generated 17 --shrink            one, made as small as it can be while it differs
    python -m compat.generated 0:40 --print           only their recipes, a line each

What is kept for good is in programs/canvas/generated.jsonl; Celery's answers to that are recorded by
`python -m compat --only celery --record canvas/generated`. Where Celery leaves a task PENDING for ever there is
nothing to compare: such programs are counted, and must end here. Needs redis-server. The exit status is 1 when a
program differs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from compat.generated.recipes import Made, make, size, smaller
from compat.implementations import Implementation, pgtasks, real_celery
from compat.transcripts import Program, Transcript, run
from compat.verdicts import difference
from pgtasks.store.embedded import ensure_running

PROGRAM = Program("canvas", "generated")
#: Programs that run side by side: with fewer most of the time goes into starting workers.
BATCH = 100
#: Smaller programs that are tried at a time.
TRIES = 40

Ask = Callable[[Sequence[Made]], list[str]]


def answers(implementation: Implementation, made: Sequence[Made]) -> list[str]:
    """What one implementation says of each of these programs."""
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as recipes:
        recipes.write("".join(json.dumps(each) + "\n" for each in made))
        recipes.flush()
        transcript = run(PROGRAM, implementation, {"COMPAT_RECIPES": recipes.name})
    if not transcript.complete:
        raise SystemExit(f"{implementation.name} does not run them to the end:\n{transcript.error}")
    return [block.partition("\n")[2] for block in transcript.text.split("\n#") if block]


def is_left_pending(celery: str) -> bool:
    return "get: nothing yet" in celery or " PENDING " in celery


def differs(celery: str, ours: str) -> bool:
    """Is that a difference? Where Celery never ends, only not ending either is one."""
    if is_left_pending(celery):
        return "get: nothing yet" in ours and "get: nothing yet" not in celery
    return celery != ours


def shrunk(made: Made, ask_celery: Ask, ask_pgtasks: Ask) -> Made:
    """The smallest program like this one that still differs."""
    while True:
        tried = sorted(smaller(made), key=size)[:TRIES]
        found = zip(tried, ask_celery(tried), ask_pgtasks(tried), strict=True) if tried else ()
        better = next((each for each, theirs, ours in found if differs(theirs, ours)), None)
        if better is None:
            return made
        made = better


def main() -> int:
    options = _arguments()
    first, _, last = options.seeds.partition(":")
    made = {seed: make(seed) for seed in range(int(first), int(last or int(first) + 1))}
    if options.print:
        print("\n".join(json.dumps(each, separators=(",", ":")) for each in made.values()))
        return 0
    with ExitStack() as running:
        celery = running.enter_context(real_celery(sys.executable))
        subject = pgtasks(sys.executable, options.database_url or ensure_running(ephemeral=True))
        ask = tuple(lambda programs, one=one: answers(one, programs) for one in (celery, subject))
        different = pending = 0
        for seeds in (list(made)[at : at + BATCH] for at in range(0, len(made), BATCH)):
            programs = [made[seed] for seed in seeds]
            for seed, theirs, ours in zip(seeds, ask[0](programs), ask[1](programs), strict=True):
                pending += is_left_pending(theirs)
                if differs(theirs, ours):
                    different += 1
                    tell(seed, shrunk(made[seed], *ask) if options.shrink else made[seed], theirs, ours)
    print(f"{len(made)} programs: {different} different, {pending} that Celery never ends")
    return 1 if different else 0


def tell(seed: int, made: Made, theirs: str, ours: str) -> None:
    """Show a difference."""
    print(f"seed {seed}: {json.dumps(made, separators=(',', ':'))}")
    print(difference(Transcript(theirs), Transcript(ours)))


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(
        "python -m compat.generated", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seeds", metavar="SEED|FIRST:LAST")
    parser.add_argument("--shrink", action="store_true", help="make what differs smaller, a minute each")
    parser.add_argument("--print", action="store_true", help="run nothing")
    parser.add_argument("--database-url", default=os.environ.get("COMPAT_DATABASE_URL"), metavar="URL")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
