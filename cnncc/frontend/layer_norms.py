"""Rows of layers that reduce: sums over axes, soft maxima, normalizations."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.frontend.files import expect
from cnncc.frontend.layers import Axis, Count, Flag, Ints, Layer, Number, row, show
from cnncc.ir.types import product


def _global(op: str) -> Callable[[Layer, str], str]:
    def make(b: Layer, x: str) -> str:
        return b.emit(op, x, axes=_places(b, x), keepdims=True)
    return make


def _places(b: Layer, x: str) -> tuple[int, ...]:
    """The spatial axes."""
    return tuple(range(2, 2 + len(b.spatial(x))))


def _over(b: Layer, x: str, axes: Ints) -> tuple[int, ...]:
    over = tuple(sorted({b.axis(x, a) for a in axes}))
    expect(len(over) == len(axes) > 0, f"axes: {list(axes)} are not distinct dimensions")
    return over


def _reduce(op: str) -> Callable[..., str]:
    def make(b: Layer, x: str, *, axes: Ints, keepdims: Flag = True) -> str:
        return b.emit(op, x, axes=_over(b, x, axes), keepdims=keepdims)
    return make


def _soft(op: str) -> Callable[..., str]:
    def make(b: Layer, x: str, *, axis: Axis = -1) -> str:
        return b.emit(op, x, axis=b.axis(x, axis))
    return make


def _batch_norm(b: Layer, x: str, *, eps: Number = 1e-5, momentum: Number = 0.9) -> str:
    """`momentum` is the share of the running mean and variance that a step of training keeps."""
    shape = b.shape(x)
    expect(len(shape) > 1, f"its input {show(shape)} has no channels")
    vectors = [b.const(name, b.parameter(name, (int(shape[1]),), middle=middle)) for name, middle in
               (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1))]
    return b.emit("batch_norm", x, *vectors, epsilon=float(eps), momentum=float(momentum))


def _scaled(b: Layer, x: str, axes: tuple[int, ...], shift: bool = True) -> str:
    """x times a learned weight, 1 at first, plus a bias, 0 at first, each of the shape of these axes."""
    shape = b.shape(x)
    own = tuple(int(shape[a]) for a in axes)
    beside = [int(e) if a in axes else 1 for a, e in enumerate(shape) if a >= axes[0]]
    for op, name, middle in (("mul", "weight", 1.0), ("add", "bias", 0.0))[:1 + shift]:
        x = b.emit(op, x, b.const(name, b.parameter(name, own, middle=middle).reshape(beside)))
    return x


def _layer_norm(b: Layer, x: str, *, axes: Ints = (1,), eps: Number = 1e-5) -> str:
    """Over `axes`, for which weight and bias are: of all channels at each place, unless it says otherwise."""
    over = _over(b, x, axes)
    return _scaled(b, b.emit("standardize", x, axes=over, epsilon=float(eps)), over)


def _rms_norm(b: Layer, x: str, *, axes: Ints = (1,), eps: Number = 1e-5) -> str:
    """x over the root of its mean square over `axes`, plus eps, times a weight."""
    over = _over(b, x, axes)
    inverse = b.emit("inverse_rms", x, axes=over, epsilon=float(eps))
    return _scaled(b, b.emit("mul", x, inverse), over, shift=False)


def _instance_norm(b: Layer, x: str, *, eps: Number = 1e-5) -> str:
    """Over the places of each channel; weight and bias are per channel."""
    return _scaled(b, b.emit("standardize", x, axes=_places(b, x), epsilon=float(eps)), (1,))


def _group_norm(b: Layer, x: str, *, groups: Count, eps: Number = 1e-5) -> str:
    """Over the places of each group of channels; weight and bias are per channel."""
    shape, size = b.shape(x), b.spatial(x)
    expect(int(shape[1]) % groups == 0, f"groups: {groups} doesn't divide the {shape[1]} channels")
    view = b.emit("reshape", x, shape=(shape[0], groups, int(shape[1]) // groups * product(size)))
    y = b.emit("standardize", view, axes=(2,), epsilon=float(eps))
    return _scaled(b, b.emit("reshape", y, shape=shape), (1,))


def _lrn(b: Layer, x: str, *, size: Count = 5, alpha: Number = 1e-4, beta: Number = 0.75,
         bias: Number = 1.0) -> str:
    """x / (bias + alpha / size * sum of squares over neighbouring channels) ** beta (Krizhevsky 2012)."""
    b.spatial(x)
    expect(size <= 1 << 20, f"size: {size} is too large")
    return b.emit("lrn", x, size=size, alpha=float(alpha), beta=float(beta), bias=float(bias))


def _global_response_norm(b: Layer, x: str, *, eps: Number = 1e-6) -> str:
    """x * (norm / mean of norms) * weight + bias + x, norms over places (ConvNeXt V2, Woo 2023)."""
    norm = b.emit("reduce_l2", x, axes=_places(b, x), keepdims=True)
    mean = b.emit("reduce_mean", norm, axes=(1,), keepdims=True)
    share = b.emit("div", norm, b.emit("affine", mean, alpha=1.0, beta=float(eps)))
    scaled = b.emit("mul", b.emit("mul", x, share), b.vector(x, "weight", 0.0))
    return b.emit("add", b.emit("add", scaled, b.vector(x, "bias", 0.0)), x)


ROWS = (
    row("global_avg_pool", _global("reduce_mean")),
    row("global_max_pool", _global("reduce_max")),
    row("reduce_mean", _reduce("reduce_mean")),
    row("reduce_sum", _reduce("reduce_sum")),
    row("reduce_max", _reduce("reduce_max")),
    row("reduce_min", _reduce("reduce_min")),
    row("softmax", _soft("softmax"), activation=True),
    row("log_softmax", _soft("log_softmax"), activation=True),
    row("batch_norm", _batch_norm),
    row("layer_norm", _layer_norm),
    row("rms_norm", _rms_norm),
    row("instance_norm", _instance_norm),
    row("group_norm", _group_norm),
    row("lrn", _lrn),
    row("global_response_norm", _global_response_norm),
)
