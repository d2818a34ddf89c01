"""Small things that Celery offers and projects have come to use; judged by Celery's own where both must agree."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

import pytest
from celery.utils import collections as their_collections
from celery.utils import iso8601 as their_iso8601
from celery.utils import objects as their_objects
from celery.utils import serialization as their_serialization
from kombu import Queue

from pgtasks.utils import collections, iso8601, objects, serialization

NOON = datetime(2020, 1, 2, 12, 4, 5, 123456)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "text",
    [
        *("2013-06-06", "2013-6-6 10:11", "2013-06-06T10:11:12Z", "2013-06-06T10:11+02:00 and more"),
        *("2013-06-06T10:11:12.123456-03:30", "2013-06-06 10:11:12"),
    ],
)
def test_times_are_read_as_celery_reads_them(text: str) -> None:
    assert iso8601.parse_iso8601(text) == their_iso8601.parse_iso8601(text)


def test_a_fraction_of_a_second_is_one_and_what_is_no_time_is_a_value_error() -> None:
    assert iso8601.parse_iso8601("2013-06-06T10:11:12.5").microsecond == 500_000
    for text in ("noon", "2013", "2013-06"):
        with pytest.raises(ValueError, match="unable to parse"):
            iso8601.parse_iso8601(text)


@pytest.mark.parametrize(
    "value",
    [
        *(None, 1, 2.5, "text", True, (1, [2, {"three": None}]), date(2020, 1, 1), time(1, 2), time(1, 2, 3, 456789)),
        *(NOON, NOON.replace(microsecond=0), NOON.replace(tzinfo=UTC), timedelta(1, 2, 3), Queue("letters")),
        NOON.replace(tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_what_json_cannot_hold_becomes_what_celery_makes_of_it(value: Any) -> None:
    assert serialization.jsonify({"here": value}) == their_serialization.jsonify({"here": value})


def test_what_nobody_can_turn_into_json_is_refused_with_its_key_or_goes_through_the_filter() -> None:
    with pytest.raises(ValueError, match=r"Unsupported type: .*bytes.*parent: raw"):
        serialization.jsonify({"raw": b"x"})

    kept = serialization.jsonify(
        {"raw": b"x", "secret": 1}, keyfilter=lambda key: key != "secret", unknown_type_filter=repr
    )

    assert kept == {"raw": "b'x'"}


@pytest.mark.parametrize("module", [collections, their_collections])
def test_a_limited_set_forgets_the_oldest_beyond_its_length_and_after_their_time(module: Any) -> None:
    limited = module.LimitedSet(maxlen=5, minlen=2, expires=10)

    for number in range(8):
        limited.add(number, now=100 + number)
    limited.add("older", now=1)

    assert list(limited) == ["older", 6, 7]
    assert (6 in limited, 0 in limited, len(limited)) == (True, False, 3)
    limited.purge(now=1000)
    assert list(limited) == [6, 7]
    limited.add(6, now=200)
    assert pickle.loads(pickle.dumps(limited)) == limited
    assert [limited.pop(), limited.pop(), limited.pop("none left"), bool(limited)] == [7, 6, "none left", False]


@pytest.mark.parametrize("module", [collections, their_collections])
def test_limited_sets_are_merged_with_the_times_of_their_items(module: Any) -> None:
    one, other = module.LimitedSet(maxlen=10), module.LimitedSet(maxlen=10, data={"a": 1.0, "c": 3.0})
    one.add("b", now=2)

    one.update(other)
    one.update(["d"])

    assert list(one) == ["a", "b", "c", "d"]
    one.discard("b")
    one.discard("never there")
    assert list(one) == ["a", "c", "d"]
    with pytest.raises(ValueError, match="minlen"):
        module.LimitedSet(maxlen=1, minlen=2)
    with pytest.raises(ValueError, match="negative"):
        module.LimitedSet(expires=-1)


class Opened:
    closed = 0

    def __enter__(self) -> str:
        return "opened"

    def __exit__(self, *exc_info: object) -> None:
        Opened.closed += 1


@pytest.mark.parametrize("module", [objects, their_objects])
def test_a_context_that_is_given_is_used_and_left_open_and_one_that_is_not_is_opened_and_closed(module: Any) -> None:
    Opened.closed = 0

    with module.FallbackContext("given", Opened) as given, module.FallbackContext(None, Opened) as opened:
        assert (given, opened, Opened.closed) == ("given", "opened", 0)

    assert Opened.closed == 1


@pytest.mark.parametrize("module", [objects, their_objects])
def test_items_of_a_mapping_can_be_attributes_deep_down_as_well(module: Any) -> None:
    class Person(dict[str, Any]):
        name = module.getitem_property("name", "what others call them")
        city = module.getitem_property("address.city")

    person = Person(address={})
    person.name, person.city = "Ann", "Ghent"

    assert person == {"name": "Ann", "address": {"city": "Ghent"}}
    assert (person.name, Person(address={}).city, Person.name) == ("Ann", None, Person)
    assert module.Bunch(a=1, b=2).b == 2


@pytest.mark.parametrize("module", [objects, their_objects])
def test_the_class_that_defines_an_attribute_is_found_in_the_order_of_resolution(module: Any) -> None:
    class Base:
        def run(self) -> None: ...

    class Middle(Base): ...

    class Leaf(Middle):
        own = 1

    found = [
        module.mro_lookup(Leaf, "own"),
        module.mro_lookup(Leaf, "run"),
        module.mro_lookup(Leaf, "nothing"),
        module.mro_lookup(Leaf, "run", stop={Middle}),
        module.mro_lookup(Leaf, "run", stop={Base}),
        module.mro_lookup(Leaf, "run", stop={Base}, monkey_patched=[__name__]),
    ]

    assert found == [Leaf, Base, None, None, Base, None]
