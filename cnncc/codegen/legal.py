"""Which loops fit a stage, and where those of its register tile begin."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from cnncc.ir.errors import InternalError
from cnncc.ir.kernel import Stage
from cnncc.ir.schedule import Loop
from cnncc.ir.tasks import outer


def tile_begin(stage: Stage, loops: Sequence[Loop], shared: int, reduced: Collection[str]) -> int:
    """How many of the loops, of which some are `shared`, are around the register tile.

    Raises InternalError for loops that don't fit.
    """
    def refuse(why: str) -> None:
        raise InternalError(f"{why}: {', '.join(map(str, loops))}")
    begin = max(shared, outer(loops, reduced))
    if any((i < begin) != (x.kind == "chunk") for i, x in enumerate(loops) if x.dim in reduced) \
            or any(x.kind == "chunk" and x.dim not in reduced for x in loops):
        refuse("loops over a sum are chunks where loops over the result are inside, only there")
    chunked = next((i for i, x in enumerate(loops) if x.kind == "chunk"), len(loops))
    even = [(i, x) for i, x in enumerate(loops) if x.even]
    if any(stage.first.scattered or x.dim in reduced or i > chunked for i, x in even):
        refuse("tiles that overlap add to sums twice")
    for d, extent in stage.extents.items():
        own = [x for x in loops if x.dim == d]
        if extent != 1 and not (own and (own[-1].kind == "simd" or own[-1].step == 1)):
            refuse(f"the schedule doesn't walk {d}")
    return begin
