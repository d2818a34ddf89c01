"""Values to bytes and back.

kombu's registry knows the serializers (json, pickle, yaml, msgpack, and those a project registers) and the
compression methods; this module adds a fast path for JSON that gives the same answers, and the rules for
exceptions, which are Celery's. Bytes are stored with their content type and encoding; a compressed body says
so in the encoding, as `utf-8;application/x-gzip`.

Promises: nothing is decoded that `accept` does not allow, and data never makes this process import a module.
"""

import json
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple, cast

from kombu import compression as _compression
from kombu import serialization as _kombu
from kombu.exceptions import ContentDisallowed, DecodeError, EncodeError, SerializerNotInstalled
from kombu.utils import json as _kombu_json

from pgtasks import exceptions
from pgtasks.exceptions import SecurityError
from pgtasks.utils.serialization import (
    create_exception_cls,
    ensure_serializable,
    get_pickleable_exception,
    get_pickled_exception,
)

__all__ = (
    "ContentDisallowed",
    "DecodeError",
    "EncodeError",
    "Encoded",
    "SerializerNotInstalled",
    "accepted",
    "body_encoder",
    "decode",
    "decode_exception",
    "encode",
    "encode_exception",
    "load_json",
    "write_compact",
)

JSON = "application/json"
#: Serializers that can carry an exception object as it is.
EXCEPTION_ABLE_CODECS = frozenset({"pickle"})

# kombu makes an encoder for every call; one instance does, because encoders keep no state between calls.
_encoder = _kombu_json.JSONEncoder()
_decode_json = json.JSONDecoder().decode
_decode_json_at = json.JSONDecoder().raw_decode


class Encoded(NamedTuple):
    """A value as bytes, and how to read them."""

    content_type: str
    content_encoding: str
    body: bytes


def encode(value: Any, serializer: str | None = "json", compression: str | None = None) -> Encoded:
    """Encode `value`; a `serializer` of None means json, or text and bytes as they are.

    Raises EncodeError for a value the serializer cannot represent, SerializerNotInstalled for an unknown
    serializer, and KeyError for an unknown compression.
    """
    if serializer == "json" and _json_is_kombus():
        encoded = Encoded(JSON, "utf-8", _dump_json(value))
    else:
        encoded = _encode_with_registry(value, serializer)
    return _compress(encoded, compression) if compression else encoded


def body_encoder(serializer: str | None = "json", compression: str | None = None) -> Callable[[Any], bytes]:
    """Return what `encode` would use to make a body, for values that are encoded one after the other."""
    if serializer == "json" and not compression and _json_is_kombus():
        return _dump_json
    return lambda value: encode(value, serializer, compression).body


def decode(
    body: bytes,
    content_type: str | None = None,
    content_encoding: str | None = None,
    accept: Collection[str] | None = None,
) -> Any:
    """Decode what `encode` made; no `content_type` means JSON.

    `accept` holds content types, as `accepted()` returns them; None accepts what kombu has enabled, which is
    json alone unless the project enabled more. Raises ContentDisallowed for a type that is not accepted, and
    DecodeError for bytes that do not decode.
    """
    content_type = content_type or JSON
    encoding, _, packing = (content_encoding or "utf-8").partition(";")
    if packing:
        _refuse_unaccepted(content_type, accept)  # before spending time and memory on unpacking
        body = _decompress(body, packing)
    if content_type == JSON and (accept is None or JSON in accept) and _is_plain_json(body):
        return _load_json(body)
    try:
        return _kombu.loads(body, content_type, encoding, accept=accept)
    except ContentDisallowed as exc:
        raise _refusal(content_type) from exc


def accepted(names: Iterable[str] | None) -> frozenset[str] | None:
    """Turn serializer names and content types (`["json", "application/x-yaml"]`) into content types.

    None stays None: see `decode`. Raises SerializerNotInstalled for a name nobody registered.
    """
    return None if names is None else frozenset(_kombu.prepare_accept_content(names))


# -- exceptions -------------------------------------------------------------------------------------------


def encode_exception(exc: BaseException, serializer: str | None = "json") -> dict[str, Any] | BaseException:
    """Make an exception fit for `serializer`: a dict naming it, or with pickle a picklable exception.

    Arguments that cannot be serialised are replaced by their repr.
    """
    if serializer in EXCEPTION_ABLE_CODECS:
        return cast(BaseException, get_pickleable_exception(exc))
    return {
        "exc_type": type(exc).__qualname__,
        "exc_message": ensure_serializable(exc.args, lambda arg: encode(arg, serializer)),
        "exc_module": type(exc).__module__,
    }


def decode_exception(stored: Any) -> BaseException | None:
    """Rebuild an exception from what `encode_exception` made; None if there is nothing.

    The class is looked up in the modules already loaded; when it is not there, a class of the same name
    stands in. Raises SecurityError when the name means something that is not an exception class, because
    calling it would run whatever the data asks for (CVE-2021-23727).
    """
    if not stored:
        return None
    if isinstance(stored, BaseException):
        return get_pickled_exception(stored)
    fields = _exception_fields(stored)
    kind = _find_exception_class(fields.get("exc_module"), fields["exc_type"])
    message = fields.get("exc_message", "")
    if not isinstance(kind, type) or not issubclass(kind, BaseException):
        name = ".".join(filter(None, (fields.get("exc_module"), fields["exc_type"])))
        raise SecurityError(f"Expected an exception class, got {name} with payload {message}")
    try:
        return kind(*message) if isinstance(message, (tuple, list)) else kind(message)
    except Exception:  # its __init__ wants something else than its args
        return Exception(f"{kind}({message})")


def _exception_fields(stored: Any) -> Mapping[str, Any]:
    if not isinstance(stored, Mapping):
        try:
            stored = dict(stored)
        except (TypeError, ValueError) as exc:
            raise TypeError(
                "If the stored exception isn't an instance of BaseException, it must be a dictionary.\n"
                f"Instead got: {stored}"
            ) from exc
    if "exc_type" not in stored:
        raise ValueError(f"Exception information must include the exception type, got {stored!r}")
    return cast(Mapping[str, Any], stored)


def _find_exception_class(module: str | None, qualname: str) -> Any:
    if module is None:
        return create_exception_cls(qualname, __name__)
    if module in ("celery.exceptions", "billiard.exceptions"):  # written by a Celery worker
        module = exceptions.__name__
    found: Any = sys.modules.get(module)
    try:
        for name in qualname.split("."):
            found = getattr(found, name)
    except AttributeError:
        return create_exception_cls(qualname, exceptions.__name__)
    return found


# -- JSON -------------------------------------------------------------------------------------------------


def _json_is_kombus() -> bool:
    """Say whether `json` still means kombu's own serializer: a project may register another."""
    codec = _kombu.registry._encoders.get("json")
    return codec is not None and codec.encoder is _kombu_json.dumps


def _quick_encoder(encoder: json.JSONEncoder) -> Callable[[Any], str]:
    """`encoder.encode`, in 0.9 instead of 2.3 us for small values: `json` makes a new C encoder at every call.

    That is for the note it takes of the containers it is in, to say that one is in itself. Without a note one made
    encoder serves all threads, and what is in itself exceeds the depth of recursion: the slow way then says why.
    """
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:  # an interpreter without the C module
        return encoder.encode
    quote, colon, comma = json.encoder.encode_basestring_ascii, encoder.key_separator, encoder.item_separator
    write = make(None, encoder.default, quote, None, colon, comma, False, False, True)

    def encode_json(value: Any) -> str:
        try:
            return "".join(write(value, 0))
        except RecursionError:
            return encoder.encode(value)

    return encode_json


_encode_json = _quick_encoder(_encoder)
#: Writes JSON without blanks.
write_compact = _quick_encoder(_kombu_json.JSONEncoder(separators=(",", ":")))


def _dump_json(value: Any) -> bytes:
    try:
        return _encode_json(value).encode()
    except SerializerNotInstalled:
        raise
    except Exception as exc:
        raise EncodeError(exc) from exc


def _is_plain_json(body: bytes) -> bool:
    """Say whether no object in `body` can be one of kombu's typed values, so that no hook is needed.

    A JSON string may also spell an ASCII letter of `__type__` as an escape: \\u00 and two digits.
    """
    return b"__type__" not in body and b"\\u00" not in body and _kombu.registry._decoders.get(JSON) is _kombu_json.loads


def _load_json(body: bytes) -> Any:
    if not body:
        return body  # as kombu has it: nothing in, nothing out
    try:
        return load_json(body.decode())
    except Exception as exc:
        raise DecodeError(exc) from exc


def load_json(text: str) -> Any:
    """`json.loads`, twice as fast for what a program wrote: it looks for white space around it only if need be."""
    try:
        value, end = _decode_json_at(text)
    except ValueError:
        return _decode_json(text)
    return value if end == len(text) else _decode_json(text)


# -- kombu's registry and compression ---------------------------------------------------------------------


def _encode_with_registry(value: Any, serializer: str | None) -> Encoded:
    content_type, content_encoding, payload = _kombu.dumps(value, serializer=serializer)
    body = payload.encode() if isinstance(payload, str) else bytes(payload)
    return Encoded(content_type, content_encoding, body)


def _compress(encoded: Encoded, method: str) -> Encoded:
    try:
        body, content_type = _compression.compress(encoded.body, method)
    except KeyError as exc:
        raise KeyError(f"No compression {method!r} here. Known: {', '.join(_compression.encoders())}") from exc
    return Encoded(encoded.content_type, f"{encoded.content_encoding};{content_type}", body)


def _decompress(body: bytes, method: str) -> bytes:
    try:
        return cast(bytes, _compression.decompress(body, method))
    except Exception as exc:
        raise DecodeError(f"Cannot decompress {len(body)} bytes as {method}: {exc!r}") from exc


def _refuse_unaccepted(content_type: str, accept: Collection[str] | None) -> None:
    if content_type in _kombu.TRUSTED_CONTENT:
        return
    disabled = _kombu.registry._disabled_content_types
    if content_type in disabled if accept is None else content_type not in accept:
        raise _refusal(content_type)


def _refusal(content_type: str) -> ContentDisallowed:
    name = _kombu.registry.type_to_name.get(content_type, content_type)
    return ContentDisallowed(
        f"Refusing to deserialize untrusted content of type {name} ({content_type}). "
        f"If you trust who sends it, add {name!r} to accept_content."
    )
