"""The scalar functions: what each takes and gives, and how NumPy computes it.

Integers wrap around; dividing them by zero gives zero. A float that becomes an integer is cut to its range,
NaN becomes zero. max and min pass NaN on. The functions' code is in `codegen/scalar.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.types import FLOATS, INTEGERS, NUMPY

Array = NDArray[Any]

PHILOX = (0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85)
"""Philox4x32's two multipliers, and what each round adds to the key."""

CLASSES = {"b": ("bool",), "f": FLOATS, "i": INTEGERS, "n": (*FLOATS, *INTEGERS), "l": (*INTEGERS, "bool"),
           "t": (*FLOATS, *INTEGERS, "bool"), "a": tuple(NUMPY), "s": ("f32",), "d": ("f64",), "w": ("i32",),
           "q": ("i64",)}
"""The letters of a signature; arguments of one letter have one dtype."""


@dataclass(frozen=True, slots=True)
class Scalar:
    """A function: a letter of CLASSES per argument, and the letter, or the dtype, of its result.

    `cost` is about how many instructions it takes.
    """

    args: str
    result: str
    numpy: Callable[..., Array]
    cost: int = 1


def cast(x: Array, dtype: np.dtype[Any]) -> Array:
    """The array in another dtype; floats beyond the range of integers become its ends."""
    if x.dtype.kind != "f" or dtype.kind not in "iu":
        return x.astype(dtype)
    info = np.iinfo(dtype)
    low, high = x <= float(info.min), x >= float(info.max)
    whole = np.where(low | high | np.isnan(x), 0, x).astype(dtype)
    return np.where(low, info.min, np.where(high, info.max, whole)).astype(dtype)


def _div(x: Array, w: Array) -> Array:
    if x.dtype.kind == "f":
        return np.divide(x, w)
    down = np.floor_divide(x, w)        # zero where w is
    result: Array = down + ((np.fmod(x, w) != 0) & ((x < 0) != (w < 0))).astype(x.dtype)
    return result


def _pow(x: Array, w: Array) -> Array:
    """Of integers by squaring: six bits of the exponent, the parity of larger ones."""
    if x.dtype.kind == "f":
        return np.power(x, w)
    x, w = np.broadcast_arrays(x, w)
    left = np.where(w > 63, 62 + (w & 1), w)
    result, square = np.ones_like(x), x
    for _ in range(6):
        result = np.where(left & 1, result * square, result)
        left, square = left >> 1, square * square
    unit = np.where(x == 1, 1, np.where((x == -1) if x.dtype.kind == "i" else False, 1 - 2 * (w & 1), 0))
    return np.where(w < 0, unit, result).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    e = np.exp(-np.abs(x))
    result: Array = np.where(x >= 0, 1, e) / (1 + e)
    return result.astype(x.dtype)


def _random(*words: Array) -> Array:
    """0 to less than 1 by Philox4x32-10 (Salmon et al., SC 2011): a counter of four words, a key of two."""
    a, b, c, d, low, high = np.broadcast_arrays(*(w.astype(np.uint32).astype(np.uint64) for w in words))
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p, q = a * np.uint64(PHILOX[0]), c * np.uint64(PHILOX[1])
        a, b, c, d = (q >> np.uint64(32)) ^ b ^ low, q & mask, (p >> np.uint64(32)) ^ d ^ high, p & mask
        low, high = (low + np.uint64(PHILOX[2])) & mask, (high + np.uint64(PHILOX[3])) & mask
    return (a >> np.uint64(8)).astype(np.float32) * np.float32(2.0 ** -24)


_ERF = np.vectorize(math.erf, otypes=[np.float64])


_ROWS: dict[str, dict[str, Callable[..., Array]]] = {
    "nn n": {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _div},
    "nn n 20": {"mod": np.mod,      # with the sign of the divisor
                "fmod": np.fmod},   # with the sign of the dividend
    "nn n 150": {"pow": _pow},
    "n n": {"neg": np.negative, "abs": np.absolute, "sign": np.sign},
    "tt t": {"max": np.maximum, "min": np.minimum},
    "nn bool": {"lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal},
    "tt bool": {"eq": np.equal, "ne": np.not_equal},
    "btt t": {"where": np.where},
    "ll l": {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor},
    "l l": {"invert": np.invert},
    "ii i": {"shl": np.left_shift, "shr": np.right_shift},
    "s i32": {"bits32": lambda x: x.astype(np.float32).view(np.int32)},
    "w f32": {"real32": lambda x: x.view(np.float32)},
    "d i64": {"bits64": lambda x: x.view(np.int64)}, "q f64": {"real64": lambda x: x.view(np.float64)},
    "f bool": {"isnan": np.isnan, "isinf": np.isinf},
    "f f": {"floor": np.floor, "ceil": np.ceil, "trunc": np.trunc,
            "round": np.rint,   # halves to even
            "sqrt": np.sqrt},
    "f f 25": {"exp": np.exp, "expm1": np.expm1, "log": np.log, "sigmoid": _sigmoid, "tanh": np.tanh,
               "erf": lambda x: _ERF(x).astype(x.dtype)},
    "f f 50": {"log1p": np.log1p, "softplus": lambda x: np.logaddexp(x, x.dtype.type(0))},
    "iiiiii f32 200": {"random": _random},
    "f f 100": {"sin": np.sin, "cos": np.cos, "tan": np.tan, "sinh": np.sinh, "cosh": np.cosh,
                "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "asinh": np.arcsinh,
                "acosh": np.arccosh, "atanh": np.arctanh}}


def _table() -> Iterator[tuple[str, Scalar]]:
    for signature, row in _ROWS.items():
        args, result, *cost = signature.split()
        for name, function in row.items():
            yield name, Scalar(args, result, function, *map(int, cost))


FUNCTIONS = dict(_table()) | {
    name: Scalar("a", name, lambda x, to=name: cast(x, NUMPY[to])) for name in NUMPY}
"""By name; a dtype's name is the cast to it."""
