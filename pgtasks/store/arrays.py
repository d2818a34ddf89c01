"""Encode arrays in Postgres' binary format by hand: a thousand rows for the price of fifty.

Written element by element, in Python, they would be most of what a bulk enqueue costs its caller. The format
is that of `array_send` in Postgres: dimensions, a flag, the type, length and lower bound, then each element
after its length. `register` makes a connection or cursor of psycopg accept such arrays as values.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, ClassVar

from psycopg.abc import AdaptContext
from psycopg.adapt import Buffer, Dumper
from psycopg.postgres import types
from psycopg.pq import Format

from pgtasks.message import Ids

_HEADER = struct.Struct(">iiIii")
_EMPTY = struct.Struct(">iiI")
#: What stands before an element of this length, for those that are not long.
_LENGTHS = tuple(struct.pack(">i", length) for length in range(4096))


class Array:
    """An array in the wire format; its class says of what."""

    __slots__ = ("wire",)
    element: ClassVar[str]

    def __init__(self, count: int, elements: bytes | bytearray) -> None:
        oid = types[self.element].oid
        # An array without elements has no dimension either.
        self.wire: bytes = _HEADER.pack(1, 0, oid, count, 1) + elements if count else _EMPTY.pack(0, 0, oid)


class UuidArray(Array):
    __slots__ = ()
    element = "uuid"

    @classmethod
    def of(cls, ids: Ids) -> UuidArray:
        count = len(ids)
        elements = bytearray((struct.pack(">iQ", 16, ids.head) + bytes(8)) * count)
        tails = struct.pack(f">{count}Q", *ids.tails)
        for at in range(8):
            elements[12 + at :: 20] = tails[at::8]
        return cls(count, elements)


class ByteaArray(Array):
    __slots__ = ()
    element = "bytea"

    @classmethod
    def of(cls, values: Sequence[bytes]) -> ByteaArray:
        known = len(_LENGTHS)
        parts: list[bytes] = [b""] * (2 * len(values))
        parts[::2] = [_LENGTHS[size] if (size := len(value)) < known else struct.pack(">i", size) for value in values]
        parts[1::2] = values
        return cls(len(values), b"".join(parts))


class _ArrayDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Array) -> Buffer:
        return obj.wire


class _UuidArrayDumper(_ArrayDumper):
    oid = types["uuid"].array_oid


class _ByteaArrayDumper(_ArrayDumper):
    oid = types["bytea"].array_oid


def register(context: AdaptContext) -> None:
    """Let a connection or cursor take these arrays as values."""
    adapters: Any = context.adapters
    adapters.register_dumper(UuidArray, _UuidArrayDumper)
    adapters.register_dumper(ByteaArray, _ByteaArrayDumper)
