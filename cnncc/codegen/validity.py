"""Taps that fall outside of an operand are skipped, not computed: where each test of validity is decided.

A constraint says 0 <= index < size. Where loops count over only one of its dimensions and all others are
unrolled, those loops are split into runs of tiles with equal sets of valid taps, and where loops around all
stages place an early one, these too. Otherwise the innermost counted loop is clamped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cnncc.codegen.access import Positions
from cnncc.codegen.emitter import Emitter, Int
from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Index, Load
from cnncc.ir.formula import outside
from cnncc.ir.schedule import Loop
from cnncc.ir.types import Extent


@dataclass(frozen=True, slots=True)
class Constraint:
    """0 <= index < size."""

    index: Index
    size: int

    def holds(self, at: Mapping[str, int]) -> bool:
        value = self.index.const
        for d, c in self.index.terms:
            value += c * at[d]
        return 0 <= value < self.size


@dataclass(frozen=True, slots=True)
class Validity:
    """`static`: tested where a tap is emitted; `split`, `clamp`: constraints by position of the loop.

    `around`: those of `static` that loops around all stages must be split by, too.
    """

    static: tuple[Constraint, ...]
    split: dict[int, list[Constraint]]
    clamp: dict[int, list[Constraint]]
    around: tuple[Constraint, ...]
    extents: dict[str, Extent]

    def split_around(self, loops: Sequence[Loop], c: Constraint, extents: Mapping[str, Extent]) -> None:
        """Split loops also by a constraint of another stage; `extents` are those of its own dimensions."""
        self.extents.update(extents)
        for i, loop in enumerate(loops):
            if loop.dim in c.index.dims:
                self.split.setdefault(i, []).append(c)


def decide(loads: Sequence[Load], shapes: Mapping[str, Sequence[Extent]], extents: Mapping[str, Extent],
           loops: Sequence[Loop], outer: set[str], result: set[str]) -> Validity:
    """Which loop decides which constraint of the loads and, the last one, the store.

    `outer` are dimensions placed by loops around the stage; what a loop over one of the `result` leaves out
    is not stored. Raises InternalError where the schedule leaves no loop that can decide.
    """
    constraints = {Constraint(i, int(size)): x is loads[-1] for x in loads
                   for i, size in zip(x.index, shapes[x.tensor], strict=True) if outside(i, size, extents)}
    static: list[Constraint] = []
    split: dict[int, list[Constraint]] = {}
    clamp: dict[int, list[Constraint]] = {}
    around: list[Constraint] = []
    for c in sorted(constraints, key=lambda c: str(c.index)):
        counted = [i for i, x in enumerate(loops) if x.kind in ("par", "for", "chunk", "part")
                   and x.dim in c.index.dims and _extent(extents[x.dim]) > x.step]
        alone = len({loops[i].dim for i in counted}) <= 1
        placed = outer & set(c.index.dims)
        last = counted[-1] if counted else -1
        loop = loops[last] if counted else None
        inside = {x.dim for x in loops[last + 1:] if x.dim in c.index.dims}
        clamps = loop is not None and loop.kind == "for" and loop.step == 1 \
            and c.index.coefficient(loop.dim) >= 1 and not inside - {loop.dim} \
            and (loop.dim not in result or constraints[c])
        if alone and not (placed and clamps):
            static.append(c)
            around += [c] if placed else []
            for i in counted:
                split.setdefault(i, []).append(c)
        elif clamps:
            clamp.setdefault(last, []).append(c)
        else:
            listed = ", ".join(map(str, loops))
            raise InternalError(f"the schedule decides {c.index} < {c.size} nowhere: {listed}")
    return Validity(tuple(static), split, clamp, tuple(around), dict(extents))


def _extent(e: Extent) -> int:
    return e if isinstance(e, int) else 1 << 62


def clamped(e: Emitter, constraints: Sequence[Constraint], dim: str, pos: Positions) -> tuple[Int, Int]:
    """The part of a loop in which all its constraints hold: 0 <= rest + a * dim < size."""
    low: Int = 0
    high: Int = pos[dim].span
    for c in constraints:
        rest: Int = c.index.const
        for d, k in c.index.terms:
            rest = e.add(rest, k * pos[d].const)
            for t in pos[d].terms:
                rest = e.add(rest, e.mul(t.value, k))
        a = c.index.coefficient(dim)
        low = e.greatest(low, e.div(e.greatest(e.sub(a - 1, rest), 0), a))
        high = e.least(high, e.div(e.greatest(e.sub(c.size + a - 1, rest), 0), a))
    return low, high


def lanes_within(constraints: Sequence[Constraint], vector: str | None, pos: Positions,
                 count: int) -> Sequence[int]:
    """The lanes among `count` along the dimension `vector` in which all constraints hold."""
    lanes: Sequence[int] = range(count)
    for c in constraints:
        at = c.index.const
        for d, k in c.index.terms:
            at += k * pos[d].rep
        step = c.index.coefficient(vector) if vector else 0
        if not step:
            if not 0 <= at < c.size:
                return ()
        elif not (0 <= at + step * lanes[0] < c.size and 0 <= at + step * lanes[-1] < c.size):
            lanes = tuple(i for i in lanes if 0 <= at + step * i < c.size)
            if not lanes:
                return ()
    return lanes


def signature(constraints: Sequence[Constraint], dim: str, start: int, size: int,
              extents: Mapping[str, Extent]) -> tuple[bool, ...]:
    """For a tile of `dim` the validity of all taps, every other dimension running over its extent."""
    result: list[bool] = []
    for c in constraints:
        spread = [c.index.const]
        for d, k in c.index.terms:
            values = range(start, start + size) if d == dim else range(int(extents[d]))
            spread = [s + k * v for s in spread for v in values]
        result += [0 <= s < c.size for s in spread]
    return tuple(result)
