"""Squares of vectors turned in registers, so that what lies across the memory is stored along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def neighbours(a: Access, simd: str, unrolled: Mapping[str, int], lanes: int) -> str | None:
    """The unrolled dimension that runs along a result's memory, where the vector's runs across.

    In blocked memory a tile, of so many elements of each `unrolled` one, must lie in a block.
    """
    order = a.tensor.layout.order
    if simd not in a.dims or a.lookups or any(block not in (0, lanes) for _, block in order):
        return None
    axis = order[-1][0]
    whole = a.tensor.layout.block(axis) == 1
    if not whole and int(a.shape[axis]) % lanes:
        return None
    return next((d for d, c in a.load.index[axis].terms if c == 1 and d != simd and d in unrolled
                 and (whole or unrolled[d] % lanes == 0)), None)


def store(e: Emitter, a: Access, p: Value, rows: Sequence[Value], pos: Positions, across: str,
          along: str) -> None:
    """Vectors over the dimension `across` whose elements are neighbours over `along`, the first at `pos`."""
    n, active = len(rows), pos[across].span
    assert isinstance(active, int)
    for lane, v in zip(range(active), columns(e, rows), strict=False):
        place = {**pos, across: pos[across].shift(lane, 1), along: pos[along].shift(0, n)}
        e.store_first(v, p, a.offset(place, along), n, a.bytes)
