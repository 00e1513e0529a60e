"""Convolution by Winograd's algorithm: fewer multiplications for small windows, at some cost in rounding.

F(m, r) computes m results of a window of r by m + r - 1 products instead of m * r (A. Lavin, S. Gray: Fast
Algorithms for Convolutional Neural Networks, 2015). Per axis of an image, tiles are multiplied by a matrix;
then every point of the tiles is a matrix product over the channels, that is a convolution with one group per
point; then another matrix makes the results. All of that is made of ops, so it is fused as other ops are.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod

import numpy as np

from cnncc.ir.graph import Graph, Node
from cnncc.ir.target import Target
from cnncc.ir.types import BYTES, HINT
from cnncc.passes.fold import Rebuild

Matrix = tuple[tuple[float, ...], ...]

POINTS = (0, 1, -1, 2, -2)
"""Where the polynomials are evaluated, in this order; infinity comes last. More points round worse."""
SIZES = (2, 4)              # of tiles
TRANSFORM = 6.0             # cycles that a vector of a point costs in the transforms
KERNELS = 10_000            # cycles that the transforms cost as kernels of their own
GAIN = 0.9                  # the part of the direct way's cost that is worth rounding worse


@dataclass(frozen=True, slots=True)
class Transform:
    """F(m, r): `weights` is G, `input` B transposed, `output` A transposed."""

    weights: Matrix
    input: Matrix
    output: Matrix


@cache
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


def choose_algorithms(graph: Graph, target: Target) -> Graph:
    """Convolutions with small windows go by Winograd's algorithm where the model says that it is faster."""
    if target.strict:
        return graph
    b = Rebuild(graph)
    for n in graph:
        costs = tile_sizes(n, graph, target)
        best = min(costs, key=lambda m: costs[m], default=1)
        if best > 1 and costs[best] < GAIN * costs[1]:
            b.renamed[n.name] = _rewritten(b, n, best)
        else:
            b.copy(n)
    return b.finish()


def tile_sizes(n: Node, graph: Graph, target: Target) -> dict[int, float]:
    """Predicted cycles of a convolution by the size m of its tiles, 1: as it is; empty for other nodes."""
    if n.op != "conv" or graph[n.inputs[1]].op != "const":
        return {}
    outer, inner, *windows = (int(e) for e in graph[n.inputs[1]].type.shape)
    whole = inner % target.lanes == outer // n.attr["group"] % target.lanes == 0
    batch, channels = (HINT if isinstance(e, str) else e for e in graph[n.inputs[0]].type.shape[:2])
    result = {}
    for m in (1, *(m for m in SIZES if whole and _fits(n, windows, m))):
        tiles, points = batch, 1
        for extent, r in zip(n.type.shape[2:], windows, strict=True):
            size = m if r > 1 else 1
            tiles, points = tiles * -(-int(extent) // size), points * (size + r - 1)
        products = tiles * points * inner * outer / (target.lanes * target.fmas)
        moved = tiles * points * (channels + outer) / target.lanes
        result[m] = products + points * inner * outer * BYTES["f32"] / target.memory_bytes \
            + (moved * TRANSFORM + KERNELS if m > 1 else 0)
    return result


def _fits(n: Node, windows: list[int], m: int) -> bool:
    a = n.attr
    return {*a["strides"], *a["dilations"]} == {1} and max(windows) > 1 \
        and all(m + r - 2 <= len(POINTS) if r > 1 else a["begin"][i] == a["end"][i] == 0
                for i, r in enumerate(windows))


def _rewritten(b: Rebuild, n: Node, m: int) -> str:
    """The nodes of a convolution in tiles of m."""
    value, u = b.name_of(n.inputs[0]), b.constants[n.inputs[1]].astype(np.float64)
    extents, ones = [int(e) for e in n.type.shape[2:]], (1,) * (u.ndim - 2)
    matrices = {i: transform(m, r) for i, r in enumerate(u.shape[2:]) if r > 1}
    def step(op: str, name: str, i: int, matrix: Matrix, extent: int) -> str:
        return b.op(op, [value], name, n.origin, axis=i, matrix=matrix, tile=m, count=-(-extents[i] // m),
                    extent=extent, begin=n.attr["begin"][i])
    for i, t in matrices.items():
        value = step("input_transform", f"{n.name}.tiles{i}", i, t.input, -(-extents[i] // m))
        u = np.tensordot(t.weights, u, (1, 2 + i))          # points come to the front, the last axis' first
    points = prod(u.shape[:len(matrices)])
    u = u.reshape(points * u.shape[len(matrices)], -1, *ones)
    weights = b.const(f"{n.name}.weights", u.astype(b.type(n.inputs[1]).numpy))
    value = b.op("conv", [value, weights], f"{n.name}.points", n.origin, strides=ones, dilations=ones,
                 begin=(0,) * len(ones), end=(0,) * len(ones), group=points * n.attr["group"])
    for i, t in reversed(matrices.items()):
        value = step("output_transform", f"{n.name}.results{i}", i, t.output, extents[i])
    return value
