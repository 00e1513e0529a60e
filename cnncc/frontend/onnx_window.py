"""Windows of convolutions and pools: ONNX's padding and rounding as our begin and end, and counts of taps."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from cnncc.frontend.onnx_node import Call, support
from cnncc.ir.signature import Array

MAX_TABLE = 1 << 24     # windows for which a table of divisors may be made


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


def window(c: Call, x: str, weight: tuple[int, ...] | None = None) -> tuple[list[Axis], dict[str, Any]]:
    """A node's windows over x, and their attributes as ours; a convolution gives the sizes of its weight."""
    spatial = c.spatial(x)
    n, kernel = len(spatial), c.sizes("kernel_shape", len(spatial), 1, weight)
    c.expect(weight in (None, kernel), f"its kernel_shape {list(kernel)} is not that of its weight")
    ceil = weight is None and c.flag("ceil_mode")
    strides, dilations = c.sizes("strides", n, 1, (1,) * n), c.sizes("dilations", n, 1, (1,) * n)
    pads, auto = c.sizes("pads", 2 * n, 0, (0,) * 2 * n), c.attribute("auto_pad", "s", b"NOTSET")
    c.expect(auto in (b"NOTSET", b"SAME_UPPER", b"SAME_LOWER", b"VALID"), f"auto_pad is {auto[:60]!r}")
    axes: list[Axis] = []
    for size, k, s, d, a, b in zip(spatial, kernel, strides, dilations, pads[:n], pads[n:], strict=True):
        reach = (k - 1) * d + 1
        if auto == b"VALID":
            a = b = 0
        elif auto != b"NOTSET":
            total = max(0, ((size + s - 1) // s - 1) * s + reach - size)
            a, b = (total + (auto == b"SAME_LOWER")) // 2, (total + (auto == b"SAME_UPPER")) // 2
        room = size + a + b - reach
        count = (room + (s - 1 if ceil else 0)) // s + 1
        if ceil and (count - 1) * s >= size + a:      # a window must not start beyond the input
            count -= 1
        c.expect(room >= 0 or (ceil and count > 0),
                 f"a window of {reach} is larger than the padded input, {size + a + b}")
        axes.append(Axis(size, k, s, d, a, b, max(b, (count - 1) * s + reach - size - a), count))
    attrs = {"strides": strides, "dilations": dilations, "begin": tuple(a.begin for a in axes),
             "end": tuple(a.end for a in axes)}
    return axes, attrs if weight is not None else attrs | {"kernel": kernel}


def max_pool(c: Call) -> str:
    x = c.value(0)
    axes, attrs = window(c, x)
    for a in axes:
        a.taps(pads=False)      # refuses windows that lie wholly in the padding
    return c.emit("max_pool", [x], **attrs)


def average_pool(c: Call) -> str:
    """A sum, times one factor where all windows count as many elements, else times a table."""
    x = c.value(0)
    axes, attrs = window(c, x)
    include = c.flag("count_include_pad")
    if {*attrs["kernel"], *attrs["strides"]} == {1} and not any(attrs["begin"] + attrs["end"]):
        return x
    taps = [a.taps(include) for a in axes]
    y = c.emit("sum_pool", [x], "sum", **attrs)
    if all((t == t[0]).all() for t in taps):
        return c.emit("scale", [y], factor=1.0 / float(np.prod([float(t[0]) for t in taps])))
    support(np.prod([float(t.size) for t in taps]) <= MAX_TABLE,
            "its output is too large for padding that is not counted")
    table = np.ones((1, 1), np.float64)
    for t in taps:
        table = table[..., None] / t
    return c.emit("mul", [y, c.const(table.astype(np.float32), "divisors")])
