"""Networks built in Python, layer by layer: `Builder`. Definition files are read into one too."""

from __future__ import annotations

import functools
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.frontend.files import expect
from cnncc.frontend.kinds import KINDS
from cnncc.frontend.layers import Kind, Layer, known
from cnncc.frontend.onnx_file import absurd
from cnncc.ir.errors import InputError, ModelError, hint
from cnncc.ir.graph import Builder as GraphBuilder
from cnncc.ir.graph import Graph, Node
from cnncc.ir.signature import Array
from cnncc.ir.types import Extent, TensorType, product

MAX_PARAMETERS = 1 << 29
INITS = ("he", "glorot")


class Builder:
    """Builds a graph: `x = b.input("x", ["N", 3, 32, 32]); y = b.conv(x, out=16, k=3, act="relu")`.

    There is a method for each kind of layer in `KINDS`: it takes the values that the layer reads, its keys,
    `id`, the name of the value that it returns, and `act`, an activation that follows. All raise ModelError.

    Weights that aren't given to a layer as arrays are those in `weights`, called `<id>.weight` and so on;
    without, they are made from `seed` and their name, the same on every machine: uniform numbers with the
    variance of `init`, "he" or "glorot".
    """

    def __init__(self, name: str = "model", *, seed: int = 0, init: str = "he",
                 weights: Mapping[str, Array] | None = None) -> None:
        expect(type(seed) is int and seed >= 0, f"seed: expected an integer of at least 0, got {seed!r:.60}")
        expect(init in INITS, f"init: expected {' or '.join(INITS)}, got {init!r:.60}")
        self._graph, self._seed, self._init, self._weights = GraphBuilder(name), seed, init, weights
        self._count, self._names = 0, Counter[str]()

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *KINDS]

    def __getattr__(self, kind: str) -> Callable[..., str]:
        if kind not in KINDS:
            raise AttributeError(f"there are no layers called {kind!r}{hint(kind, KINDS)}")
        return functools.partial(self.layer, KINDS[kind])

    def input(self, name: str, shape: Sequence[Extent]) -> str:
        """A float32 input; the first extent may be a name: a batch of any size."""
        batch = {e for e in shape[:1] if isinstance(e, str)}
        sizes = [e for e in shape[len(batch):] if type(e) is int]
        expect(len(sizes) + len(batch) == len(shape) and not absurd(sizes, 1), f"input {name!r}: expected "
               f"sizes of at least 1, the first of which may be a name (any batch), got {list(shape)!r:.60}")
        batch |= {s for i in self._graph.inputs for s in self._graph.type(i).symbols}
        expect(len(batch) < 2, f"input {name!r}: the batch has several names: {', '.join(sorted(batch))}")
        return self._graph.input(name, TensorType("f32", tuple(shape)))

    def name(self, kind: str) -> str:
        """A name for a layer without one."""
        self._names[kind] += 1
        return f"{kind}.{self._names[kind]}"

    def layer(self, kind: Kind, *of: str, id: str | None = None, act: str | Kind | None = None,
              **keys: Any) -> str:
        """Add a layer of any kind, or of `cnncc.op`: `b.conv(x, ...)` is `b.layer(KINDS["conv"], x, ...)`."""
        layer = Layer(self.name(kind.name) if id is None else id, self._graph, self._parameter)
        try:
            return self._made(kind, layer, of, act, keys)
        except ModelError as error:
            raise ModelError(f"{kind.name} {layer.name!r}: {error}") from None

    def _made(self, kind: Kind, layer: Layer, of: Sequence[str], act: str | Kind | None,
              keys: Mapping[str, Any]) -> str:
        nodes = self._graph.nodes
        expect(layer.name not in nodes, "the name is taken")
        kind.check_all(keys)
        expect(len(of) == kind.inputs or (kind.several and len(of) > kind.inputs),
               f"takes {kind.inputs} value{'s' * (kind.inputs > 1)}{' or more' * kind.several}, "
               f"got {len(of)}")
        for x in of:
            expect(isinstance(x, str), f"reads {type(x).__name__}, not a value of this network")
            known(x, nodes, f"reads {x!r}, which nothing defines")
        if isinstance(act, Kind):
            expect(act.activation, f"act: {act.name} needs more than the layer's value")
        elif act is not None:
            acts = [k.name for k in KINDS.values() if k.activation]
            known(act, acts, f"act: there is no activation {act!r:.60}")
            act = KINDS[act]
        value = kind.make(layer, *of, **keys)
        if act is not None:
            value = act.make(layer, value)
        if value != layer.last:     # not a node of its own: what it reads, or of a layer within
            return value
        last = nodes.pop(value)
        return self._graph.add(Node(layer.name, last.op, last.inputs, last.type, last.attrs, last.origin))

    def _parameter(self, name: str, shape: tuple[int, ...], given: Array | None, middle: float,
                   width: float | None) -> Array:
        self._count += product(shape)
        expect(self._count <= MAX_PARAMETERS, f"more than {MAX_PARAMETERS:,} parameters are too many")
        if given is None and self._weights is not None:
            known(name, self._weights, f"there are no weights called {name!r}")
            given = self._weights[name]
        if given is None:
            if width is None:       # He's or Glorot's variance; a uniform one is a third of the square
                fans = [product(shape[1:]), shape[0] * product(shape[2:])]
                width = (6 / (fans[0] if self._init == "he" else sum(fans))) ** 0.5
            return _uniform(self._seed, name, shape, middle, width)
        expect(given.shape == shape and given.dtype == np.float32, f"{name}: expected float32{list(shape)}, "
               f"got {given.dtype}{list(given.shape)}")
        return given

    def graph(self, *outputs: str, **named: str) -> Graph:
        """The graph of what these outputs need, called as their values are or as the keyword says.

        `cnncc.compile`, `reference` and `convert` take it. Raises InputError for no outputs or two of one
        name, ModelError for an unknown value.
        """
        found = [*((value, value) for value in outputs), *named.items()]
        if not found or len(dict(found)) < len(found):
            raise InputError("a graph needs outputs, each of another name")
        for _, value in found:
            known(value, self._graph.nodes, f"the output {value!r} is no value of this network")
        return self._graph.graph(found).live()


def _uniform(seed: int, name: str, shape: tuple[int, ...], middle: float, width: float) -> Array:
    """float32 numbers from `middle` - `width` to `middle` + `width`, by the generator's bits alone."""
    n = product(shape)
    bits = np.random.PCG64([seed, zlib.crc32(name.encode())]).random_raw((n + 1) // 2).view(np.uint32)[:n]
    unit = (bits >> 8).astype(np.float32) * np.float32(2.0 ** -23) - np.float32(1)
    result: Array = (unit * np.float32(width) + np.float32(middle)).reshape(shape)
    return result
