"""The one module that knows LLVM's syntax: typed values, loops with carried values, loads and stores as text.

Python integers stand for i64 constants and fold; everything else is a `Value`. No optimization pipeline runs
over the text, so it is written as it shall run: loop-carried values are phis, offsets constants.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeAlias

LLVM = {"f16": "half", "bf16": "i16", "f32": "float", "f64": "double", "bool": "i1", "ptr": "ptr"} | {
    f"{sign}{bits}": f"i{bits}" for sign in "iu" for bits in (8, 16, 32, 64)}
BITS = {name: int(name[1:]) for name in LLVM if name[1:].isdigit()}
MASKED = 512                # bits of the vectors whose masks cost nothing


@dataclass(frozen=True)
class Type:
    """An element type and a number of lanes (0: a scalar)."""

    dtype: str
    lanes: int = 0

    def __str__(self) -> str:
        return self.text

    @cached_property
    def text(self) -> str:
        return f"<{self.lanes} x {LLVM[self.dtype]}>" if self.lanes else LLVM[self.dtype]

    @cached_property
    def mangled(self) -> str:
        name = self.dtype if self.floating else LLVM[self.dtype]
        return f"v{self.lanes}{name}" if self.lanes else name

    @property
    def floating(self) -> bool:
        return self.dtype[0] == "f"

    @property
    def signed(self) -> bool:
        return self.dtype[0] == "i"

    @property
    def bits(self) -> int:
        """The width of a number."""
        return BITS[self.dtype]

    @property
    def range(self) -> tuple[int, int]:
        """The least and the greatest integer."""
        return (-1 << self.bits - 1, (1 << self.bits - 1) - 1) if self.signed else (0, (1 << self.bits) - 1)

    def of(self, dtype: str) -> Type:
        return self if dtype == self.dtype else Type(dtype, self.lanes)


I64, PTR, BOOL = Type("i64"), Type("ptr"), Type("bool")


@dataclass(frozen=True, slots=True)
class Value:
    """An LLVM value: the text that names it, without its type."""

    text: str
    type: Type

    @property
    def typed(self) -> str:
        return f"{self.type.text} {self.text}"


Int: TypeAlias = int | Value
"""An i64: a Python integer where it is known."""


@dataclass(slots=True)
class Loop:
    """A running loop: `index` and the carried values of this turn; set `next` before it closes."""

    index: Value
    values: list[Value]
    next: list[Value] = field(default_factory=list)


class Emitter:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.declared: dict[str, None] = {}
        self.block = "entry"
        self._n = 0

    # ---- plumbing

    def name(self, hint: str = "v") -> str:
        self._n += 1
        return f"{hint}{self._n}"

    def emit(self, text: str, type: Type) -> Value:
        self._n += 1
        self.lines.append(f"  %v{self._n} = {text}")
        return Value(f"%v{self._n}", type)

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def label(self, name: str) -> None:
        self.lines.append(f"{name}:")
        self.block = name

    def declare(self, text: str) -> None:
        self.declared[f"declare {text}"] = None

    @contextmanager
    def function(self, name: str, result: str, params: Sequence[tuple[Type, str]],
                 attributes: str = "") -> Iterator[list[Value]]:
        """A function; its parameters as values. The caller emits the `ret`."""
        listed = ", ".join(f"{t} %{n}" for t, n in params)
        self.lines.append(f"define {result} @{name}({listed}) {attributes} {{")
        self.label("entry")
        yield [Value(f"%{n}", t) for t, n in params]
        self.lines.append("}")

    def module(self) -> str:
        return "\n".join([*self.lines, *self.declared]) + "\n"

    # ---- integers

    def text(self, x: Int) -> str:
        return str(x) if isinstance(x, int) else x.text

    def _binary(self, op: str, a: Int, b: Int) -> Value:
        return self.emit(f"{op} i64 {self.text(a)}, {self.text(b)}", I64)

    def add(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a + b
        return a if b == 0 else b if a == 0 else self._binary("add nsw", a, b)

    def sub(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a - b
        return a if b == 0 else self._binary("sub nsw", a, b)

    def mul(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a * b
        if a == 0 or b == 0:
            return 0
        return a if b == 1 else b if a == 1 else self._binary("mul nsw", a, b)

    def div(self, a: Int, b: Int) -> Int:
        """Division of numbers that aren't negative, towards zero."""
        if isinstance(a, int) and isinstance(b, int):
            return a // b
        return a if b == 1 else self._binary("udiv", a, b)

    def rem(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return a % b
        return 0 if b == 1 else self._binary("urem", a, b)

    def compare(self, predicate: str, a: Int, b: Int) -> Value:
        return self.emit(f"icmp {predicate} i64 {self.text(a)}, {self.text(b)}", BOOL)

    def least(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return min(a, b)
        c = self.compare("slt", a, b)
        return self.emit(f"select i1 {c.text}, i64 {self.text(a)}, i64 {self.text(b)}", I64)

    def greatest(self, a: Int, b: Int) -> Int:
        if isinstance(a, int) and isinstance(b, int):
            return max(a, b)
        c = self.compare("sgt", a, b)
        return self.emit(f"select i1 {c.text}, i64 {self.text(a)}, i64 {self.text(b)}", I64)

    # ---- control

    @contextmanager
    def loop(self, low: Int, high: Int, step: int, carry: Sequence[Value] = (),
             maybe_empty: bool = False) -> Iterator[Loop]:
        """Counts from `low` while below `high`; after it `loop.values` are the final carried values."""
        before, head, done = self.block, self.name("loop"), self.name("done")
        if maybe_empty:
            some = self.compare("slt", low, high)
            self.line(f"br i1 {some.text}, label %{head}, label %{done}")
        else:
            self.line(f"br label %{head}")
        self.label(head)
        index = Value(f"%{self.name('i')}", I64)
        values = [Value(f"%{self.name('c')}", v.type) for v in carry]
        place = len(self.lines)
        self.lines.extend([""] * (1 + len(values)))
        frame = Loop(index, values)
        yield frame
        following = self.add(index, step)
        more = self.compare("slt", following, high)
        latch = self.block
        self.line(f"br i1 {more.text}, label %{head}, label %{done}")
        phis = [(index, self.text(low), self.text(following))]
        phis += [(v, a.text, b.text) for v, a, b in zip(values, carry, frame.next, strict=True)]
        for i, (v, first, again) in enumerate(phis, place):
            self.lines[i] = f"  {v.text} = phi {v.type} [{first}, %{before}], [{again}, %{latch}]"
        self.label(done)
        frame.values = list(frame.next)
        if maybe_empty:
            frame.values = [self.emit(f"phi {a.type} [{a.text}, %{before}], [{b.text}, %{latch}]", a.type)
                            for a, b in zip(carry, frame.next, strict=True)]

    @contextmanager
    def when(self, condition: Value) -> Iterator[None]:
        """Runs its body where the condition holds; nothing is carried out."""
        then, done = self.name("then"), self.name("done")
        self.line(f"br i1 {condition.text}, label %{then}, label %{done}")
        self.label(then)
        yield
        self.line(f"br label %{done}")
        self.label(done)

    # ---- memory

    def offset(self, pointer: Value, nbytes: Int) -> Value:
        if nbytes == 0:
            return pointer
        return self.emit(f"getelementptr i8, {pointer.typed}, i64 {self.text(nbytes)}", PTR)

    def load(self, pointer: Value, nbytes: Int, type: Type, align: int) -> Value:
        p = self.offset(pointer, nbytes)
        return self.emit(f"load {type}, {p.typed}, align {align}", type)

    def store(self, value: Value, pointer: Value, nbytes: Int, align: int) -> None:
        p = self.offset(pointer, nbytes)
        self.line(f"store {value.typed}, {p.typed}, align {align}")

    def mask(self, type: Type, active: Collection[int]) -> Value:
        bits = ", ".join("i1 true" if i in active else "i1 false" for i in range(type.lanes))
        return Value(f"<{bits}>", type.of("bool"))

    def masked_load(self, pointer: Value, nbytes: Int, type: Type, active: Collection[int],
                    align: int) -> Value:
        """The `active` lanes of memory, zero in the others, which are not touched."""
        p, m = self.offset(pointer, nbytes), self.mask(type, active)
        f = f"@llvm.masked.load.{type.mangled}.p0"
        self.declare(f"{type} {f}(ptr, i32, {m.type}, {type})")
        return self.emit(f"call {type} {f}({p.typed}, i32 {align}, {m.typed}, {type} zeroinitializer)", type)

    def store_first(self, value: Value, pointer: Value, nbytes: Int, count: int, align: int) -> None:
        """The first lanes of a vector: in pieces, because masked stores are slow without AVX-512."""
        if value.type.lanes * value.type.bits == MASKED and count < value.type.lanes:
            p, m = self.offset(pointer, nbytes), self.mask(value.type, range(count))
            f = f"@llvm.masked.store.{value.type.mangled}.p0"
            self.declare(f"void {f}({value.type}, ptr, i32, {m.type})")
            self.line(f"call void {f}({value.typed}, {p.typed}, i32 {align}, {m.typed})")
            return
        done = 0
        for size in (1 << bit for bit in reversed(range(count.bit_length())) if count >> bit & 1):
            lanes = range(done, done + size)
            part = value if size == value.type.lanes else self.shuffle(value, lanes) if size > 1 \
                else self.extract(value, done)
            self.store(part, pointer, self.add(nbytes, done * align), align)
            done += size

    def opaque(self, pointer: Value) -> Value:
        """The same pointer, about which LLVM knows nothing: so it can't merge loads into long live ranges."""
        return self.emit(f'call ptr asm "", "=r,0"(ptr {pointer.text})', PTR)

    def prefetch(self, pointer: Value, nbytes: Int, near: bool = True) -> None:
        """Ask for what will be read, `near` soon, else into L2."""
        self.declare("void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        p = self.offset(pointer, nbytes)
        self.line(f"call void @llvm.prefetch.p0({p.typed}, i32 0, i32 {3 if near else 2}, i32 1)")

    # ---- floating point and vectors

    def constant(self, value: float, type: Type) -> Value:
        """A number in all lanes; among integers infinity is the end of their range."""
        if type.dtype == "f32":
            value = struct.unpack("<f", struct.pack("<f", value))[0]
        if type.floating:
            body = f"0x{struct.pack('>d', value).hex().upper()}"
        elif type.dtype == "bool":
            body = str(value > 0).lower()
        else:
            low, high = type.range
            body = str(int(min(max(value, low), high)))
        return Value(f"splat ({LLVM[type.dtype]} {body})" if type.lanes else body, type)

    def splat(self, scalar: Value, type: Type) -> Value:
        if not type.lanes:
            return scalar
        one = self.emit(f"insertelement {type} poison, {scalar.typed}, i64 0", type)
        zeros = f"<{type.lanes} x i32> zeroinitializer"
        return self.emit(f"shufflevector {one.typed}, {type} poison, {zeros}", type)

    def insert(self, vector: Value, scalar: Value, lane: int) -> Value:
        return self.emit(f"insertelement {vector.typed}, {scalar.typed}, i64 {lane}", vector.type)

    def extract(self, vector: Value, lane: int) -> Value:
        return self.emit(f"extractelement {vector.typed}, i64 {lane}", Type(vector.type.dtype))

    def shuffle(self, vector: Value, lanes: Sequence[int], other: Value | None = None) -> Value:
        """These lanes of a vector; those of an `other` are counted after its own."""
        t = Type(vector.type.dtype, len(lanes))
        order = f"<{t.lanes} x i32> <{', '.join(f'i32 {i}' for i in lanes)}>"
        second = other.typed if other else f"{vector.type} poison"
        return self.emit(f"shufflevector {vector.typed}, {second}, {order}", t)

    def arith(self, op: str, a: Value, b: Value) -> Value:
        return self.emit(f"{op} {a.typed}, {b.text}", a.type)

    def fcompare(self, predicate: str, a: Value, b: Value) -> Value:
        return self.emit(f"fcmp {predicate} {a.typed}, {b.text}", a.type.of("bool"))

    def icompare(self, predicate: str, a: Value, b: Value) -> Value:
        return self.emit(f"icmp {predicate} {a.typed}, {b.text}", a.type.of("bool"))

    def select(self, condition: Value, a: Value, b: Value) -> Value:
        return self.emit(f"select {condition.typed}, {a.typed}, {b.typed}", a.type)

    def intrinsic(self, name: str, *args: Value) -> Value:
        t = args[0].type
        self.declare(f"{t} @llvm.{name}.{t.mangled}({', '.join(str(a.type) for a in args)})")
        return self.emit(f"call {t} @llvm.{name}.{t.mangled}({', '.join(a.typed for a in args)})", t)

    def fma(self, a: Value, b: Value, c: Value) -> Value:
        if c.type.floating:
            return self.intrinsic("fmuladd", a, b, c)
        return self.arith("add", self.arith("mul", a, b), c)

    def saturate(self, a: Value, type: Type) -> Value:
        """A float as an integer: cut to its range, NaN is zero."""
        name = f"@llvm.fpto{'s' if type.signed else 'u'}i.sat.{type.mangled}.{a.type.mangled}"
        self.declare(f"{type} {name}({a.type})")
        return self.emit(f"call {type} {name}({a.typed})", type)

    def cast(self, op: str, a: Value, type: Type) -> Value:
        return self.emit(f"{op} {a.typed} to {type}", type)
