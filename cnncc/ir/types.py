"""Tensor types: an element type and a shape, of which the first extent may be symbolic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Extent: TypeAlias = int | str
"""A size, or the name of a size that is known when the model runs (the batch)."""

HALVES = ("f16",)           # in memory only: nothing but casts is computed of them
FLOATS = ("f32", "f64")
SIGNED = ("i8", "i16", "i32", "i64")
UNSIGNED = ("u8", "u16", "u32", "u64")
INTEGERS = (*SIGNED, *UNSIGNED)
NUMPY: dict[str, np.dtype[Any]] = {
    name: np.dtype(f"{name[0]}{int(name[1:]) // 8}") for name in (*HALVES, *FLOATS, *INTEGERS)}
NUMPY["bool"] = np.dtype(np.bool_)
HINT = 8                    # what a symbolic extent counts as where a number is needed
BYTES = {name: dtype.itemsize for name, dtype in NUMPY.items()}


@dataclass(frozen=True, slots=True)
class TensorType:
    dtype: str
    shape: tuple[Extent, ...]

    @property
    def rank(self) -> int:
        return len(self.shape)

    @property
    def numpy(self) -> np.dtype[Any]:
        return NUMPY[self.dtype]

    @property
    def symbols(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s for s in self.shape if isinstance(s, str)))

    def static(self, **sizes: int) -> tuple[int, ...]:
        """The shape as integers, symbolic extents taken from `sizes`. Raises KeyError for one not given."""
        return tuple(sizes[s] if isinstance(s, str) else s for s in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.shape))}]"


def parse_type(text: str) -> TensorType:
    """Read the text of a type, `f32[N, 3, 224, 224]`."""
    dtype, _, rest = text.strip().partition("[")
    parts = [p.strip() for p in rest.rstrip("]").split(",") if p.strip()]
    return TensorType(dtype, tuple(int(p) if p.lstrip("-").isdigit() else p for p in parts))


def name_of(dtype: np.dtype[np.generic]) -> str:
    """Our name of a NumPy dtype. Raises KeyError for one we don't have."""
    return {d: n for n, d in NUMPY.items()}[np.dtype(dtype)]


def product(extents: Sequence[int]) -> int:
    return math.prod(extents)
