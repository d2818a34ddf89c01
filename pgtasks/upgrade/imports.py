"""Imports of Celery to imports of pgtasks, in source code.

    from celery import Celery, chain            from pgtasks import Celery, chain
    from celery.utils.log import get_logger     from pgtasks.utils.log import get_logger
    import celery                               import pgtasks as celery
    import celery.states as states              import pgtasks.states as states

Only what is there is imported: a statement with a name that pgtasks does not have stays as it is, and is reported. So
are texts that name something of Celery's, as `"celery.beat:PersistentScheduler"`, since only people know what they are
for. Names of loggers and of built-in tasks stay Celery's, and are passed over. Needs libcst, which keeps the rest of
the file as it is written: `pip install 'pgtasks[migrate]'`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple, cast

from pgtasks.aliases import MOVED
from pgtasks.exceptions import ImproperlyConfigured

__all__ = ("Left", "Rewritten", "rewrite", "sources")

_NAMED = re.compile(r"celery(\.\w+)+(:\w+)?")
_ROOTS = ("celery", "billiard")


class Left(NamedTuple):
    """What was not rewritten, and why."""

    line: int
    what: str
    why: str


class Rewritten(NamedTuple):
    """A source with its imports rewritten, how many there were, and what was left."""

    source: str
    rewrites: int
    left: list[Left]


def sources(paths: Iterable[Path]) -> Iterator[Path]:
    """The files given, and all `*.py` below the directories given, hidden directories and `site-packages` left out."""
    for path in paths:
        if path.is_file():
            yield path
            continue
        for found in sorted(path.rglob("*.py")):
            inside = found.relative_to(path).parts[:-1]
            if not any(part.startswith(".") or part == "site-packages" for part in inside):
                yield found


def rewrite(source: str) -> Rewritten:
    """Rewrite the imports of one file; raises SyntaxError for what is no Python."""
    tree = ast.parse(source)
    left = sorted([*_left_imports(tree), *_texts(tree)])
    if not any(isinstance(node, ast.Import | ast.ImportFrom) and _replacement(node) for node in ast.walk(tree)):
        return Rewritten(source, 0, left)
    code, rewrites = _transformed(source)
    return Rewritten(code, rewrites, left)


# -- what becomes of a statement


def _replacement(node: ast.Import | ast.ImportFrom) -> dict[str, str]:
    """The modules that a statement names and that become others; empty when it has to stay as it is."""
    if isinstance(node, ast.ImportFrom):
        if node.level or not _is_celerys(node.module or ""):
            return {}
        target = _counterpart(node.module or "")
        names = [alias.name for alias in node.names if alias.name != "*"]
        return {node.module or "": target} if target and not _missing(target, names) else {}
    found = {alias.name: _counterpart(alias.name) for alias in node.names if _is_celerys(alias.name)}
    return {} if None in found.values() else {name: target for name, target in found.items() if target}


def _is_celerys(module: str) -> bool:
    return module.partition(".")[0] in _ROOTS


def _counterpart(module: str) -> str | None:
    root, _, rest = module.partition(".")
    target = MOVED.get(module) or (f"pgtasks.{rest}" if rest else "pgtasks")
    if root != "celery" and not target.startswith("pgtasks."):
        return None
    if root != "celery" and module not in MOVED:
        return None
    try:
        return target if find_spec(target) else None
    except ModuleNotFoundError:
        return None


def _missing(target: str, names: Iterable[str]) -> list[str]:
    """Those of some names that a module has neither as attributes nor as modules below it."""
    module = import_module(target)
    return [name for name in names if not hasattr(module, name) and not _is_module(f"{target}.{name}")]


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


# -- what is left


def _left_imports(tree: ast.Module) -> Iterator[Left]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and _is_celerys(node.module or ""):
            target = _counterpart(node.module or "")
            missing = [] if target is None else _missing(target, [a.name for a in node.names if a.name != "*"])
            if target is None or missing:
                yield Left(node.lineno, ast.unparse(node), _why(target, node.module or "", missing))
        elif isinstance(node, ast.Import) and not _replacement(node):
            for alias in node.names:
                if _is_celerys(alias.name):
                    yield Left(node.lineno, ast.unparse(node), _why(None, alias.name, ()))


def _why(target: str | None, module: str, missing: Iterable[str]) -> str:
    if target is None:
        return f"pgtasks has no module for {module}"
    return f"{target} has no {', '.join(missing)}"


def _texts(tree: ast.Module) -> Iterator[Left]:
    """Texts that name a module or something in it; not those that are only names, of loggers and tasks."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and _NAMED.fullmatch(node.value):
            module, colon, _ = node.value.partition(":")
            within = module if colon else module.rpartition(".")[0]
            if _counterpart(within) not in (None, "pgtasks"):
                yield Left(node.lineno, repr(node.value), "a text that may name something to be imported")


# -- the source


def _transformed(source: str) -> tuple[str, int]:
    try:
        # Only who rewrites a project needs it, and it may not be there for the type checker.
        libcst: Any = import_module("libcst")
    except ImportError as error:
        raise ImproperlyConfigured(
            "To rewrite imports, libcst is needed: pip install 'pgtasks[migrate]', or pip install libcst."
        ) from error

    class Transformer(libcst.CSTTransformer):  # type: ignore[misc]  # see above
        rewrites = 0

        def leave_ImportFrom(self, original_node: Any, updated_node: Any) -> Any:
            targets = _replacement_of(original_node)
            if not targets:
                return updated_node
            self.rewrites += 1
            (target,) = targets.values()
            return updated_node.with_changes(module=_dotted(target))

        def leave_Import(self, original_node: Any, updated_node: Any) -> Any:
            targets = _replacement_of(original_node)
            if not targets:
                return updated_node
            self.rewrites += 1
            return updated_node.with_changes(names=[_renamed(alias, targets) for alias in updated_node.names])

    def _replacement_of(node: Any) -> dict[str, str]:
        (statement,) = ast.parse(libcst.Module([]).code_for_node(node).strip()).body
        return _replacement(cast(ast.Import | ast.ImportFrom, statement))

    def _renamed(alias: Any, targets: dict[str, str]) -> Any:
        name = libcst.Module([]).code_for_node(alias.name)
        if name not in targets:
            return alias
        if alias.asname is not None:
            return alias.with_changes(name=_dotted(targets[name]))
        # `import celery.states` binds `celery`, whose modules are imported as they are needed here.
        as_celery = libcst.AsName(name=libcst.Name(name.partition(".")[0]))
        return alias.with_changes(name=libcst.Name("pgtasks"), asname=as_celery)

    def _dotted(name: str) -> Any:
        return libcst.parse_expression(name)

    transformer = Transformer()
    return libcst.parse_module(source).visit(transformer).code, transformer.rewrites
