"""The ops: one entry says what an op computes; shapes, reference, loops, cost and code follow from it.

Attributes are normalised by the frontend: `strides`, `dilations`, `begin`, `end` (padding) and `kernel` are
tuples with one number per spatial dimension; axes are not negative.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from cnncc.ir.errors import InternalError, ModelError
from cnncc.ir.expr import Call, Const, Expr, Index, Load, Table, rewrite
from cnncc.ir.formula import Formula, bind, pointwise
from cnncc.ir.types import Extent, TensorType, product

Attrs = Mapping[str, Any]
Shape = tuple[Extent, ...]
Shapes = Sequence[Sequence[Extent]]
Indices = tuple[Index, ...]
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
           base: str = "", **attrs: Any) -> str: ...
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
        return TensorType(types[0].dtype if types else "f32", self.formula(types, attrs)[1])

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


def movement(name: str, index: Callable[[Shapes, Attrs], tuple[Shape, Indices, Indices]],
             scattered: bool = False) -> Op:
    """Elements of x at other places: `index` gives the result's shape and how y and x are indexed.

    The dimensions i0, i1, ... run over the axes of y; where `scattered` over those of x.
    """
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
        shape, out, source = index(shapes, attrs)
        extents = tuple((f"i{a}", e) for a, e in enumerate(shapes[0] if scattered else shape))
        return Formula(Load("y", out), "=", Load("x", source), extents), shape
    return register(Op(name, bound))


def _axes(rank: int) -> Indices:
    return tuple(Index.of(f"i{a}") for a in range(rank))


def _box(attrs: Attrs) -> Indices:
    """Every `steps`-th place from `begin` on, along each axis."""
    return tuple(Index(((f"i{a}", s),), b) for a, (b, s) in enumerate(zip(attrs["begin"], attrs["steps"],
                                                                          strict=True)))


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
relation("linear", "y[n, k] += x[n, c, {r}] * w[k, c, {r}]")
relation("max_pool", "y[n, c, {p}] max= x[n, c, {p*s + r*d - a | b}]", window=True)
relation("sum_pool", "y[n, c, {p}] += x[n, c, {p*s + r*d - a | b}]", window=True)
transform("input_transform", "y[n, a*C + c, {p}] += t[a, i] * x[n, c, {p*m + i - b | e}]")
transform("output_transform", "y[n, c, {p*m + i}] += t[i, a] * x[n, a*C + c, {p}]")
reduction("reduce_sum", "+=")
reduction("reduce_max", "max=")

# ---- movement

movement("transpose", lambda s, a: (tuple(s[0][p] for p in a["perm"]), _axes(len(s[0])),
                                    tuple(Index.of(f"i{a['perm'].index(p)}") for p in range(len(s[0])))))
movement("slice", lambda s, a: (a["shape"], _axes(len(s[0])), _box(a)))
movement("expand", lambda s, a: (a["shape"], _axes(len(a["shape"])), tuple(
    Index() if e == 1 else Index.of(f"i{i}") for i, e in enumerate(s[0], len(a["shape"]) - len(s[0])))))
movement("place", lambda s, a: (a["shape"], _box(a), _axes(len(s[0]))), scattered=True)


def _fill(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """A tensor of `shape` with one value."""
    shape = attrs["shape"]
    extents = tuple((f"i{a}", e) for a, e in enumerate(shape))
    return Formula(Load("y", _axes(len(shape))), "=", Const(float(attrs["value"])), extents), shape


def _take(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Along each of `axes` the elements that the next operand, a vector of int32, names."""
    shape, index = list(shapes[0]), list(_axes(len(shapes[0])))
    for name, axis, table in zip(NAMES[1:], attrs["axes"], shapes[1:], strict=False):
        shape[axis], index[axis] = table[0], Index((), 0, Load(name, (Index.of(f"i{axis}"),)))
    extents = tuple((f"i{a}", e) for a, e in enumerate(shape))
    return Formula(Load("y", _axes(len(shape))), "=", Load("x", tuple(index)), extents), tuple(shape)


def _resample(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Along `axis` sums of the elements that row i of w (int32) names, times the weights in row i of u."""
    axis, shape, index = attrs["axis"], list(shapes[0]), list(_axes(len(shapes[0])))
    row = (Index.of(f"i{axis}"), Index.of("r"))
    shape[axis], index[axis] = shapes[1][0], Index((), 0, Load("w", row))
    extents = (*((f"i{a}", e) for a, e in enumerate(shape)), ("r", shapes[1][1]))
    expr = Call("mul", (Load("x", tuple(index)), Load("u", row)))
    return Formula(Load("y", _axes(len(shape))), "+=", expr, extents), tuple(shape)


register(Op("fill", _fill))
register(Op("take", _take))
register(Op("resample", _resample))

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


def _concat_shape(shapes: Shapes, attrs: Attrs) -> Shape:
    axis, first = attrs["axis"], shapes[0]
    if any((*s[:axis], *s[axis + 1:]) != (*first[:axis], *first[axis + 1:]) for s in shapes):
        raise ModelError(f"can't join {' and '.join(str(list(s)) for s in shapes)} along axis {axis}")
    return (*first[:axis], sum(int(s[axis]) for s in shapes), *first[axis + 1:])


def _concat(b: Composer, n: Made) -> str:
    """Every operand is written into its part of the result, over what the one before has written."""
    axis, shapes = n.attr["axis"], [b.type(i).shape for i in n.inputs]
    shape, value, at = _concat_shape(shapes, n.attr), "", 0
    for i, own in zip(n.inputs, shapes, strict=True):
        begin = tuple(at if a == axis else 0 for a in range(len(shape)))
        value = b.op("place", [i], n.name, n.origin, value, begin=begin, steps=(1,) * len(shape), shape=shape)
        at += int(own[axis])
    return value


def _pad_shape(shapes: Shapes, attrs: Attrs) -> Shape:
    sides = zip(attrs["begin"], attrs["end"], shapes[0], strict=True)
    return tuple(e if not low and not high else int(e) + low + high for low, high, e in sides)


def _pad(b: Composer, n: Made) -> str:
    """The operand amid a value; negative padding cuts off."""
    x, begin, end = n.inputs[0], n.attr["begin"], n.attr["end"]
    old, shape, ones = b.type(x).shape, _pad_shape([b.type(x).shape], n.attr), (1,) * len(begin)
    kept = tuple(e if low >= 0 <= high else int(e) + min(low, 0) + min(high, 0)
                 for e, low, high in zip(old, begin, end, strict=True))
    cut, room = tuple(max(0, -low) for low in begin), tuple(max(0, low) for low in begin)
    if kept != old:
        x = b.op("slice", [x], f"{n.name}.cut", n.origin, begin=cut, steps=ones, shape=kept)
    filled = b.op("fill", [], f"{n.name}.fill", n.origin, shape=shape, value=n.attr["value"])
    return b.op("place", [x], n.name, n.origin, filled, begin=room, steps=ones, shape=shape)


def _transposed_shape(shapes: Shapes, attrs: Attrs) -> Shape:
    return (shapes[0][0], int(shapes[1][1]) * attrs["group"], *attrs["size"])


def _conv_transpose(b: Composer, n: Made) -> str:
    """y[n, g*K + k, {p*s + r*d - a}] += x[n, g*C + c, {p}] * w[g*C + c, k, {r}] as sums of what reaches y.

    The places of y with equal remainders modulo s are reached by the same taps: they are a convolution.
    """
    (x, w), a, group = n.inputs, n.attr, n.attr["group"]
    channels, outer, *window = (int(e) for e in b.type(w).shape)
    shape, extents = _transposed_shape([b.type(x).shape, b.type(w).shape], a), b.type(x).shape[2:]
    rank, value = len(window), ""
    axes = [[_taps(axis, first) for first in range(min(axis[0], axis[-1]))] for axis in
            zip(a["strides"], a["dilations"], a["begin"], window, map(int, extents), a["size"], strict=True)]
    if not all(map(all, axes)):                         # some places are reached by nothing
        value = b.op("fill", [], f"{n.name}.fill", n.origin, shape=shape, value=0.0)
    for first in itertools.product(*(range(len(axis)) for axis in axes)):
        chosen = [axis[f] for axis, f in zip(axes, first, strict=True)]
        if not all(chosen):
            continue
        taps, steps, lasts, dilations, begin, end = zip(*filter(None, chosen), strict=True)
        part = b.op("slice", [w], f"{n.name}.taps", n.origin, begin=(0, 0, *lasts), steps=(1, 1, *steps),
                    shape=(channels, outer, *taps))
        part = b.op("reshape", [part], f"{n.name}.taps", n.origin,
                    shape=(group, channels // group, outer, *taps))
        part = b.op("transpose", [part], f"{n.name}.taps", n.origin, perm=(0, 2, 1, *range(3, 3 + rank)))
        part = b.op("reshape", [part], f"{n.name}.taps", n.origin,
                    shape=(group * outer, channels // group, *taps))
        y = b.op("conv", [x, part], f"{n.name}.part", n.origin, strides=(1,) * rank, dilations=dilations,
                 begin=begin, end=end, group=group)
        value = b.op("place", [y], n.name, n.origin, value, begin=(0, 0, *first),
                     steps=(1, 1, *a["strides"]), shape=shape)
    return value


def _taps(axis: Sequence[int], first: int) -> tuple[int, int, int, int, int, int] | None:
    """For the places first, first + stride, ... of `size`: how many taps reach them, the step between these
    (downwards) and the last; dilation and padding of the convolution of x with them. None: there are none.
    """
    stride, dilation, begin, window, extent, size = axis
    own = [r for r in range(window) if (first + begin - r * dilation) % stride == 0]
    if not own:
        return None
    step = stride // math.gcd(stride, dilation)
    count, apart = -(-(size - first) // stride), step * dilation // stride
    reach = (len(own) - 1) * apart
    low = reach - (first + begin - own[0] * dilation) // stride
    return len(own), -step, own[-1], apart, low, count - extent + reach - low


register(Op("concat", shape=_concat_shape, composed=_concat))
register(Op("pad", shape=_pad_shape, composed=_pad))
register(Op("conv_transpose", shape=_transposed_shape, composed=_conv_transpose))
register(Op("softmax", shape=_same, composed=_softmax))
register(Op("reduce_mean", shape=lambda s, a: OPS["reduce_sum"].bound(s, a)[1],  # type: ignore[misc]
            composed=_mean))
register(Op("batch_norm", shape=_same, composed=_batch_norm))
