"""What networks compute in training only: statistics of the batch, elements left out at random."""

from __future__ import annotations

from collections.abc import Mapping

from cnncc.ir.op import Made, Parts, elementwise, gradient, reduction

elementwise("batch_standard", "(x - v) * (t * w) + u")
reduction("reduce_centred_product", "+=", "x * ((w - u) * v)")
elementwise("batch_slope", "(x - w * factor - (v - t) * (z * (u * factor))) * (z * o)", "factor")
elementwise("running", "x * keep + w * take", "keep", "take")
elementwise("dropped", "where(random(w, u, v, i32(layer), t, z) < ratio, 0, x * factor)", "layer", "ratio",
            "factor")
elementwise("drawn", "x / -log(random(w, u, v, i32(layer), t, z))", "layer")


@gradient("batch_standard")
def _batch_standard_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    """That of x counts in what mean and deviation, of x over all other axes, change (Ioffe, Szegedy 2015)."""
    x, weight, _, mean, root = n.inputs
    axes = tuple(a for a in range(make.b.type(x).rank) if a != 1)
    over = {"axes": axes, "keepdims": True}
    shift = _like(make, make("reduce_sum", dy, step="shift", **over), weight)
    scale = _like(make, make("reduce_centred_product", dy, x, mean, root, step="scale", **over), weight)
    slope = make("batch_slope", dy, shift, scale, x, mean, root, weight, factor=1.0 / make.count(x, axes))
    return {0: slope, 1: scale, 2: shift, 3: "", 4: ""}


def _like(make: Parts, x: str, other: str) -> str:
    """The same elements in the shape of another value."""
    return make("reshape", x, step="view", shape=make.b.type(other).shape)
