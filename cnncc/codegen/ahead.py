"""What comes from beyond L2 is asked for before it is needed.

Weights while those before them are used, by each of the tiles that share these a part; what a tile's epilogue
reads before its sums.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cnncc.codegen.access import Access, Positions
from cnncc.codegen.emitter import Emitter, Value
from cnncc.ir.kernel import Kernel, Stage
from cnncc.ir.tasks import Sharing, sharing
from cnncc.ir.types import Extent

LINE = 64                   # bytes of the cache that one prefetch brings


@dataclass(slots=True, kw_only=True)
class Ahead(Access):
    """A pointer that goes along with an operand's, where the next turn of the loop around the tiles has it.

    In one tile it moves by a part of what that moves by along the `summed` dimensions; the next tile goes on.
    """

    sharing: Sharing
    summed: Collection[str]
    lanes: int
    block: int = field(init=False)          # bytes to where the next turn has it
    begin: int = field(init=False, default=0)
    steps: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        Access.__post_init__(self)
        around, turns = self.sharing.around, self.sharing.turns
        self.block = Access.stride(self, around.dim, around.step, 1 << 30) * around.step
        walk, self.steps = self.sharing.terms * self.lanes * self.bytes, {}
        for x, count in self.sharing.loops:
            turns //= count
            self.steps[x.dim] = -(-walk * turns // (self.sharing.turns * x.step))
        self.dims = *self.dims, *self.steps

    def stride(self, dim: str, multiple: int, most: int) -> int:
        own = 0 if dim in self.steps else Access.stride(self, dim, multiple, most)
        return self.steps.get(dim, -(-own // self.sharing.turns))

    def beside(self, e: Emitter, pointer: Value, pos: Positions) -> Value:
        """Where it is when the operand's pointer is at the first of the tiles."""
        self.begin = self.offset(pos) + self._passed(pos)
        return e.offset(pointer, self.offset(pos) + self.block)

    def ask(self, e: Emitter, pointer: Value, pos: Positions) -> None:
        """Beside a load at a position."""
        vector = self.offset({d: replace(p, const=0) if d in self.summed else p for d, p in pos.items()})
        part, rest = divmod(self.offset(pos) - vector, self.sharing.turns)
        if not rest and part % LINE == 0:
            e.prefetch(pointer, vector + self._passed(pos) - self.begin + part, near=False)

    def _passed(self, pos: Positions) -> int:
        """How far tiles that are no turns of a loop are from the first one."""
        return sum(step * pos[d].const for d, step in self.steps.items())


def early(e: Emitter, accesses: Mapping[int, Access], places: Collection[Positions],
          pointers: Mapping[int, Value], vector: str | None) -> None:
    """Ask for what accesses will read at these places, in vectors along a dimension."""
    for i, a in accesses.items():
        for at in dict.fromkeys(a.offset(pos, vector) for pos in places):
            if at % LINE == 0:
                e.prefetch(pointers[i], at)


def streams(kernel: Kernel, stage: Stage, shapes: Mapping[str, tuple[Extent, ...]],
            lanes: int) -> Iterator[Ahead]:
    """One for each load of an operand that the schedule streams and tiles share."""
    summed = set(stage.first.reduced)
    for x in stage.loads:
        shares = sharing(kernel, stage, x) if x.tensor in stage.schedule.streams else None
        if shares is not None:
            yield Ahead(x, kernel.tensors[x.tensor], shapes[x.tensor],
                        sharing=shares, summed=summed, lanes=lanes)
