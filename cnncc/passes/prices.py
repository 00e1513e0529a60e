"""What loops cost: an analytic model of the target, in cycles of one core.

Arithmetic, loads and latency of the register tile; bytes from beyond L1 and L2 by the loops around them.
Operands in scratch memory are in L2 already.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cnncc.ir.expr import Load, cost, size
from cnncc.ir.formula import outside
from cnncc.ir.infer import stage_lanes
from cnncc.ir.kernel import ACC, Kernel, Stage
from cnncc.ir.schedule import Loop
from cnncc.ir.target import Target
from cnncc.ir.types import BYTES, HINT, Extent, product

STALL = 0.5                 # the part of a transfer from L2 that is not hidden behind arithmetic
ROOM = 0.65                 # the part of L2 that a loop's data may fill
HIDDEN = 0.6                # the part of a stream from beyond L2 that is waited for
AHEAD = 0.2                 # the same where it is asked for a whole chunk before
PIECE = 2.0                 # bytes per cycle of what is walked in single elements
RUN, RUNS = 2048, 32        # bytes from which one is long; shorter runs that are followed at a time
SCATTERED = 0.3             # of the rate of elements, where tiles of all channels take turns
UNALIGNED = 1.5             # loads that one of a vector counts as which taps shift
RESUMED, RESUME = 1.5, 60   # cycles that a chunk takes for each accumulator that has waited, and at all
WINDOW = 128                # instructions that are in flight at a time
BROADCAST = 1.2             # loads of vectors that loading one element into all lanes is worth
FAR = 6                     # the same for an element of a vector that is gathered from beyond L2
ENDS = 12                   # instructions that end a tile, beside those for each vector
LOOP = 0.3                  # cycles that a turn of an inner loop costs beside its arithmetic
PAGE, LINE = 4096, 64       # bytes; lines at equal places of pages share a set of L1
MISSED = 6                  # cycles that a step waits for an element whose line L1 could not hold
WRITTEN = 24                # the same for a line that is written in pieces
COUNTED = "par", "for", "part", "chunk"
BODY = 40                   # multiply-adds that an inner loop should have at least


def number(e: Extent) -> int:
    return HINT if isinstance(e, str) else e


def count_of(extent: int, step: int) -> int:
    return -(-extent // step)


def sizes(extent: int, step: int) -> list[tuple[int, int]]:
    """(size, how many) of the balanced tiles of at most `step`."""
    count = -(-extent // step)
    small, more = divmod(extent, count)
    return [(size, n) for size, n in ((small + 1, more), (small, count - more)) if n]


def turns_of(acc: int) -> int:
    """How many steps of the innermost reduction one turn of its loop does."""
    return next((n for n in (1, 2) if n * acc >= BODY), 4)


@dataclass(frozen=True, slots=True)
class _Access:
    """What the price of memory knows of a load or store."""

    dims: frozenset[str]
    nbytes: int
    unit: int                           # bytes of an element
    batch: int
    broadcast: bool
    ordered: bool                       # it lies as the loops walk it
    near: bool                          # scratch memory, in cache
    jump: Callable[[str, int], int]     # bytes from turn to turn of a loop over a dimension, by its step


_Reading: TypeAlias = tuple[float, bool, bool, int, int]
"""Loads for a vector of one row, whether there are more for each vector and for each row; the stride and
length of windows of which what rows share is read once, or zeros."""


def reads_of(reading: Sequence[_Reading], width: int, blocks: int) -> float:
    """The loads of a step of a tile of so many rows and vectors."""
    total = 0.0
    for n, high, along, stride, window in reading:
        if high:
            n *= blocks
        if window:
            n *= min(width * window, (width - 1) * stride + window) / window
        elif along:
            n *= width
        total += n
    return total


class Prices:
    """A kernel of one stage with vectors along a dimension: what its loops cost.

    The `folded` dimensions are always unrolled: those that the result lacks, tables' rows, `taps`, all but
    one of those that together lead out of an operand.
    """

    def __init__(self, kernel: Kernel, weights: tuple[str, ...], target: Target,
                 simd: str | None = None, taps: Sequence[str] = ()) -> None:
        self.kernel, self.target, self.weights = kernel, target, weights
        self.known: dict[int, frozenset[str]] = {}
        self.blocks: dict[str, bool] = {}
        self.distances: dict[tuple[int, str | None], int] = {}
        self.walks: dict[str | None, tuple[int, int]] = {}
        self.computed: tuple[Sequence[Loop], tuple[int, ...], float] = ((), (), 0.0)    # priced last
        self.stage: Stage = kernel.stages[-1]
        self.extents = self.stage.extents
        self.tensors = kernel.tensors
        first = self.stage.first
        self.reduced = list(first.reduced) if first.fold != "=" else []
        self.out = [d for d in self.extents if d not in self.reduced]
        self.loads = [x for x in first.loads if x.tensor != ACC]
        result = set(self.stage.formulas[-1].out_dims)
        self.taps = frozenset(taps)
        unrolled = first.tabled.union(taps)
        unrolled |= self._cut(unrolled)
        self.folded = [d for d in self.out if d not in result or d in unrolled]
        self.lanes = stage_lanes(self.stage, self.tensors, target)
        self.simd = simd or self._vector()
        out = self.stage.out.index
        rows = dict.fromkeys(d for a, _ in kernel.output.layout.order for d in out[a].dims)
        self.rows = [d for d in rows if d not in (self.simd, *self.folded)]
        self.batch = next((d for d in self.rows if isinstance(self.extents[d], str)), None)
        if self.batch is None and len(self.rows) > 1 and out[0].single == self.rows[0] \
                and not self._blocked(self.rows[0]):
            self.batch = self.rows[0]
        self.vectors = [x for x in self.loads if self.simd in self._dims(x)]
        self.sliding = [(x, row, d, i.coefficient(row)) for x in self.loads for i in x.index for d in i.dims
                        if d in self.reduced for row in i.dims if row != d]
        self.shifted = [x for x in self.vectors if x.tensor not in self.weights and any(
            self.simd in i.dims and len(i.dims) > 1 for i in x.index) and not self._blocked(str(self.simd))]
        self.broadcast = [x for x in self.loads if self.simd not in self._dims(x)]
        self.instructions = max(1, self.stage.instructions_per_step())
        self.functions = sum(cost(f.expr) - size(f.expr) for f in self.stage.formulas[1:])
        self.accesses = [self._access(x) for x in dict.fromkeys((*self.stage.loads, self.stage.out))]

    def _cut(self, unrolled: Collection[str]) -> set[str]:
        """Dimensions, beside those unrolled, that lead out of an operand together with a longer one, by which
        the loops are split.
        """
        found: set[str] = set()
        for x in (*self.loads, self.stage.out):
            for i, e in zip(x.index, self.tensors[x.tensor].type.shape, strict=True):
                rows = sorted((d for d in i.dims if d in self.out and d not in unrolled),
                              key=lambda d: number(self.extents[d]))
                found.update(rows[:-1] if rows[1:] and outside(i, e, self.extents) else ())
        return found

    def _dims(self, x: Load) -> frozenset[str]:
        found = self.known.get(id(x))
        if found is None:       # hashing a load takes longer
            found = self.known[id(x)] = frozenset(d for i in x.index for d in i.dims)
        return found

    def _access(self, x: Load) -> _Access:
        t, dims = self.tensors[x.tensor], self._dims(x)
        batch = HINT if self.batch in dims and isinstance(t.type.shape[0], str) else 1
        nbytes = t.nbytes                       # of what is read: a part of some channels, say
        for i, e in zip(x.index, t.type.shape, strict=True):
            if isinstance(e, int) and i.lookup is None \
                    and not any(isinstance(self.extents[d], str) for d in i.dims):
                low, high = i.bounds({d: int(self.extents[d]) for d in i.dims})
                nbytes = nbytes * (min(e, high + 1) - max(0, low)) // e
        return _Access(dims, nbytes, BYTES[t.type.dtype], batch, x in self.broadcast,
                       x.tensor in self.weights, t in self.kernel.scratch,
                       functools.cache(functools.partial(self._jump, x)))

    def _jump(self, x: Load, d: str, step: int) -> int:
        t, total = self.tensors[x.tensor], 0
        for a, i in enumerate(x.index):
            if n := abs(i.coefficient(d)) * step:
                total += sum((n % modulus if modulus else n) // divisor * stride
                             for divisor, modulus, stride in t.layout.parts(a, t.type.shape))
        return total * BYTES[t.type.dtype]

    def _vector(self) -> str | None:
        """The dimension with unit stride in the result; else, where the result is a number, in an operand.

        One with another stride, as clauses have, where all operands that it walks have unit stride.
        """
        last_axis = self.kernel.output.layout.order[-1][0] if self.kernel.output.layout.order else None
        if last_axis is not None:
            terms = sorted(self.stage.out.index[last_axis].terms, key=lambda term: term[1] != 1)
            for d, c in terms:
                e = self.extents[d]
                if isinstance(e, int) and (c == 1 or (e >= self.lanes and not any(
                        self._gathered(x, d) for x in self.stage.first.loads if x.tensor != ACC))):
                    return d
        for x in self.stage.first.loads:
            t = self.tensors.get(x.tensor)
            if t is not None and x.index:
                found = x.index[t.layout.order[-1][0]].single
                if found is not None and found in self.reduced:
                    return found
        return None

    def wide(self, tile: str | None) -> tuple[str | None, int]:
        """What a tile unrolls beside its rows, and the steps: vectors, or where they lie along the sum, rows
        that only another factor has.
        """
        if self.simd not in self.reduced:
            return self.simd, self.lanes
        rows = (d for d in reversed(self.rows) if tile and d != self.batch
                and any(d in self._dims(x) and tile not in self._dims(x) for x in self.loads)
                and any(tile in self._dims(x) and d not in self._dims(x) for x in self.loads))
        return next(rows, None), 1

    def _vectors(self, tile: str | None) -> int:
        """How many steps there are in all of what a tile unrolls beside its rows."""
        d, step = self.wide(tile)
        return count_of(number(self.extents[d]), step) if d else 1

    def _blocked(self, d: str) -> bool:
        if d not in self.blocks:
            self.blocks[d] = any(i.coefficient(d) % self.tensors[x.tensor].layout.block(a)
                                 for x in (*self.stage.loads, self.stage.out) for a, i in enumerate(x.index)
                                 if x.tensor not in self.weights)
        return self.blocks[d]

    def _gathered(self, x: Load, d: str | None) -> int:
        """The distance in memory between neighbours along d where it isn't 1; 0: they make a vector."""
        found = self.distances.get((id(x), d))
        if found is None:
            found = self.distances[id(x), d] = self._distance(x, d)
        return found

    def _distance(self, x: Load, d: str | None) -> int:
        if d not in self._dims(x) or x.tensor in self.weights:
            return 0
        t = self.tensors[x.tensor]
        last = t.layout.order[-1][0]
        if any(d in i.dims for a, i in enumerate(x.index) if a != last):
            return 1 << 30
        c = abs(x.index[last].coefficient(d))
        return c if c != 1 else 0

    def _around_tile(self, tile: str | None) -> tuple[int, int]:
        """How many steps a tile's sum has, and how many times all tiles of its two dimensions are walked."""
        if tile in self.walks:
            return self.walks[tile]
        steps = product(number(self.extents[d]) for d in self.reduced)
        if self.simd in self.reduced:
            steps = -(-steps // self.lanes)
        beside, _ = self.wide(tile)
        others = product(number(self.extents[d]) for d in self.rows if d not in (tile, beside))
        self.walks[tile] = steps, others
        return steps, others

    def _least(self, tile: str | None, tiles: Iterable[tuple[int, int]],
               fold: int) -> Iterator[tuple[float, tuple[int, int]]]:
        """Cycles that tiles of (vectors, rows) take at least, whatever the loops in and around them."""
        steps, others = self._around_tile(tile)
        extent, vectors = number(self.extents[tile]) if tile else 1, self._vectors(tile)
        tiled = vectors * extent * fold
        end = tiled * (len(self.stage.formulas) / 2 + self.functions)
        reading = self._reading(tile, fold, [Loop("unroll", d) for d in self.reduced])
        for nb, rw in tiles:
            acc = rw * nb * fold
            ops, reads = acc * self.instructions, reads_of(reading, rw, nb)
            near = not self.reduced or steps * (ops + reads) < WINDOW
            cycle = max(ops / self.target.fmas, reads / self.target.loads, 0 if near else self.target.latency)
            cycle += self.target.beside * reads + self.missed
            ends = end + ENDS / 2 * count_of(extent, rw) * count_of(vectors, nb)
            yield others * (steps * tiled * cycle / acc + ends) + self.least_memory, (nb, rw)

    @functools.cached_property
    def least_memory(self) -> float:
        """Cycles lost to memory at least."""
        total, t = 0.0, self.target
        for a in self.accesses:
            stream = 0 if a.broadcast else t.l3_stream / (AHEAD if a.ordered else HIDDEN)
            total += 0 if a.near else a.nbytes * a.batch / max(t.l3_bytes, stream)
        return total

    @functools.cached_property
    def missed(self) -> float:
        """Cycles per step for single elements on lines of their own that drive each other out of L1."""
        total = 0
        for x in self.broadcast:
            if x.tensor in self.weights:            # they lie as the loops walk them
                continue
            sums = [d for d in self.reduced if d in self._dims(x) and number(self.extents[d]) > 1]
            jumps = [self._jump(x, d, 1) for d in sums]
            if jumps and min(jumps) >= LINE:
                lines = product([number(self.extents[d]) for d in sums])
                total += MISSED if self._crowded(lines, 4, *jumps) else 0
        return total

    def _crowded(self, lines: int, part: int, *jumps: int) -> bool:
        """Whether so many lines, these bytes apart, are more than a part of L1 has places for."""
        places = min(PAGE // LINE, PAGE // math.gcd(*jumps, PAGE))
        return lines * PAGE * part > places * self.target.l1

    def _compute(self, tile: str | None, rw: int, nb: int, fold: int, inside: Sequence[Loop],
                 chunks: int, again: Sequence[int]) -> float:
        t = self.target
        beside, vectors = self.wide(tile)[0], self._vectors(tile)
        steps, others = self._around_tile(tile)
        total, reading = 0.0, self._reading(tile, fold, inside)
        for width, wide in sizes(number(self.extents[tile]), rw) if tile else [(1, 1)]:
            for blocks, high in sizes(vectors, nb):
                acc = width * blocks * fold
                reads = reads_of(reading, width, blocks)
                ops = acc * self.instructions
                streamed = sum(self._streamed(steps // chunks, blocks if beside in self._dims(x) else 1, n, x,
                                              tile, width) for x, n in zip(self.vectors, again, strict=True))
                scalars = acc * self.functions if self.simd in self.reduced else 0
                near = steps // chunks * (ops + reads) + scalars < WINDOW       # tiles overlap in time
                cycle = max(ops / t.fmas, reads / t.loads, t.latency if self.reduced and not near else 0,
                            streamed)
                cycle += LOOP / turns_of(acc) + STALL * streamed + t.beside * reads + self.missed
                epilogue = acc * (len(self.stage.formulas) + self._apart_at_end(tile, width)) + ENDS
                epilogue = epilogue / (2 if near else 1) + acc * self.functions
                resumed = (acc * RESUMED + RESUME) * chunks if chunks > 1 else 0
                total += (steps * cycle + epilogue + resumed) * wide * high
        return total * others

    def _code(self, tile: str | None, rw: int, nb: int, fold: int, inside: Sequence[Loop]) -> float:
        """Instructions, roughly: of the unrolled terms of a tile and its end, for each different tile."""
        terms = 1
        for d in self.reduced:
            last = next((x for x in reversed(inside) if x.dim == d and x.kind in ("for", "part")), None)
            step, extent = last.step if last else number(self.extents[d]), number(self.extents[d])
            terms *= step * (2 if extent % step else 1)
        variants = len(sizes(number(self.extents[tile]), rw)) if tile else 1
        variants *= len(sizes(self._vectors(tile), nb))
        bounds = [pair for x in self.loads for pair in zip(x.index, self.tensors[x.tensor].type.shape,
                                                           strict=True)]
        clipped = {d for i, e in bounds if outside(i, e, self.extents) for d in i.dims
                   if d not in (*self.reduced, *self.folded)}
        tiles = float(variants * rw * nb * fold * 3 ** len(clipped))
        return tiles * (2 * terms + 3 * len(self.stage.formulas))

    def _again(self, walked: Sequence[tuple[Loop, int]]) -> tuple[int, ...]:
        """How many tiles' vectors each load goes through before it reads the same ones again."""
        found = []
        for own in map(self._dims, self.vectors):
            total = 1
            for x, turns in reversed(walked):
                if turns > 1 and x.dim not in own:
                    break
                total *= turns
            found.append(total)
        return tuple(found)

    def _walked(self, loops: Iterable[Loop]) -> Iterator[tuple[Loop, int]]:
        """Counted loops, the outermost first, with their turns: an inner one goes through an outer's step."""
        span = {d: number(e) for d, e in self.extents.items()}
        for x in loops:
            if x.kind in COUNTED:
                yield x, count_of(span[x.dim], x.step)
                span[x.dim] = min(x.step, span[x.dim])

    def _streamed(self, steps: int, blocks: int, tiles: int, x: Load, tile: str | None, width: int) -> float:
        """Cycles per step for vectors from L2: where they don't stay in L1 until they are read again."""
        line = self.lanes * 4 * blocks * self._spread(x, tile, width)
        stays = steps * line * tiles <= self.target.l1 * self.target.kept
        if stays or not set(self.reduced) <= self._dims(x):
            return 0.0
        far = steps * line > self.target.l2 * 3 // 4
        return line / (self.target.l3_stream if far else self.target.l2_bytes)

    def _spread(self, x: Load, tile: str | None, width: int) -> float:
        """How many times what a sum reads of an operand a tile of so many sums reads."""
        for i in x.index:
            if tile and tile in i.dims:
                taps = [d for d in i.dims if d in self.reduced]
                window = 1 + sum(abs(i.coefficient(d)) * (number(self.extents[d]) - 1) for d in taps)
                own = product([number(self.extents[d]) for d in taps])
                return min(float(width), ((width - 1) * abs(i.coefficient(tile)) + window) / own)
        return 1.0

    def _apart_at_end(self, tile: str | None, width: int) -> float:
        """Instructions that take a vector apart: lanes added up, squares turned, or stored one by one."""
        rounds = math.log2(self.lanes)
        if self.simd in self.reduced:
            return 3 * rounds
        if not self.simd or not self._gathered(self.stage.out, self.simd):
            return 0
        axis = self.kernel.output.layout.order[-1][0]
        apart = self.kernel.output.layout.block(axis) > 1 and width % self.lanes     # of a block
        if tile and width > 1 and not apart and not self._gathered(self.stage.out, tile):
            return (1.5 * rounds + 1) * count_of(width, self.lanes) * self.lanes / width
        return 2 * self.lanes

    def _reading(self, tile: str | None, fold: int, inside: Sequence[Loop]) -> list[_Reading]:
        """How a step of a tile reads each load."""
        wide, found = self.wide(tile)[0], []
        taps = {l.dim for l in inside if l.kind == "unroll"}
        again = {l.dim for l in inside if l.kind == "reload"}
        for x in self.loads:
            dims = self._dims(x)
            n = 1.0 if self.simd in dims else BROADCAST
            if x in self.shifted:
                n *= UNALIGNED
            if distance := self._gathered(x, self.simd):
                far = self.tensors[x.tensor].nbytes > self.target.l2
                n *= 3 if distance == 2 else (FAR if far else 2) * self.lanes
            if not dims.isdisjoint(self.folded):
                n *= fold
            shared = tile in dims and self.simd in dims and x.tensor not in again and next(
                ((abs(c), number(self.extents[d])) for y, row, d, c in self.sliding
                 if y is x and row == tile and d in taps), None)     # overlapping vectors are read once
            stride, window = shared or (0, 0)
            found.append((n, self.simd in dims and wide in dims, tile in dims, stride, window))
        return found

    def _runs(self, a: _Access, loops: Sequence[Loop]) -> tuple[int, int]:
        """How many pieces of memory beyond L2 are followed at a time, and the bytes of a piece."""
        if a.near or a.ordered or a.nbytes <= self.target.l2:
            return 0, 0
        walked = [(x, turns) for x, turns in self._walked(loops) if x.dim in a.dims]
        span = {d: number(self.extents[d]) for d in a.dims}
        span |= {x.dim: min(x.step, span[x.dim]) for x, _ in walked}
        near, runs = a.unit * product(span.values()), 1
        if self.simd in a.dims and span[self.simd] > self.lanes:
            vectors = count_of(span[self.simd], self.lanes)
            runs = vectors if a.jump(self.simd, self.lanes) > near // vectors else 1
        run = near // runs
        found = runs, run
        for x, turns in reversed(walked):
            jump = a.jump(x.dim, x.step)
            if turns > 1 and jump > near:
                runs *= turns if run < RUN else 1
            elif turns > 1:
                found = max(found, (runs, run))
                run = turns * max(run, jump)
            near *= turns
        return found

    def _pieces(self, walked: Sequence[tuple[Loop, int]]) -> float:
        """Cycles lost to rows across the vectors that a tile writes a part of a line of, where other rows
        drive that line out of L1 before the next tile goes on with it.
        """
        out, order = self.stage.out, self.kernel.output.layout.order
        if not self.simd or not order or not self._gathered(out, self.simd):
            return 0.0
        along = set(out.index[order[-1][0]].dims)
        at = max((i for i, (x, turns) in enumerate(walked) if x.dim in along and turns > 1), default=-1)
        if at < 0 or walked[at][0].step % self.lanes == 0:
            return 0.0
        every = number(self.extents[self.simd])
        rows = min((x.step for x, _ in walked[:at] if x.dim == self.simd), default=every)
        if not self._crowded(rows, 1, self._jump(out, self.simd, 1)):
            return 0.0
        tile = walked[at][0]
        others = product(number(self.extents[d]) for d in self.rows if d != tile.dim)
        return float(WRITTEN * every * others * count_of(number(self.extents[tile.dim]), tile.step))

    def _memory(self, walked: Sequence[tuple[Loop, int]], inside: Sequence[Loop]) -> float:
        """Cycles lost to bytes from beyond L2: what doesn't fit is read in every turn of loops around it.

        Vectors come in streams that are mostly hidden; single elements of scattered lines are waited for.
        """
        live = [float(a.nbytes) for a in self.accesses]
        turns = [1.0] * len(live)
        for loop, count in walked:
            own = [loop.dim in a.dims for a in self.accesses]
            live = [n / count if w else n for n, w in zip(live, own, strict=True)]   # one tile of it
            if sum(live) > self.target.l2 * ROOM:                   # gone by the next turn
                turns = [n if w else n * count for n, w in zip(turns, own, strict=True)]
        outside = [x for x, _ in walked]
        order = [x.dim for x in outside]
        again = next((d for d in order if order.count(d) > 1 and d not in (self.simd, self.batch)), None)
        # pixels in chunks around channels: what is written or added comes in pieces, not in streams
        chunk = {again, self.simd} if again and len(self.rows) <= 2 and order[0] != self.simd else {""}
        slab = order[-1:] == [self.simd] and order.count(order[-1]) > 1
        followed = [self._runs(a, [*outside, *inside]) for a in self.accesses]
        many = sum(runs for runs, _ in followed) > RUNS
        total = self._pieces(walked)
        for a, n, (_, run) in zip(self.accesses, turns, followed, strict=True):
            if a.near:
                continue
            if slab and self.simd in a.dims and not a.ordered:      # a few rows of many channels at a time
                rate = self.target.l3_bytes * SCATTERED
            elif a.broadcast or a.dims >= chunk:
                rate = self.target.l3_bytes
            elif a.ordered:
                ahead = any(x.kind == "chunk" and x.dim in a.dims for x in outside)
                rate = self.target.l3_stream / (AHEAD if ahead else HIDDEN)
            elif many and 0 < run < RUN:
                rate = min(PIECE + run / LINE, self.target.l3_bytes / 2)
            else:
                rate = self.target.l3_stream / HIDDEN
            total += a.nbytes * n * a.batch / rate
        return total
