"""Values with operators, for writing scalar functions: instructions are chosen by the element type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cnncc.codegen.emitter import Emitter, Type, Value
from cnncc.ir.types import HALVES

Operand: TypeAlias = "Lanes | float"
ORDERED = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
BITS_OF = {"f32": "i32", "f64": "i64"}


@dataclass(frozen=True, slots=True, eq=False)
class Lanes:
    """A value (a vector or a scalar); a number beside it is a constant of its type."""

    e: Emitter
    value: Value

    @property
    def type(self) -> Type:
        return self.value.type

    def lift(self, x: Operand) -> Value:
        return x.value if isinstance(x, Lanes) else self.e.constant(x, self.type)

    def of(self, value: Value) -> Lanes:
        return Lanes(self.e, value)

    def constant(self, x: float) -> Lanes:
        return self.of(self.lift(x))

    # ---- arithmetic

    def _arith(self, op: str, x: Operand) -> Lanes:
        return self.of(self.e.arith("f" + op if self.type.floating else op, self.value, self.lift(x)))

    def __add__(self, x: Operand) -> Lanes:
        return self._arith("add", x)

    def __sub__(self, x: Operand) -> Lanes:
        return self._arith("sub", x)

    def __rsub__(self, x: float) -> Lanes:
        return self.constant(x) - self

    def __mul__(self, x: Operand) -> Lanes:
        return self._arith("mul", x)

    def __truediv__(self, x: Operand) -> Lanes:
        return self._arith("div" if self.type.floating else "sdiv" if self.type.signed else "udiv", x)

    def __rtruediv__(self, x: float) -> Lanes:
        return self.constant(x) / self

    def __mod__(self, x: Operand) -> Lanes:
        """What an integer division leaves, with the sign of the dividend."""
        return self._arith("srem" if self.type.signed else "urem", x)

    def __neg__(self) -> Lanes:
        if self.type.floating:
            return self.of(self.e.emit(f"fneg {self.value.typed}", self.type))
        return 0 - self

    def fma(self, x: Operand, y: Operand) -> Lanes:
        """self * x + y, rounded once."""
        return self.of(self.e.fma(self.value, self.lift(x), self.lift(y)))

    def poly(self, coefficients: Sequence[float]) -> Lanes:
        """The polynomial with these coefficients, the constant first, by Horner's rule."""
        result = self.constant(coefficients[-1])
        for c in coefficients[-2::-1]:
            result = result.fma(self, c)
        return result

    def call(self, intrinsic: str, *args: Operand) -> Lanes:
        return self.of(self.e.intrinsic(intrinsic, self.value, *map(self.lift, args)))

    def __abs__(self) -> Lanes:
        if self.type.floating:
            return self.call("fabs")
        return (self < 0).where(-self, self) if self.type.signed else self

    def sqrt(self) -> Lanes:
        return self.call("sqrt")

    def signed_as(self, x: Lanes) -> Lanes:
        """This magnitude with the sign of x."""
        return self.call("copysign", x)

    # ---- bits

    def __and__(self, x: Operand) -> Lanes:
        return self.of(self.e.arith("and", self.value, self.lift(x)))

    def __or__(self, x: Operand) -> Lanes:
        return self.of(self.e.arith("or", self.value, self.lift(x)))

    def __xor__(self, x: Operand) -> Lanes:
        return self.of(self.e.arith("xor", self.value, self.lift(x)))

    def __invert__(self) -> Lanes:
        return self ^ (1 if self.type.dtype == "bool" else self.type.range[1] if not self.type.signed else -1)

    def __lshift__(self, x: Operand) -> Lanes:
        return self.of(self.e.arith("shl", self.value, self.lift(x)))

    def __rshift__(self, x: Operand) -> Lanes:
        return self.of(self.e.arith("ashr" if self.type.signed else "lshr", self.value, self.lift(x)))

    def bitcast(self, dtype: str) -> Lanes:
        return self.of(self.e.cast("bitcast", self.value, self.type.of(dtype)))

    # ---- comparisons and choice

    def compare(self, relation: str, x: Operand) -> Lanes:
        """`lt`, `le`, `gt`, `ge`, `eq` or `ne`; with a NaN only `ne` is true."""
        b = self.lift(x)
        if self.type.floating:
            return self.of(self.e.fcompare(ORDERED[relation], self.value, b))
        sign = "" if relation in ("eq", "ne") else "s" if self.type.signed else "u"
        return self.of(self.e.icompare(sign + relation, self.value, b))

    def __lt__(self, x: Operand) -> Lanes:
        return self.compare("lt", x)

    def __le__(self, x: Operand) -> Lanes:
        return self.compare("le", x)

    def __gt__(self, x: Operand) -> Lanes:
        return self.compare("gt", x)

    def __ge__(self, x: Operand) -> Lanes:
        return self.compare("ge", x)

    def eq(self, x: Operand) -> Lanes:
        return self.compare("eq", x)

    def ne(self, x: Operand) -> Lanes:
        return self.compare("ne", x)

    def isnan(self) -> Lanes:
        return self.of(self.e.fcompare("uno", self.value, self.value))

    def where(self, a: Lanes, b: Operand) -> Lanes:
        """a where this holds, else b."""
        return self.of(self.e.select(self.value, a.value, a.lift(b)))

    # ---- types

    def _rounded(self) -> Lanes:
        """The upper half of a float's bits, rounded to nearest even; a NaN stays one."""
        bits = self.bitcast("u32")
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        return self.isnan().where((bits >> 16) | 0x40, nearest).to("u16")

    def to(self, dtype: str) -> Lanes:
        """The same number in another dtype: integers wrap, floats saturate, everything but zero is true."""
        a, t = self.type, self.type.of(dtype)
        if a == t:
            return self
        if (a.dtype in HALVES or dtype in HALVES) and "f32" not in (a.dtype, dtype):
            return self.to("f32").to(dtype)
        if a.dtype == "bf16":
            return (self.bitcast("u16").to("u32") << 16).bitcast("f32")
        if dtype == "bf16":
            return self._rounded().bitcast("bf16")
        if dtype == "bool":
            return self.ne(0)
        if a.floating and not t.floating:
            return self.of(self.e.saturate(self.value, t))
        if a.floating:
            op = "fpext" if a.bits < t.bits else "fptrunc"
        elif t.floating:
            op = "sitofp" if a.signed else "uitofp"
        elif a.dtype == "bool" or a.bits < t.bits:
            op = "sext" if a.signed else "zext"
        else:
            op = "trunc" if a.bits > t.bits else "bitcast"
        return self.of(self.e.cast(op, self.value, t))
