"""exp, log, sine and the like on vectors, without calls: range reduction, then a polynomial.

The methods are those of Cephes (exp, atan, erf's two ranges in f64), fdlibm (log, log1p, expm1), and Cody and
Waite (reduction by a constant in parts). Polynomials are series, or minimax fits where they have digits,
found by `tools/minimax.py`. Functions that networks rarely compute are
written for f64 alone and compute f32 in it.
Denormal numbers count as zero, as everywhere in compiled code.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce, wraps

from cnncc.codegen.lanes import BITS_OF, Lanes

INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Format:
    """The constants of a floating-point type; `ln2` in two parts, the first with few bits."""

    fraction: int           # bits
    bias: int
    ln2: tuple[float, float]
    limit: tuple[float, float]      # exp beyond isn't a normal number
    exp: tuple[float, ...]          # (exp(r) - 1 - r) / r**2
    log: tuple[float, ...]          # 2 atanh(s) / s**3 - 2 / s**2, in s**2
    erf: tuple[float, ...]          # erf(x) / x in x**2, up to 1, or over `under` up to `far`
    under: tuple[float, ...]
    erfc: tuple[float, ...]         # erfc(x) exp(x**2) in 1 / (1 + x/2), from 1 to `far`
    far: float                      # where erf is 1

    @property
    def magic(self) -> float:
        """Adding it rounds to an integer, which is in the low bits then."""
        return 1.5 * 2.0 ** self.fraction

    @property
    def magic_bits(self) -> int:
        return (self.bias + self.fraction << self.fraction) + (1 << self.fraction - 1)


FORMATS = {
    "f32": Format(
        23, 127, (0.693359375, -2.12194440e-4), (-87.33654, 88.72283),
        (4.999999344e-01, 1.666652062e-01, 4.166838926e-02, 8.368717895e-03, 1.381454765e-03),
        tuple(2 / (2 * k + 1) for k in range(1, 6)),
        (1.128379146e+00, 1.904093197e-01, 5.274908806e-02, 3.765733560e-03, 2.848843615e-04,
         2.050053960e-06),
        (1.0, 5.020786067e-01, 1.141102790e-01, 1.496945400e-02, 1.162561756e-03, 3.809145186e-05),
        (), 3.92),
    "f64": Format(
        52, 1023, (6.93147180369123816490e-1, 1.90821492927058770002e-10),
        (-708.3964185322641, 709.782712893384),
        tuple(1 / math.factorial(k) for k in range(2, 14)),
        tuple(2 / (2 * k + 1) for k in range(1, 12)),
        (1.12837916709551256e+00, -3.76126389031835484e-01, 1.12837916709452535e-01,
         -2.68661706432762187e-02, 5.22397760742346774e-03, -8.54832598969675755e-04,
         1.20552953204942936e-04, -1.49247446633354889e-05, 1.64475176778718728e-06,
         -1.62091759117486956e-07, 1.37229762659245037e-08, -7.80118887409775117e-10),
        (),
        (-3.13064746869806819e-06, 2.82188707631204516e-01, 2.80816281418022506e-01,
         2.57312008742633214e-01, 1.18591526123399640e-01, 3.08997830514738725e-01,
         -6.42469674559639548e-01, 1.25958298008463987e+00, -1.99541256576995729e+00,
         1.94295103788356793e+00, -1.12600811548511337e+00, 3.65242933898489497e-01,
         -5.17904181008959075e-02),
        6.0)}
ATAN = (-3.33333333333332316e-01, 1.99999999999616845e-01, -1.42857142808836823e-01,
        1.11111108135208927e-01, -9.09089853282863819e-02, 7.69207278929680272e-02,
        -6.66323603610294857e-02, 5.84878456622363596e-02, -5.04309340959189292e-02,
        3.81555218310447308e-02, -1.80018154453222834e-02)
"""(atan(t) - t) / t**3 in t**2, up to tan(pi / 8)."""
SIN = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(1, 9))
COS = tuple((-1) ** k / math.factorial(2 * k) for k in range(1, 9))
HALF_PI = (1.5707963267948966, 6.123233995736766e-17, -1.4973849048591833e-33)
"""pi / 2 in three parts."""
TURNS = 2.0 ** 50           # quarter turns up to which an angle is exact; beyond them it counts as 0


def _format(x: Lanes) -> Format:
    return FORMATS[x.type.dtype]


def _in_f64(f: Callable[..., Lanes]) -> Callable[..., Lanes]:
    """The function, computed in f64 for every float type."""
    @wraps(f)
    def wide(*args: Lanes) -> Lanes:
        return f(*(x.to("f64") for x in args)).to(args[0].type.dtype)
    return wide


# ---- exp and what is made of it


def _round(x: Lanes, scale: float) -> tuple[Lanes, Lanes]:
    """x * scale rounded to an integer, and that plus the magic number, whose low bits are the integer."""
    magic = _format(x).magic
    z = x.fma(scale, magic)
    return z - magic, z


def _reduced(x: Lanes) -> tuple[Lanes, Lanes]:
    """(exp(r) - 1, z): x is r + n ln 2, the integer n in the low bits of z, where that fits."""
    f = _format(x)
    n, z = _round(x, math.log2(math.e))
    r = n.fma(-f.ln2[0], x)
    r = n.fma(-f.ln2[1], r)
    return (r * r).fma(r.poly(f.exp), r), z


def _exponent(z: Lanes) -> Lanes:
    """The integer in the low bits of z in the place of an exponent."""
    return z.bitcast(BITS_OF[z.type.dtype]) << _format(z).fraction


def _power(z: Lanes, below: int = 0) -> Lanes:
    """2**(n - below) of the integer n in the low bits of z, within the range of exponents."""
    f = _format(z)
    return (_exponent(z) + ((f.bias - below) << f.fraction)).bitcast(z.type.dtype)


def exp(x: Lanes) -> Lanes:
    """0 and infinity out of range; near its end 2**n is too large: exponents are added."""
    low, high = _format(x).limit
    p, z = _reduced(x)
    bits = (p + 1).bitcast(BITS_OF[x.type.dtype])
    y = (bits + _exponent(z)).bitcast(x.type.dtype)
    y = (x < low).where(x.constant(0), y)
    return (x <= high).where(y, x + INF)


def expm1(x: Lanes) -> Lanes:
    """2**n (exp(r) - 1) + 2**n - 1, halved because 2**n may be too large; -1 from -50 on."""
    p, z = _reduced((x < -50).where(x.constant(-50), x))
    half = _power(z, 1)
    y = half.fma(p, half - 0.5)
    return (x <= _format(x).limit[1]).where(y + y, x + INF)


def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + exp(-x)), x cut to where 2**n is normal: beyond, the result is 0 or 1."""
    low, high = (-limit for limit in _format(x).limit)
    x = (x > low).where(x.constant(low), x)
    x = (x < high + 0.5).where(x.constant(high + 0.5), x)
    p, z = _reduced(-x)
    e = _power(z)
    return 1 / e.fma(p, e + 1)


def tanh(x: Lanes) -> Lanes:
    """-t / (t + 2), where t = exp(-2 |x|) - 1, -1 from -50 on."""
    a = abs(x) * -2
    p, z = _reduced((a < -50).where(a.constant(-50), a))
    e = _power(z)
    t = e.fma(p, e - 1)
    return (-t / (t + 2)).signed_as(x)


def softplus(x: Lanes) -> Lanes:
    """max(x, 0) + log(1 + exp(-|x|))."""
    return (x < 0).where(x.constant(0), x) + log1p(exp(-abs(x)))


@_in_f64
def sinh(x: Lanes) -> Lanes:
    a = abs(x)
    t, h = expm1(a), exp(a * 0.5)
    return (a > 20).where(h * 0.5 * h, (t + t / (t + 1)) * 0.5).signed_as(x)


@_in_f64
def cosh(x: Lanes) -> Lanes:
    h = exp(abs(x) * 0.5)
    return (h * 0.5).fma(h, 0.5 / h / h)


def erf(x: Lanes) -> Lanes:
    """In one quotient of polynomials, or as 1 - erfc beyond 1."""
    f = _format(x)
    a = abs(x)
    a = (a > f.far).where(a.constant(f.far), a)
    if f.under:
        square = a * a
        y = a * square.poly(f.erf) / square.poly(f.under)
        return (y > 1).where(y.constant(1), y).signed_as(x)
    near = x * (x * x).poly(f.erf)
    t = 1 / a.fma(0.5, 1)
    far = (1 - exp(-(a * a)) * t.poly(f.erfc)).signed_as(x)
    return (a > 1).where(far, near)


# ---- log and what is made of it


def _split(x: Lanes) -> tuple[Lanes, Lanes]:
    """(k, m): a normal number is m 2**k with m between sqrt(1/2) and sqrt(2)."""
    dtype = x.type.dtype
    f, ints = _format(x), BITS_OF[dtype]
    root = x.constant(math.sqrt(0.5)).bitcast(ints)
    bits = x.bitcast(ints)
    k = (bits - root) >> f.fraction
    return (k + f.magic_bits).bitcast(dtype) - f.magic, (bits - (k << f.fraction)).bitcast(dtype)


def log(x: Lanes) -> Lanes:
    """With f = m - 1 and s = f / (2 + f): log(m) = f - f**2 / 2 + s (f**2 / 2 + R(s**2))."""
    ln2 = _format(x).ln2
    k, m = _split(x)
    f = m - 1
    s = f / (f + 2)
    z, half = s * s, f * f * 0.5
    tail = s.fma(half + z * z.poly(_format(x).log), k * ln2[1])
    y = k.fma(ln2[0], f - (half - tail))
    y = (x < INF).where(y, x)
    least = 2.0 ** (1 - _format(x).bias)
    return (x < least).where(x.eq(0).where(x.constant(-INF), NAN), y)


def log1p(x: Lanes) -> Lanes:
    """log(u) with what u = 1 + x has lost."""
    u = x + 1
    lost = (x - (u - 1)) / u
    return log(u) + (abs(lost) < 1).where(lost, 0)


@_in_f64
def asinh(x: Lanes) -> Lanes:
    a = abs(x)
    y = log1p(a + a * a / ((a * a + 1).sqrt() + 1))
    return (a < 1e8).where(y, log(a) + math.log(2)).signed_as(x)


@_in_f64
def acosh(x: Lanes) -> Lanes:
    t = x - 1
    y = (x < 1e8).where(log1p(t + (t * (t + 2)).sqrt()), log(x) + math.log(2))
    return (x < 1).where(x.constant(NAN), y)


@_in_f64
def atanh(x: Lanes) -> Lanes:
    a = abs(x)
    return (log1p((a + a) / (1 - a)) * 0.5).signed_as(x)


def _two_sum(a: Lanes, b: Lanes) -> tuple[Lanes, Lanes]:
    """The sum and its rounding error, for |a| >= |b|."""
    total = a + b
    return total, b - (total - a)


def _log_parts(x: Lanes) -> tuple[Lanes, Lanes]:
    """log of a positive number as a sum of two, some ten bits more precise than one."""
    ln2 = _format(x).ln2
    k, m = _split(x)
    f, d = m - 1, m + 1
    s = f / d
    low = ((-s).fma(d, f) - s * (m - (d - 1))) / d
    z = s * s
    third = z * s * z.poly(_format(x).log)
    high, rest = _two_sum(k * ln2[0], s + s)
    return _two_sum(high, rest + (low + low) + third + k * ln2[1])


@_in_f64
def pow(x: Lanes, w: Lanes) -> Lanes:
    """exp(w log |x|) with the sign of x where w is odd; NaN of negative numbers where w isn't whole."""
    a = abs(x)
    high, low = _log_parts(a)
    p = w * high
    lost = w.fma(high, -p) + w * low
    y = exp(p)
    y = (y < INF).where(y.fma(lost, y), y)
    large = a > 1
    y = a.eq(INF).where((w > 0).where(a, 0), y)
    y = (a < 2.0 ** -1022).where((w > 0).where(x.constant(0), INF), y)
    y = abs(w).eq(INF).where(large.compare("eq", w > 0).where(x.constant(INF), 0), y)
    half = w * 0.5
    whole, odd = w.call("trunc").eq(w), half.call("trunc").ne(half)
    negative = x.bitcast("i64") < 0
    y = (negative & odd & whole).where(-y, y)
    y = ((x < 0) & (x > -INF) & ~whole).where(x.constant(NAN), y)
    y = (x.isnan() | w.isnan()).where(x + w, y)
    return (w.eq(0) | x.eq(1) | (x.eq(-1) & abs(w).eq(INF))).where(x.constant(1), y)


def quarters(x: Lanes, n: int) -> Lanes:
    """x ** (n / 4) by products and square roots, n from -8 to 8 but 0: within 4 units of the last place."""
    whole, rest = divmod(abs(n), 4)
    if rest:
        x = x.eq(-INF).where(x.constant(INF), x + 0)    # a root of -0 is -0, its power 0
    powers = [x if n > 0 else 1 / x] * whole
    roots = [x.sqrt()] * (rest >> 1) + [x.sqrt().sqrt()] * (rest & 1)
    a, b = (reduce(Lanes.__mul__, factors, x.constant(1)) for factors in (powers, roots))
    return a * b if n > 0 else a / b


# ---- angles


def _quarter(x: Lanes, turn: int) -> Lanes:
    """The sine of x + turn * pi / 2: its quadrant says which polynomial and sign."""
    inside = abs(x) < TURNS
    x = inside.where(x, x * 0)
    n, z = _round(x, 2 / math.pi)
    r = x
    for part in HALF_PI:
        r = n.fma(-part, r)
    quadrant = z.bitcast("i64") + turn
    s = r * r
    sine, cosine = (s * r).fma(s.poly(SIN), r), s.fma(s.poly(COS), 1)
    y = (quadrant & 1).ne(0).where(cosine, sine)
    return (quadrant & 2).ne(0).where(-y, y)


@_in_f64
def sin(x: Lanes) -> Lanes:
    return _quarter(x, 0)


@_in_f64
def cos(x: Lanes) -> Lanes:
    return _quarter(x, 1)


@_in_f64
def tan(x: Lanes) -> Lanes:
    return _quarter(x, 0) / _quarter(x, 1)


@_in_f64
def atan(x: Lanes) -> Lanes:
    """Angles beyond pi / 8 by their distance from pi / 4 or pi / 2."""
    a = abs(x)
    steep, middle = a > math.tan(3 * math.pi / 8), a > math.tan(math.pi / 8)
    t = steep.where(-1 / a, middle.where((a - 1) / (a + 1), a))
    base = steep.where(x.constant(HALF_PI[0]), middle.where(x.constant(HALF_PI[0] / 2), 0))
    rest = steep.where(x.constant(HALF_PI[1]), middle.where(x.constant(HALF_PI[1] / 2), 0))
    z = t * t
    return (base + ((t * z).fma(z.poly(ATAN), rest) + t)).signed_as(x)


@_in_f64
def asin(x: Lanes) -> Lanes:
    return atan(x / ((1 - x) * (x + 1)).sqrt())


@_in_f64
def acos(x: Lanes) -> Lanes:
    half = atan(((1 - x) / (x + 1)).sqrt())
    return half + half


@_in_f64
def fmod(x: Lanes, w: Lanes) -> Lanes:
    """x - trunc(x / w) w, exact while the quotient is below 2**53; zero beyond that."""
    a, b = abs(x), abs(w)
    q = (a / b).call("trunc")
    r = (-q).fma(b, a)
    r = (r < 0).where(r + b, r)             # the quotient was rounded up
    r = (q < 2.0 ** 53).where(r, r * 0)
    return (b.eq(INF) & (a < INF)).where(a, r).signed_as(x)


FUNCTIONS: dict[str, Callable[..., Lanes]] = {f.__name__: f for f in (
    exp, expm1, sigmoid, tanh, softplus, sinh, cosh, erf, log, log1p, asinh, acosh, atanh, sin, cos, tan,
    atan, asin, acos)}
"""Those of one argument, by their names in `ir.scalars`."""
