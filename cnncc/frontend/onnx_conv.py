"""Importer rows of convolutions and averages over windows; the windows that other pools have too."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_moves import MAX_TABLE
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.ir.signature import Array
from cnncc.ir.types import NUMPY


class Axis(NamedTuple):
    """Windows along one dimension; `pad` is the file's end padding, `end` what gives `out` windows."""

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    pad: int
    end: int
    out: int

    def taps(self, pads: bool) -> Array:
        """How many taps of each window lie within the input (with `pads` also the padding): at least one."""
        support(self.out <= MAX_TABLE, f"{self.out:,} windows along one dimension are too many")
        start = np.arange(self.out) * self.stride - self.begin
        low, high = (-self.begin, self.size + self.pad) if pads else (0, self.size)
        first = np.maximum(0, -((start - low) // self.dilation))
        taps: Array = np.minimum(self.kernel - 1, (high - 1 - start) // self.dilation) - first + 1
        support((taps > 0).all(), "a window lies wholly in the padding")
        return taps


class Sizes(NamedTuple):
    """What a node says of its windows, a number for each dimension; `same`: SAME_UPPER or SAME_LOWER."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    same: bytes

    @classmethod
    def of(cls, c: Call, n: int, kernel: tuple[int, ...] | None = None) -> Sizes:
        """The attributes of a node; `kernel` is that of a weight, which the node's own must be."""
        own = c.sizes("kernel_shape", n, 1, kernel)
        c.expect(kernel in (None, own), f"its kernel_shape {list(own)} is not that of its weight")
        strides, dilations = (c.sizes(key, n, 1, (1,) * n) for key in ("strides", "dilations"))
        pads, auto = c.sizes("pads", 2 * n, 0, (0,) * 2 * n), c.attribute("auto_pad", "s", b"NOTSET")
        c.expect(auto in (b"NOTSET", b"SAME_UPPER", b"SAME_LOWER", b"VALID"), f"auto_pad is {auto[:60]!r}")
        pads = pads if auto == b"NOTSET" else (0,) * 2 * n
        return cls(own, strides, dilations, pads[:n], pads[n:], auto if auto.startswith(b"SAME") else b"")


def window(c: Call, x: str, weight: tuple[int, ...] | None = None) -> tuple[list[Axis], dict[str, Any]]:
    """A node's windows over x, and their attributes as ours; a convolution gives the sizes of its weight."""
    spatial = c.spatial(x)
    own = Sizes.of(c, len(spatial), weight)
    ceil = weight is None and c.flag("ceil_mode")
    axes: list[Axis] = []
    for size, k, s, d, a, b in zip(spatial, *own[:5], strict=True):
        reach = (k - 1) * d + 1
        if own.same:
            total = max(0, ((size + s - 1) // s - 1) * s + reach - size)
            a, b = (total + (own.same == b"SAME_LOWER")) // 2, (total + (own.same == b"SAME_UPPER")) // 2
        room = size + a + b - reach
        count = (room + (s - 1 if ceil else 0)) // s + 1
        if ceil and (count - 1) * s >= size + a:      # a window must not start beyond the input
            count -= 1
        c.expect(room >= 0 or (ceil and count > 0),
                 f"a window of {reach} is larger than the padded input, {size + a + b}")
        axes.append(Axis(size, k, s, d, a, b, max(b, (count - 1) * s + reach - size - a), count))
    attrs = {"strides": own.strides, "dilations": own.dilations, "begin": tuple(a.begin for a in axes),
             "end": tuple(a.end for a in axes)}
    return axes, attrs if weight is not None else attrs | {"kernel": own.kernel}


def convolution(c: Call, x: str, w: str, step: str = "") -> str:
    """x convolved with w as the node's attributes say."""
    shape, weight, group = c.shape(x), _weight(c, w), c.attribute("group", "i", 1)
    _, attrs = window(c, x, weight[2:])
    c.expect(group > 0 and weight[0] % group == 0 and shape[1] == weight[1] * group,
             f"an input of {shape[1]} channels and a weight of shape {list(weight)} don't fit group={group}")
    return c.emit("conv", [x, w], step, group=group, **attrs)


def _weight(c: Call, w: str) -> tuple[int, ...]:
    """The shape of a weight for what the node convolves."""
    shape, rank = c.shape(w), len(c.shape(c.operand(0)))
    sizes = tuple(e for e in shape if isinstance(e, int))
    support(len(sizes) == len(shape), "the size of its weight is open")
    c.expect(len(sizes) == rank > 2 and 0 not in sizes,
             f"its weight has the shape {list(sizes)}, its input {list(c.shape(c.operand(0)))}")
    return sizes


def channel_bias(c: Call, i: int, channels: int, rank: int) -> str | None:
    """Operand i, a number for each channel, beside a result of that rank; None for a missing one."""
    if not c.has(i):
        return None
    bias = c.operand(i)
    c.expect(c.shape(bias) == (channels,),
             f"its bias has the shape {list(c.shape(bias))}, expected {[channels]}")
    shape = (channels, *(1,) * (rank - 2))
    if isinstance(bias, str):
        return c.emit("reshape", [bias], "bias", shape=shape)
    return c.const(c.needed(i, "bias", bias.dtype.name).reshape(shape), "bias")


def conv(c: Call) -> str:
    x, w = of(c, c.value(0)), c.value(1)
    bias = channel_bias(c, 2, _weight(c, w)[0], len(c.shape(w)))
    y = convolution(c, x, w, "conv" if bias else "")
    return c.emit("add", [y, bias]) if bias else y


def _conv_transpose(c: Call) -> str:
    x, w = of(c, c.value(0)), c.value(1)
    shape, group, spatial = c.shape(x), c.attribute("group", "i", 1), c.spatial(x)
    n, weight = len(spatial), _weight(c, w)
    c.expect(group > 0 and shape[1] == weight[0] and weight[0] % group == 0,
             f"its weight has the shape {list(weight)}, its input {list(shape)}, with group={group}")
    own, extra = Sizes.of(c, n, weight[2:]), c.sizes("output_padding", n, 0, (0,) * n)
    wanted = c.attribute("output_shape", "ints", ())
    c.expect(len(wanted) in (0, n, n + 2), f"output_shape {list(wanted[:20])} doesn't fit its input")
    begin, size = [], []
    for i, (extent, k, s, d, low, high) in enumerate(zip(spatial, *own[:5], strict=True)):
        full = (extent - 1) * s + extra[i] + (k - 1) * d + 1
        if wanted or own.same:
            total = full - (wanted[i - n] if wanted else extent * s)
            low = total // 2 if own.same == b"SAME_UPPER" else total - total // 2
            high = total - low
        c.expect(full - low - high > 0, "its result would be empty")
        begin.append(low)
        size.append(full - low - high)
    support(math.prod(own.strides) <= 1 << 10, f"strides {list(own.strides)} are too large")
    bias = channel_bias(c, 2, weight[1] * group, n + 2)
    y = c.emit("conv_transpose", [x, w], "conv" if bias else "", group=group, strides=own.strides,
               dilations=own.dilations, begin=tuple(begin), size=tuple(size))
    return c.emit("add", [y, bias]) if bias else y


def average(c: Call, x: str, step: str = "") -> str:
    """A sum over windows of x, times one factor where all count as many elements, else times a table."""
    axes, attrs = window(c, x)
    include = c.flag("count_include_pad")
    if {*attrs["kernel"], *attrs["strides"]} == {1} and not any(attrs["begin"] + attrs["end"]):
        return x
    taps = [a.taps(include) for a in axes]
    y = c.emit("sum_pool", [x], "sum", **attrs)
    if all((t == t[0]).all() for t in taps):
        return c.emit("scale", [y], step, factor=1.0 / float(np.prod([float(t[0]) for t in taps])))
    support(np.prod([float(t.size) for t in taps]) <= MAX_TABLE,
            "its output is too large for padding that is not counted")
    table = np.ones((1, 1), np.float64)
    for t in taps:
        table = table[..., None] / t
    return c.emit("mul", [y, c.const(table.astype(NUMPY[c.dtype(x)]), "divisors")], step)


ROWS = {
    "AveragePool": Row(lambda c: average(c, of(c, c.value(0))), 1, 1),
    "Conv": Row(conv, 2, 3),
    "ConvTranspose": Row(_conv_transpose, 2, 3),
}
