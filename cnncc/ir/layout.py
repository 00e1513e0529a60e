"""Memory order of a tensor, in the notation of schedules: `n, c:16, h, w, c` is NCHW16c.

A layout lists the axes from the slowest to the fastest. `c:16` is the number of the block of 16 that c lies
in; the later `c` is the place within that block. Blocks are padded: lanes beyond the extent are there, zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cnncc.ir.errors import InternalError
from cnncc.ir.types import Extent, product

LETTERS = {0: "", 1: "n", 2: "nc", 3: "ncw", 4: "nchw", 5: "ncdhw"}


@dataclass(frozen=True, slots=True)
class Layout:
    """`order` holds (axis, block): block 0 is the plain or innermost part of the axis."""

    order: tuple[tuple[int, int], ...]

    @staticmethod
    def plain(rank: int) -> Layout:
        return Layout(tuple((a, 0) for a in range(rank)))

    @staticmethod
    def blocked(rank: int, axis: int, block: int) -> Layout:
        """`axis` split into blocks, the places within a block fastest."""
        return Layout((*((a, block if a == axis else 0) for a in range(rank)), (axis, 0)))

    @property
    def rank(self) -> int:
        return 1 + max((a for a, _ in self.order), default=-1)

    def block(self, axis: int) -> int:
        """The (outer) block of an axis, 1 where it has none."""
        return next(b for a, b in self.order if a == axis) or 1

    def physical(self, shape: Sequence[Extent]) -> tuple[Extent, ...]:
        """The extents in memory order; a symbolic extent can't be blocked."""
        outer: dict[int, int] = {}
        result: list[Extent] = []
        for axis, block in self.order:
            extent = outer.get(axis, shape[axis])
            if block:
                if isinstance(extent, str):
                    raise InternalError(f"layout {self}: a symbolic extent can't be blocked")
                result.append(-(-extent // block))
                outer[axis] = block
            else:
                result.append(extent)
        return tuple(result)

    def elements(self, shape: Sequence[Extent]) -> int:
        """The number of elements in memory, padding included, symbolic extents counted as 1."""
        return product([e for e in self.physical(shape) if isinstance(e, int)])

    def parts(self, axis: int, shape: Sequence[Extent]) -> Iterator[tuple[int, int, int]]:
        """(divisor, modulus or 0, stride) by part, in elements: offset += i % modulus // divisor * stride."""
        strides = [1] * len(self.order)
        physical = self.physical(shape)
        for i in range(len(self.order) - 2, -1, -1):
            extent = physical[i + 1]
            if isinstance(extent, str):
                raise InternalError(f"layout {self}: a symbolic extent must be the slowest")
            strides[i] = strides[i + 1] * extent
        modulus = 0
        for (a, block), stride in zip(self.order, strides, strict=True):
            if a == axis:
                yield block or 1, modulus, stride
                modulus = block

    def pack(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """A plain array in this memory order, flat, padding zero; into `out` where given."""
        split_shape: list[int] = []
        pads: list[tuple[int, int]] = []
        places: dict[int, list[int]] = {}
        for axis, extent in enumerate(array.shape):
            blocks = [b for a, b in self.order if a == axis and b]
            padded = -(-extent // blocks[0]) * blocks[0] if blocks else extent
            pads.append((0, padded - extent))
            sizes = [padded, *blocks, 1]
            places[axis] = []
            for big, small in zip(sizes, sizes[1:] if blocks else [1], strict=False):
                places[axis].append(len(split_shape))
                split_shape.append(big // small)
        if any(after for _, after in pads):
            array = np.pad(array, pads)
        order = [places[axis].pop(0) for axis, _ in self.order]
        ordered = array.reshape(split_shape).transpose(order)
        if out is None:
            return np.ascontiguousarray(ordered).reshape(-1)
        out.reshape(ordered.shape)[...] = ordered
        return out

    def unpack(self, memory: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The plain array of a shape that this memory, flat, holds."""
        places = self.pack(np.arange(product(shape), dtype=np.int64).reshape(shape) + 1)
        result = np.empty(product(shape), memory.dtype)
        result[places[places > 0] - 1] = memory[places > 0]
        return result.reshape(shape)

    def __str__(self) -> str:
        names = LETTERS.get(self.rank) or "abcdefghijklm"
        return ", ".join(names[a] + (f":{b}" if b else "") for a, b in self.order) or "scalar"


def parse_layout(text: str) -> Layout:
    """Read the text of a layout back."""
    if text.strip() == "scalar":
        return Layout(())
    items = [p.strip().partition(":") for p in text.split(",")]
    used = {name for name, _, _ in items}
    names = next((letters for letters in LETTERS.values() if used == set(letters)), "abcdefghijklm")
    return Layout(tuple((names.index(name), int(block or 0)) for name, _, block in items))
