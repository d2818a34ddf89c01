"""Modules, tasks and nodes are found and named as by Celery."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import celery.utils.imports as their_imports
import celery.utils.nodenames as their_nodenames
import pytest
from kombu import Queue

from pgtasks.utils import imports, nodenames

# -- imports


@pytest.fixture
def in_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a directory with a package and a module."""
    (tmp_path / "words_package").mkdir()
    (tmp_path / "words_package" / "__init__.py").write_text("")
    (tmp_path / "words_package" / "words_tasks.py").write_text("x = 1")
    (tmp_path / "words_module.py").write_text("x = 2")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("words_")]:
        del sys.modules[name]


@pytest.mark.usefixtures("in_project")
def test_the_current_directory_is_looked_into_and_left_out_again() -> None:
    before = list(sys.path)

    assert imports.import_from_cwd("words_module").x == 2
    assert imports.find_module("words_package.words_tasks").x == 1
    assert imports.symbol_by_name("words_module:x") == 2
    assert sys.path == before


@pytest.mark.usefixtures("in_project")
def test_a_module_used_as_a_package_is_told_from_one_that_is_missing() -> None:
    with pytest.raises(imports.NotAPackage, match="words_module"):
        imports.find_module("words_module.sub.tasks")
    with pytest.raises(ModuleNotFoundError, match="words_nowhere"):
        imports.find_module("words_nowhere.sub")
    with pytest.raises(ModuleNotFoundError, match="words_nowhere"):
        imports.find_module("words_nowhere")


def test_a_directory_that_was_removed_does_not_stop_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    with imports.cwd_in_path() as added:
        assert added is None
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("obj", [dict, len, Path, Path.cwd, SimpleNamespace(a=1), sys, imports.qualname])
def test_objects_are_named_as_by_celery(obj: Any) -> None:
    try:
        expected = their_imports.qualname(obj)
    except TypeError:  # Celery cannot name a module
        with pytest.raises((TypeError, AttributeError)):
            imports.qualname(obj)
    else:
        assert imports.qualname(obj) == expected


@pytest.mark.parametrize("module", ["os.path", "__main__", None, "not.loaded", ""])
@pytest.mark.parametrize("main", [None, "proj"])
def test_tasks_are_named_as_by_celery(module: Any, main: Any) -> None:
    app = SimpleNamespace(main=main)

    assert imports.gen_task_name(app, "add", module) == their_imports.gen_task_name(app, "add", module)


def test_instantiate_and_module_file() -> None:
    assert imports.instantiate("collections:OrderedDict", a=1) == {"a": 1}
    assert imports.module_file(SimpleNamespace(__file__="/x/y.pyc")) == "/x/y.py"  # type: ignore[arg-type]
    assert imports.load_extension_class_names("pgtasks.no.such.group") == ()


# -- nodes


@pytest.mark.parametrize("name", ["w1@example.com", "w1@", "example.com", "a@b@c", ""])
def test_nodes_are_named_as_by_celery(name: str) -> None:
    assert tuple(nodenames.nodesplit(name)) == tuple(their_nodenames.nodesplit(name))
    assert nodenames.default_nodename(name) == their_nodenames.default_nodename(name)
    assert nodenames.default_nodename(name, "beat") == their_nodenames.default_nodename(name, "beat")
    assert nodenames.anon_nodename(name) == their_nodenames.anon_nodename(name)
    for pattern in ("%n@%h", "%d-%p.log", "%i%I%%"):
        assert nodenames.node_format(pattern, name) == their_nodenames.node_format(pattern, name)
        if "%p" not in pattern:
            assert nodenames.host_format(pattern, name) == their_nodenames.host_format(pattern, name)


def test_pool_processes_number_their_log_files(monkeypatch: pytest.MonkeyPatch) -> None:
    assert nodenames.current_process_index() is None
    monkeypatch.setattr(multiprocessing.current_process(), "index", 2, raising=False)

    assert nodenames.host_format("%n%I.log %i", "h", "w1") == "w1-3.log 3"
    assert nodenames.current_process_index(base=0) == 2


def test_a_direct_queue_is_named_after_its_worker() -> None:
    queue = nodenames.worker_direct("w1@h")

    assert (queue.name, queue.routing_key, queue.exchange.name) == ("w1@h.dq2", "w1@h", "C.dq2")
    assert nodenames.worker_direct(queue) is queue
    assert isinstance(queue, Queue)
