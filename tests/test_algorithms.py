"""Winograd's convolution: its matrices, exact integers, its rounding, when it is chosen."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import Net, Oracle, compiled, feeds, missing, poison, results

import cnncc
from cnncc.compiler import optimize
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.target import LEVELS, Target, target_for
from cnncc.passes import algorithms, winograd

FEW = settings(max_examples=25, deadline=None)
SCALE = {2: 2, 4: 24, 6: 1}
"""The weights' multiple per axis that makes the transformed weights whole numbers; of 6 there is none."""
CLOSE = 1e-4                # of the largest result, where the transformed weights are rounded


def forced(graph: Graph, m: int, **target: Any) -> Graph:
    """The graph with every convolution in tiles of m."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithms, "tile_sizes", lambda n, g, t: {1: 1.0, m: 0.0} if n.op == "conv" else {})
        return algorithms.choose_algorithms(graph, replace(target_for(), **target))


@pytest.mark.parametrize(("m", "r"), [(2, 2), (2, 3), (3, 3), (4, 3), (3, 4), (2, 5), (5, 2), (6, 3), (4, 5),
                                    (2, 7), (4, 4), (6, 2)])
def test_matrices(m: int, r: int) -> None:
    """F(m, r) of integers is their convolution, exactly where the rounding of G is undone."""
    t = winograd.transform(m, r)
    exact = [[Fraction(x).limit_denominator(1000) for x in row] for row in t.weights]
    rng = np.random.default_rng(m * r)
    d, g = (rng.integers(-9, 10, n).tolist() for n in (m + r - 1, r))
    u = [sum(a * b for a, b in zip(row, g, strict=True)) for row in exact]
    v = [sum(Fraction(a) * b for a, b in zip(row, d, strict=True)) for row in t.input]
    y = [sum(Fraction(a) * b * c for a, b, c in zip(row, u, v, strict=True)) for row in t.output]
    assert y == [sum(d[i + k] * g[k] for k in range(r)) for i in range(m)]


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("m", [2, 4, 6])
@pytest.mark.parametrize(("size", "window", "begin", "end", "batch", "dilations"), [
    ((14, 9), (3, 3), (1, 1), (1, 1), "N", (1, 1)), ((7, 7), (3, 3), (1, 1), (1, 1), 1, (1, 1)),
    ((8, 12), (3, 3), (0, 2), (2, 0), 2, (1, 1)), ((3, 3), (3, 3), (0, 0), (0, 0), 1, (1, 1)),
    ((37,), (3,), (1,), (1,), "N", (1,)), ((9, 6), (3, 1), (1, 0), (1, 0), 1, (1, 1)),
    ((6, 9), (1, 3), (0, 1), (0, 1), 3, (1, 1)), ((5, 6), (2, 3), (0, 1), (1, 1), 1, (1, 1)),
    ((4, 5, 6), (3, 3, 3), (1, 1, 1), (1, 1, 1), 1, (1, 1, 1)), ((37,), (3,), (2,), (2,), "N", (2,)),
    ((16, 11), (3, 3), (2, 3), (2, 3), 2, (2, 3)), ((13, 9), (3, 2), (5, 0), (1, 4), 1, (3, 4)),
    ((29,), (3,), (0,), (0,), 1, (5,)), ((9, 7), (3, 1), (1, 0), (1, 0), 1, (1, 2))])
def test_exact(size: tuple[int, ...], window: tuple[int, ...], begin: tuple[int, ...], end: tuple[int, ...],
               batch: int | str, dilations: tuple[int, ...], m: int, level: str) -> None:
    """Ragged tiles, padding, one to three axes, dilated, in groups, with a bias, a residual and more."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    graph = scaled(size, window, batch, m, begin=begin, end=end, dilations=dilations)
    model = compiled(forced(graph, m), replace(target_for(level), strict=True))
    assert any("output_transform" in s.ops for s in model.plan.steps)
    check(model, graph, batch, m)


def scaled(size: tuple[int, ...], window: tuple[int, ...], batch: int | str, m: int, **how: Any) -> Graph:
    """A convolution whose transformed weights are whole numbers, with a bias, maybe a residual, and ReLU."""
    net = Net(reach=1)
    x = net.x(batch, 32, *size)
    y = net.bias(net.conv(x, 32, window, group=2, **how))
    if net.type(y).shape == net.type(x).shape:
        y = net.op("add", [y, x], "sum")
    graph = net.result(net.relu(y))
    scale = SCALE[m] ** sum(r > 1 for r in window)
    weights = next(n.inputs[1] for n in graph if n.op == "conv")
    return replace(graph, constants={**graph.constants, weights: graph.constants[weights] * scale})


def check(model: cnncc.CompiledModel, graph: Graph, batch: int | str, m: int) -> None:
    inputs = feeds(graph, 3 if batch == "N" else 1, reach=1)
    poison(model, inputs)
    truth = Oracle(graph, inputs).outputs["y0"]
    bound = CLOSE * np.abs(truth).max() if SCALE[m] == 1 else 0
    np.testing.assert_allclose(results(model, inputs)["y0"], truth, rtol=0, atol=bound)


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize(("m", "l2"), [(2, 1 << 11), (4, 1 << 11), (4, 1 << 12), (6, 1 << 12)])
@pytest.mark.parametrize(("size", "begin", "end", "batch"), [
    ((30, 29), (1, 1), (1, 1), "N"), ((32, 32), (1, 1), (1, 1), 1), ((27, 41), (0, 2), (2, 0), 2),
    ((34, 36), (0, 0), (0, 0), 1), ((56, 41), (1, 1), (1, 1), 1), ((9, 14, 22), (1, 1, 1), (1, 1, 1), 1)])
def test_strips(size: tuple[int, ...], begin: tuple[int, ...], end: tuple[int, ...], batch: int | str, m: int,
                l2: int, level: str) -> None:
    """Transforms of two axes share strips of rows of a vector of channels, padding left out at both ends."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    graph = scaled(size, (3,) * len(size), batch, m, begin=begin, end=end)
    target = target_for(level, "strict")
    target = replace(target, l2=l2 * target.lanes)
    model = compiled(forced(graph, m, l2=target.l2), target)
    does = {s.ops.partition("+")[0] for s in model.plan.steps}
    tiles = math.prod(-(-(e + b + d - 2) // m) for e, b, d in zip(size, begin, end, strict=True))
    assert {"input_transform>input_transform", "output_transform>output_transform"} <= does \
        or len(size) > 2 or tiles < winograd.TILES
    check(model, graph, batch, m)


@FEW
@given(c=st.sampled_from([16, 32, 80]), k=st.sampled_from([16, 48]), h=st.integers(3, 20),
       w=st.integers(3, 20), m=st.sampled_from([2, 4, 6]), pad=st.integers(0, 2))
def test_rounding(c: int, k: int, h: int, w: int, m: int, pad: int) -> None:
    """Errors as a part of the largest result: about those of plain sums, ten times those for m = 4 and 6."""
    net = Net(real=True)
    graph = net.result(net.conv(net.x(1, c, h, w), k, (3, 3), begin=(pad, pad)))
    inputs = feeds(graph, real=True)
    truth = Oracle(graph, inputs).outputs["y0"]
    got = results(compiled(forced(graph, m), target_for(precision="strict")), inputs)["y0"]
    assert np.abs(got - truth).max() <= {2: 2e-6, 4: 3e-5, 6: 6e-5}[m] * np.abs(truth).max()


def chosen(graph: Graph, target: Target) -> set[str]:
    return {str(n.attr["does"]).partition("+")[0] for n in optimize(graph, target) if n.kernel is not None}


def test_when_it_is_chosen() -> None:
    def graph(c: int = 64, **how: Any) -> Graph:
        net = Net()
        return net.result(net.conv(net.x(1, c, 28, 28), 64, **{"kernel": (3, 3), "begin": (1, 1)} | how))
    target = target_for()
    assert "input_transform" in chosen(graph(), target)
    assert "input_transform" not in chosen(graph(), target_for(precision="strict"))
    for other in (graph(strides=(2, 2)), graph(3), graph(67),
                  graph(kernel=(1, 1), begin=(0, 0)), graph(group=64), graph(kernel=(9, 9), begin=(4, 4))):
        assert "input_transform" not in chosen(other, target)


def test_sums_over_many_channels_are_divided() -> None:
    """Two convolutions of half of the channels, read in place, where images and weights leave L2."""
    net = Net(reach=1)
    y = net.relu(net.bias(net.conv(net.relu(net.conv(net.x(1, 8, 7, 7), 2048, (1, 1))), 512, (1, 1))))
    graph, target = net.result(y), replace(target_for("x86-64-v3", "strict"), l2=1 << 19)
    kernels = [n for n in optimize(graph, target) if n.kernel is not None and "conv" in n.attr["does"]]
    assert [len(n.inputs) for n in kernels] == [2, 2, 4]
    inputs = feeds(graph, reach=1)
    got = results(compiled(graph, target), inputs)["y0"]
    np.testing.assert_array_equal(got, Oracle(graph, inputs).outputs["y0"])
    assert len(optimize(graph, replace(target, l2=1 << 21)).nodes) < len(optimize(graph, target).nodes)


def test_scattered_pixels_stay_compact() -> None:
    """A strided convolution of single pixels reads a copy, over which its tiles go from row to row."""
    net = Net(reach=1)
    graph = net.result(net.conv(net.relu(net.conv(net.x(1, 8, 14, 14), 64, (1, 1))), 64, (1, 1), (2, 2)))
    kernels = [n for n in optimize(graph, target_for(precision="strict")) if n.kernel is not None]
    assert [n.attr["does"] for n in kernels] == ["conv+relu", "slice", "conv", "copy"]
    inputs = feeds(graph, reach=1)
    np.testing.assert_array_equal(results(compiled(graph), inputs)["y0"], Oracle(graph, inputs).outputs["y0"])


def test_the_reference_agrees_after_the_pass() -> None:
    net = Net(real=True)
    y = net.relu(net.bias(net.conv(net.x("N", 32, 13, 10), 32, (3, 3), begin=(1, 1))))
    graph = net.result(net.conv(y, 32, (3, 3), end=(1, 0)))
    inputs = feeds(graph, 2, real=True)
    for m in (2, 4, 6):
        before, after = (evaluate(g, inputs, np.float64)["y0"] for g in (graph, forced(graph, m)))
        assert np.abs(before - after).max() <= 1e-6 * np.abs(before).max()


def test_many_channels_of_a_single_tile() -> None:
    """The products of a point are sums over whole blocks of channels, however many are unrolled."""
    net = Net(real=True)
    x = net.conv(net.x("N", 512, 4, 4), 512, (3, 3), begin=(1, 1), end=(1, 1))
    graph = net.result(net.conv(net.relu(x), 512, (3, 3), begin=(1, 1), end=(1, 1)))
    inputs = feeds(graph, real=True)
    y = results(cnncc.compile(graph, cache=False), inputs)["y0"]
    truth = evaluate(graph, inputs, np.float64)["y0"]
    assert np.abs(y - truth).max() <= 3e-5 * np.abs(truth).max()


def test_precision_is_an_argument() -> None:
    net = Net(real=True)
    graph = net.result(net.conv(net.x(1, 64, 28, 28), 64, (3, 3), begin=(1, 1)))
    inputs = feeds(graph, real=True)
    fast, strict = (cnncc.compile(graph, cache=False, precision=p) for p in ("fast", "strict"))
    assert len(fast.plan.steps) > len(strict.plan.steps)
    a, b = (results(model, inputs)["y0"] for model in (fast, strict))
    assert not np.array_equal(a, b) and np.abs(a - b).max() <= 3e-5 * np.abs(b).max()
    with pytest.raises(cnncc.InputError, match="fast, strict"):
        cnncc.compile(graph, precision="exact")


def pooled(conv: dict[str, Any], pool: dict[str, Any], others: bool = False) -> Graph:
    net = Net(reach=2)
    y = net.conv(net.relu(net.x("N", 24, 9, 10)), **({"k": 40, "kernel": (1, 1)} | conv))
    pool = {"kernel": (2, 2), "strides": (2, 2)} | pool
    return net.result(net.relu(net.bias(net.pool(y, "sum_pool", **pool))), *[y] * others)


@pytest.mark.parametrize(("conv", "pool", "first"), [
    ({}, {}, True), ({"group": 4}, {}, True), ({}, {"kernel": (3, 2), "begin": (1, 0), "end": (0, 1)}, True),
    ({"kernel": (3, 3)}, {}, False), ({"strides": (2, 2)}, {}, False), ({"begin": (1, 1)}, {}, False),
    ({}, {"strides": (1, 1), "begin": (1, 1)}, False),
    ({"k": 1}, {"kernel": (3, 3), "strides": (1, 1)}, False)])
def test_sums_over_windows_come_before_pointwise_convolutions(conv: dict[str, Any], pool: dict[str, Any],
                                                              first: bool) -> None:
    graph = pooled(conv, pool)
    ops = [n.op for n in algorithms.pool_first(graph, target_for()) if n.op in ("conv", "sum_pool")]
    assert ops == (["sum_pool", "conv"] if first else ["conv", "sum_pool"])
    inputs = feeds(graph, 2, reach=2)
    np.testing.assert_array_equal(results(compiled(graph), inputs)["y0"], Oracle(graph, inputs).outputs["y0"])


def test_a_convolution_that_others_read_stays_before_its_pool() -> None:
    ops = [n.op for n in algorithms.pool_first(pooled({}, {}, True), target_for())]
    assert ops.index("conv") < ops.index("sum_pool")
