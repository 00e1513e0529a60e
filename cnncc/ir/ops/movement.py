"""The same elements at other places: views, gathers, and what is written part by part."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from cnncc.ir.errors import ModelError
from cnncc.ir.expr import Call, Const, Index, Load
from cnncc.ir.formula import Formula
from cnncc.ir.op import NAMES, Attrs, Composer, Indices, Made, Op, Shape, Shapes, axes, movement, register
from cnncc.ir.types import Extent, product

Ints = Sequence[int]


def _box(attrs: Attrs) -> Indices:
    """Every `steps`-th place from `begin` on, along each axis."""
    return tuple(Index(((f"i{a}", s),), b) for a, (b, s) in enumerate(zip(attrs["begin"], attrs["steps"],
                                                                          strict=True)))


movement("transpose", lambda s, a: (tuple(s[0][p] for p in a["perm"]), axes(len(s[0])),
                                    tuple(Index.of(f"i{a['perm'].index(p)}") for p in range(len(s[0])))))
movement("slice", lambda s, a: (a["shape"], axes(len(s[0])), _box(a)))
movement("expand", lambda s, a: (a["shape"], axes(len(a["shape"])), tuple(
    Index() if e == 1 else Index.of(f"i{i}") for i, e in enumerate(s[0], len(a["shape"]) - len(s[0])))))
movement("place", lambda s, a: (a["shape"], _box(a), axes(len(s[0]))), scattered=True)


def _fill(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """A tensor of `shape` and `dtype` with one value."""
    shape = attrs["shape"]
    extents = tuple((f"i{a}", e) for a, e in enumerate(shape))
    return Formula(Load("y", axes(len(shape))), "=", Const(float(attrs["value"])), extents), shape


def _take(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Along each of `axes` the elements that the next operand, a vector of int32, names."""
    shape, index = list(shapes[0]), list(axes(len(shapes[0])))
    for name, axis, table in zip(NAMES[1:], attrs["axes"], shapes[1:], strict=False):
        shape[axis], index[axis] = table[0], Index((), 0, Load(name, (Index.of(f"i{axis}"),)))
    extents = tuple((f"i{a}", e) for a, e in enumerate(shape))
    return Formula(Load("y", axes(len(shape))), "=", Load("x", tuple(index)), extents), tuple(shape)


def _resample(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Along `axis` sums of the elements that row i of w (int32) names, times the weights in row i of u."""
    axis, shape, index = attrs["axis"], list(shapes[0]), list(axes(len(shapes[0])))
    row = (Index.of(f"i{axis}"), Index.of("r"))
    shape[axis], index[axis] = shapes[1][0], Index((), 0, Load("w", row))
    extents = (*((f"i{a}", e) for a, e in enumerate(shape)), ("r", shapes[1][1]))
    expr = Call("mul", (Load("x", tuple(index)), Load("u", row)))
    return Formula(Load("y", axes(len(shape))), "+=", expr, extents), tuple(shape)


register(Op("fill", _fill))
register(Op("take", _take))
register(Op("resample", _resample))


def _reshaped(shapes: Shapes, attrs: Attrs) -> tuple[Extent, ...]:
    old, new = shapes[0], tuple(attrs["shape"])
    if product([e for e in old if isinstance(e, int)]) != product([e for e in new if isinstance(e, int)]) \
            or [e for e in old if isinstance(e, str)] != [e for e in new if isinstance(e, str)]:
        raise ModelError(f"can't reshape {list(old)} to {list(new)}")
    return new


register(Op("reshape", shape=_reshaped))


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
    rank = len(window)

    def reached(taps: Ints, steps: Ints, lasts: Ints, dilations: Ints, begin: Ints, end: Ints) -> str:
        part = b.op("slice", [w], f"{n.name}.taps", n.origin, begin=(0, 0, *lasts), steps=(1, 1, *steps),
                    shape=(channels, outer, *taps))
        part = b.op("reshape", [part], f"{n.name}.taps", n.origin,
                    shape=(group, channels // group, outer, *taps))
        part = b.op("transpose", [part], f"{n.name}.taps", n.origin, perm=(0, 2, 1, *range(3, 3 + rank)))
        part = b.op("reshape", [part], f"{n.name}.taps", n.origin,
                    shape=(group * outer, channels // group, *taps))
        return b.op("conv", [x, part], f"{n.name}.part", n.origin, strides=(1,) * rank, dilations=dilations,
                    begin=begin, end=end, group=group)
    return _scattered(b, n, window, _transposed_shape([b.type(x).shape, b.type(w).shape], a), reached)


def _scattered(b: Composer, n: Made, window: Ints, shape: Shape, reached: Callable[..., str]) -> str:
    """A value of `shape`, part by part: places with equal remainders modulo the strides are what `reached`
    makes of what `_taps` tells for each axis.
    """
    a, x = n.attr, b.type(n.inputs[0])
    extents, value = map(int, x.shape[-len(window):]), ""
    axes = [[_taps(axis, first) for first in range(min(axis[0], axis[-1]))] for axis in
            zip(a["strides"], a["dilations"], a["begin"], window, extents, a["size"], strict=True)]
    if not all(map(all, axes)):                         # some places are reached by nothing
        value = b.op("fill", [], f"{n.name}.fill", n.origin, shape=shape, value=0, dtype=x.dtype)
    for first in itertools.product(*(range(len(axis)) for axis in axes)):
        chosen = [axis[f] for axis, f in zip(axes, first, strict=True)]
        if all(chosen):
            y = reached(*zip(*filter(None, chosen), strict=True))
            value = b.op("place", [y], n.name, n.origin, value, begin=(0, 0, *first),
                         steps=(1, 1, *a["strides"]), shape=shape)
    return value


def _overlap(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """y[n, c, {p}] += x[n, c, {r*step + last}, {p + r*d - a}]: each tap's own image, moved by its place."""
    rank, shape = len(attrs["taps"]), (*shapes[0][:2], *attrs["shape"])
    batch, places = axes(2), [f"i{2 + i}" for i in range(rank)]
    taps = tuple(Index(((f"r{i}", s),), last) for i, (s, last) in enumerate(zip(
        attrs["steps"], attrs["lasts"], strict=True)))
    moved = tuple(Index(((p, 1), (f"r{i}", d)), -a) for i, (p, d, a) in enumerate(zip(
        places, attrs["dilations"], attrs["begin"], strict=True)))
    extents = (*((f"i{a}", e) for a, e in enumerate(shape)),
               *((f"r{i}", e) for i, e in enumerate(attrs["taps"])))
    return Formula(Load("y", axes(2 + rank)), "+=", Load("x", (*batch, *taps, *moved)), extents), shape


def _columns_shape(shapes: Shapes, attrs: Attrs) -> Shape:
    return (*shapes[0][:2], *attrs["size"])


def _from_columns(b: Composer, n: Made) -> str:
    """y[n, c, {p*s + r*d - a}] += x[n, c, {r}, {p}]: a window for each place, added up where they overlap."""
    x = b.type(n.inputs[0])
    rank = (x.rank - 2) // 2
    window, extents = (tuple(int(e) for e in part) for part in (x.shape[2:2 + rank], x.shape[2 + rank:]))

    def reached(taps: Ints, steps: Ints, lasts: Ints, dilations: Ints, begin: Ints, end: Ints) -> str:
        shape = tuple(e + low + high - (t - 1) * d for e, low, high, t, d in
                      zip(extents, begin, end, taps, dilations, strict=True))
        return b.op("overlap", [n.inputs[0]], f"{n.name}.part", n.origin, taps=taps, steps=steps, lasts=lasts,
                    dilations=dilations, begin=begin, shape=shape)
    return _scattered(b, n, window, _columns_shape([x.shape], n.attr), reached)


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
register(Op("overlap", _overlap))
register(Op("from_columns", shape=_columns_shape, composed=_from_columns))
