"""Run the compatibility programs on real Celery and on pgtasks and compare what they print.

    python -m compat                                  all programs, on both
    python -m compat canvas tasks/hooks               a chapter and one program
    python -m compat --only celery --record           record Celery's transcripts in golden/
    python -m compat --report                         and write docs/compatibility.md

Celery runs live where it and redis-server are installed; elsewhere its recorded transcripts are compared
with. pgtasks runs on the database given, whose schema `pgtasks` is dropped before each program, or on a
throw-away server. The exit status is 1 when a program differs in a way that deviations.toml does not declare.
"""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack

from compat import report
from compat.implementations import Implementation, can_run_celery, pgtasks, real_celery
from compat.transcripts import GOLDEN, Program, Transcript, programs, run
from compat.verdicts import Verdict, accepted_path, declarations, difference, judge
from pgtasks.store.embedded import ensure_running

VERSION_FILE = GOLDEN / "RECORDED-ON"


def main() -> int:
    options = _arguments()
    selected = list(programs(options.programs))
    with ExitStack() as running:
        celery = None
        if options.only != "pgtasks" and can_run_celery(options.celery_python):
            celery = running.enter_context(real_celery(options.celery_python))
        if options.only == "celery":
            if celery is None:
                raise SystemExit(
                    "--only celery needs redis-server on the PATH, and celery and redis in --celery-python"
                )
            return _celery_only(selected, celery, options.record, options.repeat)
        subject = pgtasks(options.pgtasks_python, options.database_url or ensure_running(ephemeral=True))
        verdicts = {program: _compare(program, celery, subject, options.accept) for program in selected}
    if options.report:
        oracle = celery.version + ", run live" if celery else VERSION_FILE.read_text().strip() + ", recorded"
        report.write(verdicts, oracle, subject.version)
    print(report.summary(verdicts))
    return 0 if all(verdict.accepted for verdict in verdicts.values()) else 1


def _celery_only(selected: list[Program], celery: Implementation, record: bool, repeat: int) -> int:
    """Show that each program prints the same every time; with `record`, keep what it printed."""
    unsteady = 0
    for program in selected:
        transcripts = [run(program, celery) for _ in range(repeat)]
        first = transcripts[0]
        odd = next((other for other in transcripts if other.error or other.text != first.text), None)
        recorded = _recorded(program)
        if odd is not None:
            unsteady += 1
            print(f"{program}: unsteady or broken\n{difference(first, odd)}{odd.error}")
        elif record:
            program.golden.parent.mkdir(parents=True, exist_ok=True)
            program.golden.write_text(first.text)
            print(f"{program}: recorded")
        else:
            state = "as recorded" if recorded.text == first.text else f"not as recorded\n{difference(recorded, first)}"
            print(f"{program}: {state}")
    if record:
        VERSION_FILE.write_text(celery.version + "\n")
    return 1 if unsteady else 0


def _compare(program: Program, celery: Implementation | None, subject: Implementation, accept: bool) -> Verdict:
    """Run a program, tell how it went, and return the verdict."""
    expected = run(program, celery) if celery else _recorded(program)
    got = run(program, subject)
    if accept and str(program) in declarations():
        accepted_path(program).parent.mkdir(parents=True, exist_ok=True)
        accepted_path(program).write_text(got.text)
    verdict = judge(program, expected, got)
    print(f"{program}: {verdict.word}{': ' + verdict.reason if verdict.reason else ''}")
    for line in (*verdict.difference.splitlines(), *got.remarks):
        print("   ", line)
    return verdict


def _recorded(program: Program) -> Transcript:
    if not program.golden.exists():
        return Transcript("", error="no transcript of real Celery is recorded; run --only celery --record")
    return Transcript(program.golden.read_text())


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(
        "python -m compat", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="*", metavar="PROGRAM|CHAPTER")
    parser.add_argument("--only", choices=["celery", "pgtasks"], help="pgtasks: compare with recorded transcripts")
    parser.add_argument("--record", action="store_true", help="with --only celery: write golden/")
    parser.add_argument("--repeat", type=int, default=1, help="with --only celery: runs that must agree")
    parser.add_argument("--accept", action="store_true", help="record what declared deviations print in deviations/")
    parser.add_argument("--report", action="store_true", help="write docs/compatibility.md")
    parser.add_argument("--celery-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--pgtasks-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--database-url", default=os.environ.get("COMPAT_DATABASE_URL"), metavar="URL")
    options = parser.parse_args()
    if options.report and options.programs:
        parser.error("--report describes all programs; do not select some")
    return options


if __name__ == "__main__":
    sys.exit(main())
