"""pgtasks beside its rivals: the same workloads on each, in turn, on this machine.

    python -m loadtest.rivals                          three rounds
    python -m loadtest.rivals --minutes 15             as many rounds as fit into the time, one at least
    python -m loadtest.rivals --quick                  one short round
    python -m loadtest.rivals --only pgtasks DBOS      some of them
    python -m loadtest.rivals --json FILE              every figure of every round as well

    send    no-op tasks one by one, per second                bulk    the same, as many at once as it can
    drain   no-op tasks that were there, per second, from the first that ran to the last
    trip    a call and its answer, ms      chain   ten tasks one after the other, ms      chord   a hundred and one, ms
    flows   workflows of five durable steps, for Celery chains of five tasks, that were there, per second from the
            first step to the last       flow    one of them and its answer, ms

Every contender has an environment of its own, made by this command, and a service: a private Postgres shared
by those that use one (durable: fsync on), Redis and RabbitMQ of the system as they come. How each is set up is
said in its program, in `loadtest/rivals/programs`. A round does one pass after the other on each contender in turn;
what a pass has sent has run before the next contender has its turn. Figures are medians over the rounds; ratios,
to pgtasks, are medians of the ratios within a round. What was sent counts only if every task ran once by its own
word, which is looked at again when the worker has ended. Who is missing, or cannot do a workload, was not run:
never zero.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from loadtest import bench
from loadtest.measure import Figures, crowding, fsyncs_per_s, machine, settings
from loadtest.rivals import contenders
from loadtest.rivals.contenders import CONTENDERS, Contender, NotRun, Ready

import psycopg  # isort: skip


class Scale(NamedTuple):
    """How much of everything a round does."""

    rounds: int = 3
    sends: int = 2000
    drains: int = 10_000
    calls: int = 100
    canvases: int = 20
    flows: int = 1000


QUICK = Scale(rounds=1, sends=300, drains=2000, calls=20, canvases=5, flows=200)
SMOKE = Scale(rounds=1, sends=5, drains=20, calls=2, canvases=1, flows=20)

#: Workload, unit, and whether more is better.
WORKLOADS = {
    "send": ("/s", True), "bulk": ("/s", True), "drain": ("/s", True), "trip": ("ms", False), "chain": ("ms", False),
    "chord": ("ms", False), "flows": ("/s", True), "flow": ("ms", False),
}  # fmt: skip

#: Workloads that one pass measures: what was sent in bulk is drained, and the calls that wait share a worker.
PASSES = (("send",), ("bulk", "drain"), ("trip", "chain", "chord", "flow"), ("flows",))

_PATIENCE_S = 300.0
#: What has run is soon acknowledged as well; a worker that is stopped before that may leave a task to run
#: again.
_SETTLED_S = 1.0


def main() -> None:
    """Compare, print the table, and write everything as JSON if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.rivals",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", help="names of contenders", default=[each.name for each in CONTENDERS])
    parser.add_argument("--workloads", nargs="+", choices=list(WORKLOADS), default=list(WORKLOADS))
    parser.add_argument(
        "--home", type=Path, default=Path.home() / ".cache" / "pgtasks-rivals", help="for the environments"
    )
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--smoke", action="store_true", help="next to nothing: does it work?")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--minutes", type=float, help="instead of so many rounds: as many as are expected to fit")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    scale = SMOKE if options.smoke else QUICK if options.quick else Scale()
    unknown = set(options.only) - {each.name for each in CONTENDERS}
    if unknown:
        parser.error(f"nobody is called {', '.join(sorted(unknown))}; there are {', '.join(each.name for each in CONTENDERS)}")
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    scale = scale._replace(rounds=options.rounds or (scale.rounds if until is None else 100))
    # So that a terminated run cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = [each for each in CONTENDERS if each.name in options.only]
    found = run(chosen, scale, options.home, options.workloads, until)
    print(text(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def run(
    chosen: Sequence[Contender],
    scale: Scale,
    home: Path,
    workloads: Sequence[str] = tuple(WORKLOADS),
    until: float | None = None,
) -> Figures:
    """All rounds, but none that would not be over at `until`; gives everything that was found."""
    found: Figures = {"machine": machine(), "fsyncs_per_s": fsyncs_per_s(), "crowding": crowding()}
    found |= {"scale": scale._asdict(), "not_run": {}, "rounds": []}
    with ExitStack() as stack:
        server, _ = stack.enter_context(bench._server(None))
        with psycopg.connect(server) as conn:
            found["settings"] = settings(conn)
        ready = []
        for contender in chosen:
            try:
                ready.append(_made_ready(contender, server, home, stack))
            except (NotRun, subprocess.TimeoutExpired) as reason:
                found["not_run"][contender.name] = str(reason)
        found["versions"] = {each.contender.name: contenders.versions(each) for each in ready}
        longest_s = 0.0
        for number in range(scale.rounds):
            began_at = time.monotonic()
            if number and until is not None and began_at + longest_s > until:
                break
            found["rounds"].append(_round(ready, scale, number, found["not_run"], workloads))
            longest_s = max(longest_s, time.monotonic() - began_at)
            print(f"round {number + 1} took {longest_s / 60:.1f} minutes at most", file=sys.stderr, flush=True)
    found["scale"]["rounds"] = len(found["rounds"])
    return found


def _made_ready(contender: Contender, server: str, home: Path, stack: ExitStack) -> Ready:
    """Its environment, its service, its schema; raises NotRun."""
    directory = Path(stack.enter_context(TemporaryDirectory(prefix="rivals-")))
    directory.chmod(0o755)
    services: dict[str, Any] = {
        "redis": lambda: contenders.redis(directory),
        "rabbitmq": lambda: contenders.rabbitmq(directory),
        "postgres": lambda: contenders.postgres(server, contender.name),
    }
    python = contenders.environment(contender, home)
    ready = Ready(contender, python, stack.enter_context(services[contender.service]()), directory)
    ready.do("prepare")
    return ready


def _round(
    ready: list[Ready], scale: Scale, number: int, not_run: dict[str, str], workloads: Sequence[str]
) -> Figures:
    """One pass after the other, each on every contender in turn; takes out of `ready` who fails."""
    found: Figures = {each.contender.name: {} for each in ready}
    for each_pass in PASSES:
        # Whoever comes first is another one in each round.
        for each in [*ready[number % len(ready) :], *ready[: number % len(ready)]] if ready else ():
            wanted = [name for name in each_pass if name in workloads and name in each.contender.can]
            if not wanted:
                continue
            said = f"round {number + 1}: {', '.join(wanted)} by {each.contender.name}"
            try:
                figures = measure(each, wanted, scale)
                found[each.contender.name] |= figures
                said += ": " + ", ".join(f"{_short(figures[name])} {WORKLOADS[name][0]}" for name in figures)
                for name in set(wanted) - set(figures):
                    not_run[f"{each.contender.name}, {name}"] = "all had run before the first look: too few to be timed"
            except (NotRun, subprocess.TimeoutExpired) as reason:
                # What it has not done is still in its queue, and would be part of all that comes.
                ready.remove(each)
                not_run[f"{each.contender.name}, from {', '.join(wanted)} of round {number + 1} on"] = str(reason)
                said += f": not run: {reason}"
            print(said, file=sys.stderr, flush=True)
    return found


def measure(ready: Ready, wanted: Sequence[str], scale: Scale) -> dict[str, float]:
    """The workloads of a pass on one contender, but those that were too short; what was sent has run, once, when this
    returns."""
    if wanted[0] in ("trip", "chain", "chord", "flow"):
        with ready.worker():
            return {name: statistics.median(ready.do(name, _calls(name, scale))["took_ms"]) for name in wanted}
    count = {"send": scale.sends, "flows": scale.flows}.get(wanted[0], scale.drains)
    ledger = ready.directory / "ledger"
    ledger.write_bytes(bytes(count + 1))
    sent = ready.do(_sending(ready.contender, wanted[0]), count)
    with ready.worker(ledger):
        drained_per_s = _drained(ledger, count)
        time.sleep(_SETTLED_S)
    _verify(ledger, count)
    found = {name: drained_per_s if name in ("drain", "flows") else count / float(sent["seconds"]) for name in wanted}
    return {name: figure for name, figure in found.items() if figure is not None}


def _calls(workload: str, scale: Scale) -> int:
    return scale.calls if workload == "trip" else scale.canvases


def _sending(contender: Contender, workload: str) -> str:
    """The command that fills the queue for a workload."""
    if workload == "drain":
        return "bulk" if "bulk" in contender.can else "send"
    return workload


def _drained(ledger: Path, count: int) -> float | None:
    """Wait until all have run; gives the rate from the first, or the first step of any, to the last; None when they had all
    run at the first look."""
    until = time.monotonic() + _PATIENCE_S
    began_at, at_begin = 0.0, 0
    while True:
        ran = ledger.read_bytes()
        left, has_begun = ran.count(0, 0, count), any(ran[count:])
        now = time.monotonic()
        if not began_at and (left < count or has_begun):
            began_at, at_begin = now, count - left
        if not left:
            break
        if now > until:
            raise NotRun(f"{left} of {count} tasks have not run within {_PATIENCE_S:g} s")
        time.sleep(0.002)
    return None if at_begin == count else (count - at_begin) / (now - began_at)


def _verify(ledger: Path, count: int) -> None:
    """Raise NotRun when a task ran twice, perhaps after all others."""
    ran_again = count - ledger.read_bytes().count(1, 0, count)
    if ran_again:
        raise NotRun(f"{ran_again} of {count} tasks ran more than once")


# -- as text


def medians(found: Figures, name: str, workload: str) -> tuple[float, float | None] | None:
    """The median of a figure, and of how many times better pgtasks was within a round; None if it was not
    run."""
    rounds = [one for one in found["rounds"] if workload in one.get(name, {})]
    if not rounds:
        return None
    value = statistics.median(one[name][workload] for one in rounds)
    both = [one for one in rounds if workload in one.get("pgtasks", {})]
    if not both or name == "pgtasks":
        return value, None
    is_more_better = WORKLOADS[workload][1]
    ratios = [one["pgtasks"][workload] / one[name][workload] for one in both]
    return value, statistics.median(ratio if is_more_better else 1 / ratio for ratio in ratios)


def text(found: Figures) -> str:
    """The report for people: for each rival its figure, and in how many times pgtasks does better."""
    names = list(dict.fromkeys(name for one in found["rounds"] for name in one))
    workloads = [each for each in WORKLOADS if any(each in figures for one in found["rounds"] for figures in one.values())]
    lines = [
        f"{found['machine']['cpu']}, {found['machine']['cores']} cores; Postgres {found['settings']['server_version']};"
        f" medians of {found['scale']['rounds']} rounds",
        f"load average {found['machine']['load_average']:.1f} before;"
        f" the same work takes {found['crowding']:.1f} times the CPU that it would take alone",
        "",
        "  ".join([f"{'':<20}", *(f"{each + ' ' + WORKLOADS[each][0]:>16}" for each in workloads)]),
    ]
    for name in names:
        cells = [f"{name:<20}"]
        for workload in workloads:
            known = medians(found, name, workload)
            if known is None:
                cells.append(f"{'not run':>16}")
                continue
            value, ratio = known
            cells.append(f"{_short(value) + (f' ({ratio:.1f}x)' if ratio else ''):>16}")
        lines.append("  ".join(cells))
    none = [each.name for each in CONTENDERS if not each.keeps_results and each.name in names]
    lines += [
        "",
        "Medians; in brackets how many times better pgtasks is, the median of the ratios within a round: above 1 is faster.",
        "Every task that was sent ran once, by its own word. Results are stored"
        + (f", but not by {' and '.join(none)}, which keep none." if none else "."),
        "Postgres flushes every commit; Redis and RabbitMQ run as their packages set them up, and do not wait for the disk.",
        *(f"{name}: {version}" for name, version in found.get("versions", {}).items()),
    ]
    lines += [f"not run: {what}: {why}" for what, why in found["not_run"].items()]
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
