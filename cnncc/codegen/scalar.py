"""Scalar functions on LLVM vectors: arithmetic, max and min that keep NaN, and polynomials (no libm)."""

from __future__ import annotations

from cnncc.codegen.emitter import Emitter, Value
from cnncc.ir.errors import InternalError

ARITHMETIC = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def apply(e: Emitter, fn: str, args: list[Value], constant: bool = False) -> Value:
    """A function of ir.expr.FUNCTIONS; `constant`: max or min against a number. Raises InternalError."""
    a = args[0]
    if fn in ARITHMETIC:
        return e.arith(ARITHMETIC[fn], a, args[1])
    match fn:
        case "max" | "min":
            return _extreme(e, fn, a, args[1], constant)
        case "neg":
            return _negated(e, a)
        case "exp":
            return exp(e, a)
        case "sqrt" | "abs":
            return e.intrinsic("sqrt" if fn == "sqrt" else "fabs", a)
        case "sigmoid":
            one = e.constant(1, a.type)
            return e.arith("fdiv", one, e.arith("fadd", one, exp(e, _negated(e, a))))
    raise InternalError(f"no code for the function {fn}")


def _negated(e: Emitter, a: Value) -> Value:
    return e.emit(f"fneg {a.typed}", a.type)


def _extreme(e: Emitter, fn: str, a: Value, b: Value, constant: bool) -> Value:
    if constant:            # one instruction that keeps a NaN of `a`
        return e.select(e.fcompare("olt" if fn == "max" else "ogt", a, b), b, a)
    best = e.select(e.fcompare("ogt" if fn == "max" else "olt", a, b), a, b)
    return e.select(e.fcompare("uno", a, a), a, best)


def exp(e: Emitter, x: Value) -> Value:
    """exp in f32 within 2 ulp: Cody-Waite reduction, polynomial (Cephes expf); 0 and inf out of range."""
    t = x.type
    def c(v: float) -> Value:
        return e.constant(v, t)
    ints = t.of("i32")
    clamped = e.select(e.fcompare("ogt", x, c(89.0)), c(89.0), x)
    clamped = e.select(e.fcompare("olt", clamped, c(-88.5)), c(-88.5), clamped)
    magic = c(12582912.0)                                       # 1.5 * 2**23: adding it rounds to an integer
    z = e.fma(clamped, c(1.44269504088896341), magic)
    n = e.arith("fsub", z, magic)
    r = e.fma(n, c(-0.693359375), clamped)
    r = e.fma(n, c(2.12194440e-4), r)
    p = c(1.9875691500e-4)
    for k in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        p = e.fma(p, r, c(k))
    p = e.arith("fadd", e.fma(e.arith("fmul", r, r), p, r), c(1))
    # 2**n in two steps, because n reaches 128
    whole = e.arith("sub", e.cast("bitcast", z, ints), e.constant(0x4B400000, ints))
    half = e.arith("ashr", whole, e.constant(1, ints))
    for part in (half, e.arith("sub", whole, half)):
        bits = e.arith("shl", e.arith("add", part, e.constant(127, ints)), e.constant(23, ints))
        p = e.arith("fmul", p, e.cast("bitcast", bits, t))
    p = e.select(e.fcompare("olt", x, c(-87.33655)), c(0), p)
    p = e.select(e.fcompare("ogt", x, c(88.72284)), c(float("inf")), p)
    return e.select(e.fcompare("uno", x, x), x, p)


def across(e: Emitter, fn: str, v: Value) -> Value:
    """All lanes (a power of two) combined, halves first: always in the same order."""
    n = v.type.lanes
    while n > 1:
        n //= 2
        v = apply(e, fn, [e.shuffle(v, range(n)), e.shuffle(v, range(n, 2 * n))])
    return e.extract(v, 0)
