"""The native entry of a network: `i64 run(ptr frame)` calls all kernels of a plan in order.

What it does is in tables, so that its code, and the time to compile it, don't grow with the network. Per step
it fills a kernel's argument slots and hands the kernel to the thread pool, or calls it where it runs alone;
loops go round their steps. Denormals are flushed meanwhile; the caller's state comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from cnncc.codegen.emitter import BOOL, I64, PTR, Emitter, Int, Type, Value
from cnncc.codegen.lower import SLOT_OPERANDS
from cnncc.ir.plan import FRAME, Place, Plan, Turns

ENTRY = "cnncc_run"
FLUSH = 0x8040              # MXCSR: denormals are zero, flush to zero
I32 = Type("i32")
STEPS, PLACES, PARTS = (Value(f"@{name}", PTR) for name in ("steps", "places", "parts"))


def driver(plan: Plan, entry: str = ENTRY) -> str:
    """The LLVM text of the module with the entry; the kernels are declared."""
    e = Emitter()
    kernels = {symbol: i for i, symbol in enumerate(dict.fromkeys(s.symbol for s in plan.steps))}
    ends = [*accumulate((len(s.places) for s in plan.steps), initial=0)]
    _table(e, STEPS, [(kernels[s.symbol], 0 if s.batched else s.tasks, s.tasks if s.batched else 0,
                       *ends[i:i + 2]) for i, s in enumerate(plan.steps)])
    _table(e, PLACES, [_place(plan, place) for s in plan.steps for place in s.places])
    parts = [*_parts(plan)]
    _table(e, PARTS, [(x.first, x.last, x.count) for x in parts])
    with e.function("kernel", "internal ptr", [(I64, "number")], "noinline nounwind") as (number,):
        _choice(e, number, [*kernels])
    with e.function(entry, "i64", [(PTR, "frame")], "nounwind") as (frame,):
        _Entry(e, plan, frame).emit(len(parts))
        e.line("ret i64 0")
    return e.module()


def _table(e: Emitter, name: Value, rows: Sequence[Sequence[int]]) -> None:
    """Rows of numbers, one after the other."""
    numbers = ", ".join(f"i64 {n}" for row in rows for n in row)
    e.lines.append(f"{name.text} = internal constant [{sum(map(len, rows))} x i64] [{numbers}]")


def _choice(e: Emitter, number: Value, kernels: Sequence[str]) -> None:
    """Return the kernel of a number. (A table of addresses would be data that a loader writes.)"""
    cases = " ".join(f"i64 {i}, label %kernel{i}" for i in range(len(kernels)))
    e.line(f"switch {number.typed}, label %none [{cases}]")
    for i, symbol in enumerate(kernels):
        e.declare(f"void @{symbol}(ptr, i64, i64, i64)")
        e.label(f"kernel{i}")
        e.line(f"ret ptr @{symbol}")
    e.label("none")
    e.line("unreachable")


def _parts(plan: Plan) -> Iterator[Turns]:
    """The steps in order: loops, and what is between them."""
    at = 0
    for loop in (*plan.loops, Turns(len(plan.steps), len(plan.steps), 0)):
        if at < loop.first:
            yield Turns(at, loop.first, 1)
        if loop.count:
            yield loop
        at = loop.last


def _place(plan: Plan, place: Place) -> tuple[int, int, int, int]:
    """Where in the frame an address begins, and what is added: per unit of the batch, always, per turn."""
    match place.space:
        case "work":
            return 8 * FRAME.index("work"), place.number, place.first, place.move
        case "weights" | "state":
            return 8 * FRAME.index(place.space), 0, place.number + place.first, place.move
    first = len(FRAME) + (len(plan.inputs) if place.space == "output" else 0)
    return 8 * (first + place.number), 0, place.first, place.move


def flush(e: Emitter, state: Value) -> Value:
    """Set flush-to-zero; the floating-point state before. `state` is room for four bytes."""
    e.declare("void @llvm.x86.sse.stmxcsr(ptr)")
    e.line(f"call void @llvm.x86.sse.stmxcsr(ptr {state.text})")
    old = e.load(state, 0, I32, 4)
    restore(e, state, e.emit(f"or i32 {old.text}, {FLUSH}", I32))
    return old


def restore(e: Emitter, state: Value, old: Value) -> None:
    """Set the floating-point state."""
    e.store(old, state, 0, 4)
    e.declare("void @llvm.x86.sse.ldmxcsr(ptr)")
    e.line(f"call void @llvm.x86.sse.ldmxcsr(ptr {state.text})")


class _Entry:
    """The function to which a call's frame is given."""

    def __init__(self, e: Emitter, plan: Plan, frame: Value) -> None:
        self.e, self.plan, self.frame = e, plan, frame

    def slot(self, name: str, type: Type) -> Value:
        return self.e.load(self.frame, 8 * FRAME.index(name), type, 8)

    def emit(self, parts: int) -> None:
        e = self.e
        slots = SLOT_OPERANDS + max((len(s.places) for s in self.plan.steps), default=0)
        self.args = e.emit(f"alloca [{slots} x i64], align 64", PTR)
        floats = e.emit("alloca i32, align 4", PTR)
        wanted = self.slot("threads", I64)
        acquire, release = self.slot("acquire", PTR), self.slot("release", PTR)
        self.parallel, self.context = self.slot("parallel", PTR), self.slot("context", PTR)
        self.batch, first, last = (self.slot(name, I64) for name in ("batch", "first", "last"))
        old = flush(e, floats)
        several = e.compare("ugt", wanted, 1)
        before, ask, ready = e.block, e.name("ask"), e.name("ready")
        e.line(f"br i1 {several.text}, label %{ask}, label %{ready}")
        e.label(ask)
        granted = e.emit(f"call i64 {acquire.text}(i64 {wanted.text})", I64)
        e.line(f"br label %{ready}")
        e.label(ready)
        self.threads = e.emit(f"phi i64 [1, %{before}], [{granted.text}, %{ask}]", I64)
        self.together = e.compare("ugt", self.threads, 1)
        e.store(self.batch, self.args, 0, 8)
        e.store(self.slot("scratch", PTR), self.args, 8, 8)
        with e.loop(0, parts, 1, maybe_empty=True) as part:
            low, high, count = self.row(PARTS, part.index, 3)
            within = e.greatest(low, first), e.least(high, last)
            with e.loop(0, count, 1) as turn, e.loop(*within, 1, maybe_empty=True) as step:
                self.step(step.index, turn.index)
        with e.when(self.together):
            e.line(f"call void {release.text}()")
        restore(e, floats, old)

    def row(self, table: Value, index: Int, width: int) -> list[Value]:
        """The numbers in a row of a table."""
        p = self.e.offset(table, self.e.mul(index, 8 * width))
        return [self.e.load(p, 8 * i, I64, 8) for i in range(width)]

    def step(self, index: Int, turn: Int) -> None:
        e = self.e
        number, tasks, batched, first, last = self.row(STEPS, index, 5)
        with e.loop(first, last, 1) as place:
            slot, scaled, plain, move = self.row(PLACES, place.index, 4)
            at = e.add(e.mul(self.batch, scaled), e.add(plain, e.mul(turn, move)))
            address = e.offset(e.load(self.frame, slot, PTR, 8), at)
            e.store(address, e.offset(self.args, e.mul(e.sub(place.index, first), 8)), 8 * SLOT_OPERANDS, 8)
        kernel = e.emit(f"call ptr @kernel({number.typed})", PTR)
        count = e.add(tasks, e.mul(self.batch, batched))
        several = e.compare("ugt", count, 1)
        share = e.emit(f"and i1 {self.together.text}, {several.text}", BOOL)
        pool, single, done = e.name("pool"), e.name("single"), e.name("done")
        e.line(f"br i1 {share.text}, label %{pool}, label %{single}")
        e.label(pool)
        e.line(f"call void {self.parallel.text}({kernel.typed}, {self.args.typed}, i64 {e.text(count)}, "
               f"{self.threads.typed}, {self.context.typed})")
        e.line(f"br label %{done}")
        e.label(single)
        e.line(f"call void {kernel.text}({self.args.typed}, i64 0, i64 {e.text(count)}, i64 0)")
        e.line(f"br label %{done}")
        e.label(done)
