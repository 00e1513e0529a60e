"""Regularizers: penalties that add to gradients, bounds on gradients, constraints on weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.ir.errors import InputError
from cnncc.ir.op import Composer
from cnncc.ir.types import TensorType


@dataclass(frozen=True)
class Regularizer:
    """What is done to a weight's gradient before the optimizer's update, or to the weight after it."""

    def gradient(self, b: Composer, w: str, g: str) -> str:
        """The gradient that takes the place of g."""
        return g

    def gradients(self, b: Composer, all: Sequence[str]) -> list[str]:
        """Those that take the places of all gradients of the network."""
        return list(all)

    def weight(self, b: Composer, w: str) -> str:
        """The weight that takes the place of w."""
        return w


def check_positive(name: str, value: Any, zero: bool = False) -> None:
    """Raises InputError unless the value is a number above 0, or at least 0."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value >= 0 if zero else value > 0) or value == math.inf:
        what = "of at least" if zero else "above"
        raise InputError(f"{name}: expected a number {what} 0, got {value!r:.60}")


@dataclass(frozen=True)
class L2(Regularizer):
    """`factor` / 2 times the sum of squares is added to what is minimised: weight decay."""

    factor: float

    def __post_init__(self) -> None:
        check_positive("L2", self.factor, zero=True)

    def gradient(self, b: Composer, w: str, g: str) -> str:
        return b.op("plus_scaled", [g, w], f"{g}.l2", factor=float(self.factor)) if self.factor else g


@dataclass(frozen=True)
class L1(Regularizer):
    """`factor` times the sum of magnitudes is added to what is minimised."""

    factor: float

    def __post_init__(self) -> None:
        check_positive("L1", self.factor, zero=True)

    def gradient(self, b: Composer, w: str, g: str) -> str:
        return b.op("plus_sign", [g, w], f"{g}.l1", factor=float(self.factor)) if self.factor else g


@dataclass(frozen=True)
class ElasticNet(Regularizer):
    """L1 and L2 together (Zou, Hastie 2005)."""

    l1: float
    l2: float

    def __post_init__(self) -> None:
        check_positive("ElasticNet: l1", self.l1, zero=True)
        check_positive("ElasticNet: l2", self.l2, zero=True)

    def gradient(self, b: Composer, w: str, g: str) -> str:
        return L1(self.l1).gradient(b, w, L2(self.l2).gradient(b, w, g))


@dataclass(frozen=True)
class ClipValue(Regularizer):
    """Each element of a gradient is cut to -limit ... limit."""

    limit: float

    def __post_init__(self) -> None:
        check_positive("ClipValue", self.limit)

    def gradient(self, b: Composer, w: str, g: str) -> str:
        return b.op("clip", [g], f"{g}.clipped", low=-float(self.limit), high=float(self.limit))


@dataclass(frozen=True)
class ClipNorm(Regularizer):
    """All gradients together are scaled so that their norm is at most `limit` (Pascanu et al. 2013)."""

    limit: float

    def __post_init__(self) -> None:
        check_positive("ClipNorm", self.limit)

    def gradients(self, b: Composer, all: Sequence[str]) -> list[str]:
        total = ""
        for g in all:
            rows = b.op("reduce_square_sum", [g], f"{g}.squares", axes=tuple(range(1, b.type(g).rank)),
                        keepdims=False)
            square = b.op("reduce_sum", [rows], f"{g}.square", axes=tuple(range(b.type(rows).rank)),
                          keepdims=False)
            total = b.op("add", [total, square], "norm.square") if total else square
        if not total:
            return []
        factor = b.op("at_most", [b.op("sqrt", [total], "norm")], "norm.factor", limit=float(self.limit),
                      tiny=1e-6)
        return [b.op("mul", [g, factor], f"{g}.clipped") for g in all]


@dataclass(frozen=True)
class MaxNorm(Regularizer):
    """After an update the weights of each output channel have a norm of at most `limit` (Srebro 2005)."""

    limit: float

    def __post_init__(self) -> None:
        check_positive("MaxNorm", self.limit)

    def weight(self, b: Composer, w: str) -> str:
        norm = b.op("reduce_l2", [w], f"{w}.norm", axes=tuple(range(1, b.type(w).rank)), keepdims=True)
        factor = b.op("at_most", [norm], f"{w}.factor", limit=float(self.limit), tiny=1e-7)
        return b.op("mul", [w, factor], f"{w}.bounded")


def is_vector(type: TensorType) -> bool:
    """Whether a weight has one number for each channel: a bias, or the scale or shift of a norm."""
    return sum(e != 1 for e in type.shape) <= 1
