"""Memory order of every value: channels in blocks of a vector between kernels, plain at the user's side."""

from __future__ import annotations

from dataclasses import replace

from cnncc.ir.expr import Index, Load
from cnncc.ir.formula import Formula, multiply_add
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.infer import stage_lanes
from cnncc.ir.kernel import Kernel, Stage, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.target import Target
from cnncc.ir.types import Extent, TensorType, product

CHANNEL = 1
PACKED = "pack"             # what a copy does whose order its reader decides


def choose_layouts(graph: Graph, target: Target) -> Graph:
    """Blocked channels wherever all kernels that touch a value can index them so; no reorder between them.

    A copy is put in only where the user's memory is plain and a kernel can't write it by whole vectors.
    """
    copied = _copy_results(graph, {*graph.nodes})
    graph = _copy_results(graph, _blocked(copied, _lanes(copied, target)))
    lanes = _lanes(graph, target)
    blocked = _blocked(graph, lanes)
    layouts = {n.name: Layout.blocked(n.type.rank, CHANNEL, lanes[n.name]) if n.name in blocked
               else _plain(n.type) for n in graph}
    nodes: dict[str, Node] = {}
    for n in graph:
        if n.kernel is not None:
            tensors = tuple(replace(t, layout=layouts[i])
                            for t, i in zip(n.kernel.operands, (*n.inputs, n.name), strict=True))
            scratch = tuple(replace(t, layout=_scratch_layout(n.kernel, t, target)) for t in n.kernel.scratch)
            kernel = replace(n.kernel, operands=tensors, scratch=scratch)
            constants = {t.name for t, i in zip(tensors, n.inputs, strict=False) if graph[i].op == "const"}
            tensors = tuple(replace(t, layout=_constant_layout(kernel, t, target))
                            if t.name in constants else t for t in tensors)
            nodes[n.name] = replace(n, kernel=replace(kernel, operands=tensors))
        else:
            nodes[n.name] = n
    return replace(graph, nodes=nodes)


def _scratch_layout(kernel: Kernel, t: Tensor, target: Target) -> Layout:
    lanes = _lanes_of(kernel, t, target)
    if t.type.rank > CHANNEL and _many(t.type.shape[CHANNEL], lanes) and fits(kernel, t, lanes):
        return Layout.blocked(t.type.rank, CHANNEL, lanes)
    return Layout.plain(t.type.rank)


def _squeezes(n: Node, graph: Graph) -> bool:
    """Whether a reshape only drops or adds extents of 1 behind the channels: any layout stays what it is."""
    source = graph[n.inputs[0]].type
    def core(t: TensorType) -> tuple[object, ...]:
        return (*t.shape[:CHANNEL + 1], *(e for e in t.shape[CHANNEL + 1:] if e != 1))
    return source.rank > CHANNEL and n.type.rank > CHANNEL and core(source) == core(n.type)


def _many(channels: Extent, lanes: int) -> bool:
    """Whether blocks of vectors would be full by more than half."""
    return lanes > 0 and isinstance(channels, int) and channels > lanes // 2


def _lanes_of(kernel: Kernel, t: Tensor, target: Target) -> int:
    """The lanes of the stages that touch a tensor, 0 where they differ: a block is a vector of each."""
    found = {stage_lanes(s, kernel.tensors, target) for s in kernel.stages
             for x in (s.out, *s.loads) if x.tensor == t.name}
    return found.pop() if len(found) == 1 else 0


def _lanes(graph: Graph, target: Target) -> dict[str, int]:
    """The lanes of all kernels that touch a value, 0 where they differ."""
    found: dict[str, set[int]] = {name: set() for name in graph.nodes}
    for n in graph:
        if n.kernel is not None:
            for t, value in zip(n.kernel.operands, (*n.inputs, n.name), strict=True):
                found[value].add(_lanes_of(n.kernel, t, target))
    return {name: lanes.pop() if len(lanes) == 1 else 0 for name, lanes in found.items()}


def _plain(t: TensorType) -> Layout:
    """Row-major; extents of 1 come early: the last axis is the one that is contiguous in memory."""
    return Layout(tuple((a, 0) for a in sorted(range(t.rank), key=lambda a: (a != 0, t.shape[a] != 1, a))))


def _constant_layout(kernel: Kernel, t: Tensor, target: Target) -> Layout:
    """Constants along the vector alone are padded to whole vectors; the schedule pass orders weights."""
    shape, lanes = t.type.shape, _lanes_of(kernel, t, target)
    for axis, extent in enumerate(shape):
        if lanes and extent != 1 and all(e == 1 for a, e in enumerate(shape) if a != axis) \
                and not any(t.name in s.lookups for s in kernel.stages):
            reads = [(x, s) for s in kernel.stages for x in s.loads if x.tensor == t.name]
            if all(x.index[axis].single in _contiguous(kernel, s) for x, s in reads):
                return Layout.blocked(t.type.rank, axis, lanes)
    return _plain(t.type)


def _contiguous(kernel: Kernel, s: Stage) -> set[str]:
    """The dimension that runs along the memory of a stage's result."""
    order = kernel.tensors[s.out.tensor].layout.order
    return {d for d, c in s.out.index[order[-1][0]].terms if c == 1} if order else set()


def _blocked(graph: Graph, lanes: dict[str, int]) -> set[str]:
    """The values with blocked channels: a fixed point, because views and clauses tie values together."""
    shown = {*graph.inputs, *(v for _, v in graph.outputs)}
    held = {name: lanes[name] for name, _ in graph.state}
    # of rows alone plain memory is the same, and all of it one dimension
    rows = {value for pair in graph.state for value in pair if graph[value].type.rank == CHANNEL + 1
            and int(graph[value].type.shape[CHANNEL]) % (lanes[value] or 1) == 0}
    result = {n.name for n in graph if n.op in ("kernel", "reshape", "input") and n.name not in shown | rows
              and n.type.rank > CHANNEL and isinstance(c := n.type.shape[CHANNEL], int)
              and (c >= held[n.name] if n.name in held else _many(c, lanes[n.name]))}
    for n in graph:
        if n.loop is not None:              # the body finds them as a user's
            result -= {*n.inputs}
        if n.kernel is None:
            continue
        for t, value in zip(n.kernel.operands, (*n.inputs, n.name), strict=True):
            if value in result and not (lanes[value] and fits(n.kernel, t, lanes[value])):
                result.discard(value)
    result &= _summed(graph)
    changed = True
    while changed:
        changed = False
        for pair in ({*held} for held in graph.state):
            if pair & result and (not pair <= result or len({lanes[name] for name in pair}) > 1):
                result -= pair
                changed = True
        for n in graph:
            if n.op != "reshape" and not n.base:
                continue
            other = n.base or n.inputs[0]
            pair = {n.name, other}
            if pair & result and (not pair <= result or not (n.base or _squeezes(n, graph))
                                  or lanes[n.name] != lanes[other]):
                result -= pair
                changed = True
    return result


def _summed(graph: Graph) -> set[str]:
    """The values for which blocks pay: of sums of products or over windows, and what shares channels."""
    found: set[str] = set()
    near: dict[str, set[str]] = {name: set() for name in graph.nodes}
    for n in graph:
        alike = {n.name}
        if n.op == "reshape":
            alike |= {*n.inputs}
        elif n.kernel is not None:
            pairs = zip(n.kernel.operands, n.inputs, strict=False)
            alike |= {n.base or n.name, *(i for t, i in pairs if _shares_channels(n.kernel, t))}
            if any(map(_sums, n.kernel.stages)):
                found |= {*n.inputs, n.name}
        for a in alike:
            near[a] |= alike - {a}
    todo = list(found)
    while todo:
        more = near[todo.pop()] - found
        found |= more
        todo += more
    return found


def _sums(s: Stage) -> bool:
    """Whether a stage folds products or windows."""
    loads = s.first.loads
    return s.first.fold != "=" and (len(loads) > 1 or any(len(i.dims) > 1 for x in loads for i in x.index))


def _shares_channels(kernel: Kernel, t: Tensor) -> bool:
    """Whether the channels of a kernel's operand are those of its result."""
    last = kernel.stages[-1].out.index
    return len(kernel.stages) > 1 or any(
        len(x.index) > CHANNEL and len(last) > CHANNEL and x.index[CHANNEL].dims == last[CHANNEL].dims
        for s in kernel.stages for x in s.loads if x.tensor == t.name)


def fits(kernel: Kernel, t: Tensor, lanes: int) -> bool:
    """Whether all indices of a tensor's channels split into whole blocks and places within one."""
    if any(_channels_last(s.first, s.out, t.name) for s in kernel.stages):
        return False
    channels = {(x.index[CHANNEL], x is f.out, f) for s in kernel.stages for f in s.formulas
                for x in (f.out, *f.loads) if x.tensor == t.name}
    for index, written, f in channels:
        if index.lookup is not None:
            return False
        if not written and (index.single or not index.dims):
            continue
        outer = [c for _, c in index.terms if c != 1]
        if index.const % lanes or len(outer) != len(index.terms) - 1 or any(c % lanes for c in outer):
            return False
        if written and not _along(kernel, f, index):
            return False
        end = 1 + index.bounds({d: int(f.sizes[d]) for d in index.dims})[1]
        if written and end % lanes and end < int(t.type.shape[CHANNEL]):    # a part's last block is whole
            return False
    return True


def _channels_last(f: Formula, out: Load, name: str) -> bool:
    """Whether a tensor is read by a contraction as, or is one's result with, rows where channels are.

    What is summed lies behind them, not before them too, and they are rows of one factor alone.
    """
    factors = multiply_add(f) or ()
    for x, other in zip(factors, factors[::-1], strict=True):
        if isinstance(x, Load) and isinstance(other, Load) and len(x.index) > CHANNEL + 1:
            rows = set(x.index[CHANNEL].dims)
            if rows and rows.isdisjoint((*f.reduced, *other.dims)) and x.index[0].single not in f.reduced \
                    and any(i.single in f.reduced for i in x.index[CHANNEL + 1:]) \
                    and (x.tensor == name or (out.tensor == name and len(out.index) > CHANNEL
                         and rows & set(out.index[CHANNEL].dims))):
                return True
    return False


def _along(kernel: Kernel, f: Formula, channel: Index) -> bool:
    """Whether a sum can have vectors of what becomes the channels: they are no operand's rows or columns."""
    first = kernel.stages[0].first
    if first.fold != "+=" or f is not kernel.stages[-1].formulas[-1]:
        return True
    vector = {d for d, c in channel.terms if c == 1}
    return all(vector.isdisjoint(i.dims) for x in first.loads for i in x.index[CHANNEL + 1:])


def _copy_results(graph: Graph, blocked: set[str]) -> Graph:
    """An output of images that a kernel sums up, if it can be `blocked`, is then copied to plain memory.

    So is what no kernel can write at once: inputs, constants, values that are results already, views of them,
    and what is written over a state of which it reads other elements.
    """
    b = Builder(graph.name)
    nodes = b.nodes
    nodes.update(graph.nodes)
    written: set[str] = set()

    def copied(value: str) -> str:
        return b.add(copy_of(nodes[value], b.fresh(f"{value}.plain")))

    def shown(value: str) -> str:
        n = source = nodes[value]
        if 0 in n.type.shape:           # nothing to write
            return value
        while source.op == "reshape":
            source = nodes[source.inputs[0]]
        root = n
        while root.base:
            root = nodes[root.base]
        if root.op == "state":          # it is in its place
            return value
        spatial = product([int(e) for e in n.type.shape[2:]]) if n.type.rank > 2 else 1
        if (n.kernel is not None and spatial > 1 and value in blocked and not _light(n.kernel)) \
                or source.kernel is None or source.name in written:
            return copied(value)
        written.add(source.name)
        return value

    def held(name: str, value: str) -> str:
        n = nodes[value]
        if n.kernel is None or n.base or value in written or not _in_place(n, name):
            return copied(value)
        written.add(value)
        return value
    outputs = tuple((user, shown(value)) for user, value in graph.outputs)
    state = tuple((name, held(name, value)) for name, value in graph.state)
    return replace(graph, nodes=nodes, outputs=outputs, state=state)


def _in_place(n: Node, name: str) -> bool:
    """Whether a kernel reads of an operand only the element that it writes."""
    assert n.kernel is not None
    own = {t.name for t, i in zip(n.kernel.operands, n.inputs, strict=False) if i == name}
    out = n.kernel.stages[-1].out
    return not own or (len(n.kernel.stages) == 1 and all(
        x.index == out.index for x in n.kernel.stages[0].loads if x.tensor in own))


def copy_of(n: Node, name: str) -> Node:
    """A kernel that copies a value."""
    t = Tensor("x", n.type, Layout.plain(n.type.rank))
    return Node(name, "kernel", (n.name,), n.type, (("does", "copy"),), n.origin, copy_kernel(t, t))


def copy_kernel(x: Tensor, y: Tensor) -> Kernel:
    """From one memory order to another."""
    index = tuple(Index.of(f"i{a}") if e != 1 else Index() for a, e in enumerate(x.type.shape))
    extents = tuple((f"i{a}", e) for a, e in enumerate(x.type.shape) if e != 1)
    f = Formula(Load("y", index), "=", Load("x", index), extents)
    return Kernel((replace(x, name="x"), replace(y, name="y")), (Stage((f,)),))


def _light(kernel: Kernel) -> bool:
    """Whether a kernel does so little that it may as well turn its vectors to plain memory."""
    return all(f.fold == "=" for s in kernel.stages for f in s.formulas)
