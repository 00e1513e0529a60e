"""Importer rows for Resize and Upsample: every mode is a table of places, and of weights, per axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.polynomial import Polynomial

from cnncc.frontend.onnx_moves import MAX_TABLE, pick
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_shapes import extents
from cnncc.ir.signature import Array
from cnncc.ir.types import NUMPY

MODES = (b"nearest", b"linear", b"bilinear", b"trilinear", b"cubic")
NEAREST = (b"round_prefer_floor", b"round_prefer_ceil", b"floor", b"ceil", b"simple")
COORDINATES = (b"half_pixel", b"pytorch_half_pixel", b"half_pixel_symmetric", b"align_corners", b"asymmetric",
               b"tf_half_pixel_for_nn", b"tf_crop_and_resize")
F32 = np.float32
BATCH = "it resizes the batch, whose size is open"


class Axis(NamedTuple):
    """One axis before and after; `roi` is the part of it that is looked at."""

    old: int
    new: int
    scale: float
    roi: tuple[float, float]


class Mode(NamedTuple):
    kind: bytes
    coordinates: bytes
    nearest: bytes
    cubic: float
    exclude: bool
    antialias: bool


def keys(a: float) -> tuple[Polynomial, Polynomial]:
    """The weight of an element by its distance, up to 1 and up to 2 (Keys, 1981, Cubic convolution)."""
    return Polynomial([1, 0, -(a + 3), a + 2]), Polynomial([-4 * a, 8 * a, -5 * a, a])


def resize(c: Call) -> str:
    x = c.value(0)
    axes = _scaled(c, x) if _old(c) else _sized(c, x)
    mode = _mode(c)
    places: dict[int, Array] = {}
    weights: dict[int, Array] = {}
    outside: dict[int, Array] = {}
    for i, axis in axes.items():
        support(axis.new <= MAX_TABLE, f"an axis of {axis.new:,} elements is too large")
        at = coordinates(axis, mode)
        if mode.coordinates == b"tf_crop_and_resize" and (beyond := (at < 0) | (at > axis.old - 1)).any():
            outside[i] = beyond.reshape(-1, *(1,) * (len(c.shape(x)) - 1 - i))
        if mode.kind == b"nearest":
            places[i] = nearest(at, axis, mode)
        else:
            places[i], weights[i] = taps(at, axis, mode)
    own = c.named(f"{c.out}.inside") if outside else c
    y = pick(own, x, places) if mode.kind == b"nearest" else _blended(own, x, axes, places, weights)
    for i, beyond in outside.items():
        value = np.array(c.attribute("extrapolation_value", "f", 0.0), NUMPY[c.dtype(x)])
        y = c.emit("where", [c.const(beyond, "outside"), c.const(value, "value"), y],
                   "" if i == max(outside) else "known")
    return y


def _blended(c: Call, x: str, axes: dict[int, Axis], places: dict[int, Array],
             weights: dict[int, Array]) -> str:
    """One axis after the other, sums of the elements at some places with weights."""
    axes = {i: axis for i, axis in axes.items()
            if axis.new != axis.old or (weights[i][:, 0] != 1).any()}
    for i in axes:
        operands = [x, c.const(places[i].astype(np.int32), f"index{i}"),
                    c.const(weights[i].astype(F32), f"weights{i}")]
        x = c.emit("resample", operands, "" if i == list(axes)[-1] else f"axis{i}", axis=i)
    return x


def _old(c: Call) -> bool:
    return c.node.op_type == "Upsample" or c.opset < 11


def _scaled(c: Call, x: str) -> dict[int, Axis]:
    """The axes of the old forms, which know scales only."""
    shape = c.shape(x)
    if c.opset < 9:
        scales = [float(s) for s in c.attribute("scales", "floats", ())]
    else:
        scales = c.needed(1, "scales").reshape(-1).tolist()
    return _axes(c, shape, list(range(len(shape))), scales, [])


def _sized(c: Call, x: str) -> dict[int, Axis]:
    shape = c.shape(x)
    given = list(c.attribute("axes", "ints", ())) or list(range(len(shape)))
    axes = [c.axis(a, len(shape)) for a in given]
    scales = c.needed(2, "scales").reshape(-1).tolist() if c.has(2) else []
    sizes: list[int | str] = []
    if c.has(3) and not scales:
        sizes = extents(c, 3, "sizes", shape)
        policy = c.attribute("keep_aspect_ratio_policy", "s", b"stretch")
        if policy != b"stretch":
            c.expect(policy in (b"not_larger", b"not_smaller"), f"the policy is {policy[:60]!r}")
            support(all(isinstance(e, int) for e in (*sizes, *(shape[a] for a in axes))), BATCH)
            both = [int(s) / int(shape[a]) for a, s in zip(axes, sizes, strict=False)]
            scale = min(both) if policy == b"not_larger" else max(both)
            rounded = [math.floor(scale * int(shape[a]) + 0.5) for a in axes]
            return _axes(c, shape, axes, [scale] * len(axes), rounded)
    return _axes(c, shape, axes, scales, sizes)


def _axes(c: Call, shape: Sequence[int | str], axes: Sequence[int], scales: Sequence[float],
          sizes: Sequence[int | str]) -> dict[int, Axis]:
    """The axes that change, or may move, in order."""
    c.expect(len(set(axes)) == len(axes) == len(sizes or scales),
             f"it has {len(scales)} scales and {len(sizes)} sizes for {len(axes)} axes")
    crop = c.attribute("coordinate_transformation_mode", "s", b"") == b"tf_crop_and_resize"
    roi = c.needed(1, "roi").reshape(-1).tolist() if crop and c.has(1) else []
    c.expect(not crop or len(roi) == 2 * len(axes), f"it has {len(roi)} numbers of roi for {len(axes)} axes")
    result: dict[int, Axis] = {}
    for i, a in enumerate(axes):
        old = shape[a]
        if isinstance(old, str):
            support((sizes[i] == old) if sizes else scales[i] == 1, BATCH)
            continue
        scale = float(F32(scales[i] if scales else int(sizes[i]) / old))
        c.expect(0 < scale <= MAX_TABLE, f"it scales by {scale}")
        new = int(sizes[i]) if sizes else math.floor(old * scale)
        c.expect(new > 0, "its result would be empty")
        part = (roi[i], roi[i + len(axes)]) if roi else (0.0, 1.0)
        if new != old or part != (0, 1) or scale != 1:
            result[a] = Axis(old, new, scale, part)
    return dict(sorted(result.items()))


def _mode(c: Call) -> Mode:
    kind = c.attribute("mode", "s", b"nearest")
    old = _old(c)
    coordinates = b"asymmetric" if old else c.attribute("coordinate_transformation_mode", "s", b"half_pixel")
    nearest = b"simple" if old else c.attribute("nearest_mode", "s", b"round_prefer_floor")
    c.expect(coordinates in COORDINATES, f"coordinate_transformation_mode is {coordinates[:60]!r}")
    c.expect(kind in MODES, f"mode is {kind[:60]!r}")
    c.expect(nearest in NEAREST, f"nearest_mode is {nearest[:60]!r}")
    return Mode(kind, coordinates, nearest, c.attribute("cubic_coeff_a", "f", -0.75),
                c.flag("exclude_outside"), c.flag("antialias"))


def coordinates(axis: Axis, mode: Mode) -> Array:
    """Where the elements of the result lie in the operand, in float32 as other engines compute it."""
    at, scale, old, new = np.arange(axis.new, dtype=F32), F32(axis.scale), axis.old, axis.new
    half = F32(0.5)
    match mode.coordinates:
        case b"half_pixel":
            return np.asarray((at + half) / scale - half)
        case b"pytorch_half_pixel":
            return np.asarray((at + half) / scale - half) if new > 1 else at * 0
        case b"half_pixel_symmetric":
            offset = F32(old / 2 * (1 - new / (axis.scale * old)))
            return np.asarray(offset + (at + half) / scale - half)
        case b"align_corners":
            return np.asarray(at * F32(old - 1) / F32(max(1, new - 1)))
        case b"asymmetric":
            return np.asarray(at / scale)
        case b"tf_half_pixel_for_nn":
            return np.asarray((at + half) / scale)
        case b"tf_crop_and_resize":
            first, last = axis.roi
            step = (last - first) * (old - 1) / max(1, new - 1)
            at = first * (old - 1) + at * step if new > 1 else at * 0 + 0.5 * (first + last) * (old - 1)
            return np.asarray(at, F32)
    raise AssertionError(mode)


def nearest(at: Array, axis: Axis, mode: Mode) -> Array:
    how = mode.nearest
    if how == b"simple":
        how = b"ceil" if axis.scale < 1 else b"floor"
    half = F32(0.5) if how.startswith(b"round") else F32(0)
    rounded = np.ceil(at - half) if how in (b"round_prefer_floor", b"ceil") else np.floor(at + half)
    return np.asarray(rounded.clip(0, axis.old - 1).astype(np.int64))


def taps(at: Array, axis: Axis, mode: Mode) -> tuple[Array, Array]:
    """For each element of the result the places that count, and their weights (float64)."""
    shrink = min(1.0, axis.scale) if mode.antialias else 1.0
    reach = (2 if mode.kind == b"cubic" else 1) / shrink
    support(at.size * (2 * reach + 1) <= MAX_TABLE, f"{reach:,.0f} places on each side are too many")
    low = np.floor(at).astype(np.int64)
    taps = np.arange(math.floor(-reach) + 1, math.ceil(reach) + 1)
    places = low[:, None] + taps
    apart = np.abs((places - at.astype(np.float64)[:, None]) * shrink)
    if mode.kind == b"cubic":
        near, far = keys(mode.cubic)
        weights = np.where(apart <= 1, near(apart), np.where(apart < 2, far(apart), 0))
    else:
        weights = (1 - apart).clip(0)
    if mode.exclude:
        weights = np.where((places >= 0) & (places < axis.old), weights, 0)
    if mode.exclude or mode.antialias:
        weights = weights / weights.sum(1, keepdims=True)
    return places.clip(0, axis.old - 1), weights


IGNORED = ("extrapolation_value", "nearest_mode", "cubic_coeff_a", "exclude_outside",
           "keep_aspect_ratio_policy")      # by other modes
ROWS = {"Resize": Row(resize, 1, 4, IGNORED), "Upsample": Row(resize, 1, 2)}
