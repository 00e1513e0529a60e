"""Large arrays of an ONNX file stay where they are: protobuf copies what it parses, and what it gives out.

The wire format (protobuf.dev/programming-guides/encoding): fields of a message follow each other, each a
number with its type, then, of type 2, a length and as many bytes, which are a message, a text or an array.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

RAW_DATA = 7, 5, 9          # the fields from a model on: graph, initializer, raw_data
LARGE = 1 << 12             # bytes of an array that is left in the file
MAX_FIELDS = 1 << 20        # that are looked at
_BYTES = 2                  # the type of what has a length
_SIZES = {1: 8, 5: 4}       # the bytes of other types; 0 is a number


class Broken(Exception):
    """The bytes are no message, one of too many parts, or of a kind that ONNX has no use for."""


@dataclass(frozen=True, slots=True)
class Skimmed:
    """A message in which large arrays gave way to names that occur nowhere else, and these arrays by name."""

    message: bytes
    arrays: dict[bytes, memoryview]


def skim(data: memoryview) -> Skimmed:
    """A model without the large arrays among its initializers; as it is where it can't be read."""
    secret, arrays = secrets.token_bytes(16), dict[bytes, memoryview]()
    budget = iter(range(MAX_FIELDS))

    def name_of(array: memoryview) -> bytes | None:
        if len(array) < LARGE:
            return None
        arrays[name := secret + len(arrays).to_bytes(4)] = array
        return name

    def without(message: memoryview, path: tuple[int, ...]) -> bytes | None:
        """The message anew, None where nothing in it is large."""
        if not path:
            return name_of(message)
        parts: list[bytes | memoryview] = []
        done = 0
        for number, begin, at, end in _lengthy(message, budget):
            if number == path[0] and (inner := without(message[at:end], path[1:])) is not None:
                parts += message[done:begin], _varint(number << 3 | _BYTES), _varint(len(inner)), inner
                done = end
        return b"".join([*parts, message[done:]]) if parts else None

    try:
        found = without(data, RAW_DATA)
    except Broken:
        found = None
    return Skimmed(bytes(data), {}) if found is None else Skimmed(found, arrays)


def _lengthy(message: memoryview, budget: Iterator[int]) -> Iterator[tuple[int, int, int, int]]:
    """(number, where the field begins, where its bytes begin and end) of the fields that have a length."""
    at = 0
    while at < len(message):
        begin = at
        if next(budget, None) is None:
            raise Broken
        key, at = _number(message, at)
        length = _SIZES.get(key & 7, 0)
        if key & 7 in (0, _BYTES):
            value, at = _number(message, at)
            length = value if key & 7 else 0
        elif not length:
            raise Broken
        if at + length > len(message):
            raise Broken
        if key & 7 == _BYTES:
            yield key >> 3, begin, at, at + length
        at += length


def _number(message: memoryview, at: int) -> tuple[int, int]:
    """The number of seven bits a byte that begins here, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        value, at = value | (byte & 127) << shift, at + 1
        if byte < 128:
            return value, at
    raise Broken


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])
