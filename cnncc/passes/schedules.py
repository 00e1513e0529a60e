"""Candidates for the loops of each kernel, priced by an analytic model of the target.

The shape of a kernel decides what is tried, never its name: which dimension has unit stride in the
result (the vector), which other one is innermost (the tile), which operands are broadcast, what taps overlap.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, permutations

from cnncc.ir.expr import Load, cost
from cnncc.ir.formula import outside
from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import Kernel
from cnncc.ir.layout import Layout
from cnncc.ir.schedule import TWICE, Loop, Schedule
from cnncc.ir.target import Target
from cnncc.ir.types import BYTES, product
from cnncc.passes.collapse import collapse
from cnncc.passes.inner import Inner
from cnncc.passes.layouts import PACKED
from cnncc.passes.prices import count_of, number

ENOUGH = 16                 # tasks that keep any number of threads busy
PASSES = 32                 # tiles over the same weights up to which they are worth a prefetch
SHORT = 6                   # tiles along less than this are tried along another dimension too
FULL = 0.7                  # the part of its vectors' lanes that an extent should fill
SPARSE = 40                 # terms for each byte of an operand below which it is walked in more ways
LONG = 160                  # instructions of elementwise code that are worth unrolling
AROUND = 200                # instructions of a kernel around its tile
SLAB, WAITING = 0.54, 0.25  # the parts of L2 for weights that stay, and for sums that wait
SMALL = 20_000              # cycles below which a kernel is one task


@dataclass(frozen=True)
class Candidate:
    """Loops for a kernel, their predicted cost in cycles of one core, and instructions where they count."""

    cycles: float
    outside: tuple[Loop, ...]
    inside: tuple[Loop, ...]
    space: _Space
    code: float = 0.0

    @property
    def price(self) -> float:
        """What is to be least: where code counts, as much as a kernel has anyway is worth twice the time."""
        return self.cycles * (1 + self.code / AROUND)

    @property
    def kernel(self) -> Kernel:
        return self.space.kernel_with(self)

    @property
    def loops(self) -> Schedule:
        return Schedule((*self.outside, *self.inside))

    def __str__(self) -> str:
        return f"{self.cycles:12.0f} cycles  {self.loops}"


def weights_of(n: Node, graph: Graph) -> tuple[str, ...]:
    """The operands whose memory order the schedule may choose: constants with several extents, copies."""
    assert n.kernel is not None
    return tuple(t.name for t, i in zip(n.kernel.operands, n.inputs, strict=False)
                 if (graph[i].op == "const" or graph[i].attr.get("does") == PACKED)
                 and sum(e != 1 for e in t.type.shape) > 1
                 and sum(x.tensor == t.name for s in n.kernel.stages for x in s.loads) == 1
                 and not any(t.name in s.lookups for s in n.kernel.stages)
                 and not any(i.lookup for s in n.kernel.stages for x in s.loads if x.tensor == t.name
                             for i in x.index))


def candidates(kernel: Kernel, weights: Sequence[str], target: Target, part: bool = False,
               price: float = math.inf) -> list[Candidate]:
    """All candidates for a kernel of one stage up to a price, some beyond it, the cheapest first; a `part`
    keeps its dimensions.
    """
    found: list[Candidate] = []
    for space in _spaces(kernel if part else collapse(kernel), tuple(weights), target):
        space.limit = price
        found += space.all()
    return sorted(found, key=lambda c: c.price)


@functools.lru_cache(maxsize=1024)
def cheapest(kernel: Kernel, weights: tuple[str, ...], target: Target,
             counted: frozenset[str] = frozenset()) -> Candidate:
    """The first candidate for a kernel as it is, of those that unroll no dimension `counted` if it can be.

    It is found without most of the others; passes ask for it several times.
    """
    best = cheaper(kernel, weights, target, counted=counted) or cheaper(kernel, weights, target)
    assert best is not None
    return best


def cheaper(kernel: Kernel, weights: tuple[str, ...], target: Target, price: float = math.inf,
            counted: frozenset[str] = frozenset()) -> Candidate | None:
    """The first candidate, for a kernel as it is, that costs less than a price and unrolls no dimension
    `counted`; found faster the lower the price.
    """
    best: Candidate | None = None
    for space in _spaces(kernel, weights, target):
        space.limit = price
        for c in space.all():
            if c.price < price and not any(x.kind == "unroll" and x.dim in counted for x in c.inside):
                best, price = c, c.price
                space.limit = price
    return best


def _spaces(kernel: Kernel, weights: tuple[str, ...], target: Target) -> Iterator[_Space]:
    """By what may be the vector, and which rows are taps."""
    first = _Space(kernel, weights, target)
    for s in (first, *(_Space(kernel, weights, target, d) for d in first.other_vectors())):
        yield s
        yield from (_Space(kernel, weights, target, s.simd, taps) for taps in s.other_taps())


def equal_parts(extent: int, most: int, unit: int) -> int:
    """The largest part up to `most`, in units, of which there are whole ones only; `most` where half of it is
    too much. (Parts of each size are code of their own.)
    """
    sizes = range(most // unit * unit, most // 2 - 1, -unit)
    return next((size for size in sizes if size and extent % size == 0), most)


@functools.cache
def groups_of(extent: int, step: int, count: int) -> int:
    """About `count` steps of which groups of one size cover an extent, computing little of it twice; `count`
    where there are no such.
    """
    computed = {n: count_of(extent, step * n) * step * n for n in range(max(1, count // 2), 2 * count + 1)}
    best = min(computed, key=lambda n: (computed[n], abs(n - count)))
    return best if computed[best] <= extent * (1 + TWICE) else count


class _Space(Inner):
    """What a kernel of one stage allows."""

    limit = math.inf            # what a candidate must cost less than

    def other_vectors(self) -> Iterator[str]:
        """Dimensions whose vectors are whole in all operands, where the result's are gathered or short."""
        extent = number(self.extents[self.simd]) if self.simd else self.lanes
        short = extent < FULL * count_of(extent, self.lanes) * self.lanes
        if not (short or any(self._gathered(x, self.simd) for x in self.loads)) or self.stage.first.scattered:
            return
        shape, order = self.kernel.output.type.shape, self.kernel.output.layout.order
        if any(block and number(shape[a]) % block for a, block in order):
            return                          # lanes beyond an extent would not be zero
        plain = all(not block for _, block in order)
        moved = self.stage.first.fold == "=" and all(block in (0, self.lanes) for _, block in order)
        least = 2 if self.stage.first.fold == "=" else self.lanes
        leaving = {d for x in self.loads
                   for i, e in zip(x.index, self.tensors[x.tensor].type.shape, strict=True)
                   if outside(i, e, self.extents) for d in i.dims}
        for d, e in self.extents.items():
            if isinstance(e, int) and e >= least and d not in self.folded and d not in leaving \
                    and (plain or moved or d in self.reduced) \
                    and not any(self._gathered(x, d) for x in self.loads):
                yield d

    def other_taps(self) -> Iterator[list[str]]:
        """Rows that move vectors along a sum, as taps do in gradients of weights: the last, the last two."""
        summed = {*self.reduced}.difference(self.stage.first.tabled)      # those are unrolled
        found = [d for d in self.rows if isinstance(e := self.extents[d], int) and any(
            d in i.dims and any(o in summed and e < number(self.extents[o]) for o in i.dims)
            for x in self.loads for i in x.index if self.simd in self._dims(x) or self.simd in self.reduced)]
        for n in range(1, min(2, len(found)) + 1):
            if product([number(self.extents[d]) for d in found[-n:]]) < self.target.registers:
                yield found[-n:]

    # ---- candidates

    def all(self) -> Iterator[Candidate]:
        if self.stage.first.scattered:
            yield from self.priced(self._in_order(), None, 1, 1, 1)
            return
        for tile in self.tiles():
            yield from self._tiled(tile)

    def tiles(self) -> list[str | None]:
        """What may be unrolled beside the vector: the last row's dimension, others of a factor, and where
        nothing is read twice along the last one, or it is short, the batch.
        """
        last = next((d for d in reversed(self.rows) if d != self.batch), self.batch)
        if last != self.batch and self._apart(str(last)) and not self._apart(str(self.batch)):
            return [last, self.batch]
        if last is None or self.stage.first.fold == "=":
            return [self._along() or last]
        dims = [self._dims(x) for x in self.loads]
        short = number(self.extents[last]) < SHORT or not any({self.batch, last} <= own for own in dims)
        shared = self.stage.first.fold == "+=" and any(self.batch not in own for own in dims)
        known = isinstance(self.extents.get(str(self.batch)), int)
        samples = [self.batch] if short and shared and known else []
        others = [d for d in self.rows if not isinstance(self.extents[d], str) and any(
            d in own and last not in own for own in map(self._dims, self.broadcast))]
        return [*dict.fromkeys((last, *samples, *others))]

    def _along(self) -> str | None:
        """The row that lies along the result's memory where the vector lies across."""
        out, order = self.stage.out, self.kernel.output.layout.order
        if not order or not self._gathered(out, self.simd):
            return None
        return next((d for d in self.rows if d in out.index[order[-1][0]].dims
                     and isinstance(self.extents[d], int)), None)

    def _tiled(self, tile: str | None) -> Iterator[Candidate]:
        spare = self.target.registers
        fold = product([number(self.extents[d]) for d in self.folded])
        beside, _ = self.wide(tile)
        vectors = self._vectors(tile)
        if beside and beside != self.simd and self._several(beside):
            vectors = self.lanes
        extent = number(self.extents[tile]) if tile else 1
        if tile and self._several(tile):
            extent = self.lanes             # a tile lies in a block
        widths = {count_of(extent, rw): rw for rw in range(min(extent, 28), 0, -1)}
        heights = {count_of(vectors, nb): nb for nb in range(min(vectors, 9), 0, -1)}
        first, *rest = self.stage.formulas
        long = cost(first.expr) + sum(cost(f.expr) for f in rest if first.fold == "=")
        fits = False
        flying = 2 if fold == 1 and first.fold == "+=" and len(self.loads) > 1 else 1
        tiles = [(nb, rw) for nb in heights.values() for rw in widths.values()
                 if rw * nb == 1 or rw * nb * long <= LONG]
        for least, (nb, rw) in sorted(self._least(tile, tiles, fold)):
            if fits and least > self.limit:
                break
            loaded = nb * fold if self.taps and rw > 1 else max(nb, flying)
            free = spare - rw * nb * fold - loaded - 1
            if free < 0:
                continue
            windows = self._windows(tile, rw, nb)
            shared = [x.tensor for x, _ in windows]
            loops = [*self.orders(tile, rw, nb)]
            if self._held(windows) <= free:
                fits |= bool(loops)
                yield from chain(*(self.priced(x, tile, rw, nb, fold) for x in loops))
            if shared and len(shared) < len(self.loads):
                fits |= bool(loops)
                hints = [Loop("reload", t) for t in shared]
                again = {id(inside): [*inside, *hints] for _, inside in loops}
                yield from chain(*(self.priced((outside, again[id(inside)]), tile, rw, nb, fold)
                                   for outside, inside in loops))
        if not fits:                        # more than there are registers, whatever the tile
            yield from chain(*(self.priced(x, tile, 1, 1, fold) for x in self.orders(tile, 1, 1)))

    def _in_order(self) -> tuple[list[Loop], list[Loop]]:
        """The loops of what data scatter: the dimensions that may meet at one place stay in their order."""
        meet = [d for d in self.out if all(i.single != d for i in self.stage.out.index)]
        apart = [d for d in self.out if d not in meet and d != self.simd]
        outside = [x for d in (*apart, *meet) for x in self._levels(d, 1)]
        if self.simd is None:
            return outside, []
        lanes = Loop("for", self.simd, self.lanes)
        return [*outside, lanes], [Loop("unroll", self.simd, self.lanes), Loop("simd", self.simd)]

    def orders(self, tile: str | None, rw: int, nb: int) -> Iterator[tuple[list[Loop], list[Loop]]]:
        """(loops outside of the tile, loops inside): rows outermost, or channels outermost."""
        fold = product([number(self.extents[d]) for d in self.folded])
        inside = self.inside(tile, rw, nb, rw * nb * fold)
        inside += self._prefetch(nb, tile, rw)
        beside, lanes = self.wide(tile)
        apart = [d for d in self.rows if d not in (self.batch, tile) and self._apart(d)]
        rows = [d for d in self.rows if d not in (self.batch, tile, beside, *apart)]
        batch = [Loop("par", self.batch)] if self.batch and self.batch != tile else []
        batch += [x for d in apart for x in self._levels(d, 1)]
        wide = [Loop("for", beside, nb * lanes)] if beside else []
        if beside and beside != self.simd:
            wide = self._levels(beside, nb)
        inner = self._levels(tile, rw) if tile else []
        outer = [x for d in rows for x in self._levels(d, 1)]
        flat = tile and tile != self.batch and not rows and len(inner) == 1
        groups = self._groups(str(tile), rw) if flat else []
        if tile and wide and beside == self.simd and self._along_rows(tile, rows):
            yield ([*batch, *outer, *inner, *wide], inside)
        if self.broadcast or not wide or beside != self.simd:
            for group in groups or [[]]:
                yield ([*batch, *outer, *group, *wide, *inner], inside)
        if wide and (outer or groups or not self.broadcast):
            yield ([*batch, *wide, *outer, *inner], inside)
            strip = self._strip(rows[0], nb) if rows else 0
            if strip and self.weights:
                yield ([*batch, Loop("for", rows[0], strip), *wide, *outer, *inner], inside)
            if batch and self.weights:
                yield ([*wide, *batch, *outer, *inner], inside)
            slab = self._slab(nb)
            if slab and inner:
                yield ([Loop("for", str(beside), slab), *batch, *outer, *inner, *wide], inside)
        if wide and inner and self._sparse():
            ways = dict.fromkeys(tuple(chain(*way)) for way in permutations((inner, wide, outer)))
            yield from (([*batch, *way], inside) for way in ways)
        for chunks in self._chunks(nb) if tile is None or isinstance(self.extents[tile], int) else ():
            done = {x.dim for x in chunks if x.step == 1}
            rest = [x for x in inside if x.dim not in done and x.kind != "prefetch"]
            if self._streams() and (outer or inner):
                yield ([*batch, *wide, *chunks, *outer, *inner], [*rest, *self._ahead(nb, chunks)])
                for around in self._around(nb, tile):
                    ahead = [Loop("prefetch", x.tensor, self._tile_bytes(nb)) for x in self._streams()]
                    yield ([*batch, around, *chunks, *wide, *outer, *inner], [*rest, *ahead])
            elif tile and not self._streams():
                for x in (inner[0], *wide):
                    n = count_of(number(self.extents[x.dim]), x.step)
                    tasks = replace(x, step=x.step * count_of(n, ENOUGH))
                    rest_wide = [w for w in wide if w != tasks]
                    yield ([*batch, tasks, *chunks, *outer, *rest_wide, *inner], rest)

    def _sparse(self) -> bool:
        """Whether so little is computed for each byte of an operand that the way through it matters most."""
        terms = product([number(e) for e in self.extents.values()])
        far = [a.nbytes for a in self.accesses if a.nbytes > self.target.l2 and not a.broadcast]
        return terms < SPARSE * max(far, default=0)

    def _along_rows(self, tile: str, around: Sequence[str]) -> bool:
        """Whether vectors run along plain memory, and what they walk again for each tile stays in L1."""
        order = self.kernel.output.layout.order
        if any(block for _, block in order) or self.simd not in self.stage.out.index[order[-1][0]].dims \
                or any(self._gathered(x, self.simd) for x in self.loads):
            return False
        again = (self.tensors[x.tensor].nbytes / product([number(self.extents[d]) for d in around
                                                          if d in self._dims(x)])
                 for x in self.loads if self.simd in self._dims(x) and tile not in self._dims(x))
        return sum(again) <= self.target.l1 // 2

    def _streams(self) -> list[Load]:
        """The loads of weights that all of the sum walks."""
        return [x for x in self.loads if x.tensor in self.weights and set(self.reduced) <= self._dims(x)
                and self.simd in self._dims(x)]

    def _chunks(self, nb: int) -> Iterator[list[Loop]]:
        """The sum in parts of which a tile's weights stay in L1, or else what all tiles read in L2."""
        if self.stage.first.fold == "=" or self.simd in self.reduced:
            return
        alone = [d for d in self.reduced
                 if all(i.single == d for x in self.loads for i in x.index if d in i.dims)]
        if self._streams():
            d = max(alone, key=lambda d: number(self.extents[d]), default=None)
            nbytes = self._tile_bytes(nb)
            if d is None or nbytes <= self.target.l1 // 2:
                return
            extent = number(self.extents[d])
            image = sum(self.tensors[x.tensor].nbytes for x in self.broadcast if d in self._dims(x))
            sizes = {int(extent * self.target.l1 / 2 / (nbytes + image)), *(
                int(extent * self.target.l1 * self.target.kept / part / nbytes) for part in (1, 2))}
            for n in sorted({max(n // self.lanes, 1) * self.lanes for n in sizes}):
                if n < extent:
                    yield [Loop("chunk", d, equal_parts(extent, n, self.lanes))]
            return
        if sum(self.tensors[x.tensor].nbytes for x in self.loads) < self.target.l2:
            return
        first = max(self.loads, key=lambda x: self.tensors[x.tensor].nbytes)
        outermost = (d for a, _ in self.tensors[first.tensor].layout.order for d in first.index[a].dims)
        d = next((d for d in outermost if d in self.reduced), None)
        if d in alone:
            near = sum(self.tensors[x.tensor].nbytes / number(self.extents[d]) for x in self.loads
                       if d in self._dims(x))
            most = round(self.target.l2 / 2 / near / self.lanes) * self.lanes if len(self.reduced) == 1 else 1
            least = self.lanes if self._blocked(d) else 1
            yield [Loop("chunk", d, max(least, min(most, number(self.extents[d]))))]

    def _around(self, nb: int, tile: str | None) -> Iterator[Loop]:
        """Rows of weights whose sums wait in L2 between chunks."""
        if self.simd is None or not tile:
            return
        rows = product([number(self.extents[d]) for d in self.rows if d != self.batch])
        step = int(self.target.l2 * WAITING) // (4 * rows * nb * self.lanes) * nb * self.lanes
        if nb * self.lanes < step:
            yield Loop("for", self.simd, min(step, number(self.extents[self.simd])))

    def _ahead(self, nb: int, chunks: Sequence[Loop]) -> Iterator[Loop]:
        """The next chunk's weights are asked for while this one's are used."""
        for x in self._streams():
            if self.tensors[x.tensor].nbytes > self.target.l2 // 4:
                yield Loop("prefetch", x.tensor, self._tile_bytes(1) // self._turns(chunks))

    def _turns(self, loops: Sequence[Loop]) -> int:
        return product([count_of(number(self.extents[x.dim]), x.step) for x in loops])

    def _groups(self, tile: str, rw: int) -> list[list[Loop]]:
        """Loops over some tiles at a time: few, or as many as make two or four chunks."""
        extent = number(self.extents[tile])
        few = max(1, min(8, extent // (16 * rw)))
        counts = {few, *(count_of(extent, rw * n) for n in (2, 4))} if extent > 4 * rw else set()
        sizes = {rw * groups_of(extent, rw, n) for n in counts}
        return [[Loop("for", tile, size)] for size in sorted(sizes) if size < extent]

    def _apart(self, d: str) -> bool:
        """Whether nothing that one turn of a dimension's loop reads is read by another turn."""
        return len(self.loads) > 1 and all(d in self._dims(x) for x in self.loads)

    def _strip(self, d: str, nb: int) -> int:
        """How many rows of the broadcast operands fit into L2 beside a tile's weights; 0: all or too few."""
        extent = number(self.extents[d])
        row = sum(self.tensors[x.tensor].nbytes / extent for x in self.broadcast if d in self._dims(x))
        room = self.target.l2 * 3 // 4 - self._tile_bytes(nb)
        rows = int(room / row) if row and self.batch is None else extent
        if self._blocked(d):
            return 0
        return -(-extent // -(-extent // rows)) if 3 < rows < extent else 0

    def _slab(self, nb: int) -> int:
        """How many rows of weights, of several tiles, stay in L2 while everything else goes by; 0: all."""
        fitting = int(self.target.l2 * SLAB / self._tile_bytes(nb)) if self._streams() else 0
        step, extent = nb * self.lanes, number(self.extents[str(self.simd)])
        return equal_parts(extent, fitting * step, step) if fitting > 1 and fitting * step < extent else 0

    def _tile_bytes(self, nb: int) -> int:
        """Bytes of weights that one tile reads."""
        return nb * self.lanes * 4 * product([number(self.extents[d]) for d in self.reduced])

    def _levels(self, d: str, step: int) -> list[Loop]:
        """The loops over a dimension: within a block first where an operand's memory is blocked."""
        own = [Loop("for", d, step)] if not self._several(d) or step < self.lanes else []
        return [*([Loop("for", d, self.lanes)] if self._several(d) else []), *own]

    def _several(self, d: str) -> bool:
        """Whether a dimension lies in several blocks of an operand's memory."""
        return self._blocked(d) and number(self.extents[d]) > self.lanes

    def _prefetch(self, nb: int, tile: str | None, rw: int) -> Iterator[Loop]:
        """What comes from beyond L2 is asked for early.

        Images: the next tiles' pixels, where no taps read them again. Weights: the next tile's or, where that
        is much of L2, a bit ahead; not where so many tiles share them that the first one doesn't matter.
        """
        for x in self.broadcast if tile and tile != self.batch else ():
            t = self.tensors[x.tensor]
            axis = next((a for a, i in enumerate(x.index) if i.single == tile), None)
            turns = product([number(self.extents[d]) for d in self.rows if self._apart(d)])
            if axis is not None and t.nbytes > turns * self.target.l2 // 8 and t not in self.kernel.scratch:
                *_, (_, _, stride) = t.layout.parts(axis, t.type.shape)
                yield Loop("prefetch", x.tensor, 2 * rw * stride * BYTES[t.type.dtype])
        passes = product([number(self.extents[d]) for d in self.rows
                          if d not in (tile, self.batch) and not self._apart(d)])
        if passes * (count_of(number(self.extents[tile]), rw) if tile and tile != self.batch else 1) > PASSES:
            return
        for x in self.loads:
            if x.tensor in self.weights and self.tensors[x.tensor].nbytes > self.target.l2 // 4 \
                    and set(self.reduced) <= self._dims(x) and self.simd in self._dims(x):
                nbytes = self._tile_bytes(nb)
                near = nbytes <= self.target.l2 // 16
                yield Loop("prefetch", x.tensor, nbytes if near else self.target.l2 // 128)

    # ---- price

    def priced(self, loops: tuple[list[Loop], list[Loop]], tile: str | None, rw: int, nb: int,
               fold: int) -> Iterator[Candidate]:
        """The candidate, where it isn't beyond the limit."""
        outside, inside = loops
        chunks = self._turns([x for x in outside if x.kind == "chunk"])
        walked = [*self._walked(outside)]
        again = self._again(walked)
        if self.computed[0] is not inside or self.computed[1] != (chunks, *again):
            cycles = self._compute(tile, rw, nb, fold, inside, chunks, again)
            self.computed = inside, (chunks, *again), cycles
        cycles = self.computed[2]
        if cycles + self.least_memory >= self.limit:
            return
        cycles += self._memory(walked, inside)
        outside = self._parallel(outside, cycles)
        tasks = self._turns([x for x in outside if x.kind == "par"])
        if cycles > SMALL:
            cycles *= 1 + max(0, 1 / max(tasks, 1) - 1 / ENOUGH)
        code = self._code(tile, rw, nb, fold, inside) if self.target.small else 0.0
        yield Candidate(cycles, tuple(outside), tuple(inside), self, code)

    def kernel_with(self, chosen: Candidate) -> Kernel:
        par = tuple(x for x in chosen.outside if x.kind == "par")
        rest = tuple(x for x in chosen.outside if x.kind != "par")
        operands = tuple(t if t.name not in self.weights else
                         replace(t, layout=self._weights_order(t.name, chosen.inside))
                         for t in self.kernel.operands)
        stage = replace(self.stage, schedule=Schedule((*rest, *chosen.inside)))
        return replace(self.kernel, operands=operands, stages=(stage,), loops=Schedule(par))

    def _parallel(self, outside: list[Loop], cycles: float) -> list[Loop]:
        """The leading loops become par until there are enough tasks; a small kernel is one task."""
        result = list(outside)
        tasks = 1
        for i, x in enumerate(result):
            symbolic = isinstance(self.extents[x.dim], str)
            if symbolic and x.step != 1:
                break
            if cycles < SMALL and not symbolic:
                break
            if tasks >= ENOUGH and not symbolic:
                break
            repeated = any(y.dim == x.dim for y in result[:i])
            meeting = self.stage.first.scattered and all(j.single != x.dim for j in self.stage.out.index)
            if repeated or meeting or x.kind == "chunk":
                break
            result[i] = replace(x, kind="par")
            tasks *= 1 if symbolic else count_of(number(self.extents[x.dim]), x.step)
        return result

    def _weights_order(self, name: str, inside: Sequence[Loop]) -> Layout:
        """The order in which the loops inside walk a weights operand, vectors fastest."""
        x = next(x for x in self.stage.loads if x.tensor == name)
        t = self.tensors[name]
        axis_of = {d: a for a, i in enumerate(x.index) for d in i.dims}
        front: list[tuple[int, int]] = []
        back: list[tuple[int, int]] = []
        vector = axis_of.get(str(self.simd))
        if vector is not None:
            if all(c % self.lanes == 0 for d, c in x.index[vector].terms if d != self.simd):
                front.append((vector, self.lanes))
            back.append((vector, 0))
        for loop in inside:
            a = axis_of.get(loop.dim)
            if a is not None and a != vector and loop.dim in self.reduced:
                block = loop.step if loop.kind == "for" and loop.step > 1 else 0
                if (a, block) not in front:     # else one step is a turn
                    front.append((a, block))
        rest = [(a, 0) for a in range(t.type.rank) if not any(f == a for f, _ in (*front, *back))]
        order = [*rest, *front, *back]
        return Layout(tuple(part for part, (a, _) in zip(order, [*order[1:], (-1, 0)], strict=False)
                            if part[0] != a))       # parts of an axis that follow each other are one
