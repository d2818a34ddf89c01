"""Functions over functions and iterables do what Celery's do, and read no further than asked."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from functools import partial, wraps
from typing import Any

import celery.utils.functional as theirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgtasks.utils import functional as ours


def test_everything_celery_offers_is_offered() -> None:
    for name in theirs.__all__:
        assert hasattr(ours, name), name


# -- regen


def counted(read: list[int], size: int) -> Iterator[int]:
    for number in range(size):
        read.append(number)
        yield number


def test_lists_and_tuples_are_repeatable_already() -> None:
    for items in ([1], (1,)):
        assert ours.regen(items) is items


def test_a_generator_can_be_read_again_and_is_read_once() -> None:
    read: list[int] = []
    items = ours.regen(counted(read, 4))

    assert list(items) == list(items) == [0, 1, 2, 3]
    assert (len(items), items[-1], items[1:3], 2 in items) == (4, 3, [1, 2], True)
    assert read == [0, 1, 2, 3]


@pytest.mark.parametrize("use", [lambda g: next(iter(g)), lambda g: g[0], lambda g: g[2], repr, lambda g: g[1:2]])
def test_a_generator_is_read_as_far_as_by_celery(use: Any) -> None:
    our_read: list[int] = []
    their_read: list[int] = []
    our, their = ours.regen(counted(our_read, 6)), theirs.regen(counted(their_read, 6))

    assert use(our) == use(their)
    assert our_read == their_read
    assert repr(our) == repr(their)
    assert our[:] == their[:]


def test_a_generator_is_one_item_ahead_to_know_the_last_one_by() -> None:
    read: list[int] = []
    items = iter(ours.regen(counted(read, 3)))

    assert [(next(items), list(read)) for _ in range(3)] == [(0, [0, 1]), (1, [0, 1, 2]), (2, [0, 1, 2])]


def test_asking_whether_there_is_anything_reads_one_item() -> None:
    read: list[int] = []

    assert ours.regen(counted(read, 3))
    assert read == [0]


def test_an_iterable_is_not_asked_for_its_items_before_they_are_needed() -> None:
    class Query:
        def __iter__(self) -> Iterator[int]:
            asked.append(1)
            return iter([1, 2])

    asked: list[int] = []
    items = ours.regen(Query())

    assert asked == []
    assert list(items) == list(items) == [1, 2]
    assert asked == [1]


def test_an_error_in_the_generator_comes_after_the_items_before_it() -> None:
    def breaks() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    iterator = iter(ours.regen(breaks()))

    assert next(iterator) == 1
    with pytest.raises(KeyError):
        next(iterator)


def test_two_loops_over_one_generator_do_not_cut_each_other_short() -> None:
    items = ours.regen(iter(range(3)))

    assert [(a, b) for a in items for b in items] == [(a, b) for a in range(3) for b in range(3)]


def test_an_index_past_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        ours.regen(iter([1]))[1]
    with pytest.raises(TypeError):
        ours.regen(iter([1]))["x"]


def test_a_generator_serialises_as_a_list() -> None:
    assert json.dumps(ours.regen(iter([1, 2]))) == "[1, 2]"
    assert pickle.loads(pickle.dumps(ours.regen(iter([1, 2])))) == [1, 2]


def test_map_applies_to_what_was_read_and_to_what_will_be() -> None:
    items = ours.regen(iter(range(5)))
    items[0]
    items.map(lambda number: number * 10)

    assert list(items) == [0, 10, 20, 30, 40]


# -- signatures


def plain(a: Any, b: Any, c: int = 3, *, d: Any, e: Any = None) -> None: ...
def variadic(a: Any, *args: Any, **kwargs: Any) -> None: ...
def nothing() -> None: ...


class Callable:
    def __call__(self, a: Any, b: int = 2) -> None: ...

    def method(self, a: Any, b: int = 2) -> None: ...


@wraps(plain)
def wrapping(*args: Any, **kwargs: Any) -> None: ...


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    ((1, 2), {}),
    ((1, 2), {"d": 1}),
    ((1, 2, 3), {"d": 1, "e": 2}),
    ((1, 2, 3, 4), {"d": 1}),
    ((1,), {"b": 2, "d": 3, "x": 1}),
    ((1,), {"a": 2}),
]


def complaint(fun: Any, args: Any, kwargs: Any) -> str | None:
    try:
        fun(*args, **kwargs)
    except TypeError as exc:
        return str(exc)
    return None


@pytest.mark.parametrize("fun", [plain, variadic, nothing, Callable().method, Callable.method, wrapping])
@pytest.mark.parametrize("bound", [False, True])
def test_a_wrong_call_is_refused_with_celerys_words(fun: Any, bound: bool) -> None:
    if bound and fun is nothing:
        return
    our, their = ours.head_from_fun(fun, bound=bound), theirs.head_from_fun(fun, bound=bound)

    for args, kwargs in CALLS:
        assert complaint(our, args, kwargs) == complaint(their, args, kwargs)


UNSPEAKABLE = type("Unspeakable", (), {"__repr__": lambda self: "not ( python"})()


def test_a_head_runs_nothing_of_the_function_not_even_its_defaults() -> None:
    def explosive(a: Any = UNSPEAKABLE, *, b: Any = UNSPEAKABLE) -> None:
        raise AssertionError("ran")

    head = ours.head_from_fun(explosive)

    assert head() == head(1, b=2) == 1
    assert head.__name__ == "explosive"


def test_positional_only_parameters_stay_so() -> None:
    def strict(a: Any, /, b: Any) -> None: ...

    assert complaint(ours.head_from_fun(strict), (), {"a": 1, "b": 2})
    assert ours.head_from_fun(lambda x: None)(1) == 1


@pytest.mark.parametrize("fun", [plain, variadic, nothing, Callable().method, wrapping, partial(plain, 1)])
def test_questions_about_parameters_are_answered_as_by_celery(fun: Any) -> None:
    for n in range(4):
        assert bool(ours.arity_greater(fun, n)) == bool(theirs.arity_greater(fun, n))
    for name, position in [("a", None), ("d", None), ("x", None), ("", 2)]:
        assert bool(ours.fun_takes_argument(name, fun, position)) == bool(
            theirs.fun_takes_argument(name, fun, position)
        )
    assert ours.fun_accepts_kwargs(fun) == theirs.fun_accepts_kwargs(fun)


# -- the rest


@given(st.lists(st.integers(0, 5)), st.integers(1, 4))
def test_iterables_are_cut_and_compared_as_by_celery(items: list[int], n: int) -> None:
    assert list(ours.chunks(iter(items), n)) == list(theirs.chunks(iter(items), n))
    assert list(ours.uniq(items)) == list(theirs.uniq(items))
    assert list(ours.lookahead(iter(items))) == list(theirs.lookahead(iter(items)))
    assert ours.padlist(items, n, "x") == theirs.padlist(items, n, "x")
    assert ours.first(None, [None, *items]) == theirs.first(None, [None, *items])
    assert ours.first(lambda x: x > 3, items) == theirs.first(lambda x: x > 3, items)
    assert ours.seq_concat_seq(items, (1, 2)) == theirs.seq_concat_seq(items, (1, 2))
    assert ours.seq_concat_item(tuple(items), 1) == theirs.seq_concat_item(tuple(items), 1)


def test_firstmethod_asks_until_somebody_answers() -> None:
    class Silent:
        def ask(self) -> None: ...

    class Knows:
        def ask(self) -> int:
            return 42

    ask = ours.firstmethod("ask")

    assert ask([object(), Silent(), ours.lazy(Knows), None]) == 42
    assert ask([Silent()]) is None


def test_small_things_are_celerys() -> None:
    evaluated: list[int] = []
    value = ours.mlazy(lambda: evaluated.append(1) or 7)

    assert (value(), value(), evaluated) == (7, 7, [1])
    assert ours.mattrgetter("real", "nope")(3) == {"real": 3, "nope": None}
    assert (ours.maybe(int, None), ours.maybe(int, "3")) == (None, 3)
    assert (ours.is_numeric_value(1), ours.is_numeric_value(True), ours.is_numeric_value("1")) == (
        True,
        False,
        False,
    )
    assert ours.maybe_list(1) == [1]
    assert ours.noop(1, a=2) is None
    assert ours.pass1(1, 2) == 1
