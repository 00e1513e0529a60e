"""Inference to training: a batch of fixed size, its own statistics, elements dropped at random."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.op import Parts
from cnncc.ir.ops.recurrent import weights_of
from cnncc.ir.types import TensorType, product

CONTRACTIONS = ("conv", "conv_transpose", "local_conv", "linear", "matmul", "contract", "recurrent")
NORMS = ("standardize", "inverse_rms")
MOVED = ("dropout", "reshape", "slice", "transpose")
CHANGED = ("add", "mul", "prelu")       # whose constants are learned where they follow a contraction
SEED, COUNT = ("train.seed.low", "train.seed.high"), "train.count"


def source_of(graph: Graph, value: str, through: Collection[str] = MOVED) -> Node:
    """The node whose elements a value has: some of them, in another order, or with some dropped at random."""
    n = graph[value]
    while n.op in through:
        n = graph[n.inputs[0]]
    return n


def parameters(graph: Graph) -> tuple[str, ...]:
    """The constants that training changes: weights of contractions and normalizations, and what is added to,
    or multiplies, values that come from those. Numbers, and divisors of pools, are none. Weights may be parts
    of constants, and elements of them dropped.
    """
    after: set[str] = set()
    found: dict[str, None] = {}
    for n in graph:
        sources = [i for i in n.inputs if i in after]
        operands = weights_of(n.attr, n.inputs) if n.op == "recurrent" else n.inputs
        inputs = [source_of(graph, i) for i in operands]
        consts = [i.name for i in inputs if i.op == "const" and i.type.dtype == "f32"]
        if n.op in CONTRACTIONS or n.op == "batch_norm":
            after.add(n.name)
            found.update(dict.fromkeys(i for i in consts if n.op != "batch_norm" or i in n.inputs[1:3]))
        elif sources or n.op in NORMS:
            after.add(n.name)
            if n.op in CHANGED and all(graph[i].op != "sum_pool" for i in sources):
                found.update(dict.fromkeys(i for i in consts if product(graph[i].type.static()) > 1))
    return tuple(found)


@dataclass
class Training:
    """A graph's nodes in training, in `b`; what becomes of running statistics is in `statistics`.

    `learned` constants are states. Normalizations whose statistics are `frozen` stay as in inference.
    """

    b: Builder
    graph: Graph
    batch: int
    learned: Collection[str]
    frozen: Collection[str]
    statistics: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    layers: int = 0

    def run(self) -> None:
        """Add the number of steps so far, and all nodes; `names` says what the graph's values are called."""
        self.state(COUNT, TensorType("f32", ()))
        self.sizes = {s: self.batch for n in self.graph for s in n.type.symbols}
        for n in self.graph:
            self.names[n.name] = self._made(n)

    def state(self, name: str, type: TensorType) -> str:
        """Add memory of the model's own."""
        return self.b.add(Node(name, "input", (), type))

    def _made(self, n: Node) -> str:
        inputs = [self.names[i] for i in n.inputs]
        if n.op == "input":
            return self.b.input(n.name, TensorType(n.type.dtype, n.type.static(**self.sizes)))
        if n.op == "const":
            if n.name in self.learned:
                return self.state(n.name, n.type)
            return self.b.const(n.name, self.graph.constants[n.name])
        if n.op == "batch_norm" and not {*n.inputs[3:]} & {*self.frozen}:
            return self._batch_norm(n, inputs)
        if n.op == "dropout":
            return self._dropout(n, inputs[0])
        if n.op == "stochastic_pool":
            return self._stochastic_pool(n, inputs[0])
        attrs = {k: self._fixed(v) for k, v in n.attrs}
        return self.b.op(n.op, inputs, n.name, n.origin, self.names.get(n.base, ""), **attrs)

    def _fixed(self, value: Any) -> Any:
        """An attribute with the size of the batch in the place of its name."""
        return tuple(self.sizes.get(e, e) if isinstance(e, str) else e for e in value) \
            if isinstance(value, tuple) else value

    def _batch_norm(self, n: Node, inputs: list[str]) -> str:
        """By the batch's mean and variance, which also go into the running ones (the latter unbiased)."""
        make, b = Parts(self.b, n), self.b
        x, weight, bias = inputs[:3]
        rank, axes = b.type(x).rank, tuple(a for a in range(b.type(x).rank) if a != 1)
        count, shape = make.count(x, axes), (b.type(weight).shape[0], *(1,) * (rank - 2))
        mean = make("reduce_mean", x, step="mean", axes=axes, keepdims=True)
        total = make("reduce_variation", x, mean, step="variation", axes=axes, keepdims=True)
        root = make("inverse_root", total, step="root", factor=1.0 / count, epsilon=n.attr["epsilon"])
        mean, total, root = (make("reshape", v, step="vector", shape=shape) for v in (mean, total, root))
        keep = n.attr["momentum"]
        for name, new, factor in ((n.inputs[3], mean, 1.0), (n.inputs[4], total, 1 / max(1, count - 1))):
            own = self.graph[name].type
            if name not in self.statistics:
                b.nodes[name] = Node(name, "input", (), own)
                b.constants.pop(name, None)
            view = make("reshape", new, step="view", shape=own.shape)
            self.statistics[name] = make("running", name, view, step="running", keep=keep,
                                         take=(1 - keep) * factor)
        vectors = (make("reshape", v, step="view", shape=shape) for v in (weight, bias))
        return make("batch_standard", x, *vectors, mean, root)

    def _dropout(self, n: Node, x: str) -> str:
        """Each element is left out with probability `ratio`."""
        ratio = float(n.attr["ratio"])
        return self.b.op("dropped", [x, *self._counters(n, x)], n.name, n.origin, layer=self.layers,
                         ratio=ratio, factor=1 / (1 - ratio))

    def _stochastic_pool(self, n: Node, x: str) -> str:
        """One element of each window: of numbers over exponentially distributed ones the greatest is each
        with a probability in proportion to it, which is Gumbel's choice by logarithms.
        """
        make, b = Parts(self.b, n), self.b
        sizes = b.type(x).static()[2:]
        place = b.const(f"{n.name}.place", np.arange(product(sizes), dtype=np.int32).reshape(sizes))
        weight = make("relu", x, step="weight")
        drawn = make("drawn", weight, *self._counters(n, x), step="drawn", layer=self.layers)
        top = make("max_pool", drawn, step="top", **n.attr)
        chosen = make("first_in_window", drawn, top, place, step="chosen", **n.attr)
        return make("chosen_in_window", weight, chosen, place, **n.attr)

    def _counters(self, n: Node, x: str) -> tuple[str, ...]:
        """What the random number of each element of x is made of beside its layer, the next one: its place,
        sample (of a weight the first index), step, and the seed.
        """
        b, type = self.b, self.b.type(x)
        count, *shape = type.static()
        index = b.const(f"{n.name}.index", np.arange(product(shape), dtype=np.int32).reshape(shape))
        samples = np.arange(count, dtype=np.int32).reshape(-1, *(1,) * len(shape))
        sample = b.const(f"{n.name}.sample", samples)
        self.layers += 1
        for word in SEED:
            if word not in b.nodes:
                b.input(word, TensorType("i32", ()))
        step = b.op("cast", [COUNT], f"{n.name}.step", to="i32")
        return index, sample, step, *SEED
