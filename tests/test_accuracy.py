"""Real numbers: sums and functions within their bounds of float64, NaN and infinity as PyTorch has them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernels import Net, Oracle, check_sums, compiled, feeds, results

from cnncc.ir.types import TensorType

Array = np.ndarray[Any, Any]
INF, NAN = float("inf"), float("nan")
FEW = settings(max_examples=30, deadline=None)


def wide(inputs: dict[str, Array], spread: float, seed: int = 3) -> dict[str, Array]:
    """The same with magnitudes that vary by powers of ten."""
    rng = np.random.default_rng(seed)
    return {
        k: (v * 10.0 ** rng.uniform(-spread, spread, v.shape)).astype(np.float32) for k, v in inputs.items()
    }


@FEW
@given(c=st.integers(1, 70), k=st.integers(1, 40), r=st.integers(1, 5), size=st.integers(5, 20),
       kind=st.sampled_from(["dense", "depthwise"]), spread=st.sampled_from([0, 3, 12]))
def test_convolutions(c: int, k: int, r: int, size: int, kind: str, spread: int) -> None:
    group = c if kind == "depthwise" else 1
    net = Net(real=True)
    y = net.conv(
        net.x("N", c, size, size + 3), c if group > 1 else k, (r, r), begin=(r // 2,) * 2, group=group
    )
    graph = net.result(y)
    check_sums(graph, c // group * r * r, wide(feeds(graph, 2, real=True), spread))


@FEW
@given(c=st.integers(1, 600), k=st.integers(1, 70), n=st.integers(1, 5), spread=st.sampled_from([0, 3]))
def test_linear(c: int, k: int, n: int, spread: int) -> None:
    net = Net(real=True)
    graph = net.result(net.linear(net.x("N", c), k))
    check_sums(graph, c, wide(feeds(graph, n, real=True), spread))


@FEW
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 30), st.integers(1, 30)),
       axes=st.sampled_from([(1,), (2,), (3,), (2, 3), (1, 2, 3)]), spread=st.sampled_from([0, 3]))
def test_reduced_sums(shape: tuple[int, ...], axes: tuple[int, ...], spread: int) -> None:
    net = Net(real=True)
    graph = net.result(net.op("reduce_sum", [net.x("N", *shape)], "sum", axes=axes, keepdims=False))
    check_sums(graph, math.prod(shape[a - 1] for a in axes), wide(feeds(graph, 2, real=True), spread))


@pytest.mark.parametrize("shape", [(1, 3, 500, 600), (2, 40, 1500), (1, 5000), (3, 1, 80, 90)], ids=str)
def test_long_sums_are_made_of_parts(shape: tuple[int, ...]) -> None:
    """The error grows with the square root of the number of terms, not with the number."""
    net = Net(real=True)
    axes = tuple(range(1 if shape[1] == 1 or len(shape) == 2 else 2, len(shape)))
    graph = net.result(net.op("reduce_sum", [net.x("N", *shape[1:])], "sum", axes=axes, keepdims=False))
    x = np.random.default_rng(0).uniform(1, 2, shape).astype(np.float32)
    exact, terms = x.astype(np.float64).sum(axes), math.prod(shape[a] for a in axes)
    got = results(compiled(graph), {"x0": x})["y0"]
    assert (np.abs(got - exact) <= 3 * math.sqrt(terms) * 2.0 ** -24 * exact).all()


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_pooled_sums(rank: int) -> None:
    net = Net(real=True)
    graph = net.result(
        net.pool(net.x("N", 19, *[9] * rank), "sum_pool", (3,) * rank, (2,) * rank, (), (1,) * rank)
    )
    check_sums(graph, 3 ** rank, wide(feeds(graph, 2, real=True), 2))


def test_a_bias_and_a_residual_add_one_rounding_each() -> None:
    net = Net(real=True)
    x = net.x("N", 33, 10, 10)
    y = net.op("add", [net.bias(net.conv(x, 33, (3, 3), begin=(1, 1))), x], "sum")
    graph = net.result(y)
    inputs = feeds(graph, 2, real=True)
    oracle = Oracle(graph, inputs)
    got = results(compiled(graph), inputs)["y0"]
    sums = oracle.sums["conv"] + np.abs(net.constants["w.1"]) + np.abs(inputs[x])
    assert (np.abs(got - oracle.outputs["y0"]) <= (33 * 9 + 4) * 2.0 ** -24 * sums).all()


def test_tiny_numbers() -> None:
    """Products below the least normal number may vanish, nothing else may."""
    net = Net(real=True)
    graph = net.result(net.linear(net.x("N", 100), 20))
    inputs = feeds(graph, 3, real=True)
    check_sums(graph, 100, {k: (v * 1e-36).astype(np.float32) for k, v in inputs.items()})


def test_means() -> None:
    net = Net(real=True)
    graph = net.result(net.op("reduce_mean", [net.x("N", 20, 7, 7)], "mean", axes=(2, 3), keepdims=True))
    inputs = feeds(graph, 3, real=True)
    oracle = Oracle(graph, inputs)
    error = np.abs(results(compiled(graph), inputs)["y0"] - oracle.outputs["y0"])
    assert (error <= 52 * 2.0 ** -24 * oracle.sums["mean"] / 49).all()


# ---- functions


def ulps(got: Array, exact: Array) -> Array:
    """The distance in units of the last place of float32; results below the least normal number may be 0."""
    with np.errstate(all="ignore"):
        unit = np.spacing(np.maximum(np.abs(exact), 2.0 ** -126).astype(np.float32)).astype(np.float64)
        distance = np.abs(got.astype(np.float64) - exact) / unit
    return np.where((np.abs(exact) < 2.0 ** -126) & (got == 0), 0, distance)


def exp_of(x: Array) -> Array:
    net = Net()
    graph = net.result(net.op("exp", [net.x("N")], "exp"))
    return np.asarray(results(compiled(graph), {"x0": x})["y0"])


def test_exp_over_the_whole_range() -> None:
    x = np.concatenate(
        [
            np.linspace(-104, 88.7228, 400_001),
            np.linspace(-1e-3, 1e-3, 10_001),
            np.float32(2.0) ** np.arange(-149, 7),
            -(np.float32(2.0) ** np.arange(-149, 7)),
            np.log(2) * np.arange(-126, 128) / 1,
            np.log(2) * (np.arange(-126, 128) - 0.5),
        ]
    ).astype(np.float32)
    with np.errstate(over="ignore"):
        exact = np.exp(x.astype(np.float64))
    fits = exact <= np.finfo(np.float32).max
    got = exp_of(x)
    assert ulps(got[fits], exact[fits]).max() <= 2, x[fits][np.argmax(ulps(got[fits], exact[fits]))]
    assert np.isposinf(got[exact > 2.0 ** 128]).all()


def test_exp_of_what_is_no_number_or_too_large() -> None:
    x = np.array([NAN, INF, -INF, 1e-40, -1e-40, 0.0, -0.0, 89, 1e30, -104, -150, -1e30], np.float32)
    np.testing.assert_array_equal(exp_of(x), [NAN, INF, 0, 1, 1, 1, 1, INF, INF, 0, 0, 0])


def softmax_of(x: Array, axis: int) -> Array:
    net = Net()
    graph = net.result(net.op("softmax", [net.x("N", *x.shape[1:])], "p", axis=axis))
    return np.asarray(results(compiled(graph), {"x0": x})["y0"])


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ((3, 10), 1),
        ((2, 1000), 1),
        ((4, 1), 1),
        ((2, 21, 5, 6), 1),
        ((2, 7, 33), 2),
        ((3, 5, 4), 1),
        ((1, 5000), 1),
    ],
)
@pytest.mark.parametrize("scale", [1, 30, 1e4])
def test_softmax(shape: tuple[int, ...], axis: int, scale: float) -> None:
    x = (np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)
    got = softmax_of(x, axis)
    shifted = (x - x.max(axis, keepdims=True)).astype(np.float64)      # that difference rounds, as everywhere
    e = np.exp(shifted)
    exact = e / e.sum(axis, keepdims=True)
    normal = exact > 2.0 ** -120
    assert ulps(got, exact)[normal].max(initial=0) <= 8 + shape[axis] / 8
    np.testing.assert_allclose(got.sum(axis, dtype=np.float64), 1, rtol=shape[axis] * 2.0**-24 + 8 * 2.0**-24)
    assert (got >= 0).all()


def test_softmax_of_infinities_as_pytorch() -> None:
    torch = pytest.importorskip("torch")
    rows = np.zeros((7, 20), np.float32)
    rows[0, 3] = -INF
    rows[1, :] = -INF
    rows[2, 5] = INF
    rows[3, 6] = NAN
    rows[4, ::2] = -INF
    rows[5] = 3e38
    rows[6, :10] = -3e38
    expected = torch.softmax(torch.tensor(rows), 1).numpy()
    np.testing.assert_allclose(softmax_of(rows, 1), expected, rtol=1e-6)


# ---- NaN and infinity


SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.5, -1.5, 3e38, -3e38, 2e-38]


def specials(shape: tuple[int, ...], seed: int = 0, often: float = 0.3) -> Array:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(shape) < often, rng.choice(SPECIAL, shape), rng.standard_normal(shape)).astype(
        np.float32
    )


@pytest.mark.parametrize("shape", [(4, 37), (2, 19, 5, 6)])
@pytest.mark.parametrize("first", ["nothing", "scale"])
def test_pointwise_as_pytorch(shape: tuple[int, ...], first: str) -> None:
    torch = pytest.importorskip("torch")
    net = Net()
    x = net.x("N", *shape[1:])
    x = x if first == "nothing" else net.op("scale", [x], "scale", factor=-1.0)
    graph = net.result(
        net.relu(x),
        net.op("clip", [x], "clip", low=-1.0, high=1.0),
        net.op("clip", [x], "low", low=-1.0, high=INF),
        net.op("clip", [x], "high", low=-INF, high=1.0),
    )
    a = specials(shape)
    got = results(compiled(graph), {"x0": a})
    t = torch.tensor(a if first == "nothing" else -a)
    for name, expected in zip(
        got, (torch.relu(t), t.clamp(-1, 1), t.clamp(min=-1), t.clamp(max=1)), strict=True
    ):
        np.testing.assert_array_equal(got[name], expected.numpy())


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div"])
def test_arithmetic_as_numpy(op: str) -> None:
    net = Net()
    a, b = specials((5, 60), 1, 0.6), specials((5, 60), 2, 0.6)
    graph = net.result(net.op(op, [net.x("N", 60), net.x("N", 60)], op))
    with np.errstate(all="ignore"):
        expected = {"add": a + b, "sub": a - b, "mul": a * b, "div": a / b}[op]
    got = results(compiled(graph), {"x0": a, "x1": b})["y0"]
    np.testing.assert_array_equal(got, np.where(np.abs(expected) < 2.0 ** -126, expected * 0, expected))


@pytest.mark.parametrize("channels", [1, 5, 16, 33])
@pytest.mark.parametrize(("r", "s", "p"), [(2, 2, 0), (3, 2, 1), (3, 1, 1)])
@pytest.mark.parametrize("before", [False, True])
def test_max_pools_as_pytorch(channels: int, r: int, s: int, p: int, before: bool) -> None:
    """As a kernel of its own, and joined to the convolution before it (by one, which changes nothing)."""
    torch = pytest.importorskip("torch")
    net = Net()
    x = net.x("N", channels, 9, 10)
    if before:
        x = net.op(
            "conv",
            [x, net.const("w", np.ones((channels, 1, 1, 1), np.float32))],
            "conv",
            strides=(1, 1),
            dilations=(1, 1),
            begin=(0, 0),
            end=(0, 0),
            group=channels,
        )
    graph = net.result(net.pool(x, "max_pool", (r, r), (s, s), begin=(p, p)))
    for a in (specials((2, channels, 9, 10), 1, 0.05), np.full((1, channels, 9, 10), -INF, np.float32)):
        expected = torch.nn.functional.max_pool2d(torch.tensor(a), r, s, p).numpy()
        np.testing.assert_array_equal(results(compiled(graph), {"x0": a})["y0"], expected)


@pytest.mark.parametrize("axes", [(1,), (2,), (1, 2)])
def test_reduced_maxima_keep_nan(axes: tuple[int, ...]) -> None:
    net = Net()
    graph = net.result(net.op("reduce_max", [net.x("N", 37, 18)], "max", axes=axes, keepdims=False))
    for a in (specials((30, 37, 18), 1, 0.004), np.full((2, 37, 18), -INF, np.float32)):
        np.testing.assert_array_equal(results(compiled(graph), {"x0": a})["y0"], a.max(axes))


@pytest.mark.parametrize(("c", "k", "g"), [(5, 20, 1), (17, 17, 17), (20, 33, 1)])
def test_convolutions_pass_nan_and_infinity_on(c: int, k: int, g: int) -> None:
    """Exactly the results whose window sees them; what is beyond an extent in memory shows nowhere."""
    torch = pytest.importorskip("torch")
    net = Net(real=True)
    y = net.conv(net.x("N", c, 9, 11), k, (3, 3), begin=(1, 1), group=g)
    graph = net.result(net.conv(net.relu(y), k, (1, 1), group=k))
    a = np.random.default_rng(0).standard_normal((3, c, 9, 11)).astype(np.float32)
    a[0, c - 1, 4, 5], a[1, 0, 0, 0], a[2, c // 2, 8, 10] = NAN, INF, -INF
    t = torch.nn.functional.conv2d(
        torch.tensor(a).double(), torch.tensor(net.constants["w"]).double(), None, 1, 1, 1, g
    )
    expected = torch.nn.functional.conv2d(
        torch.relu(t), torch.tensor(net.constants["w.1"]).double(), None, 1, 0, 1, k
    )
    got = results(compiled(graph), {"x0": a})["y0"]
    np.testing.assert_allclose(got, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_the_callers_floating_point_state_comes_back() -> None:
    net = Net()
    graph = net.result(net.op("scale", [net.input("x", TensorType("f32", ("N",)))], "half", factor=0.5))
    tiny = np.full(3, 1e-40, np.float32)
    assert not results(compiled(graph), {"x": tiny})["y0"].any()           # flushed while it runs
    assert (tiny * np.float32(0.5)).all()                                  # and not after
