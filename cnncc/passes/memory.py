"""The memory plan: offsets of all values from their liveness, the order of steps, the places of weights."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import numpy as np

from cnncc.ir.expr import Index, Load, rewrite
from cnncc.ir.formula import outside
from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import Kernel, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.loops import Inlined
from cnncc.ir.plan import Held, Place, Plan, Step, Turns, aligned
from cnncc.ir.regions import scratch_offsets
from cnncc.ir.signature import value as value_record
from cnncc.ir.tasks import task_count
from cnncc.ir.types import BYTES, Extent
from cnncc.passes.updates import held, updates_last

TRIES = 12                  # to place the buffers in less memory
TIME = 64                   # nodes: buffers are looked up by such parts of their lives


@dataclass(frozen=True)
class Packing:
    """A constant in the order that a kernel reads; `offset` in bytes into the weights."""

    value: str
    shape: tuple[Extent, ...]
    layout: Layout
    offset: int
    nbytes: int


def symbol_of(kernel: Kernel) -> str:
    """The name of a kernel's function: equal kernels share it and are compiled once."""
    return "k_" + hashlib.sha256(str(kernel).encode()).hexdigest()[:16]


def anchored(kernel: Kernel) -> tuple[Kernel, tuple[int, ...]]:
    """The kernel with what all its accesses of an operand add to an index taken out; per operand the bytes
    from the buffer's beginning to where it begins now. Parts of one buffer are then read by equal kernels.
    """
    tables = {name for s in kernel.stages for name in s.lookups}
    shifts = {t.name: tuple(0 if t.name in tables else _shift(kernel, t, axis) for axis in range(t.type.rank))
              for t in kernel.operands}
    if not any(map(any, shifts.values())):
        return kernel, (0,) * len(kernel.operands)
    def moved(x: Load) -> Load:
        by = shifts.get(x.tensor, ())
        return Load(x.tensor, tuple(i + Index((), -s) for i, s in zip(x.index, by, strict=True))) if by else x
    stages = tuple(replace(s, formulas=tuple(replace(f, out=moved(f.out), expr=rewrite(f.expr, moved))
                                             for f in s.formulas)) for s in kernel.stages)
    firsts = (sum(by * _stride(t, axis) for axis, by in enumerate(shifts[t.name])) * BYTES[t.type.dtype]
              for t in kernel.operands)
    return replace(kernel, stages=stages), tuple(firsts)


def _stride(t: Tensor, axis: int) -> int:
    """The elements from one place along an axis, which isn't blocked, to the next."""
    return next(t.layout.parts(axis, t.type.shape))[2]


def _shift(kernel: Kernel, t: Tensor, axis: int) -> int:
    """The least index of an axis that a kernel accesses; 0 where it is blocked, looked up or leaves it."""
    found = [(x.index[axis], f.sizes) for s in kernel.stages for f in s.formulas
             for x in (f.out, *f.loads) if x.tensor == t.name]
    extent = t.type.shape[axis]
    if isinstance(extent, str) or t.layout.block(axis) > 1 or any(
            i.lookup or outside(i, extent, sizes) or any(isinstance(sizes[d], str) for d in i.dims)
            for i, sizes in found):
        return 0
    return min((i.bounds({d: int(sizes[d]) for d in i.dims})[0] for i, sizes in found), default=0)


def plan_memory(found: Inlined) -> tuple[Plan, tuple[Packing, ...], dict[str, Kernel]]:
    """The plan of a scheduled graph, what the weights' memory must hold, and the kernels by symbol."""
    graph = found.graph
    packings: dict[tuple[str, str], Packing] = {}
    if graph.state:
        graph = updates_last(graph)
    state, root = held(graph), _roots(graph)
    places = _places(graph, root, state)
    used = 0
    steps: list[Step] = []
    kernels: dict[str, Kernel] = {}
    turns = {name: n.loop.count for n in graph if n.loop is not None for name in found.bodies[n.name]}
    loops: list[Turns] = []
    for n in graph:
        if n.loop is not None:
            count = sum(graph[name].kernel is not None for name in found.bodies[n.name])
            loops.append(Turns(len(steps) - count, len(steps), n.loop.count))
        if n.kernel is None:
            continue
        own: list[Place] = []
        many, nbytes = turns.get(n.name, 1), 0
        kernel, firsts = anchored(n.kernel)
        for t, value, first in zip(kernel.operands, (*n.inputs, n.name), firsts, strict=True):
            move = found.moves.get(value, 0)
            nbytes += t.nbytes * (1 if move else many)      # all turns together pass over what moves once
            if graph[root[value]].op != "const":
                own.append(replace(places[value], first=first, move=move))
                continue
            key = (root[value], f"{t.type} {t.layout}")
            if key not in packings:
                packings[key] = Packing(root[value], t.type.shape, t.layout, used, t.nbytes)
                used += aligned(t.nbytes)
            own.append(Place("weights", packings[key].offset, first, move))
        tasks, batch = task_count(kernel)
        symbol = symbol_of(kernel)
        kernels[symbol] = kernel
        steps.append(Step(symbol, tuple(own), tasks, batch is not None, scratch_offsets(kernel)[1], n.origin,
                          n.attr["does"], kernel.flops() * many, nbytes, str(n.type)))
    symbols = {s for n in graph for s in n.type.symbols}
    values = [[value_record(user, graph[v].type) for user, v in pairs]
              for pairs in ([(i, i) for i in graph.inputs], graph.outputs)]
    plan = Plan(graph.name, tuple(values[0]), tuple(values[1]), tuple(steps), _work_bytes(graph, places),
                max((s.scratch for s in steps), default=0), used, next(iter(symbols), None), graph.signals,
                tuple(loops), state)
    return plan, tuple(packings.values()), kernels


def _bytes(n: Node) -> int:
    assert n.kernel is not None
    return aligned(n.kernel.output.nbytes)


def _work_bytes(graph: Graph, places: dict[str, Place]) -> int:
    return max((places[n.name].number + _bytes(n) for n in graph
                if n.kernel is not None and places[n.name].space == "work"), default=0)


def _roots(graph: Graph) -> dict[str, str]:
    """The value in whose memory each one is."""
    root: dict[str, str] = {}
    for n in graph:
        root[n.name] = root[n.base or n.inputs[0]] if n.base or n.op == "reshape" else n.name
    return root


def _places(graph: Graph, root: dict[str, str], state: Sequence[Held]) -> dict[str, Place]:
    """An address for every value, by liveness; views and clauses share one."""
    result: dict[str, Place] = {v: Place("input", i) for i, v in enumerate(graph.inputs)}
    for number, (_, v) in enumerate(graph.outputs):
        result.setdefault(root[v], Place("output", number))
    for (name, v), h in zip(graph.state, state, strict=True):
        result[name] = result[v] = Place("state", h.offset)
    order = {name: i for i, name in enumerate(graph.nodes)}
    ends: dict[str, int] = {}
    for n in graph:
        for i in n.needs:
            ends[root[i]] = max(ends.get(root[i], 0), order[n.name])
    lives = [Life(n.name, order[n.name], ends.get(n.name, order[n.name]), _bytes(n)) for n in graph
             if n.kernel is not None and not n.base and n.name not in result]
    result |= {name: Place("work", at) for name, at in fit(lives).items()}
    for n in graph:
        if root[n.name] in result:
            result[n.name] = result[root[n.name]]
    return result


@dataclass(frozen=True, slots=True)
class Life:
    """A buffer of `nbytes`, written by the node in place `begin` and needed until `end`."""

    name: str
    begin: int
    end: int
    nbytes: int


def fit(lives: Sequence[Life]) -> dict[str, int]:
    """Offsets at which no two buffers meet that live at a time, and where the last of them ends is low.

    Each in turn takes the lowest gap, the largest first, or the earliest. While that needs more memory than
    lives at any time, what ended highest has its turn before all others, in a few tries.
    """
    changes = sorted([(x.begin, 1, x.nbytes) for x in lives] + [(x.end, 2, -x.nbytes) for x in lives])
    least = max(accumulate(nbytes for _, _, nbytes in changes), default=0)
    best: tuple[int, dict[str, int]] = (1 << 62, {})
    for order in (sorted(lives, key=lambda x: (-x.nbytes, x.begin)), sorted(lives, key=lambda x: x.begin)):
        for _ in range(TRIES):
            offsets = _first_fit(order)
            top = max(order, key=lambda x: offsets[x.name] + x.nbytes, default=None)
            needed = offsets[top.name] + top.nbytes if top else 0
            best = min(best, (needed, offsets), key=lambda found: found[0])
            if top is None or needed == least:
                return offsets
            order = [top, *(x for x in order if x is not top)]
    return best[1]


def _first_fit(lives: Sequence[Life]) -> dict[str, int]:
    result: dict[str, int] = {}
    placed: dict[int, list[tuple[int, int, int, int]]] = defaultdict(list)  # begin, end of life, of memory
    for x in lives:
        at, times = 0, range(x.begin // TIME, x.end // TIME + 1)
        alive = {p[2:] for t in times for p in placed[t] if p[0] <= x.end and x.begin <= p[1]}
        for low, high in sorted(alive):
            if at + x.nbytes <= low:
                break
            at = max(at, high)
        for t in times:
            placed[t].append((x.begin, x.end, at, at + x.nbytes))
        result[x.name] = at
    return result


def pack(constants: Mapping[str, np.ndarray], packings: tuple[Packing, ...], memory: np.ndarray) -> None:
    """Write all constants into the weights' memory (uint8), each in its order."""
    for _ in packing(constants, packings, memory):
        pass


def packing(constants: Mapping[str, np.ndarray], packings: tuple[Packing, ...],
            memory: np.ndarray) -> Iterator[int]:
    """The same one after the other; after each up to which byte the memory is as it will be."""
    for p in packings:
        value = constants[p.value].reshape([int(e) for e in p.shape])
        p.layout.pack(value, memory[p.offset:p.offset + p.nbytes].view(value.dtype))
        yield p.offset + aligned(p.nbytes)
