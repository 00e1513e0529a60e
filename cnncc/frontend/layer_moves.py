"""Rows of layers that move elements: views, parts, joins, padding, other sizes and orders."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cnncc.frontend.files import expect
from cnncc.frontend.layers import (
    Axis,
    Count,
    Flag,
    Integer,
    Interpolation,
    Ints,
    Layer,
    Number,
    Order,
    Padding,
    Pads,
    Position,
    Sizes,
    row,
    show,
)
from cnncc.frontend.onnx_moves import MAX_TABLE
from cnncc.frontend.onnx_resize import Axis as Resized
from cnncc.frontend.onnx_resize import Mode, coordinates, nearest, taps
from cnncc.ir.signature import Array
from cnncc.ir.types import Extent, product


def _reshape(b: Layer, x: str, *, shape: Ints) -> str:
    """`shape` is what follows the batch; one extent may be -1, what is left."""
    batch, *old = b.shape(x)
    fixed, total = product([e for e in shape if e != -1]), product([int(e) for e in old])
    expect(all(e > 0 or e == -1 for e in shape) and shape.count(-1) <= 1 and total % fixed == 0
           and (-1 in shape or total == fixed), f"shape: can't reshape {show(old)} to {show(shape)}")
    return b.emit("reshape", x, shape=(batch, *(total // fixed if e == -1 else e for e in shape)))


def flatten(b: Layer, x: str) -> str:
    """To [batch, all else]."""
    expect(b.shape(x), "its input has no dimensions")
    return x if len(b.shape(x)) == 2 else _reshape(b, x, shape=(-1,))


def _transpose(b: Layer, x: str, *, perm: Ints) -> str:
    """Axis i of the result is axis perm[i] of the input."""
    shape = b.shape(x)
    expect(sorted(perm) == list(range(len(shape))), f"perm: {list(perm)} doesn't fit {show(shape)}")
    expect(all(isinstance(shape[p], int) for p in perm[1:]), "perm: the open batch stays the first axis")
    return b.emit("transpose", x, perm=tuple(perm))


def _concat(b: Layer, *values: str, axis: Axis = 1) -> str:
    return b.emit("concat", *values, axis=b.axis(values[0], axis)) if values[1:] else values[0]


def _part(b: Layer, x: str, axis: int, part: range) -> str:
    shape, begin, steps = list(b.shape(x)), [0] * len(b.shape(x)), [1] * len(b.shape(x))
    shape[axis], begin[axis], steps[axis] = len(part), part.start, part.step
    return b.emit("slice", x, begin=tuple(begin), steps=tuple(steps), shape=tuple(shape))


def _slice(b: Layer, x: str, *, axis: Axis = 1, begin: Integer = 0, end: Position = None,
           step: Count = 1) -> str:
    """The elements from `begin` to before `end`, counted from the far end where they are negative."""
    axis = b.axis(x, axis)
    size = int(b.shape(x)[axis])
    part = range(size)[begin:end:step]
    expect(part, f"begin, end: there is nothing from {begin} to {end} of {size}")
    return _part(b, x, axis, part)


def _split(b: Layer, x: str, *, parts: Count, index: Integer, axis: Axis = 1) -> str:
    """One of so many equal parts along an axis; `index` counts them from 0."""
    axis = b.axis(x, axis)
    size = int(b.shape(x)[axis])
    expect(size % parts == 0, f"parts: {parts} doesn't divide the {size} elements along axis {axis}")
    expect(0 <= index < parts, f"index: expected 0 to {parts - 1}, got {index}")
    return _part(b, x, axis, range(size)[index * (size // parts):][:size // parts])


def _take(b: Layer, x: str, places: Sequence[Array]) -> str:
    """The elements at given places along each spatial dimension."""
    tables = [b.const(f"index{i}", p.astype(np.int32)) for i, p in enumerate(places)]
    return b.emit("take", x, *tables, axes=tuple(range(2, 2 + len(tables))))


def _pad(b: Layer, x: str, *, begin: Pads = 0, end: Pads = None, mode: Padding = "constant",
         value: Number = 0.0) -> str:
    """More places along the spatial dimensions; without `end` as many as at their begin."""
    sizes = b.spatial(x)
    low, high = ((p,) * len(sizes) if isinstance(p, int) else tuple(p) for p in
                 (begin or 0, (begin or 0) if end is None else end))
    expect(len(low) == len(high) == len(sizes), f"begin, end: its input {show(b.shape(x))} has {len(sizes)} "
                                                "spatial dimensions")
    if mode == "constant":
        return b.emit("pad", x, begin=(0, 0, *low), end=(0, 0, *high), value=float(value))
    expect(mode == "edge" or all(max(pair) < e for *pair, e in zip(low, high, sizes, strict=True)),
           f"begin, end: a mirror of {show(sizes)} has fewer places")
    expect(all(i + e + j <= MAX_TABLE for i, j, e in zip(low, high, sizes, strict=True)),
           "begin, end: its result is too large")
    at = [np.arange(-i, e + j) for i, j, e in zip(low, high, sizes, strict=True)]
    return _take(b, x, [p.clip(0, e - 1) if mode == "edge" else e - 1 - np.abs(e - 1 - np.abs(p))
                        for p, e in zip(at, sizes, strict=True)])


def _upsample(b: Layer, x: str, *, factor: Sizes = None, size: Sizes = None,
              mode: Interpolation = "nearest", align_corners: Flag = False) -> str:
    """To `factor` times the size, or to `size`; bilinear is linear along each spatial dimension."""
    old = b.spatial(x)
    expect((factor is None) != (size is None), "needs one of the keys 'factor' and 'size'")
    given = factor if size is None else size
    numbers = (given,) * len(old) if isinstance(given, int) else tuple(given or ())
    expect(len(numbers) == len(old),
           f"{'factor' if size is None else 'size'} has {len(numbers)} numbers for {len(old)} dimensions")
    new = [e * f for e, f in zip(old, numbers, strict=True)] if size is None else list(numbers)
    expect(max(new) <= MAX_TABLE >> 2, f"its result, {show(new)}, is too large")
    axes = [Resized(e, to, to / e, (0.0, 1.0)) for e, to in zip(old, new, strict=True)]
    if mode == "nearest":
        how = Mode(b"nearest", b"asymmetric", b"floor", 0.0, False, False)
        return _take(b, x, [nearest(coordinates(a, how), a, how) for a in axes])
    how = Mode(b"linear", b"align_corners" if align_corners else b"half_pixel", b"", 0.0, False, False)
    for i, a in enumerate(axes):
        index, weights = taps(coordinates(a, how), a, how)
        x = b.emit("resample", x, b.const(f"index{i}", index.astype(np.int32)),
                   b.const(f"weights{i}", weights.astype(np.float32)), axis=2 + i)
    return x


def _turned(b: Layer, x: str, split: Sequence[Extent], perm: Sequence[int], shape: Sequence[Extent]) -> str:
    y = b.emit("transpose", b.emit("reshape", x, shape=tuple(split)), perm=tuple(perm))
    return b.emit("reshape", y, shape=tuple(shape))


def _depth_to_space(b: Layer, x: str, *, block: Count, order: Order = "DCR") -> str:
    """Blocks of channels as blocks of places; CRD has those of one channel side by side, as pixel shuffle."""
    size, (n, channels, *_) = b.spatial(x), b.shape(x)
    rank, many = len(size), block ** len(size)
    expect(int(channels) % many == 0, f"block: {many} doesn't divide the {channels} channels")
    inner, first = int(channels) // many, 1 + (order == "CRD")
    depth = [block] * rank
    depth.insert(0 if order == "CRD" else rank, inner)
    places = [p for i in range(rank) for p in (2 + rank + i, first + i)]
    return _turned(b, x, (n, *depth, *size), (0, 1 if order == "CRD" else 1 + rank, *places),
                   (n, inner, *(e * block for e in size)))


def _space_to_depth(b: Layer, x: str, *, block: Count, order: Order = "DCR") -> str:
    """Blocks of places as blocks of channels: what depth_to_space turns back."""
    size, (n, channels, *_) = b.spatial(x), b.shape(x)
    rank = len(size)
    expect(all(e % block == 0 for e in size), f"block: {block} doesn't divide the sizes {show(size)}")
    blocks, places = range(3, 3 + 2 * rank, 2), range(2, 2 + 2 * rank, 2)
    depth = (1, *blocks) if order == "CRD" else (*blocks, 1)
    return _turned(b, x, (n, channels, *(e for s in size for e in (s // block, block))),
                   (0, *depth, *places), (n, int(channels) * block ** rank, *(s // block for s in size)))


def _channel_shuffle(b: Layer, x: str, *, groups: Count) -> str:
    """The first channels of all groups, then the second ones, ..."""
    size, (n, channels, *_) = b.spatial(x), b.shape(x)
    expect(int(channels) % groups == 0, f"groups: {groups} doesn't divide the {channels} channels")
    return _turned(b, x, (n, groups, int(channels) // groups, *size), (0, 2, 1, *range(3, 3 + len(size))),
                   b.shape(x))


ROWS = (
    row("flatten", flatten),
    row("reshape", _reshape),
    row("transpose", _transpose),
    row("concat", _concat),
    row("slice", _slice),
    row("split", _split),
    row("pad", _pad),
    row("upsample", _upsample),
    row("depth_to_space", _depth_to_space),
    row("space_to_depth", _space_to_depth),
    row("channel_shuffle", _channel_shuffle),
)
