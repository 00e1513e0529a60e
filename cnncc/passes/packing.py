"""Factors that a call computes get a copy in an order that suits their kernel, where that pays."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cnncc.ir.expr import Load
from cnncc.ir.formula import multiply_add
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.infer import stage_lanes
from cnncc.ir.kernel import Kernel, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.target import Target
from cnncc.ir.types import product
from cnncc.passes.collapse import collapse
from cnncc.passes.layouts import CHANNEL, PACKED, copy_kernel, copy_of, fits
from cnncc.passes.movement import moves, through
from cnncc.passes.schedules import cheaper, cheapest, weights_of

GAIN = 0.95                 # of the cycles: what is worth a copy
REUSE = 32                  # times that each element is used at least


def pack_weights(graph: Graph, target: Target) -> Graph:
    """Factors of sums that the graph computes, and uses often, are copied before if that makes it faster."""
    known: dict[tuple[Kernel, tuple[str, ...], tuple[bool, ...]], _Pack | None] = {}
    partial = {n.base for n in graph}       # clauses write the rest: what reads a part must not read all
    b = Builder(graph.name)
    for n in graph:
        if n.kernel is not None:
            whole = tuple(i not in partial for i in n.inputs)
            key = n.kernel, weights_of(n, graph), whole
            if key not in known:
                known[key] = _worth(n, whole, graph, target)
            pack = known[key]
            if pack is not None:
                n = _packed(graph, n, pack, b)
        b.add(n)
    return replace(graph, nodes=b.nodes).live()


@dataclass(frozen=True)
class _Pack:
    """The operand that gets a copy; the kernel that reads it, None where that chooses the copy's order."""

    operand: Tensor
    kernel: Kernel | None


def _packed(graph: Graph, n: Node, pack: _Pack, b: Builder) -> Node:
    """Add a copy of what a node reads, made of the operand of what only moves that; the new node."""
    assert n.kernel is not None
    t, at = pack.operand, n.kernel.operands.index(pack.operand)
    source, kernel = graph[n.inputs[at]], pack.kernel or n.kernel
    whole = collapse(n.kernel).tensors[t.name].type == t.type     # the reader's order can be the copy's
    copy = copy_of(source, b.fresh(f"{n.name}.packed"))
    copy = replace(copy, kernel=copy_kernel(t, kernel.operands[at]))
    if pack.kernel is None:
        copy = replace(copy, attrs=(("does", PACKED),))
    if source.kernel is not None and not source.base and whole and moves(source):
        copy = through(source, copy) or copy
    return replace(n, inputs=(*n.inputs[:at], b.add(copy), *n.inputs[at + 1:]), kernel=kernel)


def _worth(n: Node, whole: tuple[bool, ...], graph: Graph, target: Target) -> _Pack | None:
    """The operand, of those that are `whole`, that is worth a copy, if one is: in its reader's order, or with
    channels in blocks.
    """
    assert n.kernel is not None
    weights, best = weights_of(n, graph), None
    tensors = [t for t in _computed(n, graph) if whole[n.kernel.operands.index(t)]]
    if not tensors:
        return None
    kernel = collapse(n.kernel)
    least = GAIN * cheapest(kernel, weights, target).cycles
    compute = n.kernel.flops() / (2 * target.fmas * target.lanes)       # what no order is faster than
    for t in tensors:
        copy = t.nbytes * (3 if t.nbytes > target.l2 else 2) / target.l3_bytes    # back from L3, too
        if compute + copy >= least:
            continue
        names = tuple(x.name for x in n.kernel.operands if x.name in (*weights, t.name))
        blocked = _in_blocks(n.kernel, t, target)
        ways = [(kernel, names), *([(collapse(blocked), weights)] if blocked else [])]
        for pack, way in zip((_Pack(t, None), _Pack(t, blocked)), ways, strict=False):
            found = cheaper(*way, target, math.inf if target.small else least - copy)
            if found is not None and found.cycles + copy < least:
                least, best = found.cycles + copy, pack
    return best


def _in_blocks(kernel: Kernel, t: Tensor, target: Target) -> Kernel | None:
    """The kernel as it reads an operand with channels in blocks; None where they aren't whole, or lie so."""
    lanes = target.lanes_of(t.type.dtype)
    if lanes != stage_lanes(kernel.stages[0], kernel.tensors, target) or t.type.rank <= CHANNEL + 1 \
            or int(t.type.shape[CHANNEL]) % lanes or not fits(kernel, t, lanes):
        return None
    new = replace(t, layout=Layout.blocked(t.type.rank, CHANNEL, lanes))
    operands = tuple(new if x == t else x for x in kernel.operands)
    return replace(kernel, operands=operands) if new != t else None


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
