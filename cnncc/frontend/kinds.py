"""The vocabulary of definition files and of `Builder`: one row for each kind of layer."""

from __future__ import annotations

import math

from cnncc.frontend import layer_moves, layer_norms, layer_recurrent, layer_windows
from cnncc.frontend.files import expect
from cnncc.frontend.layers import REQUIRED, Bias, Count, Layer, Share, Weight, pointwise, row, show


def _linear(b: Layer, x: str, *, out: Count, bias: Bias = True, drop_connect: Share = 0.0,
            weight: Weight = None) -> str:
    """Of all that is not the batch."""
    x = layer_moves.flatten(b, x)
    columns = int(b.shape(x)[1])
    return b.biased(b.emit("linear", x, b.weight((out, columns), weight, drop_connect)), bias, columns)


def _matmul(b: Layer, x: str, w: str) -> str:
    """Products of matrices along the last two axes; the axes before broadcast."""
    for value in (x, w):
        expect(len(b.shape(value)) > 1, f"its input {show(b.shape(value))} is no matrix")
    return b.emit("matmul", x, w)


def _dropout(b: Layer, x: str, *, p: Share = 0.5) -> str:
    """Nothing is dropped in inference."""
    return b.emit("dropout", x, ratio=float(p))


KINDS = {kind.name: kind for kind in (
    row("linear", _linear),
    row("matmul", _matmul),
    *layer_windows.ROWS,
    *layer_norms.ROWS,
    *layer_moves.ROWS,
    *layer_recurrent.ROWS,
    pointwise("relu"),
    row("relu6", lambda b, x: b.emit("clip", x, low=0.0, high=6.0), activation=True),
    pointwise("leaky_relu", alpha=0.01),
    row("prelu", lambda b, x: b.emit("prelu", x, b.vector(x, "slope", 0.25)), activation=True),
    pointwise("elu", alpha=1.0),
    pointwise("selu", alpha=1.6732632423543772, gamma=1.0507009873554805),
    pointwise("celu", alpha=1.0),
    pointwise("gelu"),
    pointwise("gelu_tanh"),
    row("silu", lambda b, x: b.emit("swish", x, alpha=1.0), activation=True),
    pointwise("mish"),
    pointwise("sigmoid"),
    pointwise("hard_sigmoid", alpha=1 / 6, beta=0.5),
    pointwise("hard_swish", alpha=1 / 6, beta=0.5),
    pointwise("tanh"),
    pointwise("softplus"),
    pointwise("softsign"),
    pointwise("clip", low=-math.inf, high=math.inf),
    pointwise("exp"),
    pointwise("log"),
    pointwise("sqrt"),
    pointwise("square"),
    pointwise("abs"),
    pointwise("neg"),
    pointwise("scale", factor=REQUIRED),
    pointwise("add", 2),
    pointwise("sub", 2),
    pointwise("mul", 2),
    pointwise("div", 2),
    pointwise("max", 2),
    pointwise("min", 2),
    row("dropout", _dropout),
    row("identity", lambda b, x: x),
)}
