"""Pre-activation: an elementwise operand of a sum becomes a stage of its kernel, a task's part at a time.

Batch normalization and ReLU before a convolution (DenseNet, residual networks with pre-activation) or a gate
(squeeze and excitation) go to scratch memory for all channels of some pixels, where the sums for all results
of these pixels find them.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from math import prod

from cnncc.ir.formula import multiply_add
from cnncc.ir.graph import Graph, Node
from cnncc.ir.regions import scratch_shapes
from cnncc.ir.schedule import Schedule
from cnncc.ir.target import Target
from cnncc.ir.types import HINT, product
from cnncc.passes.collapse import collapse
from cnncc.passes.layouts import CHANNEL, PACKED
from cnncc.passes.prices import HIDDEN, count_of, number
from cnncc.passes.schedules import ENOUGH, candidates, cheapest, weights_of
from cnncc.passes.stages import merged, reads, rises, single

GAIN = 0.99                 # of the cycles: what is worth a second stage
FILLED = 0.25               # the part of L2 that a task's part may fill
STAYS = 0.5                 # the part of L2 that a value may fill that stays there from kernel to kernel
Pair = tuple[Node, Node]


def stage_inputs(graph: Graph, target: Target) -> Graph:
    """Elementwise operands of sums of products are computed in their reader's tasks, where that is faster."""
    nodes, users = dict(graph.nodes), graph.users()
    known: dict[object, Schedule | None] = {}
    for n in graph:
        for p in (nodes[i] for i in n.inputs if i in nodes and users[i] == [n.name] and i != n.base):
            pair = _pair(p, n)
            if pair is None:
                continue
            weights = weights_of(n, graph)
            key = p.kernel, n.kernel, n.inputs.index(p.name), weights
            if key not in known:
                known[key] = _tasks(p, n, pair, weights, target)
            if (loops := known[key]) is not None:
                nodes[n.name] = merged(*pair, loops)
                del nodes[p.name]
                break
    return replace(graph, nodes=nodes)


def _pair(p: Node, n: Node) -> Pair | None:
    """An elementwise node and the sum that reads it, in as few dimensions as both allow; None for others."""
    if p.kernel is None or n.kernel is None or p.base or p.attr["does"] == PACKED \
            or len(p.kernel.stages) > 1 or len(n.kernel.stages) > 1:
        return None
    first, last = p.kernel.stages[0], n.kernel.stages[0]
    if first.first.fold != "=" or first.lookups or not multiply_add(last.first) \
            or len(reads(p.name, n)) != 1 or not single(p) or not rises(p.name, n):
        return None
    for a, b in ((collapse(p.kernel), collapse(n.kernel)), (p.kernel, n.kernel)):
        pair = replace(p, kernel=a), replace(n, kernel=b)
        own = {i: (t.type, t.layout) for t, i in zip(a.operands, (*p.inputs, p.name), strict=True)}
        read = {i: (t.type, t.layout) for t, i in zip(b.operands, n.inputs, strict=False)}
        if all(own[i] == read[i] for i in {*own} & {*read}):
            return pair
    return None


def _tasks(p: Node, n: Node, pair: Pair, weights: tuple[str, ...], target: Target) -> Schedule | None:
    """The loops around both stages; None where two kernels should be as fast.

    No task computes channels that another one needs too: all its sums are over its pixels.
    """
    own, reader, (read,) = pair[0].kernel, pair[1].kernel, reads(p.name, pair[1])
    assert own is not None and reader is not None and n.kernel is not None
    batch, held = HINT if p.type.symbols else 1, reader.tensors[read.tensor]
    if held.nbytes * batch < STAYS * target.l2:
        return None
    most = GAIN * cheapest(collapse(n.kernel), weights, target).cycles
    pixels = {d for axis, i in enumerate(read.index) if axis != CHANNEL for d in i.dims}
    saved = 2 * held.nbytes * batch * HIDDEN / target.l3_stream
    alone = cheapest(own, (), target)
    lanes = {x.dim: x.step for x in alone.inside if x.kind == "unroll" and x.step > 1}      # of its vectors
    for c in candidates(reader, weights, target, part=True, price=most + saved):
        par = [x for x in c.outside if x.kind == "par"]
        loops = tuple(takewhile(lambda x: x.dim in pixels, par))
        kernel = merged(*pair, Schedule(loops)).kernel
        assert kernel is not None
        box, = scratch_shapes(kernel).values()
        part, whole = held.layout.elements(box), held.layout.elements(held.type.shape)
        steps = [lanes.get(i.single or "", 1) for i in own.stages[0].out.index]
        full = prod(count_of(e, n) * n / e for e, n in zip(map(number, box), steps, strict=True))
        if (par and not loops) or part * held.nbytes > FILLED * target.l2 * whole:
            continue
        extents = [(reader.stages[0].extents[x.dim], x.step) for x in loops]
        tasks = product([count_of(e, step) for e, step in extents if isinstance(e, int)])
        fewer = max(0, 1 / tasks - 1 / ENOUGH) if len(loops) < len(par) else 0
        again = alone.cycles * max(0, tasks * part * full / whole - 1)
        return Schedule(loops) if c.cycles * (1 + fewer) + again - saved < most else None
    return None
