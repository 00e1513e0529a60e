"""Static libraries: the `ar` format of System V, one member with an index of its symbols.

The same content gives the same bytes: times, owners and modes are zero or fixed, as `ar D` writes them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAGIC = b"!<arch>\n"


def archive(name: str, data: bytes, symbols: Sequence[str]) -> bytes:
    """A library of the object `data`, called `name`, which defines `symbols`."""
    long = len(name) > 15
    names = _member("//", f"{name}/\n".encode()) if long else b""
    listed = b"".join(s.encode() + b"\0" for s in symbols)
    index_bytes = 4 + 4 * len(symbols) + len(listed)
    start = len(MAGIC) + 60 + index_bytes + index_bytes % 2 + len(names)
    index = struct.pack(f">I{len(symbols)}I", len(symbols), *[start] * len(symbols)) + listed
    return MAGIC + _member("/", index) + names + _member("/0" if long else f"{name}/", data, mode=0o644)


def _member(name: str, data: bytes, mode: int = 0) -> bytes:
    header = f"{name:16}{0:<12}{0:<6}{0:<6}{mode:<8o}{len(data):<10}`\n"
    return header.encode() + data + b"\n" * (len(data) % 2)
