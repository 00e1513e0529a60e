"""The ops: one entry says what an op computes; shapes, reference, loops, cost and code follow from it.

Attributes are normalised by the frontend: `strides`, `dilations`, `begin`, `end` (padding) and `kernel` are
tuples with one number per spatial dimension; axes are not negative.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from cnncc.ir.errors import ModelError
from cnncc.ir.expr import Call, Const, Index, Load
from cnncc.ir.formula import Formula, bind, pointwise
from cnncc.ir.op import (
    NAMES,
    OPS,
    Attrs,
    Composer,
    Indices,
    Made,
    Op,
    Parts,
    Shape,
    Shapes,
    composed,
    elementwise,
    movement,
    reduction,
    register,
    relation,
    transform,
)
from cnncc.ir.types import FLOATS, Extent, product

__all__ = ["NAMES", "OPS", "Shape"]


def _axes(rank: int) -> Indices:
    return tuple(Index.of(f"i{a}") for a in range(rank))


def _box(attrs: Attrs) -> Indices:
    """Every `steps`-th place from `begin` on, along each axis."""
    return tuple(Index(((f"i{a}", s),), b) for a, (b, s) in enumerate(zip(attrs["begin"], attrs["steps"],
                                                                          strict=True)))


# ---- elementwise

for fn in ("neg", "abs", "sign", "sqrt", "exp", "log", "sigmoid", "tanh", "softplus", "erf", "floor", "ceil",
           "round", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
           "isnan", "invert"):
    elementwise(fn, f"{fn}(x)")
for fn in ("add", "sub", "mul", "div", "mod", "fmod", "pow", "max", "min", "lt", "le", "gt", "ge", "eq",
           "and", "or", "xor", "shl", "shr"):
    elementwise(fn, str(Call(fn, (Load("x", ()), Load("w", ())))))
elementwise("relu", "max(x, 0)")
elementwise("clip", "min(max(x, low), high)", "low", "high")
elementwise("clip_to", "min(max(x, w), u)")
elementwise("leaky_relu", "where(x < 0, x * alpha, x)", "alpha")
elementwise("prelu", "where(x < 0, x * w, x)")
elementwise("elu", "where(x < 0, expm1(x) * alpha, x)", "alpha")
elementwise("celu", "where(x < 0, expm1(x / alpha) * alpha, x)", "alpha")
elementwise("selu", "where(x < 0, expm1(x) * alpha, x) * gamma", "alpha", "gamma")
elementwise("gelu", "x * 0.5 * (erf(x * 0.7071067811865476) + 1)")
elementwise("gelu_tanh", "x * 0.5 * (tanh((x * x * x * 0.044715 + x) * 0.7978845608028654) + 1)")
elementwise("hard_sigmoid", "min(max(x * alpha + beta, 0), 1)", "alpha", "beta")
elementwise("hard_swish", "x * min(max(x * alpha + beta, 0), 1)", "alpha", "beta")
elementwise("swish", "x * sigmoid(x * alpha)", "alpha")
elementwise("mish", "x * tanh(softplus(x))")
elementwise("softsign", "x / (abs(x) + 1)")
elementwise("shrink", "where(x < -lambd, x + bias, where(x <= lambd, 0, x - bias))", "lambd", "bias")
elementwise("thresholded_relu", "where(x <= alpha, 0, x)", "alpha")
elementwise("scale", "x * factor", "factor")
elementwise("quotient", "x / divisor", "divisor")
elementwise("square", "x * x")
elementwise("cube", "x * x * x")
elementwise("reciprocal", "1 / x")
elementwise("isinf", "isinf(x) & where(x > 0, positive, negative)", "positive", "negative")
elementwise("finite", "where(isinf(x), 0, x)")
elementwise("over_norm", "where(w == 0, 0, x / w)")
elementwise("inverse_root", "1 / sqrt(x * factor + epsilon)", "factor", "epsilon")
elementwise("corrected", "x + w * factor", "factor")
elementwise("standard", "(x - w) * u")
elementwise("damped", "x * pow(w * alpha + bias, power)", "alpha", "bias", "power")
elementwise("where", "where(x, w, u)")
elementwise("cast", "to(x)", "to")

# ---- contractions and windows

relation("conv", "y[n, g*K + k, {p}] += x[n, g*C + c, {p*s + r*d - a | b}] * w[g*K + k, c, {r}]")
relation("linear", "y[n, k] += x[n, c, {r}] * w[k, c, {r}]")
relation("max_pool", "y[n, c, {p}] max= x[n, c, {p*s + r*d - a | b}]", window=True)
relation("sum_pool", "y[n, c, {p}] += x[n, c, {p*s + r*d - a | b}]", window=True)
transform("input_transform", "y[n, a*C + c, {p}] += t[a, i] * x[n, c, {p*m + i - b | e}]")
transform("output_transform", "y[n, c, {p*m + i}] += t[i, a] * x[n, a*C + c, {p}]")
reduction("reduce_sum", "+=")
reduction("reduce_prod", "*=")
reduction("reduce_max", "max=")
reduction("reduce_min", "min=")
reduction("reduce_abs_sum", "+=", "abs(x)")
reduction("reduce_square_sum", "+=", "x * x")
reduction("reduce_difference", "+=", "x - w")
reduction("reduce_variation", "+=", "(x - w) * (x - w)")
reduction("reduce_exp_sum", "+=", "exp(x - w)")
reduction("first_not_below", "min=", "where(x < w, 2147483647, u)")
reduction("last_not_below", "max=", "where(x < w, -1, u)")


def _neighbours(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
    size, below = attrs["size"], (attrs["size"] - 1) // 2
    template = "y[n, c, {p}] += x[n, c + r - a | b, {p}] * x[n, c + r - a | b, {p}]"
    return bind(template, [("x", shapes[0])], {"a": below, "b": size - 1 - below}, {"r": size},
                len(shapes[0]) - 2)


register(Op("neighbour_squares", _neighbours))


def _matmul(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Products of matrices along the last two axes, the axes before broadcast."""
    (*first, rows, inner), (*second, other, columns) = shapes
    if inner != other:
        raise ModelError(f"can't multiply {list(shapes[0])} by {list(shapes[1])}")
    leading, shape = pointwise("x * w", [("x", first), ("w", second)], {})
    x, w = (next(i.index for i in leading.loads if i.tensor == name) for name in "xw")
    row, column, c = map(Index.of, "mkc")
    factors = Load("x", (*x, row, c)), Load("w", (*w, c, column))
    extents = (*leading.extents, ("m", rows), ("k", columns), ("c", inner))
    out = Load("y", (*leading.out.index, row, column))
    return Formula(out, "+=", Call("mul", factors), extents), (*shape, rows, columns)


register(Op("matmul", _matmul))

# ---- movement

movement("transpose", lambda s, a: (tuple(s[0][p] for p in a["perm"]), _axes(len(s[0])),
                                    tuple(Index.of(f"i{a['perm'].index(p)}") for p in range(len(s[0])))))
movement("slice", lambda s, a: (a["shape"], _axes(len(s[0])), _box(a)))
movement("expand", lambda s, a: (a["shape"], _axes(len(a["shape"])), tuple(
    Index() if e == 1 else Index.of(f"i{i}") for i, e in enumerate(s[0], len(a["shape"]) - len(s[0])))))
movement("place", lambda s, a: (a["shape"], _box(a), _axes(len(s[0]))), scattered=True)


def _fill(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """A tensor of `shape` and `dtype` with one value."""
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


@composed
def _softmax(make: Parts, n: Made) -> str:
    x, along = n.inputs[0], {"axes": (n.attr["axis"],), "keepdims": True}
    top = make("reduce_max", x, step="max", **along)
    e = make("exp", make("sub", x, top, step="shifted"), step="exp")
    return make("div", e, make("reduce_sum", e, step="sum", **along))


@composed
def _log_softmax(make: Parts, n: Made) -> str:
    x, along = n.inputs[0], {"axes": (n.attr["axis"],), "keepdims": True}
    top = make("reduce_max", x, step="max", **along)
    total = make("log", make("reduce_exp_sum", x, top, step="sum", **along), step="log")
    return make("sub", make("sub", x, top, step="shifted"), total)


@composed
def _reduce_log_sum_exp(make: Parts, n: Made) -> str:
    """Shifted by the maximum where that is finite."""
    top = make("reduce_max", n.inputs[0], step="max", **{**n.attr, "keepdims": True})
    top = make("finite", top, step="shift")
    total = make("log", make("reduce_exp_sum", n.inputs[0], top, step="sum", **n.attr), step="log")
    if not n.attr["keepdims"]:
        top = make("reshape", top, step="view", shape=make.b.type(total).shape)
    return make("add", total, top)


@composed
def _reduce_l2(make: Parts, n: Made) -> str:
    return make("sqrt", make("reduce_square_sum", n.inputs[0], step="sum", **n.attr))


@composed
def _reduce_log_sum(make: Parts, n: Made) -> str:
    return make("log", make("reduce_sum", n.inputs[0], step="sum", **n.attr))


@composed
def _reduce_mean(make: Parts, n: Made) -> str:
    x = n.inputs[0]
    total, count = make("reduce_sum", x, step="sum", **n.attr), make.count(x, n.attr["axes"])
    if make.b.type(x).dtype in FLOATS:
        return make("scale", total, factor=1.0 / count)
    return make("quotient", total, divisor=count)


@composed
def _argmax(make: Parts, n: Made) -> str:
    """The index along `axis` of the greatest element, the first of equals, else with `last` the last."""
    x, axis, last = n.inputs[0], n.attr["axes"][0], n.attr["last"]
    type = make.b.type(x)
    size = int(type.shape[axis])
    top = make("reduce_max", x, step="max", axes=(axis,), keepdims=True)
    numbers = np.arange(size, dtype=np.int32).reshape(-1, *(1,) * (type.rank - 1 - axis))
    index = make.b.const(f"{n.name}.index", numbers)
    at = make("last_not_below" if last else "first_not_below", x, top, index, step="at", axes=(axis,),
              keepdims=n.attr["keepdims"])
    return make("cast", at, to="i64")


@composed
def _hardmax(make: Parts, n: Made) -> str:
    """1 at the first greatest element along `axis`, 0 elsewhere."""
    x, axis = n.inputs[0], n.attr["axis"]
    type = make.b.type(x)
    at = make("argmax", x, step="at", axes=(axis,), keepdims=True, last=False)
    numbers = np.arange(int(type.shape[axis])).reshape(-1, *(1,) * (type.rank - 1 - axis))
    index = make.b.const(f"{n.name}.index", numbers)
    return make("cast", make("eq", index, at, step="hit"), to=type.dtype)


@composed
def _lp_norm(make: Parts, n: Made) -> str:
    """x over its norm along `axis`: p = 1 the sum of magnitudes, p = 2 the root of the sum of squares."""
    x, along = n.inputs[0], {"axes": (n.attr["axis"],), "keepdims": True}
    norm = make("reduce_abs_sum" if n.attr["p"] == 1 else "reduce_l2", x, step="norm", **along)
    return make("over_norm", x, norm)


@composed
def _standardize(make: Parts, n: Made) -> str:
    """(x - mean) / sqrt(variance + epsilon) over `axes`.

    The mean is corrected by that of the differences to it, the variance is that of the differences: both are
    right where the mean is much larger than the deviation.
    """
    x, along = n.inputs[0], {"axes": n.attr["axes"], "keepdims": True}
    factor = 1.0 / make.count(x, n.attr["axes"])
    rough = make("reduce_mean", x, step="rough", **along)
    rest = make("reduce_difference", x, rough, step="rest", **along)
    mean = make("corrected", rough, rest, step="mean", factor=factor)
    total = make("reduce_variation", x, mean, step="variation", **along)
    root = make("inverse_root", total, step="root", factor=factor, epsilon=n.attr["epsilon"])
    return make("standard", x, mean, root)


@composed
def _lrn(make: Parts, n: Made) -> str:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""
    x, a = n.inputs[0], n.attr
    total = make("neighbour_squares", x, step="sum", size=a["size"])
    return make("damped", x, total, bias=a["bias"], alpha=a["alpha"] / a["size"], power=-a["beta"])


@composed
def _batch_norm(make: Parts, n: Made) -> str:
    """x * scale + shift per channel; the frontend gives these two as constants of shape [C, 1, ...]."""
    x, scale, shift = n.inputs
    return make("add", make("mul", x, scale, step="scaled"), shift)


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
    filled = b.op("fill", [], f"{n.name}.fill", n.origin, shape=shape, value=n.attr["value"],
                  dtype=b.type(x).dtype)
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
        value = b.op("fill", [], f"{n.name}.fill", n.origin, shape=shape, value=0, dtype=b.type(x).dtype)
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
