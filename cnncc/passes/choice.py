"""Schedules are chosen: of each kernel's candidates the cheapest, or what was measured to be faster."""

from __future__ import annotations

import logging
from dataclasses import replace

from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import Kernel
from cnncc.ir.regions import parts, placed
from cnncc.ir.schedule import Schedule
from cnncc.ir.target import Target
from cnncc.passes.collapse import collapse
from cnncc.passes.layouts import PACKED, copy_kernel
from cnncc.passes.refine import refined
from cnncc.passes.schedules import candidates, cheapest, weights_of
from cnncc.passes.tuned import Tuned

log = logging.getLogger("cnncc")


def choose_schedules(graph: Graph, target: Target, tuned: Tuned | None = None) -> Graph:
    """The cheapest candidate of each kernel, or the tuned one; weights take the order of its reading."""
    known: dict[tuple[Kernel, tuple[str, ...]], Kernel] = {}
    nodes: dict[str, Node] = {}
    over = bool(graph.state) or any(n.op == "state" for n in graph)     # results may be written over operands

    def chosen(kernel: Kernel, weights: tuple[str, ...]) -> Kernel:
        if (kernel, weights) not in known:
            new = schedule(kernel, weights, target, tuned)
            known[kernel, weights] = refined(new, weights, target, over)
        return known[kernel, weights]
    for n in graph:
        if n.kernel is not None and n.attr["does"] != PACKED:
            kernel = chosen(n.kernel, weights_of(n, graph))
            for old, new, i in zip(collapse(n.kernel).operands, kernel.operands, n.inputs, strict=False):
                copy = nodes[i].kernel
                if copy is not None and nodes[i].attr["does"] == PACKED:
                    if copy.output.type == new.type:
                        operands = *copy.operands[:-1], replace(copy.output, layout=new.layout)
                        copy = replace(copy, operands=operands)
                    else:
                        copy = copy_kernel(old, new)
                    nodes[i] = replace(nodes[i], kernel=chosen(copy, ()))
            n = replace(n, kernel=kernel)
        nodes[n.name] = n
    return replace(graph, nodes=nodes)


def schedule(kernel: Kernel, weights: tuple[str, ...], target: Target, tuned: Tuned | None = None) -> Kernel:
    """The kernel with the cheapest loops, or those that were measured to be faster.

    Stages that share loops are scheduled each for its part, taps of placed rows in loops of their own.
    """
    if len(kernel.stages) == 1:
        choice = tuned.choice(kernel, weights) if tuned else None
        if choice is not None:
            fitting = [c for c in candidates(kernel, weights, target) if str(c.loops) == choice.loops]
            if fitting:
                return fitting[0].kernel
            log.warning("tuned loops are no candidate any more: %s", choice.loops)
        return cheapest(collapse(kernel), weights, target).kernel
    for j, part in enumerate(parts(kernel)):
        around = placed(kernel, kernel.stages[j]) if j < len(kernel.stages) - 1 else set()
        indices = [i.dims for x in part.stages[0].loads for i in x.index if around & {*i.dims}]
        windows = frozenset(d for dims in indices if len(dims) > 1 for d in dims)
        own = tuple(w for w in weights if w in part.tensors)
        best = cheapest(part, own, target, windows).kernel
        loops = tuple(replace(x, kind="for") for x in best.loops.loops) + best.stages[0].schedule.loops
        stages = [replace(s, schedule=Schedule(loops)) if i == j else s for i, s in enumerate(kernel.stages)]
        chosen = best.tensors
        operands = tuple(replace(t, layout=chosen[t.name].layout) if t.name in weights and t.name in chosen
                         else t for t in kernel.operands)
        kernel = replace(kernel, operands=operands, stages=tuple(stages))
    return kernel
