"""Importer rows for results whose sizes data say, into their bound with a count, and for what is first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnncc.frontend.onnx_indexing import placed
from cnncc.frontend.onnx_moves import cut, fixed, pick, reshaped
from cnncc.frontend.onnx_node import Call, Results, Row, support
from cnncc.frontend.onnx_reduce import reduced, running
from cnncc.ir.types import INTEGERS, product

LONGEST = 1 << 14       # elements of which each may be compared with each
PAIRS = 1 << 22         # of rows that are compared, all at once
MASKS = 1 << 28         # boxes that may be chosen, in all turns of all classes


def top_k(c: Call) -> tuple[str, ...]:
    """The k first in order, each at the place that its rank says: how many others come before it."""
    x, shape = c.value(0), c.shape(c.value(0))
    axis = c.axis(c.attribute("axis", "i", -1), len(shape))
    largest = c.flag("largest", True)
    c.flag("sorted", True)
    k = c.attribute("k", "i", 0) if c.opset < 10 else int(c.needed(1, "k", "int64").reshape(-1)[0])
    n, = fixed(c, shape, [axis])
    c.expect(0 < k <= n, f"k is {k} of {n} elements")
    support(n <= LONGEST, f"it orders {n:,} elements, at most {LONGEST:,} are supported")
    support(all(isinstance(e, int) for e in shape), "it has an open batch")
    order = c.const(np.arange(n), "order")
    kind = ("smallest", "largest")[largest] + ("" if c.dtype(x) in INTEGERS else "_float")
    rank = c.emit("rank", [x, order], "rank", axis=axis, order=kind)
    numbers = c.emit("reshape", [order], "column", shape=(n, *(1,) * (len(shape) - 1 - axis)))
    numbers = c.emit("expand", [numbers], "numbers", shape=shape)
    results = []
    for out, values in zip(c.node.output, (x, numbers), strict=False):
        own = c.named(out or c.out)
        results.append(cut(own, placed(own, values, rank, axis, shape), {axis: range(k)}))
    return tuple(results)


def kept(c: Call, x: str, place: str, count: str, axis: int = 0) -> str:
    """The parts of x along an axis at the places [n] that are given, of which n stands for nowhere.

    The first `count` of them are the result's, the others don't count.
    """
    shape = c.shape(x)
    n = int(shape[axis])
    column = c.emit("reshape", [place], "places", shape=(n, *(1,) * (len(shape) - 1 - axis)))
    index = c.emit("expand", [column], "places", shape=shape)
    y = placed(c, x, index, axis, (*shape[:axis], n + 1, *shape[axis + 1:]))
    c.scope.counted[c.out] = axis, count
    return cut(c, y, {axis: range(n)})


def _places(c: Call, true: str) -> tuple[str, str]:
    """For each that is true how many others are true before it, else n; and how many there are."""
    n = int(c.shape(true)[0])
    ones = c.emit("cast", [true], "ones", to="i64")
    earlier = running(c, "running_sum", ones, 0, False, True, "earlier")
    place = c.emit("where", [true, earlier, c.const(np.array([n]), "beyond")], "place")
    return place, reduced(c.named(f"{c.out}.count"), "reduce_sum", ones, (0,), False)


def non_zero(c: Call) -> str:
    """The indices of what isn't zero, one behind the other."""
    x, shape = c.value(0), c.shape(c.value(0))
    sizes = fixed(c, shape, range(len(shape)))
    n, rank = product(sizes), len(sizes)
    c.spend(8 * n * rank)
    flat = c.emit("cast", [c.emit("reshape", [x], "flat", shape=(n,))], "true", to="bool")
    place, count = _places(c, flat)
    index = c.const(np.stack(np.unravel_index(np.arange(n), sizes)) if rank else np.zeros((0, 1)), "index")
    return kept(c, index, place, count, 1)


def compress(c: Call) -> Results:
    """The parts along an axis, or of all elements in a row, for which a condition holds."""
    x, axis = c.value(0), c.attribute("axis", "i")
    if axis is None:
        x, axis = reshaped(c, x, (product(fixed(c, c.shape(x), range(len(c.shape(x))))),), "flat"), 0
    axis = c.axis(axis, len(c.shape(x)))
    size, = fixed(c, c.shape(x), [axis])
    true = c.operand(1)
    c.expect(len(c.shape(true)) == 1 and int(c.shape(true)[0]) <= size,
             f"a condition of shape {list(c.shape(true))} doesn't fit {size}")
    n = int(c.shape(true)[0])
    if not isinstance(true, str):
        return pick(c, x, {axis: np.flatnonzero(c.needed(1, "condition", "bool"))})
    x = cut(c, x, {axis: range(n)}, "part")
    return kept(c, x, *_places(c, true), axis)


def unique(c: Call) -> tuple[str, ...]:
    """What there is, in order or as it comes; where first, which one each is, and how often it is there.

    Every row is compared with every other one.
    """
    x, axis, ordered = c.value(0), c.attribute("axis", "i"), c.flag("sorted", True)
    shape = fixed(c, c.shape(x), range(len(c.shape(x))))
    axis = c.axis(axis, len(shape)) if axis is not None else None
    if axis is None:
        x, shape, axis = reshaped(c, x, (product(shape),), "flat"), [product(shape)], 0
    n, k = shape[axis], product(shape) // shape[axis]
    support(n * n <= PAIRS, f"it compares {n:,} parts with each other")
    perm = (axis, *(a for a in range(len(shape)) if a != axis))
    rows = reshaped(c, c.emit("transpose", [x], "turned", perm=perm) if axis else x, (n, k), "rows")
    order = c.emit("compare_rows", [rows, c.const(2 * np.arange(k, 0, -1), "weights")], "order")
    number, zero, one = (c.const(v, "number") for v in (np.arange(n), np.array(0), np.array(1)))
    above = c.emit("lt", [number, c.emit("reshape", [number], "column", shape=(n, 1))], "above")
    equal = c.emit("eq", [order, zero], "equal")

    def total(parts: Sequence[str], step: str) -> str:
        """How many of a row of pairs there are for which all parts hold."""
        both = parts[0] if len(parts) == 1 else c.emit("and", parts, f"{step}.both")
        return c.emit("reduce_sum", [c.emit("cast", [both], f"{step}.ones", to="i64")], step, axes=(1,),
                      keepdims=False)
    first = c.emit("eq", [total((equal, above), "earlier"), zero], "first")
    count = total((equal,), "times")
    if ordered:
        greater = c.emit("eq", [c.emit("mod", [order, c.const(np.array(2), "two")], "odd"), one], "greater")
        rank = total((greater, first), "rank")
    else:
        rank = running(c, "running_sum", c.emit("cast", [first], "ones", to="i64"), 0, False, True, "numbers")
        own = c.emit("and", [equal, first], "own")
        rank = c.emit("reduce_sum", [c.emit("where", [own, rank, zero], "named")], "rank", axes=(1,),
                      keepdims=False)
    place = c.emit("where", [first, rank, c.const(np.array(n), "beyond")], "place")
    ones = c.emit("cast", [first], "ones", to="i64")
    many = reduced(c.named(f"{c.out}.count"), "reduce_sum", ones, (0,), False)
    results = []
    for i, (out, value) in enumerate(zip(c.node.output, (x, number, rank, count), strict=False)):
        own_call = c.named(out or f"{c.out}.{i}")
        results.append(value if i == 2 else kept(own_call, value, place, many, axis if i == 0 else 0))
    return tuple(results)


def _corners(c: Call, boxes: str, centred: bool) -> list[str]:
    """The least y and x and the greatest, each [N, boxes], of boxes by two corners, or centre and size."""
    shape = c.shape(boxes)[:2]
    a, b, *ends = (c.emit("reshape", [cut(c, boxes, {2: range(i, i + 1)}, "part")], "part", shape=shape)
                   for i in range(4))
    pairs = list(zip((a, b), ends, strict=True))
    if not centred:
        return [c.emit(op, pair, step) for op, step in (("min", "low"), ("max", "high")) for pair in pairs]
    both = [(first, c.emit("scale", [size], "half", factor=0.5)) for first, size in pairs]
    return [c.emit(op, pair, step) for op, step in (("sub", "low"), ("add", "high")) for pair in both]


def _area(c: Call, corners: Sequence[str], step: str) -> str:
    """Of boxes by their corners; of none it is zero."""
    sides = [c.emit("relu", [c.emit("sub", [high, low], f"{step}.size")], f"{step}.side")
             for low, high in zip(corners[:2], corners[2:], strict=True)]
    return c.emit("mul", sides, step)


def suppression(c: Call) -> Results:
    """The best box of each class again and again; what overlaps it too much doesn't come into question.

    A loop whose state says which boxes do, [turns + 1, N, classes, boxes].
    """
    boxes, scores, centred = c.value(0), c.value(1), c.flag("center_point_box")
    c.expect(len(c.shape(scores)) == 3, f"scores of shape {list(c.shape(scores))}, expected [N, C, boxes]")
    (n, classes, count), floor = fixed(c, c.shape(scores), range(3)), c.has(4)
    c.expect(c.shape(boxes) == (n, count, 4),
             f"boxes of shape {list(c.shape(boxes))} don't fit scores of {list(c.shape(scores))}")
    most = int(c.needed(2, "number of boxes", "int64").reshape(-1)[0]) if c.has(2) else 0
    turns = min(most, count)
    if turns <= 0:
        return np.zeros((0, 3), np.int64)
    support((turns + 1) * n * classes * count <= MASKS, f"it chooses {turns:,} of {count:,} boxes in {n} x "
                                                        f"{classes} classes, which is too many")
    limit = c.value(3) if c.has(3) else c.const(np.zeros(1, np.float32), "limit")
    none = c.const(np.array(-np.inf, np.float32), "none")
    open = c.emit("gt", [scores, c.value(4)], "open") if floor else \
        c.emit("fill", [], "open", shape=(n, classes, count), value=1, dtype="bool")
    shape = (turns + 1, n, classes, count)
    part = c.emit("reshape", [open], "part", shape=(1, *shape[1:]))
    state = c.emit("place", [part], "states", begin=(0,) * 4, steps=(1,) * 4, shape=shape)
    corners = _corners(c, boxes, centred)
    areas = _area(c, corners, "areas")
    numbers = c.const(np.arange(count), "numbers")

    def best(own: Call, open: str, scores: str, none: str) -> tuple[str, str]:
        """The score and the place [.., 1] of the best that is open; -inf where none is."""
        known = own.emit("where", [open, scores, none], "known")
        axis = len(own.shape(known)) - 1
        return own.emit("reduce_max", [known], "best", axes=(axis,), keepdims=True), \
            own.emit("argmax", [known], "at", axes=(axis,), keepdims=True, last=False)

    def turn(own: Call, whole: Sequence[str], state: str) -> str:
        scores, limit, none, numbers, areas, *corners = whole
        open = reshaped(own, cut(own, state, {0: range(1)}, "now"), shape[1:], "now")
        _, at = best(own, open, scores, none)
        index = own.emit("reshape", [at], "index", shape=(n, classes))

        def chosen(x: str) -> str:
            """What is known of the box that is taken, beside all boxes."""
            return own.emit("reshape", [own.emit("gather_elements", [x, index], "taken", axis=1)], "taken",
                            shape=(n, classes, 1))
        every = [own.emit("reshape", [v], "all", shape=(n, 1, count)) for v in (*corners, areas)]
        inner = [own.emit("max" if i < 2 else "min", [chosen(v), other], "inner")
                 for i, (v, other) in enumerate(zip(corners, every, strict=False))]
        common = _area(own, inner, "common")
        both = own.emit("add", [chosen(areas), every[-1]], "both")
        union = own.emit("sub", [both, common], "union")
        over = own.emit("gt", [own.emit("over_norm", [common, union], "ratio"), limit], "over")
        gone = own.emit("or", [over, own.emit("eq", [numbers, at], "itself")], "gone")
        left = own.emit("and", [open, own.emit("invert", [gone], "left")], "open")
        left = own.emit("reshape", [left], "part", shape=(1, *shape[1:]))
        return own.emit("place", [left], "states", state, begin=(1, 0, 0, 0), steps=(1,) * 4, shape=shape)
    state = c.loop(turns, [scores, limit, none, numbers, areas, *corners], (state, (0, 1)), turn)
    open = cut(c, state, {0: range(turns)}, "chosen")
    score, at = best(c.named(f"{c.out}.last"), open, scores, none)
    rows = turns * n * classes
    true, place = (c.emit("reshape", [c.emit("transpose", [v], f"{step}.turned", perm=(1, 2, 0, 3))], step,
                          shape=(rows,))
                   for v, step in ((c.emit("gt", [score, none], "true"), "chosen"), (at, "box")))
    index = np.stack(np.unravel_index(np.arange(rows), (n, classes, turns))[:2], 1)
    columns = [c.const(index, "index"), c.emit("reshape", [place], "column", shape=(rows, 1))]
    return kept(c, c.emit("concat", columns, "rows", axis=1), *_places(c, true))


ROWS = {
    "Compress": Row(compress, 2, 2),
    "NonMaxSuppression": Row(suppression, 2, 5),
    "NonZero": Row(non_zero, 1, 1),
    "TopK": Row(top_k, 1, 2),
    "Unique": Row(unique, 1, 1),
}
