"""Compare two transcripts of a program, and know which differences are declared.

deviations.toml holds one entry per program that is meant to differ:

    ["routing/priorities"]
    verdict = "better"        # or "different", "missing"
    reason = "A higher number is more urgent, as Celery documents for RabbitMQ; Redis has it the other way round."

What pgtasks prints instead is kept in deviations/<chapter>/<name>.txt, so a declared difference cannot grow unnoticed.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compat.transcripts import HERE, Program, Transcript

DECLARATIONS = HERE / "deviations.toml"
DEVIATIONS = HERE / "deviations"


@dataclass(frozen=True)
class Verdict:
    """How pgtasks compares: `same`, a declared `better`, `different` or `missing`, or else `undeclared`."""

    word: str
    reason: str = ""
    difference: str = ""

    @property
    def accepted(self) -> bool:
        return self.word != "undeclared"


def judge(program: Program, celery: Transcript, pgtasks: Transcript) -> Verdict:
    if not celery.complete:
        return Verdict("undeclared", "Celery itself does not run it to its end", celery.error)
    declared = declarations().get(str(program))
    if not pgtasks.complete and (declared is None or declared["verdict"] != "missing"):
        return Verdict("undeclared", "does not run to its end", difference(celery, pgtasks) + pgtasks.error)
    if celery.text == pgtasks.text:
        return Verdict("undeclared", "declared as a deviation, but is the same") if declared else Verdict("same")
    if declared is None:
        return Verdict("undeclared", "prints something else", difference(celery, pgtasks))
    if pgtasks.text != accepted(program).text:
        return Verdict("undeclared", "deviates otherwise than declared", difference(accepted(program), pgtasks))
    return Verdict(declared["verdict"], declared["reason"])


def difference(expected: Transcript, got: Transcript) -> str:
    lines = difflib.unified_diff(expected.text.splitlines(), got.text.splitlines(), "expected", "got", n=1, lineterm="")
    return "\n".join(lines) + "\n"


def accepted(program: Program) -> Transcript:
    """What pgtasks is declared to print where it deviates."""
    path = accepted_path(program)
    return Transcript(path.read_text()) if path.exists() else Transcript("", error="nothing recorded")


def accepted_path(program: Program) -> Path:
    return DEVIATIONS / program.chapter / f"{program.name}.txt"


@cache
def declarations() -> dict[str, dict[str, str]]:
    with DECLARATIONS.open("rb") as file:
        return tomllib.load(file)
