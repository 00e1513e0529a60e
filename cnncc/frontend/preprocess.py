"""Images as inputs: pixels become the numbers that a network was trained with in its own graph."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from cnncc.ir.errors import InputError, hint
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.plan import Value
from cnncc.ir.signature import Array, OpenError, Signature
from cnncc.ir.types import FLOATS, TensorType, name_of

LAYOUTS = {"nchw": (0, 1, 2, 3), "nhwc": (0, 2, 3, 1)}
"""Where batch, channels, height and width are: axis i of the layout is axis LAYOUTS[layout][i] of nchw."""
DTYPES = "uint8", "uint16"
Numbers = float | Sequence[float]


@dataclass(frozen=True)
class Preprocess:
    """Pixels become an input: (pixel * scale - mean) / std in float32, one number for all or one a channel.

    The caller gives images of `dtype`, uint8 or uint16, in the order `layout`, nhwc or nchw; `to` is the
    order of the model's own input. With `swap` the channels of the caller's images come in reverse order, as
    BGR for RGB; `scale`, `mean` and `std` are in the model's order. `input` names the model's input where it
    has several with four axes. What a window reads of its padding stays zero: after this, not before.

    Raises InputError.
    """

    layout: str = "nhwc"
    dtype: str = "uint8"
    scale: Numbers = 1 / 255
    mean: Numbers = 0.0
    std: Numbers = 1.0
    swap: bool = False
    to: str = "nchw"
    input: str | None = None

    def __post_init__(self) -> None:
        for name, known in (("layout", LAYOUTS), ("to", LAYOUTS), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name}={getattr(self, name)!r:.60}: choose one of {', '.join(known)}")
        for name in ("scale", "mean", "std"):
            given = getattr(self, name)
            row = (given,) if isinstance(given, numbers.Real) else given
            if not isinstance(row, Sequence | np.ndarray) or isinstance(row, str) or not len(row) or not all(
                    isinstance(x, numbers.Real) and math.isfinite(x) and (x or name == "mean") for x in row):
                raise InputError(f"{name}={given!r:.60}: expected a number, or one a channel"
                                 + ", other than 0" * (name != "mean"))
            object.__setattr__(self, name, tuple(map(float, row)))
        if not isinstance(self.swap, bool):
            raise InputError(f"swap={self.swap!r:.60}: expected true or false")
        if not isinstance(self.input, str | None):
            raise InputError(f"input={self.input!r:.60}: expected the name of an input")

    def apply(self, pixels: Array, dtype: np.dtype[Any]) -> Array:
        """What becomes of an array [N, H, W, C] of RGB or grey, computed by NumPy: in the order `to`."""
        channels = pixels.shape[-1]
        self._check_channels(channels)
        scale, mean, std = map(np.array, (self.scale, self.mean, self.std))
        values = (pixels[..., ::-1 if self.swap else 1] * scale - mean) / std
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2).transpose(LAYOUTS[self.to]), dtype)

    def found(self, signature: Signature) -> Preprocess:
        """With the name of the model's input. Raises InputError where there is none, or more than one."""
        images = [v for v in signature.inputs if len(v.shape) == 4]
        if self.input is not None:
            names = [v.name for v in signature.inputs]
            if self.input not in names:
                raise InputError(f"preprocess: there is no input {self.input!r}{hint(self.input, names)}")
            images = [v for v in images if v.name == self.input]
        if len(images) != 1:
            listed = ", ".join(f"{v.name}: {v.dtype}[{', '.join(map(str, v.shape))}]" for v in images)
            raise InputError(f"preprocess: expected an input with four axes, got "
                             f"{f'{listed}: name one with input=' if images else 'none'}")
        [v] = images
        if "float" not in v.dtype:
            raise InputError(f"preprocess: the input {v.name!r} is {v.dtype}: it takes pixels as they are")
        if isinstance(v.shape[LAYOUTS[self.to].index(1)], int):
            self._check_channels(int(v.shape[LAYOUTS[self.to].index(1)]))
        return replace(self, input=v.name)

    def _check_channels(self, channels: int) -> None:
        for name in ("scale", "mean", "std"):
            if (n := len(getattr(self, name))) not in (1, channels):
                expected = f"1 number or {channels}" if channels > 1 else "1 number"
                raise InputError(f"{name}: expected {expected}, got {n}: is the layout right?")

    def opened(self, error: OpenError) -> OpenError:
        """What is open of a model, in terms of the caller's images; for what `found` gives."""
        order, s = self._order(), error.signature
        inputs = (Value(v.name, self.dtype, tuple(v.shape[a] for a in order)) if v.name == self.input else v
                  for v in s.inputs)
        return OpenError(error.message, error.rows, error.sizes, error.values, error.name,
                         Signature(tuple(inputs), s.outputs))

    def inside(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """The shapes of the model's own inputs by those that the caller gives."""
        order = self._order()
        return {name: tuple(s[order.index(a)] for a in range(4)) if name == self.input else tuple(s)
                for name, s in shapes.items()}

    def _order(self) -> list[int]:
        """Which axis of the model's input each axis of the images is."""
        return [LAYOUTS[self.to].index(a) for a in LAYOUTS[self.layout]]


class _Prefix(Builder):
    """Nodes before those of a graph, whose names they leave alone."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name, graph.constants)
        self.later = graph.nodes

    def taken(self, name: str) -> bool:
        return name in self.later or super().taken(name)


def preprocessed(graph: Graph, how: Preprocess) -> Graph:
    """The graph with images in the place of an input. Raises InputError where that is impossible."""
    how = how.found(Signature.of(graph))
    name, origin, b = str(how.input), ("preprocess",), _Prefix(graph)
    type, order, channel = graph[name].type, how._order(), LAYOUTS[how.to].index(1)
    if not isinstance(channels := type.shape[channel], int):
        raise InputError(f"preprocess: the channels of the input {name!r} are open: fix its shape first")
    b.input(name, TensorType(name_of(np.dtype(how.dtype)), tuple(type.shape[a] for a in order)))
    x = name
    if order != sorted(order):
        perm = tuple(order.index(a) for a in range(4))
        x = b.op("transpose", [x], f"{name}.moved", origin, perm=perm)
    if how.swap:
        begin, steps = ([end if a == channel else other for a in range(4)] for end, other in (
            (channels - 1, 0), (-1, 1)))
        x = b.op("slice", [x], f"{name}.swapped", origin, begin=tuple(begin), steps=tuple(steps),
                 shape=type.shape)
    own = type.dtype if type.dtype in FLOATS else "f32"
    x = b.op("cast", [x], f"{name}.pixels", origin, to=own)
    scale, mean, std = (np.array(row) for row in (how.scale, how.mean, how.std))
    shape = [channels if a == channel else 1 for a in range(4)]
    middle, factor = (b.const(f"{name}.{what}", np.broadcast_to(row, channels).reshape(shape).astype(
        type.numpy if type.dtype in FLOATS else np.float32)) for what, row in (
            ("mean", mean / scale), ("scale", scale / std)))
    x = b.op("standard", [x, middle, factor], f"{name}.normal", origin)
    if type.dtype != own:
        x = b.op("cast", [x], f"{name}.rounded", origin, to=type.dtype)
    for n in graph:
        if n.name != name:
            b.add(replace(n, inputs=tuple(x if i == name else i for i in n.inputs)))
    outputs = tuple((user, x if value == name else value) for user, value in graph.outputs)
    made = replace(graph, nodes=b.nodes, constants=b.constants, outputs=outputs).ordered()
    made.verify()
    return made


def parse_preprocess(text: str) -> Preprocess:
    """What words such as "mean=0.485,0.456,0.406 std=0.2 swap=true" say. Raises InputError."""
    known, given = {f.name: f for f in fields(Preprocess)}, {}
    for word in text.split():
        name, equals, value = word.partition("=")
        if not equals or name not in known:
            raise InputError(f"preprocess: {word!r:.60} is no KEY=VALUE with one of {', '.join(known)}"
                             f"{hint(name, known)}")
        given[name] = _value(name, value)
    return Preprocess(**given)


def _value(name: str, text: str) -> Any:
    if name == "swap":
        return {"true": True, "false": False}.get(text.lower(), text)
    if name not in ("scale", "mean", "std"):
        return text
    try:
        pairs = [part.partition("/")[::2] for part in text.split(",")]
        return tuple(float(a) / float(b or 1) for a, b in pairs)
    except (ValueError, ZeroDivisionError):
        raise InputError(f"preprocess: {name}={text!r:.60}: expected numbers with commas") from None
