"""Lowering: one walk over the schedule of each stage. It never asks for an op's name or a layer's shape.

A kernel becomes `void name(ptr args, i64 begin, i64 end, i64 thread)`. `args` points to eight-byte slots: the
batch, the base of the scratch memory of all threads, then the operands in order. Tasks are the tiles of the
par loops.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from cnncc.codegen.access import Pos, Positions, Run, Term
from cnncc.codegen.emitter import I64, PTR, Emitter, Int, Value
from cnncc.codegen.stage import Pointers, StageLowering
from cnncc.codegen.validity import Constraint
from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Index
from cnncc.ir.formula import outside
from cnncc.ir.kernel import Kernel, Stage
from cnncc.ir.regions import accumulators, lifted, scratch_offsets, scratch_shapes
from cnncc.ir.target import Target
from cnncc.ir.types import Extent

ATTRIBUTES = 'nounwind "min-legal-vector-width"="512" "prefer-vector-width"="512" "frame-pointer"="none"'
SLOT_BATCH, SLOT_SCRATCH, SLOT_OPERANDS = 0, 1, 2


def attributes(target: Target) -> str:
    """Those of a kernel's function: the level's instructions and no others, for whatever CPU it is tuned."""
    return (f'{ATTRIBUTES} "target-cpu"="{target.level}" "tune-cpu"="{target.cpu}" '
            f'"target-features"="{target.features}"')


def lower(kernel: Kernel, name: str, target: Target) -> str:
    """The LLVM text of a module that defines the kernel."""
    e = Emitter()
    params = [(PTR, "args"), (I64, "begin"), (I64, "end"), (I64, "thread")]
    with e.function(name, "void", params, attributes(target)) as (args, begin, end, thread):
        _KernelLowering(e, kernel, target, args, thread).tasks(begin, end)
        e.line("ret void")
    return e.module()


class _KernelLowering:
    """The parts that stages share: pointers, tasks, shared loops, regions."""

    def __init__(self, e: Emitter, kernel: Kernel, target: Target, args: Value, thread: Value) -> None:
        self.e, self.kernel = e, kernel
        self.batch = e.load(args, 8 * SLOT_BATCH, I64, 8)
        self.bases: dict[str, Value] = {}
        for i, t in enumerate(kernel.operands):
            self.bases[t.name] = e.load(args, 8 * (SLOT_OPERANDS + i), PTR, 8)
        self.shapes: dict[str, tuple[Extent, ...]] = {t.name: t.type.shape for t in kernel.operands}
        offsets, nbytes = scratch_offsets(kernel)
        if nbytes:
            own = e.offset(e.load(args, 8 * SLOT_SCRATCH, PTR, 8), e.mul(thread, nbytes))
            self.shapes.update(scratch_shapes(kernel))
            self.bases.update((name, e.offset(own, at)) for name, at in offsets.items())
        self.origins: dict[str, list[Int]] = {}
        self.last = kernel.stages[-1]
        waits = accumulators(kernel)
        self.stages = [StageLowering(e, kernel, s, target, self.shapes, waits.get(j))
                       for j, s in enumerate(kernel.stages)]
        shared, whole = kernel.loops.loops, self.stages[-1].validity
        for s in self.stages:
            for c in s.validity.around:
                for index, extents in lifted(kernel, s.stage, c.index):
                    whole.split_around(shared, Constraint(index, c.size), extents)

    def extent(self, e: Extent) -> Int:
        return self.batch if isinstance(e, str) else e

    def tasks(self, begin: Value, end: Value) -> None:
        pos = {d: Pos(0, 0, (), self.extent(x)) for d, x in self.last.extents.items()}
        par = self.kernel.loops.par
        with self.e.loop(begin, end, 1, maybe_empty=True) as task:
            indices: list[Int] = []
            rest: Int = task.index
            for i in range(len(par) - 1, 0, -1):
                count: Int = 0
                for r in self.stages[-1].runs(i, par[i], pos):
                    count = self.e.add(count, r.count)
                indices.append(self.e.rem(rest, count))
                rest = self.e.div(rest, count)
            indices.append(rest)
            self.shared(0, pos, indices[::-1] if par else [])

    def shared(self, i: int, pos: Positions, indices: Sequence[Int]) -> None:
        """The loops around all stages; a par loop is at the tile that its index names."""
        loops = self.kernel.loops.loops
        if i == len(loops):
            self.body(pos)
            return
        stage, e = self.stages[-1], self.e
        runs = stage.runs(i, loops[i], pos)
        if loops[i].kind != "par":
            def inner(p: Positions, _: Pointers, carry: list[Value]) -> list[Value]:
                self.shared(i + 1, p, indices)
                return carry
            for run in runs:
                stage.turn(run, loops[i], pos, {}, [], inner)
            return
        first = 0
        for run in runs:
            def at(run: Run = run, first: int = first) -> None:
                number = e.sub(indices[i], first)
                value = run.start if run.count == 1 else run.at(e, e.add(run.start, e.mul(number, run.size)))
                self.shared(i + 1, stage.placed(pos, loops[i].dim, value, run), indices)
            if len(runs) == 1:
                at()
                continue
            if not isinstance(run.count, int):
                raise InternalError("a symbolic par loop must have step 1")
            inside = e.compare("ult", e.sub(indices[i], first), run.count)
            with e.when(inside):
                at()
            first += run.count

    def body(self, pos: Positions) -> None:
        regions: dict[str, Positions] = {}
        consumers: list[tuple[Stage, Positions]] = [(self.last, pos)]
        self.origins = {}
        for j in range(len(self.stages) - 2, -1, -1):
            stage = self.kernel.stages[j]
            region = self.region(stage, consumers, any(s.validity.around for s in self.stages[:j + 1]))
            regions[stage.out.tensor] = region
            consumers.append((stage, region))
        for stage, lowering in zip(self.kernel.stages, self.stages, strict=True):
            lowering.run(pos if stage is self.last else regions[stage.out.tensor], self.bases, self.origins)

    def region(self, stage: Stage, consumers: Sequence[tuple[Stage, Positions]], exact: bool) -> Positions:
        """What later stages read of a stage's result inside the shared loops, by interval arithmetic.

        It may not be cut where it has to be `exact`: validity is decided before.
        """
        name = stage.out.tensor
        full = self.kernel.tensors[name].type.shape
        pos = {d: Pos(0, 0, (), self.extent(x)) for d, x in stage.extents.items()}
        self.origins[name] = []
        for axis, (index, size) in enumerate(zip(stage.out.index, full, strict=True)):
            reads = {(x.index[axis], id(at)): (at, other) for other, at in consumers
                     for x in other.loads if x.tensor == name}
            intervals = [self._interval(i, at, i.single is not None and not outside(i, size, other.extents))
                         for (i, _), (at, other) in reads.items()]
            low, span = self._union(intervals, size)
            whole = next((i for i in intervals if i.low is low), None)      # one that isn't cut
            if exact and isinstance(low, Value) and whole is None:
                raise InternalError(f"{stage.out}: validity is decided by loops around, where it is cut")
            self.origins[name].append(low)
            if index.single:
                pos[index.single] = self._placed(low, span, whole)
            elif index.terms and (low, span) != (0, size):
                raise InternalError(f"{stage.out}: of a scratch index of several dimensions all is read")
        return pos

    def _placed(self, low: Int, span: Int, whole: _Interval | None) -> Pos:
        """Where a dimension begins, as the interval does which it covers where that is known."""
        if isinstance(low, int):
            return Pos(low, low, (), span)
        term = Term(low, whole.multiple, whole.most) if whole else Term(low, 1, 1 << 30)
        return Pos(0, whole.rep if whole else 0, (term,), span)

    def _union(self, intervals: Sequence[_Interval], size: Extent) -> tuple[Int, Int]:
        """(first, how many) of what lies in any of the intervals and inside of the tensor."""
        e = self.e
        intervals = list({(i.low, i.length): i for i in intervals}.values())
        if len(intervals) == 1 and intervals[0].inside(size):
            return intervals[0].low, intervals[0].length
        if not intervals or not isinstance(size, int):
            raise InternalError("a scratch tensor must be read, along one symbolic index")
        low: Int = intervals[0].low
        high: Int = e.add(low, intervals[0].length)
        for i in intervals[1:]:
            low, high = e.least(low, i.low), e.greatest(high, e.add(i.low, i.length))
        low, high = e.greatest(low, 0), e.least(high, size)
        return low, e.sub(high, low)

    def _interval(self, index: Index, pos: Positions, within: bool) -> _Interval:
        e = self.e
        low: Int = index.const
        length: Int = 1
        least = most = rep = multiple = index.const
        for d, c in index.terms:
            if c < 0:
                raise InternalError(f"{index}: a scratch index must not fall")
            p = pos[d]
            low = e.add(low, c * p.const)
            least, most = least + c * p.const, most + c * p.const
            rep += c * p.rep
            multiple = math.gcd(multiple, c * p.const, *(c * t.multiple for t in p.terms))
            for t in p.terms:
                low = e.add(low, e.mul(t.value, c))
                most += c * t.most
            length = e.add(length, e.mul(e.sub(p.span, 1), c))
        return _Interval(low, length, least, most, rep, multiple, within)


@dataclass(frozen=True, slots=True)
class _Interval:
    """`length` indices from `low`, a multiple of `multiple` that lies between `least` and `most`.

    `rep` stands for it in tests of validity. One `within` is of a dimension that never leaves the axis.
    """

    low: Int
    length: Int
    least: int
    most: int
    rep: int
    multiple: int
    within: bool

    def inside(self, size: Extent) -> bool:
        """Whether no part can leave a tensor's axis."""
        if isinstance(size, str) or self.within:
            return True
        return self.least >= 0 and isinstance(self.length, int) and self.most + self.length <= size
