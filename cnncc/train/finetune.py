"""Networks that begin with what others have learned: weights by name, another head, frozen layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from cnncc.frontend.weights import read_weights
from cnncc.ir.constants import Constants
from cnncc.ir.errors import InputError, ModelError, hint
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.signature import Array, OpenError
from cnncc.ir.types import product
from cnncc.passes.training import source_of


def with_weights(graph: Graph, source: str | os.PathLike[str] | Mapping[str, Array]
                 ) -> tuple[Graph, tuple[str, ...]]:
    """The graph with the arrays of a safetensors, npz or ONNX file, or mapping, as its constants.

    Arrays go by name, and must have as many elements, in the same order but for dimensions of 1. Returned as
    well are the names of the constants that nothing was found for. Raises ModelError for a bad file,
    InputError where it has nothing for this graph.
    """
    arrays, what = dict(source) if isinstance(source, Mapping) else _arrays(source), "weights"
    if isinstance(source, str | os.PathLike):
        what = os.fspath(source)
    constants, missing = Constants(graph.constants), list[str]()
    for name, own in graph.constants.items():
        found = arrays.get(name)
        if found is not None and _squeezed(found) == _squeezed(own) and found.dtype == own.dtype:
            constants[name] = np.ascontiguousarray(found).reshape(own.shape)
        else:
            missing.append(name)
    if len(missing) == len(constants):
        names = ", ".join(list(arrays)[:5]) or "nothing"
        raise InputError(f"{what}: has nothing for {graph.name}: it holds {names} ..., the network needs "
                         f"{', '.join(list(constants)[:5])} ...")
    return replace(graph, constants=constants), tuple(missing)


def _squeezed(a: Array) -> tuple[int, ...]:
    return tuple(e for e in a.shape if e != 1)


def _arrays(path: str | os.PathLike[str]) -> dict[str, Array]:
    if Path(path).suffix.lower() in (".safetensors", ".npz"):
        return read_weights(Path(path), os.fspath(path))
    from cnncc.frontend.onnx import graph_of
    from cnncc.frontend.onnx_file import load
    file = load(path)
    found = {t.name: file.array(t) for t in file.proto.graph.initializer if file.describe(t)[0] == np.float32}
    with suppress(OpenError):       # of which the weights are known all the same
        found |= graph_of(file).constants
    return found


def matching(graph: Graph, patterns: Sequence[str]) -> tuple[str, ...]:
    """The constants whose names match one of the patterns. Raises InputError for one that matches none."""
    names = [n for n, a in graph.constants.items() if a.dtype.kind == "f"]
    for pattern in patterns:
        if not any(fnmatchcase(n, pattern) for n in names):
            raise InputError(f"frozen: no weights match {pattern!r}{hint(pattern, names)}; they are "
                             f"{', '.join(names[:10])}{' ...' * (len(names) > 10)}")
    return tuple(n for n in names if any(fnmatchcase(n, p) for p in patterns))


def with_head(graph: Graph, classes: int, seed: int = 0) -> Graph:
    """The graph with a new last fully connected layer of `classes` outputs, and whatever follows it.

    Its weights are uniform with He's variance, by `seed`; biases begin as 0. Raises ModelError where the
    network doesn't end with such a layer.
    """
    if classes < 1:
        raise InputError(f"classes: expected at least 1, got {classes}")
    last, after = _head(graph)
    name = source_of(graph, last.inputs[1], ("dropout",)).name
    weight = graph.constants[name]
    old, columns = weight.shape
    width = (6 / columns) ** 0.5
    rng = np.random.PCG64([seed, classes])
    unit = (rng.random_raw(classes * columns) >> np.uint64(11)).astype(np.float64) * 2.0 ** -53
    new = {name: ((unit * 2 - 1) * width).reshape(classes, columns).astype(weight.dtype)}
    for n in after:
        for i in n.inputs:
            own = graph.constants.get(i)
            if own is not None and own.shape in ((old,), (1, old)):
                new[i] = np.zeros((*own.shape[:-1], classes), own.dtype)
    b = Builder(graph.name, {**graph.constants, **new})
    changed = {*new}
    for n in graph:
        if n.op == "input":
            b.input(n.name, n.type)
        elif n.name in new:
            b.nodes[n.name] = replace(n, type=replace(n.type, shape=new[n.name].shape))
        elif changed & {*n.inputs}:
            changed.add(n.name)
            b.op(n.op, n.inputs, n.name, n.origin, **n.attr)
        else:
            b.add(n)
    return b.graph(graph.outputs, graph.signals)


def _head(graph: Graph) -> tuple[Node, list[Node]]:
    """The last fully connected layer, and the nodes between it and the output."""
    after: list[Node] = []
    n = graph[graph.outputs[0][1]]
    while n.op != "linear" or source_of(graph, n.inputs[1], ("dropout",)).op != "const":
        values = [i for i in n.inputs if graph[i].op != "const"]
        if n.type.rank != 2 or len(values) != 1 or n.op in ("reshape", "input"):
            raise ModelError(f"{graph.name}: does not end with a fully connected layer whose outputs could "
                             f"be changed: {n.name} is {n.op}")
        after.append(n)
        n = graph[values[0]]
    if product([int(e) for e in n.type.shape[1:]]) != graph[n.inputs[1]].type.shape[0]:
        raise ModelError(f"{graph.name}: the outputs of {n.name} are not those of its weights")
    return n, after[::-1]
