"""The vocabulary of definition files and of `Builder`: one row for each kind of layer.

A row is a function: its positional parameters are the values that the layer reads, its keyword-only ones the
keys that it takes, and the annotation of a key says what is expected (`EXPECTED`).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from cnncc.frontend.files import expect
from cnncc.frontend.onnx_file import MAX_ELEMENTS, absurd
from cnncc.ir.errors import ModelError, hint
from cnncc.ir.graph import Attr
from cnncc.ir.graph import Builder as GraphBuilder
from cnncc.ir.signature import Array
from cnncc.ir.types import Extent, product

Count: TypeAlias = int
Axis: TypeAlias = int
Sizes: TypeAlias = "int | Sequence[int] | None"
Pads: TypeAlias = "int | Sequence[int] | None"
Ints: TypeAlias = Sequence[int]
Flag: TypeAlias = bool
Number: TypeAlias = float
Weight: TypeAlias = "Array | None"
Bias: TypeAlias = "bool | Array"
Parameter: TypeAlias = Callable[[str, tuple[int, ...], "Array | None", float, float], Array]
"""(name, shape, the array that the user gives, middle and half width of the interval it is seeded from)."""

REQUIRED = inspect.Parameter.empty


def known(name: str, names: Collection[str], why: str) -> None:
    """Raises ModelError, which `why` and the nearest of `names` explain, unless `name` is one of these."""
    if name not in names:
        raise ModelError(f"{why}{hint(name, names)}")


def _ints(low: int, one: bool = True) -> Callable[[Any], bool]:
    """A test for a list of ints of at least `low`, or for `one` int."""
    def test(v: Any) -> bool:
        several = v if isinstance(v, list | tuple) else [v] if one else [None]
        return all(type(e) is int and low <= e <= MAX_ELEMENTS for e in several)
    return test


def _attribute(v: Any) -> bool:
    several = v if isinstance(v, list | tuple) else [v]
    return bool(several) and all((type(e) is float and math.isfinite(e))
                                 or (type(e) is int and abs(e) <= MAX_ELEMENTS) for e in several)


EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Count": ("an integer of at least 1", lambda v: type(v) is int and 1 <= v <= MAX_ELEMENTS),
    "Anything": ("anything", lambda v: True),
    "Attribute": ("a number, or one for each spatial dimension", _attribute),
    "Axis": ("an integer", lambda v: type(v) is int),
    "Sizes": ("an integer of at least 1, or one for each dimension", _ints(1)),
    "Pads": ("an integer of at least 0, or one for each dimension", _ints(0)),
    "Ints": ("a list of integers", _ints(-MAX_ELEMENTS, one=False)),
    "Flag": ("true or false", lambda v: isinstance(v, bool)),
    "Number": ("a number", lambda v: type(v) in (int, float) and not math.isnan(v)),
    "Scalar": ("a number, true or false", lambda v: type(v) in (bool, int, float)),
    "Weight": ("an array", lambda v: isinstance(v, np.ndarray)),
    "Bias": ("true or false", lambda v: isinstance(v, bool | np.ndarray))}


@dataclass(frozen=True)
class Kind:
    """What makes a layer of `inputs` values and `keys`, each with what it expects and its default."""

    name: str
    make: Callable[..., str]
    inputs: int
    keys: Mapping[str, tuple[str, Any]]
    activation: bool = False

    def check(self, key: str, value: Any) -> None:
        """Raises ModelError unless this kind takes the key, and such a value for it."""
        known(key, self.keys, f"takes {', '.join(self.keys) or 'no keys'}, not {key!r:.60}")
        expected, default = self.keys[key]
        what, test = EXPECTED[expected]
        expect(test(value) or value is default, f"{key}: expected {what}, got {value!r:.60}")

    def check_all(self, keys: Mapping[str, Any]) -> None:
        """Raises ModelError unless the keys are those of a layer of this kind."""
        for key, value in keys.items():
            self.check(key, value)
        for key, (_, default) in self.keys.items():
            expect(key in keys or default is not REQUIRED, f"needs the key {key!r}")


@dataclass
class Layer:
    """One layer while it is made: where its row adds nodes and gets its weights."""

    name: str
    graph: GraphBuilder
    parameters: Parameter
    last: str = field(default="", init=False)

    def shape(self, x: str) -> tuple[Extent, ...]:
        return self.graph.type(x).shape

    def spatial(self, x: str) -> tuple[int, ...]:
        """The sizes after batch and channels, of which there must be one to three."""
        shape = self.shape(x)
        expect(3 <= len(shape) <= 5,
               f"expected [N, C, ...] with 1 to 3 spatial dimensions, its input is {_show(shape)}")
        return tuple(int(e) for e in shape[2:])

    def axis(self, x: str, axis: int) -> int:
        """The axis counted from the front; not the batch where that is open."""
        shape = self.shape(x)
        expect(-len(shape) <= axis < len(shape), f"axis {axis} is outside of its input, {_show(shape)}")
        expect(isinstance(shape[axis], int), f"axis {axis} of {_show(shape)} is open")
        return axis % len(shape)

    def emit(self, op: str, *inputs: str, **attrs: Attr) -> str:
        """Add a node. The last one of a layer is renamed to the layer's name."""
        self.last = self.graph.op(op, inputs, f"{self.name}.{op}", (self.name,), **attrs)
        expect(not absurd([e for e in self.shape(self.last) if isinstance(e, int)], 1),
               f"its result, {self.graph.type(self.last)}, is too large")
        return self.last

    def parameter(self, name: str, shape: tuple[int, ...], given: Array | None = None, middle: float = 0.0,
                  width: float = 0.0) -> Array:
        return self.parameters(f"{self.name}.{name}", shape, given, middle, width)

    def const(self, name: str, array: Array) -> str:
        return self.graph.const(f"{self.name}.{name}", array)

    def biased(self, y: str, bias: Bias, fan_in: int) -> str:
        """y plus a bias per channel, unless that is False."""
        if bias is False:
            return y
        _, channels, *spatial = self.shape(y)
        given = bias if isinstance(bias, np.ndarray) else None
        array = self.parameter("bias", (int(channels),), given, width=fan_in ** -0.5)
        return self.emit("add", y, self.const("bias", array.reshape(-1, *[1] * len(spatial))))


def _show(shape: Sequence[Extent]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _window(b: Layer, x: str, k: Sizes, stride: Sizes, pad: Pads, dilation: Sizes) -> dict[str, Any]:
    """The attributes of a window; without `pad` its stride alone decides the size of the result."""
    n = len(b.spatial(x))

    def each(name: str, v: Sizes) -> tuple[int, ...]:
        values = (v,) * n if isinstance(v, int) else tuple(v or ())
        expect(len(values) == n, f"{name} has {len(values)} numbers, its input {_show(b.shape(x))} has {n} "
                                 "spatial dimensions")
        return values
    kernel, dilations = each("k", k), each("dilation", dilation)
    total = [(size - 1) * d for size, d in zip(kernel, dilations, strict=True)]
    begin = tuple(t // 2 for t in total) if pad is None else each("pad", pad)
    end = tuple(t - t // 2 for t in total) if pad is None else begin
    return {"kernel": kernel, "strides": each("stride", stride), "dilations": dilations, "begin": begin,
            "end": end}


def _conv(b: Layer, x: str, *, out: Count, k: Sizes, stride: Sizes = 1, pad: Pads = None, dilation: Sizes = 1,
          groups: Count = 1, bias: Bias = True, weight: Weight = None) -> str:
    attrs, channels = _window(b, x, k, stride, pad, dilation), int(b.shape(x)[1])
    expect(channels % groups == out % groups == 0,
           f"groups: {groups} doesn't divide its input's {channels} channels and out, {out}")
    shape = (out, channels // groups, *attrs.pop("kernel"))
    y = b.emit("conv", x, b.const("weight", b.parameter("weight", shape, weight)), group=groups, **attrs)
    return b.biased(y, bias, product(shape[1:]))


def _depthwise(b: Layer, x: str, *, k: Sizes, stride: Sizes = 1, pad: Pads = None, dilation: Sizes = 1,
               bias: Bias = True, weight: Weight = None) -> str:
    b.spatial(x)
    channels = int(b.shape(x)[1])
    return _conv(b, x, out=channels, k=k, stride=stride, pad=pad, dilation=dilation, groups=channels,
                 bias=bias, weight=weight)


def _linear(b: Layer, x: str, *, out: Count, bias: Bias = True, weight: Weight = None) -> str:
    """Of all that is not the batch."""
    x = _flatten(b, x)
    columns = int(b.shape(x)[1])
    y = b.emit("linear", x, b.const("weight", b.parameter("weight", (out, columns), weight)))
    return b.biased(y, bias, columns)


def _batch_norm(b: Layer, x: str, *, eps: Number = 1e-5, momentum: Number = 0.9) -> str:
    """`momentum` is the share of the running mean and variance that a step of training keeps."""
    shape = b.shape(x)
    expect(len(shape) > 1, f"its input {_show(shape)} has no channels")
    vectors = [b.const(name, b.parameter(name, (int(shape[1]),), middle=middle)) for name, middle in
               (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1))]
    return b.emit("batch_norm", x, *vectors, epsilon=float(eps), momentum=float(momentum))


def _pool(b: Layer, op: str, x: str, k: Sizes, stride: Sizes, pad: Pads, dilation: Sizes) -> str:
    attrs = _window(b, x, k, k if stride is None else stride, pad, dilation)
    for size, d, a in zip(attrs["kernel"], attrs["dilations"], attrs["begin"], strict=True):
        expect(2 * a <= (size - 1) * d + 1, f"pad: {a} is more than half of the window")
    return b.emit(op, x, **attrs)


def _max_pool(b: Layer, x: str, *, k: Sizes, stride: Sizes = None, pad: Pads = 0, dilation: Sizes = 1) -> str:
    return _pool(b, "max_pool", x, k, stride, pad, dilation)


def _avg_pool(b: Layer, x: str, *, k: Sizes, stride: Sizes = None, pad: Pads = 0) -> str:
    """The padding counts as zeros."""
    y = _pool(b, "sum_pool", x, k, stride, pad, 1)
    return b.emit("scale", y, factor=1 / product(b.graph.nodes[y].attr["kernel"]))


def _global(op: str) -> Callable[[Layer, str], str]:
    def make(b: Layer, x: str) -> str:
        return b.emit(op, x, axes=tuple(range(2, 2 + len(b.spatial(x)))), keepdims=True)
    return make


def _reduce(op: str) -> Callable[..., str]:
    def make(b: Layer, x: str, *, axes: Ints, keepdims: Flag = True) -> str:
        over = tuple(sorted({b.axis(x, a) for a in axes}))
        expect(len(over) == len(axes) > 0, f"axes: {list(axes)} are not distinct dimensions")
        return b.emit(op, x, axes=over, keepdims=keepdims)
    return make


def _softmax(b: Layer, x: str, *, axis: Axis = -1) -> str:
    return b.emit("softmax", x, axis=b.axis(x, axis))


def _reshape(b: Layer, x: str, *, shape: Ints) -> str:
    """`shape` is what follows the batch; one extent may be -1, what is left."""
    batch, *old = b.shape(x)
    fixed, total = product([e for e in shape if e != -1]), product([int(e) for e in old])
    expect(all(e > 0 or e == -1 for e in shape) and shape.count(-1) <= 1 and total % fixed == 0
           and (-1 in shape or total == fixed), f"shape: can't reshape {_show(old)} to {_show(shape)}")
    return b.emit("reshape", x, shape=(batch, *(total // fixed if e == -1 else e for e in shape)))


def _flatten(b: Layer, x: str) -> str:
    """To [batch, all else]."""
    expect(b.shape(x), "its input has no dimensions")
    return x if len(b.shape(x)) == 2 else _reshape(b, x, shape=(-1,))


def _dropout(b: Layer, x: str, *, p: Number = 0.5) -> str:
    """Nothing is dropped in inference."""
    expect(0 <= p < 1, f"p: expected a share from 0 to less than 1, got {p}")
    return b.emit("dropout", x, ratio=float(p))


def _row(name: str, make: Callable[..., str], activation: bool = False) -> Kind:
    """A kind from the signature of its row."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    keys = {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    return Kind(name, make, len(parameters) - len(keys), keys, activation)


def _pointwise(name: str, inputs: int = 1, **numbers: Any) -> Kind:
    """A kind that is one node of an elementwise op; `numbers` are its attributes' defaults, or REQUIRED."""
    def make(b: Layer, *values: str, **given: float) -> str:
        return b.emit(name, *values, **{key: float(v) for key, v in (numbers | given).items()})
    keys = {key: ("Number", default) for key, default in numbers.items()}
    return Kind(name, make, inputs, keys, inputs == 1 and REQUIRED not in numbers.values())


KINDS = {kind.name: kind for kind in (
    _row("conv", _conv),
    _row("depthwise", _depthwise),
    _row("linear", _linear),
    _row("batch_norm", _batch_norm),
    _pointwise("relu"),
    _row("relu6", lambda b, x: b.emit("clip", x, low=0.0, high=6.0), activation=True),
    _pointwise("clip", low=-math.inf, high=math.inf),
    _pointwise("exp"),
    _pointwise("scale", factor=REQUIRED),
    _pointwise("add", 2),
    _pointwise("sub", 2),
    _pointwise("mul", 2),
    _pointwise("div", 2),
    _row("max_pool", _max_pool),
    _row("avg_pool", _avg_pool),
    _row("global_avg_pool", _global("reduce_mean")),
    _row("global_max_pool", _global("reduce_max")),
    _row("reduce_mean", _reduce("reduce_mean")),
    _row("reduce_sum", _reduce("reduce_sum")),
    _row("reduce_max", _reduce("reduce_max")),
    _row("softmax", _softmax, activation=True),
    _row("flatten", _flatten),
    _row("reshape", _reshape),
    _row("dropout", _dropout),
    _row("identity", lambda b, x: x),
)}
