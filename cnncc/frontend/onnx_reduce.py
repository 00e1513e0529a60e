"""Importer rows of ONNX's reductions and normalizations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.ir.types import FLOATS, Extent, product

AXES_AS_INPUT = 18              # the opset from which reductions take them so; ReduceSum does from 13 on


def along(c: Call, x: str, axes: Iterable[int]) -> tuple[int, ...]:
    """Axes as sorted numbers that are not negative; the batch is refused where its size is open."""
    rank, given = len(c.shape(x)), tuple(axes)
    result = tuple(sorted(c.axis(a, rank) for a in given))
    c.expect(len(set(result)) == len(result), f"axes {list(given)} name one dimension twice")
    support(all(isinstance(c.shape(x)[a], int) for a in result),
            "it reduces over the batch, whose size is open")
    return result


def reduced(c: Call, op: str, x: str, axes: tuple[int, ...], keepdims: bool, **attrs: Any) -> str:
    """An op with `axes` and `keepdims`; a result without dimensions is a view of one that has them."""
    if keepdims or len(axes) < len(c.shape(x)):
        return c.emit(op, [x], axes=axes, keepdims=keepdims, **attrs)
    step = op.removeprefix("reduce_")
    return c.emit("reshape", [c.emit(op, [x], step, axes=axes, keepdims=True, **attrs)], shape=())


def reduction(op: str, as_input: int = AXES_AS_INPUT, floats: bool = False) -> Row:
    """A reduction, or what one over no axes does to each element."""
    def convert(c: Call) -> str:
        x, noop, keepdims = c.value(0), c.flag("noop_with_empty_axes"), c.flag("keepdims", True)
        if floats:
            of(c, x)
        given = c.attribute("axes", "ints", ()) if c.opset < as_input else \
            c.needed(1, "axes", "int64").reshape(-1).tolist() if c.has(1) else ()
        if noop and not len(given):
            single = {"reduce_abs_sum": "abs", "reduce_l2": "abs", "reduce_square_sum": "square",
                      "reduce_log_sum": "log"}.get(op)
            return c.emit(single, [x]) if single else x
        return reduced(c, op, x, along(c, x, given or range(len(c.shape(x)))), keepdims)
    return Row(convert, 1, 2)


def _global(op: str) -> Row:
    def convert(c: Call) -> str:
        x = of(c, c.value(0))
        return c.emit(op, [x], axes=tuple(range(2, 2 + len(c.spatial(x)))), keepdims=True)
    return Row(convert, 1, 1)


def powers(c: Call, x: str, p: int) -> str:
    """The magnitudes to the power p."""
    if p in (1, 2):
        return c.emit("abs" if p == 1 else "square", [x], "powers")
    return c.emit("abs_power", [x], "powers", power=float(p))


def root(c: Call, x: str, p: int) -> str:
    """The root of order p of sums of such."""
    return c.emit("lp_root", [x], p=p) if p > 1 else x


def _global_lp_pool(c: Call) -> str:
    x, p = of(c, c.value(0)), c.attribute("p", "i", 2)
    c.expect(0 < p <= 1 << 20, f"p is {p}")
    axes = tuple(range(2, 2 + len(c.spatial(x))))
    total = c.emit("reduce_sum", [powers(c, x, p)], "sum" if p > 1 else "", axes=axes, keepdims=True)
    return root(c, total, p)


RADIX = 4


def running(c: Call, op: str, x: str, axis: int, back: bool, exclusive: bool, step: str = "") -> str:
    """Folds up to each place: windows of 4, then of 4 windows, ... (Hillis and Steele, 1986)."""
    size, skipped, reach = int(c.shape(x)[axis]), int(exclusive), 1
    while reach < size or skipped:
        last, count = reach * RADIX >= size, min(RADIX, -(-size // reach))
        begin = skipped if back else -skipped - (count - 1) * reach
        x = c.emit(op, [x], step if last else f"window{reach}", axis=axis, stride=reach, begin=begin,
                   count=count)
        skipped, reach = 0, reach * RADIX
    return x


def _running(op: str) -> Row:
    """CumSum and CumProd."""
    def convert(c: Call) -> str:
        x, given = c.value(0), c.needed(1, "axis", "int64", "int32").reshape(-1)
        c.expect(given.size == 1, f"its axis has {given.size} elements")
        axis, = along(c, x, [int(given[0])])
        return running(c, op, x, axis, c.flag("reverse"), c.flag("exclusive"))
    return Row(convert, 2, 2)


def _extreme(least: bool) -> Row:
    """ArgMax; ArgMin is that of the numbers in reverse order."""
    def convert(c: Call) -> str:
        x = c.value(0)
        axis, = along(c, x, [c.attribute("axis", "i", 0)])
        c.spend(4 * int(c.shape(x)[axis]))
        keepdims, last = c.flag("keepdims", True), c.flag("select_last_index")
        if least:
            x = c.emit("neg" if c.dtype(x) in FLOATS else "invert", [x], "reversed")
        return reduced(c, "argmax", x, (axis,), keepdims, last=last)
    return Row(convert, 1, 1)


def along_one(c: Call, op: str, x: str, opset: int, step: str = "") -> str:
    """Softmax and the like: before opset 13 over all dimensions from axis on."""
    shape = c.shape(x)
    axis = c.axis(c.attribute("axis", "i", -1 if opset >= 13 else 1), len(shape))
    over = [axis] if opset >= 13 else [a for a in range(axis, len(shape)) if shape[a] != 1] or [axis]
    support(all(isinstance(shape[a], int) for a in over), "it normalises over the batch")
    if op == "hardmax":
        c.spend(8 * max(int(shape[a]) for a in over))
    if len(over) == 1:
        return c.emit(op, [x], step, axis=over[0])
    size = product([e for e in shape[axis:] if isinstance(e, int)])
    flat = c.emit("reshape", [x], "flat", shape=(*shape[:axis], size))
    return c.emit("reshape", [c.emit(op, [flat], op, axis=axis)], step, shape=shape)


def _along_one(op: str) -> Row:
    return Row(lambda c: along_one(c, op, of(c, c.value(0)), c.opset), 1, 1)


def _lp_norm(c: Call) -> str:
    x = of(c, c.value(0))
    axis, = along(c, x, [c.attribute("axis", "i", -1)])
    p = c.attribute("p", "i", 2)
    c.expect(p in (1, 2), f"p is {p}, not 1 or 2")
    return c.emit("lp_norm", [x], axis=axis, p=p)


def _mean_variance(c: Call) -> str:
    """ONNX adds 1e-9 to the deviation; so does 1e-18 added to the variance, where that counts."""
    x = of(c, c.value(0))
    return c.emit("standardize", [x], axes=along(c, x, c.attribute("axes", "ints", (0, 2, 3))), epsilon=1e-18)


def affine(c: Call, x: str, operands: Sequence[int] = (1, 2), shape: tuple[Extent, ...] = ()) -> str:
    """x times the first of `operands` plus the second, each seen in a shape where one is given."""
    parts = [c.value(i) for i in operands if c.has(i)]
    if shape:
        parts = [c.emit("reshape", [p], step, shape=shape) if len(c.shape(p)) != len(shape) else p
                 for p, step in zip(parts, ("scale", "shift"), strict=False)]
    for op, part in zip(("mul", "add"), parts, strict=False):
        y = c.emit(op, [x, part], "scaled" if op == "mul" and len(parts) == 2 else "")
        c.expect(c.shape(y) == c.shape(x), f"its scale or bias of shape {list(c.shape(part))} doesn't fit "
                                           f"{list(c.shape(x))}")
        x = y
    return x


def _channels(c: Call, x: str) -> tuple[Extent, ...]:
    """The shape of one number per channel beside x; scale and bias must be that many."""
    channels = c.shape(x)[1]
    for i in (1, 2):
        c.expect(c.shape(c.value(i)) == (channels,), f"input {i} has the shape {list(c.shape(c.value(i)))}, "
                                                     f"expected {[channels]}")
    return (channels, *(1,) * (len(c.shape(x)) - 2))


def _instance_norm(c: Call) -> str:
    x = of(c, c.value(0))
    c.expect(len(c.shape(x)) > 2, f"its input has the shape {list(c.shape(x))}, expected [N, C, ...]")
    shape = _channels(c, x)
    axes = along(c, x, range(2, len(c.shape(x))))
    y = c.emit("standardize", [x], "standard", axes=axes, epsilon=c.attribute("epsilon", "f", 1e-5))
    return affine(c, y, shape=shape)


def _from_axis(c: Call, x: str) -> tuple[int, ...]:
    rank = len(c.shape(x))
    return along(c, x, range(c.axis(c.attribute("axis", "i", -1), rank), rank))


def normal(c: Call, x: str, axes: tuple[int, ...], epsilon: float, parts: Sequence[int]
           ) -> tuple[str, str, str]:
    """x standardized, times scale, plus bias: the operands `parts`; its mean and inverse deviation."""
    y = affine(c, c.emit("standardize", [x], "standard", axes=axes, epsilon=epsilon), parts)
    mean = c.emit("centre", [x], "mean", axes=axes)
    return y, mean, c.emit("inverse_deviation", [x, mean], "inverse", axes=axes, epsilon=epsilon)


def normal_rms(c: Call, x: str, axes: tuple[int, ...], epsilon: float, parts: Sequence[int]
               ) -> tuple[str, str]:
    """x over the root of its mean square, times the operand `parts`; the inverse of the root."""
    inverse = c.emit("inverse_rms", [x], "inverse", axes=axes, epsilon=epsilon)
    return affine(c, c.emit("mul", [x, inverse], "normal"), parts), inverse


def _norm(make: Callable[..., tuple[str, ...]], parts: Sequence[int]) -> Row:
    """A norm over all dimensions from axis on."""
    def convert(c: Call) -> tuple[str, ...]:
        x = of(c, c.value(0))
        return make(c, x, _from_axis(c, x), c.attribute("epsilon", "f", 1e-5), parts)
    return Row(convert, 2, 1 + len(parts), ("stash_type",))


def _group_norm(c: Call) -> str:
    """Groups of channels as one axis; before opset 21 scale and bias are per group."""
    x = of(c, c.value(0))
    shape, groups = c.shape(x), c.attribute("num_groups", "i", 0)
    sizes = [e for e in shape[1:] if isinstance(e, int)]
    c.expect(len(shape) > 2 and len(sizes) == len(shape) - 1 and groups > 0 and sizes[0] % groups == 0,
             f"its input of shape {list(shape)} can't be split into {groups} groups of channels")
    view = c.emit("reshape", [x], "groups", shape=(shape[0], groups, product(sizes) // groups))
    y = c.emit("standardize", [view], "standard", axes=(2,), epsilon=c.attribute("epsilon", "f", 1e-5))
    if c.opset < 21:
        y = affine(c, y, shape=_channels(c, y))
        return c.emit("reshape", [y], "" if c.shape(y) != shape else "view", shape=shape)
    return affine(c, c.emit("reshape", [y], "view", shape=shape), shape=_channels(c, x))


def _lrn(c: Call) -> str:
    x, size = of(c, c.value(0)), c.attribute("size", "i", 0)
    c.spatial(x)
    c.expect(0 < size <= 1 << 20, f"its size is {size}")
    numbers = {name: c.attribute(name, "f", value) for name, value in
               (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0))}
    return c.emit("lrn", [x], size=size, **numbers)


ROWS: dict[str, Row] = {
    "ReduceSum": reduction("reduce_sum", 13), "ReduceMean": reduction("reduce_mean"),
    "ReduceMax": reduction("reduce_max"), "ReduceMin": reduction("reduce_min"),
    "ReduceProd": reduction("reduce_prod"), "ReduceL1": reduction("reduce_abs_sum"),
    "ReduceL2": reduction("reduce_l2", floats=True), "ReduceSumSquare": reduction("reduce_square_sum"),
    "ReduceLogSum": reduction("reduce_log_sum", floats=True),
    "ReduceLogSumExp": reduction("reduce_log_sum_exp", floats=True),
    "GlobalAveragePool": _global("reduce_mean"), "GlobalMaxPool": _global("reduce_max"),
    "ArgMax": _extreme(least=False), "ArgMin": _extreme(least=True),
    "Softmax": _along_one("softmax"), "LogSoftmax": _along_one("log_softmax"),
    "Hardmax": _along_one("hardmax"),
    "LpNormalization": Row(_lp_norm, 1, 1), "MeanVarianceNormalization": Row(_mean_variance, 1, 1),
    "InstanceNormalization": Row(_instance_norm, 3, 3, ("consumed_inputs",)),
    "LayerNormalization": _norm(normal, (1, 2)),
    "RMSNormalization": _norm(normal_rms, (1,)), "SimplifiedLayerNormalization": _norm(normal_rms, (1,)),
    "GlobalLpPool": Row(_global_lp_pool, 1, 1),
    "CumSum": _running("running_sum"), "CumProd": _running("running_product"),
    "GroupNormalization": Row(_group_norm, 3, 3, ("stash_type",)), "LRN": Row(_lrn, 1, 1),
}
