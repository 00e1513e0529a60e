"""Graph to smaller graph: constants, batch normalization, views, equal and unused nodes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from cnncc.ir.constants import Array, Later
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.loops import absorbed
from cnncc.ir.ops import OPS
from cnncc.ir.plan import aligned
from cnncc.ir.reference import evaluate
from cnncc.ir.target import Target
from cnncc.ir.types import NUMPY, product

FOLD_LIMIT = 1 << 26        # elements that a folded constant may have


class Rebuild(Builder):
    """A graph copied node by node, with values renamed on the way."""

    def __init__(self, graph: Graph) -> None:
        super().__init__(graph.name, graph.constants)
        self.inputs = list(graph.inputs)
        self.renamed: dict[str, str] = {}
        self.old = graph

    def name_of(self, value: str) -> str:
        return self.renamed.get(value, value)

    def taken(self, name: str) -> bool:
        """Whether a name is a node's, or a constant's that may not be copied yet."""
        return name in self.nodes or name in self.old.constants

    def copy(self, n: Node) -> str:
        """The node as it was; it gives way to what took its name before."""
        name = n.name
        if name in self.nodes:
            self.renamed[name] = name = self.fresh(name)
        return self.add(replace(n, name=name, inputs=tuple(self.name_of(i) for i in n.inputs),
                                base=self.name_of(n.base)))

    def finish(self) -> Graph:
        return self.graph([(user, self.name_of(v)) for user, v in self.old.outputs], self.old.signals,
                          [(name, self.name_of(v)) for name, v in self.old.state]).live()


class Room:
    """New arrays in one piece of memory: NumPy asks for huge pages for a large one, which are got faster."""

    def __init__(self, nbytes: int) -> None:
        self.left = np.empty(nbytes, np.uint8)

    def like(self, array: Array) -> Array:
        taken, self.left = np.split(self.left, [aligned(array.nbytes)])
        return taken[:array.nbytes].view(array.dtype).reshape(array.shape)


def fold_batchnorm(graph: Graph, target: Target) -> Graph:
    """Batch normalization by constants: after a convolution (or its bias) a part of the weights and the bias,
    else a factor and a term. Dropped elements are those of training: the operands stay.
    """
    graph = expand_but(graph, OPS.keys() - {"dropout"})
    users = graph.users()
    b = Rebuild(graph)
    room = Room(sum(aligned(graph.constants[n.inputs[1]].nbytes) for n in graph
                    if n.op == "conv" and graph[n.inputs[1]].op == "const"))
    for n in graph:
        if n.op != "batch_norm" or not all(graph[i].op == "const" for i in n.inputs[1:]):
            b.copy(n)
            continue
        x, dtype = graph[n.inputs[0]], graph[n.inputs[0]].type.numpy
        vectors = (graph.constants[i].astype(np.float64).reshape(-1, *(1,) * (x.type.rank - 2))
                   for i in n.inputs[1:])
        weight, bias, mean, variance = vectors
        with np.errstate(all="ignore"):
            scale = weight / np.sqrt(variance + n.attr["epsilon"])
            shift = bias - mean * scale
        extra: tuple[str, ...] = ()
        if x.op == "add" and len(users[x.name]) == 1 and graph[x.inputs[1]].op == "const" \
                and graph.constants[x.inputs[1]].shape == scale.shape and graph[x.inputs[0]].op == "conv":
            shift = shift + graph.constants[x.inputs[1]] * scale
            extra, x = x.origin, graph[x.inputs[0]]
        origin = tuple(dict.fromkeys((*x.origin, *extra, *n.origin)))
        if x.op != "conv" or graph[x.inputs[1]].op != "const" or len(users[x.name]) != 1:
            origin = n.origin
            factor = b.const(n.name + ".scale", scale.astype(dtype))
            y = b.op("mul", [b.name_of(n.inputs[0]), factor], n.name + ".scaled", origin)
            shift = bias - mean * scale
        else:
            w = graph.constants[x.inputs[1]]
            folded = functools.partial(_scaled, w, scale.reshape(-1, *[1] * (w.ndim - 1)), room.like(w))
            weights = b.const(x.inputs[1] + ".bn", Later(w.shape, w.dtype, folded))
            y = b.op("conv", [b.name_of(x.inputs[0]), weights], n.name + ".conv", origin, **x.attr)
        b.renamed[n.name] = b.op("add", [y, b.const(n.name + ".shift", shift.astype(dtype))], n.name, origin)
    return b.finish()


def _scaled(weights: Array, factor: Array, out: Array) -> Array:
    """Their product in double precision, rounded into `out`."""
    with np.errstate(all="ignore"):
        return np.multiply(weights, factor, out=out, casting="unsafe")


def expand(graph: Graph, target: Target) -> Graph:
    """Ops composed of others are replaced by what they are made of, until none is left."""
    return expand_but(graph, set())


def expand_but(graph: Graph, kept: Collection[str]) -> Graph:
    """Ops composed of others, but those `kept`, replaced by what they are made of, until none is left."""
    def parts(n: Node) -> Callable[[Rebuild, Node], str] | None:
        return OPS[n.op].composed if n.op in OPS and n.op not in kept else None
    while any(map(parts, graph)):
        b = Rebuild(graph)
        for n in graph:
            composed = parts(n)
            if composed is None:
                b.copy(n)
            else:
                b.renamed[n.name] = composed(b, replace(n, inputs=tuple(b.name_of(i) for i in n.inputs)))
        graph = b.finish()
    return graph


def fold_constants(graph: Graph, target: Target) -> Graph:
    """What depends on constants only is computed now; adding zeros and reshaping to the same shape vanish.

    A constant divisor becomes a factor, with `strict` precision only where that is exact.
    Constants of which all turns of a loop read the same are constants of its body.
    """
    b = Rebuild(graph)
    clauses = graph.clauses()
    for n in graph:
        inputs = [b.name_of(i) for i in n.inputs]
        known = [b.nodes[i].op == "const" for i in inputs]
        if n.loop is not None:
            known_ones = {i: b.constants[i] for i in inputs if b.nodes[i].op == "const"}
            b.copy(absorbed(replace(n, inputs=tuple(inputs)), known_ones))
        elif n.name in clauses:
            b.copy(n)
        elif n.op in OPS and inputs and all(known) and product([int(e) for e in n.type.shape]) <= FOLD_LIMIT:
            nodes = {i: b.nodes[i] for i in inputs} | {n.name: replace(n, inputs=tuple(inputs))}
            part = Graph(n.name, nodes, (), ((n.name, n.name),), b.constants.only(inputs))
            value = evaluate(part, {})[n.name]
            b.renamed[n.name] = b.const(n.name, np.asarray(value, NUMPY[n.type.dtype]))
        elif inputs and n.type == b.type(inputs[0]) and (
                n.op == "reshape" or (n.op == "add" and known[1] and not b.constants[inputs[1]].any())):
            b.renamed[n.name] = inputs[0]
        elif n.op == "div" and known[1] and (factor := _inverse(b.constants[inputs[1]], target)) is not None:
            inverse = b.const(f"{n.name}.factor", factor)
            b.renamed[n.name] = b.op("mul", [inputs[0], inverse], n.name, n.origin)
        else:
            b.copy(n)
    return b.finish()


def _inverse(divisor: Array, target: Target) -> Array | None:
    """What to multiply by instead of dividing: where that is a normal number, and exact for `strict` code."""
    if divisor.dtype.kind != "f":
        return None
    with np.errstate(all="ignore"):
        factor: Array = 1 / divisor
    exact = not target.strict or bool((np.abs(np.frexp(divisor)[0]) == 0.5).all())
    normal = np.isfinite(factor) & (np.abs(factor) >= np.finfo(divisor.dtype).tiny)
    return factor if exact and normal.all() else None


def merge_views(graph: Graph, target: Target) -> Graph:
    """A reshape before a fully connected layer becomes one of its weights; of two reshapes one stays."""
    b = Rebuild(graph)
    for n in graph:
        view = graph[n.inputs[0]] if n.inputs else None
        if view is None or view.op != "reshape":
            b.copy(n)
            continue
        x, origin = view.inputs[0], view.origin + n.origin
        shape = graph[x].type.shape
        if n.op == "reshape":
            b.renamed[n.name] = b.op("reshape", [b.name_of(x)], n.name, origin, **n.attr)
        elif n.op == "linear" and graph[n.inputs[1]].op == "const" and shape[0] == view.type.shape[0]:
            w = graph.constants[n.inputs[1]]
            weights = b.const(n.inputs[1] + ".view", w.reshape(w.shape[0], *(int(e) for e in shape[1:])))
            b.renamed[n.name] = b.op("linear", [b.name_of(x), weights], n.name, origin)
        else:
            b.copy(n)
    return b.finish()


def share_equal(graph: Graph, target: Target) -> Graph:
    """Nodes that compute the same from the same become one (common subexpressions); unused ones go."""
    b = Rebuild(graph)
    seen: dict[object, str] = {}
    clauses = graph.clauses()
    for n in graph:
        if n.op in ("input", "const") or n.name in clauses:
            b.copy(n)
            continue
        inputs = tuple(b.name_of(i) for i in n.inputs)
        first = seen.setdefault((n.op, inputs, n.attrs), n.name)
        if first == n.name:
            b.copy(n)
        else:
            b.renamed[n.name] = first
    return b.finish()
