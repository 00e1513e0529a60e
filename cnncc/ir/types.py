"""Tensor types: an element type and a shape, of which the first extent may be symbolic."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Extent: TypeAlias = int | str
"""A size, or the name of a size that is known when the model runs (the batch)."""

HALVES = ("f16", "bf16")    # in memory only: nothing but casts is computed of them
FLOATS = ("f32", "f64")
SIGNED = ("i8", "i16", "i32", "i64")
UNSIGNED = ("u8", "u16", "u32", "u64")
INTEGERS = (*SIGNED, *UNSIGNED)
BYTES = {"bool": 1} | {name: int(name.lstrip("bfiu")) // 8 for name in (*FLOATS, *INTEGERS, *HALVES)}
HINT = 8                    # what a symbolic extent counts as where a number is needed


class _Dtypes(Mapping[str, np.dtype[Any]]):
    """By our names. That of bf16 is made by ml_dtypes, which is imported with its first use."""

    def __getitem__(self, name: str) -> np.dtype[Any]:
        if name not in BYTES:
            raise KeyError(name)
        return _numpy(name)

    def __iter__(self) -> Iterator[str]:
        return iter(BYTES)

    def __len__(self) -> int:
        return len(BYTES)


@functools.cache
def _numpy(name: str) -> np.dtype[Any]:
    if name != "bf16":
        return np.dtype(np.bool_ if name == "bool" else f"{name[0]}{BYTES[name]}")
    from ml_dtypes import bfloat16
    made: np.dtype[Any] = np.dtype(bfloat16)
    return made


NUMPY = _Dtypes()


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
    for name, own in NUMPY.items():     # bf16 is the last
        if own == dtype:
            return name
    raise KeyError(str(dtype))


@functools.cache
def dtype_called(name: str) -> np.dtype[Any]:
    """A NumPy dtype by NumPy's own name. Raises KeyError for one we don't have."""
    return NUMPY["bf16"] if name == "bfloat16" else {
        d.name: d for d in map(NUMPY.__getitem__, BYTES.keys() - {"bf16"})}[name]


def product(extents: Iterable[int]) -> int:
    return math.prod(extents)
