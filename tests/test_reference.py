"""The NumPy reference against loops that read formulas one element at a time, and against PyTorch."""

from __future__ import annotations

import itertools
import operator
import tracemalloc
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cnncc.ir.reference
from cnncc.ir.errors import InputError, InternalError
from cnncc.ir.expr import Call, Const, Expr, Index, Load, loads, parse_expr
from cnncc.ir.formula import Formula, bind, parse_formula
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.kernel import parse_kernel
from cnncc.ir.ops import NAMES, OPS
from cnncc.ir.plan import Value
from cnncc.ir.reference import apply, evaluate
from cnncc.ir.signature import Signature
from cnncc.ir.types import TensorType
from cnncc.reference_model import Reference

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]
INTEGER = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "neg": operator.neg, "abs": abs,
           "max": max, "min": min}


def looped(f: Formula, operands: Mapping[str, Array], shape: Shape, sizes: Mapping[str, int]) -> Array:
    """The meaning of a formula, one element at a time, in Python's integers."""
    def at(i: Index, point: Mapping[str, int]) -> int:
        return i.const + sum(c * point[d] for d, c in i.terms)

    def value(e: Expr, point: Mapping[str, int]) -> int | None:
        if isinstance(e, Const):
            return int(e.value)
        if isinstance(e, Load):
            place = tuple(at(i, point) for i in e.index)
            inside = all(0 <= i < s for i, s in zip(place, operands[e.tensor].shape, strict=True))
            return int(operands[e.tensor][place]) if inside else None
        args = [value(a, point) for a in e.args]
        return None if None in args else INTEGER[e.fn](*args)

    start: float = {"+=": 0, "max=": -np.inf, "min=": np.inf, "=": 0}[f.fold]
    combine = {"+=": operator.add, "max=": max, "min=": min, "=": lambda a, b: b}[f.fold]
    result = np.zeros(shape)
    written: dict[Shape, float] = {}
    extents = [sizes[e] if isinstance(e, str) else e for _, e in f.extents]
    for numbers in itertools.product(*map(range, extents)):
        point = dict(zip(f.sizes, numbers, strict=True))
        place = tuple(at(i, point) for i in f.out.index)
        v = value(f.expr, point)
        old = written.setdefault(place, start)
        written[place] = old if v is None else combine(old, v)
    for place, v in written.items():
        result[place] = v
    return result


def integers(shape: Shape, seed: int, reach: int = 4) -> Array:
    return np.random.default_rng(seed).integers(-reach, reach + 1, shape).astype(np.float64)


def agree(f: Formula, operands: Mapping[str, Array], shape: Shape, **sizes: int) -> None:
    expected = looped(f, operands, shape, sizes)
    for dtype in (np.float32, np.float64):
        got = apply(f, operands, shape, sizes, dtype)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, expected, err_msg=f"{f} where {dict(f.extents)}")


@pytest.fixture(params=[1 << 23, 7], ids=["whole", "in parts"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time with temporaries so small that everything is computed in parts."""
    monkeypatch.setattr(cnncc.ir.reference, "BLOCK", request.param)


# ---- random formulas

DIMS = "abcde"


@st.composite
def formulas(draw: st.DrawFn) -> tuple[Formula, dict[str, Shape], Shape]:
    """A formula of any affine loads, the shapes of its operands, and of its result."""
    extents = {d: draw(st.integers(1, 4)) for d in DIMS[:draw(st.integers(1, 5))]}
    dims = st.sampled_from(sorted(extents))
    shapes: dict[str, Shape] = {}

    def load(name: str) -> Load:
        index, shape = [], []
        for _ in range(draw(st.integers(0 if shapes else 1, 3))):
            terms = draw(st.dictionaries(dims, st.integers(-2, 3).filter(bool), max_size=2))
            i = Index(tuple(terms.items()), draw(st.integers(-2, 2)))
            low, high = i.bounds(extents)
            if draw(st.booleans()):
                i, high = i + Index((), -low), high - low
            index.append(i)
            shape.append(max(1, high + 1 + draw(st.integers(-2, 2))))
        shapes[name] = tuple(shape)
        return Load(name, tuple(index))

    tree = parse_expr(draw(st.sampled_from(
        ["x", "x * w", "x * w", "max(x, 0) * w", "x * w + v", "-x", "min(x - w, abs(v))"])))
    made = {x.tensor: load(x.tensor) for x in loads(tree)}

    def fill(e: Expr) -> Expr:
        if isinstance(e, Load):
            return made[e.tensor]
        return Call(e.fn, tuple(map(fill, e.args))) if isinstance(e, Call) else e

    kept = draw(st.permutations(sorted(extents)))[:draw(st.integers(0, len(extents)))]
    out, shape = [], []
    while kept:
        group, kept = kept[:draw(st.integers(1, 2))], kept[2:] if len(kept) > 2 else []
        i, reach = Index((), draw(st.integers(0, 2))), 1
        for d in group:                     # like g*K + k, perhaps with gaps: no two points share an element
            i = i + Index.of(d, reach)
            reach *= extents[d] + draw(st.integers(0, 1))
        out.append(i)
        shape.append(i.bounds(extents)[1] + 1 + draw(st.integers(0, 1)))
    if not out or draw(st.booleans()):
        out.append(Index((), 1))
        shape.append(2)
    whole = {d for i in out for d in i.dims} == set(extents)
    fold = draw(st.sampled_from(["+=", "+=", "max=", "min=", "="] if whole else ["+=", "+=", "max=", "min="]))
    f = Formula(Load("y", tuple(out)), fold, fill(tree), tuple(extents.items()))
    return f, shapes, tuple(shape)


@given(formulas(), st.integers(0, 1000), st.sampled_from([1 << 23, 7]))
@settings(max_examples=250, deadline=None)
def test_any_formula(case: tuple[Formula, dict[str, Shape], Shape], seed: int,
                     limit: int) -> None:
    f, shapes, shape = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cnncc.ir.reference, "BLOCK", limit)
        agree(f, {name: integers(s, seed + i) for i, (name, s) in enumerate(shapes.items())}, shape)


def test_what_one_axis_leaves_may_lie_outside_of_another() -> None:
    f = parse_formula("y[1] += x[a + b - 1, -a, b]", {"a": 2, "b": 2})
    agree(f, {"x": integers((2, 1, 1), 0)}, (2,))


@st.composite
def windows(draw: st.DrawFn) -> tuple[str, list[Shape], dict[str, Any]]:
    """An op with a window, the shapes of its operands, its attributes."""
    rank = draw(st.integers(1, 2))
    def each(low: int, high: int) -> Shape:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))
    kernel, dilations = each(1, 3), each(1, 2)
    attrs: dict[str, Any] = {"strides": each(1, 4), "dilations": dilations}
    attrs |= {"begin": each(0, 4), "end": each(0, 4)}
    room = [(k - 1) * d + 1 - a - b
            for k, d, a, b in zip(kernel, dilations, attrs["begin"], attrs["end"], strict=True)]
    x = tuple(max(1, r) + draw(st.integers(0, 4)) for r in room)
    group, c, k, n = (draw(st.integers(1, 3)) for _ in range(4))
    op = draw(st.sampled_from(["conv", "conv", "max_pool", "sum_pool"]))
    if op == "conv":
        return op, [(n, group * c, *x), (group * k, c, *kernel)], attrs | {"group": group}
    return op, [(n, c, *x)], attrs | {"kernel": kernel}


@given(windows(), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_windows(case: tuple[str, list[Shape], dict[str, Any]], seed: int) -> None:
    op, shapes, attrs = case
    f, shape = OPS[op].formula([TensorType("f32", s) for s in shapes], attrs)
    operands = {name: integers(s, seed) for name, s in zip(NAMES, shapes, strict=False)}
    agree(f, operands, tuple(map(int, shape)))


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(("text", "shape", "extents"), [
    ("y[n, 2*g + k, p] += x[n, 3*g + c, p] * w[2*g + k, c]", (2, 6, 5),
     {"n": 2, "g": 3, "k": 2, "p": 5, "c": 3}),
    ("y[n, k, 0, 0] += x[n, k, p, q]", (2, 9, 1, 1), {"n": 2, "k": 9, "p": 4, "q": 3}),
    ("y[n, k, p, 0] += x[n, p, q]", (2, 3, 4, 2), {"n": 2, "k": 3, "p": 4, "q": 2, "r": 5}),
    ("y[n, k] += x[n, c] * w[k, c]", (4, 3), {"n": 4, "k": 3, "c": 7}),
    ("y[n, k] += x[n, c] * w[k, b]", (4, 3), {"n": 4, "k": 3, "c": 7, "b": 2}),
    ("y[k, n] += w[k, c, 0] * x[n, c]", (3, 4), {"k": 3, "n": 4, "c": 7}),
    ("y[2*p + r] += x[p] * w[r]", (9, ), {"p": 4, "r": 3}),     # a scatter
    ("y[p, q] += x[p + q, 3 - q] * w[p - q + 3, p]", (4, 4), {"p": 4, "q": 4}),
    ("y[p] max= x[p, r] * w[r] - 1", (4, ), {"p": 4, "r": 3}),
    ("y[p] += x[p + r - 1] * x[p]", (6, ), {"p": 6, "r": 3}),
    ("y[a] += x[a] * x[b] * w[a, b]", (3, ), {"a": 3, "b": 4}),
    ("y[n, c, p] += x[n, c, p + r - 1] * w[c, r]", (2, 5, 6), {"n": 2, "c": 5, "p": 6, "r": 3}),
    ("y[N] = x[N]", (4, ), {"N": "batch"}),
])
def test_special_formulas(text: str, shape: Shape, extents: dict[str, Any]) -> None:
    f = parse_formula(text, extents)
    static = {d: 4 if isinstance(e, str) else e for d, e in extents.items()}
    operands = {x.tensor: integers(tuple(i.bounds(static)[1] + 1 - (i.const < 0) for i in x.index), 3)
                for x in f.loads}
    agree(f, operands, shape, batch=4)


def test_nothing_enters_a_fold_from_outside() -> None:
    x, w = np.ones((1, 1, 3)), np.array([[[np.inf, 1.0, np.nan]]])
    f, _ = bind("y[n, k, p] += x[n, c, p + r - 1 | 1] * w[k, c, r]", [("x", x.shape), ("w", w.shape)], {})
    y = apply(f, {"x": x, "w": w}, (1, 1, 3), {}, np.float64)
    assert np.isnan(y[0, 0, :2]).all() and y[0, 0, 2] == np.inf     # the first isn't infinity times a zero
    f = parse_formula("y[p] max= x[p - r]", {"p": 3, "r": 2})
    assert apply(f, {"x": np.array([-5.0, -7, -6])}, (3, ), {}).tolist() == [-5, -5, -6]
    f = parse_formula("y[p] max= x[p + 5]", {"p": 2})
    assert apply(f, {"x": np.zeros(6)}, (2, ), {}).tolist() == [0, -np.inf]


def test_what_is_not_written_stays() -> None:
    out = np.full((2, 4), 7.0)
    for text in ("y[n, c] = x[n, c]", "y[n, c + 2] += x[n, c] * x[n, c]"):
        assert apply(parse_formula(text, {"n": 2, "c": 1}), {"x": np.full((2, 1), 3.0)}, out.shape, {},
                     np.float64, out) is out
    assert out.tolist() == [[3, 7, 9, 7]] * 2



@pytest.mark.parametrize("text", ["y[p] = x[p, 0]", "y[p - 1] = x[p]"])
def test_wrong_formulas(text: str) -> None:
    with pytest.raises(InternalError):
        apply(parse_formula(text, {"p": 3}), {"x": np.zeros(3)}, (3, ), {})


# ---- against PyTorch

SPATIAL = [
    {"strides": 1, "dilations": 1, "begin": (0, 0, 0), "end": (0, 0, 0)},
    {"strides": 2, "dilations": 1, "begin": (1, 0, 2), "end": (0, 1, 1)},
    {"strides": 3, "dilations": 2, "begin": (3, 2, 0), "end": (1, 4, 2)},
]


@pytest.mark.parametrize("case", range(len(SPATIAL)))
@pytest.mark.parametrize("group", [1, 2, 6])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_conv_as_in_torch(rank: int, group: int, case: int) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(case)
    x = rng.standard_normal((2, 6, *(9, 8, 7)[:rank]))
    w = rng.standard_normal((12, 6 // group, *(3, 2, 1)[:rank]))
    how = {k: v[:rank] if isinstance(v, tuple) else (v, ) * rank for k, v in SPATIAL[case].items()}
    b = Builder("conv")
    xs = b.input("x", TensorType("f64", ("N", *x.shape[1:])))
    ws = b.const("w", w)
    b.op("conv", [xs, ws], "y", group=group, **how)
    got = evaluate(b.graph([("out", "y")]), {"x": x}, np.float64)["out"]
    pads = [n for pair in reversed(list(zip(how["begin"], how["end"], strict=True))) for n in pair]
    conv = (torch.nn.functional.conv1d, torch.nn.functional.conv2d, torch.nn.functional.conv3d)[rank - 1]
    padded = torch.nn.functional.pad(torch.from_numpy(x), pads)
    expected = conv(padded, torch.from_numpy(w), None, how["strides"], 0, how["dilations"], group)
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-12, atol=1e-12)


def test_other_ops_as_in_torch() -> None:
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    rng = np.random.default_rng(0)
    x, mean, scale, shift = rng.standard_normal((3, 4, 6, 5)), *rng.standard_normal((3, 4))
    b = Builder("ops")
    b.input("x", TensorType("f64", ("N", 4, 6, 5)))
    vectors = [b.const(n, v) for n, v in (("s", scale), ("t", shift), ("m", mean), ("v", np.ones(4)))]
    window: dict[str, Any] = {"kernel": (3, 2), "strides": (2, 1), "dilations": (1, 1), "begin": (1, 0),
                              "end": (0, 1)}
    outputs = {
        "softmax": b.op("softmax", ["x"], "softmax", axis=1),
        "mean": b.op("reduce_mean", ["x"], "mean", axes=(2, 3), keepdims=False),
        "kept": b.op("reduce_max", ["x"], "kept", axes=(1, ), keepdims=True),
        "norm": b.op("batch_norm", ["x", *vectors], "norm", epsilon=0.0),
        "clip": b.op("clip", ["x"], "clip", low=-0.5, high=1.0),
        "pool": b.op("max_pool", ["x"], "pool", **window),
        "sum": b.op("sum_pool", ["x"], "sum", **window),
        "twice": b.op("add", ["x", "x"], "twice"),
        "flat": b.op("reshape", ["x"], "flat", shape=("N", 120)),
    }
    got = evaluate(b.graph(outputs.items()), {"x": x}, np.float64)
    z = torch.from_numpy(x)
    padded = F.pad(z, (0, 1, 1, 0), value=-np.inf)
    expected = {
        "softmax": F.softmax(z, 1), "mean": z.mean((2, 3)), "kept": z.amax(1, keepdim=True),
        "norm": F.batch_norm(z, torch.from_numpy(mean), torch.ones(4, dtype=z.dtype), torch.from_numpy(scale),
                             torch.from_numpy(shift), eps=0.0),
        "clip": z.clip(-0.5, 1), "pool": F.max_pool2d(padded, (3, 2), (2, 1)),
        "sum": F.avg_pool2d(F.pad(z, (0, 1, 1, 0)), (3, 2), (2, 1)) * 6, "twice": 2 * z, "flat": z.flatten(1),
    }
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(got[name], value.numpy(), rtol=1e-12, atol=1e-12, err_msg=name)


def test_functions() -> None:
    x = np.array([-1e4, -800.0, -1.5, -0.0, 0.0, 2.0, 800.0, np.inf, -np.inf, np.nan])
    def of(text: str) -> Array:
        return apply(parse_formula(f"y[i] = {text}", {"i": x.size}), {"x": x}, x.shape, {}, np.float64)
    with np.errstate(all="raise"):
        assert of("sigmoid(x[i])")[[0, 1, 4, 6, 7, 8]].tolist() == [0, 0, 0.5, 1, 1, 0]
        np.testing.assert_allclose(of("sigmoid(x[i])")[[2, 5]], 1 / (1 + np.exp([1.5, -2])), rtol=1e-15)
        for text in ("max(x[i], 0)", "min(0, x[i])", "sigmoid(x[i])"):
            assert np.isnan(of(text)[-1])
        assert of("max(x[i], 0) / float('inf')")[:3].tolist() == [0, 0, 0]
        np.testing.assert_array_equal(of("sqrt(abs(neg(x[i])))")[3:5], [0, 0])


# ---- kernels and graphs

FUSED = """
in x f32[N, 3, 9, 8] as n, c, h, w
in w f32[4, 3, 3, 3] as n, c, h, w
in b f32[4] as n
scratch t f32[N, 4, 9, 8] as n, c, h, w
out z f32[N, 4, 4, 4] as n, c, h, w
stage n=N k=4 p=9 q=8 c=3 r=3 s=3
  acc[n, k, p, q] += max(x[n, c, p + r - 1, q + s - 1], 0) * w[k, c, r, s]
  acc[n, k, p, q] = acc[n, k, p, q] + b[k]
  t[n, k, p, q] = max(acc[n, k, p, q], 0)
stage n=N k=4 P=4 i=2 Q=4 j=2
  acc[n, k, P, i, Q, j] = t[n, k, 2*P + i, 2*Q + j] * 2
  z[n, k, P, Q] max= acc[n, k, P, i, Q, j] + b[k]
"""


def test_kernels() -> None:
    kernel = parse_kernel(FUSED.strip())
    x, w, b = integers((2, 3, 9, 8), 0), integers((4, 3, 3, 3), 1), integers((4, ), 2)
    builder = Builder("fused")
    builder.input("in", TensorType("f32", ("N", 3, 9, 8)))
    for name, value in (("weights", w), ("bias", b)):
        builder.const(name, value.astype(np.float32))
    builder.add(Node("y", "kernel", ("in", "weights", "bias"), TensorType("f32", ("N", 64)), kernel=kernel))
    got = evaluate(builder.graph([("y", "y")]), {"in": x})["y"]

    plain = Builder("plain")
    plain.input("in", TensorType("f32", ("N", 3, 9, 8)))
    ws, bs = plain.const("w", w.astype(np.float32)), plain.const("b", b.reshape(4, 1, 1).astype(np.float32))
    one = {"strides": (1, 1), "dilations": (1, 1), "begin": (1, 1), "end": (1, 1)}
    y = plain.op("conv", [plain.op("relu", ["in"], "r"), ws], "c", group=1, **one)
    y = plain.op("scale", [plain.op("relu", [plain.op("add", [y, bs], "a")], "r2")], "d", factor=2.0)
    y = plain.op("max_pool", [plain.op("add", [y, bs], "a2")], "p", kernel=(2, 2), strides=(2, 2),
                 dilations=(1, 1), begin=(0, 0), end=(0, 0))
    expected = evaluate(plain.graph([("y", y)]), {"in": x})["y"]
    np.testing.assert_array_equal(got, expected.reshape(2, 64))


def test_kernels_that_change_a_tensor() -> None:
    kernel = parse_kernel("in x f32[3] as n\nscratch t f32[3] as n\nout y f32[3] as n\nstage n=3\n"
                          "  t[n] = x[n]\nstage n=3\n  t[n] = t[2 - n] + x[n]\nstage n=3\n  y[n] = t[n]")
    b = Builder("turn")
    b.input("x", TensorType("f32", (3, )))
    b.add(Node("y", "kernel", ("x", ), TensorType("f32", (3, )), kernel=kernel))
    assert evaluate(b.graph([("y", "y")]), {"x": np.array([1.0, 2, 4])})["y"].tolist() == [5, 4, 5]


def test_kernels_with_clauses() -> None:
    kernel = parse_kernel("in a f32[2, 3] as n, c\nin b f32[2, 2] as n, c\nout y f32[2, 6] as n, c\n"
                          "stage n=2 c=3 k=2\n  y[n, c] = a[n, c]\n  y[n, k + 3] = b[n, k]")
    b = Builder("concat")
    for name, width in (("a", 3), ("b", 2)):
        b.input(name, TensorType("f32", (2, width)))
    b.add(Node("y", "kernel", ("a", "b"), TensorType("f32", (2, 6)), kernel=kernel))
    a, c = integers((2, 3), 1), integers((2, 2), 2)
    got = evaluate(b.graph([("y", "y")]), {"a": a, "b": c})["y"]
    np.testing.assert_array_equal(got, np.concatenate([a, c, np.zeros((2, 1))], 1))


def chain(length: int = 3) -> Graph:
    b = Builder("chain")
    x = b.input("x", TensorType("f32", ("N", 2)))
    b.input("unused", TensorType("f32", ("N", 1)))
    for i in range(length):
        x = b.op("add", [x, b.const(f"c{i}", np.float32([i, 1]))], f"v{i}")
    return b.graph([("y", x), ("same", x), ("x again", "x")])


def test_evaluate_keeps_what_is_asked_for() -> None:
    x = {"x": np.zeros((1, 2), np.float32), "unused": np.zeros((1, 1), np.float32)}
    got = evaluate(chain(), x)
    assert {k: v.tolist() for k, v in got.items()} == {"y": [[3, 3]], "same": [[3, 3]], "x again": [[0, 0]]}
    assert not any(np.may_share_memory(v, x["x"]) for v in got.values())
    got = evaluate(chain(), x, np.float64, keep=["v0", "c2"])
    assert {k: v.tolist() for k, v in got.items()} == {"v0": [[0, 1]], "c2": [2, 1]}
    assert all(v.dtype == np.float64 for v in got.values())
    assert evaluate(chain(2000), x)["y"].tolist() == [[1999000, 2000]]


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cnncc.ir.reference, "BLOCK", 1 << 14)
    b = Builder("c")
    x = b.input("x", TensorType("f32", ("N", 8, 64, 64)))
    w = b.const("w", np.ones((8, 8, 5, 5), np.float32))
    for _ in range(3):
        x = b.op("conv", [x, w], "y", group=1, strides=(1, 1), dilations=(1, 1), begin=(2, 2), end=(2, 2))
    inputs, unit = {"x": np.ones((2, 8, 64, 64), np.float32)}, 2 * 8 * 64 * 64 * 4
    tracemalloc.start()
    evaluate(b.graph([("y", x)]), inputs)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * unit                          # unrolled windows alone would be 25


# ---- as a model


def test_reference_is_called_as_a_model() -> None:
    ref = Reference(chain())
    assert ref.inputs == (Value("x", "float32", ("N", 2)), Value("unused", "float32", ("N", 1)))
    x, unused = np.ones((4, 2), np.float32), np.ones((4, 1), np.float32)
    y, _, again = ref(x, unused=unused)
    assert y.tolist() == [[4, 4]] * 4 and again.tolist() == x.tolist() and y.dtype == np.float32
    again, y = ref.run(["x again", "y"], {"x": x.tolist(), "unused": unused})
    assert y.tolist() == [[4, 4]] * 4 and again.tolist() == x.tolist()
    exact = Reference(chain(), "float64")
    assert exact.outputs[0].dtype == "float64" and exact(x, unused)[0].dtype == np.float64
    with pytest.raises(InputError, match=r"unknown output 'yy' \(is it 'y'\?\): .* y: float32\[N, 2\]"):
        ref.run(["yy"], {"x": x, "unused": unused})
    with pytest.raises(InputError, match="expected float32 or float64, got int32"):
        Reference(chain(), np.int32)


def signature() -> Signature:
    b = Builder("s")
    b.input("image", TensorType("f32", ("N", 3, 4)))
    b.input("mask", TensorType("u8", ("N", 1)))
    b.input("gain", TensorType("f32", ()))
    return Signature.of(b.graph([]))


IMAGE, MASK, GAIN = np.zeros((2, 3, 4), np.float32), np.zeros((2, 1), np.uint8), np.zeros((), np.float32)


@pytest.mark.parametrize(("args", "feeds", "message"), [
    ((IMAGE, MASK), {}, "missing input 'gain': the model takes image: float32[N, 3, 4], mask: uint8[N, 1]"),
    ((IMAGE, MASK, GAIN, GAIN), {}, "4 arrays were given: the model takes image"),
    ((IMAGE, MASK, GAIN), {"mask": MASK}, "input 'mask' was given twice"),
    ((IMAGE, MASK), {"gian": GAIN}, "unknown input 'gian' (is it 'gain'?)"),
    ((IMAGE.astype(np.float64), MASK, GAIN), {}, "input 'image': expected float32, got float64, which isn't"),
    ((IMAGE.astype(">f4"), MASK, GAIN), {}, "expected float32, got >f4"),
    ((IMAGE, MASK.astype(bool), GAIN), {}, "input 'mask': expected uint8, got bool"),
    ((IMAGE[:, :2], MASK, GAIN), {}, "input 'image': expected shape [N, 3, 4], got [2, 2, 4]"),
    ((IMAGE[0], MASK, GAIN), {}, "input 'image': expected shape [N, 3, 4], got [3, 4]"),
    ((IMAGE, MASK, GAIN.reshape(1)), {}, "input 'gain': expected shape [], got [1]"),
    ((IMAGE, MASK[:1], GAIN), {}, "input 'mask': expected N = 2 as in input 'image', got shape [1, 1]"),
    ((IMAGE[:0], MASK[:0], GAIN), {}, "expected shape [N, 3, 4] with N of at least 1, got [0, 3, 4]"),
    ((IMAGE, [[1], [2, 3]], GAIN), {}, "input 'mask': expected an array of uint8, got list"),
    ((IMAGE, [[1], [256]], GAIN), {}, "its numbers don't fit"),
    ((IMAGE, MASK, "1"), {}, "input 'gain': expected an array of float32, got str, which can't"),
    ((IMAGE, MASK, None), {}, "input 'gain': expected an array of float32, got NoneType"),
])
def test_what_does_not_fit_is_refused(args: tuple[Any, ...], feeds: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        signature().bind(args, feeds)
    assert message in str(caught.value)


def test_what_fits_is_taken() -> None:
    s = signature()
    for args, feeds in (((IMAGE, MASK, GAIN), {}), ((IMAGE, ), {"gain": GAIN, "mask": MASK}),
                        ((), {"gain": GAIN, "mask": MASK, "image": IMAGE})):
        arrays, n = s.bind(args, feeds)
        assert n == 2 and all(a is b for a, b in zip(arrays, (IMAGE, MASK, GAIN), strict=True))
    arrays, n = s.bind((IMAGE.tolist(), [[0], [255]], 1))
    assert n == 2 and [a.dtype for a in arrays] == [np.float32, np.uint8, np.float32]
    assert arrays[1].tolist() == [[0], [255]] and arrays[2] == 1


class Foreign:
    """An array of another library, without NumPy's own protocol."""

    def __init__(self, array: Array) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.array.__dlpack_device__()


def test_foreign_arrays() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.ones(2, 3, 4)
    arrays, _ = signature().bind((tensor, Foreign(MASK), GAIN))
    assert np.shares_memory(arrays[0], tensor.numpy()) and np.shares_memory(arrays[1], MASK)
    with pytest.raises(InputError, match=r"image.*grad"):
        signature().bind((tensor.requires_grad_(), MASK, GAIN))
