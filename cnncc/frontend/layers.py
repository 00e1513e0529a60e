"""Kinds of layers, and layers while they are made: what the rows of the vocabulary (`kinds`) are written in.

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
from cnncc.ir.types import Extent

Count: TypeAlias = int
Axis: TypeAlias = int
Integer: TypeAlias = int
Position: TypeAlias = "int | None"
Sizes: TypeAlias = "int | Sequence[int] | None"
Pads: TypeAlias = "int | Sequence[int] | None"
Ints: TypeAlias = Sequence[int]
Flag: TypeAlias = bool
Number: TypeAlias = float
Share: TypeAlias = float
Weight: TypeAlias = "Array | None"
Bias: TypeAlias = "bool | Array"
Interpolation: TypeAlias = str
Padding: TypeAlias = str
Order: TypeAlias = str
Parameter: TypeAlias = Callable[[str, tuple[int, ...], "Array | None", float, "float | None"], Array]
"""(name, shape, the array that the user gives, middle and half width of the interval it is seeded from: None
for the width that `init` says)."""

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


WORDS = {"Interpolation": ("nearest", "bilinear"), "Padding": ("constant", "reflect", "edge"),
         "Order": ("DCR", "CRD")}
"""What is expected of keys whose values are words."""


def _word(words: Collection[str]) -> tuple[str, Callable[[Any], bool]]:
    return " or ".join(words), lambda v: v in words


EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "Count": ("an integer of at least 1", lambda v: type(v) is int and 1 <= v <= MAX_ELEMENTS),
    "Anything": ("anything", lambda v: True),
    "Attribute": ("a number, or one for each spatial dimension", _attribute),
    "Axis": ("an integer", lambda v: type(v) is int),
    "Integer": ("an integer", lambda v: type(v) is int and abs(v) <= MAX_ELEMENTS),
    "Position": ("an integer", lambda v: type(v) is int and abs(v) <= MAX_ELEMENTS),
    "Sizes": ("an integer of at least 1, or one for each dimension", _ints(1)),
    "Pads": ("an integer of at least 0, or one for each dimension", _ints(0)),
    "Ints": ("a list of integers", _ints(-MAX_ELEMENTS, one=False)),
    "Flag": ("true or false", lambda v: isinstance(v, bool)),
    "Number": ("a number", lambda v: type(v) in (int, float) and not math.isnan(v)),
    "Scalar": ("a number, true or false", lambda v: type(v) in (bool, int, float)),
    "Weight": ("an array", lambda v: isinstance(v, np.ndarray)),
    "Bias": ("true or false", lambda v: isinstance(v, bool | np.ndarray)),
    "Share": ("a number from 0 to less than 1", lambda v: type(v) in (int, float) and 0 <= v < 1),
    **{name: _word(words) for name, words in WORDS.items()}}


@dataclass(frozen=True)
class Kind:
    """What makes a layer of `inputs` values, or `several` from that many on, and of `keys`, each with what it
    expects and its default.
    """

    name: str
    make: Callable[..., str]
    inputs: int
    keys: Mapping[str, tuple[str, Any]]
    activation: bool = False
    several: bool = False

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
               f"expected [N, C, ...] with 1 to 3 spatial dimensions, its input is {show(shape)}")
        return tuple(int(e) for e in shape[2:])

    def axis(self, x: str, axis: int) -> int:
        """The axis counted from the front; not the batch where that is open."""
        shape = self.shape(x)
        expect(-len(shape) <= axis < len(shape), f"axis {axis} is outside of its input, {show(shape)}")
        expect(isinstance(shape[axis], int), f"axis {axis} of {show(shape)} is open")
        return axis % len(shape)

    def emit(self, op: str, *inputs: str, **attrs: Attr) -> str:
        """Add a node. The last one of a layer is renamed to the layer's name."""
        self.last = self.graph.op(op, inputs, f"{self.name}.{op}", (self.name,), **attrs)
        expect(not absurd([e for e in self.shape(self.last) if isinstance(e, int)], 1),
               f"its result, {self.graph.type(self.last)}, is too large")
        return self.last

    def parameter(self, name: str, shape: tuple[int, ...], given: Array | None = None, middle: float = 0.0,
                  width: float | None = 0.0) -> Array:
        return self.parameters(f"{self.name}.{name}", shape, given, middle, width)

    def weight(self, shape: tuple[int, ...], given: Array | None, drop: float = 0.0) -> str:
        """The factors of a contraction, of which training leaves out a share of `drop` in each step."""
        w = self.const("weight", self.parameter("weight", shape, given, width=None))
        return self.emit("dropout", w, ratio=float(drop)) if drop else w

    def const(self, name: str, array: Array) -> str:
        return self.graph.const(f"{self.name}.{name}", array)

    def vector(self, x: str, name: str, middle: float) -> str:
        """A learned number for each channel, beside x."""
        shape = self.shape(x)
        expect(len(shape) > 1, f"its input {show(shape)} has no channels")
        array = self.parameter(name, (int(shape[1]),), middle=middle)
        return self.const(name, array.reshape(-1, *[1] * (len(shape) - 2)))

    def biased(self, y: str, bias: Bias, fan_in: int) -> str:
        """y plus a bias per channel, unless that is False."""
        if bias is False:
            return y
        _, channels, *spatial = self.shape(y)
        given = bias if isinstance(bias, np.ndarray) else None
        array = self.parameter("bias", (int(channels),), given, width=fan_in ** -0.5)
        return self.emit("add", y, self.const("bias", array.reshape(-1, *[1] * len(spatial))))


def show(shape: Sequence[Extent]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def row(name: str, make: Callable[..., str], activation: bool = False) -> Kind:
    """A kind from the signature of its row."""
    parameters = list(inspect.signature(make).parameters.values())[1:]
    keys = {p.name: (p.annotation, p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    return Kind(name, make, len(parameters) - len(keys), keys, activation, several)


def pointwise(name: str, inputs: int = 1, **numbers: Any) -> Kind:
    """A kind that is one node of an elementwise op; `numbers` are its attributes' defaults, or REQUIRED."""
    def make(b: Layer, *values: str, **given: float) -> str:
        return b.emit(name, *values, **{key: float(v) for key, v in (numbers | given).items()})
    keys = {key: ("Number", default) for key, default in numbers.items()}
    return Kind(name, make, inputs, keys, inputs == 1 and REQUIRED not in numbers.values())
