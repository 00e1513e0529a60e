"""The native entry of a network: `i64 run(ptr frame)` calls all kernels of a plan in order.

Per step it fills a kernel's argument slots and hands the kernel to the thread pool, or calls it where it runs
alone; loops go round their steps. Denormals are flushed meanwhile; the caller's state comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

from cnncc.codegen.emitter import BOOL, I64, PTR, Emitter, Int, Type, Value
from cnncc.codegen.lower import SLOT_OPERANDS
from cnncc.ir.plan import FRAME, Place, Plan, Step, Turns

ENTRY = "cnncc_run"
FLUSH = 0x8040              # MXCSR: denormals are zero, flush to zero
I32 = Type("i32")
PART = 256                  # steps of one function


def driver(plan: Plan, entry: str = ENTRY) -> str:
    """The LLVM text of the module with the entry; the kernels are declared."""
    e = Emitter()
    for symbol in dict.fromkeys(s.symbol for s in plan.steps):
        e.declare(f"void @{symbol}(ptr, i64, i64, i64)")
    parts: list[str] = []
    for turns in _runs(plan):
        parts.append(f"part{len(parts)}")
        params = [(PTR, "frame"), (PTR, "args"), (I64, "threads")]
        with e.function(parts[-1], "internal void", params, "noinline nounwind") as values:
            _Part(e, plan, *values).emit(turns)
            e.line("ret void")
    with e.function(entry, "i64", [(PTR, "frame")], "nounwind") as (frame,):
        _Entry(e, plan, frame).emit(parts)
        e.line("ret i64 0")
    return e.module()


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


def _runs(plan: Plan) -> Iterator[Turns]:
    """The steps in order: loops, and what is between them in parts that LLVM can compile in linear time."""
    at = 0
    for loop in (*plan.loops, Turns(len(plan.steps), len(plan.steps), 0)):
        yield from (Turns(i, min(i + PART, loop.first), 1) for i in range(at, loop.first, PART))
        if loop.count:
            yield loop
        at = loop.last


class _Slots:
    """A function to which a call's frame is known."""

    def __init__(self, e: Emitter, plan: Plan, frame: Value) -> None:
        self.e, self.plan, self.frame = e, plan, frame

    def slot(self, name: str, type: Type) -> Value:
        return self.e.load(self.frame, 8 * FRAME.index(name), type, 8)


class _Entry(_Slots):
    def emit(self, parts: Sequence[str]) -> None:
        e = self.e
        slots = SLOT_OPERANDS + max((len(s.places) for s in self.plan.steps), default=0)
        args = e.emit(f"alloca [{slots} x i64], align 64", PTR)
        floats = e.emit("alloca i32, align 4", PTR)
        wanted = self.slot("threads", I64)
        acquire, release = self.slot("acquire", PTR), self.slot("release", PTR)
        old = flush(e, floats)
        several = e.compare("ugt", wanted, 1)
        before, ask, ready = e.block, e.name("ask"), e.name("ready")
        e.line(f"br i1 {several.text}, label %{ask}, label %{ready}")
        e.label(ask)
        granted = e.emit(f"call i64 {acquire.text}(i64 {wanted.text})", I64)
        e.line(f"br label %{ready}")
        e.label(ready)
        threads = e.emit(f"phi i64 [1, %{before}], [{granted.text}, %{ask}]", I64)
        e.store(self.slot("batch", I64), args, 0, 8)
        e.store(self.slot("scratch", PTR), args, 8, 8)
        for part in parts:
            e.line(f"call void @{part}({self.frame.typed}, {args.typed}, {threads.typed})")
        with e.when(e.compare("ugt", threads, 1)):
            e.line(f"call void {release.text}()")
        restore(e, floats, old)


class _Part(_Slots):
    """Some of the steps; `args` are the slots for a kernel's arguments."""

    def __init__(self, e: Emitter, plan: Plan, frame: Value, args: Value, threads: Value) -> None:
        super().__init__(e, plan, frame)
        self.args, self.threads = args, threads
        self.batch, self.first, self.last = (self.slot(name, I64) for name in ("batch", "first", "last"))
        self.work, self.weights, self.state = (self.slot(name, PTR) for name in ("work", "weights", "state"))
        self.parallel, self.context = self.slot("parallel", PTR), self.slot("context", PTR)
        self.together = e.compare("ugt", threads, 1)

    def emit(self, turns: Turns) -> None:
        with self.e.loop(0, turns.count, 1) if turns.count > 1 else nullcontext() as turn:
            self.steps(range(turns.first, turns.last), turn.index if turn else 0)

    def steps(self, steps: range, turn: Int) -> None:
        """Those of a range that the frame asks for."""
        for i in steps:
            within = self.e.compare("ult", self.e.sub(i, self.first), self.e.sub(self.last, self.first))
            with self.e.when(within):
                self.step(self.plan.steps[i], turn)

    def step(self, s: Step, turn: Int) -> None:
        e = self.e
        for j, place in enumerate(s.places):
            e.store(self.address(place, turn), self.args, 8 * (SLOT_OPERANDS + j), 8)
        tasks: Int = e.mul(self.batch, s.tasks) if s.batched else s.tasks
        alone = f"call void @{s.symbol}(ptr {self.args.text}, i64 0, i64 {e.text(tasks)}, i64 0)"
        if not s.batched and s.tasks == 1:
            e.line(alone)
            return
        pool, single, done = e.name("pool"), e.name("single"), e.name("done")
        share = self.together
        if not isinstance(tasks, int):
            several = e.compare("ugt", tasks, 1)
            share = e.emit(f"and i1 {share.text}, {several.text}", BOOL)
        e.line(f"br i1 {share.text}, label %{pool}, label %{single}")
        e.label(pool)
        e.line(f"call void {self.parallel.text}(ptr @{s.symbol}, ptr {self.args.text}, i64 {e.text(tasks)}, "
               f"i64 {self.threads.text}, ptr {self.context.text})")
        e.line(f"br label %{done}")
        e.label(single)
        e.line(alone)
        e.line(f"br label %{done}")
        e.label(done)

    def address(self, place: Place, turn: Int) -> Value:
        e, moved = self.e, self.e.add(place.first, self.e.mul(turn, place.move))
        match place.space:
            case "weights":
                return e.offset(self.weights, e.add(moved, place.number))
            case "state":
                return e.offset(self.state, e.add(moved, place.number))
            case "work":
                return e.offset(e.offset(self.work, e.mul(self.batch, place.number)), moved)
        first = len(FRAME) + (len(self.plan.inputs) if place.space == "output" else 0)
        return e.offset(e.load(self.frame, 8 * (first + place.number), PTR, 8), moved)
