"""The ops: one entry says what an op computes; shapes, reference, loops, cost and code follow from it.

Attributes are normalised by the frontend: `strides`, `dilations`, `begin`, `end` (padding) and `kernel` are
tuples with one number per spatial dimension; axes are not negative.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cnncc.ir.errors import InternalError, ModelError
from cnncc.ir.expr import Expr, Load, Table, rewrite
from cnncc.ir.formula import Formula, bind, pointwise
from cnncc.ir.types import Extent, TensorType, product

Attrs = Mapping[str, Any]
Shapes = Sequence[Sequence[Extent]]
NAMES = ("x", "w", "u", "v")


class Made(Protocol):
    """What a composed op reads of its node."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def attr(self) -> dict[str, Any]: ...
    @property
    def origin(self) -> tuple[str, ...]: ...


class Composer(Protocol):
    """Where a composed op adds the nodes that it is made of."""

    def op(self, op: str, inputs: Sequence[str], name: str, origin: tuple[str, ...] = (),
           **attrs: Any) -> str: ...
    def type(self, name: str) -> TensorType: ...


@dataclass(frozen=True)
class Op:
    """`bound` gives the formula and the result's shape; an op without is a view or `composed` of others."""

    name: str
    bound: Callable[[Shapes, Attrs], tuple[Formula, tuple[Extent, ...]]] | None = None
    shape: Callable[[Shapes, Attrs], tuple[Extent, ...]] | None = None
    composed: Callable[[Composer, Made], str] | None = None

    def infer(self, types: Sequence[TensorType], attrs: Attrs) -> TensorType:
        """The type of the result. Raises ModelError where the operands don't fit the op."""
        shapes = [t.shape for t in types]
        if self.shape is not None:
            return TensorType(types[0].dtype, self.shape(shapes, attrs))
        return TensorType(types[0].dtype, self.formula(types, attrs)[1])

    def formula(self, types: Sequence[TensorType], attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        """The formula bound to shapes and attributes; the result's shape. Raises ModelError as `infer`."""
        if self.bound is None:
            raise InternalError(f"op {self.name} has no formula of its own")
        return self.bound([t.shape for t in types], attrs)


OPS: dict[str, Op] = {}


def register(op: Op) -> Op:
    OPS[op.name] = op
    return op


def elementwise(name: str, text: str, *attributes: str) -> Op:
    """A scalar expression over x, w, ... (broadcast) and the named float attributes."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        operands = list(zip(NAMES, shapes, strict=False))
        return pointwise(text, operands, {a: float(attrs[a]) for a in attributes})
    return register(Op(name, bound))


def relation(name: str, template: str, window: bool = False) -> Op:
    """A fold over index arithmetic; with `window` the extents of r come from the attribute `kernel`."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        spatial = len(shapes[0]) - 2
        symbols: dict[str, int] = {}
        given: dict[str, int] = {"g": int(attrs["group"])} if "group" in attrs else {}
        for i in range(spatial):
            for letter, key in zip("sdab", ("strides", "dilations", "begin", "end"), strict=True):
                if key in attrs:
                    symbols[f"{letter}{i}"] = int(attrs[key][i])
            if window:
                given[f"r{i}"] = int(attrs["kernel"][i])
        return bind(template, list(zip(NAMES, shapes, strict=False)), symbols, given, spatial)
    return register(Op(name, bound))


def transform(name: str, template: str) -> Op:
    """Tiles along the spatial `axis` times the attribute `matrix`, t; braces are the indices of all axes.

    `tile` is the distance of tiles, `count` their number, `begin` how far the first starts before its axis.
    What the last one gives beyond `extent` is left out.
    """
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        axis, matrix, count = int(attrs["axis"]), attrs["matrix"], int(attrs["count"])
        def indices(match: re.Match[str]) -> str:
            return ", ".join(match[1] if i == axis else f"q{i}" for i in range(len(shapes[0]) - 2))
        operands = [("t", (len(matrix), len(matrix[0]))), ("x", shapes[0])]
        symbols = {"m": int(attrs["tile"]), "b": int(attrs["begin"]), "e": count * int(attrs["tile"])}
        f, shape = bind(re.sub(r"\{([^}]*)\}", indices, template), operands, symbols, {"p": count})
        def known(x: Load) -> Expr:
            return x if x.tensor == "x" else Table(matrix, (x.index[0], x.index[1]))
        result = (*shape[:2 + axis], int(attrs["extent"]), *shape[3 + axis:])
        return replace(f, expr=rewrite(f.expr, known)), result
    return register(Op(name, bound))


def reduction(name: str, fold: str) -> Op:
    """A fold over `axes`, which stay with extent 1 where `keepdims`."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        rank, axes = len(shapes[0]), tuple(attrs["axes"])
        index = [f"i{a}" for a in range(rank)]
        kept = [("0" if a in axes else f"i{a}") for a in range(rank) if a not in axes or attrs["keepdims"]]
        left = f"y[{', '.join(kept)}]" if kept else "y"
        return bind(f"{left} {fold} x[{', '.join(index)}]", [("x", shapes[0])], {})
    return register(Op(name, bound))


# ---- elementwise

elementwise("relu", "max(x, 0)")
elementwise("clip", "min(max(x, low), high)", "low", "high")
elementwise("add", "x + w")
elementwise("sub", "x - w")
elementwise("mul", "x * w")
elementwise("div", "x / w")
elementwise("exp", "exp(x)")
elementwise("scale", "x * factor", "factor")

# ---- contractions and windows

relation("conv", "y[n, g*K + k, {p}] += x[n, g*C + c, {p*s + r*d - a | b}] * w[g*K + k, c, {r}]")
relation("subsample", "y[n, c, {p}] = x[n, c, {p*s - a | b}]", window=True)
relation("linear", "y[n, k] += x[n, c, {r}] * w[k, c, {r}]")
relation("max_pool", "y[n, c, {p}] max= x[n, c, {p*s + r*d - a | b}]", window=True)
relation("sum_pool", "y[n, c, {p}] += x[n, c, {p*s + r*d - a | b}]", window=True)
transform("input_transform", "y[n, a*C + c, {p}] += t[a, i] * x[n, c, {p*m + i - b | e}]")
transform("output_transform", "y[n, c, {p*m + i}] += t[i, a] * x[n, a*C + c, {p}]")
reduction("reduce_sum", "+=")
reduction("reduce_max", "max=")

# ---- views: the same elements in the same plain order


def _reshaped(shapes: Shapes, attrs: Attrs) -> tuple[Extent, ...]:
    old, new = shapes[0], tuple(attrs["shape"])
    if product([e for e in old if isinstance(e, int)]) != product([e for e in new if isinstance(e, int)]) \
            or [e for e in old if isinstance(e, str)] != [e for e in new if isinstance(e, str)]:
        raise ModelError(f"can't reshape {list(old)} to {list(new)}")
    return new


register(Op("reshape", shape=_reshaped))

# ---- composed of others


def _same(shapes: Shapes, attrs: Attrs) -> tuple[Extent, ...]:
    return tuple(shapes[0])


def _softmax(b: Composer, n: Made) -> str:
    x, axes = n.inputs[0], (n.attr["axis"],)
    top = b.op("reduce_max", [x], f"{n.name}.max", n.origin, axes=axes, keepdims=True)
    e = b.op("exp", [b.op("sub", [x, top], f"{n.name}.shifted", n.origin)], f"{n.name}.exp", n.origin)
    total = b.op("reduce_sum", [e], f"{n.name}.sum", n.origin, axes=axes, keepdims=True)
    return b.op("div", [e, total], n.name, n.origin)


def _mean(b: Composer, n: Made) -> str:
    x = n.inputs[0]
    count = product([int(b.type(x).shape[a]) for a in n.attr["axes"]])
    total = b.op("reduce_sum", [x], f"{n.name}.sum", n.origin, **n.attr)
    return b.op("scale", [total], n.name, n.origin, factor=1.0 / count)


def _batch_norm(b: Composer, n: Made) -> str:
    """x * scale + shift per channel; the frontend gives these two as constants of shape [C, 1, ...]."""
    x, scale, shift = n.inputs
    return b.op("add", [b.op("mul", [x, scale], f"{n.name}.scaled", n.origin), shift], n.name, n.origin)


register(Op("softmax", shape=_same, composed=_softmax))
register(Op("reduce_mean", shape=lambda s, a: OPS["reduce_sum"].bound(s, a)[1],  # type: ignore[misc]
            composed=_mean))
register(Op("batch_norm", shape=_same, composed=_batch_norm))
