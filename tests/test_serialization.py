"""Values and exceptions survive as they do in Celery, and data never decides what code runs."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
import threading
import types
import uuid
from collections import OrderedDict
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any

import kombu.serialization
import kombu.utils.json
import pytest
from celery import Celery
from celery.exceptions import SecurityError as TheirSecurityError
from hypothesis import given, settings
from hypothesis import strategies as st

from pgtasks import exceptions, serialization
from pgtasks.exceptions import (
    ContentDisallowed,
    DecodeError,
    EncodeError,
    SecurityError,
    SerializerNotInstalled,
)
from pgtasks.serialization import accepted, decode, decode_exception, encode, encode_exception


def shown(value: Any) -> str:
    """A test's name must be the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


# -- JSON is kombu's JSON


class Colour(Enum):
    RED = 1


class WithJson:
    def __json__(self) -> Any:
        return {"a": datetime(2024, 1, 1)}


VALUES = [
    None,
    [1, [2.5, -0.0, 1e400], {"k": [True, None]}],
    2**200,
    float("nan"),
    float("-inf"),
    "nul \0 and a lone surrogate \ud800, ü and 🎈",
    b"text",
    b"\xff\x00not text",
    [datetime(2024, 1, 2, 3, 4, 5, 6), datetime(2024, 1, 2, tzinfo=UTC), date(2024, 1, 2), time(3, 4, 5)],
    Decimal("1.10"),
    uuid.UUID(int=7),
    {1: "int key", None: "none key", False: "bool key", 1.5: "float key"},
    OrderedDict([("b", 1), ("a", (1, 2))]),
    WithJson(),
    {"__type__": "only half of it"},
    {"deep": [{"__type__": "bytes", "__value__": "made by hand"}]},
    "the text __type__ in a value",
    [],
    "",
    0,
]


@pytest.mark.parametrize("value", VALUES, ids=shown)
def test_json_is_byte_for_byte_what_kombu_writes_and_reads_back_as_kombu_reads_it(value: Any) -> None:
    content_type, content_encoding, text = kombu.serialization.dumps(value, "json")

    encoded = encode(value)

    assert encoded == (content_type, content_encoding, text.encode())
    theirs = kombu.serialization.loads(encoded.body, content_type, content_encoding, accept={content_type})
    assert repr(decode(encoded.body, content_type, content_encoding, {content_type})) == repr(theirs)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), Colour.RED, timedelta(1), 1j, {(1, 2): 3}, [threading.Lock()]], ids=shown
)
def test_what_json_cannot_say_is_refused_as_an_encode_error(value: Any) -> None:
    with pytest.raises(EncodeError) as theirs:
        kombu.serialization.dumps(value, "json")

    with pytest.raises(EncodeError) as ours:
        encode(value)

    assert str(ours.value).startswith(str(theirs.value).split(" at 0x")[0])


def test_a_circular_value_is_refused_and_does_not_break_the_next_one() -> None:
    circle: list[Any] = []
    circle.append(circle)

    with pytest.raises(EncodeError):
        encode(circle)

    assert encode([1]).body == b"[1]"


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.uuids()
    | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(json_values)
def test_any_value_reads_back_as_kombu_reads_it(value: Any) -> None:
    encoded = encode(value)

    assert repr(decode(*reversed_fields(encoded))) == repr(kombu.utils.json.loads(encoded.body))


def reversed_fields(encoded: Any) -> tuple[bytes, str, str]:
    return encoded.body, encoded.content_type, encoded.content_encoding


@pytest.mark.parametrize(
    "body",
    [
        b'{"\\u005f_type__": "uuid", "__value__": {"hex": "00000000000000000000000000000007"}}',
        b'{"__type__": "unheard of", "__value__": 1}',
        b"\xef\xbb\xbf[1]",
        b"\xff",
        b"[1,",
        b'"\xed\xa0\x80"',
        b"",
        b" 1 ",
    ],
    ids=shown,
)
def test_foreign_json_is_read_or_refused_as_by_kombu(body: bytes) -> None:
    try:
        theirs = kombu.serialization.loads(body, "application/json", "utf-8", accept={"application/json"})
    except DecodeError:
        with pytest.raises(DecodeError):
            decode(body, "application/json", "utf-8", {"application/json"})
    else:
        assert decode(body, "application/json", "utf-8", {"application/json"}) == theirs


def test_a_json_serializer_registered_by_the_project_is_used() -> None:
    before = (
        kombu.serialization.registry._encoders["json"],
        kombu.serialization.registry._decoders["application/json"],
    )
    kombu.serialization.register("json", lambda value: "mine", lambda body: ["mine", body], "application/json")
    try:
        encoded = encode({})
        assert encoded.body == b"mine"
        assert decode(encoded.body) == ["mine", b"mine"]
    finally:
        (
            kombu.serialization.registry._encoders["json"],
            kombu.serialization.registry._decoders["application/json"],
        ) = before


# -- other serializers, and what is accepted


@pytest.mark.parametrize("serializer", ["pickle", "yaml", "msgpack"])
def test_every_serializer_round_trips_where_it_is_accepted(serializer: str) -> None:
    if serializer != "pickle":
        pytest.importorskip(serializer)
    encoded = encode([[1, "ü"], {"k": None}, {}], serializer)

    assert isinstance(encoded.body, bytes)
    assert decode(*reversed_fields(encoded), accepted([serializer])) == [[1, "ü"], {"k": None}, {}]


def test_pickle_is_refused_before_it_is_read_unless_accepted() -> None:
    bomb = encode(Bomb(), "pickle")

    for accept in (accepted(["json"]), None, frozenset()):
        with pytest.raises(ContentDisallowed, match=r"pickle .*accept_content"):
            decode(*reversed_fields(bomb), accept)

    assert Bomb.exploded == []


class Bomb:
    exploded: list[int] = []

    def __reduce__(self) -> Any:
        return self.exploded.append, (1,)


def test_a_compressed_body_is_refused_before_it_is_unpacked() -> None:
    with pytest.raises(ContentDisallowed):
        decode(
            b"not even gzip",
            "application/x-python-serialize",
            "binary;application/x-gzip",
            accepted(["json"]),
        )


def test_json_too_can_be_refused() -> None:
    with pytest.raises(ContentDisallowed):
        decode(b"1", "application/json", "utf-8", accepted(["pickle"]))


def test_accepted_takes_names_and_content_types() -> None:
    assert accepted(["json", "application/x-yaml"]) == {"application/json", "application/x-yaml"}
    assert accepted(None) is None
    with pytest.raises(SerializerNotInstalled):
        accepted(["morse"])


def test_an_unknown_serializer_is_refused_by_name() -> None:
    with pytest.raises(SerializerNotInstalled, match="morse"):
        encode(1, "morse")


def test_without_a_serializer_text_and_bytes_stay_as_they_are() -> None:
    for value in ("tëxt", b"\xff", [1]):
        encoded = encode(value, None)
        assert decode(*reversed_fields(encoded)) == value


@pytest.mark.parametrize("method", ["gzip", "zlib", "bzip2", "lzma"])
def test_a_compressed_value_says_so_and_comes_back(method: str) -> None:
    value = ["x" * 10_000, b"\xff"]
    encoded = encode(value, compression=method)

    assert encoded.content_encoding.startswith("utf-8;application/x-")
    assert len(encoded.body) < 1000
    assert decode(*reversed_fields(encoded), accepted(["json"])) == value


def test_broken_compression_is_a_decode_error_and_an_unknown_one_is_named() -> None:
    with pytest.raises(DecodeError, match="application/x-gzip"):
        decode(b"rubbish", "application/json", "utf-8;application/x-gzip", accepted(["json"]))
    with pytest.raises(KeyError, match="pied-piper"):
        encode(1, compression="pied-piper")


# -- exceptions


class Plain(Exception):
    pass


class TwoArguments(Exception):
    def __init__(self, a: Any, b: Any) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


class Outer:
    class Nested(Exception):
        pass


class Unpicklable(Plain):
    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.lock = threading.Lock()


def local_exception() -> Exception:
    class Local(Exception):
        pass

    return Local("made here", 1)


ERRORS = [
    ValueError("plain", 1, {"a": [1]}),
    KeyError("k"),
    Plain(),
    Plain(datetime(2024, 1, 1), uuid.UUID(int=1)),
    Outer.Nested("inner"),
    TwoArguments(1, 2),
    Unpicklable("lock inside"),
    Plain(threading.Lock, {1, 2}),
    Plain(ValueError("an exception as an argument")),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad byte"),
    OSError(2, "No such file", "x"),
    local_exception(),
    SystemExit(3),
    ExceptionGroup("several", [ValueError(1), KeyError(2)]),
]


def celery_backend(serializer: str) -> Any:
    app = Celery("oracle", backend="cache+memory://", set_as_current=False)
    app.conf.update(result_serializer=serializer, accept_content=["json", "pickle"])
    return app.backend


def described(exc: Any) -> Any:
    """Describe an exception as far as both packages must agree."""
    kind = type(exc)
    module = kind.__module__.replace("celery.backends.base", "made up").replace("celery.exceptions", "made up")
    module = module.replace("pgtasks.serialization", "made up").replace("pgtasks.exceptions", "made up")
    return module, kind.__qualname__, repr(exc.args), str(exc), isinstance(exc, Exception)


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_comes_back_as_it_does_from_celery(error: BaseException, serializer: str) -> None:
    backend = celery_backend(serializer)
    theirs = backend.exception_to_python(backend.decode(backend.encode(backend.prepare_exception(error))))

    stored = encode(encode_exception(error, serializer), serializer)
    ours = decode_exception(decode(*reversed_fields(stored), accepted(["json", "pickle"])))

    assert described(ours) == described(theirs)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_exception_is_stored_in_celerys_words(error: BaseException) -> None:
    assert encode_exception(error, "json") == celery_backend("json").prepare_exception(error)


STORED = [
    {"exc_type": "ValueError", "exc_message": ["a", 1], "exc_module": "builtins"},
    {"exc_type": "ValueError", "exc_message": "text", "exc_module": "builtins"},
    {"exc_type": "ValueError", "exc_module": "builtins"},
    {"exc_type": "Gone", "exc_message": ["a"], "exc_module": "module.that.left"},
    {"exc_type": "Outer.Gone", "exc_message": ["a"], "exc_module": __name__},
    {"exc_type": "NoModule", "exc_message": ["a"]},
    [["exc_type", "KeyError"], ["exc_message", ["a"]], ["exc_module", "builtins"]],
    {"exc_type": "TwoArguments", "exc_message": ["just one"], "exc_module": __name__},
]


@pytest.mark.parametrize("stored", STORED, ids=shown)
def test_what_is_stored_is_read_as_by_celery(stored: Any) -> None:
    assert described(decode_exception(stored)) == described(celery_backend("json").exception_to_python(stored))


@pytest.mark.parametrize(
    "stored",
    [
        {"exc_type": "system", "exc_message": ["touch /tmp/owned"], "exc_module": "os"},
        {"exc_type": "eval", "exc_message": "1/0", "exc_module": "builtins"},
        {"exc_type": "dict", "exc_message": [], "exc_module": "builtins"},
        {"exc_type": "path.join", "exc_message": ["a"], "exc_module": "os"},
    ],
    ids=shown,
)
def test_stored_data_cannot_call_anything_but_exception_classes(stored: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    with pytest.raises(TheirSecurityError) as theirs:
        celery_backend("json").exception_to_python(stored)

    with pytest.raises(SecurityError) as ours:
        decode_exception(stored)

    assert str(ours.value) == str(theirs.value)


def test_stored_data_cannot_import_a_module() -> None:
    sys.modules.pop("this", None)

    error = decode_exception({"exc_type": "Zen", "exc_message": ["x"], "exc_module": "this"})

    assert "this" not in sys.modules
    assert type(error).__name__ == "Zen"


def test_an_error_stored_by_a_celery_worker_is_caught_as_ours() -> None:
    for module, name in [("celery.exceptions", "Ignore"), ("billiard.exceptions", "SoftTimeLimitExceeded")]:
        error = decode_exception({"exc_type": name, "exc_message": ["x"], "exc_module": module})

        assert type(error) is getattr(exceptions, name)


@pytest.mark.parametrize(("stored", "refusal"), [(3, TypeError), ({"exc_message": "x"}, ValueError), ("x", TypeError)])
def test_what_is_no_exception_is_refused_with_what_it_was(stored: Any, refusal: type[Exception]) -> None:
    with pytest.raises(refusal, match="xception"):
        decode_exception(stored)
    assert decode_exception(None) is None


def test_the_fast_path_is_the_one_that_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    untouchable = types.SimpleNamespace(
        registry=kombu.serialization.registry,
        dumps=lambda *a, **k: pytest.fail("slow"),
        loads=lambda *a, **k: pytest.fail("slow"),
    )
    monkeypatch.setattr(serialization, "_kombu", untouchable)

    assert decode(*reversed_fields(encode([[1], {}, {}])), {"application/json"}) == [[1], {}, {}]
    assert json.loads(encode({"a": 1}).body) == {"a": 1}
    assert pickle.loads(pickle.dumps(encode(1))) == encode(1)
