"""Tasks of a kernel: the tiles of its par loops; tiles that read the same of an operand."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from cnncc.ir.expr import Load
from cnncc.ir.kernel import Kernel, Stage
from cnncc.ir.schedule import Loop, tiles
from cnncc.ir.types import product


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


def outer(loops: Sequence[Loop], reduced: Collection[str]) -> int:
    """How many loops there are down to the innermost counted one over the result."""
    return max((i + 1 for i, x in enumerate(loops) if x.kind in ("par", "for") and x.dim not in reduced),
               default=0)


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


@dataclass(frozen=True, slots=True)
class Sharing:
    """The innermost loops of a stage around its tile whose turns read the same of an operand.

    `loops` are these with the number of their turns, from the one numbered `at` on; `around` is the loop that
    moves the operand on. A turn reads so many `terms` of sums.
    """

    at: int
    around: Loop
    loops: tuple[tuple[Loop, int], ...]
    terms: int = 0

    @property
    def turns(self) -> int:
        return product([count for _, count in self.loops])


def sharing(kernel: Kernel, stage: Stage, load: Load) -> Sharing | None:
    """Which loops share what a load reads; None where none does, or it isn't known how often."""
    shared = kernel.loops.loops if stage is kernel.stages[-1] else ()
    loops, reduced = [*shared, *stage.schedule.nest], {*stage.first.reduced}
    spans = dict(stage.extents)
    result: Sharing | None = None
    for i, x in enumerate(loops[:outer(loops, reduced)]):
        span = spans[x.dim]
        if not isinstance(span, int):
            result = None
            continue
        runs = tiles(span, x.step, unit_of(kernel, stage, x), x.even)
        count, spans[x.dim] = sum(n for *_, n in runs), runs[0][1]
        if x.dim in load.dims:
            result = Sharing(i + 1, x, ()) if count > 1 else result
        elif i < len(shared):
            result = result and Sharing(i + 1, result.around, ())   # each task asks for all
        elif result is not None and count > 1:
            result = Sharing(result.at, result.around, (*result.loops, (x, count)))
    terms = [spans[d] for d in reduced if d in load.dims]
    if result is None or result.turns == 1 or any(isinstance(n, str) for n in terms):
        return None
    return replace(result, at=max(result.at, len(shared)), terms=product([int(n) for n in terms]))
