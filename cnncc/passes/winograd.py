"""Convolution by Winograd's algorithm: fewer multiplications for small windows, at some cost in rounding.

F(m, r) computes m results of a window of r by m + r - 1 products instead of m * r (A. Lavin, S. Gray: Fast
Algorithms for Convolutional Neural Networks, 2015). Per axis of an image, tiles are multiplied by a matrix;
then every point of the tiles is a matrix product over the channels, that is a convolution with one group per
point; then another matrix makes the results. All of that is made of ops, so it is fused as other ops are.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from fractions import Fraction
from math import prod

import numpy as np

from cnncc.ir.graph import Node
from cnncc.passes.fold import Rebuild

Matrix = tuple[tuple[float, ...], ...]

POINTS = (0, 1, -1, 2, -2)
"""Where the polynomials are evaluated, in this order; infinity comes last. More points round worse."""


@dataclass(frozen=True, slots=True)
class Transform:
    """F(m, r): `weights` is G, `input` B transposed, `output` A transposed."""

    weights: Matrix
    input: Matrix
    output: Matrix


@functools.cache
def transform(m: int, r: int) -> Transform:
    """The matrices of F(m, r) by the Toom-Cook construction; all scaling of the points is in G.

    So the transforms of tiles have small whole numbers. The points are the first m + r - 2 of `POINTS`.
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


def in_tiles(b: Rebuild, n: Node, m: int) -> str:
    """The nodes of a convolution in tiles of m."""
    value, w = b.name_of(n.inputs[0]), b.constants[n.inputs[1]]
    extents, ones = [int(e) for e in n.type.shape[2:]], (1,) * (w.ndim - 2)
    matrices = {i: transform(m, r) for i, r in enumerate(w.shape[2:]) if r > 1}
    def step(op: str, name: str, i: int, matrix: Matrix, extent: int) -> str:
        return b.op(op, [value], name, n.origin, axis=i, matrix=matrix, tile=m, count=-(-extents[i] // m),
                    extent=extent, begin=n.attr["begin"][i])
    for i, t in matrices.items():
        value = step("input_transform", f"{n.name}.tiles{i}", i, t.input, -(-extents[i] // m))
    # a group for each point, the last axis' outermost
    g = functools.reduce(np.kron, [np.asarray(t.weights) for t in reversed(matrices.values())])
    u = g @ w.transpose(*reversed(range(2, w.ndim)), 0, 1).reshape(g.shape[1], -1).astype(np.float64)
    weights = b.const(f"{n.name}.weights", u.astype(w.dtype).reshape(-1, w.shape[1], *ones))
    value = b.op("conv", [value, weights], f"{n.name}.points", n.origin, strides=ones, dilations=ones,
                 begin=(0,) * len(ones), end=(0,) * len(ones), group=len(g) * n.attr["group"])
    for i, t in reversed(matrices.items()):
        value = step("output_transform", f"{n.name}.results{i}", i, t.output, extents[i])
    return value
