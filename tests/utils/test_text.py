"""Text and reprs read as Celery's, because people and monitors read them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import celery.utils.saferepr as their_saferepr
import celery.utils.text as theirs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtasks.utils import text as ours
from pgtasks.utils.saferepr import saferepr

# -- text


@given(st.text("ab. \n", max_size=12), st.integers(0, 10))
def test_text_is_cut_and_indented_as_by_celery(text: str, n: int) -> None:
    for name in ("truncate", "abbr", "abbrtask", "indent"):
        assert getattr(ours, name)(text, n + 4) == getattr(theirs, name)(text, n + 4), name
    assert ours.abbr(text, n + 3, False) == theirs.abbr(text, n + 3, False)
    assert ours.dedent(text) == theirs.dedent(text)
    assert ours.ensure_newlines(text, n) == theirs.ensure_newlines(text, n)
    assert ours.fill_paragraphs(text, n + 1) == theirs.fill_paragraphs(text, n + 1)
    assert ours.join([text, "", "x"]) == theirs.join([text, "", "x"])
    assert ours.str_to_list(text) == theirs.str_to_list(text)


@given(st.lists(st.sampled_from(["x.", "x", "a", ".", " ", "-", "x.x.", "(2, 2) | "]), max_size=8).map("".join))
def test_module_names_are_left_out_where_celery_leaves_them_out(text: str) -> None:
    assert ours.remove_repeating("x.", text) == theirs.remove_repeating("x.", text)
    assert ours.remove_repeating_from_task("x.add", text) == theirs.remove_repeating_from_task("x.add", text)


@pytest.mark.parametrize("value", [{"a": 1, "b": {"c": list(range(40))}}, (1, 2), [1], "x", None])
def test_values_are_laid_out_as_by_celery(value: Any) -> None:
    assert ours.pretty(value, width=50) == theirs.pretty(value, width=50)


def test_patterns_are_replaced_and_unknown_ones_named() -> None:
    keys = {"h": "host", "n": lambda: "called"}

    assert ours.simple_format("%n@%h 100%%", keys) == "called@host 100%"
    assert ours.simple_format("", keys) == ""
    assert "%" not in keys
    with pytest.raises(ValueError, match="%x in string '%x'"):
        ours.simple_format("%x", keys)


def test_small_things_are_celerys() -> None:
    assert (ours.pluralize(1, "day"), ours.pluralize(1.5, "day")) == ("day", "days")
    assert ours.match_case("Abc", "CELERY_") == "ABC"
    buffer = ours.WhateverIO(b"x")
    buffer.seek(0, 2)
    buffer.write(b"y")
    buffer.write("z")
    assert buffer.getvalue() == "xyz"
    assert ours.abbr(None, 3) == ours.abbrtask(None, 3) == "???"


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://me:hunter2@h/d", "postgresql://me:**@h/d"),
        (
            "postgresql://me@h/d?password=hunter2&sslpassword=hunter2",
            "postgresql://me@h/d?password=**&sslpassword=**",
        ),
        ("postgresql://h1,h2/d", "postgresql://h1,h2/d"),
        ("host=h password=hunter2 user=me", "host=h password=** user=me"),
        (r"password='hun\'ter2' host=h", "password=** host=h"),
        ("", ""),
    ],
)
def test_passwords_in_urls_are_not_shown(url: str, masked: str) -> None:
    assert ours.mask_url(url) == masked


# -- saferepr


class Sub(list[Any]):
    pass


class Broken:
    def __repr__(self) -> str:
        raise KeyError("no repr")


leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(),
    st.decimals(),
    st.just(range(3)),
    st.frozensets(st.integers(0, 1), max_size=1),
    st.sets(st.integers(0, 1), max_size=1),
    st.text("it's a 'quote' ", max_size=40),
)
values = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(Sub),
        st.lists(inner).map(tuple),
        st.dictionaries(st.text(max_size=3) | st.tuples(st.integers()), inner),
    ),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(
    values,
    st.one_of(st.none(), st.integers(0, 60), st.just(1024)),
    st.sampled_from([3, 3, 1, 2, None]),
)
def test_any_value_is_shown_and_cut_as_by_celery(value: Any, maxlen: int | None, maxlevels: int | None) -> None:
    assert saferepr(value, maxlen, maxlevels) == their_saferepr.saferepr(value, maxlen, maxlevels)


def test_a_circle_is_shown_as_one() -> None:
    circle: dict[str, Any] = {"a": [1]}
    circle["a"].append(circle)

    assert saferepr(circle) == their_saferepr.saferepr(circle)
    assert "Recursion on dict" in saferepr(circle)
    assert saferepr([circle["a"][:1]] * 2) == "[[1], [1]]"


def test_an_object_without_a_working_repr_cannot_break_a_log_line() -> None:
    shown = saferepr([Broken(), Decimal("1.0")])

    assert shown.startswith("[<Unrepresentable <class")
    assert "KeyError('no repr')" in shown


def test_depth_costs_no_recursion_and_huge_values_only_their_beginning() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]

    assert saferepr(deep, maxlevels=None) == "[" * 5001 + "]" * 5001
    assert saferepr(Endless(), maxlen=10) == "[0, 1, 2, , ...]"


class Endless(list[int]):
    def __iter__(self) -> Any:
        number = 0
        while True:
            assert number < 100, "read on after the text was long enough"
            yield number
            number += 1
