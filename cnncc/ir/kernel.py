"""Kernels: shared outer loops around an ordered list of stages.

A stage is a chain of formulas on one register tile: the first folds into `acc`, the following ones (the
epilogue) take `acc` and store. What a stage stores is the kernel's output `y` or a scratch tensor that later
stages read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from cnncc.ir.expr import Load, size
from cnncc.ir.formula import Formula, multiply_add, parse_formula
from cnncc.ir.layout import Layout, parse_layout
from cnncc.ir.schedule import Schedule, parse_schedule
from cnncc.ir.types import BYTES, Extent, TensorType, parse_type, product

ACC = "acc"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An operand of a kernel: its name in the formulas, its type, its memory order (chosen by a pass)."""

    name: str
    type: TensorType
    layout: Layout

    @property
    def nbytes(self) -> int:
        """Bytes in memory, padding included, per unit of a symbolic extent."""
        return self.layout.elements(self.type.shape) * BYTES[self.type.dtype]

    def __str__(self) -> str:
        return f"{self.name} {self.type} as {self.layout}"


@dataclass(frozen=True)
class Stage:
    formulas: tuple[Formula, ...]
    schedule: Schedule = Schedule(())

    @property
    def first(self) -> Formula:
        return self.formulas[0]

    @property
    def out(self) -> Load:
        return self.formulas[-1].out

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        return tuple(dict.fromkeys(x for f in self.formulas for x in f.loads if x.tensor != ACC))

    @cached_property
    def lookups(self) -> frozenset[str]:
        """The operands that say where others are read or written."""
        return frozenset[str]().union(*(f.lookups for f in self.formulas))

    @property
    def extents(self) -> dict[str, Extent]:
        """All dimensions; an epilogue adds none."""
        return {d: e for f in self.formulas for d, e in f.extents}

    def instructions_per_step(self) -> int:
        """Vector instructions per element of the first formula, a multiply-add counted as one."""
        fused = self.first.fold == "=" or multiply_add(self.first)
        return size(self.first.expr) + (0 if fused else 1)

    def flops(self) -> int:
        """Operations per unit of a symbolic extent: two per multiply-add, taps in the padding included."""
        return sum(product([e for _, e in f.extents if isinstance(e, int)]) * (size(f.expr) + (f.fold != "="))
                   for f in self.formulas)


@dataclass(frozen=True, slots=True)
class Kernel:
    """`operands` are in the order of the node's inputs, the output last; `scratch` is private to a thread."""

    operands: tuple[Tensor, ...]
    stages: tuple[Stage, ...]
    scratch: tuple[Tensor, ...] = ()
    loops: Schedule = Schedule(())

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {t.name: t for t in (*self.operands, *self.scratch)}

    @property
    def output(self) -> Tensor:
        return self.operands[-1]

    def flops(self) -> int:
        return sum(s.flops() for s in self.stages)

    def nbytes(self) -> int:
        """Bytes of all operands: what must be read or written at least once."""
        return sum(t.nbytes for t in self.operands)

    def lines(self) -> Iterator[str]:
        for t in self.operands[:-1]:
            yield f"in {t}"
        for t in self.scratch:
            yield f"scratch {t}"
        yield f"out {self.output}"
        if self.loops.loops:
            yield f"loops {self.loops}"
        for s in self.stages:
            yield "stage " + " ".join(f"{d}={e}" for d, e in s.extents.items())
            for f in s.formulas:
                yield f"  {f}"
            if s.schedule.loops:
                yield f"  loops {s.schedule}"

    def __str__(self) -> str:
        return "\n".join(self.lines())


def parse_kernel(text: str) -> Kernel:
    """Read the text of a kernel back. Raises InternalError for a formula or schedule that can't be read."""
    operands: list[Tensor] = []
    scratch: list[Tensor] = []
    loops = Schedule(())
    stages: list[tuple[dict[str, Extent], list[Formula], Schedule]] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if word in ("in", "out", "scratch"):
            name, _, rest = rest.partition(" ")
            kind, _, layout = rest.partition(" as ")
            tensor = Tensor(name, parse_type(kind), parse_layout(layout))
            (scratch if word == "scratch" else operands).append(tensor)
        elif word == "stage":
            pairs = (p.split("=") for p in rest.split())
            stages.append(({d: int(e) if e.isdigit() else e for d, e in pairs}, [], Schedule(())))
        elif word == "loops" and line.startswith(" "):
            stages[-1] = (*stages[-1][:2], parse_schedule(rest))
        elif word == "loops":
            loops = parse_schedule(rest)
        elif word:
            extents, formulas, _ = stages[-1]
            bare = parse_formula(line, {})
            used = {d for x in (bare.out, *bare.loads) for i in x.index for d in i.dims}
            formulas.append(parse_formula(line, {d: e for d, e in extents.items() if d in used}))
    return Kernel(tuple(operands), tuple(Stage(tuple(f), s) for _, f, s in stages), tuple(scratch), loops)
