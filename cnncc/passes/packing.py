"""Weights that a call computes get a copy in the order in which their kernel reads them, where that pays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from cnncc.ir.expr import Load
from cnncc.ir.formula import multiply_add
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.kernel import Kernel, Tensor
from cnncc.ir.target import Target
from cnncc.ir.types import product
from cnncc.passes.collapse import collapse
from cnncc.passes.layouts import PACKED, copy_kernel, copy_of
from cnncc.passes.movement import moves, through
from cnncc.passes.schedules import cheaper, cheapest, weights_of

GAIN = 0.95                 # of the cycles: what is worth a copy
REUSE = 32                  # times that each element is used at least


def pack_weights(graph: Graph, target: Target) -> Graph:
    """Factors of sums that the graph computes, and uses often, are copied before if that makes it faster."""
    known: dict[tuple[Kernel, tuple[str, ...]], Tensor | None] = {}
    b = Builder(graph.name)
    for n in graph:
        if n.kernel is not None:
            key = n.kernel, weights_of(n, graph)
            if key not in known:
                known[key] = _worth(n, graph, target)
            t = known[key]
            if t is not None:
                at = n.kernel.operands.index(t)
                copy = _copied(graph, n, at, b)
                n = replace(n, inputs=(*n.inputs[:at], copy, *n.inputs[at + 1:]))
        b.add(n)
    return replace(graph, nodes=b.nodes).live()


def _copied(graph: Graph, n: Node, at: int, b: Builder) -> str:
    """Add a copy of what a node reads, made of the operand of what only moves that; the name that it gets."""
    assert n.kernel is not None
    t, source = n.kernel.operands[at], graph[n.inputs[at]]
    copy = copy_of(source, b.fresh(f"{n.name}.packed"))
    copy = replace(copy, attrs=(("does", PACKED),), kernel=copy_kernel(t, t))
    whole = collapse(n.kernel).tensors[t.name].type == t.type     # the reader's order can be the copy's
    if source.kernel is not None and not source.base and whole and moves(source):
        copy = through(source, copy) or copy
    return b.add(copy)


def _worth(n: Node, graph: Graph, target: Target) -> Tensor | None:
    """The operand that is worth a copy, if there is one."""
    assert n.kernel is not None
    weights, best = weights_of(n, graph), None
    tensors = list(_computed(n, graph))
    if not tensors:
        return None
    kernel = collapse(n.kernel)
    least = GAIN * cheapest(kernel, weights, target).cycles
    compute = n.kernel.flops() / (2 * target.fmas * target.lanes)       # what no order is faster than
    for t in tensors:
        copy = t.nbytes * (1 / target.l3_stream + 1 / target.l3_bytes)
        if compute + copy >= least:
            continue
        names = tuple(x.name for x in n.kernel.operands if x.name in (*weights, t.name))
        found = cheaper(kernel, names, target, math.inf if target.small else least - copy)
        if found is not None and found.cycles + copy < least:
            least, best = found.cycles + copy, t
    return best


def _computed(n: Node, graph: Graph) -> Iterator[Tensor]:
    """Factors of a sum that walk all of it and are used many times over."""
    assert n.kernel is not None
    stage = n.kernel.stages[0]
    f = stage.first
    if len(n.kernel.stages) > 1 or f.fold != "+=" or f.scattered or stage.lookups:
        return
    for x in multiply_add(f) or ():
        if not isinstance(x, Load):
            continue
        t, at = n.kernel.tensors[x.tensor], [o.name for o in n.kernel.operands].index(x.tensor)
        dims = set(x.dims)
        fresh = [e if isinstance(e, int) else REUSE for d, e in f.extents if d not in dims]
        if graph[n.inputs[at]].op != "const" and not t.type.symbols and {*f.reduced} <= dims \
                and dims - {*f.reduced} and sum(y.tensor == t.name for y in stage.loads) == 1 \
                and n.inputs.count(n.inputs[at]) == 1 and t.type.dtype in ("f32", "f64") \
                and product(fresh) >= REUSE and all(len(i.dims) == 1 or not i.dims for i in x.index):
            yield t
