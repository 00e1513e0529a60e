"""Convolution by Winograd's algorithm: fewer multiplications for small windows, at some cost in rounding.

F(m, r) computes m results of a window of r by m + r - 1 products instead of m * r (A. Lavin, S. Gray: Fast
Algorithms for Convolutional Neural Networks, 2015). Per axis of an image, tiles are multiplied by a matrix;
then every point of the tiles is a matrix product over the channels, that is a convolution with one group per
point; then another matrix makes the results. All of that is made of ops, so it is fused as other ops are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import numpy as np

from cnncc.ir.constants import Array, Later, made
from cnncc.ir.graph import Node
from cnncc.ir.ops import OPS
from cnncc.ir.types import HINT
from cnncc.passes.fold import Rebuild

Matrix = tuple[tuple[float, ...], ...]

POINTS = (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))
"""Where the polynomials are evaluated, in this order; infinity comes last. More points round worse."""
WHOLE = 5                   # of these are whole numbers
WEIGHTS = 1 << 20           # transformed weights computed at a time, in double precision
TILES = 64                  # of an image from which on those of a point are long pieces of memory
PHASES = 12                 # results of a tile in all phases that are accumulated at a time


@dataclass(frozen=True, slots=True)
class Transform:
    """F(m, r): `weights` is G, `input` B transposed, `output` A transposed."""

    weights: Matrix
    input: Matrix
    output: Matrix


@functools.cache
def transform(m: int, r: int) -> Transform:
    """The matrices of F(m, r) by the Toom-Cook construction; all scaling of the points is in G.

    So the transforms of tiles have small numbers that are exact in float32. The points are those of `POINTS`
    up to number m + r - 2.
    """
    points = [Fraction(p) for p in POINTS[:m + r - 2]]
    def roots(without: Fraction | None) -> list[Fraction]:
        """The coefficients, lowest first, of the product of x - q over the other points q."""
        result = [Fraction(1)]
        for q in points:
            if q != without:
                shifted = [Fraction(0), *result]
                result = [x - q * y for x, y in zip(shifted, [*result, Fraction(0)], strict=True)]
        return result
    g = [[p ** k / prod(p - q for q in points if q != p) for k in range(r)] for p in points]
    g.append([Fraction(k == r - 1) for k in range(r)])
    b = [[*roots(p), Fraction(0)] for p in points] + [roots(None)]
    a = [[*(p ** i for p in points), Fraction(i == m - 1)] for i in range(m)]
    def matrix(rows: list[list[Fraction]]) -> Matrix:
        return tuple(tuple(int(x) if x.denominator == 1 else float(x) for x in row) for row in rows)
    return Transform(matrix(g), matrix(b), matrix(a))


def tiles(extent: int, m: int, dilation: int) -> int:
    """How many tiles of m results an axis has: as many for each phase of a dilated window."""
    return -(-extent // (m * dilation)) * dilation


def amid_zeros(b: Rebuild, n: Node, begin: Sequence[int], end: Sequence[int]) -> str:
    """The image that a node reads with zeros around it that are stored."""
    attrs = ("begin", (0, 0, *begin)), ("end", (0, 0, *end)), ("value", 0)
    pad = OPS["pad"].composed
    assert pad is not None
    return pad(b, replace(n, name=f"{n.name}.image", inputs=(b.name_of(n.inputs[0]),), attrs=attrs))


def in_tiles(b: Rebuild, n: Node, m: int, near: int) -> str:
    """The nodes of a convolution in tiles of m.

    Between the transforms of two axes the first one's points are axes of their own where there are more than
    `near` bytes: both transforms can then go over a part of the image at a time. Else, and where images have
    so few tiles that each point of such a part would be a short piece of memory, they are channels.

    A dilated axis has tiles of every d-th element, which are read whole: the image ends in stored zeros. What
    they give too much is cut off, or not stored, where accumulators for all phases fit into registers.
    """
    value, w = b.name_of(n.inputs[0]), b.constants.held(n.inputs[1])
    extents, ones = [int(e) for e in n.type.shape[2:]], (1,) * (len(w.shape) - 2)
    matrices = {i: transform(m, r) for i, r in enumerate(w.shape[2:]) if r > 1}
    begin, dilations = list(n.attr["begin"]), n.attr["dilations"]
    counts = {i: tiles(extents[i], m, dilations[i]) for i in matrices}
    dilated = {i: counts[i] * m for i in matrices if dilations[i] > 1}
    if dilated:
        more = [0] * len(ones)
        for i, extent in dilated.items():
            reach = extent + (w.shape[2 + i] - 1) * dilations[i]
            more[i] = max(0, reach - begin[i] - int(b.type(value).shape[2 + i]))
        value = amid_zeros(b, n, [begin[i] if i in dilated else 0 for i in range(len(ones))], more)
        begin = [0 if i in dilated else e for i, e in enumerate(begin)]
    points = {i: len(t.input) for i, t in matrices.items()}
    batch = HINT if isinstance(n.type.shape[0], str) else n.type.shape[0]
    between = prod((batch, *extents)) * len(matrices[max(matrices)].input) / m * w.dtype.itemsize
    def step(op: str, name: str, i: int, matrix: Matrix, extent: int, channels: int) -> str:
        apart = channels * between > near and prod(counts.values()) >= TILES
        return b.op(op, [value], name, n.origin, axis=i, matrix=matrix, tile=m, extent=extent,
                    dilation=dilations[i], count=counts[i] // dilations[i], begin=begin[i],
                    points=tuple(points[j] for j in reversed(points) if apart and j < i),
                    apart=apart and i < max(points))
    for i, t in matrices.items():
        value = step("input_transform", f"{n.name}.tiles{i}", i, t.input, counts[i],
                     w.shape[1] * n.attr["group"])
    # a group for each point, the last axis' outermost
    g = functools.reduce(np.kron, [np.asarray(t.weights) for t in reversed(matrices.values())])
    shape = len(g) * w.shape[0], w.shape[1], *ones
    later = Later(shape, w.dtype, functools.partial(_points, w, g, shape))
    weights = b.const(f"{n.name}.weights", later)
    value = b.op("conv", [value, weights], f"{n.name}.points", n.origin, strides=ones, dilations=ones,
                 begin=(0,) * len(ones), end=(0,) * len(ones), group=len(g) * n.attr["group"])
    for i, t in reversed(matrices.items()):
        whole = i in dilated and m * dilations[i] > PHASES
        value = step("output_transform", f"{n.name}.results{i}", i, t.output,
                     dilated[i] if whole else extents[i], w.shape[0])
    if b.type(value) != n.type:
        rank = n.type.rank
        value = b.op("slice", [value], f"{n.name}.results", n.origin, begin=(0,) * rank, steps=(1,) * rank,
                     shape=n.type.shape)
    return value


def _points(weights: Array | Later, g: Array, shape: tuple[int, ...]) -> Array:
    """The weights of a convolution of all points, transformed in double precision."""
    w = made(weights)
    u = np.empty((len(g), *w.shape[:2]), w.dtype)
    rows = max(1, WEIGHTS // (len(g) * w.shape[1]))
    for part, result in ((w[at:at + rows], u[:, at:at + rows]) for at in range(0, len(w), rows)):
        taps = part.transpose(0, *reversed(range(2, w.ndim)), 1).reshape(len(part), g.shape[1], -1)
        result[:] = (g @ taps.astype(np.float64)).swapaxes(0, 1)    # small products, one after the other
    return u.reshape(shape)
