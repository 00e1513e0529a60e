"""How much of a scratch tensor lives at once: interval arithmetic over a kernel's shared loops.

Accumulators that wait between the chunks of a sum are scratch tensors too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Index
from cnncc.ir.infer import stage_dtypes
from cnncc.ir.kernel import ACC, Kernel, Stage, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.plan import aligned
from cnncc.ir.tasks import unit_of
from cnncc.ir.types import BYTES, HINT, Extent, TensorType

PAGE = 4096


def scratch_shapes(kernel: Kernel) -> dict[str, tuple[Extent, ...]]:
    """For each scratch tensor the largest box that one turn of the shared loops reads of it."""
    return _boxes(kernel)[0]


def parts(kernel: Kernel) -> list[Kernel]:
    """Each stage as a kernel of its own, its extents what one turn of the shared loops computes of it.

    What it reads of earlier stages is in its scratch memory.
    """
    result = []
    boxes = scratch_shapes(kernel)
    for stage in kernel.stages:
        part = {d: x.step for x in kernel.loops.loops for d in [x.dim] if stage is kernel.stages[-1]}
        if stage is not kernel.stages[-1]:
            box = zip(stage.out.index, boxes[stage.out.tensor], strict=True)
            part = {i.single: int(n) for i, n in box if i.single}
        sizes = {d: min(part[d], HINT if isinstance(e, str) else e) if d in part else e
                 for d, e in stage.extents.items()}
        small = tuple(replace(f, extents=tuple((d, sizes[d]) for d, _ in f.extents)) for f in stage.formulas)
        used = [kernel.tensors[name] for name in dict.fromkeys(x.tensor for x in stage.loads)]
        operands = (*(t for t in used if t not in kernel.scratch), kernel.tensors[stage.out.tensor])
        near = tuple(t for t in used if t in kernel.scratch)
        result.append(Kernel(operands, (replace(stage, formulas=small),), near))
    return result


def _boxes(kernel: Kernel) -> tuple[dict[str, tuple[Extent, ...]], list[dict[str, int]]]:
    """Also how far each stage's dimensions run at most within one turn of the shared loops."""
    spans: list[dict[str, int]] = [{d: 1 if isinstance(e, str) else e for d, e in s.extents.items()}
                                   for s in kernel.stages]
    for loop in kernel.loops.loops:
        spans[-1][loop.dim] = min(loop.step, spans[-1][loop.dim])
    starts = [dict.fromkeys(span, 0) for span in spans]         # from where the shared loops are
    result: dict[str, tuple[Extent, ...]] = {}
    for j in range(len(kernel.stages) - 2, -1, -1):
        stage = kernel.stages[j]
        name = stage.out.tensor
        full = kernel.tensors[name].type.shape
        reads = [(x, starts[i], spans[i]) for i in range(j + 1, len(kernel.stages))
                 for x in kernel.stages[i].loads if x.tensor == name]
        bounds = [[_interval(x.index[axis], start, span) for x, start, span in reads]
                  for axis in range(len(full))]
        lows = [min((low for low, _ in found), default=0) for found in bounds]
        lengths = [max((high for _, high in found), default=1) - low
                   for found, low in zip(bounds, lows, strict=True)]
        box = tuple(1 if isinstance(e, str) else min(n, e) if own.single else e
                    for own, n, e in zip(stage.out.index, lengths, full, strict=True))
        result[name] = box
        for index, low, n in zip(stage.out.index, lows, box, strict=True):
            if index.single:
                starts[j][index.single], spans[j][index.single] = low, n
    return result, spans


def accumulators(kernel: Kernel) -> dict[int, Tensor]:
    """By number of the stage: its accumulators that wait between the turns of its chunk loops.

    The axes are the dimensions inside the chunks in the order of the loops, then those of the vector. Raises
    InternalError where the loops don't say how many there are.
    """
    result: dict[int, Tensor] = {}
    for j, (stage, span) in enumerate(zip(kernel.stages, _boxes(kernel)[1], strict=True)):
        loops = stage.schedule.loops
        at = next((i for i, x in enumerate(loops) if x.kind == "chunk"), len(loops))
        if at == len(loops):
            continue
        span = dict(span)
        for x in loops[:at]:
            span[x.dim] = min(span[x.dim], max(x.step, unit_of(kernel, stage, x)))
        dims = waiting(stage)
        around = {x.dim for x in (*kernel.loops.loops, *loops[:at])}
        if open := [d for d in dims if isinstance(stage.extents[d], str) and d not in around]:
            raise InternalError(f"{stage.schedule}: {open[0]}, of unknown extent, is inside of a chunk")
        lanes = next((x.step for x in loops if x.kind == "unroll" and x.dim == stage.schedule.simd), 1)
        shape = [-(-span[d] // lanes) * lanes if d == stage.schedule.simd else span[d] for d in dims]
        order = [(a, 0) for a, d in enumerate(dims) if d != stage.schedule.simd]
        if stage.schedule.simd in dims:
            vector = dims.index(str(stage.schedule.simd))
            order = [(vector, lanes), *order, (vector, 0)]
        elif stage.schedule.simd:               # each sum is a vector whose lanes are added up at the end
            order.append((len(shape), 0))
            shape.append(lanes)
        dtype = stage_dtypes(stage, kernel.tensors)[0]
        result[j] = Tensor(f"{ACC}.{j}", TensorType(dtype, tuple(shape)), Layout(tuple(order)))
    return result


def waiting(stage: Stage) -> list[str]:
    """The dimensions of a stage's accumulators, in the order of its loops."""
    dims = dict.fromkeys(x.dim for x in stage.schedule.nest)
    reduced = set(stage.first.reduced)
    return [d for d in (*dims, *(d for d in stage.extents if d not in dims)) if d not in reduced]


def _interval(index: Index, starts: dict[str, int], spans: dict[str, int]) -> tuple[int, int]:
    """The first value of an index and the one after its last, dimensions running over parts of themselves."""
    low = index.const + sum(c * starts[d] for d, c in index.terms)
    return low, low + 1 + sum(abs(c) * (spans[d] - 1) for d, c in index.terms)


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


def lifted(kernel: Kernel, stage: Stage, index: Index) -> Iterator[tuple[Index, dict[str, Extent]]]:
    """An index of an early stage in terms of the last one's dimensions, for every way on which it is read.

    With it the extents of other dimensions, which get names of their own.
    """
    if stage is kernel.stages[-1]:
        yield index, {}
        return
    j = kernel.stages.index(stage)
    mine, own = placed(kernel, stage), {d: f"{d}.{j}" for d in stage.extents}
    extents = {own[d]: stage.extents[d] for d in index.dims if d in own and d not in mine}
    for other in kernel.stages[j + 1:]:
        for x in other.loads:
            if x.tensor == stage.out.tensor:
                to = {d: Index.of(name) for d, name in own.items() if d not in mine}
                to |= {i.single: read for i, read in zip(stage.out.index, x.index, strict=True)
                       if i.single in mine}
                for found, more in lifted(kernel, other, index.substitute(to)):
                    yield found, extents | more


def scratch_offsets(kernel: Kernel) -> tuple[dict[str, int], int]:
    """Where each scratch tensor starts in a thread's scratch memory, and that memory's size in bytes."""
    shapes = scratch_shapes(kernel)
    waits = accumulators(kernel).values()
    shapes.update((t.name, t.type.shape) for t in waits)
    offsets, total = {}, 0
    for t in (*kernel.scratch, *waits):
        offsets[t.name] = total
        total += aligned(t.layout.elements(shapes[t.name]) * BYTES[t.type.dtype])
    return offsets, -(-total // PAGE) * PAGE
