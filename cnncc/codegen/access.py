"""Where a load or a store lands: positions of dimensions in a loop nest, and offsets by layout."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cnncc.codegen.emitter import I64, Emitter, Int, Value
from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Index, Load
from cnncc.ir.kernel import Tensor
from cnncc.ir.types import BYTES


@dataclass(frozen=True, slots=True)
class Term:
    """A loop variable in a position: always a multiple of `multiple`, at most `most`."""

    value: Value
    multiple: int
    most: int


@dataclass(frozen=True, slots=True)
class Pos:
    """Where a dimension is: const + terms, with `span` elements still to be covered from there.

    `rep` is the constant that stands for a whole run of equal tiles in tests of validity.
    """

    const: int
    rep: int
    terms: tuple[Term, ...]
    span: Int

    def shift(self, offset: int, span: Int) -> Pos:
        return Pos(self.const + offset, self.rep + offset, self.terms, span)


@dataclass(frozen=True, slots=True)
class Run:
    """`count` tiles of `size`, the first at `start`; `rep` is the start for tests of validity.

    Where `last` is known no tile begins after it: the last one overlaps the one before.
    """

    start: Int
    size: int
    count: Int
    rep: int = 0
    last: int | None = None

    def at(self, e: Emitter, index: Int) -> Int:
        """Where the tile begins that would begin at `index` if none overlapped."""
        return index if self.last is None else e.least(index, self.last)


Positions = Mapping[str, Pos]


@dataclass(slots=True)
class Access:
    """A load or store with its tensor's layout; offsets are in bytes."""

    load: Load
    tensor: Tensor
    shape: tuple[int | str, ...]
    bytes: int = field(init=False)
    parts: list[list[tuple[int, int, int]]] = field(init=False)
    dims: tuple[str, ...] = field(init=False)
    lookups: list[tuple[Load, int, int]] = field(init=False)    # what says where, bytes per unit, extent
    _offsets: dict[tuple[int, ...], tuple[int, list[tuple[Index, int, int]]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bytes = BYTES[self.tensor.type.dtype]
        layout = self.tensor.layout
        self.parts = [list(layout.parts(axis, self.shape)) for axis in range(len(self.shape))]
        self.dims = self.load.dims
        self.lookups = []
        for index, parts, extent in zip(self.load.index, self.parts, self.shape, strict=True):
            if index.lookup is not None:
                if len(parts) > 1 or isinstance(extent, str):
                    raise InternalError(f"{self.load}: a table can't say where in blocks of {self.tensor}")
                self.lookups.append((index.lookup, parts[0][2] * self.bytes, extent))

    def stride(self, dim: str, multiple: int, most: int) -> int:
        """Bytes per unit of a variable added to `dim`. Raises InternalError where it would cross a block."""
        total = 0
        for index, parts in zip(self.load.index, self.parts, strict=True):
            c = index.coefficient(dim)
            if c:
                total += sum(self._part(c, multiple, most, *p) for p in parts)
        return total * self.bytes

    def _part(self, c: int, multiple: int, most: int, divisor: int, modulus: int, stride: int) -> int:
        if modulus and (c * multiple) % modulus == 0:
            return 0
        if (c * multiple) % divisor == 0 and (not modulus or c * most < modulus):
            return c * stride // divisor
        if abs(c) * most < divisor:
            return 0
        raise InternalError(f"{self.load}: a loop step crosses a block of {self.tensor}")

    def offset(self, pos: Positions, vector: str | None = None) -> int:
        """The constant part of the byte offset of an element, or of a vector over the dimension `vector`.

        Raises InternalError where the loops or the vector's lanes could cross a block.
        """
        key = tuple([pos[d].const for d in self.dims])
        known = self._offsets.get(key)
        if known is None:
            total, blocked = 0, []
            for index, parts in zip(self.load.index, self.parts, strict=True):
                at = index.const + sum(c * pos[d].const for d, c in index.terms)
                if len(parts) > 1:
                    blocked.append((index, parts[-2][0], at % parts[-2][0]))
                for divisor, modulus, stride in parts:
                    total += (at % modulus if modulus else at) // divisor * stride
            self._offsets[key] = known = total * self.bytes, blocked
        for index, block, within in known[1]:
            for d, c in index.terms:
                for t in pos[d].terms:
                    if (c * t.multiple) % block:
                        within += abs(c) * t.most
                span = pos[d].span
                if d == vector and isinstance(span, int) and c % block:     # else lanes lie in blocks each
                    within += abs(c) * (span - 1)
            if within >= block:
                raise InternalError(f"{self.load}: a tile crosses a block of {self.tensor}")
        return known[0]

    def padded(self, dim: str, lanes: int) -> bool:
        """Whether whole vectors over `dim` lie inside of the memory, padding included."""
        for index, parts in zip(self.load.index, self.parts, strict=True):
            if index.coefficient(dim):
                return len(parts) > 1 and parts[-2][0] % lanes == 0
        return False

    def shares_axis(self, dim: str, others: set[str]) -> bool:
        """Whether `dim` and one of `others` move along the same axis, so that taps overlap."""
        return any(i.coefficient(dim) and others & set(i.dims) for i in self.load.index)


def named(e: Emitter, entry: Value, extent: int) -> Value:
    """An index that a table holds; data count from the end where negative, and are cut to the extent."""
    if entry.type.dtype == "i32":
        return e.cast("sext", entry, I64)
    from_end = e.arith("add", entry, e.constant(extent, I64))
    index = e.least(e.greatest(e.select(e.compare("slt", entry, 0), from_end, entry), 0), extent - 1)
    assert isinstance(index, Value)
    return index
