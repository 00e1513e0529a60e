"""Rows of layers that slide: convolutions, pools, averages of neighbours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.frontend.files import expect
from cnncc.frontend.layers import (
    Bias,
    Count,
    Flag,
    Layer,
    Number,
    Pads,
    Share,
    Sizes,
    Weight,
    row,
    show,
)
from cnncc.ir.signature import Array
from cnncc.ir.types import product


def _each(b: Layer, x: str, name: str, v: Sizes) -> tuple[int, ...]:
    """A number for each spatial dimension."""
    n = len(b.spatial(x))
    values = (v,) * n if isinstance(v, int) else tuple(v or ())
    expect(len(values) == n, f"{name} has {len(values)} numbers, its input {show(b.shape(x))} has {n} "
                             "spatial dimensions")
    return values


def _window(b: Layer, x: str, k: Sizes, stride: Sizes, pad: Pads, dilation: Sizes) -> dict[str, Any]:
    """The attributes of a window; without `pad` its stride alone decides the size of the result."""
    kernel, dilations = _each(b, x, "k", k), _each(b, x, "dilation", dilation)
    total = [(size - 1) * d for size, d in zip(kernel, dilations, strict=True)]
    begin = tuple(t // 2 for t in total) if pad is None else _each(b, x, "pad", pad)
    end = tuple(t - t // 2 for t in total) if pad is None else begin
    return {"kernel": kernel, "strides": _each(b, x, "stride", stride), "dilations": dilations,
            "begin": begin, "end": end}


def _conv(b: Layer, x: str, *, out: Count, k: Sizes, stride: Sizes = 1, pad: Pads = None, dilation: Sizes = 1,
          groups: Count = 1, bias: Bias = True, drop_connect: Share = 0.0, weight: Weight = None) -> str:
    attrs, channels = _window(b, x, k, stride, pad, dilation), int(b.shape(x)[1])
    expect(channels % groups == out % groups == 0,
           f"groups: {groups} doesn't divide its input's {channels} channels and out, {out}")
    shape = (out, channels // groups, *attrs.pop("kernel"))
    y = b.emit("conv", x, b.weight(shape, weight, drop_connect), group=groups, **attrs)
    return b.biased(y, bias, product(shape[1:]))


def _depthwise(b: Layer, x: str, *, k: Sizes, stride: Sizes = 1, pad: Pads = None, dilation: Sizes = 1,
               bias: Bias = True, drop_connect: Share = 0.0, weight: Weight = None) -> str:
    b.spatial(x)
    channels = int(b.shape(x)[1])
    return _conv(b, x, out=channels, k=k, stride=stride, pad=pad, dilation=dilation, groups=channels,
                 bias=bias, drop_connect=drop_connect, weight=weight)


def _conv_transpose(b: Layer, x: str, *, out: Count, k: Sizes, stride: Sizes = 1, pad: Pads = None,
                    output_pad: Pads = 0, dilation: Sizes = 1, groups: Count = 1, bias: Bias = True,
                    weight: Weight = None) -> str:
    """Without `pad` the result is `stride` times as large as the input. Weights are [in, out / groups, k]."""
    kernel, channels = _each(b, x, "k", k), int(b.shape(x)[1])
    expect(channels % groups == out % groups == 0,
           f"groups: {groups} doesn't divide its input's {channels} channels and out, {out}")
    strides, dilations = _each(b, x, "stride", stride), _each(b, x, "dilation", dilation)
    expect(product(strides) <= 1 << 10, f"stride: {list(strides)} is too large")
    extra = _each(b, x, "output_pad", output_pad)
    begin, size = list[int](), list[int]()
    pads = [None] * len(kernel) if pad is None else _each(b, x, "pad", pad)
    for e, w, s, d, more, p in zip(b.spatial(x), kernel, strides, dilations, extra, pads, strict=True):
        expect(more < max(s, d), f"output_pad: {more} is not less than stride or dilation")
        reach = (w - 1) * d + 1
        begin.append(max(0, reach - s + 1) // 2 if p is None else p)
        size.append(e * s + more if p is None else (e - 1) * s + reach - 2 * p + more)
        expect(size[-1] > 0, f"pad: its result would have {size[-1]} places")
    shape = (channels, out // groups, *kernel)
    y = b.emit("conv_transpose", x, b.weight(shape, weight), group=groups, strides=strides,
               dilations=dilations, begin=tuple(begin), size=tuple(size))
    return b.biased(y, bias, product(shape[1:]))


def _locally_connected(b: Layer, x: str, *, out: Count, k: Sizes, stride: Sizes = 1, pad: Pads = None,
                       dilation: Sizes = 1, bias: Bias = True, weight: Weight = None) -> str:
    """A convolution with a weight, and a bias, of its own at each place."""
    attrs = _window(b, x, k, stride, pad, dilation)
    places = [(e + low + high - (w - 1) * d - 1) // s + 1 for e, w, s, d, low, high in
              zip(b.spatial(x), *(attrs[key] for key in ("kernel", "strides", "dilations", "begin", "end")),
                  strict=True)]
    expect(min(places) > 0, f"k: the window is larger than its padded input, {show(b.shape(x))}")
    fan, kernel = (int(b.shape(x)[1]), *attrs["kernel"]), attrs.pop("kernel")
    array = b.parameter("weight", (out, fan[0], *kernel, *places), weight, width=(3 / product(fan)) ** 0.5)
    y = b.emit("local_conv", x, b.const("weight", array), **attrs)
    if bias is False:
        return y
    given = bias if isinstance(bias, np.ndarray) else None
    array = b.parameter("bias", (out, *places), given, width=product(fan) ** -0.5)
    return b.emit("add", y, b.const("bias", array))


def _pool(b: Layer, x: str, k: Sizes, stride: Sizes, pad: Pads, dilation: Sizes = 1) -> dict[str, Any]:
    attrs = _window(b, x, k, k if stride is None else stride, pad, dilation)
    for size, d, a in zip(attrs["kernel"], attrs["dilations"], attrs["begin"], strict=True):
        expect(2 * a <= (size - 1) * d + 1, f"pad: {a} is more than half of the window")
    return attrs


def _max_pool(b: Layer, x: str, *, k: Sizes, stride: Sizes = None, pad: Pads = 0, dilation: Sizes = 1) -> str:
    return b.emit("max_pool", x, **_pool(b, x, k, stride, pad, dilation))


def shares(old: Sequence[int], new: Sequence[int], attrs: Mapping[str, Any]) -> Array:
    """What one element counts in the mean of each window without its padding, float32[1, *new]: of inputs
    of `old` places, by the attributes of windows that are not dilated.
    """
    table = np.ones((1,), np.float64)
    for size, count, w, s, a in zip(old, new, attrs["kernel"], attrs["strides"], attrs["begin"], strict=True):
        start = np.arange(count) * s - a
        table = table[..., None] / (np.minimum(size, start + w) - np.maximum(0, start))
    return table.astype(np.float32)


def _mean(b: Layer, x: str, attrs: dict[str, Any], counted: bool) -> str:
    """The mean over windows, in which the padding is `counted` as zeros or left out."""
    y = b.emit("sum_pool", x, **attrs)
    if counted or not any(attrs["begin"] + attrs["end"]):
        return b.emit("scale", y, factor=1 / product(attrs["kernel"]))
    return b.emit("mul", y, b.const("divisors", shares(b.spatial(x), b.spatial(y), attrs)))


def _avg_pool(b: Layer, x: str, *, k: Sizes, stride: Sizes = None, pad: Pads = 0,
              count_include_pad: Flag = True) -> str:
    """The padding counts as zeros, unless `count_include_pad` is false."""
    return _mean(b, x, _pool(b, x, k, stride, pad), count_include_pad)


def _lp_pool(b: Layer, x: str, *, k: Sizes, p: Count = 2, stride: Sizes = None, pad: Pads = 0) -> str:
    """The root of order p of the sum of magnitudes to the power p."""
    attrs = _pool(b, x, k, stride, pad)
    if p == 1:
        return b.emit("sum_pool", b.emit("abs", x), **attrs)
    powers = b.emit("square", x) if p == 2 else b.emit("abs_power", x, power=float(p))
    return b.emit("lp_root", b.emit("sum_pool", powers, **attrs), p=p)


def _stochastic_pool(b: Layer, x: str, *, k: Sizes, stride: Sizes = None, pad: Pads = 0) -> str:
    """In training one element of each window, drawn in proportion to max(x, 0); else the mean weighted so."""
    return b.emit("stochastic_pool", x, **_pool(b, x, k, stride, pad))


def _divisive_norm(b: Layer, x: str, *, k: Sizes, eps: Number = 1e-5) -> str:
    """x over the root of the mean square of all channels in the window around it, plus eps."""
    expect(all(size % 2 for size in _each(b, x, "k", k)), "k: windows around an element have odd sizes")
    squares = b.emit("reduce_mean", b.emit("square", x), axes=(1,), keepdims=True)
    mean = _mean(b, squares, _window(b, x, k, 1, None, 1), counted=False)
    return b.emit("mul", x, b.emit("inverse_root", mean, factor=1.0, epsilon=float(eps)))


ROWS = (
    row("conv", _conv),
    row("depthwise", _depthwise),
    row("conv_transpose", _conv_transpose),
    row("locally_connected", _locally_connected),
    row("max_pool", _max_pool),
    row("avg_pool", _avg_pool),
    row("lp_pool", _lp_pool),
    row("stochastic_pool", _stochastic_pool),
    row("divisive_norm", _divisive_norm),
)
