"""The scalar functions: floats within units of the last place, specials as NumPy's, integers exact."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernels import machine
from scalars import LEVEL, compute, kernel_of, quiet, ulps

from cnncc.codegen.lower import lower
from cnncc.codegen.scalar import CODE
from cnncc.codegen.worker import assembly
from cnncc.ir.errors import ModelError
from cnncc.ir.expr import Call, Index, Load, parse_expr
from cnncc.ir.formula import parse_formula
from cnncc.ir.infer import dtype_of, resolve
from cnncc.ir.op import NAMES
from cnncc.ir.reference import apply
from cnncc.ir.scalars import CLASSES, FUNCTIONS
from cnncc.ir.target import target_for
from cnncc.ir.types import FLOATS, HALVES, INTEGERS, NUMPY, SIGNED

Array = np.ndarray[Any, Any]
INF, NAN = float("inf"), float("nan")


def test_each_function_has_both_readings() -> None:
    assert CODE.keys() == FUNCTIONS.keys()


# ---- types


@pytest.mark.parametrize(("text", "dtype", "resolved"), [
    ("max(x, 0)", "f32", "max(x, 0)"),
    ("max(d, 0)", "f64", "max(d, f64(0))"),
    ("x > 0", "bool", "x > 0"),
    ("where(i == 3, 1, 0) * i", "i64", "where(i == i64(3), i64(1), i64(0)) * i"),
    ("where(b, x, 1)", "f32", "where(b, x, 1)"),
    ("b & (where(i < 2, 1, 0))", "bool", "b & where(i < i64(2), bool(1), bool(0))"),
    ("f64(x) * 2", "f64", "f64(x) * f64(2)"),
    ("i8(i) << 1", "i8", "i8(i) << i8(1)"),
    ("isnan(x) | ~b", "bool", "isnan(x) | invert(b)"),
])
def test_constants_take_their_dtype_from_what_is_beside_them(text: str, dtype: str, resolved: str) -> None:
    dtypes = {"x": "f32", "d": "f64", "i": "i64", "b": "bool"}
    e = resolve(parse_expr(text), dtypes, "f32")
    assert str(e) == resolved and parse_expr(str(e)) == e
    assert dtype_of(e, dtypes) == dtype


@pytest.mark.parametrize("text", ["x + i", "x & x", "exp(i)", "where(x, x, x)", "b + b", "x << x",
                                  "isnan(b)"])
def test_what_functions_do_not_take(text: str) -> None:
    with pytest.raises(ModelError, match="can't be computed of"):
        dtype_of(parse_expr(text), {"x": "f32", "i": "i64", "b": "bool"})


# ---- floats


def spread(low: float, high: float, n: int, seed: int = 0) -> Array:
    """Numbers of both signs whose magnitudes vary by their logarithms."""
    rng = np.random.default_rng(seed)
    return np.exp(rng.uniform(math.log(low), math.log(high), n)) * rng.choice([-1, 1], n)


def linear(low: float, high: float, n: int) -> Array:
    return np.linspace(low, high, n)


# Where each function is tried, by the exponent at which exp leaves the type's range.
RANGES: dict[str, Callable[[float], list[Array]]] = {
    "exp": lambda m: [linear(-m, m, 200_001), spread(1e-8, 5, 50_000)],
    "expm1": lambda m: [linear(-m, m, 200_001), spread(1e-30, 5, 50_000)],
    "log": lambda m: [np.abs(spread(1e-37, 1e38, 200_000)), linear(0.4, 2.5, 200_001),
                      1 + spread(1e-6, 0.3, 50_000)],
    "log1p": lambda m: [np.abs(spread(1e-30, 1e38, 200_000)), -np.abs(spread(1e-30, 0.9999, 100_000))],
    "sigmoid": lambda m: [linear(1 - m, m - 1, 200_001)],
    "tanh": lambda m: [spread(1e-30, 1e3, 100_000), linear(-10, 10, 200_001)],
    "softplus": lambda m: [linear(1 - m, 2 * m, 200_001)],
    "erf": lambda m: [spread(1e-30, 1e3, 50_000), linear(-6.5, 6.5, 100_001)],
    "sin": lambda m: [spread(1e-30, 1e12, 200_000), linear(-10, 10, 200_001)],
    "sinh": lambda m: [spread(1e-30, m, 100_000), linear(-3, 3, 100_001)],
    "asin": lambda m: [spread(1e-30, 1, 50_000), linear(-1, 1, 200_001)],
    "atan": lambda m: [spread(1e-30, 1e30, 200_000), linear(-4, 4, 100_001)],
    "asinh": lambda m: [spread(1e-30, 1e30, 200_000), linear(-4, 4, 100_001)],
    "acosh": lambda m: [1 + np.abs(spread(1e-6, 1e30, 200_000)), linear(1, 4, 100_001)],
    "sqrt": lambda m: [np.abs(spread(1e-37, 1e37, 50_000))]}
RANGES |= {"cos": RANGES["sin"], "tan": RANGES["sin"], "cosh": RANGES["sinh"], "acos": RANGES["asin"],
           "atanh": RANGES["asin"]}
LIMIT = {"sqrt": 0.5, "exp": 1, "log": 1, "sin": 1.5, "cos": 1.5, "expm1": 2, "log1p": 2, "atan": 2,
         "softplus": 2, "erf f32": 5}
WIDE = {"sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fn", RANGES)
def test_units_of_the_last_place(fn: str, dtype: str) -> None:
    """Against NumPy in extended precision (erf: in double, which is off by up to one itself)."""
    x = np.concatenate(RANGES[fn](87.0 if dtype == "f32" else 706.0)).astype(NUMPY[dtype])
    more = np.longdouble if fn != "erf" else np.float64
    with quiet():
        exact = FUNCTIONS[fn].numpy(x.astype(more))
    got = compute(f"{fn}(x[i])", dtype, x)
    distance = np.where(np.isinf(exact) & (got == exact), 0, ulps(got, exact))
    worst = int(np.argmax(distance))
    limit = 0.51 if fn in WIDE and dtype == "f32" else LIMIT.get(f"{fn} {dtype}", LIMIT.get(fn, 3))
    assert distance[worst] <= limit, f"{fn}({x[worst]!r}) = {got[worst]!r}, exactly {exact[worst]!r}"


SPECIAL = [0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 3.0, 1e-30, 1e9, -1e9, 1e30, -1e30, 88.0, -88.0,
           90.0, -104.0, 711.0, -746.0, INF, -INF, NAN, 3.4e38, -3.4e38]
ONE = sorted(n for n, f in FUNCTIONS.items() if f.args in ("f", "n") and n not in NUMPY)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fn", ONE)
def test_special_values(fn: str, dtype: str) -> None:
    x = np.array(SPECIAL, NUMPY[dtype])
    if fn in ("sin", "cos", "tan"):
        x[np.abs(x) > 1e15] = INF       # angles of more than 2**50 quarter turns count as 0
    with quiet():
        expected = FUNCTIONS[fn].numpy(x)
        small = (np.abs(expected.astype(float)) < np.finfo(x.dtype).tiny) & (np.abs(x) > 1e-20)
        expected = np.where(small, 0, expected)
    got = compute(f"{fn}(x[i])", FUNCTIONS[fn].result if FUNCTIONS[fn].result in NUMPY else dtype, x)
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(x.dtype).eps, atol=np.finfo(x.dtype).tiny)


def test_bits_stay_what_they_are() -> None:
    for real, whole, bits in (("f32", "i32", 32), ("f64", "i64", 64)):
        small = np.array([1, -5], NUMPY[whole]).view(NUMPY[real])
        x = np.concatenate([np.array(SPECIAL, NUMPY[real]), small])
        seen = compute(f"bits{bits}(x[i])", whole, x)
        np.testing.assert_array_equal(seen, x.view(NUMPY[whole]))
        again = compute(f"real{bits}(x[i])", real, seen)
        np.testing.assert_array_equal(again.view(NUMPY[whole]), seen)


@pytest.mark.parametrize("dtype", FLOATS)
def test_angles_beyond_the_limit_are_finite(dtype: str) -> None:
    x = np.array([1e16, -1e30, 1e38], NUMPY[dtype])
    assert compute("sin(x[i])", dtype, x).tolist() == [0, 0, 0]
    assert compute("cos(x[i])", dtype, x).tolist() == [1, 1, 1]


def text_of(fn: str) -> str:
    """The function of x[i], w[i], u[i]."""
    return str(Call(fn, tuple(Load(x, (Index.of("i"),)) for x in NAMES[:len(FUNCTIONS[fn].args)])))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("fn", ["add", "sub", "mul", "div", "pow", "mod", "fmod", "max", "min"])
def test_special_pairs(fn: str, dtype: str) -> None:
    x, w = np.array(list(itertools.product(SPECIAL, SPECIAL)), NUMPY[dtype]).T
    if fn in ("mod", "fmod"):           # quotients of 2**53 and more
        near = ~(np.abs(x.astype(float)) > 2.0 ** 53 * np.abs(w.astype(float))) | (w == 0) | np.isinf(x)
        x, w = x[near], w[near]
    with quiet():
        expected = FUNCTIONS[fn].numpy(x, w)
    tiny = np.finfo(x.dtype).tiny
    expected = np.where(np.abs(expected) < tiny, 0, expected)
    rounding = (32 if fn == "pow" else 1) * np.finfo(x.dtype).eps
    np.testing.assert_allclose(compute(text_of(fn), dtype, x, w), expected, rtol=rounding, atol=tiny)


@pytest.mark.parametrize(("dtype", "limit"), [("f32", 0.51), ("f64", 24.0)])
def test_pow(dtype: str, limit: float) -> None:
    """In double the error grows with the exponent of the result: 24 units near the ends of the range."""
    rng = np.random.default_rng(0)
    most = 85.0 if dtype == "f32" else 700.0
    x = np.abs(spread(1e-30, 1e30, 100_000)).astype(NUMPY[dtype])
    w = (rng.uniform(-most, most, x.size) / np.maximum(np.abs(np.log(x)), 1e-3)).astype(NUMPY[dtype])
    exact = np.power(x.astype(np.longdouble), w.astype(np.longdouble))
    got = compute("pow(x[i], w[i])", dtype, x, w)
    distance = ulps(got, exact)
    worst = int(np.argmax(distance))
    assert distance[worst] <= limit, f"{x[worst]!r} ** {w[worst]!r}"
    small = np.abs(w * np.log(x)) < 20
    assert distance[small].max() <= 2
    whole = np.arange(-30, 31).astype(NUMPY[dtype])
    got = compute("pow(x[i], w[i])", dtype, whole, np.full_like(whole, 3))
    np.testing.assert_allclose(got, whole ** 3, rtol=0 if dtype == "f32" else 3e-16)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("exponent", [n / 4 for n in range(-8, 9) if n])
def test_pow_of_a_number(exponent: float, dtype: str) -> None:
    """Quarters are products and roots: near the ends of the range too, and of special numbers."""
    text = f"pow(x[i], {dtype}({exponent}))"
    reach = 1e37 if dtype == "f32" else 1e300
    x = spread(1 / reach, reach, 100_000).astype(NUMPY[dtype])
    with quiet():
        x = x[np.abs(np.log(np.abs(x)) * exponent) < np.log(reach)]
        exact = np.power(x.astype(np.longdouble), np.longdouble(exponent))
        special = np.power(np.array(SPECIAL, NUMPY[dtype]), np.full(len(SPECIAL), exponent, NUMPY[dtype]))
    got, wrong = compute(text, dtype, x), np.isnan(exact)
    assert np.isnan(got[wrong]).all() and ulps(got[~wrong], exact[~wrong]).max() <= 4
    special = np.where(np.abs(special) < np.finfo(x.dtype).tiny, 0, special)
    got = compute(text, dtype, np.array(SPECIAL, NUMPY[dtype]))
    np.testing.assert_allclose(got, special, rtol=4 * np.finfo(x.dtype).eps, atol=np.finfo(x.dtype).tiny)


@pytest.mark.parametrize("dtype", FLOATS)
def test_fmod_is_exact(dtype: str) -> None:
    x, w = spread(1e-3, 1e6, 100_000), spread(1e-3, 1e6, 100_000, 1)
    x, w = x.astype(NUMPY[dtype]), w.astype(NUMPY[dtype])
    np.testing.assert_array_equal(compute("fmod(x[i], w[i])", dtype, x, w), np.fmod(x, w))
    np.testing.assert_array_equal(compute("x[i] % w[i]", dtype, x, w), np.mod(x, w))


# ---- integers


def ends(dtype: str) -> list[int]:
    """Integers around zero and around the ends of the range."""
    info = np.iinfo(NUMPY[dtype])
    near = [-9, -8, -7, -3, -2, -1, 0, 1, 2, 3, 5, 7, 8, 9, 31, 32, 33, 63, 64, 65, 100]
    return sorted({v for v in (*near, info.min, info.min + 1, info.max - 1, info.max, info.max // 2)
                   if info.min <= v <= info.max})


def wrapped(value: int, dtype: str) -> int:
    info = np.iinfo(NUMPY[dtype])
    span = int(info.max) - int(info.min) + 1
    return (value - int(info.min)) % span + int(info.min)


def _power(a: int, b: int) -> int:
    return a ** b if b >= 0 else 1 if a == 1 else (1 if b % 2 == 0 else -1) if a == -1 else 0


def _toward_zero(a: int, b: int) -> int:
    return 0 if b == 0 else abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


EXACT: dict[str, Callable[[int, int], int]] = {
    "x[i] + w[i]": lambda a, b: a + b, "x[i] - w[i]": lambda a, b: a - b, "x[i] * w[i]": lambda a, b: a * b,
    "x[i] / w[i]": _toward_zero, "x[i] % w[i]": lambda a, b: a % b if b else 0,
    "fmod(x[i], w[i])": lambda a, b: a - _toward_zero(a, b) * b if b else 0,
    "max(x[i], w[i])": max, "min(x[i], w[i])": min, "x[i] & w[i]": lambda a, b: a & b,
    "x[i] | w[i]": lambda a, b: a | b, "x[i] ^ w[i]": lambda a, b: a ^ b, "invert(x[i])": lambda a, b: ~a,
    "neg(x[i])": lambda a, b: -a, "abs(x[i])": lambda a, b: abs(a),
    "sign(x[i])": lambda a, b: (a > 0) - (a < 0),
    "where(x[i] < w[i], x[i], w[i])": min, "where(x[i] >= w[i], x[i], w[i])": max}


def both_readings(text: str, out: str, *arrays: Array) -> Array:
    """By compiled code, which the NumPy reading equals."""
    got = compute(text, out, *arrays)
    operands = dict(zip(NAMES, arrays, strict=False))
    again = apply(parse_formula(f"y[i] = {text}", {"i": got.size}), operands, got.shape, {}, dtype=out)
    np.testing.assert_array_equal(got, again)
    return got


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("text", EXACT)
def test_integers(text: str, dtype: str) -> None:
    pairs = list(itertools.product(ends(dtype), ends(dtype)))
    x, w = (np.array(v, NUMPY[dtype]) for v in zip(*pairs, strict=True))
    got = both_readings(text, dtype, x, w)
    assert got.tolist() == [wrapped(EXACT[text](a, b), dtype) for a, b in pairs]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_powers_and_shifts(dtype: str) -> None:
    bits = NUMPY[dtype].itemsize * 8
    pairs = [(a, b) for a in ends(dtype) for b in range(-3 if dtype in SIGNED else 0, 64)]
    x, w = (np.array(v, NUMPY[dtype]) for v in zip(*pairs, strict=True))
    powers = both_readings("pow(x[i], w[i])", dtype, x, w).tolist()
    assert powers == [wrapped(_power(a, b), dtype) for a, b in pairs]
    pairs = [(a, b) for a, b in pairs if b >= 0]
    x, w = (np.array(v, NUMPY[dtype]) for v in zip(*pairs, strict=True))
    assert both_readings("x[i] >> w[i]", dtype, x, w).tolist() == [a >> b for a, b in pairs]
    left = both_readings("x[i] << w[i]", dtype, x, w).tolist()
    assert left == [wrapped(a << b, dtype) if b < bits else 0 for a, b in pairs]


@pytest.mark.parametrize("dtype", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("symbol", ["<", "<=", ">", ">=", "==", "!="])
def test_comparisons(symbol: str, dtype: str) -> None:
    values = SPECIAL if dtype in FLOATS else ends(dtype)
    x, w = np.array(list(itertools.product(values, values)), NUMPY[dtype]).T
    with quiet():
        relation = {"<": np.less, "<=": np.less_equal, ">": np.greater, ">=": np.greater_equal,
                    "==": np.equal, "!=": np.not_equal}[symbol]
        np.testing.assert_array_equal(both_readings(f"x[i] {symbol} w[i]", "bool", x, w), relation(x, w))


@pytest.mark.parametrize("text", ["x[i] & w[i]", "x[i] | w[i]", "x[i] ^ w[i]", "invert(x[i])", "x[i] == w[i]",
                                  "where(x[i], w[i], bool(1))", "max(x[i], w[i])", "min(x[i], w[i])"])
def test_logic(text: str) -> None:
    x, w = np.random.default_rng(0).integers(0, 2, (2, 77)).astype(bool)
    expected = {"&": x & w, "|": x | w, "^": x ^ w, "==": x == w, "max": x | w, "min": x & w, "invert": ~x,
                "where": np.where(x, w, True)}
    got = both_readings(text, "bool", x, w)
    np.testing.assert_array_equal(got, expected[next(k for k in expected if k in text)])
    assert set(got.view(np.uint8).tolist()) <= {0, 1}


@pytest.mark.parametrize("source", NUMPY)
@pytest.mark.parametrize("to", NUMPY)
def test_casts(source: str, to: str) -> None:
    """Integers wrap, floats are cut towards zero and to the range, what isn't zero is true."""
    values: list[Any] = [False, True] * 9 if source == "bool" else ends(source) if source in INTEGERS else [
        *SPECIAL, 127.5, 128.0, -129.0, 255.9, 256.0, 65536.0, 2.0 ** 31, -2.0 ** 31, 2.0 ** 32, 2.0 ** 63,
        -2.0 ** 63, 2.0 ** 64]
    with quiet():
        x = np.array(values, NUMPY[source])
    def exact(v: Any) -> Any:
        if to == "bool":
            return v != 0
        if to in (*FLOATS, *HALVES):
            with quiet():
                return NUMPY[to].type(float(v) if to == "bf16" else v)
        if isinstance(v, float):
            info = np.iinfo(NUMPY[to])
            return 0 if math.isnan(v) else int(min(max(v, info.min), info.max)) if math.isinf(v) or \
                not info.min <= int(v) <= info.max else int(v)
        return wrapped(int(v), to)
    read = compute if to in HALVES else both_readings       # NumPy doesn't round to halves
    got = read(f"{to}(x[i])", to, x)
    expected = np.array([exact(v) for v in x.tolist()], NUMPY[to])
    if to == "bf16":
        got, expected = got.astype(np.float32), expected.astype(np.float32)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("level", ["x86-64-v2", "native"])
def test_bfloat16_of_all_upper_halves(level: str) -> None:
    """Each is itself; what lies between two becomes the nearer, the even one of equals; a NaN stays one."""
    bits = np.arange(1 << 16, dtype=np.uint32) << 16
    for rest in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF):
        x = (bits | np.uint32(rest)).view(np.float32)
        got = compute("bf16(x[i])", "bf16", x, target=target_for(level))
        with quiet():
            exact = x.astype(NUMPY["bf16"])
        nan = np.isnan(x)
        np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), nan)
        np.testing.assert_array_equal(got.view(np.uint16)[~nan], exact.view(np.uint16)[~nan])
        if not rest:
            again = compute("f32(x[i])", "f32", exact, target=target_for(level))
            np.testing.assert_array_equal(again.view(np.uint32)[~nan], bits[~nan])


@pytest.mark.parametrize("level", ["x86-64-v2", "x86-64-v3"])
def test_random_numbers_are_the_references(level: str) -> None:
    words = [np.random.default_rng(i).integers(-2 ** 31, 2 ** 31, 37).astype(np.int32) for i in range(6)]
    got = compute(text_of("random"), "f32", *words, target=target_for(level))
    assert np.array_equal(got, FUNCTIONS["random"].numpy(*words)) and (got >= 0).all() and (got < 1).all()


# ---- code


def texts(fn: str) -> list[tuple[str, str, list[str]]]:
    """(expression, result, operands) of a function for each dtype that it takes."""
    f, cases = FUNCTIONS[fn], []
    for dtype in CLASSES[f.args[-1]]:
        given = [dtype if letter == f.args[-1] else "bool" for letter in f.args]
        cases.append((text_of(fn), f.result if f.result in NUMPY else dtype, given))
    return cases


@pytest.mark.parametrize("level", LEVEL)
@pytest.mark.parametrize("fn", FUNCTIONS)
def test_all_functions_compile_without_calls(fn: str, level: str) -> None:
    target = LEVEL[level]
    for text, out, given in texts(fn):
        if level == "v2" and "f16" in (out, *given):     # has no instruction for them: refused
            continue
        code = assembly(lower(kernel_of(text, out, given, 3 * target.lanes + 1, target), "kernel", target),
                        machine(target))
        assert not re.search(r"\bcall", code), f"{text} of {given}"
