"""How much of a scratch tensor lives at once: interval arithmetic over a kernel's shared loops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cnncc.ir.expr import Index
from cnncc.ir.kernel import Kernel, Stage
from cnncc.ir.types import BYTES, Extent

ALIGN = 64
PAGE = 4096


def scratch_shapes(kernel: Kernel) -> dict[str, tuple[Extent, ...]]:
    """For each scratch tensor the largest box that one turn of the shared loops reads of it."""
    spans: list[dict[str, int]] = [{d: 1 if isinstance(e, str) else e for d, e in s.extents.items()}
                                   for s in kernel.stages]
    for loop in kernel.loops.loops:
        spans[-1][loop.dim] = min(loop.step, spans[-1][loop.dim])
    result: dict[str, tuple[Extent, ...]] = {}
    for j in range(len(kernel.stages) - 2, -1, -1):
        stage = kernel.stages[j]
        name = stage.out.tensor
        full = kernel.tensors[name].type.shape
        reads = [(x, span) for other, span in zip(kernel.stages[j + 1:], spans[j + 1:], strict=True)
                 for x in other.loads if x.tensor == name]
        box = tuple(1 if isinstance(e, str) else min(e, _reach([(x.index[axis], s) for x, s in reads]))
                    for axis, e in enumerate(full))
        result[name] = box
        for index, n in zip(stage.out.index, box, strict=True):
            if index.single:
                spans[j][index.single] = n
    return result


def _reach(reads: Sequence[tuple[Index, Mapping[str, int]]]) -> int:
    """How many places lie between the first and the last that are read, while dimensions run over spans."""
    bounds = [index.bounds(span) for index, span in reads]
    return 1 + max(high for _, high in bounds) - min(low for low, _ in bounds)


def placed(kernel: Kernel, stage: Stage) -> set[str]:
    """The dimensions of a stage that the shared loops place: it computes a part of their extents at once."""
    result = {id(kernel.stages[-1]): {x.dim for x in kernel.loops.loops}}
    for j in range(len(kernel.stages) - 2, -1, -1):
        producer = kernel.stages[j]
        mine: set[str] = set()
        for other in kernel.stages[j + 1:]:
            for x in other.loads:
                if x.tensor == producer.out.tensor:
                    mine |= {own.single for own, index in zip(producer.out.index, x.index, strict=True)
                             if own.single and result[id(other)] & set(index.dims)}
        result[id(producer)] = mine
    return result[id(stage)]


def scratch_offsets(kernel: Kernel) -> tuple[dict[str, int], int]:
    """Where each scratch tensor starts in a thread's scratch memory, and that memory's size in bytes."""
    shapes = scratch_shapes(kernel)
    offsets, total = {}, 0
    for t in kernel.scratch:
        offsets[t.name] = total
        total += -(-t.layout.elements(shapes[t.name]) * BYTES[t.type.dtype] // ALIGN) * ALIGN
    return offsets, -(-total // PAGE) * PAGE
