"""The memory plan: offsets of all values from their liveness, the order of steps, the places of weights."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import Kernel
from cnncc.ir.layout import Layout
from cnncc.ir.plan import Place, Plan, Step
from cnncc.ir.regions import scratch_offsets
from cnncc.ir.signature import value as value_record
from cnncc.ir.tasks import task_count
from cnncc.ir.types import Extent

ALIGN = 64                  # bytes: a cache line


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


def plan_memory(graph: Graph) -> tuple[Plan, tuple[Packing, ...]]:
    """The plan of a scheduled graph, and what the weights' memory must hold."""
    packings: dict[tuple[str, str], Packing] = {}
    places = _places(graph)
    used = 0
    steps: list[Step] = []
    for n in graph:
        if n.kernel is None:
            continue
        own: list[Place] = []
        for t, value in zip(n.kernel.operands, (*n.inputs, n.name), strict=True):
            if graph[value].op != "const":
                own.append(places[value])
                continue
            key = (value, f"{t.type} {t.layout}")
            if key not in packings:
                packings[key] = Packing(value, t.type.shape, t.layout, used, t.nbytes)
                used += _aligned(t.nbytes)
            own.append(Place("weights", packings[key].offset))
        tasks, symbol = task_count(n.kernel)
        scratch = scratch_offsets(n.kernel)[1]
        steps.append(Step(symbol_of(n.kernel), tuple(own), tasks, symbol is not None, scratch, n.origin,
                          n.attr["does"], n.kernel.flops(), n.kernel.nbytes()))
    symbols = {s for n in graph for s in n.type.symbols}
    values = [[value_record(user, graph[v].type) for user, v in pairs]
              for pairs in ([(i, i) for i in graph.inputs], graph.outputs)]
    plan = Plan(graph.name, tuple(values[0]), tuple(values[1]), tuple(steps), _work_bytes(graph, places),
                max((s.scratch for s in steps), default=0), used, next(iter(symbols), None), graph.signals)
    return plan, tuple(packings.values())


def _aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


def _bytes(n: Node) -> int:
    assert n.kernel is not None
    return _aligned(n.kernel.output.nbytes)


def _work_bytes(graph: Graph, places: dict[str, Place]) -> int:
    return max((places[n.name].number + _bytes(n) for n in graph
                if n.kernel is not None and places[n.name].space == "work"), default=0)


def _places(graph: Graph) -> dict[str, Place]:
    """An address for every value: first fit by liveness, the largest first; views and clauses share one."""
    source = {n.name: n.base or n.inputs[0] for n in graph if n.base or n.op == "reshape"}
    def root(value: str) -> str:
        while value in source:
            value = source[value]
        return value
    result: dict[str, Place] = {v: Place("input", i) for i, v in enumerate(graph.inputs)}
    for number, (_, v) in enumerate(graph.outputs):
        result.setdefault(root(v), Place("output", number))
    order = {name: i for i, name in enumerate(graph.nodes)}
    ends: dict[str, int] = {}
    for n in graph:
        for i in n.needs:
            ends[root(i)] = max(ends.get(root(i), 0), order[n.name])
    buffers = [n for n in graph if n.kernel is not None and not n.base and n.name not in result]
    placed: list[tuple[int, int, int, int]] = []            # begin, end of life; begin, end of memory
    for n in sorted(buffers, key=lambda n: -_bytes(n)):
        begin, end, size = order[n.name], ends.get(n.name, order[n.name]), _bytes(n)
        at = 0
        alive = [p[2:] for p in placed if p[0] <= end and begin <= p[1]]
        for low, high in sorted(alive):
            if at + size <= low:
                break
            at = max(at, high)
        placed.append((begin, end, at, at + size))
        result[n.name] = Place("work", at)
    for n in graph:
        if root(n.name) != n.name and root(n.name) in result:
            result[n.name] = result[root(n.name)]
    return result


def pack(constants: dict[str, np.ndarray], packings: tuple[Packing, ...], memory: np.ndarray) -> None:
    """Write all constants into the weights' memory (uint8), each in its order."""
    for p in packings:
        packed = p.layout.pack(constants[p.value].reshape([int(e) for e in p.shape]))
        memory[p.offset:p.offset + packed.nbytes] = packed.view(np.uint8)
