"""Sums in chunks: the accumulators of a stage wait in scratch memory between the turns of its chunk loops."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeAlias

from cnncc.codegen.access import Access, Pos, Positions, Run
from cnncc.codegen.emitter import BOOL, Emitter, Int, Type, Value
from cnncc.codegen.scalar import narrow, stored, widen
from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Index, Load
from cnncc.ir.kernel import Stage, Tensor
from cnncc.ir.regions import waiting

Flag: TypeAlias = bool | Value
"""A condition: a Python bool where it is known."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whether what is computed is the first and the last part of its sums."""

    first: Flag = True
    last: Flag = True

    def at(self, e: Emitter, pos: Pos, run: Run, runs: Sequence[Run]) -> Chunk:
        """The same inside a chunk loop of these runs, at a position in one of them. Raises InternalError."""
        if len(runs) > 1 and not all(isinstance(r.count, int) for r in runs):
            raise InternalError("chunks along an unknown extent must have step 1")
        index = run.start if run.count == 1 else pos.terms[-1].value
        end = e.add(runs[-1].start, e.mul(e.sub(runs[-1].count, 1), runs[-1].size))
        return Chunk(_both(e, self.first, _equal(e, index, runs[0].start)),
                     _both(e, self.last, _equal(e, index, end)))


def where(e: Emitter, flag: Flag) -> AbstractContextManager[None]:
    """What is emitted in it runs only where a condition holds that isn't known."""
    return e.when(flag) if isinstance(flag, Value) else nullcontext()


def _equal(e: Emitter, a: Int, b: Int) -> Flag:
    return a == b if isinstance(a, int) and isinstance(b, int) else e.compare("eq", a, b)


def _both(e: Emitter, a: Flag, b: Flag) -> Flag:
    if isinstance(a, Value) and isinstance(b, Value):
        return e.emit(f"and {a.typed}, {b.text}", BOOL)
    if isinstance(a, Value):
        return a if b else False
    return b if a else False


class Waiting:
    """Where a stage's accumulators wait."""

    def __init__(self, e: Emitter, tensor: Tensor, stage: Stage) -> None:
        self.e, self.stage = e, stage
        index = [Index.of(d) for d in waiting(stage)]
        lanes = [Index()] * (tensor.type.rank - len(index))
        self.access = Access(Load(tensor.name, (*index, *lanes)), tensor, tensor.type.shape)

    def pointer(self, bases: Mapping[str, Value], pos: Positions) -> Value:
        """To what offsets are added, where the outermost chunk loop begins at a position."""
        return self.e.offset(bases[self.access.tensor.name], -self.access.offset(pos))

    def resumed(self, chunk: Chunk, start: Sequence[Value], places: Iterable[Positions],
                pointer: Value) -> list[Value]:
        """The accumulators at the beginning of a chunk."""
        if chunk.first is True:
            return list(start)
        offsets = [self._offset(p) for p in places]
        if isinstance(chunk.first, Value):
            with self.e.when(chunk.first):
                for v, at in zip(start, offsets, strict=True):
                    self._store(v, pointer, at)
        dtype = self.access.tensor.type.dtype
        memory = stored(Type(dtype, start[0].type.lanes))
        return [widen(self.e, self.e.load(pointer, at, memory, self.access.bytes), dtype) for at in offsets]

    def keep(self, chunk: Chunk, sums: Sequence[Value], places: Iterable[Positions],
             pointer: Value) -> None:
        """Store them at its end, unless it is known to be the last one."""
        if chunk.last is not True:
            for v, p in zip(sums, places, strict=True):
                self._store(v, pointer, self._offset(p))

    def _offset(self, pos: Positions) -> int:
        return self.access.offset(pos, self.stage.schedule.simd)

    def _store(self, v: Value, pointer: Value, at: int) -> None:
        self.e.store(narrow(self.e, v, self.access.tensor.type.dtype), pointer, at, self.access.bytes)
