"""Type checkers know what a task takes and returns."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
from typing import Any
from pgtasks import Celery, shared_task

app = Celery("proj")

@app.task
def add(x: int, y: int = 0) -> int: return x + y

@app.task(bind=True, max_retries=3)
def bound(self: Any, x: int) -> str: return str(x)

@shared_task(name="shared")
def shared(x: str) -> float: return float(x)

@app.task
async def fetch(url: str) -> bytes: return url.encode()

reveal_type(add.delay(1).get())  # int
reveal_type(add(1, y=2))  # int
reveal_type(bound.delay(1).get())  # str
reveal_type(shared.apply_async(("1",)).get())  # float
reveal_type(fetch.delay("u").get())  # bytes

async def main() -> None:
    reveal_type(await (await fetch.adelay("u")).aget())  # bytes
    reveal_type(await fetch("u"))  # bytes

add.delay("1")  # error: arg-type
add.delay()  # error: call-arg|call-overload
bound.delay(self, 1)  # error: name-defined
bound.delay("1")  # error: arg-type
shared.si(1)  # error: arg-type
fetch.delay(1)  # error: arg-type|call-overload
add.s(1)
"""


def test_calls_are_checked_against_the_signature_of_the_body(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", str(program)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2]).stdout

    lines = PROGRAM.splitlines()
    revealed = dict(re.findall(r"program.py:(\d+): note: Revealed type is \"([^\"]+)\"", said))
    wrong = dict(re.findall(r"program.py:(\d+): error: .*\[([\w-]+)\]", said))
    for number, line in enumerate(lines, 1):
        _, _, wanted = line.partition("  # ")
        if wanted.startswith("error: "):
            assert wrong.pop(str(number), None) in wanted.removeprefix("error: ").split("|"), (line, said)
        elif wanted:
            assert revealed[str(number)].removeprefix("builtins.") == wanted, (line, said)
    assert not wrong, said
