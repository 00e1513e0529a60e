"""What is decided of a kernel's loops after they are chosen, whatever these are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from cnncc.ir.kernel import ACC, Kernel, Stage
from cnncc.ir.regions import placed
from cnncc.ir.schedule import Loop, Schedule, tiles
from cnncc.ir.target import Target
from cnncc.ir.tasks import sharing, unit_of
from cnncc.ir.types import product

SHARED = 160                # tiles over the same weights up to which it matters how the first one gets them
TERMS = 32                  # of a sum, while which memory answers


def refined(kernel: Kernel, weights: Sequence[str], target: Target, over: bool = False) -> Kernel:
    """The kernel with even tiles, unless its result may be written `over` operands, and, unless code is to be
    small, weights streamed and residuals asked for early.
    """
    kernel = kernel if over else even(kernel)
    return kernel if target.small else early(streaming(kernel, weights, target), target)


def even(kernel: Kernel) -> Kernel:
    """The kernel with tiles of one size where that computes little twice: each size is code of its own.

    Results must not be written over operands, which are read again. Not along vectors: weights would be read
    twice, which may come from memory only.
    """
    stages: list[Stage] = []
    for stage in kernel.stages:
        around = kernel.loops.loops if stage is kernel.stages[-1] else ()
        fixed = {*stage.first.reduced} if around else {*stage.first.reduced} | placed(kernel, stage)
        spans = {d: e for d, e in stage.extents.items() if isinstance(e, int) and d not in fixed}
        loops = [*around, *stage.schedule.loops]
        for i, x in enumerate(loops):
            if x.kind == "chunk" or stage.first.scattered:      # sums would go on from other tiles'
                break
            if x.kind in ("par", "for") and x.dim in spans and x.dim != stage.schedule.simd:
                unit, span = unit_of(kernel, stage, x), spans[x.dim]
                whole = tiles(span, x.step, unit, even=True)
                loops[i] = replace(x, even=len(whole) < len(tiles(span, x.step, unit)))
                spans[x.dim] = whole[0][1]
        own = Schedule(tuple(loops[len(around):]))
        stages.append(replace(stage, schedule=own))
        shared = Schedule(tuple(loops[:len(around)]))
    return replace(kernel, stages=tuple(stages), loops=shared)


def streaming(kernel: Kernel, weights: Sequence[str], target: Target) -> Kernel:
    """The kernel with weights asked for part by part, where several tiles share what follows the others' in
    memory: they come from beyond L2, and the first of these tiles would wait.
    """
    stages = []
    for stage in kernel.stages:
        loops = stage.schedule.loops
        for x in stage.loads:
            large = x.tensor in weights and kernel.tensors[x.tensor].nbytes > target.l2 // 4
            shares = sharing(kernel, stage, x) if large else None
            if shares is not None and shares.turns <= SHARED:
                hints = ("prefetch", x.tensor), ("stream", x.tensor)
                loops = *(h for h in loops if (h.kind, h.dim) not in hints), Loop("stream", x.tensor)
        stages.append(replace(stage, schedule=Schedule(loops)))
    return replace(kernel, stages=tuple(stages))


def early(kernel: Kernel, target: Target) -> Kernel:
    """The kernel with large operands of epilogues asked for before long sums: no loop goes through them
    for so long that the CPU foresees it.
    """
    stages = []
    for stage in kernel.stages:
        terms = product([e for d in stage.first.reduced if isinstance(e := stage.extents[d], int)])
        named = dict.fromkeys(x.tensor for f in stage.formulas[1:] for x in f.loads if x.tensor != ACC)
        far = [t for t in named if terms >= TERMS and kernel.tensors[t].nbytes > target.l2 // 2
               and kernel.tensors[t] not in kernel.scratch]
        schedule = Schedule((*stage.schedule.loops, *(Loop("early", t) for t in far)))
        stages.append(replace(stage, schedule=schedule))
    return replace(kernel, stages=tuple(stages))
