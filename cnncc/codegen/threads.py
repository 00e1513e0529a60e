"""The process-wide native thread pool, as LLVM text (x86-64 Linux; what depends on it is all here).

`pool_ir()` is compiled to an object of its own and loaded once per process; every compiled model receives the
addresses of the three functions in its call frame, so a host program may pass its own. The pool of an
embedded network needs functions called pthread_* and no others, and leaves affinities alone.

    i64  cnncc_pool_acquire(i64 threads)
        Takes the pool for one inference. Returns the number of threads to use, the caller included: `threads`
        (at most 255), fewer where the system gives no more, 1 where another caller holds it: that one runs
        alone.
    void cnncc_pool_run(ptr kernel, ptr args, i64 tasks, i64 threads, ptr context)
        Calls `kernel(args, begin, end, thread)` until each of `tasks` (< 2**32) has run exactly once; returns
        when all have finished. `threads` is what acquire returned; the caller is thread 0. No two calls run
        under one thread index at a time. A kernel must not call the pool. `context` is for other pools.
    void cnncc_pool_release()
        Gives it back, from the thread that took it; without effect in any other.

One 64-bit word holds the state. The caller opens a region by one store; a worker enters it by a compare-and-
swap while it is open and leaves by a subtraction; the caller closes it when no task is left and waits for
those inside only: a worker that the system keeps from running costs nothing. Thread t owns tasks [t * tasks /
n, (t + 1) * tasks / n), takes an eighth of what is left of them (at least one) at a time from its own
counter, then from the others' in turn. A counter carries the number of its region, so none has to be reset.

Workers spin while the pool is held (about 2 ms at most) and some 50 us after a release, then sleep, each on a
futex of its own. Whoever spins longer than some 25 us yields the CPU between looks. Time is the time stamp
counter's.

Workers start when first wanted and never end: the object must stay loaded. They block all signals but those
of faults and flush denormals (FTZ, DAZ). Those of the process's pool may run on the caller's affinity mask
without the CPU on which the caller is, as seen at an acquire that starts workers or finds another thread,
CPU or number of threads than the last; a caller that moves during an inference is not followed. Where the
mask has fewer CPUs than `threads` they may run on all of it. A forked child starts its own workers.
"""

from __future__ import annotations

from cnncc.codegen.emitter import I64, PTR, Emitter, Int, Type, Value

INSIDE, PARTY, HELD, CLOSED, MEMBERS, REGION = 0, 8, 16, 17, 18, 26
"""Bits of the word where these begin: workers inside (8), threads of the region (8), held, closed, threads of
the inference (8), the region's number (38)."""

MOST = 255                      # threads
YIELD = 1 << 16                 # cycles of waiting after which a look is followed by a yield
LINGER, HOLD = 1 << 17, 1 << 22  # cycles that a worker spins after a release, and while the pool is held
FLUSH = 0x8040                  # MXCSR: denormals are zero, flush to zero
UNBLOCKED = 4, 7, 8, 11, 32, 33, 34  # SIGILL, SIGBUS, SIGFPE, SIGSEGV; what C libraries keep for themselves
CPUS = 1024                     # bits of a cpu_set_t, and of a sigset_t
YIELDS, FUTEX = 24, 202         # system calls
WAIT, WAKE = 128, 129           # a futex's operations, private to the process
SLOT, COUNTER, ASLEEP, HANDLE = 256, 0, 128, 136  # bytes of a thread's slot; offsets of what it holds

I32 = Type("i32")
NULL = Value("null", PTR)


def _global(name: str, nbytes: int) -> Value:
    return Value(f"getelementptr (i8, ptr @{name}, i64 {nbytes})", PTR)


# The word and what a region runs share a line; the holder alone writes what follows in a line of its own.
STATE, KERNEL, ARGS, TASKS = (_global("state", 8 * i) for i in range(4))
STARTED, CALLER, CPU, WANTED, REGISTERED = (_global("holder", 8 * i) for i in range(5))
MASK, SLOTS = _global("mask", 0), _global("slots", 0)
GLOBALS = {"state": 128, "holder": 128, "mask": CPUS // 8, "slots": SLOT * (MOST + 1)}
ARGUMENTS = "rdi", "rsi", "rdx", "r10"  # of a system call


def pool_ir(*, embedded: bool = False) -> str:
    """The pool as one LLVM module (opaque pointers, no triple); exports the three functions named above.

    `embedded`: a part of a program; else the process's, for code that no linker has seen.
    """
    pool = _Pool(embedded)
    for name, nbytes in GLOBALS.items():
        if name != "mask" or not embedded:
            pool.lines.append(f"@{name} = internal global [{nbytes} x i8] zeroinitializer, align 128")
    for function in (pool.worker, pool.run, pool.acquire, pool.release, pool.forked):
        function()
    return pool.module()


class _Pool(Emitter):
    """Every number is an i64; all memory is read and written atomically, whether threads share it or not."""

    def __init__(self, embedded: bool) -> None:
        super().__init__()
        self.embedded = embedded

    # ---- words

    def op(self, name: str, a: Int, b: Int) -> Value:
        return self.emit(f"{name} i64 {self.text(a)}, {self.text(b)}", I64)

    def bits(self, word: Value, at: int, count: int = 8) -> Value:
        return self.op("and", self.op("lshr", word, at), (1 << count) - 1)

    def has(self, word: Value, bit: int) -> Value:
        return self.compare("ne", self.op("and", word, 1 << bit), 0)

    def get(self, place: Value, order: str = "monotonic") -> Value:
        return self.emit(f"load atomic i64, ptr {place.text} {order}, align 8", I64)

    def put(self, value: Int, place: Value, order: str = "monotonic") -> None:
        type = value.type if isinstance(value, Value) else I64
        self.line(f"store atomic {type} {self.text(value)}, ptr {place.text} {order}, align 8")

    def change(self, op: str, place: Value, value: Int, order: str) -> Value:
        """An atomic read-modify-write; the word before."""
        return self.emit(f"atomicrmw {op} ptr {place.text}, i64 {self.text(value)} {order}", I64)

    def lost(self, place: Value, old: Value, new: Int, order: str) -> Value:
        """Whether a compare-and-swap failed."""
        words = f"i64 {old.text}, i64 {self.text(new)} {order} monotonic"
        pair = self.emit(f"cmpxchg ptr {place.text}, {words}", I64)
        return self.compare("ne", self.emit(f"extractvalue {{ i64, i1 }} {pair.text}, 0", I64), old)

    def choose(self, condition: Value, a: Int, b: Int) -> Value:
        return self.emit(f"select i1 {condition.text}, i64 {self.text(a)}, i64 {self.text(b)}", I64)

    def room(self, nbytes: int) -> Value:
        return self.emit(f"alloca [{nbytes} x i8], align 8", PTR)

    def slot(self, thread: Int, field: int) -> Value:
        return self.offset(SLOTS, self.add(self.mul(thread, SLOT), field))

    # ---- control

    def go(self, label: str, when: Value | None = None) -> None:
        """Jump; where a condition is given and doesn't hold, what follows runs."""
        if when is None:
            self.line(f"br label %{label}")
        else:
            on = self.name("on")
            self.line(f"br i1 {when.text}, label %{label}, label %{on}")
            self.label(on)

    def at(self, label: str) -> None:
        self.go(label)
        self.label(label)

    def call(self, name: str, *args: Int, result: Type | None = I32) -> Value:
        """A function of the C library or of LLVM; an i32 comes back as an i64."""
        values = [a if isinstance(a, Value) else Value(str(a), I64) for a in args]
        self.declare(f"{result or 'void'} @{name}({', '.join(str(v.type) for v in values)})")
        text = f"call {result or 'void'} @{name}({', '.join(v.typed for v in values)})"
        if result is None:
            self.line(text)
            return NULL
        value = self.emit(text, result)
        return self.cast("sext", value, I64) if result == I32 else value

    def clock(self) -> Value:
        return self.call("llvm.readcyclecounter", result=I64)

    def system(self, number: int, *args: Int) -> None:
        """A system call whose result nobody needs."""
        values = [a if isinstance(a, Value) else Value(str(a), I64) for a in args]
        registers = "".join(f"{{{r}}}," for r in ("rax", *ARGUMENTS[:len(args)]))
        listed = ", ".join(v.typed for v in (Value(str(number), I64), *values))
        self.emit(f'call i64 asm sideeffect "syscall", "={{rax}},{registers}~{{rcx}},~{{r11}},~{{memory}}"'
                  f"({listed})", I64)

    def futex(self, place: Value, operation: int) -> None:
        self.system(FUTEX, place, operation, 1, NULL)

    def cpu(self) -> Value:
        return Value("0", I64) if self.embedded else self.call("sched_getcpu")

    # ---- the pieces

    def relax(self, since: Value) -> None:
        self.call("llvm.x86.sse2.pause", result=None)
        with self.when(self.compare("ugt", self.op("sub", self.clock(), since), YIELD)):
            self.system(YIELDS)

    def work(self, kernel: Value, args: Value, tasks: Int, n: Int, region: Int, thread: Int) -> None:
        """Run tasks until none is left, of this thread's share, then of the others'."""
        tag = self.op("shl", region, 32)
        with self.loop(0, n, 1) as turn:
            owner = self.rem(self.add(thread, turn.index), n)
            low = self.div(self.mul(owner, tasks), n)
            size = self.sub(self.div(self.mul(self.add(owner, 1), tasks), n), low)
            counter, take, empty = self.slot(owner, COUNTER), self.name("take"), self.name("empty")
            self.at(take)
            old = self.get(counter)
            current = self.compare("eq", self.op("and", old, -1 << 32), tag)
            first = self.choose(current, self.op("and", old, (1 << 32) - 1), 0)
            left = self.sub(size, first)
            self.go(empty, when=self.compare("eq", left, 0))
            end = self.add(self.add(first, self.op("lshr", left, 3)), 1)
            self.go(take, when=self.lost(counter, old, self.op("or", tag, end), "monotonic"))
            self.enter(kernel, args, self.add(low, first), self.add(low, end), thread)
            self.go(take)
            self.label(empty)

    def enter(self, kernel: Value, args: Value, begin: Int, end: Int, thread: Int) -> None:
        numbers = ", ".join(f"i64 {self.text(x)}" for x in (begin, end, thread))
        self.line(f"call void {kernel.text}(ptr {args.text}, {numbers})")

    def worker(self) -> None:
        """Says that it sleeps, then looks at the word; the caller changes the word, then looks who sleeps.

        All of that is sequentially consistent: one of the two sees the other and no wake-up is lost.
        """
        with self.function("worker", "internal ptr", [(PTR, "number")]) as (number,):
            thread = self.cast("ptrtoint", number, I64)
            asleep = self.slot(thread, ASLEEP)
            csr, seen, since = (self.room(8) for _ in range(3))
            self.put(0, csr)
            self.call("llvm.x86.sse.stmxcsr", csr, result=None)
            self.put(self.op("or", self.get(csr), FLUSH), csr)
            self.call("llvm.x86.sse.ldmxcsr", csr, result=None)
            self.put(-1, seen)
            self.at("reset")
            self.put(self.clock(), since)
            self.at("look")
            word = self.get(STATE, "acquire")
            region, n = self.bits(word, REGION, 38), self.bits(word, PARTY)
            self.go("idle", when=self.compare("eq", region, self.get(seen)))
            self.go("missed", when=self.has(word, CLOSED))
            self.go("missed", when=self.compare("uge", thread, n))
            self.go("look", when=self.lost(STATE, word, self.add(word, 1), "acq_rel"))
            kernel, args = (self.emit(f"load ptr, ptr {p.text}", PTR) for p in (KERNEL, ARGS))
            self.work(kernel, args, self.get(TASKS), n, region, thread)
            self.change("sub", STATE, 1, "release")
            self.at("missed")
            self.put(region, seen)
            self.go("reset")
            self.label("idle")
            self.go("doze", when=self.compare("uge", thread, self.bits(word, MEMBERS)))
            waited = self.op("sub", self.clock(), self.get(since))
            patience = self.choose(self.has(word, HELD), HOLD, LINGER)
            self.go("doze", when=self.compare("uge", waited, patience))
            self.relax(self.get(since))
            self.go("look")
            self.label("doze")
            self.change("xchg", asleep, 1, "seq_cst")
            now = self.bits(self.get(STATE, "seq_cst"), REGION, 38)
            with self.when(self.compare("eq", now, self.get(seen))):
                self.futex(asleep, WAIT)
            self.put(0, asleep)
            self.go("reset")

    def run(self) -> None:
        params = [(PTR, "kernel"), (PTR, "args"), (I64, "tasks"), (I64, "threads"), (PTR, "context")]
        with self.function("cnncc_pool_run", "void", params) as (kernel, args, tasks, threads, _):
            n = self.least(tasks, threads)
            self.go("together", when=self.compare("sgt", n, 1))
            self.go("done", when=self.compare("eq", tasks, 0))
            self.enter(kernel, args, 0, tasks, 0)
            self.go("done")
            self.label("together")
            region = self.add(self.bits(self.get(STATE), REGION, 38), 1)
            for place, value in ((KERNEL, kernel), (ARGS, args), (TASKS, tasks)):
                self.put(value, place)
            word = self.op("or", self.op("shl", region, REGION), 1 << HELD)
            word = self.op("or", word, self.op("shl", threads, MEMBERS))
            self.change("xchg", STATE, self.op("or", word, self.op("shl", n, PARTY)), "seq_cst")
            with self.loop(1, n, 1) as thread:
                asleep = self.slot(thread.index, ASLEEP)
                with self.when(self.compare("ne", self.get(asleep, "seq_cst"), 0)):
                    self.put(0, asleep, "release")
                    self.futex(asleep, WAKE)
            self.work(kernel, args, tasks, n, region, 0)
            last = self.change("or", STATE, 1 << CLOSED, "acq_rel")
            self.go("done", when=self.compare("eq", self.bits(last, INSIDE), 0))
            since = self.clock()
            self.at("wait")
            self.relax(since)
            self.go("wait", when=self.compare("ne", self.bits(self.get(STATE, "acquire"), INSIDE), 0))
            self.at("done")
            self.line("ret void")

    def acquire(self) -> None:
        with self.function("cnncc_pool_acquire", "i64", [(I64, "most")]) as (most,):
            threads, room, old = self.least(most, MOST), self.room(CPUS // 8), self.room(CPUS // 8)
            self.go("alone", when=self.compare("sle", threads, 1))
            word = self.get(STATE)
            self.go("alone", when=self.has(word, HELD))
            self.go("alone", when=self.lost(STATE, word, self.op("or", word, 1 << HELD), "acquire"))
            want, have = self.sub(threads, 1), self.get(STARTED)
            same = self.compare("uge", have, want)
            caller, cpu = self.call("pthread_self", result=I64), self.cpu()
            for place, value in ((CALLER, caller), (CPU, cpu), (WANTED, threads)):
                same = self.arith("and", same, self.compare("eq", self.get(place), value))
                self.put(value, place)
            self.go("ready", when=same)
            with self.when(self.compare("ult", have, want)):
                self.hire(want, room, old)
            if not self.embedded:
                self.pin(threads, cpu, have, room)
            workers = self.least(self.get(STARTED), want)
            with self.when(self.compare("eq", workers, 0)):
                self.free()
            self.line(f"ret i64 {self.text(self.add(workers, 1))}")
            self.label("alone")
            self.line("ret i64 1")
            self.label("ready")
            self.line(f"ret i64 {self.text(threads)}")

    def hire(self, want: Int, signals: Value, old: Value) -> None:
        """Start workers until there are as many, or the system gives no more."""
        for at in range(0, CPUS // 8, 8):
            self.put(-1 if at else ~sum(1 << s - 1 for s in UNBLOCKED), self.offset(signals, at))
        set_mask = Value("2", I32)
        self.call("pthread_sigmask", set_mask, signals, old)
        with self.when(self.compare("eq", self.get(REGISTERED), 0)):
            self.put(1, REGISTERED)
            forked = NULL, NULL, Value("@forked", PTR)
            if self.embedded:
                self.call("pthread_atfork", *forked)
            else:               # what that is made of: the C library has it for linkers alone
                self.call("__register_atfork", *forked, NULL)
        self.at("hire")
        have = self.get(STARTED)
        self.go("hired", when=self.compare("uge", have, want))
        thread = self.add(have, 1)
        handle, number = self.slot(thread, HANDLE), self.emit(f"inttoptr i64 {self.text(thread)} to ptr", PTR)
        self.put(0, self.slot(thread, ASLEEP))
        failed = self.call("pthread_create", handle, NULL, Value("@worker", PTR), number)
        self.go("hired", when=self.compare("ne", failed, 0))
        self.call("pthread_detach", self.get(handle))
        self.put(thread, STARTED)
        self.go("hire")
        self.label("hired")
        self.call("pthread_sigmask", set_mask, old, NULL)

    def pin(self, threads: Int, cpu: Value, have: Value, cpus: Value) -> None:
        """New workers, and all where the mask is new, may run where the caller may, but for its own CPU."""
        failed = self.call("sched_getaffinity", Value("0", I32), CPUS // 8, cpus)
        self.go("pinned", when=self.compare("ne", failed, 0))
        self.go("pinned", when=self.compare("uge", cpu, CPUS))
        with self.when(self.compare("sge", self.call("__sched_cpucount", CPUS // 8, cpus), threads)):
            own = self.offset(cpus, self.op("shl", self.op("lshr", cpu, 6), 3))
            bit = self.op("shl", 1, self.op("and", cpu, 63))
            self.put(self.op("and", self.get(own), self.op("xor", bit, -1)), own)
        new = self.compare("ne", self.call("memcmp", cpus, MASK, CPUS // 8), 0)
        first = self.add(self.choose(new, 0, have), 1)
        self.call("memcpy", MASK, cpus, CPUS // 8, result=PTR)
        with self.loop(first, self.add(self.get(STARTED), 1), 1, maybe_empty=True) as thread:
            self.call("pthread_setaffinity_np", self.get(self.slot(thread.index, HANDLE)), CPUS // 8, cpus)
        self.at("pinned")

    def free(self) -> None:
        """The word of a pool that nobody holds: closed, with a new number so that workers look up."""
        word = self.op("and", self.add(self.get(STATE), 1 << REGION), ~(1 << HELD))
        self.put(self.op("or", word, 1 << CLOSED), STATE, "release")

    def release(self) -> None:
        with self.function("cnncc_pool_release", "void", []):
            ours = self.compare("eq", self.call("pthread_self", result=I64), self.get(CALLER))
            with self.when(self.arith("and", self.has(self.get(STATE), HELD), ours)):
                self.free()
            self.line("ret void")

    def forked(self) -> None:
        """In a forked child: no worker, not held, whatever the parent was doing."""
        with self.function("forked", "internal void", []):
            word = self.op("and", self.get(STATE), -1 << REGION)
            self.put(self.op("or", word, 1 << CLOSED), STATE)
            self.put(0, STARTED)
            self.line("ret void")
