"""Tasks of a kernel: the tiles of its par loops."""

from __future__ import annotations

from cnncc.ir.kernel import Kernel, Stage
from cnncc.ir.schedule import Loop, tiles


def unit_of(kernel: Kernel, stage: Stage, loop: Loop) -> int:
    """Tiles of a loop start at multiples of this: the vector, or the blocks of a layout."""
    if loop.kind == "simd" or loop.step == 1:
        return 1
    loops, simd = stage.schedule.loops, stage.schedule.simd
    unit = max((x.step for x in loops if x.kind == "unroll" and x.dim == loop.dim == simd), default=1)
    tensors = kernel.tensors
    for x in (stage.out, *stage.loads):
        for axis, index in enumerate(x.index):
            block = tensors[x.tensor].layout.block(axis)
            if block > 1 and index.coefficient(loop.dim):
                if loop.step % block == 0:
                    unit = max(unit, block)
                elif block % loop.step == 0:
                    unit = max(unit, loop.step)     # every tile lies within a block
    return unit


def task_count(kernel: Kernel) -> tuple[int, str | None]:
    """Tasks per unit of the symbolic extent, and that extent's name where a par loop runs over one."""
    total, symbol = 1, None
    last = kernel.stages[-1]
    for x in kernel.loops.par:
        extent = last.extents[x.dim]
        if isinstance(extent, str):
            symbol = extent
        else:
            total *= sum(n for *_, n in tiles(extent, x.step, unit_of(kernel, last, x)))
    return total, symbol
