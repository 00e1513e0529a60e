"""Importer rows for the ops that move elements: transposing, slicing, joining, padding, gathering."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from cnncc.frontend.onnx_file import DTYPES, dtype_name
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_shapes import extents, shape_of
from cnncc.ir.signature import Array
from cnncc.ir.types import NUMPY, Extent

Shape = tuple[Extent, ...]
Values = tuple[str, ...]

MAX_TABLE = 1 << 24     # places along one dimension for which a table may be made


def ints(c: Call, i: int, what: str) -> list[int]:
    """A constant operand of integers as a list."""
    value = c.needed(i, what, "int64", "int32").reshape(-1)
    c.expect(value.size <= 1 << 16, f"its {what} are {value.size:,}: absurd")
    return [int(v) for v in value]


def fixed(c: Call, shape: Shape, axes: Sequence[int]) -> list[int]:
    """The extents of some axes, none of which may be the open batch."""
    support(all(isinstance(shape[a], int) for a in axes), "it changes the batch, whose size is open")
    return [int(shape[a]) for a in axes]


def leading(c: Call, shape: Sequence[Extent]) -> None:
    """Raises Refused where the open batch isn't the first axis."""
    support(all(isinstance(e, int) for e in shape[1:]), "it puts an axis before the open batch")


def _axes(c: Call, given: Sequence[int], rank: int) -> tuple[int, ...]:
    axes = tuple(c.axis(a, rank) for a in given)
    c.expect(len(set(axes)) == len(axes), f"axes {list(given)} name one dimension twice")
    return axes


def reshaped(c: Call, x: str, shape: Shape, step: str = "") -> str:
    return x if shape == c.shape(x) else c.emit("reshape", [x], step, shape=shape)


def cut(c: Call, x: str, ranges: Mapping[int, range], step: str = "") -> str:
    """The elements of x whose index along each axis is in its range."""
    shape = c.shape(x)
    parts = {a: r for a, r in ranges.items() if r != range(int(shape[a]))}
    support(all(parts.values()), "its result would be empty")
    if not parts:
        return x
    begin, steps = [0] * len(shape), [1] * len(shape)
    for a, r in parts.items():
        begin[a], steps[a] = r.start, r.step
    extents = tuple(len(parts[a]) if a in parts else e for a, e in enumerate(shape))
    return c.emit("slice", [x], step, begin=tuple(begin), steps=tuple(steps), shape=extents)


def pick(c: Call, x: str, places: Mapping[int, Array]) -> str:
    """The elements of x at given places along each axis: a slice where they are evenly spaced."""
    even: dict[int, range] = {}
    for axis, p in places.items():
        step = int(p[1] - p[0]) if p.size > 1 else 1
        if step and p.size and (np.diff(p) == step).all():
            even[axis] = range(int(p[0]), int(p[0]) + step * p.size, step)
    tables = [(a, p) for a, p in places.items() if a not in even]
    x = cut(c, x, even, "cut" if tables else "")
    while tables:
        now, tables = tables[:3], tables[3:]
        named = [c.const(p.astype(np.int32), f"index{a}") for a, p in now]
        x = c.emit("take", [x, *named], "part" if tables else "", axes=tuple(a for a, _ in now))
    return x


def transpose(c: Call) -> str:
    x = c.value(0)
    shape = c.shape(x)
    perm = tuple(c.attribute("perm", "ints", range(len(shape))[::-1]))
    c.expect(sorted(perm) == list(range(len(shape))), f"perm {list(perm[:20])} doesn't fit {list(shape)}")
    leading(c, [shape[p] for p in perm])
    c.follows(0, [perm.index(a) for a in range(len(perm))])
    return x if perm == tuple(range(len(perm))) else c.emit("transpose", [x], perm=perm)


def squeeze(c: Call) -> str:
    x = c.value(0)
    shape = c.shape(x)
    given = c.attribute("axes", "ints", ()) if c.opset < 13 else ints(c, 1, "axes") if c.has(1) else ()
    axes = _axes(c, given, len(shape)) or tuple(a for a, e in enumerate(shape) if e == 1)
    c.expect(all(shape[a] == 1 for a in axes), f"axes {list(axes)} of {list(shape)} are not all 1")
    c.follows(0, [None if a in axes else a - sum(gone < a for gone in axes) for a in range(len(shape))])
    return reshaped(c, x, tuple(e for a, e in enumerate(shape) if a not in axes))


def unsqueeze(c: Call) -> str:
    x = c.value(0)
    given = c.attribute("axes", "ints", ()) if c.opset < 13 else ints(c, 1, "axes")
    rank = len(c.shape(x)) + len(given)
    axes, rest = _axes(c, given, rank), list(c.shape(x))
    shape: Shape = tuple(1 if a in axes else rest.pop(0) for a in range(rank))
    leading(c, shape)
    c.follows(0, [a for a in range(rank) if a not in axes])
    return reshaped(c, x, shape)


def concat(c: Call) -> str:
    values = [c.value(i) for i, name in enumerate(c.node.input) if not c.scope.empty(name)]
    axis = c.axis(c.attribute("axis", "i", 1), len(c.shape(values[0])))
    for v in values:
        c.expect(len(c.shape(v)) == len(c.shape(values[0])), "its inputs differ in rank")
        fixed(c, c.shape(v), [axis])
    return values[0] if len(values) == 1 else c.emit("concat", values, axis=axis)


def slices(c: Call) -> str | Array:
    x = c.value(0)
    shape = c.shape(x)
    if c.opset < 10:
        starts, ends = (list(c.attribute(name, "ints", ())) for name in ("starts", "ends"))
        given, steps = c.attribute("axes", "ints", range(len(starts))), [1] * len(starts)
    else:
        starts, ends = ints(c, 1, "starts"), ints(c, 2, "ends")
        given = ints(c, 3, "axes") if c.has(3) else list(range(len(starts)))
        steps = ints(c, 4, "steps") if c.has(4) else [1] * len(starts)
    c.expect(len(starts) == len(ends) == len(given) == len(steps) and 0 not in steps,
             "its starts, ends, axes and steps don't fit together")
    ranges: dict[int, range] = {}
    for axis, start, end, step in zip(_axes(c, given, len(shape)), starts, ends, steps, strict=True):
        extent = shape[axis]
        if isinstance(extent, str) and (start, step) == (0, 1) and end >= (1 << 31) - 1:
            continue
        size, = fixed(c, shape, [axis])
        if step < 0:                # as ONNX has it: a start before the first element is cut to that
            start = max(start + size if start < 0 else start, 0)
        ranges[axis] = range(size)[slice(start, end, step)]
    c.follows(0, [None if a in ranges else a for a in range(len(shape))])
    return _part(c, x, ranges)


def _part(c: Call, x: str, ranges: Mapping[int, range]) -> str | Array:
    """What `cut` gives, or an array without elements."""
    if all(ranges.values()):
        return cut(c, x, ranges)
    shape = tuple(len(ranges[a]) if a in ranges else e for a, e in enumerate(c.shape(x)))
    support(all(isinstance(e, int) for e in shape), "its result would be empty")
    return np.zeros([int(e) for e in shape], NUMPY[c.dtype(x)])


def split(c: Call) -> tuple[str | Array, ...]:
    x, outputs = c.value(0), c.node.output
    shape = c.shape(x)
    axis = c.axis(c.attribute("axis", "i", 0), len(shape))
    extent, = fixed(c, shape, [axis])
    given = c.attribute("split", "ints", ()) if c.opset < 13 else ints(c, 1, "split") if c.has(1) else ()
    parts = c.attribute("num_outputs", "i", len(outputs))
    c.expect(parts == len(outputs), f"num_outputs is {parts}, but it has {len(outputs)} outputs")
    size = -(-extent // parts)
    sizes = list(given) or [size] * (parts - 1) + [extent - size * (parts - 1)]
    c.expect(len(sizes) == len(outputs) and sum(sizes) == extent and min(sizes) >= 0,
             f"can't split {extent} into {sizes[:20]} for {len(outputs)} outputs")
    ends = np.cumsum(sizes).tolist()
    return tuple(_part(c.named(out or c.out), x, {axis: range(end - size, end)})
                 for out, size, end in zip(outputs, sizes, ends, strict=True))


def expand(c: Call) -> str:
    x = c.value(0)
    old = c.shape(x)
    wanted = extents(c, 1, "shape", old)
    rank = max(len(old), len(wanted))
    pairs = list(zip((*[1] * (rank - len(old)), *old), (*[1] * (rank - len(wanted)), *wanted), strict=True))
    c.expect(all(a == b or 1 in (a, b) for a, b in pairs), f"can't expand {list(old)} to {wanted}")
    shape = tuple(b if a == 1 else a for a, b in pairs)
    leading(c, shape)
    return x if shape == old else c.emit("expand", [x], shape=shape)


def tile(c: Call) -> str:
    x = c.value(0)
    shape, repeats = c.shape(x), ints(c, 1, "repeats")
    c.expect(len(repeats) == len(shape) and min(repeats, default=1) > 0,
             f"repeats {repeats[:20]} don't fit {list(shape)}")
    axes = [a for a, r in enumerate(repeats) if r > 1]
    sizes = fixed(c, shape, axes)
    support(all(e * repeats[a] <= MAX_TABLE for a, e in zip(axes, sizes, strict=True)), "it is too large")
    return pick(c, x, {a: np.arange(e * repeats[a]) % e for a, e in zip(axes, sizes, strict=True)})


def table_gather(c: Call) -> str:
    """A Gather of which the indices are known."""
    x, indices = c.value(0), c.needed(1, "indices", "int64", "int32")
    shape = c.shape(x)
    axis = c.axis(c.attribute("axis", "i", 0), len(shape))
    extent, = fixed(c, shape, [axis])
    c.follows(0, [None if a == axis else a + (indices.ndim - 1) * (a > axis) for a in range(len(shape))])
    support(indices.size <= MAX_TABLE, f"{indices.size:,} indices are too many")
    places = indices.reshape(-1).astype(np.int64)
    c.expect(places.size and -extent <= places.min() <= places.max() < extent, "an index is out of range")
    y = pick(c if indices.ndim == 1 else c.named(f"{c.out}.taken"), x, {axis: places % extent})
    return reshaped(c, y, (*shape[:axis], *indices.shape, *shape[axis + 1:]))


def pad(c: Call) -> str:
    x, mode = c.value(0), c.attribute("mode", "s", b"constant")
    shape, value = c.shape(x), 0
    rank = len(shape)
    if c.opset < 11:
        given, value = list(c.attribute("pads", "ints", ())), c.attribute("value", "f", 0.0)
    else:
        given = ints(c, 1, "pads")
        if c.has(2):
            number = c.needed(2, "constant value", NUMPY[c.dtype(x)].name)
            c.expect(number.size == 1, "its constant value is an array")
            value = number.reshape(()).item()
    axes = _axes(c, ints(c, 3, "axes"), rank) if c.has(3) else tuple(range(rank))
    c.expect(len(given) == 2 * len(axes) and all(abs(p) <= MAX_TABLE for p in given),
             f"its pads {given[:20]} don't fit its input")
    pads = {a: pair for a, *pair in zip(axes, given, given[len(axes):], strict=False) if any(pair)}
    sizes = dict(zip(pads, fixed(c, shape, list(pads)), strict=True))
    c.expect(all(e + sum(pads[a]) >= 0 for a, e in sizes.items()), "it cuts off more than there is")
    support(all(e + sum(pads[a]) for a, e in sizes.items()), "its result would be empty")
    if not pads:
        return x
    left = {a: e + sum(min(p, 0) for p in pads[a]) for a, e in sizes.items()}   # what is cut off goes first
    if mode == b"constant":
        if min(left.values()) <= 0:
            whole = tuple(int(e) + sum(pads[a]) if a in pads else e for a, e in enumerate(shape))
            return c.emit("fill", [], shape=whole, value=value, dtype=c.dtype(x))
        begin, end = (tuple(pads[a][side] if a in pads else 0 for a in range(rank)) for side in (0, 1))
        return c.emit("pad", [x], begin=begin, end=end, value=value)
    places: dict[int, Array] = {}
    for a, (low, high) in pads.items():
        first, e = max(-low, 0), left[a]
        c.expect(e > 0, "it cuts off all there is")
        support(e <= MAX_TABLE, "it is too large")
        at = np.arange(-max(low, 0), e + max(high, 0))
        if mode == b"edge":
            places[a] = at.clip(0, e - 1)
        elif mode == b"wrap":
            places[a] = at % e
        else:
            c.expect(mode == b"reflect", f"mode is {mode[:60]!r}")
            period = max(1, 2 * e - 2)
            places[a] = e - 1 - np.abs(at % period - (e - 1)) if e > 1 else at * 0
        places[a] += first
    return pick(c, x, places)


def depth_to_space(c: Call) -> str:
    x, block, mode = c.value(0), c.attribute("blocksize", "i"), c.attribute("mode", "s", b"DCR")
    n, channels, *size = c.shape(x)
    rank = len(size)
    c.expect(mode in (b"DCR", b"CRD"), f"mode is {mode[:60]!r}")
    c.expect(block is not None and block > 0 and int(channels) % block ** rank == 0,
             f"its blocksize {block} doesn't fit {list(c.shape(x))}")
    blocks, inner = (block,) * rank, int(channels) // block ** rank
    depth = (*blocks, inner) if mode == b"DCR" else (inner, *blocks)
    first = 1 + (mode == b"CRD")                        # where the blocks are
    y = c.emit("reshape", [x], "split", shape=(n, *depth, *size))
    places = [p for i in range(rank) for p in (2 + rank + i, first + i)]
    y = c.emit("transpose", [y], "moved", perm=(0, rank + 1 if mode == b"DCR" else 1, *places))
    return reshaped(c, y, (n, inner, *(int(e) * block for e in size)))


def space_to_depth(c: Call) -> str:
    x, block = c.value(0), c.attribute("blocksize", "i")
    n, channels, *size = c.shape(x)
    rank = len(size)
    c.expect(block is not None and block > 0 and all(int(e) % block == 0 for e in size),
             f"its blocksize {block} doesn't fit {list(c.shape(x))}")
    y = c.emit("reshape", [x], "split",
               shape=(n, channels, *(e for s in size for e in (int(s) // block, block))))
    mode = c.attribute("mode", "s", b"DCR")
    c.expect(mode in (b"DCR", b"CRD"), f"mode is {mode[:60]!r}")
    blocks, places = tuple(range(3, 3 + 2 * rank, 2)), range(2, 2 + 2 * rank, 2)
    perm = (0, *((*blocks, 1) if mode == b"DCR" else (1, *blocks)), *places)
    y = c.emit("transpose", [y], "moved", perm=perm)
    return reshaped(c, y, (n, int(channels) * block ** rank, *(int(s) // block for s in size)))


def trilu(c: Call) -> str:
    """The triangle on and above the diagonal k, or on and below it; zeros elsewhere."""
    x, k = c.value(0), ints(c, 1, "diagonal") if c.has(1) else [0]
    upper = c.flag("upper", True)
    c.expect(len(c.shape(x)) > 1 and len(k) == 1, "its input is no matrix or its diagonal no number")
    rows, columns = fixed(c, c.shape(x), (-2, -1))
    at = min(max(k[0] - upper, -rows - 1), columns)
    c.spend(rows * columns * 8)
    below = np.tri(rows, columns, at, bool)
    zero = c.const(np.zeros((1, 1), NUMPY[c.dtype(x)]), "zero")
    return c.emit("where", [c.const(~below if upper else below, "kept"), x, zero])


def col2im(c: Call) -> str:
    """x [N, C * block, places]: one column of a block for each place, added up where they overlap."""
    x, size, block = c.value(0), ints(c, 1, "image_shape"), ints(c, 2, "block_shape")
    n, shape = len(size), c.shape(x)
    c.expect(len(shape) == 3 and 1 <= n == len(block) <= 4 and min(*size, *block) > 0,
             f"its shapes {size[:9]} and {block[:9]} don't fit {list(shape)}")
    strides, dilations = c.sizes("strides", n, 1, (1,) * n), c.sizes("dilations", n, 1, (1,) * n)
    pads, (rows, places) = c.sizes("pads", 2 * n, 0, (0,) * 2 * n), fixed(c, shape, (1, 2))
    counts = [(e + low + high - (k - 1) * d - 1) // s + 1 for e, low, high, k, d, s in
              zip(size, pads, pads[n:], block, dilations, strides, strict=False)]
    c.expect(rows % math.prod(block) == 0 and min(counts) > 0 and math.prod(counts) == places,
             f"{list(shape)} is not made of windows {block} at {counts} places of {size}")
    support(math.prod(strides) <= 1 << 10, f"strides {list(strides)} are too large")
    x = c.emit("reshape", [x], "windows", shape=(shape[0], rows // math.prod(block), *block, *counts))
    return c.emit("from_columns", [x], strides=strides, dilations=dilations, begin=pads[:n], size=tuple(size))


def eye_like(c: Call) -> Array:
    """Ones on a diagonal: only the shape of its input counts."""
    shape = fixed(c, c.shape(c.operand(0)), (0, 1))
    x, dtype = c.operand(0), c.attribute("dtype", "i")
    kind = NUMPY[c.dtype(x)] if isinstance(x, str) else x.dtype
    if dtype is not None:
        support(dtype in DTYPES, f"its dtype is {dtype_name(dtype)}")
        kind = NUMPY[DTYPES[dtype]]
    c.expect(len(c.shape(x)) == 2, "its input must have two dimensions")
    c.spend(shape[0] * shape[1] * kind.itemsize)
    return np.eye(shape[0], shape[1], k=c.attribute("k", "i", 0)).astype(kind)


ROWS = {
    "Col2Im": Row(col2im, 3, 3),
    "Concat": Row(concat, 1, 1 << 16),
    "DepthToSpace": Row(depth_to_space, 1, 1),
    "Expand": Row(expand, 2, 2),
    "EyeLike": Row(eye_like, 1, 1),
    "Pad": Row(pad, 1, 4),
    "Shape": Row(shape_of, 1, 1),
    "Size": Row(shape_of, 1, 1),
    "Slice": Row(slices, 1, 5, counts=True),
    "SpaceToDepth": Row(space_to_depth, 1, 1),
    "Split": Row(split, 1, 2),
    "Squeeze": Row(squeeze, 1, 2, counts=True),
    "Tile": Row(tile, 2, 2),
    "Transpose": Row(transpose, 1, 1, counts=True),
    "Trilu": Row(trilu, 1, 2), "com.microsoft.Trilu": Row(trilu, 1, 2),
    "Unsqueeze": Row(unsqueeze, 1, 2, counts=True),
}
