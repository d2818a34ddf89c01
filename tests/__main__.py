"""The project's chores, each by its one name: `python -m tests` lists them, `python -m tests lint types` runs two.

They run with the Python that runs this, in the checkout; a chore that fails ends the run with its exit status.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
PYTHON = [sys.executable, "-m"]

CHORES = {
    "test": ([*PYTHON, "pytest", "-n", "auto"], "Run the tests, in as many processes as there are CPUs."),
    "lint": ([*PYTHON, "ruff", "check", "."], "Look for mistakes and bad style."),
    "types": ([*PYTHON, "mypy"], "Check the package's types."),
    "format": ([*PYTHON, "ruff", "format", "."], "Lay out the code."),
    "settings": (
        [
            *(sys.executable, "-c"),
            "from pgtasks.app.reference import reference; open('docs/settings.md', 'w').write(reference())",
        ],
        "Make docs/settings.md from the settings.",
    ),
    "compat": ([*PYTHON, "compat"], "Run the programs in compat/ on Celery and on pgtasks, and compare."),
}


def main(names: list[str]) -> int:
    """Run chores in the order given; gives the exit status of the first that fails."""
    unknown = [name for name in names if name not in CHORES]
    if unknown or not names:
        print(f"There is no chore {unknown[0]!r}." if unknown else "Chores:")
        print("\n".join(f"  {name:<10}{words}" for name, (_, words) in CHORES.items()))
        return 2 if unknown else 0
    for name in names:
        status = subprocess.run(CHORES[name][0], cwd=CHECKOUT, check=False).returncode
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
