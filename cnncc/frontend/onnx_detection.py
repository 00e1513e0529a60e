"""Importer rows for samples between the elements of images: grids, regions, deformed windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial

from cnncc.frontend.onnx_conv import channel_bias, window
from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_indexing import places
from cnncc.frontend.onnx_moves import MAX_TABLE, cut, fixed, reshaped
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_resize import keys
from cnncc.ir.signature import Array
from cnncc.ir.types import product

T, (NEAR, FAR) = Polynomial([0, 1]), keys(-0.75)
TAPS: dict[bytes, tuple[int, Sequence[Polynomial]]] = {
    b"nearest": (0, [Polynomial([1])]),
    b"linear": (0, [1 - T, T]),
    b"cubic": (-1, [FAR(1 + T), NEAR(T), NEAR(1 - T), FAR(2 - T)])}
"""The first tap beside the floor of a coordinate, and the taps' weights by how far it is beyond that."""


def _number(c: Call, x: str, op: str, array: Array | float, step: str) -> str:
    """An op of x and a constant in float32."""
    return c.emit(op, [x, c.const(np.asarray(array, np.float32), f"{step}.number")], step)


def grid_sample(c: Call) -> str:
    x, grid, size = c.value(0), c.value(1), c.spatial(c.value(0))
    mode = c.attribute("mode", "s", b"linear")
    mode = {b"bilinear": b"linear", b"bicubic": b"cubic"}.get(mode, mode)
    align, outside = c.flag("align_corners"), c.attribute("padding_mode", "s", b"zeros")
    c.expect(mode in TAPS and outside in (b"zeros", b"border", b"reflection"),
             f"mode is {mode[:60]!r}, padding_mode {outside[:60]!r}")
    rank, shape = len(size), c.shape(grid)
    c.expect(len(shape) == rank + 2 and shape[-1] == rank and shape[0] == c.shape(x)[0],
             f"a grid of {list(shape)} doesn't fit images of {list(c.shape(x))}")
    grid = cut(c, grid, {rank + 1: range(rank - 1, -1, -1)}, "reversed")    # the last axis came first
    grid = c.emit("reshape", [grid], "column", shape=(*shape, 1))
    sizes = np.array(size, np.float32)[:, None]
    at = _affine(c, grid, (sizes - 1) / 2 if align else sizes / 2, (sizes - 1) / 2, "at")
    index, weights = _taps(c, at, mode)
    index, weights = _settled(c, index, weights, np.array(size, np.int64)[:, None], align, outside)
    return c.emit("sample", [x, index, weights], fold="+=")


def _affine(c: Call, x: str, factor: Array, term: Array, step: str) -> str:
    return _number(c, _number(c, x, "mul", factor, f"{step}.scaled"), "add", term, step)


def _taps(c: Call, at: str, mode: bytes) -> tuple[str, str]:
    """The places of the taps around coordinates [.., 1], as int64, and their weights: [.., taps]."""
    first, taps = TAPS[mode]
    base = c.emit("round" if mode == b"nearest" else "floor", [at], "floor")
    numbers = c.const(np.arange(first, first + len(taps)), "taps")
    index = c.emit("add", [c.emit("cast", [base], "whole", to="i64"), numbers], "index")
    t = c.emit("sub", [at, base], "t")
    *lower, highest = np.array([tap.coef for tap in taps], np.float32).T
    if not lower:
        return index, c.emit("expand", [c.const(highest, "power")], "weight", shape=(*c.shape(at)[:-1], 1))
    weights = _number(c, t, "mul", highest, "weight")
    for i, power in enumerate(lower[::-1]):
        weights = c.emit("mul", [weights, t], "weight") if i else weights
        weights = _number(c, weights, "add", power, "weight")
    return index, weights


def _settled(c: Call, index: str, weights: str, size: Array, align: bool, outside: bytes) -> tuple[str, str]:
    """Places within images of `size`, with weights: what is outside counts nothing, is cut or mirrored."""
    zero, last = c.const(size * 0, "zero"), c.const(size - 1, "last")
    if outside == b"border":
        return c.emit("clip_to", [index, zero, last], "inside"), weights
    if outside == b"zeros":
        ok = c.emit("and", [c.emit("ge", [index, zero], "above"), c.emit("le", [index, last], "below")], "ok")
        none = c.const(np.zeros(1, np.float32), "none")
        return index, c.emit("where", [ok, weights, none], "known")
    period = np.maximum(2 * size - 2 * align, 1)
    turn = c.emit("mod", [index, c.const(period, "period")], "turn")
    back = c.emit("sub", [c.const(np.maximum(period - 1 + align, 0), "turned"), turn], "back")
    return c.emit("where", [c.emit("le", [turn, last], "ahead"), turn, back], "inside"), weights


class _Bins(NamedTuple):
    """The grid over regions along one axis of `size` elements: `bins`, of which each has `ratio` samples
    (0: one per element, at most `most`); `half`: elements have their centres at halves, else regions are at
    least one element long. Of a mean, samples that aren't there count nothing.
    """

    size: int
    bins: int
    most: int
    ratio: int
    half: bool
    mean: bool


def _samples(c: Call, b: _Bins, corners: tuple[str, str], step: str) -> tuple[str, str, str]:
    """Where the samples between corners [R, 1, 1] are, [R, bins, samples], and whether they count: those do
    that are beyond the outermost elements by one at most; and how many a bin has.
    """
    first, last = corners
    whole = c.emit("sub", [last, first], f"{step}.size")
    whole = whole if b.half else _number(c, whole, "max", 1, f"{step}.least")
    apart = _number(c, whole, "mul", 1 / b.bins, f"{step}.bin")
    if b.ratio:
        many = c.const(np.full((1, 1, 1), b.ratio, np.float32), f"{step}.samples")
    else:
        many = c.emit("ceil", [apart], f"{step}.samples")
        beyond = c.emit("cast", [_number(c, many, "gt", b.most, f"{step}.many")], f"{step}.many", to="i64")
        c.scope.fails(c.emit("reduce_max", [beyond], f"{step}.beyond", axes=(0, 1, 2), keepdims=False),
                      f"{c.label}: a region is larger than the image")
    number = c.const(np.arange(b.most, dtype=np.float32), f"{step}.number")
    own = c.emit("min", [number, _number(c, many, "sub", 1, f"{step}.last")], f"{step}.sample")
    part = c.emit("div", [_number(c, own, "add", 0.5, f"{step}.middle"), many], f"{step}.part")
    place = _number(c, part, "add", np.arange(b.bins)[:, None], f"{step}.place")
    at = c.emit("add", [c.emit("mul", [place, apart], f"{step}.far"), first], f"{step}.at")
    ok = c.emit("and", [_number(c, at, "ge", -1, f"{step}.above"),
                        _number(c, at, "le", b.size, f"{step}.below")], f"{step}.ok")
    if b.mean:
        ok = c.emit("and", [ok, c.emit("lt", [number, many], f"{step}.counts")], f"{step}.known")
    return at, ok, many


def _span(c: Call, b: _Bins, corners: tuple[str, str], step: str) -> tuple[str, str, str]:
    """Along one axis the taps of all bins, two for each sample: places and weights [R, bins, taps]; and the
    number of samples of a bin.
    """
    at, ok, many = _samples(c, b, corners, step)
    at = c.emit("clip", [at], f"{step}.inside", low=0.0, high=float(b.size - 1))
    low = c.emit("floor", [at], f"{step}.low")
    t = c.emit("sub", [at, low], f"{step}.t")
    high = _number(c, _number(c, low, "add", 1, f"{step}.next"), "min", b.size - 1, f"{step}.high")
    none = c.const(np.zeros((), np.float32), f"{step}.none")
    weights = [c.emit("where", [ok, w, none], f"{step}.weight") for w in
               (c.emit("affine", [t], f"{step}.near", alpha=-1.0, beta=1.0), t)]

    def taps(parts: Sequence[str], name: str) -> str:
        shape = c.shape(at)
        views = [c.emit("reshape", [p], name, shape=(*shape, 1)) for p in parts]
        both = c.emit("concat", views, name, axis=3)
        return c.emit("reshape", [both], name, shape=(*shape[:2], 2 * b.most))
    return c.emit("cast", [taps((low, high), f"{step}.places")], f"{step}.places", to="i64"), \
        taps(weights, f"{step}.weights"), many


def roi_align(c: Call) -> str:
    """Of regions the mean, or the maximum, of samples in each bin of a grid.

    As in ONNX Runtime the maximum is that of weighted elements.
    """
    x, rois, spatial = of(c, c.value(0), ("f32",)), of(c, c.value(1), ("f32",)), c.spatial(c.value(0))
    mode, ratio = c.attribute("mode", "s", b"avg"), c.attribute("sampling_ratio", "i", 0)
    sizes = [c.attribute(f"output_{name}", "i", 1) for name in ("height", "width")]
    scale = c.attribute("spatial_scale", "f", 1.0)
    how = c.attribute("coordinate_transformation_mode", "s", b"half_pixel") if c.opset >= 16 else \
        b"output_half_pixel"
    c.expect(mode in (b"avg", b"max") and how in (b"half_pixel", b"output_half_pixel") and ratio >= 0
             and all(0 < s <= MAX_TABLE for s in sizes),
             f"mode is {mode[:60]!r} ({how[:60]!r}), the output {sizes}, sampling_ratio {ratio}")
    c.expect(len(c.shape(rois)) == 2, f"regions of shape {list(c.shape(rois))}, expected [regions, 4]")
    count, = fixed(c, c.shape(rois), (0,))
    images, = fixed(c, c.shape(x), (0,))
    c.expect(len(spatial) == 2 and c.shape(rois) == (count, 4) and c.shape(c.operand(2)) == (count,),
             f"regions of shape {list(c.shape(rois))} of images {list(c.shape(c.operand(2)))} don't fit "
             f"{list(c.shape(x))}")
    batch = places(c, 2, [images])
    half, mean = how == b"half_pixel", mode == b"avg"
    ends = c.emit("affine", [rois], "scaled", alpha=scale, beta=-0.5 if half else 0.0)
    most = ratio or max(math.ceil((e + 2) / s) for e, s in zip(spatial, sizes, strict=True))
    support(count * product(sizes) * most <= MAX_TABLE, "it takes too many samples")
    axes = []
    for a, (size, own, step) in enumerate(zip(spatial, sizes, "yx", strict=True)):
        low, high = (c.emit("reshape", [cut(c, ends, {1: range(i, i + 1)}, f"{step}.end")], f"{step}.end",
                            shape=(count, 1, 1)) for i in (1 - a, 3 - a))
        axes.append(_span(c, _Bins(size, own, most, ratio, half, mean), (low, high), step))

    def grid(parts: Sequence[str], name: str) -> str:
        """What is known along each axis, for every bin: [R, height, width, axis, taps]."""
        rows = []
        for a, p in enumerate(parts):
            shape = [count, 1, 1, 1, 2 * most]
            shape[1 + a] = sizes[a]
            rows.append(c.emit("expand", [c.emit("reshape", [p], name, shape=tuple(shape))], name,
                               shape=(count, *sizes, 1, 2 * most)))
        return c.emit("concat", rows, name, axis=3)
    index, weights = (grid([axis[i] for axis in axes], name) for i, name in enumerate(("places", "weights")))
    y = c.emit("sample", [x, index, weights, batch], "sum" if mean else "", fold="+=" if mean else "max=")
    if not mean:
        return y
    samples = [c.emit("reshape", [axis[2]], "samples", shape=(*c.shape(axis[2]), 1)) for axis in axes]
    total = _number(c, c.emit("mul", samples, "total"), "max", 1, "total")
    return c.emit("div", [y, total])


def deform_conv(c: Call) -> str:
    """A convolution of what is sampled around each place: a column of taps for each, then their products."""
    x, w, moves = of(c, c.value(0), ("f32",)), c.value(1), c.value(2)
    shape, weight, spatial = c.shape(x), fixed(c, c.shape(w), range(len(c.shape(w)))), c.spatial(x)
    rank, group, parts = len(spatial), c.attribute("group", "i", 1), c.attribute("offset_group", "i", 1)
    c.expect(len(weight) == rank + 2 and group > 0 and parts > 0 and weight[0] % group == 0
             and shape[1] == weight[1] * group and int(shape[1]) % parts == 0,
             f"its weight of shape {weight} doesn't fit {list(shape)}, group={group}, offset_group={parts}")
    axes, _ = window(c, x, tuple(weight[2:]))
    taps, out = product(weight[2:]), tuple(a.out for a in axes)
    support(parts == 1 or isinstance(shape[0], int), "its batch is open, and it has several offset groups")
    c.expect(c.shape(moves) == (shape[0], parts * taps * rank, *out),
             f"offsets of shape {list(c.shape(moves))}, expected {[shape[0], parts * taps * rank, *out]}")
    many = shape[0] if parts == 1 else int(shape[0]) * parts
    ways = tuple(range(3, 3 + rank))
    moves = c.emit("reshape", [moves], "offsets", shape=(many, taps, rank, *out))
    moves = c.emit("transpose", [moves], "offsets", perm=(0, 1, *ways, 2))
    steps = np.stack(np.meshgrid(*(np.arange(a.kernel) * a.dilation - a.begin for a in axes),
                                 indexing="ij"), -1).reshape(taps, *(1,) * rank, rank)
    starts = np.stack(np.meshgrid(*(np.arange(a.out) * a.stride for a in axes), indexing="ij"), -1)
    c.spend(4 * taps * product(out) * rank)
    at = c.emit("reshape", [_number(c, moves, "add", steps + starts, "at")], "at",
                shape=(many, taps, *out, rank, 1))
    index, weights = _taps(c, at, b"linear")
    size = np.array(spatial, np.int64)[:, None]
    index, weights = _settled(c, index, weights, size, False, b"zeros")
    images = reshaped(c, x, (many, int(shape[1]) // parts, *spatial), "images")
    columns = c.emit("sample", [images, index, weights], "columns", fold="+=")
    if c.has(4):
        mask = c.value(4)
        c.expect(c.shape(mask) == (shape[0], parts * taps, *out),
                 f"a mask of shape {list(c.shape(mask))}, expected {[shape[0], parts * taps, *out]}")
        mask = c.emit("reshape", [mask], "mask", shape=(many, 1, taps, *out))
        columns = c.emit("mul", [columns, mask], "masked")
    columns = c.emit("reshape", [columns], "rows", shape=(*shape[:2], taps, product(out)))
    w = c.emit("reshape", [w], "kernel", shape=(*weight[:2], taps, 1))
    y = c.emit("conv", [columns, w], "product", group=group, strides=(1, 1), dilations=(1, 1), begin=(0, 0),
               end=(0, 0))
    bias = channel_bias(c, 3, weight[0], rank + 2)
    y = c.emit("reshape", [y], "view" if bias else "", shape=(shape[0], weight[0], *out))
    return c.emit("add", [y, bias]) if bias else y


ROWS = {
    "DeformConv": Row(deform_conv, 3, 5),
    "GridSample": Row(grid_sample, 2, 2),
    "RoiAlign": Row(roi_align, 3, 3),
}
