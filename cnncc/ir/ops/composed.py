"""Ops made of others: soft maxima, norms, indices of extremes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cnncc.ir.op import Composer, Made, Op, Parts, composed, gradient, register
from cnncc.ir.types import FLOATS


@composed
def _softmax(make: Parts, n: Made) -> str:
    x, along = n.inputs[0], {"axes": (n.attr["axis"],), "keepdims": True}
    top = make("reduce_max", x, step="max", **along)
    e = make("exp", make("sub", x, top, step="shifted"), step="exp")
    return make("div", e, make("reduce_sum", e, step="sum", **along))


@gradient("softmax")
def _softmax_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    along = {"axes": (n.attr["axis"],), "keepdims": True}
    total = make("reduce_sum", make("mul", dy, n.name, step="part"), step="sum", **along)
    return {0: make("mul", make("sub", dy, total, step="rest"), n.name)}


@composed
def _log_softmax(make: Parts, n: Made) -> str:
    x, along = n.inputs[0], {"axes": (n.attr["axis"],), "keepdims": True}
    top = make("reduce_max", x, step="max", **along)
    total = make("log", make("reduce_exp_sum", x, top, step="sum", **along), step="log")
    return make("sub", make("sub", x, top, step="shifted"), total)


@gradient("log_softmax")
def _log_softmax_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    total = make("reduce_sum", dy, step="sum", axes=(n.attr["axis"],), keepdims=True)
    shares = make("mul", make("exp", n.name, step="exp"), total, step="share")
    return {0: make("sub", dy, shares)}


@composed
def _reduce_log_sum_exp(make: Parts, n: Made) -> str:
    """Shifted by the maximum where that is finite."""
    top = make("reduce_max", n.inputs[0], step="max", **{**n.attr, "keepdims": True})
    top = make("finite", top, step="shift")
    total = make("log", make("reduce_exp_sum", n.inputs[0], top, step="sum", **n.attr), step="log")
    if not n.attr["keepdims"]:
        top = make("reshape", top, step="view", shape=make.b.type(total).shape)
    return make("add", total, top)


@composed
def _reduce_l2(make: Parts, n: Made) -> str:
    return make("sqrt", make("reduce_square_sum", n.inputs[0], step="sum", **n.attr))


@gradient("reduce_l2")
def _reduce_l2_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    """0 where all elements are, as PyTorch has it."""
    x = n.inputs[0]
    share = make("over_norm", dy, n.name, step="share")
    if not n.attr["keepdims"]:
        shape = tuple(1 if a in n.attr["axes"] else e for a, e in enumerate(make.b.type(x).shape))
        share = make("reshape", share, step="view", shape=shape)
    return {0: make("mul", x, share)}


@composed
def _reduce_log_sum(make: Parts, n: Made) -> str:
    return make("log", make("reduce_sum", n.inputs[0], step="sum", **n.attr))


@composed
def _reduce_mean(make: Parts, n: Made) -> str:
    x = n.inputs[0]
    total, count = make("reduce_sum", x, step="sum", **n.attr), make.count(x, n.attr["axes"])
    if make.b.type(x).dtype in FLOATS:
        return make("scale", total, factor=1.0 / count)
    return make("quotient", total, divisor=count)


@composed
def _argmax(make: Parts, n: Made) -> str:
    """The index along `axis` of the greatest element, the first of equals, else with `last` the last."""
    x, axis, last = n.inputs[0], n.attr["axes"][0], n.attr["last"]
    type = make.b.type(x)
    size = int(type.shape[axis])
    top = make("reduce_max", x, step="max", axes=(axis,), keepdims=True)
    numbers = np.arange(size, dtype=np.int32).reshape(-1, *(1,) * (type.rank - 1 - axis))
    index = make.b.const(f"{n.name}.index", numbers)
    at = make("last_not_below" if last else "first_not_below", x, top, index, step="at", axes=(axis,),
              keepdims=n.attr["keepdims"])
    return make("cast", at, to="i64")


@composed
def _hardmax(make: Parts, n: Made) -> str:
    """1 at the first greatest element along `axis`, 0 elsewhere."""
    x, axis = n.inputs[0], n.attr["axis"]
    type = make.b.type(x)
    at = make("argmax", x, step="at", axes=(axis,), keepdims=True, last=False)
    numbers = np.arange(int(type.shape[axis])).reshape(-1, *(1,) * (type.rank - 1 - axis))
    index = make.b.const(f"{n.name}.index", numbers)
    return make("cast", make("eq", index, at, step="hit"), to=type.dtype)


@composed
def _lp_norm(make: Parts, n: Made) -> str:
    """x over its norm along `axis`: p = 1 the sum of magnitudes, p = 2 the root of the sum of squares."""
    x, along = n.inputs[0], {"axes": (n.attr["axis"],), "keepdims": True}
    norm = make("reduce_abs_sum" if n.attr["p"] == 1 else "reduce_l2", x, step="norm", **along)
    return make("over_norm", x, norm)


@composed
def _centre(make: Parts, n: Made) -> str:
    """The mean over `axes`, corrected by that of the differences to it: it may be much larger than these."""
    x, along = n.inputs[0], {"axes": n.attr["axes"], "keepdims": True}
    rough = make("reduce_mean", x, step="rough", **along)
    rest = make("reduce_difference", x, rough, step="rest", **along)
    return make("corrected", rough, rest, factor=1.0 / make.count(x, n.attr["axes"]))


@composed
def _inverse_deviation(make: Parts, n: Made) -> str:
    """1 / sqrt(variance + epsilon) over `axes`; the variance is that of differences to the second operand."""
    x, mean = n.inputs
    total = make("reduce_variation", x, mean, step="variation", axes=n.attr["axes"], keepdims=True)
    return make("inverse_root", total, factor=1.0 / make.count(x, n.attr["axes"]), epsilon=n.attr["epsilon"])


@composed
def _standardize(make: Parts, n: Made) -> str:
    """(x - mean) / sqrt(variance + epsilon) over `axes`."""
    x, axes = n.inputs[0], n.attr["axes"]
    mean = make("centre", x, step="mean", axes=axes)
    root = make("inverse_deviation", x, mean, step="root", axes=axes, epsilon=n.attr["epsilon"])
    return make("standard", x, mean, root)


@composed
def _inverse_rms(make: Parts, n: Made) -> str:
    """1 / sqrt(mean of squares + epsilon) over `axes`."""
    x = n.inputs[0]
    total = make("reduce_square_sum", x, step="sum", axes=n.attr["axes"], keepdims=True)
    return make("inverse_root", total, factor=1.0 / make.count(x, n.attr["axes"]), epsilon=n.attr["epsilon"])


@composed
def _lp_root(make: Parts, n: Made) -> str:
    """The root of order `p` of sums of magnitudes to that power."""
    p = n.attr["p"]
    return make("sqrt", n.inputs[0]) if p == 2 else make("abs_power", n.inputs[0], power=1.0 / p)


@gradient("lp_root")
def _lp_root_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    """0 where all that was summed is 0, as for a norm."""
    part = make("scale", make("mul", dy, n.name, step="part"), step="share", factor=1.0 / n.attr["p"])
    return {0: make("over_norm", part, n.inputs[0])}


@composed
def _stochastic_pool(make: Parts, n: Made) -> str:
    """The mean of max(x, 0) over windows, weighted by itself; 0 where all are. Training draws one of them
    in that proportion (Zeiler, Fergus 2013).
    """
    x = make("relu", n.inputs[0], step="weight")
    total = make("sum_pool", x, step="sum", **n.attr)
    squares = make("sum_pool", make("square", x, step="square"), step="squares", **n.attr)
    return make("over_norm", squares, total)


@composed
def _lrn(make: Parts, n: Made) -> str:
    """x / (bias + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""
    x, a = n.inputs[0], n.attr
    total = make("neighbour_squares", x, step="sum", size=a["size"])
    return make("damped", x, total, bias=a["bias"], alpha=a["alpha"] / a["size"], power=-a["beta"])


def _batch_norm(b: Composer, n: Made) -> str:
    """(x - mean) / sqrt(variance + epsilon) * weight + bias per channel; `momentum` is for training."""
    make, x = Parts(b, n), n.inputs[0]
    shape = (b.type(n.inputs[1]).shape[0], *(1,) * (b.type(x).rank - 2))
    weight, bias, mean, variance = (make("reshape", v, step="vector", shape=shape) for v in n.inputs[1:])
    root = make("inverse_root", variance, step="root", factor=1.0, epsilon=n.attr["epsilon"])
    y = make("standard", x, mean, make("mul", root, weight, step="scale"), step="scaled")
    return make("add", y, bias)


register(Op("batch_norm", shape=lambda shapes, attrs: tuple(shapes[0]), composed=_batch_norm))


def _dropout(b: Composer, n: Made) -> str:
    """The operand as it is: elements are left out in training only, a share of `ratio`."""
    return n.inputs[0]


register(Op("dropout", shape=lambda shapes, attrs: tuple(shapes[0]), composed=_dropout))
