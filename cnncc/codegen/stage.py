"""One stage of a kernel: the walk over its loops, the tile of registers, the epilogue."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from cnncc.codegen import ahead, transpose
from cnncc.codegen.access import Access, Pos, Positions, Run, Term, named
from cnncc.codegen.chunks import Chunk, Waiting, where
from cnncc.codegen.emitter import Emitter, Int, Type, Value
from cnncc.codegen.legal import tile_begin
from cnncc.codegen.scalar import across, apply, narrow, stored, widen
from cnncc.codegen.validity import Constraint, Validity, clamped, decide, lanes_within, signature
from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Const, Expr, Load, Table
from cnncc.ir.formula import COMBINE, IDENTITY, Formula, multiply_add, outside
from cnncc.ir.infer import stage_dtypes, stage_lanes
from cnncc.ir.kernel import ACC, Kernel, Stage, Tensor
from cnncc.ir.regions import placed
from cnncc.ir.schedule import Loop, tiles
from cnncc.ir.target import Target
from cnncc.ir.tasks import unit_of
from cnncc.ir.types import Extent

Pointers = Mapping[int, Value]
Key = tuple[int, ...]


class StageLowering:
    """One stage of a kernel: loops, the register tile, its epilogue and stores."""

    def __init__(self, e: Emitter, kernel: Kernel, stage: Stage, target: Target,
                 shapes: Mapping[str, tuple[Extent, ...]], waits: Tensor | None) -> None:
        """`shapes`: the tensors' extents in memory; `waits`: where accumulators wait between chunks.

        Raises InternalError for loops that don't fit.
        """
        self.e, self.kernel, self.stage, self.first = e, kernel, stage, stage.first
        last = stage is kernel.stages[-1]
        shared = kernel.loops.loops if last else ()
        self.loops = (*shared, *stage.schedule.nest)
        self.distances, early = stage.schedule.prefetch, stage.schedule.early
        self.begin = len(shared)
        tensors = kernel.tensors
        self.accesses = [Access(x, tensors[x.tensor], shapes[x.tensor])
                         for x in (*stage.loads, stage.out)]
        self.store_at = len(self.accesses) - 1
        loaded = dict(enumerate(self.accesses[:self.store_at]))
        self.number = {a.load: i for i, a in loaded.items()}
        self.early = {self.number[x]: loaded[self.number[x]] for f in stage.formulas[1:] for x in f.loads
                      if x.tensor in early}
        self.waiting = Waiting(e, waits, stage) if waits else None
        if self.waiting:
            self.accesses.append(self.waiting.access)
        self.wait_at = self.store_at + 1
        self.extents = stage.extents
        outer: set[str] = set() if last else placed(kernel, stage)
        logical = {t.name: t.type.shape for t in tensors.values()}
        loads = [x for x in self.first.loads if x.tensor != ACC]
        self.validity: Validity = decide([*loads, stage.out], logical, self.extents, self.loops, outer,
                                         set(self.first.out_dims))
        ends = zip(stage.out.index, logical[stage.out.tensor], strict=True)
        self.clipped = [Constraint(i, int(e)) for i, e in ends if outside(i, e, self.extents)]
        self.reduced = reduced = set(self.first.reduced) if self.first.fold != "=" else set()
        self.tile_at = tile_begin(stage, self.loops, self.begin, reduced)
        self.simd = next((x for x in self.loops if x.kind == "simd"), None)
        self.lanes = stage_lanes(stage, tensors, target) if self.simd else 0
        if self.simd and any(self.simd.dim in c.index.dims for c in self.clipped):
            raise InternalError(f"{stage.out}: a result that is cut lies along the vector")
        self.streams = dict(enumerate(ahead.streams(kernel, stage, shapes, self.lanes), len(self.accesses)))
        self.accesses += self.streams.values()
        self.factors = multiply_add(self.first)
        self.table = next((f for f in self.factors or () if isinstance(f, Table)), None)
        self.dtype = stage_dtypes(stage, tensors)[0]
        self.tile_dims = tuple(d for d in self.extents if d not in reduced)
        self.memo: dict[tuple[str, int, str, int, int, tuple[int, ...]], Value] = {}
        out = self.accesses[self.store_at]
        self.pad = self.lanes if self.simd and out.padded(self.simd.dim, self.lanes) else 0
        unrolled = {x.dim for x in self.loops[self.tile_at:] if x.kind == "unroll"} - reduced
        steps = {x.dim: x.step for x in self.loops[:self.tile_at]}
        tile = {d: int(steps.get(d, self.extents[d])) for d in unrolled}
        self.along = transpose.neighbours(out, self.simd.dim, tile, self.lanes) \
            if self.simd and self.simd.dim not in reduced else None
        self.isolated = {
            d: [i for i, a in loaded.items() if d in a.dims and (
                a.shares_axis(d, unrolled) != bool(self.simd and self.simd.dim in a.dims)
                or a.tensor.name in stage.schedule.reload)] for d in reduced}

    # ---- loops

    def runs(self, i: int, loop: Loop, pos: Positions) -> list[Run]:
        """The tiles of a loop, equal ones together."""
        span = pos[loop.dim].span
        if i in self.validity.clamp:
            low, high = clamped(self.e, self.validity.clamp[i], loop.dim, pos)
            return [Run(low, 1, self.e.sub(high, low))]
        if not isinstance(span, int):
            if loop.step == 1 or loop.kind == "par":
                return [Run(0, 1, span)]
            whole = self.e.div(span, loop.step)
            done = self.e.mul(whole, loop.step)
            return [Run(0, loop.step, whole), Run(done, 1, self.e.sub(span, done))]
        split = self.validity.split.get(i, [])
        unit = unit_of(self.kernel, self.stage, loop)
        base = pos[loop.dim].rep
        equal = tiles(span, loop.step, unit, loop.even)
        if not split:
            return [Run(start, size, count, start, span - size if start + count * size > span else None)
                    for start, size, count in equal]
        result: list[Run] = []
        last: object = None
        for index, size in ((first + j * size, size) for first, size, count in equal for j in range(count)):
            start = min(index, span - size)
            sign = (size, signature(split, loop.dim, base + start, size, self.validity.extents))
            if sign == last:
                result[-1] = replace(result[-1], count=self.e.add(result[-1].count, 1),
                                     last=start if start < index else None)
            else:
                result.append(Run(start, size, 1, start))
                last = sign
        return result

    def placed(self, pos: Positions, dim: str, value: Int, run: Run) -> Positions:
        """Positions within one tile of a run, which starts at `value` (relative to the loop)."""
        old = pos[dim]
        if isinstance(value, int):
            new = Pos(old.const + value, old.rep + value, old.terms, run.size)
        else:
            start = run.start if isinstance(run.start, int) else 0
            if run.last is not None:
                most, multiple = run.last, math.gcd(start, run.size, run.last)
            elif isinstance(run.count, int) and isinstance(run.start, int):
                most = start + (run.count - 1) * run.size
                multiple = math.gcd(start, run.size)
            else:
                most, multiple = 1 << 30, 1 if not isinstance(run.start, int) else run.size
            new = Pos(old.const, old.rep + run.rep, (*old.terms, Term(value, multiple, most)), run.size)
        return {**pos, dim: new}

    def turn(self, run: Run, loop: Loop, pos: Positions, ptrs: Pointers, carry: list[Value],
             body: Callable[[Positions, Pointers, list[Value]], list[Value]]) -> list[Value]:
        """One run of a counted loop around `body`."""
        e = self.e
        if run.count == 1:
            start = run.start
            if isinstance(start, int):
                return body(self.placed(pos, loop.dim, start, run), ptrs, carry)
            placed = self.placed(pos, loop.dim, start, run)
            return body(placed, self.moved(ptrs, loop.dim, placed[loop.dim].terms[-1]), carry)
        end = e.add(run.start, e.mul(run.count, run.size))
        dynamic = not (isinstance(run.count, int) and isinstance(run.start, int))
        with e.loop(run.start, end, run.size, carry, maybe_empty=dynamic) as turn:
            placed = self.placed(pos, loop.dim, run.at(e, turn.index), run)
            turn.next = body(placed, self.moved(ptrs, loop.dim, placed[loop.dim].terms[-1]), turn.values)
        return turn.values

    def moved(self, ptrs: Pointers, dim: str, term: Term) -> dict[int, Value]:
        """The pointers, moved by a loop variable of `dim`."""
        result = dict(ptrs)
        for i in ptrs:
            if dim in self.accesses[i].dims:
                stride = self.accesses[i].stride(dim, term.multiple, term.most)
                result[i] = self.e.offset(ptrs[i], self.e.mul(term.value, stride))
        return result

    # ---- the walk

    def run(self, pos: Positions, bases: Mapping[str, Value], origins: Mapping[str, Sequence[Int]]) -> None:
        """Emit the stage at `pos`; `origins` has the first indices that a tensor's base stands for."""
        ptrs: dict[int, Value] = {}
        for i, a in enumerate(self.accesses[:self.wait_at]):
            p = bases[a.tensor.name]
            for axis, origin in enumerate(origins.get(a.tensor.name, [])):
                stride = a.parts[axis][0][2] * a.bytes // a.parts[axis][0][0]
                p = self.e.offset(p, self.e.sub(0, self.e.mul(origin, stride)))
            ptrs[i] = p
        self.bases, moved = bases, ptrs
        for d, at in pos.items():
            for t in at.terms:
                moved = self.moved(moved, d, t)
        self.nest(self.begin, pos, moved, Chunk())

    def nest(self, i: int, pos: Positions, ptrs: Pointers, chunk: Chunk) -> None:
        """Loops outside of the register tile."""
        ptrs = {**ptrs, **{number: stream.beside(self.e, ptrs[self.number[stream.load]], pos)
                           for number, stream in self.streams.items() if i == stream.sharing.at}}
        if i == self.tile_at:
            self.tile(pos, ptrs, chunk)
            return
        loop = self.loops[i]
        runs = self.runs(i, loop, pos)
        if loop.kind == "chunk" and self.waiting and self.wait_at not in ptrs:
            ptrs = {**ptrs, self.wait_at: self.waiting.pointer(self.bases, pos)}
        def inner(p: Positions, q: Pointers, c: list[Value]) -> list[Value]:
            part = chunk.at(self.e, p[loop.dim], run, runs) if loop.kind == "chunk" else chunk
            self.nest(i + 1, p, q, part)
            return c
        for run in runs:
            if loop.kind == "unroll":
                if not isinstance(run.count, int):
                    raise InternalError(f"the schedule unrolls {loop.dim}, whose extent isn't known")
                for j in range(run.count):
                    inner(self.placed(pos, loop.dim, run.rep + j * run.size, run), ptrs, [])
            else:
                self.turn(run, loop, pos, ptrs, [], inner)

    def steps(self, i: int, pos: Positions) -> Iterator[Positions]:
        """The positions that an unrolled or simd loop visits."""
        loop = self.loops[i]
        span = pos[loop.dim].span
        if not isinstance(span, int):
            raise InternalError(f"the schedule unrolls {loop.dim}, whose extent isn't known")
        step = self.lanes if loop.kind == "simd" else loop.step
        for start in range(0, span, step):
            yield {**pos, loop.dim: pos[loop.dim].shift(start, min(step, span - start))}

    def combinations(self, i: int, pos: Positions) -> list[Positions]:
        """The elements (or vectors) of the register tile."""
        if i == len(self.loops):
            return [pos]
        if self.loops[i].dim in self.reduced:
            return self.combinations(i + 1, pos)
        return [c for p in self.steps(i, pos) for c in self.combinations(i + 1, p)]

    def active(self, pos: Positions) -> int:
        """How many lanes of the vector at a position lie inside of the extent."""
        span = pos[self.simd.dim].span if self.simd else 0
        if not isinstance(span, int):
            raise InternalError("a vector's extent isn't known")
        return span

    def key(self, pos: Positions) -> Key:
        return tuple([pos[d].const for d in self.tile_dims])

    def tile(self, pos: Positions, ptrs: Pointers, chunk: Chunk) -> None:
        """Fold into registers, from where the last chunk left off; in the last one, finish."""
        places = {self.key(p): p for p in self.combinations(self.tile_at, pos)}
        wide = Type(self.dtype, self.lanes)
        if self.first.fold == "=":
            values = [self.value(self.first.expr, p, ptrs, wide, None) for p in places.values()]
            self.finish(values, places, ptrs)
            return
        sums = [self.e.constant(IDENTITY[self.first.fold], wide)] * len(places)
        if self.waiting:
            sums = self.waiting.resumed(chunk, sums, places.values(), ptrs[self.wait_at])
        self.order = {k: j for j, k in enumerate(places)}
        if self.early and chunk.last:
            with where(self.e, chunk.last):
                ahead.early(self.e, self.early, places.values(), ptrs, self.simd.dim if self.simd else None)
        sums = self.reduce(self.tile_at, pos, ptrs, sums)
        if self.waiting:
            self.waiting.keep(chunk, sums, places.values(), ptrs[self.wait_at])
        if chunk.last:
            with where(self.e, chunk.last):
                self.finish(sums, places, ptrs)

    def finish(self, folded: Sequence[Value], places: dict[Key, Positions], ptrs: Pointers) -> None:
        """The epilogue, then the stores."""
        if self.simd and self.simd.dim in self.reduced:
            folded = [across(self.e, COMBINE[self.first.fold], v) for v in folded]
        wide = folded[0].type
        values = dict(zip(places, folded, strict=True))
        if self.clipped:
            at = {k: {d: p.rep for d, p in pos.items()} for k, pos in places.items()}
            values = {k: v for k, v in values.items() if all(c.holds(at[k]) for c in self.clipped)}
        for f in self.stage.formulas[1:]:
            values, places = self.epilogue(f, values, places, ptrs, wide)
        self.stores(values, places, ptrs)

    def epilogue(self, f: Formula, values: Mapping[Key, Value], places: Mapping[Key, Positions],
                 ptrs: Pointers, wide: Type) -> tuple[dict[Key, Value], dict[Key, Positions]]:
        """A formula on the tile's values; those that it folds together share the first one's place."""
        dims = set(f.out_dims)
        result: dict[Key, Value] = {}
        at: dict[Key, Positions] = {}
        for k, acc in values.items():
            pos = places[k]
            v = self.value(f.expr, pos, ptrs, wide, acc)
            to = tuple([pos[d].const if d in dims else 0 for d in self.tile_dims])
            if to in result:
                v = apply(self.e, COMBINE[f.fold], [result[to], v])
            result[to] = v
            at.setdefault(to, pos)
        return result, at

    def reduce(self, i: int, pos: Positions, ptrs: Pointers, acc: list[Value]) -> list[Value]:
        """Loops of the register tile, the accumulators carried."""
        if i == len(self.loops):
            return self.accumulate(pos, ptrs, acc)
        loop = self.loops[i]
        if loop.kind in ("for", "part"):
            def inner(p: Positions, q: Pointers, c: list[Value]) -> list[Value]:
                if loop.kind == "for":
                    return self.reduce(i + 1, p, q, c)
                start = self.e.constant(IDENTITY[self.first.fold], c[0].type)
                parts = zip(c, self.reduce(i + 1, p, q, [start] * len(c)), strict=True)
                return [apply(self.e, COMBINE[self.first.fold], [a, b]) for a, b in parts]
            for run in self.runs(i, loop, pos):
                acc = self.turn(run, loop, pos, ptrs, acc, inner)
            return acc
        isolate = self.isolated[loop.dim] if loop.dim in self.reduced and not self.turns(i, pos) else []
        for j, p in enumerate(self.steps(i, pos)):
            own = ptrs
            if j and isolate:
                own = {**ptrs, **{a: self.e.opaque(ptrs[a]) for a in isolate}}
            acc = self.reduce(i + 1, p, own, acc)
        return acc

    def turns(self, i: int, pos: Positions) -> bool:
        """Whether the rest of the register tile has a loop that turns: its body is a block of its own."""
        for j, loop in enumerate(self.loops[i:], i):
            if loop.kind in ("for", "part"):
                runs = self.runs(j, loop, pos)
                if any(r.count != 1 for r in runs):
                    return True
                pos = self.placed(pos, loop.dim, 0, runs[0])
        return False

    def accumulate(self, pos: Positions, ptrs: Pointers, acc: list[Value]) -> list[Value]:
        simd = self.simd
        active = self.valid(pos)
        if not active:
            return acc
        j = self.order[self.key(pos)]
        wide = acc[j].type
        factors, table = self.factors, self.table
        across_lanes = simd is not None and simd.dim in self.reduced
        if factors and table and not (simd and len(active) < self.active(pos)):
            other = factors[factors[0] is table]
            new = self.scaled(table.at({d: p.rep for d, p in pos.items()}), other, pos, ptrs, acc[j], active)
        elif factors and not (across_lanes and len(active) < self.lanes):
            a, b = (self.value(f, pos, ptrs, wide, None, active) for f in factors)
            new = self.e.fma(a, b, acc[j])
            if simd and len(active) < self.active(pos):
                new = self.e.select(self.e.mask(wide, active), new, acc[j])
        else:
            v = self.value(self.first.expr, pos, ptrs, wide, None, active)
            if simd and len(active) < (self.lanes if across_lanes else self.active(pos)):
                identity = self.e.constant(IDENTITY[self.first.fold], wide)
                v = self.e.select(self.e.mask(wide, active), v, identity)
            new = apply(self.e, COMBINE[self.first.fold], [acc[j], v])
        return [*acc[:j], new, *acc[j + 1:]]

    def scaled(self, factor: float, x: Expr, pos: Positions, ptrs: Pointers, acc: Value,
               active: Sequence[int]) -> Value:
        """acc + factor * x with as little as the factor allows."""
        if factor == 0:
            return acc
        wide, zero = acc.type, acc.text == self.e.constant(0, acc.type).text
        v = self.value(x, pos, ptrs, wide, None, active)
        if abs(factor) == 1:
            if zero and factor > 0:
                return v
            return self.e.arith("fadd" if factor > 0 else "fsub", acc, v)
        c = self.e.constant(factor, wide)
        return self.e.arith("fmul", c, v) if zero else self.e.fma(c, v, acc)

    def valid(self, pos: Positions) -> Sequence[int]:
        """The lanes (0 alone without a vector) that are within the extent and whose taps are valid."""
        return lanes_within(self.validity.static, self.simd.dim if self.simd else None, pos,
                            self.active(pos) if self.simd else 1)

    # ---- elements

    def value(self, x: Expr, pos: Positions, ptrs: Pointers, wide: Type, acc: Value | None,
              active: Sequence[int] = ()) -> Value:
        """An expression on the `active` lanes, all within the extent where none are named."""
        if isinstance(x, Const):
            return self.e.constant(x.value, wide.of(x.dtype))
        if isinstance(x, Load):
            if x.tensor == ACC:
                if acc is None:
                    raise InternalError("a first formula can't read the accumulator")
                return acc
            return self.element(self.number[x], pos, ptrs, wide, active)
        if isinstance(x, Table):
            return self.e.constant(x.at({d: p.rep for d, p in pos.items()}), wide.of(x.dtype))
        args = [self.value(a, pos, ptrs, wide, acc, active) for a in x.args]
        last = x.args[-1]
        return apply(self.e, x.fn, args, last.value if isinstance(last, Const) else None)

    def element(self, i: int, pos: Positions, ptrs: Pointers, wide: Type, active: Sequence[int]) -> Value:
        a = self.accesses[i]
        at = a.offset(pos, self.simd.dim if self.simd else None)
        vector = wide.lanes and self.simd is not None and self.simd.dim in a.dims
        span = self.active(pos) if vector else 0
        lanes = active if vector and active else range(span)
        apart = vector and self.simd is not None and any(self.simd.dim in x.dims for x, *_ in a.lookups)
        if a.lookups and not apart:
            ptrs = {**ptrs, i: self.found(i, pos, ptrs)}
        rows = [self.accesses[self.number[x]].offset(pos) for x, *_ in a.lookups if apart]
        memo = (self.e.block, i, ptrs[i].text, at, wide.lanes, (*lanes, *rows))
        known = self.memo.get(memo)
        if known is None:
            wide = stored(wide.of(a.tensor.type.dtype))
            scalar = Type(wide.dtype)
            if apart and self.simd is not None:
                known = Value("zeroinitializer", wide)
                stride = a.stride(self.simd.dim, 1, span - 1)
                for lane in lanes:
                    one = self.e.load(self.found(i, pos, ptrs, lane), at + lane * stride, scalar, a.bytes)
                    known = self.e.insert(known, one, lane)
            elif not vector or self.simd is None:
                known = self.e.splat(self.e.load(ptrs[i], at, scalar, a.bytes), wide)
                self.ask(i, ptrs, pos, at)
            elif (stride := a.stride(self.simd.dim, 1, span - 1)) == a.bytes:
                whole = len(lanes) == wide.lanes or \
                    (len(lanes) == span and a.padded(self.simd.dim, wide.lanes))
                known = self.e.load(ptrs[i], at, wide, a.bytes) if whole else \
                    self.e.masked_load(ptrs[i], at, wide, lanes, a.bytes)
                self.ask(i, ptrs, pos, at)
            elif stride == 2 * a.bytes and len(lanes) == wide.lanes:    # of the last pair only the first
                half = wide.lanes // 2
                ends = (self.e.load(ptrs[i], at + n, wide, a.bytes) for n in (0, stride * half - a.bytes))
                low, high = ends
                known = self.e.shuffle(low, [*range(0, 2 * half, 2), *range(2 * half + 1, 4 * half, 2)], high)
            else:
                known = Value("zeroinitializer", wide)
                for lane in lanes:
                    one = self.e.load(ptrs[i], at + lane * stride, scalar, a.bytes)
                    known = self.e.insert(known, one, lane)
            known = self.memo[memo] = widen(self.e, known, a.tensor.type.dtype)
        return known

    def ask(self, i: int, ptrs: Pointers, pos: Positions, at: int) -> None:
        """Prefetch beside a load `at` a position, as the schedule says."""
        load = self.accesses[i].load
        if load.tensor in self.distances and at % ahead.LINE == 0:
            self.e.prefetch(ptrs[i], at + self.distances[load.tensor])
        for number, stream in self.streams.items():
            if stream.load == load:
                stream.ask(self.e, ptrs[number], pos)

    def found(self, i: int, pos: Positions, ptrs: Pointers, lane: int = 0) -> Value:
        """The pointer of an access, moved by what its tables, or data within the extent, say for a lane."""
        p = ptrs[i]
        for load, nbytes, extent in self.accesses[i].lookups:
            n = self.number[load]
            table = self.accesses[n]
            at = table.offset(pos)
            if lane and self.simd:
                at += lane * table.stride(self.simd.dim, 1, lane)
            memo = (self.e.block, n, ptrs[n].text, at, 0, ())
            index = self.memo.get(memo)
            if index is None:
                entry = self.e.load(ptrs[n], at, Type(table.tensor.type.dtype), table.bytes)
                index = self.memo[memo] = named(self.e, entry, extent)
            p = self.e.offset(p, self.e.mul(index, nbytes))
        return p

    def stores(self, values: Mapping[Key, Value], places: Mapping[Key, Positions], ptrs: Pointers) -> None:
        """The tile's values; vectors that lie across the memory are turned in squares."""
        if self.simd is None or self.along is None:
            for k, v in values.items():
                self.store(v, places[k], ptrs)
            return
        a, at = self.accesses[self.store_at], self.tile_dims.index(self.along)
        squares: dict[Key, list[Key]] = {}
        for k in values:
            number = (k[at] - next(iter(values))[at]) // self.lanes
            squares.setdefault((*k[:at], number, *k[at + 1:]), []).append(k)
        for keys in squares.values():
            rows = [narrow(self.e, values[k], a.tensor.type.dtype) for k in keys]
            transpose.store(self.e, a, ptrs[self.store_at], rows, places[keys[0]], self.simd.dim, self.along)

    def store(self, v: Value, pos: Positions, ptrs: Pointers) -> None:
        a, p = self.accesses[self.store_at], ptrs[self.store_at]
        at = a.offset(pos, self.simd.dim if self.simd else None)
        if a.lookups:
            if v.type.lanes and self.simd and any(self.simd.dim in x.dims for x, *_ in a.lookups):
                self.scatter(v, pos, ptrs, at)
                return
            p = self.found(self.store_at, pos, ptrs)
            if self.first.fold != "=":
                there = self.element(self.store_at, pos, ptrs, v.type, ())
                v = apply(self.e, COMBINE[self.first.fold], [there, v])
        v = narrow(self.e, v, a.tensor.type.dtype)
        if not v.type.lanes or self.simd is None:
            self.e.store(v, p, at, a.bytes)
            return
        active = self.active(pos)
        stride = a.stride(self.simd.dim, 1, active - 1)
        if stride != a.bytes:
            for lane in range(active):
                self.e.store(self.e.extract(v, lane), p, at + lane * stride, a.bytes)
        elif active == v.type.lanes:
            self.e.store(v, p, at, a.bytes)
        elif self.pad:
            mask = self.e.mask(v.type, range(active))   # lanes beyond an extent are zero
            self.e.store(self.e.select(mask, v, self.e.constant(0, v.type)), p, at, a.bytes)
        else:
            self.e.store_first(v, p, at, active, a.bytes)

    def scatter(self, v: Value, pos: Positions, ptrs: Pointers, at: int) -> None:
        """Each lane of a vector where data say, onto what is there."""
        assert self.simd is not None
        a, active = self.accesses[self.store_at], self.active(pos)
        dtype, stride = a.tensor.type.dtype, a.stride(self.simd.dim, 1, active - 1)
        for lane in range(active):
            one, p = self.e.extract(v, lane), self.found(self.store_at, pos, ptrs, lane)
            if self.first.fold != "=":
                there = self.e.load(p, at + lane * stride, stored(Type(dtype)), a.bytes)
                one = apply(self.e, COMBINE[self.first.fold], [widen(self.e, there, dtype), one])
            self.e.store(narrow(self.e, one, dtype), p, at + lane * stride, a.bytes)
