"""Squares of vectors turned in registers, so that what lies across the memory is stored along it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cnncc.codegen.access import Access, Positions
from cnncc.codegen.emitter import Emitter, Value


def columns(e: Emitter, rows: Sequence[Value]) -> list[Value]:
    """The columns of up to as many rows as each has lanes (a power of two), undefined beyond the rows.

    Eklundh's method: rounds of exchanges between rows whose numbers differ by one bit.
    """
    lanes = rows[0].type.lanes
    square = [*rows, *[Value("poison", rows[0].type)] * (lanes - len(rows))]
    far = lanes // 2
    while far:
        low = [i - far + lanes if i & far else i for i in range(lanes)]
        high = [i + lanes if i & far else i + far for i in range(lanes)]
        square = [e.shuffle(square[i & ~far], high if i & far else low, square[i | far])
                  for i in range(lanes)]
        far //= 2
    return square


def neighbours(a: Access, simd: str, unrolled: Collection[str]) -> str | None:
    """The unrolled dimension that runs along a plain result's memory, where the vector's runs across."""
    order = a.tensor.layout.order
    if simd not in a.dims or a.lookups or any(block for _, block in order):
        return None
    last = a.load.index[order[-1][0]]
    return next((d for d, c in last.terms if c == 1 and d in unrolled and d != simd), None)


def store(e: Emitter, a: Access, p: Value, rows: Sequence[Value], pos: Positions, across: str,
          along: str) -> None:
    """Vectors over the dimension `across` whose elements are neighbours over `along`, the first at `pos`."""
    n, active = len(rows), pos[across].span
    assert isinstance(active, int)
    for lane, v in zip(range(active), columns(e, rows), strict=False):
        place = {**pos, across: pos[across].shift(lane, 1), along: pos[along].shift(0, n)}
        e.store_first(v, p, a.offset(place, along), n, a.bytes)
