"""The C interface of a network, as LLVM text: checks of the arguments, the call of the driver, its dispatch.

Of a network called `net` (`embedding/header.py` writes the same for people):

    int net_run([size_t batch,] inputs..., outputs..., counts..., [const void *weights,] void *workspace)
    int net_run_parallel(the same, size_t threads[, callback, void *context])
    int net_supported(void)
    const char *net_strerror(int code)

Where there are several targets these take the best that the CPU has; `net_run_x86_64_v3` and so on run one.
All that run the network have a second name, by which a header calls them: it tells interfaces apart.
Nothing is written but the operands, the workspace, the stack and one word that keeps what the CPU said; a
thread pool, where it is wanted, has its own state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

from cnncc.codegen.cpuid import levels
from cnncc.codegen.driver import ENTRY, flush, restore
from cnncc.codegen.emitter import BOOL, I64, PTR, Emitter, Int, Type, Value
from cnncc.ir.plan import ALIGN, FRAME, Plan
from cnncc.ir.target import Target
from cnncc.ir.types import dtype_called

ABI = 1
"""Version of the C interface: names, arguments and what they mean."""
OWN = "cnncc_"              # begins the names of the driver and the pool: an interface's name takes its place
ALIGNMENT = ALIGN           # of the workspace and the weights
ERRORS = {"CPU": "the CPU lacks the instructions that this code needs",
          "NULL": "an argument is a null pointer",
          "ALIGNMENT": f"the workspace or the weights are not aligned to {ALIGNMENT} bytes",
          "COUNT": "the batch or the number of threads is zero",
          "WEIGHTS": "these are not the weights that belong to this code"}
"""By name what the codes from 1 on mean."""
CODES = {name: i for i, name in enumerate(ERRORS, 1)}
DATA = 16                   # the code of the first signal, a failure that the data of a call decide
POOL = {"pool_acquire": "i64(i64)", "pool_run": "void(ptr, ptr, i64, i64, ptr)", "pool_release": "void()"}
"""The functions of a pool, as `threads.py` describes them, and their types."""
I32 = Type("i32")


@dataclass(frozen=True)
class Variant:
    """The network for one target: `texts` as `Code.texts` gives them, `weights` where its own begin."""

    target: Target
    plan: Plan
    texts: Sequence[tuple[str, str]]
    weights: int

    @property
    def suffix(self) -> str:
        return self.target.level.replace("-", "_")


@dataclass(frozen=True)
class Interface:
    """What the code shall offer; `name` begins every symbol.

    `threads`: none, pthread (with a pool of its own) or callback. `key` are the eight-byte words that begin
    weights that come as an argument; None where they are in the object, read from `file` when it is made.
    """

    name: str
    variants: tuple[Variant, ...]
    threads: str
    key: tuple[int, ...] | None
    file: str

    @property
    def plan(self) -> Plan:
        """What all variants have in common: inputs, outputs, signals."""
        return self.variants[0].plan

    @property
    def counts(self) -> tuple[int, ...]:
        """Which signals are results: how much there is of an output."""
        return tuple(i for i, s in enumerate(self.plan.signals) if s.output is not None)

    @property
    def runs(self) -> tuple[str, ...]:
        """The functions that run the network."""
        return (f"{self.name}_run", *([f"{self.name}_run_parallel"] if self.threads != "none" else []))

    @property
    def levels(self) -> tuple[str, ...]:
        """What the names of the functions of one level end with, where there are several."""
        return tuple(v.suffix for v in self.variants) if len(self.variants) > 1 else ()

    @property
    def work(self) -> int:
        """Bytes of activations per unit of the batch."""
        return max(v.plan.work for v in self.variants)

    @property
    def scratch(self) -> int:
        """Bytes that each thread needs besides; there is always some workspace."""
        return max(ALIGNMENT, *(v.plan.scratch for v in self.variants))

    @property
    def linked(self) -> dict[str, str]:
        """By function that runs the network its name for headers. Equal interfaces give equal names."""
        plan, weights = self.plan, self.key and sum(v.plan.weights for v in self.variants)
        whole = (ABI, self.threads, self.levels, plan.symbol, plan.inputs, plan.shown, self.counts, self.work,
                 self.scratch, weights)
        tag = sha256(repr(whole).encode()).hexdigest()[:8]
        found = (*self.runs, *(f"{run}_{level}" for level in self.levels for run in self.runs))
        return {function: f"{function}_header_{tag}" for function in found}

    @property
    def exports(self) -> tuple[str, ...]:
        """All functions that others see, by their first names."""
        return (*self.linked, f"{self.name}_supported", f"{self.name}_strerror")


def meanings(plan: Plan) -> dict[int, str]:
    """What a call may return, by code."""
    texts = dict(enumerate(("no error", *ERRORS.values())))
    return texts | {DATA + i: s.text for i, s in enumerate(plan.signals) if s.output is None}


class Api(Emitter):
    """The module of the C interface. Kernels and drivers are declared, the weights are in its assembly."""

    def __init__(self, interface: Interface) -> None:
        super().__init__()
        self.interface, self.plan, self.prefix = interface, interface.plan, interface.name
        plan, weights = self.plan, interface.key is not None
        results = [f"y{i}" for i in range(len(plan.shown))] + [f"count{i}" for i in interface.counts]
        self.params = [*([(I64, "batch")] if plan.symbol else []),
                       *((PTR, f"x{i}") for i in range(len(plan.inputs))), *((PTR, y) for y in results),
                       *([(PTR, "weights")] if weights else []), (PTR, "workspace")]
        self.how = [(I64, "threads"), (PTR, "acquire"), (PTR, "parallel"), (PTR, "release"), (PTR, "context")]

    def whole(self) -> str:
        """The text of the module."""
        self.lines.append(f"@{self.prefix}_level = internal global i32 0, align 4")
        if self.interface.key is None:
            self.lines.append(f"@{self.prefix}_weights = external hidden constant [0 x i8]")
        targets = [v.target for v in self.interface.variants]
        levels(self, f"{self.prefix}_levels", f"{self.prefix}_level", targets)
        for bit, v in enumerate(self.interface.variants):
            self.enter(v, bit)
            for run in self.interface.runs:
                self.run(v, f"{run}_{v.suffix}" if self.interface.levels else run, "parallel" in run)
        for run in self.interface.runs if self.interface.levels else ():
            self.dispatch(run, "parallel" in run)
        if self.interface.threads == "callback":
            self.host_pool()
        elif self.interface.threads == "pthread":
            for part, types in POOL.items():
                self.declare(f"{types.replace('(', f' @{self.prefix}_{part}(')}")
        self.supported()
        self.strerror()
        for function, name in self.interface.linked.items():
            types = ", ".join(str(t) for t, _ in (*self.params, *self.more("parallel" in function)))
            self.lines.append(f"@{name} = alias i32 ({types}), ptr @{function}")
        return self.module()

    @contextmanager
    def leaving(self, condition: Value) -> Iterator[None]:
        """Where it holds the body returns."""
        leave, stay = self.name("leave"), self.name("stay")
        self.line(f"br i1 {condition.text}, label %{leave}, label %{stay}")
        self.label(leave)
        yield
        self.label(stay)

    def fail(self, when: Value, code: int) -> None:
        with self.leaving(when):
            self.line(f"ret i32 {code}")

    def enter(self, v: Variant, bit: int) -> None:
        """The function that all that run a variant call: it checks, fills a frame, and calls the driver."""
        name, plan = f"{self.prefix}_{v.suffix}", v.plan
        names = [n for _, n in (*self.params, *self.how)]
        with self.function(f"{name}_enter", "internal i32", [*self.params, *self.how], "nounwind") as given:
            args = dict(zip(names, given, strict=True))
            hidden = {i: self.emit("alloca i64, align 8", PTR) for i, s in enumerate(plan.signals)
                      if s.output is None}
            operands = [args[f"x{i}"] for i in range(len(plan.inputs))]
            operands += [args[f"y{i}"] for i in range(len(plan.shown))]
            operands += [hidden.get(i) or args[f"count{i}"] for i in range(len(plan.signals))]
            frame = self.emit(f"alloca [{len(FRAME) + len(operands)} x i64], align 8", PTR)
            self.fail(self.icompare("eq", self.runnable(1 << bit), Value("false", BOOL)), CODES["CPU"])
            for pointer in (x for x, (type, _) in zip(given, self.params, strict=False) if type == PTR):
                self.fail(self.icompare("eq", pointer, Value("null", PTR)), CODES["NULL"])
            for pointer in (args[n] for n in ("workspace", "weights") if n in args):
                rest = self.rem(self.cast("ptrtoint", pointer, I64), ALIGNMENT)
                self.fail(self.compare("ne", rest, 0), CODES["ALIGNMENT"])
            for number in (args[n] for n in ("batch", "threads") if n in args):
                self.fail(self.compare("slt", number, 1), CODES["COUNT"])
            for i, word in enumerate(self.interface.key or ()):
                self.fail(self.compare("ne", self.load(args["weights"], 8 * i, I64, 8), word),
                          CODES["WEIGHTS"])
            batch: Int = args.get("batch", 1)
            weights = args.get("weights", Value(f"@{self.prefix}_weights", PTR))
            slots = {**args, "batch": batch, "first": 0, "last": len(plan.steps), "state": 0,
                     "work": args["workspace"],
                     "scratch": self.offset(args["workspace"], self.mul(batch, plan.work)),
                     "weights": self.offset(weights, v.weights)}
            for i, x in enumerate([*(slots[n] for n in FRAME), *operands]):
                self.store(x if isinstance(x, Value) else Value(str(x), I64), frame, 8 * i, 8)
            driver = f"@{name}_{ENTRY.removeprefix(OWN)}"
            self.declare(f"i64 {driver}(ptr)")
            self.emit(f"call i64 {driver}(ptr {frame.text})", I64)
            for i, place in hidden.items():
                type = Type(f"u{8 * dtype_called(plan.outputs[len(plan.shown) + i].dtype).itemsize}")
                self.fail(self.icompare("ne", self.load(place, 0, type, 1), Value("0", type)), DATA + i)
            self.line("ret i32 0")

    def runnable(self, bits: int) -> Value:
        """Whether the CPU can run any of these variants."""
        found = self.arith("and", self.emit(f"call i32 @{self.prefix}_levels()", I32), _i32(bits))
        return self.icompare("ne", found, _i32(0))

    def more(self, parallel: bool) -> list[tuple[Type, str]]:
        """The parameters that a function for several threads has besides."""
        callback = [(PTR, "parallel"), (PTR, "context")] if self.interface.threads == "callback" else []
        return [(I64, "threads"), *callback] if parallel else []

    def host_pool(self) -> None:
        """A pool's three functions over one of the host, whose callback and context are at `context`.

        The host is given a task of ours, which flushes denormals around a kernel as our own workers do.
        """
        with self.function(f"{self.prefix}_pool_acquire", "internal i64", [(I64, "threads")], "nounwind"):
            self.line("ret i64 %threads")
        with self.function(f"{self.prefix}_pool_release", "internal void", [], "nounwind"):
            self.line("ret void")
        numbers = [(I64, "begin"), (I64, "end"), (I64, "thread")]
        with self.function(f"{self.prefix}_task", "internal void", [(PTR, "job"), *numbers], "nounwind") as (
                job, *rest):
            state = self.emit("alloca i32, align 4", PTR)
            kernel, args = (self.load(job, at, PTR, 8) for at in (0, 8))
            old = flush(self, state)
            listed = ", ".join(x.typed for x in (args, *rest))
            self.line(f"call void {kernel.text}({listed})")
            restore(self, state, old)
            self.line("ret void")
        params = [(PTR, "kernel"), (PTR, "args"), (I64, "tasks"), (I64, "threads"), (PTR, "host")]
        with self.function(f"{self.prefix}_pool_run", "internal void", params, "nounwind") as (
                kernel, args, tasks, threads, host):
            job = self.pair(kernel, args)
            callback, context = (self.load(host, at, PTR, 8) for at in (0, 8))
            self.line(f"call void {callback.text}(ptr @{self.prefix}_task, {job.typed}, {tasks.typed}, "
                      f"{threads.typed}, {context.typed})")
            self.line("ret void")

    def pair(self, *pointers: Value) -> Value:
        """Two pointers on the stack."""
        place = self.emit("alloca [2 x ptr], align 8", PTR)
        for i, p in enumerate(pointers):
            self.store(p, place, 8 * i, 8)
        return place

    def run(self, v: Variant, name: str, parallel: bool) -> None:
        """What others call to run a variant."""
        more = self.more(parallel)
        with self.function(name, "i32", [*self.params, *more], "nounwind") as given:
            own = given[:len(self.params)]
            how = [Value("1", I64), *[Value("null", PTR)] * 4]
            if parallel:
                threads, *host = given[len(self.params):]
                pool = [Value(f"@{self.prefix}_{part}", PTR) for part in POOL]
                how = [threads, *pool, self.pair(*host) if host else Value("null", PTR)]
                for callback in host[:1]:
                    self.fail(self.icompare("eq", callback, Value("null", PTR)), CODES["NULL"])
            listed = ", ".join(x.typed for x in (*own, *how))
            result = self.emit(f"call i32 @{self.prefix}_{v.suffix}_enter({listed})", I32)
            self.line(f"ret {result.typed}")

    def dispatch(self, run: str, parallel: bool) -> None:
        """Call the variant for the best level that the CPU has."""
        params = [*self.params, *self.more(parallel)]
        listed = ", ".join(f"{t} %{n}" for t, n in params)
        with self.function(run, "i32", params, "nounwind"):
            for bit, v in enumerate(self.interface.variants):
                with self.leaving(self.runnable(1 << bit)):
                    result = self.emit(f"call i32 @{run}_{v.suffix}({listed})", I32)
                    self.line(f"ret {result.typed}")
            self.line("ret i32 1")

    def supported(self) -> None:
        with self.function(f"{self.prefix}_supported", "i32", [], "nounwind"):
            some = self.runnable((1 << len(self.interface.variants)) - 1)
            self.line(f"ret {self.cast('zext', some, I32).typed}")

    def strerror(self) -> None:
        """The texts are constants of the module."""
        texts = meanings(self.plan)
        for code, text in [*texts.items(), ("", "unknown error")]:
            data = text.encode() + b"\0"
            self.lines.append(f'@{self.prefix}_text{code} = private unnamed_addr constant [{len(data)} x i8] '
                              f'c"{quoted(data)}"')
        with self.function(f"{self.prefix}_strerror", "ptr", [(I32, "code")], "nounwind"):
            cases = " ".join(f"i32 {code}, label %case{code}" for code in texts)
            self.line(f"switch i32 %code, label %unknown [ {cases} ]")
            for code in texts:
                self.label(f"case{code}")
                self.line(f"ret ptr @{self.prefix}_text{code}")
            self.label("unknown")
            self.line(f"ret ptr @{self.prefix}_text")


def weights(interface: Interface) -> str:
    """The text of a module with the weights' file as data."""
    symbol, path = f"{interface.name}_weights", interface.file.replace("\\", r"\\").replace('"', r'\"')
    lines = [f'.section .rodata.{symbol},"a",@progbits', f".balign {ALIGNMENT}", f".type {symbol}, @object",
             f"{symbol}:", f'.incbin "{path}"', f".size {symbol}, .-{symbol}", ".text"]
    return "".join(f'module asm "{quoted(line)}"\n' for line in lines)


def _i32(number: int) -> Value:
    return Value(str(number), I32)


def quoted(text: str | bytes) -> str:
    """What stands between the quotes of a string of LLVM's."""
    data = text.encode() if isinstance(text, str) else text
    return "".join(chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\{b:02X}" for b in data)
