"""The native entry of a network: `i64 run(ptr frame)` calls all kernels of a plan in order.

Per step it fills a kernel's argument slots and hands the kernel to the thread pool, or calls it where it runs
alone; loops go round their steps. Denormals are flushed meanwhile; the caller's state comes back.
"""

from __future__ import annotations

from cnncc.codegen.emitter import BOOL, I64, PTR, Emitter, Int, Type, Value
from cnncc.codegen.lower import SLOT_OPERANDS
from cnncc.ir.plan import FRAME, Place, Plan, Step

ENTRY = "cnncc_run"
FLUSH = 0x8040              # MXCSR: denormals are zero, flush to zero
I32 = Type("i32")


def driver(plan: Plan, entry: str = ENTRY) -> str:
    """The LLVM text of the module with the entry; the kernels are declared."""
    e = Emitter()
    for symbol in dict.fromkeys(s.symbol for s in plan.steps):
        e.declare(f"void @{symbol}(ptr, i64, i64, i64)")
    with e.function(entry, "i64", [(PTR, "frame")], "nounwind") as (frame,):
        _Driver(e, plan, frame).emit()
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


class _Driver:
    def __init__(self, e: Emitter, plan: Plan, frame: Value) -> None:
        self.e, self.plan, self.frame = e, plan, frame
        slots = SLOT_OPERANDS + max((len(s.places) for s in plan.steps), default=0)
        self.args = e.emit(f"alloca [{slots} x i64], align 64", PTR)
        self.floats = e.emit("alloca i32, align 4", PTR)

    def slot(self, name: str, type: Type) -> Value:
        return self.e.load(self.frame, 8 * FRAME.index(name), type, 8)

    def emit(self) -> None:
        e = self.e
        self.batch, wanted = self.slot("batch", I64), self.slot("threads", I64)
        self.first, self.last = self.slot("first", I64), self.slot("last", I64)
        self.work, self.scratch = self.slot("work", PTR), self.slot("scratch", PTR)
        self.weights, self.state = self.slot("weights", PTR), self.slot("state", PTR)
        self.parallel = self.slot("parallel", PTR)
        acquire, release = self.slot("acquire", PTR), self.slot("release", PTR)
        self.context = self.slot("context", PTR)
        old = flush(e, self.floats)
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
        e.store(self.scratch, self.args, 8, 8)
        at = 0
        for turns in self.plan.loops:
            self.steps(range(at, turns.first), 0)
            with e.loop(0, turns.count, 1) as turn:
                self.steps(range(turns.first, turns.last), turn.index)
            at = turns.last
        self.steps(range(at, len(self.plan.steps)), 0)
        with e.when(self.together):
            e.line(f"call void {release.text}()")
        restore(e, self.floats, old)

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
