"""Proxies pass for what they stand for."""

from __future__ import annotations

import contextlib
import functools
import inspect
import operator
import pickle
import weakref
from typing import Any

import celery.local as theirs
import pytest

from pgtasks.local import PromiseProxy, Proxy, maybe_evaluate, try_import


def add(x: int, y: int = 2) -> int:
    """Add."""
    return x + y


BINARY = [
    "add",
    "sub",
    "mul",
    "floordiv",
    "truediv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and_",
    "or_",
    "xor",
    "lt",
    "ge",
    "eq",
]


@pytest.mark.parametrize("name", BINARY)
def test_operators_act_on_the_target(name: str) -> None:
    act = getattr(operator, name)

    assert act(Proxy(lambda: 12), 3) == act(12, 3)


def test_containers_numbers_and_context_managers_are_forwarded() -> None:
    items: Any = Proxy(lambda: target)
    target = [3, 1]

    items[0] = 5
    del items[1]

    assert (len(items), list(items), 5 in items, items[0], target) == (1, [5], True, 5, [5])
    assert (int(Proxy(lambda: 3)), float(Proxy(lambda: 3)), -Proxy(lambda: 3), hash(Proxy(lambda: 3))) == (
        3,
        3.0,
        -3,
        3,
    )
    suppress = contextlib.suppress(ValueError)
    with Proxy(lambda: suppress):
        raise ValueError


def test_a_proxy_passes_isinstance_and_introspection() -> None:
    proxy: Any = Proxy(lambda: add)

    assert isinstance(proxy, type(add))
    assert (proxy.__name__, proxy.__doc__, proxy.__module__, proxy.__qualname__) == (
        "add",
        "Add.",
        __name__,
        "add",
    )
    assert inspect.signature(proxy) == inspect.signature(add)
    assert functools.wraps(proxy)(lambda: 0).__doc__ == "Add."
    assert proxy(1, y=3) == 4


def test_the_class_itself_keeps_its_own_name_module_and_doc() -> None:
    for cls in (Proxy, PromiseProxy):
        assert cls.__module__ == "pgtasks.local"
        assert isinstance(cls.__doc__, str)
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_names_and_docs_given_to_the_proxy_win() -> None:
    proxy = Proxy(lambda: add, name="other", __doc__="Other.")

    assert (proxy.__name__, proxy.__doc__) == ("other", "Other.")


def test_an_unbound_proxy_is_false_and_can_be_shown() -> None:
    def unbound() -> Any:
        raise RuntimeError("nothing there")

    proxy = Proxy(unbound)

    assert not proxy
    assert repr(proxy) == "<Proxy unbound>"
    assert dir(proxy) == []


def test_a_proxy_asks_each_time_a_promise_once() -> None:
    asked: list[str] = []

    def getter(who: str) -> list[str]:
        asked.append(who)
        return asked

    proxy, promise = Proxy(getter, ("proxy",)), PromiseProxy(getter, kwargs={"who": "promise"})
    assert not promise.__evaluated__()
    for _ in range(3):
        len(proxy)
        len(promise)

    assert asked == ["proxy", "promise", "proxy", "proxy"]
    assert promise.__evaluated__()


def test_what_waits_for_a_promise_is_called_when_it_is_kept_and_at_once_afterwards() -> None:
    calls: list[Any] = []
    promise = PromiseProxy(lambda: add)

    promise.__then__(calls.append, "first")
    assert calls == []
    assert maybe_evaluate(promise) is add
    assert calls == ["first"]
    promise.__then__(calls.append, "second")

    assert calls == ["first", "second"]


def test_a_getter_that_failed_is_asked_again() -> None:
    answers = iter([KeyError("not yet"), add])

    def getter() -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    promise: Any = PromiseProxy(getter)
    with pytest.raises(KeyError):
        promise(1)

    assert promise(1) == 3


def test_attributes_are_set_and_deleted_on_the_target() -> None:
    class Target:
        pass

    target = Target()
    promise: Any = PromiseProxy(lambda: target)
    promise.mark = 1

    assert target.mark == 1  # type: ignore[attr-defined]
    assert promise.__dict__ == {"mark": 1}
    assert weakref.ref(promise)() is promise
    del promise.mark
    assert not hasattr(target, "mark")


def test_a_pickled_proxy_is_a_pickled_target() -> None:
    assert pickle.loads(pickle.dumps(Proxy(lambda: {1, 2}))) == {1, 2}


def test_everything_celerys_proxies_offer_is_offered() -> None:
    offered = {name for cls in (theirs.Proxy, theirs.PromiseProxy) for name in vars(cls)}
    python2 = {"__nonzero__", "__div__", "__oct__", "__hex__", "__coerce__"}
    python313 = {"__static_attributes__", "__firstlineno__"}
    private = {name for name in offered if name.startswith(("_Proxy", "__pending"))} | {"_get_class"}

    assert offered - python2 - python313 - private <= set(dir(PromiseProxy)) | set(vars(Proxy))


def test_a_module_that_cannot_be_imported_is_the_default() -> None:
    assert try_import("pickle") is pickle
    assert try_import("no.such.module") is None
    assert try_import("no.such.module", 5) == 5
