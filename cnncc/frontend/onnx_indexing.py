"""Importer rows for what reads or writes at places that data say; an index out of range fails the call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnncc.frontend.onnx_conv import Sizes
from cnncc.frontend.onnx_moves import fixed, ints, table_gather
from cnncc.frontend.onnx_node import Call, Row
from cnncc.ir.types import Extent, product

FOLDS = {b"none": "=", b"add": "+=", b"mul": "*=", b"max": "max=", b"min": "min="}


def places(c: Call, i: int, extents: Sequence[int]) -> str:
    """Operand i, indices, as int64; the call fails where one is outside of its axis (its last axis lists
    several extents where there are such).
    """
    w = c.value(i)
    c.expect(c.dtype(w) in ("i32", "i64"), f"its indices are of {c.dtype(w)}")
    if c.dtype(w) != "i64":
        w = c.emit("cast", [w], "places", to="i64")
    if known := c.scope.counted.get(c.node.input[i]):       # the others are read, too, but count nothing
        axis, count = known
        shape = c.shape(w)
        at = c.const(np.arange(int(shape[axis])).reshape(-1, *(1,) * (len(shape) - 1 - axis)), "at")
        w = c.emit("where", [c.emit("lt", [at, count], "counts"), w, c.const(np.array(0), "none")], "known")
    return within(c, w, extents)


def within(c: Call, w: str, extents: Sequence[int]) -> str:
    """Indices as they are; the call fails where one is outside of its axis."""
    limits = c.const(np.array(extents, np.int64), "limits")
    outside = c.emit("any_outside", [w, limits], "outside", axes=tuple(range(len(c.shape(w)))),
                     keepdims=False)
    c.scope.fails(outside, f"{c.label}: an index is out of range")
    return w


def gather(c: Call) -> str:
    if not isinstance(c.operand(1), str):
        return table_gather(c)
    x, shape = c.value(0), c.shape(c.value(0))
    axis, rank = c.axis(c.attribute("axis", "i", 0), len(shape)), len(c.shape(c.operand(1)))
    c.follows(0, [None if a == axis else a + (rank - 1) * (a > axis) for a in range(len(shape))])
    c.follows(1, range(axis, axis + rank))
    return c.emit("gather", [x, places(c, 1, fixed(c, shape, [axis]))], axis=axis)


def gather_elements(c: Call) -> str:
    x, shape, wanted = c.value(0), c.shape(c.value(0)), c.shape(c.operand(1))
    axis = c.axis(c.attribute("axis", "i", 0), len(shape))
    _within(c, wanted, shape, axis)
    return c.emit("gather_elements", [x, places(c, 1, fixed(c, shape, [axis]))], axis=axis)


def _within(c: Call, part: Sequence[Extent], shape: Sequence[Extent], axis: int) -> None:
    """Raises ModelError where indices of this shape don't fit a tensor apart from `axis`."""
    pairs = enumerate(zip(part, shape, strict=False))
    c.expect(len(part) == len(shape) and all(
        a == axis or p == e or (isinstance(p, int) and isinstance(e, int) and p < e)
        for a, (p, e) in pairs), f"indices of shape {list(part)} don't fit {list(shape)}")


def gather_nd(c: Call) -> str:
    x, shape, rows = c.value(0), c.shape(c.value(0)), c.shape(c.operand(1))
    batch = c.attribute("batch_dims", "i", 0)
    c.expect(len(rows) > 0 and isinstance(rows[-1], int) and 0 <= batch < min(len(rows), len(shape))
             and rows[:batch] == shape[:batch] and 0 < int(rows[-1]) <= len(shape) - batch,
             f"indices of shape {list(rows)} don't fit {list(shape)} with batch_dims={batch}")
    named = range(batch, batch + int(rows[-1]))
    c.follows(0, [None] * len(shape))
    c.follows(1, [*range(len(rows) - 1), None])
    return c.emit("gather_nd", [x, places(c, 1, fixed(c, shape, named))], batch=batch)


def _fold(c: Call) -> str:
    name = c.attribute("reduction", "s", b"none")
    c.expect(name in FOLDS, f"reduction is {name[:60]!r}")
    return FOLDS[name]


def scatter_elements(c: Call) -> str:
    """Also the old Scatter."""
    x, shape, wanted = c.value(0), c.shape(c.value(0)), c.shape(c.operand(1))
    axis, fold = c.axis(c.attribute("axis", "i", 0), len(shape)), _fold(c)
    _within(c, wanted, shape, axis)
    c.expect(c.shape(c.operand(2)) == wanted, f"updates of {list(c.shape(c.operand(2)))} don't fit indices "
                                              f"of {list(wanted)}")
    operands = [c.value(2), places(c, 1, fixed(c, shape, [axis]))]
    base = c.emit("copy", [x], "base")
    return c.emit("scatter_elements", operands, base=base, axis=axis, fold=fold, shape=shape)


def scatter_nd(c: Call) -> str:
    x, shape, rows = c.value(0), c.shape(c.value(0)), c.shape(c.operand(1))
    c.expect(len(rows) > 0 and isinstance(rows[-1], int) and 0 < int(rows[-1]) <= len(shape),
             f"indices of shape {list(rows)} don't fit {list(shape)}")
    named, fold = int(rows[-1]), _fold(c)
    wanted = (*rows[:-1], *shape[named:])
    c.expect(c.shape(c.operand(2)) == wanted,
             f"updates of {list(c.shape(c.operand(2)))} don't fit, expected {list(wanted)}")
    operands = [c.value(2), places(c, 1, fixed(c, shape, range(named)))]
    base = c.emit("copy", [x], "base")
    return c.emit("scatter_nd", operands, base=base, fold=fold, shape=shape)


def placed(c: Call, x: str, index: str, axis: int, shape: Sequence[Extent]) -> str:
    """The elements of x amid zeros of a `shape`, where `index` says along an axis."""
    base = c.emit("fill", [], "base", shape=tuple(shape), value=0, dtype=c.dtype(x))
    return c.emit("scatter_elements", [x, index], "placed", base=base, axis=axis, fold="=",
                  shape=tuple(shape))


def reverse_sequence(c: Call) -> str:
    """Of each sequence of a batch its first part, as long as data say, in reverse order."""
    x, shape = c.value(0), c.shape(c.value(0))
    time, batch = c.attribute("time_axis", "i", 0), c.attribute("batch_axis", "i", 1)
    c.expect({time, batch} == {0, 1} and len(shape) > 1, f"its axes are {time} and {batch}")
    steps, = fixed(c, shape, [time])
    lengths = c.value(1)
    c.expect(c.shape(lengths) == (shape[batch],),
             f"input 1 has the shape {list(c.shape(lengths))}, expected {[shape[batch]]}")
    ones = (1,) * (len(shape) - 2)
    lengths = within(c, c.emit("reshape", [lengths], "lengths", shape=(
        (shape[0], 1, *ones) if time else (1, shape[1], *ones))), [steps + 1])
    at = c.const(np.arange(steps).reshape(1, -1, *ones) if time else np.arange(steps).reshape(-1, 1, *ones),
                 "at")
    last = c.emit("sub", [lengths, c.const(np.array(1), "one")], "last")
    index = c.emit("where", [c.emit("lt", [at, lengths], "within"), c.emit("sub", [last, at], "back"), at],
                   "index")
    return c.emit("gather_elements", [x, c.emit("expand", [index], "places", shape=shape)], axis=time)


def tensor_scatter(c: Call) -> str:
    """A cache with updates written along an axis from the place on that data say, around its end if asked."""
    x, u = c.value(0), c.value(1)
    shape, part = c.shape(x), c.shape(u)
    axis, mode = c.axis(c.attribute("axis", "i", -2), len(shape)), c.attribute("mode", "s", b"linear")
    c.expect(mode in (b"linear", b"circular"), f"mode is {mode[:60]!r}")
    c.expect(axis > 0 and len(part) == len(shape) and [*shape[:axis], *shape[axis + 1:]] ==
             [*part[:axis], *part[axis + 1:]],
             f"updates of {list(part)} don't fit {list(shape)} along axis {axis}")
    size, count = *fixed(c, shape, [axis]), *fixed(c, part, [axis])
    ones = (1,) * (len(shape) - 1)
    c.expect(not c.has(2) or c.shape(c.operand(2)) == shape[:1], "its write_indices don't fit its batch")
    first = c.emit("reshape", [c.value(2)], "first", shape=(shape[0], *ones)) if c.has(2) else \
        c.const(np.zeros((1, *ones), np.int64), "first")
    at = c.const(np.arange(count).reshape(-1, *(1,) * (len(shape) - 1 - axis)), "at")
    index = c.emit("add", [first, at], "index")
    if mode == b"circular":
        index = c.emit("mod", [index, c.const(np.array(size), "size")], "index")
    index = c.emit("expand", [within(c, index, [size])], "places", shape=part)
    return c.emit("scatter_elements", [u, index], base=c.emit("copy", [x], "base"), axis=axis, fold="=",
                  shape=shape)


def max_unpool(c: Call) -> str:
    """Every element where its index says, which counts in the whole result; zeros elsewhere."""
    x, spatial = c.value(0), c.spatial(c.value(0))
    n, shape = len(spatial), fixed(c, c.shape(x), range(len(spatial) + 2))
    c.expect(c.shape(c.operand(1)) == tuple(shape), "its indices differ in shape from its input")
    own = Sizes.of(c, n)
    size = [(e - 1) * s + k - low - high for e, s, k, low, high in
            zip(spatial, own.strides, own.kernel, own.begin, own.end, strict=True)]
    c.expect(min(size) > 0, f"its result would have the size {size}")
    whole = product([*shape[:2], *size])
    flat, index = (c.emit("reshape", [v], step, shape=(product(shape),))
                   for v, step in ((x, "flat"), (places(c, 1, [whole]), "flat.index")))
    y = placed(c, flat, index, 0, (whole,))
    wanted = ints(c, 2, "output shape") if c.has(2) else [*shape[:2], *size]
    more = [w - e for w, e in zip(wanted, (*shape[:2], *size), strict=False)]
    c.expect(len(wanted) == n + 2 and more[:2] == [0, 0] and min(more) >= 0, f"it can't have shape {wanted}")
    y = c.emit("reshape", [y], "unpooled" if any(more) else "", shape=(*shape[:2], *size))
    return c.emit("pad", [y], begin=(0,) * (n + 2), end=tuple(more), value=0) if any(more) else y


ROWS = {
    "Gather": Row(gather, 2, 2, counts=True),
    "GatherElements": Row(gather_elements, 2, 2),
    "GatherND": Row(gather_nd, 2, 2, counts=True),
    "MaxUnpool": Row(max_unpool, 2, 3),
    "ReverseSequence": Row(reverse_sequence, 2, 2),
    "Scatter": Row(scatter_elements, 3, 3),
    "ScatterElements": Row(scatter_elements, 3, 3),
    "ScatterND": Row(scatter_nd, 3, 3),
    "TensorScatter": Row(tensor_scatter, 2, 3),
}
