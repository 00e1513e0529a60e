"""Windows of convolutions and pools: ONNX's padding and rounding as our begin and end, and counts of taps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.frontend.onnx_file import Array
from cnncc.frontend.onnx_node import Call, Refused

MAX_TABLE = 1 << 24     # windows for which a table of divisors may be made


@dataclass(frozen=True)
class Window:
    """One number per spatial dimension; `pad` is the file's end padding, `end` what gives `out` windows."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    pad: tuple[int, ...]
    end: tuple[int, ...]
    out: tuple[int, ...]

    @property
    def attrs(self) -> dict[str, Any]:
        return {"strides": self.strides, "dilations": self.dilations, "begin": self.begin, "end": self.end}

    def counts(self, c: Call, pads: bool) -> list[Array]:
        """How many taps of each window lie within the input (with `pads` also the padding), by dimension.

        Raises Refused where a window has none.
        """
        result = []
        for i, count in enumerate(self.out):
            size, k, s, d = self.size[i], self.kernel[i], self.strides[i], self.dilations[i]
            a, b = self.begin[i], self.pad[i]
            if count > MAX_TABLE:
                raise Refused(f"{count:,} windows along one dimension are too many")
            start = np.arange(count) * s - a
            low, high = (-a, size + b) if pads else (0, size)
            first = np.maximum(0, -((start - low) // d))
            taps = np.minimum(k - 1, (high - 1 - start) // d) - first + 1
            if (taps < 1).any():
                raise Refused("a window lies wholly in the padding")
            result.append(taps)
        return result


def window(c: Call, kernel: tuple[int, ...], size: tuple[int, ...], ceil: bool = False) -> Window:
    """Read strides, dilations, pads and auto_pad of a node."""
    n = len(size)
    strides, dilations = c.sizes("strides", n, 1, (1,) * n), c.sizes("dilations", n, 1, (1,) * n)
    pads, auto = c.sizes("pads", 2 * n, 0, (0,) * 2 * n), c.text("auto_pad", "NOTSET")
    if auto not in ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"):
        raise c.wrong(f"auto_pad is {auto[:60]!r}")
    places: list[tuple[int, int, int, int]] = []
    for i, (length, k, s, d) in enumerate(zip(size, kernel, strides, dilations, strict=True)):
        reach = (k - 1) * d + 1
        a, b = pads[i], pads[n + i]
        if auto == "VALID":
            a = b = 0
        elif auto != "NOTSET":
            total = max(0, ((length + s - 1) // s - 1) * s + reach - length)
            small, large = total // 2, total - total // 2
            a, b = (small, large) if auto == "SAME_UPPER" else (large, small)
        room = length + a + b - reach
        count = (room + (s - 1 if ceil else 0)) // s + 1
        if ceil and (count - 1) * s >= length + a:      # a window must not start beyond the input
            count -= 1
        if room < 0 and not (ceil and count > 0):
            raise c.wrong(f"a window of {reach} is larger than the padded input, {length + a + b}")
        places.append((a, b, max(b, (count - 1) * s + reach - length - a), count))
    begin, pad, end, out = zip(*places, strict=True)
    return Window(size, kernel, strides, dilations, begin, pad, end, out)


def average(c: Call) -> str:
    """AveragePool: a sum, times one factor where all windows count as many elements, else times a table."""
    x = c.value(0)
    size = c.spatial(x)
    kernel = c.sizes("kernel_shape", len(size), 1, None)
    win = window(c, kernel, size, ceil=c.flag("ceil_mode", False))
    include = c.flag("count_include_pad", False)
    if {*kernel, *win.strides} == {1} and not any(win.begin) and not any(win.end):
        return x
    taps = win.counts(c, include)
    y = c.emit("sum_pool", [x], "sum", kernel=kernel, **win.attrs)
    if all((t == t[0]).all() for t in taps):
        return c.emit("scale", [y], factor=1.0 / float(np.prod([float(t[0]) for t in taps])))
    if np.prod([float(t.size) for t in taps]) > MAX_TABLE:
        raise Refused("its output is too large for padding that is not counted")
    table = np.ones((1, 1), np.float64)
    for t in taps:
        table = table[..., None] / t
    return c.emit("mul", [y, c.const(table.astype(np.float32), "divisors")])
