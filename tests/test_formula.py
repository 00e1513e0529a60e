"""The two languages of the IR print and parse; formulas find their shapes or say what doesn't fit."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnncc.ir.errors import InternalError, ModelError
from cnncc.ir.expr import Call, Const, Expr, Index, Load, loads, parse_expr, parse_index
from cnncc.ir.formula import FOLDS, Formula, bind, drop_units, outside, parse_formula
from cnncc.ir.graph import Builder
from cnncc.ir.kernel import Kernel, Stage, Tensor, parse_kernel
from cnncc.ir.layout import Layout, parse_layout
from cnncc.ir.ops import OPS
from cnncc.ir.reference import apply
from cnncc.ir.scalars import FUNCTIONS
from cnncc.ir.schedule import TWICE, Loop, Schedule, parse_schedule, tiles
from cnncc.ir.types import BYTES, NUMPY, TensorType, parse_type

QUICK = settings(max_examples=80, deadline=None)
EXTENTS = {"n": 2, "c": 3, "p": 4, "r0": 1, "k": 5}

dims = st.sampled_from(sorted(EXTENTS))
terms = st.dictionaries(dims, st.integers(-9, 9).filter(bool), max_size=3).map(lambda x: tuple(x.items()))
indices = st.builds(Index, terms, st.integers(-20, 20))
element = st.builds(Load, st.sampled_from(["x", "w", "acc", "t1"]), st.lists(indices, max_size=4).map(tuple))
constants = st.builds(Const, st.floats(allow_nan=False) | st.integers(-9, 9) | st.integers(-1 << 63, 1 << 63),
                      st.sampled_from(sorted(NUMPY)))


def calls(inner: st.SearchStrategy[Expr]) -> st.SearchStrategy[Expr]:
    """Calls of any function; a cast of a constant is the constant."""
    def call(fn: str, args: tuple[Expr, ...]) -> Expr:
        args = args[:len(FUNCTIONS[fn].args)]
        return args[0] if fn in NUMPY and isinstance(args[0], Const) else Call(fn, args)
    return st.builds(call, st.sampled_from(sorted(FUNCTIONS)), st.tuples(*(inner,) * 6))


expressions: st.SearchStrategy[Expr] = st.recursive(element | constants, calls, max_leaves=8)


def formula(out: Load, fold: str, expr: Expr) -> Formula:
    used = {d for x in (out, *loads(expr)) for i in x.index for d in i.dims}
    return Formula(out, fold, expr, tuple((d, e) for d, e in EXTENTS.items() if d in used))


formulas = st.builds(formula, element, st.sampled_from(FOLDS), expressions)


@st.composite
def layouts(draw: st.DrawFn, rank: int | None = None) -> Layout:
    """Axes in any order, some of them split once or twice."""
    rank = draw(st.integers(0, 6)) if rank is None else rank
    blocks = {a: draw(st.sampled_from([(), (), (2, ), (3, ), (4, 2)])) for a in range(rank)}
    order = draw(st.permutations([a for a, b in blocks.items() for _ in range(len(b) + 1)]))
    left = {a: [*b, 0] for a, b in blocks.items()}
    return Layout(tuple((a, left[a].pop(0)) for a in order))


kinds = st.sampled_from(["par", "for", "unroll", "simd"])
schedules = st.lists(st.builds(lambda kind, dim, step: Loop(kind, dim, 1 if kind == "simd" else step),
                               kinds, dims, st.integers(1, 64)), max_size=6).map(lambda x: Schedule(tuple(x)))
types = st.builds(TensorType, st.sampled_from(sorted(BYTES)),
                  st.lists(st.integers(1, 999) | st.just("N"), max_size=5).map(tuple))


@st.composite
def tensors(draw: st.DrawFn, name: str) -> Tensor:
    type = draw(types)
    return Tensor(name, type, draw(layouts(type.rank)))


stages = st.builds(Stage, st.lists(formulas, min_size=1, max_size=3).map(tuple), schedules)
kernels = st.builds(Kernel, st.tuples(tensors("x"), tensors("w"), tensors("y")),
                    st.lists(stages, max_size=2).map(tuple), st.just(()) | st.tuples(tensors("t")), schedules)


# ---- text


@QUICK
@given(indices)
def test_index_text(i: Index) -> None:
    assert parse_index(str(i)) == i


@settings(max_examples=300, deadline=None)
@given(expressions)
def test_expression_text(e: Expr) -> None:
    assert parse_expr(str(e)) == e


@QUICK
@given(formulas)
def test_formula_text(f: Formula) -> None:
    assert parse_formula(str(f), f.sizes) == f


@QUICK
@given(layouts())
def test_layout_text(layout: Layout) -> None:
    assert parse_layout(str(layout)) == layout


@QUICK
@given(schedules)
def test_schedule_text(schedule: Schedule) -> None:
    assert parse_schedule(str(schedule)) == schedule


@QUICK
@given(types)
def test_type_text(type: TensorType) -> None:
    assert parse_type(str(type)) == type


def in_order(k: Kernel) -> Kernel:
    """With the dimensions of all formulas in the order of their stage."""
    return Kernel(k.operands, tuple(Stage(tuple(
        Formula(f.out, f.fold, f.expr, tuple((d, e) for d, e in s.extents.items() if d in f.sizes))
        for f in s.formulas), s.schedule) for s in k.stages), k.scratch, k.loops)


@QUICK
@given(kernels.map(in_order))
def test_kernel_text(kernel: Kernel) -> None:
    assert parse_kernel(str(kernel)) == kernel


@pytest.mark.parametrize("text", ["x[a*b]", "x[a // 2]", "x[1.5]", "x if y else z", "foo(x)", "x ** 2",
                                  "x[a:b]", "x and y", "not x", "x < y < z", "exp(x, y)",
                                  "where(x, y)", "f32()", "x.y[a]", "x @ y",
                                  "'x'", "x[y[z[a]]]", "x[2*y[a]]", "x[y[a] + z[a]]", "f'{x}'", "lambda: x"])
def test_what_is_outside_the_language(text: str) -> None:
    with pytest.raises(InternalError):
        parse_expr(text)


@pytest.mark.parametrize("text", ["x[a]", "y[a] == x[a]", "y[a] -= x[a]", "2 = x[a]", ""])
def test_what_is_no_formula(text: str) -> None:
    with pytest.raises(InternalError):
        parse_formula(text, {"a": 2})


@pytest.mark.parametrize("text", ["paar k", "k:0", "par k 3", "unroll simd k"])
def test_what_is_no_schedule(text: str) -> None:
    with pytest.raises(InternalError):
        parse_schedule(text)


# ---- indices and dimensions


@QUICK
@given(indices, st.integers(1, 12))
def test_bounds(i: Index, extent: int) -> None:
    values = [i.const + sum(c * point[d] for d, c in i.terms)
              for numbers in itertools.product(*map(range, EXTENTS.values()))
              for point in [dict(zip(EXTENTS, numbers, strict=True))]]
    assert i.bounds(EXTENTS) == (min(values), max(values))
    assert outside(i, extent, EXTENTS) == any(not 0 <= v < extent for v in values)


@QUICK
@given(st.integers(1, 12), st.integers(1, 5), st.integers(1, 4), st.integers(0, 2), st.integers(1, 2))
def test_other_dimensions_same_value(blocks: int, tile: int, window: int, pad: int, stride: int) -> None:
    """p = tile*P + i visits the same points; so does a formula without its dimensions of extent 1."""
    extents = {"u": 1, "p": blocks * tile, "r": window}
    f = parse_formula(f"y[u, p] += x[{stride}*p + r - {pad}] * w[r, u]", extents)
    rng = np.random.default_rng(0)
    operands = {"x": rng.integers(-4, 5, (2 * blocks * tile, )), "w": rng.integers(-4, 5, (window, 1))}
    other = f.substitute({"p": Index((("P", tile), ("i", 1)))}, {"P": blocks, "i": tile})
    assert other.sizes == {"u": 1, "P": blocks, "i": tile, "r": window}
    small = drop_units(f)
    assert 1 not in small.sizes.values()
    expected = apply(f, operands, (1, blocks * tile), {})
    np.testing.assert_array_equal(apply(other, operands, expected.shape, {}), expected)
    np.testing.assert_array_equal(apply(small, operands, expected.shape, {}), expected)


def test_parts_of_a_formula() -> None:
    f, shape = bind("y[n, g*K + k, {p}] += x[n, g*C + c, {p*s + r*d - a | b}] * w[g*K + k, c, {r}]",
                    [("x", ("N", 6, 9, 7)), ("w", (4, 3, 3, 2))],
                    {"s0": 2, "s1": 1, "d0": 1, "d1": 2, "a0": 1, "a1": 0, "b0": 1, "b1": 1}, {"g": 2}, 2)
    assert shape == ("N", 4, 5, 6)
    assert f.sizes == {"n": "N", "g": 2, "k": 2, "p0": 5, "p1": 6, "c": 3, "r0": 3, "r1": 2}
    assert f.out_dims == ("n", "g", "k", "p0", "p1") and f.reduced == ("c", "r0", "r1")
    assert str(f) == ("y[n, 2*g + k, p0, p1] += x[n, 3*g + c, 2*p0 + r0 - 1, p1 + 2*r1]"
                      " * w[2*g + k, c, r0, r1]")
    assert [x.tensor for x in f.renamed({"x": "input"}).loads] == ["input", "w"]
    assert outside(f.loads[0].index[2], 9, f.sizes) and not outside(f.loads[0].index[1], 6, f.sizes)


# ---- shapes that don't fit

CONV: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "begin": (0, 0), "end": (0, 0)}


@pytest.mark.parametrize(("op", "shapes", "attrs", "message"), [
    ("conv", [(1, 6, 5, 5), (4, 3, 6, 3)], CONV | {"group": 2}, "too small for the window"),
    ("conv", [(1, 7, 5, 5), (4, 3, 3, 3)], CONV | {"group": 2}, "7 channels don't divide into 2 groups"),
    ("conv", [(1, 6, 5, 5), (5, 3, 3, 3)], CONV | {"group": 2}, "5 channels don't divide into 2 groups"),
    ("conv", [(1, 6, 5, 5), (4, 2, 3, 3)], CONV | {"group": 2}, "2 elements where 3 are expected"),
    ("conv", [(1, 6, 5, 5), (4, 6, 3)], CONV | {"group": 1}, "has rank 3, expected 4"),
    ("conv", [(1, 6, 5, "N"), (4, 6, 3, 3)], CONV | {"group": 1}, "extent N doesn't fit"),
    ("linear", [(1, 6), (4, 7)], {}, "7 elements where 6 are expected"),
    ("max_pool", [(1, 6, 5, 2)], CONV | {"kernel": (2, 3)}, "too small for the window"),
    ("add", [(2, 3), (2, )], {}, r"shapes don't broadcast: \[2, 3\] and \[2\]"),
    ("add", [("N", 3), (2, 3)], {}, r"don't broadcast: \['N', 3\] and \[2, 3\]"),
    ("reshape", [("N", 3, 2)], {"shape": ("N", 5)}, "can't reshape"),
    ("reshape", [("N", 3)], {"shape": (3, )}, "can't reshape"),
])
def test_shapes_that_do_not_fit(op: str, shapes: list[tuple[Any, ...]], attrs: dict[str, Any],
                                message: str) -> None:
    with pytest.raises(ModelError, match=message):
        OPS[op].infer([TensorType("f32", s) for s in shapes], attrs)


def test_values_are_defined_once() -> None:
    b = Builder("twice")
    b.input("x", TensorType("f32", (1, )))
    with pytest.raises(ModelError, match="'x' is defined twice"):
        b.input("x", TensorType("f32", (1, )))


# ---- memory order and tiles


@given(st.lists(st.integers(1, 7), max_size=4), st.data())
@QUICK
def test_pack(shape: list[int], data: st.DataObject) -> None:
    layout = data.draw(layouts(len(shape)))
    array = 1 + np.arange(math.prod(shape)).reshape(shape)
    packed = layout.pack(array)
    assert packed.shape == (layout.elements(shape), ) == (math.prod(layout.physical(shape)), )
    expected = np.zeros_like(packed)
    for place in np.ndindex(*shape):
        offset = 0
        for axis, i in enumerate(place):
            for divisor, modulus, stride in layout.parts(axis, shape):
                offset += (i % modulus if modulus else i) // divisor * stride
        assert expected[offset] == 0
        expected[offset] = array[place]
    np.testing.assert_array_equal(packed, expected)


def test_blocks_are_padded_with_zeros() -> None:
    layout = parse_layout("n, c:4, h, w, c")
    assert layout == Layout.blocked(4, 1, 4) and layout.block(1) == 4 and layout.block(2) == 1
    packed = layout.pack(np.arange(1, 13).reshape(1, 6, 1, 2))
    assert packed.tolist() == [1, 3, 5, 7, 2, 4, 6, 8, 9, 11, 0, 0, 10, 12, 0, 0]
    assert parse_layout("n, c, h, w") == Layout.plain(4)
    with pytest.raises(InternalError, match="symbolic"):
        parse_layout("n:2, c, n").physical(("N", 3))


@given(st.integers(1, 300), st.integers(1, 80), st.sampled_from([1, 4, 16]))
@QUICK
def test_tiles(extent: int, step: int, unit: int) -> None:
    runs = tiles(extent, step, unit)
    found = [(first + j * size, size) for first, size, count in runs for j in range(count)]
    most = max(step, unit)
    assert len(runs) <= 3 and all(count > 0 for *_, count in runs)      # however long the extent is
    assert [start for start, _ in found] == [sum(n for _, n in found[:i]) for i in range(len(found))]
    assert sum(n for _, n in found) == extent and all(0 < n <= most for _, n in found)
    assert all(start % unit == 0 for start, _ in found)
    assert len(found) == math.ceil(math.ceil(extent / unit) / max(1, step // unit))     # the fewest
    blocks = [math.ceil(n / unit) for _, n in found]
    assert max(blocks) - min(blocks) <= 1
    (first, size, count), *more = tiles(extent, step, unit, even=True)
    if not more and count > 1:              # of one size, the last one where it ends at the extent
        starts = [min(j * size, extent - size) for j in range(count)]
        assert first == 0 and size <= most and count == len(found) and all(s % unit == 0 for s in starts)
        assert {i for s in starts for i in range(s, s + size)} == {*range(extent)}
        assert count * size <= extent * (1 + TWICE)
    else:
        assert [(first, size, count), *more] == runs
