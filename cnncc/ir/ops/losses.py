"""Losses as one number, the mean over a batch, in forms that stay exact where exponentials would not.

Labels are int64 without the axis of classes, which is 1; other targets have the shape of x. A third operand
weighs the classes.
"""

from __future__ import annotations

import numpy as np

from cnncc.ir.errors import ModelError
from cnncc.ir.op import Made, Parts, composed, elementwise, gradient
from cnncc.ir.types import TensorType, product

elementwise("hit", "to(x == w) * on + off", "to", "on", "off")
elementwise("other_than", "to(x != number)", "to", "number")
elementwise("cross", "where(x == 0, 0, -(x * w))")
elementwise("cross_slope", "(exp(x) * w - u) * v")
elementwise("binary_cross", "max(x, 0) - x * w + log1p(exp(-abs(x)))")
elementwise("binary_slope", "(sigmoid(x) - w) * u")
elementwise("huber", "where(abs(x) <= delta, x * x * 0.5, (abs(x) - delta * 0.5) * delta)", "delta")


def _sizes(type: TensorType, what: str) -> tuple[int, ...]:
    if type.symbols:
        raise ModelError(f"{what} is a mean over a batch of fixed size, got {type}")
    return tuple(int(e) for e in type.shape)


def _require(fits: bool, x: TensorType, y: TensorType, expected: str) -> None:
    if not fits:
        raise ModelError(f"targets {y} don't fit outputs {x}: expected {expected}")


def _total(make: Parts, x: str, step: str) -> str:
    """The sum of all elements: first per sample, which threads share."""
    rank = make.b.type(x).rank
    if rank > 1:
        x = make("reduce_sum", x, step=f"{step}.rows", axes=tuple(range(1, rank)), keepdims=False)
    return make("reduce_sum", x, step=step, axes=(0,), keepdims=False) if rank else x


@composed
def _mean(make: Parts, n: Made) -> str:
    """Of all elements."""
    count = product(_sizes(make.b.type(n.inputs[0]), "a loss"))
    return make("scale", _total(make, n.inputs[0], "sum"), factor=1.0 / count)


def _classes(make: Parts, n: Made) -> tuple[str, str]:
    """What each class counts at each place, and one over the sum of that as if nothing were smoothed."""
    (y, *weights), type = n.inputs[1:], make.b.type(n.inputs[0])
    shape, target, smoothing = _sizes(type, "cross-entropy"), make.b.type(n.inputs[1]), n.attr["smoothing"]
    if len(shape) < 2:
        raise ModelError(f"cross-entropy needs classes along axis 1, the outputs are {type}")
    rank = (1,) * (len(shape) - 2)
    on, off = 1.0 - smoothing, smoothing / shape[1]
    weights = [make("reshape", w, step="weights", shape=(shape[1], *rank)) for w in weights]
    if target.dtype != "i64":
        _require(target == type, type, target, f"{type}, or labels int64 without the axis of classes")
        q = make("affine", y, step="targets", alpha=on, beta=off)
        return make("mul", q, weights[0], step="weighted") if weights else q, ""
    _require(target.shape == (shape[0], *shape[2:]), type, target, f"i64{[shape[0], *shape[2:]]}")
    y = make("reshape", y, step="labels", shape=(shape[0], 1, *shape[2:]))
    index = make.b.const(f"{n.name}.classes", np.arange(shape[1]).reshape(-1, *rank))
    q = make("hit", y, index, step="targets", to=type.dtype, on=on, off=off)
    each = ""
    for weight in weights:
        hit = make("hit", y, index, step="hits", to=type.dtype, on=1.0, off=0.0)
        each = make("mul", hit, weight, step="counted")
        q = make("mul", q, weight, step="weighted")
    for number in n.attr["ignored"]:
        kept = make("other_than", y, step="kept", to=type.dtype, number=number)
        each = make("mul", each, kept, step="counted") if each else kept
        q = make("mul", q, kept, step="weighted")
    if not each:
        return q, ""
    one = make.b.const(f"{n.name}.one", np.ones((), type.numpy))
    return q, make("over_norm", one, _total(make, each, "count"), step="share")


def _shared(make: Parts, n: Made, x: str, share: str) -> str:
    """x times one over the number of samples, or over what these count together."""
    if share:
        return make("mul", x, share)
    shape = _sizes(make.b.type(n.inputs[0]), "cross-entropy")
    return make("scale", x, factor=shape[1] / product(shape))


@composed
def _softmax_cross_entropy(make: Parts, n: Made) -> str:
    """-sum(q * log softmax(x)) over the sum of what the samples count; q are the targets, smoothed, weighted.

    Labels in `ignored` count nothing; a batch of such only has loss 0.
    """
    q, share = _classes(make, n)
    lost = make("cross", q, make("log_softmax", n.inputs[0], step="log", axis=1), step="lost")
    return _shared(make, n, _total(make, lost, "sum"), share)


@gradient("softmax_cross_entropy")
def _(make: Parts, n: Made, dy: str) -> dict[int, str]:
    """(softmax(x) * sum(q) - q) * dy over the same sum."""
    q, share = _classes(make, n)
    every = make("reduce_sum", q, step="every", axes=(1,), keepdims=True)
    log = make("log_softmax", n.inputs[0], step="log", axis=1)
    return {0: make("cross_slope", log, every, q, _shared(make, n, dy, share))}


def _smoothed(make: Parts, n: Made) -> str:
    x, y = (make.b.type(i) for i in n.inputs[:2])
    _require(x == y, x, y, str(x))
    smoothing = n.attr["smoothing"]
    return make("affine", n.inputs[1], step="targets", alpha=1.0 - smoothing, beta=smoothing / 2)


def _along_channels(make: Parts, n: Made, weights: str) -> str:
    shape = (*make.b.type(weights).shape, *(1,) * (make.b.type(n.inputs[0]).rank - 2))
    return make("reshape", weights, step="weights", shape=shape)


@composed
def _sigmoid_cross_entropy(make: Parts, n: Made) -> str:
    """The mean of -(y * log(sigmoid(x)) + (1 - y) * log(1 - sigmoid(x)))."""
    lost = make("binary_cross", n.inputs[0], _smoothed(make, n), step="lost")
    for weights in n.inputs[2:]:
        lost = make("mul", lost, _along_channels(make, n, weights), step="weighted")
    return make("mean", lost)


@gradient("sigmoid_cross_entropy")
def _(make: Parts, n: Made, dy: str) -> dict[int, str]:
    """(sigmoid(x) - y) * dy over the number of elements."""
    count = product(_sizes(make.b.type(n.inputs[0]), "cross-entropy"))
    share = make("scale", dy, step="share", factor=1.0 / count)
    for weights in n.inputs[2:]:
        share = make("mul", share, _along_channels(make, n, weights), step="weighted")
    return {0: make("binary_slope", n.inputs[0], _smoothed(make, n), share)}

