"""Schedules: the loops of a stage, outermost first, as one line of text.

`par k:32, p, q:12, c:16, r, unroll s, c, unroll q, unroll k:16, simd k` reads: one task per 32 k; a loop over
p; one over q in steps of at most 12 (ragged tiles are balanced); over c in steps of 16; over r; s unrolled;
the 16 c of the step one by one; then the 12 x 32 tile: q unrolled, k unrolled in steps of 16, whose lanes are
the vector.
`q:12~` has tiles of one size: the last one begins so early that it is whole, and what it shares with the one
before is computed twice (ragged tiles are code of their own).
`part c:480` sums each 480 c by themselves before they are added: long sums round less.
`chunk c:64` around loops over the result does 64 c of all sums inside at a time: between its turns the
accumulators wait in scratch memory, and the epilogue is in the last turn only.
`prefetch w:8192` asks for what lies 8192 bytes beyond each vector that is loaded of the operand w.
`stream w` has each tile that reads the same of the operand w ask for a part of what the next ones will read.
`early v` has each tile ask for what its epilogue will read of the operand v before its sums begin.
`reload x` loads what unrolled taps share of the operand x once for each: registers are left for more sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from cnncc.ir.errors import InternalError

Kind = Literal["par", "for", "chunk", "part", "unroll", "simd", "prefetch", "stream", "early", "reload"]
HINTS = "prefetch", "stream", "early", "reload"
"""Items that are no loops: they name an operand."""
TWICE = 1 / 64              # the part of an extent that may be computed twice for tiles of one size


@dataclass(frozen=True, slots=True)
class Loop:
    """An item of a schedule; for hints `dim` names an operand, a prefetch's `step` is a distance in bytes.

    `even` loops have tiles of one size, the last one of which may overlap the one before.
    """

    kind: Kind
    dim: str
    step: int = 1
    even: bool = False

    def __str__(self) -> str:
        prefix = "" if self.kind == "for" else f"{self.kind} "
        step = f":{self.step}" + "~" * self.even if self.step != 1 and self.kind != "simd" else ""
        return prefix + self.dim + step


@dataclass(frozen=True, slots=True)
class Schedule:
    loops: tuple[Loop, ...]

    @property
    def nest(self) -> tuple[Loop, ...]:
        """The loops alone."""
        return tuple(x for x in self.loops if x.kind not in HINTS)

    @property
    def simd(self) -> str | None:
        return next((x.dim for x in self.loops if x.kind == "simd"), None)

    @property
    def prefetch(self) -> dict[str, int]:
        """Distance in bytes by operand."""
        return {x.dim: x.step for x in self.loops if x.kind == "prefetch"}

    @property
    def streams(self) -> tuple[str, ...]:
        """The operands that are asked for in parts."""
        return tuple(x.dim for x in self.loops if x.kind == "stream")

    @property
    def early(self) -> frozenset[str]:
        """The operands of the epilogue that are asked for before the sums."""
        return frozenset(x.dim for x in self.loops if x.kind == "early")

    @property
    def reload(self) -> frozenset[str]:
        """The operands whose vectors are not kept between unrolled taps."""
        return frozenset(x.dim for x in self.loops if x.kind == "reload")

    @property
    def par(self) -> tuple[Loop, ...]:
        return tuple(x for x in self.loops if x.kind == "par")

    def __str__(self) -> str:
        return ", ".join(map(str, self.loops))


def parse_schedule(text: str) -> Schedule:
    """Read the text of a schedule. Raises InternalError for a word that is none of the vocabulary."""
    loops = []
    for item in filter(None, (p.strip() for p in text.split(","))):
        words = item.split()
        kind, body = (words[0], words[1]) if len(words) == 2 else ("for", words[0])
        dim, _, step = body.partition(":")
        number = step.removesuffix("~")
        if kind not in get_args(Kind) or len(words) > 2 or (step and int(number) < 1):
            raise InternalError(f"schedule: can't read {item!r}")
        loops.append(Loop(cast(Kind, kind), dim, int(number or 1), number != step))
    return Schedule(tuple(loops))


def tiles(extent: int, step: int, unit: int = 1, even: bool = False) -> list[tuple[int, int, int]]:
    """(start, size, how many) of runs of equal tiles: the fewest up to `step` that cover `extent`, balanced
    in multiples of `unit`.

    `even` ones are one run, where that computes little twice: the last tile begins where it ends at `extent`.
    """
    blocks, most = -(-extent // unit), max(1, step // unit)
    count = -(-blocks // most)
    small, more = divmod(blocks, max(count, 1))
    size, beyond = small * unit, blocks * unit - extent
    largest = size + unit * (more > 0)
    if even and (extent - largest) % unit == 0 and count * largest <= extent * (1 + TWICE):
        return [(0, largest, count)]
    last = 1 if beyond else 0               # of less than a whole unit
    runs = [(0, size + unit, more), (more * (size + unit), size, count - more - last),
            (blocks * unit - size, size - beyond, last)]
    return [run for run in runs if run[2] > 0]
