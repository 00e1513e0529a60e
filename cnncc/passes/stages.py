"""Kernels that feed each other become stages of one kernel: what one turn of shared loops needs is in cache.

Two cases, one mechanism. Rows: a chain of small kernels over the same batch index (softmax) is one kernel per
row. Strips: where a large image goes from a kernel to its only reader and one of the two is limited by
memory, both run on strips of rows; what the windows overlap is computed again. Where channels share nothing,
as in Winograd's transforms, strips are of one vector of these, and pay from images on that leave L2.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import chain, count

from cnncc.ir.expr import Load
from cnncc.ir.formula import outside
from cnncc.ir.graph import Graph, Node
from cnncc.ir.infer import stage_lanes
from cnncc.ir.kernel import ACC, Kernel, Stage, Tensor
from cnncc.ir.schedule import Loop, Schedule
from cnncc.ir.target import Target
from cnncc.ir.types import HINT, product
from cnncc.passes.layouts import CHANNEL
from cnncc.passes.schedules import ENOUGH

ROW = 1 << 12               # elements of a row that one task may hold
LIGHT = 64                  # operations per element below which a kernel is limited by memory
STAGES = 16                 # of one kernel
ROWWISE = 0.15              # what tiles within single rows cost more than tiles over whole images
AXIS_ROWS = 2               # images are n, c, h, w: strips are of h


def fuse_stages(graph: Graph, target: Target) -> Graph:
    """Softmax-like chains per row; depthwise with pointwise, convolution with pooling, per strip of rows;
    Winograd's transforms of two axes.
    """
    nodes = dict(graph.nodes)
    users = {value: set(readers) for value, readers in graph.users().items()}
    for name in reversed(list(nodes)):
        while (n := nodes.get(name)) is not None and n.kernel is not None:
            own = [p for p in dict.fromkeys(n.inputs) if nodes[p].kernel and users[p] == {name}
                   and p != n.base and not nodes[p].base and rises(p, n)]
            joined = (_rows(nodes[p], n) or _strips(nodes[p], n, target) for p in own)
            made = next(filter(None, joined), None)
            if made is None:
                break
            gone = next(p for p in own if p not in made.inputs)
            for i in nodes[gone].inputs:
                users[i].discard(gone)
                users[i].add(name)
            nodes[name] = made
            del nodes[gone]
    return replace(graph, nodes=nodes)


def single(p: Node) -> bool:
    """Whether every axis of a kernel's result is indexed by one dimension."""
    assert p.kernel is not None
    return all(i.single or not i.terms for i in p.kernel.stages[-1].out.index)


def rises(p: str, n: Node) -> bool:
    """Whether the indices by which a kernel reads its operand `p` are intervals where its dimensions are.

    Those of channels begin at 0, because a part of them would begin within a block of memory.
    """
    assert n.kernel is not None
    names = _called(p, n)
    if any(names & s.lookups or s.formulas[-1].scattered for s in n.kernel.stages):
        return False
    return all(i.lookup is None and all(c > 0 for _, c in i.terms) and not (axis == CHANNEL and i.const)
               for x in reads(p, n) for axis, i in enumerate(x.index))


def reads(p: str, n: Node) -> list[Load]:
    """How a kernel reads its operand `p`."""
    assert n.kernel is not None
    names = _called(p, n)
    return [x for s in n.kernel.stages for x in s.loads if x.tensor in names]


def _called(p: str, n: Node) -> set[str]:
    """What a kernel calls its operand `p`."""
    assert n.kernel is not None
    return {t.name for t, i in zip(n.kernel.operands, n.inputs, strict=False) if i == p}


def _elements(t: Tensor) -> int:
    return product([1 if isinstance(e, str) else e for e in t.type.shape])


def _reached(kernel: Kernel, t: Tensor) -> int:
    """The elements of an operand between the first and the last place that are accessed along each axis."""
    loads = [(x, f) for s in kernel.stages for f in s.formulas for x in (f.out, *f.loads)
             if x.tensor == t.name]
    result = 1
    for axis, extent in enumerate(t.type.shape):
        if isinstance(extent, int):
            own = [(x.index[axis], f.sizes) for x, f in loads]
            ends = [p for i, sizes in own for p in i.bounds({d: int(sizes[d]) for d in i.dims})]
            whole = not own or any(i.lookup is not None for i, _ in own)
            result *= extent if whole else min(extent, 1 + max(ends) - min(ends))
    return result


def _rows(p: Node, n: Node) -> Node | None:
    """One kernel per batch index, where all values of a row are few."""
    assert p.kernel is not None and n.kernel is not None
    if len(n.kernel.stages) == STAGES or not single(p):
        return None
    if len(p.kernel.stages) != 1 or any(
            _reached(k, t) > ROW for k in (p.kernel, n.kernel) for t in k.operands):
        return None
    if n.kernel.loops.loops and any(x.step != 1 for x in n.kernel.loops.loops):
        return None
    last = n.kernel.stages[-1]
    lead = last.out.index[0].single if last.out.index else None
    shared: tuple[Loop, ...] = ()
    if lead is not None and (isinstance(last.extents[lead], str) or n.kernel.loops.loops):
        for s in (*n.kernel.stages[:-1], last, p.kernel.stages[0]):
            if any(x.index and x.index[0].single != lead for x in s.loads) \
                    or not s.out.index or s.out.index[0].single != lead:
                return None
        shared = (Loop("par", lead),)
    if not (_elementwise(p.kernel.stages[0]) or _elementwise(last) or len(n.kernel.stages) > 1):
        return None
    return merged(p, n, Schedule(shared))


def _elementwise(s: Stage) -> bool:
    return s.first.fold == "="


@dataclass(frozen=True)
class Windows:
    """How a kernel reads what another one made: for each of `height` steps along its dimension `row` it needs
    `window` of the `rows`, `stride` rows further on each time. `blocks` vectors of `channel` share nothing.
    """

    rows: int
    row: str
    height: int
    window: int
    stride: int
    channel: str = ""
    blocks: int = 1

    @property
    def overlap(self) -> int:
        """The rows that two steps read."""
        return max(self.window - self.stride, 0)


def _windows(p: Node, n: Node, target: Target) -> Windows | None:
    """How `n` reads `p` row after row; None where strips of rows can't be stages of one kernel."""
    assert p.kernel is not None and n.kernel is not None
    if len(p.kernel.stages) != 1 or len(n.kernel.stages) != 1 or n.type.rank <= AXIS_ROWS:
        return None
    first, last = p.kernel.stages[0], n.kernel.stages[0]
    found = reads(p.name, n)
    if len(found) != 1 or len(last.out.index) <= AXIS_ROWS or "=" in (first.first.fold, last.first.fold):
        return None
    read = found[0]
    row = next((d for d in last.out.index[AXIS_ROWS].dims if d in read.dims), "")
    axes = [a for a, i in enumerate(read.index) if row in i.dims]
    if len(axes) != 1 or axes[0] < AXIS_ROWS or not _whole(p, read, last, axes[0]):
        return None
    index, written = read.index[axes[0]], last.out.index[AXIS_ROWS]
    cut = len(written.dims) > 2 and outside(written, n.type.shape[AXIS_ROWS], last.extents)
    if index.coefficient(row) < 1 or cut:            # phases are cut in each strip in another way
        return None
    window = 1 + sum(c * (int(last.extents[d]) - 1) for d, c in index.terms if d != row)
    result = Windows(int(p.type.shape[axes[0]]), row, int(last.extents[row]), window, index.coefficient(row))
    lanes, channels = stage_lanes(last, n.kernel.tensors, target), int(p.type.shape[CHANNEL])
    alike = stage_lanes(first, p.kernel.tensors, target) == lanes and channels % lanes == 0
    channel = _apart(first, last, read) if alike else None
    if channel is None or channel in (last.out.index[0].single, row):
        return result
    return replace(result, channel=channel, blocks=channels // lanes)


def _strips(p: Node, n: Node, target: Target) -> Node | None:
    """Strips of rows, where the memory traffic saved is worth more than the rows computed twice.

    Where channels share nothing, strips are of one vector of these, and longer.
    """
    assert p.kernel is not None and n.kernel is not None
    kernels, w = (p.kernel, n.kernel), _windows(p, n, target)
    if w is None or min(k.flops() / _elements(k.output) for k in kernels) > LIGHT:
        return None
    images = 1 if isinstance(p.type.shape[0], str) else int(p.type.shape[0])
    bytes_per_row = p.kernel.output.nbytes / images / w.rows / w.blocks
    room = target.l2 / (2 if w.overlap or w.blocks > 1 else 8)      # what overlaps is worth long strips
    strip = min(w.height, int((room / bytes_per_row - w.overlap) // w.stride))
    if strip < 1:
        return None
    tasks = -(-ENOUGH // (w.blocks * images)) if w.blocks > 1 else 1
    strip = -(-w.height // max(-(-w.height // strip), min(tasks, w.height)))
    batch = HINT if p.type.symbols else 1
    nbytes = p.kernel.output.nbytes * batch
    compute = [k.flops() * batch / (2 * target.fmas * target.lanes) for k in kernels]
    cost = w.overlap / (strip * w.stride) * compute[0] + ROWWISE * sum(compute)
    near = nbytes / target.l3_stream if w.blocks > 1 and nbytes > target.l2 else 0
    saved = 2 * nbytes / target.memory_bytes if nbytes > target.l3 / 2 else near
    if cost >= saved:
        return None
    lead = n.kernel.stages[0].out.index[0].single
    shared = [Loop("par", lead)] if lead is not None else []
    shared += [Loop("par", w.channel, int(p.type.shape[CHANNEL]) // w.blocks)] if w.blocks > 1 else []
    return merged(p, n, Schedule((*shared, Loop("par", w.row, strip))))


def _apart(first: Stage, last: Stage, read: Load) -> str | None:
    """The last stage's channels where they share nothing: each is made of one, and all loads differ."""
    own, channel = first.out.index[CHANNEL].single, read.index[CHANNEL].single
    apart = channel in last.out.dims and all(channel in x.dims for x in last.first.loads) \
        and all(own in x.dims for x in first.first.loads)
    return channel if apart else None


def _whole(p: Node, read: Load, last: Stage, rows: int) -> bool:
    """Whether each axis of a kernel's result is one dimension, or else no row's and read from end to end."""
    assert p.kernel is not None
    sizes = {d: HINT if isinstance(e, str) else e for d, e in last.extents.items()}
    indices = zip(p.kernel.stages[0].out.index, read.index, p.type.shape, strict=True)
    for axis, (own, i, e) in enumerate(indices):
        low, high = i.bounds(sizes)
        if own.terms and not own.single and (axis in (0, CHANNEL, rows) or low > 0 or high < int(e) - 1):
            return False
    return True


def merged(p: Node, n: Node, shared: Schedule) -> Node:
    """The stages of both, the producer's result in scratch memory, with names that don't clash."""
    assert p.kernel is not None and n.kernel is not None
    names: dict[str, str] = {}
    tensors: list[Tensor] = []
    inputs: list[str] = []
    taken = {t.name for t in (*n.kernel.operands, *n.kernel.scratch)}
    scratch = _free("t", taken)
    taken.add(scratch)
    for t, i in zip(n.kernel.operands, n.inputs, strict=False):
        if i == p.name:
            names[t.name] = scratch
        else:
            tensors.append(t)
            inputs.append(i)
    mine: dict[str, str] = {"y": scratch}
    for t, i in zip(p.kernel.operands, p.inputs, strict=False):
        if i in inputs:
            mine[t.name] = tensors[inputs.index(i)].name
            continue
        mine[t.name] = _free(t.name, taken)
        taken.add(mine[t.name])
        tensors.append(replace(t, name=mine[t.name]))
        inputs.append(i)
    front = tuple(_renamed(s, mine) for s in p.kernel.stages)
    back = tuple(_renamed(s, names) for s in n.kernel.stages)
    held = replace(p.kernel.output, name=scratch)
    kernel = Kernel((*tensors, n.kernel.output), (*front, *back), (held, *n.kernel.scratch), shared)
    does = f"{p.attr['does']}>{n.attr['does']}"
    return replace(n, inputs=tuple(inputs), kernel=kernel, attrs=(("does", does),),
                   origin=tuple(dict.fromkeys((*p.origin, *n.origin))))


def _free(name: str, taken: set[str]) -> str:
    return next(c for c in chain([name], (f"{name}{i}" for i in count(2))) if c not in taken)


def _renamed(s: Stage, names: Mapping[str, str]) -> Stage:
    tensors = {k: v for k, v in names.items() if k != ACC}
    return replace(s, formulas=tuple(f.renamed(tensors) for f in s.formulas))

