"""What keeps the code readable: who may import whom, how big things are, how far a call reaches."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest

import pgtasks
from pgtasks import Celery
from pgtasks.execution import Site, execute
from pgtasks.store import fleet, sql, tasks

PACKAGE = Path(pgtasks.__file__).parent

#: From the ground up; the longest name that a module's name starts with decides.
FLOORS = {
    "words": (
        *("states", "exceptions", "local", "platforms", "einfo", "crontab_parser", "bootsteps"),
        *("utils", "app", "worker", "concurrency"),  # the last three are namespaces: nothing is in them
    ),
    "values": (
        *("schedules", "serialization", "message", "signals", "_state", "flow"),
        *("app.defaults", "app.foreign", "app.option", "app.settings"),
    ),
    "store": ("store",),
    "composition": ("canvas", "result", "asyncresult", "resultset", "joining", "workflowhandle"),
    "app": ("utils.log", "app."),
    "workflow": ("workflow",),
    "processes": ("execution", "concurrency.", "worker."),
    "edges": ("bin", "demo", "contrib", "aliases", "__main__", ""),
}
HEIGHT = {prefix: height for height, names in enumerate(FLOORS.values()) for prefix in names}

LONGEST_MODULE = 460
#: Modules beyond it, as they are, with the reason why they are not two.
LONG_MODULES = {
    "app/backend.py": (500, "a facade: Celery's names, each a line or two over the store"),
    "app/control.py": (480, "a method for each command of remote control, as Celery has them"),
    "app/task.py": (520, "Task is Celery's public class; the options and hooks belong to it"),
    "app/trace.py": (500, "the life of one attempt, from before_start to after_return"),
    "asyncresult.py": (470, "AsyncResult is Celery's public class, with a coroutine beside each call that waits"),
    "store/database.py": (470, "connections that end in time, a pool of them, and the same for coroutines"),
    "worker/consumer.py": (475, "every statement that a worker sends, in the order of its life"),
    "worker/crew.py": (490, "which child runs what, from the first claim to the last death"),
    "worker/supervisor.py": (555, "one life: open, turn, endure, stop"),
}
LONGEST_FUNCTION = 48

#: How many of the package's files a call enters, counted, not estimated; they may only become fewer.
FILES_ENTERED_BY_DELAY = 18
FILES_ENTERED_BY_RUNNING = 15


class Import(NamedTuple):
    """One import, as it happens when the program runs."""

    by: str
    of: str
    line: int
    is_inside_function: bool


@cache
def sources() -> dict[str, Path]:
    """The modules of the package, by name without `pgtasks.`; the package itself is the empty name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(sources()[module].read_text(encoding="utf-8"))


def height(module: str) -> int:
    return HEIGHT[max((name for name in HEIGHT if _fits(module, name)), key=len, default="")]


def _fits(module: str, name: str) -> bool:
    """`app.` is what is in the package, `app` the package itself as well."""
    return module.startswith(name) if name.endswith(".") else f"{module}.".startswith(f"{name}.")


def name_of_floor(module: str) -> str:
    return list(FLOORS)[height(module)]


@cache
def imports() -> list[Import]:
    return [found for module in sources() for found in _imports_in(module, tree(module), False)]


def _imports_in(module: str, node: ast.AST, inside: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(module, _target(alias.name), child.lineno, inside)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{module} has a relative import in line {child.lineno}"
            for alias in child.names:
                yield Import(module, _target(f"{child.module}.{alias.name}"), child.lineno, inside)
        is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _imports_in(module, child, inside or is_function)


def _target(name: str) -> str:
    """The module that an import of this name needs: ours without `pgtasks.`, others as they are."""
    package, _, rest = name.partition(".")
    if package != "pgtasks":
        return f"!{name}"
    if rest in pgtasks._HOME_OF:  # `from pgtasks import Celery`: the package finds it where it lives
        return _target(pgtasks._HOME_OF[rest])
    while rest not in sources():
        rest = rest.rpartition(".")[0]
    return rest


def ours() -> list[Import]:
    return [found for found in imports() if not found.of.startswith("!") and found.by != found.of]


# -- who imports whom


def test_no_module_imports_from_a_floor_above_its_own() -> None:
    upward = [
        f"{found.by}:{found.line} ({name_of_floor(found.by)}) imports {found.of} ({name_of_floor(found.of)})"
        for found in ours()
        if found.of and height(found.of) > height(found.by)
    ]

    assert upward == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph: dict[str, set[str]] = {module: set() for module in sources()}
    for found in ours():
        if not found.of.startswith(f"{found.by}."):  # a package may gather what is in it
            graph[found.by].add(found.of)

    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_an_import_inside_a_function_has_its_reason_beside_it() -> None:
    silent = []
    for found in imports():
        if found.is_inside_function:
            lines = sources()[found.by].read_text(encoding="utf-8").splitlines()
            beside = lines[max(0, found.line - 3) : found.line + 1]
            if not any("#" in line for line in beside):
                silent.append(f"{found.by}:{found.line}")

    assert silent == []


def test_importing_the_package_loads_nothing_that_is_slow() -> None:
    program = """
import sys, typing, importlib
before = set(sys.modules)
import pgtasks
print(*set(sys.modules) - before)
"""

    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["pgtasks"]


# -- how big things are


def test_every_module_says_what_it_is() -> None:
    silent = [name for name, path in sources().items() if path.stat().st_size and not ast.get_docstring(tree(name))]

    assert silent == []


def test_modules_are_of_a_size_that_can_be_read() -> None:
    sizes = {
        path.relative_to(PACKAGE).as_posix(): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources().values()
    }
    too_long = {name: size for name, size in sizes.items() if size > LONG_MODULES.get(name, (LONGEST_MODULE, ""))[0]}
    no_longer_long = [name for name in LONG_MODULES if sizes.get(name, 0) <= LONGEST_MODULE]

    assert too_long == {}
    assert no_longer_long == []


def test_functions_are_of_a_size_that_can_be_read() -> None:
    too_long = [
        f"{module}.{node.name}: {node.end_lineno - node.lineno + 1}"
        for module in sources()
        for node in ast.walk(tree(module))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.end_lineno
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]

    assert too_long == []


# -- the store is a vocabulary


def statements() -> list[tuple[str, sql.Statement]]:
    nouns = sorted(path.stem for path in (PACKAGE / "store").glob("*.sql"))
    return [(noun, statement) for noun in nouns for statement in sql.load(noun).values()]


@pytest.mark.parametrize(("noun", "statement"), statements(), ids=lambda it: getattr(it, "name", it))
def test_every_statement_is_said_by_a_verb_and_says_what_it_does(noun: str, statement: sql.Statement) -> None:
    verbs = (PACKAGE / "store" / f"{noun}.py").read_text(encoding="utf-8")

    assert re.search(rf"""["']{statement.name}["']""", verbs), f"no verb of {noun}.py uses {statement.name}"
    assert statement.doc.endswith((".", ":")), f"{noun}.sql: say in sentences what {statement.name} does"


def verbs() -> list[str]:
    return [
        f"{noun}.{node.name}"
        for noun in sorted({noun for noun, _ in statements()})
        for node in tree(f"store.{noun}").body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]


@pytest.mark.parametrize("verb", verbs())
def test_every_verb_of_the_store_is_used(verb: str) -> None:
    name = verb.partition(".")[2]
    users = [
        module
        for module in sources()
        for node in ast.walk(tree(module))
        if (isinstance(node, ast.Attribute) and node.attr == name and ast.unparse(node) == verb)
        or (isinstance(node, ast.Name) and node.id == name and module == f"store.{verb.partition('.')[0]}")
    ]

    assert users


@pytest.mark.parametrize(("noun", "statement"), statements(), ids=lambda it: getattr(it, "name", it))
def test_values_reach_sql_as_parameters_only(noun: str, statement: sql.Statement) -> None:
    assert "{" not in re.sub(r"'[^']*'", "", statement.sql)


# -- how far a call reaches


def files_entered(call: Any) -> set[str]:
    entered = set()

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(PACKAGE)):
            entered.add(Path(frame.f_code.co_filename).relative_to(PACKAGE).as_posix())

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    with Celery("architecture", broker=database_url, set_as_current=False) as app:
        yield app


def test_delay_goes_through_few_files(app: Celery, record_property: Any) -> None:
    add = app.task(lambda x, y: x + y, name="architecture.sent", shared=False)
    add.delay(1, 2)

    entered = files_entered(lambda: add.delay(1, 2))

    record_property("files entered by delay", len(entered))
    assert len(entered) <= FILES_ENTERED_BY_DELAY, sorted(entered)


def test_running_a_task_goes_through_few_files(
    app: Celery, conn: psycopg.Connection[Any], record_property: Any
) -> None:
    add = app.task(lambda x, y: x + y, name="architecture.add", shared=False)
    for _ in range(2):
        add.delay(1, 2)
    worker = uuid4()
    claiming = tasks.claim(worker, [tasks.Lane("celery")], 2, max_deliveries=3)
    app.database.run(
        fleet.enlist(
            worker, lease_s=60, hostname="w@m", machine="m", pid=1, pool="solo", concurrency=1,
            queues=["celery"], version="0",
        )
    )  # fmt: skip
    first, second = app.database.run(claiming)
    execute(Site(app, worker, "w@m"), first)

    entered = files_entered(lambda: execute(Site(app, worker, "w@m"), second))

    record_property("files entered by running a task", len(entered))
    assert len(entered) <= FILES_ENTERED_BY_RUNNING, sorted(entered)
