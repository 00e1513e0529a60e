"""Which algorithm computes a convolution: Winograd's, plain sums, or those of compact pixels or channels."""

from __future__ import annotations

from math import prod

import numpy as np

from cnncc.ir.graph import Graph, Node
from cnncc.ir.target import Target
from cnncc.ir.types import BYTES, HINT
from cnncc.passes.fold import Rebuild
from cnncc.passes.winograd import POINTS, WHOLE, amid_zeros, in_tiles, tiles

SIZES = (2, 4, 6)           # of Winograd's tiles
TRANSFORM = 1.0             # cycles that a vector of a point costs to transform, by the points of an axis
FEW = 6                     # these at least: memory decides
KERNELS = 10_000            # cycles that the transforms cost as kernels of their own
FILLED = 0.75               # the part of L2 that an image and a tile's weights may fill
AXES = 2                    # of an image up to which points that aren't whole numbers round well enough
PARTS = 4                   # into which a sum is divided at most
LONG = 16                   # taps beyond which a window's padding is stored: all tiles are equal (small: 1)
GAIN = 0.9                  # the part of the direct way's cost that is worth rounding worse
LARGER = 0.98               # the part of a tile's cost that is worth a larger one


def choose_algorithms(graph: Graph, target: Target) -> Graph:
    """Winograd's convolution where it should be faster; scattered pixels and long sums are made compact."""
    b, longest = Rebuild(graph), 1 if target.small else LONG
    for n in graph:
        costs = tile_sizes(n, graph, target)
        best = 1
        for m, cycles in costs.items():
            if cycles < (LARGER if best > 1 else GAIN) * costs[best]:
                best = m
        if best > 1:
            b.renamed[n.name] = in_tiles(b, n, best, target.l2)
        elif n.op == "conv" and any(int(w) > longest and (low or high) for w, low, high in zip(
                graph[n.inputs[1]].type.shape[2:], n.attr["begin"], n.attr["end"], strict=True)):
            b.renamed[n.name] = _bordered(b, n)
        elif _scattered(n, graph):
            b.renamed[n.name] = _compact(b, n)
        elif (parts := _parts(n, graph, target)) > 1:
            b.renamed[n.name] = _divided(b, n, parts)
        else:
            b.copy(n)
    return b.finish()


def pool_first(graph: Graph, target: Target) -> Graph:
    """Sums over windows come before pointwise convolutions, which have fewer pixels then (DenseNet)."""
    b, users = Rebuild(graph), graph.users()
    for n in graph:
        c = graph[n.inputs[0]] if n.op == "sum_pool" and not n.base else n
        if c.op == "conv" and users[c.name] == [n.name] and _pointwise(c, graph) and _fewer(n, c, graph):
            origin = tuple(dict.fromkeys((*c.origin, *n.origin)))
            x = b.op("sum_pool", [b.name_of(c.inputs[0])], f"{n.name}.pooled", n.origin, **n.attr)
            b.renamed[n.name] = b.op("conv", [x, b.name_of(c.inputs[1])], n.name, origin, **c.attr)
        else:
            b.copy(n)
    return b.finish()


def _pointwise(n: Node, graph: Graph) -> bool:
    """Whether each pixel of a convolution's result depends on one pixel, all of them in order."""
    steps = (*graph[n.inputs[1]].type.shape[2:], *n.attr["strides"])
    return all(e == 1 for e in steps) and not any((*n.attr["begin"], *n.attr["end"]))


def _fewer(pool: Node, conv: Node, graph: Graph) -> bool:
    """Whether a pool before a pointwise convolution takes fewer operations than one after it."""
    outer, inner = (int(e) for e in graph[conv.inputs[1]].type.shape[:2])
    before, after = (prod(int(e) for e in n.type.shape[2:]) for n in (conv, pool))
    more = prod(pool.attr["kernel"]) * (inner * int(conv.attr["group"]) - outer)    # channels are summed up
    return after * (more + 2 * inner * outer) < before * 2 * inner * outer


def tile_sizes(n: Node, graph: Graph, target: Target) -> dict[int, float]:
    """Predicted cycles of a convolution by the size m of its tiles, 1: as it is; empty for other nodes."""
    if n.op != "conv" or graph[n.inputs[1]].op != "const" or n.type.dtype != "f32":
        return {}
    outer, inner, *windows = (int(e) for e in graph[n.inputs[1]].type.shape)
    whole = inner % target.lanes == outer // n.attr["group"] % target.lanes == 0
    batch, channels = (HINT if isinstance(e, str) else e for e in graph[n.inputs[0]].type.shape[:2])
    result, plain = {}, target.strict or target.small
    for m in (1, *(m for m in SIZES if whole and not plain and _fits(n, windows, m))):
        count, points = batch, 1
        for extent, r, dilation in zip(n.type.shape[2:], windows, n.attr["dilations"], strict=True):
            size, dilation = (m, dilation) if r > 1 else (1, 1)
            count, points = count * tiles(int(extent), size, dilation), points * (size + r - 1)
        products = count * points * inner * outer / (target.lanes * target.fmas)
        moved = count * points * (channels + outer) / target.lanes
        result[m] = products + points * inner * outer * BYTES["f32"] / target.memory_bytes \
            + (moved * TRANSFORM * max(FEW, m + max(windows) - 1) + KERNELS if m > 1 else 0)
    return result


def _fits(n: Node, windows: list[int], m: int) -> bool:
    a, axes = n.attr, sum(r > 1 for r in windows)
    most = len(POINTS) if axes <= AXES else WHOLE
    return {*a["strides"]} == {1} and axes > 0 \
        and all(m + r - 2 <= most if r > 1 else a["begin"][i] == a["end"][i] == 0
                for i, r in enumerate(windows))


def _bordered(b: Rebuild, n: Node) -> str:
    """A convolution of its image amid stored zeros."""
    x = amid_zeros(b, n, n.attr["begin"], n.attr["end"])
    none = {side: (0,) * len(n.attr[side]) for side in ("begin", "end")}
    return b.op("conv", [x, b.name_of(n.inputs[1])], n.name, n.origin, **(n.attr | none))


def _scattered(n: Node, graph: Graph) -> bool:
    """Whether a convolution reads single pixels with gaps between them."""
    if n.op != "conv" or max(n.attr["strides"]) == 1 or any((*n.attr["begin"], *n.attr["end"])):
        return False
    return prod(int(e) for e in graph[n.inputs[1]].type.shape[2:]) == 1


def _compact(b: Rebuild, n: Node) -> str:
    """The pixels that are read, one behind the other: tiles then go on from one row into the next."""
    (x, w), strides = map(b.name_of, n.inputs), n.attr["strides"]
    shape = (*b.type(x).shape[:2], *n.type.shape[2:])
    x = b.op("slice", [x], f"{n.name}.pixels", n.origin, begin=(0,) * len(shape), steps=(1, 1, *strides),
             shape=shape)
    return b.op("conv", [x, w], n.name, n.origin, **(n.attr | {"strides": (1,) * len(strides)}))


def _parts(n: Node, graph: Graph, target: Target) -> int:
    """Into how many parts a sum over channels alone is divided: where an image only just leaves L2.

    Weights that are larger than L2 are then read once and not for every part of the image.
    """
    if n.op != "conv" or graph[n.inputs[1]].op != "const" or n.attr["group"] > 1 \
            or prod(int(e) for e in graph[n.inputs[1]].type.shape[2:]) > 1:
        return 1
    batch, channels, *_ = (HINT if isinstance(e, str) else e for e in graph[n.inputs[0]].type.shape)
    w = graph.constants.held(n.inputs[1])
    image = prod(int(e) for e in graph[n.inputs[0]].type.shape[1:]) * w.dtype.itemsize
    tile = w.nbytes * 2 * target.lanes // w.shape[0]        # of two vectors of results
    parts = -(-(image + tile) // int(target.l2 * FILLED))
    whole = channels % (parts * target.lanes) == 0
    return parts if batch == 1 and w.nbytes > target.l2 and 1 < parts <= PARTS and whole else 1


def _divided(b: Rebuild, n: Node, parts: int) -> str:
    """Convolutions of some channels each, added up."""
    x, w = b.name_of(n.inputs[0]), b.constants[n.inputs[1]]
    first, channels, *image = b.type(x).shape
    each, y = int(channels) // parts, ""
    for i in range(parts):
        own = b.op("slice", [x], f"{n.name}.channels", n.origin, begin=(0, i * each, *(0 for _ in image)),
                   steps=(1,) * (2 + len(image)), shape=(first, each, *image))
        part = b.const(f"{n.name}.weights", np.ascontiguousarray(w[:, i * each:(i + 1) * each]))
        new = b.op("conv", [own, part], f"{n.name}.part", n.origin, **n.attr)
        y = b.op("add", [new, y], f"{n.name}.sum", n.origin) if y else new
    return y
