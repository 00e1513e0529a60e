"""The loops inside of a register tile: channels, taps, what is unrolled, vectors."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from cnncc.ir.expr import Load, tables
from cnncc.ir.formula import outside
from cnncc.ir.schedule import Loop
from cnncc.ir.types import product
from cnncc.passes.prices import Prices, number, turns_of

LONG_SUM = 1024             # terms beyond which a sum is made of parts
UNROLLED = 1024             # multiply-adds of unrolled taps that one tile may have
APART = 512                 # the same where they share no loads
ROLLED = 48                 # the same where little code is wanted


class Inner(Prices):
    """What a tile of a kernel of one stage does."""

    def inside(self, tile: str | None, rw: int, nb: int, acc: int) -> list[Loop]:
        """The loops of a tile of rw x nb vectors with so many accumulators."""
        turns = 1 if self.target.small else turns_of(acc)
        wide, _ = self.wide(tile)
        unrolled = {*self.folded, self.simd} | ({tile} if tile and rw > 1 else set()) \
            | ({wide} if nb > 1 else set())
        blocked: list[str] = []
        windows: list[str] = []
        plain: list[str] = []
        rows: list[str] = []            # walked by taps that are unrolled
        for d in self.reduced:
            if d == self.simd:
                continue
            if number(self.extents[d]) > turns and any(i.coefficient(d) and not self.taps.isdisjoint(i.dims)
                                                       for x in self.loads for i in x.index):
                rows.append(d)
            elif d in self.stage.first.tabled or any(
                    i.coefficient(d) and unrolled & set(i.dims) for x in self.loads for i in x.index):
                windows.append(d)
            elif any(self.tensors[x.tensor].layout.block(a) > 1 and x.tensor not in self.weights
                     for x in self.loads for a, i in enumerate(x.index) if i.coefficient(d)):
                blocked.append(d)
            else:
                plain.append(d)
        loops = [Loop("for", d, self.lanes) for d in blocked if number(self.extents[d]) > self.lanes]
        shifting = [d for d in plain
                    if any(i.coefficient(d) and len(i.dims) > 1 for x in self.loads for i in x.index)]
        images = [d for d in plain if all(x.index and x.index[0].single == d for x in self.loads)]
        loops += [Loop("for", d) for d in (*images, *shifting)]
        others = [d for d in plain if d not in (*images, *shifting)]
        if not (blocked or windows or rows or self.simd in self.reduced) and len(self.loads) > 1:
            blocked = others[-1:]           # several steps of it are a turn
        loops += [Loop("for", d) for d in others if d not in blocked]
        loops += [Loop("for", d, turns if d == rows[-1] else 1) for d in rows]
        loops += [Loop("unroll", d) for d in rows[-1:]]
        loops += self._counted(windows, acc, turns if blocked else 0)
        taps = [Loop("unroll", d) for d in windows]
        # unrolled taps around a counted loop are blocks of their own; around none they share one block
        loops += [*taps, *(Loop("for", d, turns) for d in blocked)] if blocked else taps
        if turns > 1:
            loops += [Loop("unroll", d) for d in blocked]
        if self.simd in self.reduced:
            loops.append(Loop("for", str(self.simd), self.lanes))
        if not shifting:
            loops = self._parts(loops)
        if tile and rw > 1:
            loops.append(Loop("unroll", tile))
        if wide and wide != self.simd and nb > 1:
            loops.append(Loop("unroll", wide))
        loops += [Loop("unroll", d) for d in self.folded]
        if self.simd:
            loops += [Loop("unroll", self.simd, self.lanes), Loop("simd", self.simd)]
        return loops

    def _counted(self, windows: Sequence[str], acc: int, apart: int) -> Iterator[Loop]:
        """Loops over some taps at a time, the longest windows first, where all would be too much code.

        `apart`: the turns of the block that each tap is, where it shares nothing with others; else 0.
        """
        body = acc * max(apart, 1) * product([number(self.extents[d]) for d in windows])
        most = ROLLED if self.target.small else APART if apart else UNROLLED
        for d in sorted(windows, key=lambda d: -number(self.extents[d])):
            extent = number(self.extents[d])
            skips = any(d in i.dims and outside(i, e, self.extents) for x in self.loads
                        for i, e in zip(x.index, self.tensors[x.tensor].type.shape, strict=True))
            if body > most and not skips and d not in self.stage.first.tabled:
                block = max(self.tensors[x.tensor].layout.block(a) for x in self.loads
                            for a, i in enumerate(x.index) if i.coefficient(d))
                step = min(extent, max(1, most * extent // body // block) * block)
                if apart and block == 1:
                    step = next(n for n in range(step, 0, -1) if extent % n == 0)
                yield Loop("for", d, step)
                body = body * step // extent

    def _parts(self, loops: list[Loop]) -> list[Loop]:
        """Long sums of one operand in parts, about as many as each has terms."""
        first = next((x for x in loops if x.kind == "for"), None)
        terms = product([number(self.extents[d]) for d in self.reduced])
        single = sum(not self._dims(x).isdisjoint(self.reduced) for x in self.loads) == 1
        if first is None or not single or self.stage.first.fold != "+=" or terms <= LONG_SUM:
            return loops
        extent = number(self.extents[first.dim])
        if terms * first.step >= 64 * extent:
            return [replace(x, kind="part") if x is first else x for x in loops]
        part = first.step * round((extent / first.step) ** 0.5)
        at = loops.index(first)
        return [*loops[:at], Loop("part", first.dim, part), *loops[at:]]

    def _held(self, windows: Sequence[tuple[Load, int]]) -> int:
        """Vectors that overlapping taps and the factors of a table keep in registers."""
        if self.factors or not windows:
            return len(self.factors) + 1 if self.factors else 0
        taps = {d for _, _, d, _ in self.sliding}
        factors = [product(number(self.extents[d]) for d in taps & self._dims(x)) for x in self.broadcast]
        return max(n for _, n in windows) + max(factors, default=0)

    @functools.cached_property
    def factors(self) -> frozenset[float]:
        """The numbers in tables that are multiplied by."""
        found = tables(self.stage.first.expr)
        return frozenset(v for t in found for row in t.values for v in row) - {-1, 0, 1}

    def _windows(self, tile: str | None, rw: int, nb: int) -> list[tuple[Load, int]]:
        """The loads of vectors that taps along unrolled rows share, and how many are held at a time."""
        wide, _ = self.wide(tile)
        steps = {tile: rw, wide: nb}
        def walked(x: Load) -> int:
            return product(n for d, n in steps.items() if d in self._dims(x))
        return [(x, walked(x) // n * (n + number(self.extents[d]))) for x, row, d, _ in self.sliding
                if row != self.simd and x in self.vectors and (n := steps.get(row, 1)) > 1]
