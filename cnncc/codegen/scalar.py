"""The code of the scalar functions of `ir.scalars`, by their names, and how elements lie in memory."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.codegen import functions
from cnncc.codegen.emitter import Emitter, Type, Value
from cnncc.codegen.lanes import Lanes
from cnncc.ir.errors import InternalError
from cnncc.ir.scalars import PHILOX
from cnncc.ir.types import HALVES, NUMPY

# ---- integers


def _divisor(x: Lanes, w: Lanes) -> Lanes:
    """w, or 1 where the instruction would trap: dividing by zero, the least number by -1."""
    trap = w.eq(0)
    if x.type.signed:
        trap = trap | (x.eq(x.type.range[0]) & w.eq(-1))
    return trap.where(w.constant(1), w)


def _div(x: Lanes, w: Lanes) -> Lanes:
    if x.type.floating:
        return x / w
    return w.eq(0).where(x.constant(0), x / _divisor(x, w))


def _fmod(x: Lanes, w: Lanes) -> Lanes:
    if x.type.floating:
        return functions.fmod(x, w)
    return w.eq(0).where(x.constant(0), x % _divisor(x, w))


def _mod(x: Lanes, w: Lanes) -> Lanes:
    rest = _fmod(x, w)
    if not (x.type.signed or x.type.floating):
        return rest
    return (rest.ne(0) & (rest < 0).compare("ne", w < 0)).where(rest + w, rest)


def _pow(x: Lanes, w: Lanes) -> Lanes:
    """Integers by squaring: six bits of the exponent, the parity of larger ones."""
    if x.type.floating:
        return functions.pow(x, w)
    odd = (w & 1).ne(0)
    left, result, square = (w > 63).where((w & 1) + 62, w), x.constant(1), x
    for _ in range(6):
        result = (left & 1).ne(0).where(result * square, result)
        left, square = left >> 1, square * square
    if not x.type.signed:
        return result
    unit = x.eq(1).where(x.constant(1), x.eq(-1).where(odd.where(x, 1), 0))
    return (w < 0).where(unit, result)


def _shl(x: Lanes, w: Lanes) -> Lanes:
    return _beyond(x, w).where(x.constant(0), x << w)


def _shr(x: Lanes, w: Lanes) -> Lanes:
    most = w.constant(x.type.bits - 1)
    return x >> _beyond(x, w).where(most, w) if x.type.signed else _beyond(x, w).where(x.constant(0), x >> w)


def _beyond(x: Lanes, w: Lanes) -> Lanes:
    """Whether the bits are shifted out; a negative number counts as a large one."""
    return w.of(w.e.icompare("uge", w.value, w.lift(x.type.bits)))


def _random(*words: Lanes) -> Lanes:
    """Philox4x32-10; the first word's upper 24 bits are the fraction."""
    a, b, c, d, low, high = (w.to("u32") for w in words)
    for _ in range(10):
        p, q = (x.to("u64") * m for x, m in ((a, PHILOX[0]), (c, PHILOX[1])))
        a, b, c, d = (q >> 32).to("u32") ^ b ^ low, q.to("u32"), (p >> 32).to("u32") ^ d ^ high, p.to("u32")
        low, high = low + PHILOX[2], high + PHILOX[3]
    return (a >> 8).to("i32").to("f32") * 2.0 ** -24


# ---- both


def _max(x: Lanes, w: Lanes) -> Lanes:
    return _extreme("max", x, w)


def _min(x: Lanes, w: Lanes) -> Lanes:
    return _extreme("min", x, w)


def _extreme(fn: str, x: Lanes, w: Lanes) -> Lanes:
    if x.type.floating:
        best = (x > w if fn == "max" else x < w).where(x, w)
        return x.isnan().where(x, best)
    if x.type.dtype == "bool":
        return x | w if fn == "max" else x & w
    return x.call(("s" if x.type.signed else "u") + fn, w)


def _sign(x: Lanes) -> Lanes:
    below = (x < 0).where(x.constant(-1), x) if x.type.signed or x.type.floating else x
    return (x > 0).where(x.constant(1), below)


CODE: dict[str, Callable[..., Lanes]] = {
    "add": lambda x, w: x + w, "sub": lambda x, w: x - w, "mul": lambda x, w: x * w, "neg": lambda x: -x,
    "div": _div, "mod": _mod, "fmod": _fmod, "pow": _pow, "max": _max, "min": _min, "abs": abs, "sign": _sign,
    **{r: lambda x, w, r=r: x.compare(r, w) for r in ("lt", "le", "gt", "ge", "eq", "ne")},
    "where": lambda c, x, w: c.where(x, w), "and": lambda x, w: x & w, "or": lambda x, w: x | w,
    "xor": lambda x, w: x ^ w, "invert": lambda x: ~x, "shl": _shl, "shr": _shr,
    "isnan": lambda x: x.isnan(), "isinf": lambda x: abs(x).eq(float("inf")), "sqrt": lambda x: x.sqrt(),
    **{fn: lambda x, i=i: x.call(i) for fn, i in (("floor", "floor"), ("ceil", "ceil"), ("trunc", "trunc"),
                                                  ("round", "roundeven"))},
    "bits32": lambda x: x.bitcast("i32"), "real32": lambda x: x.bitcast("f32"),
    "bits64": lambda x: x.bitcast("i64"), "real64": lambda x: x.bitcast("f64"),
    "random": _random, **functions.FUNCTIONS,
    **{dtype: lambda x, to=dtype: x.to(to) for dtype in NUMPY},
}


def apply(e: Emitter, fn: str, args: list[Value], number: float | None = None) -> Value:
    """A function of `ir.scalars`; the last argument may be a known `number`. Raises InternalError."""
    if fn not in CODE:
        raise InternalError(f"no code for the function {fn}")
    if number is not None and args[0].type.floating:
        if fn in ("max", "min"):        # one instruction that keeps a NaN
            a, b = args
            return e.select(e.fcompare("olt" if fn == "max" else "ogt", a, b), b, a)
        if fn == "pow" and number and abs(number) <= 2 and number * 4 % 1 == 0:
            return functions.quarters(Lanes(e, args[0]), int(number * 4)).value
    return CODE[fn](*(Lanes(e, a) for a in args)).value


def across(e: Emitter, fn: str, v: Value) -> Value:
    """All lanes (a power of two) combined, halves first: always in the same order."""
    n = v.type.lanes
    while n > 1:
        n //= 2
        v = apply(e, fn, [e.shuffle(v, range(n)), e.shuffle(v, range(n, 2 * n))])
    return e.extract(v, 0)


# ---- memory


def stored(type: Type) -> Type:
    """How elements of a type are held in memory: truth values are bytes, halves are moved by their bits."""
    return type.of({"bool": "u8", "f16": "u16", "bf16": "u16"}.get(type.dtype, type.dtype))


def widen(e: Emitter, v: Value, dtype: str) -> Value:
    """What was loaded of a tensor of a dtype, as it is computed with."""
    x = Lanes(e, v)
    return (x.bitcast(dtype) if dtype in HALVES else x.to(dtype)).value


def narrow(e: Emitter, v: Value, dtype: str) -> Value:
    """A value as it is stored in a tensor of a dtype."""
    x, memory = Lanes(e, v), stored(Type(dtype)).dtype
    return (x.bitcast(memory) if dtype in HALVES else x.to(memory)).value
