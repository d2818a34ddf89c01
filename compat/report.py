"""docs/compatibility.md: one table per chapter, one row per program, only from programs that were run."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from compat.transcripts import HERE, Program
from compat.verdicts import Verdict

PAGE = HERE.parent / "docs" / "compatibility.md"
ORDER = ("same", "better", "different", "missing", "undeclared")
INTRODUCTION = """\
# Compatibility with Celery

Written by `python -m compat --report`; do not edit. Each row is a program below `compat/programs` that imports
`celery` and nothing of pgtasks. It ran on {oracle}, with Redis as broker and result backend, and unmodified on
{subject} after `pgtasks.install_as_celery()`. Both transcripts were compared line by line.

*same*: the transcripts are equal. *better*, *different*, *missing*: a declared deviation, with the reason.
*undeclared*: a difference nobody has accounted for yet, that is, a bug.

`canvas/generated` holds canvases that were made at random; `python -m compat.generated 0:500` makes and compares others.

{summary}.
"""


def write(verdicts: dict[Program, Verdict], oracle: str, subject: str) -> None:
    sections = [INTRODUCTION.format(oracle=oracle, subject=subject, summary=summary(verdicts))]
    for chapter, found in groupby(sorted(verdicts), key=lambda program: program.chapter):
        rows = [_row(program, verdicts[program]) for program in found]
        sections.append(
            "\n".join(
                [
                    f"## {chapter.capitalize()}",
                    "",
                    "| program | shows | pgtasks |",
                    "| --- | --- | --- |",
                    *rows,
                    "",
                ]
            )
        )
    PAGE.write_text("\n".join(sections))


def summary(verdicts: dict[Program, Verdict]) -> str:
    """For example `84 programs: 80 same, 3 better, 1 missing`."""
    counts = Counter(verdict.word for verdict in verdicts.values())
    return f"{len(verdicts)} programs: " + ", ".join(f"{counts[word]} {word}" for word in ORDER if counts[word])


def _row(program: Program, verdict: Verdict) -> str:
    link = f"[{program.name.replace('_', ' ')}](../compat/programs/{program}.py)"
    word = f"**{verdict.word}**: {verdict.reason}" if verdict.reason else verdict.word
    return f"| {link} | {program.title} | {word} |".replace("\n", " ")
