"""Elementwise producers: a part of the fold that reads them once, a stage of the sum that does so often."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from kernels import Net, Oracle, check_exact, compiled, feeds, missing, poison, results

from cnncc.compiler import optimize, plan
from cnncc.ir.graph import Graph
from cnncc.ir.target import LEVELS, Target, target_for
from cnncc.passes import inputs, stages


def does(graph: Graph, target: Target | None = None) -> list[str]:
    """What the kernels of the compiled graph do."""
    target = target or target_for(precision="strict")
    return [str(n.attr["does"]) for n in optimize(graph, target) if n.kernel]


@pytest.fixture
def staged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands are stages wherever they can be, whatever it costs."""
    for name, value in {"GAIN": 1e9, "STAYS": 0.0, "FILLED": 1e9}.items():
        monkeypatch.setattr(inputs, name, value)


def norm(net: Net, x: str) -> str:
    """Batch normalization and ReLU of a value that others read too."""
    channels, ones = int(net.type(x).shape[1]), (1,) * (net.type(x).rank - 2)
    scaled = net.op("mul", [x, net.weights(channels, *ones)], "scaled")
    return net.relu(net.op("add", [scaled, net.weights(channels, *ones)], "shifted"))


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize(("fold", "joined"), [
    (lambda n, y: n.pool(y, "sum_pool", (2, 2), (2, 2)), True),
    (lambda n, y: n.pool(y, "max_pool", (3, 2), (2, 2), begin=(1, 0)), True),
    (lambda n, y: n.pool(y, "max_pool", (5, 5), begin=(2, 2)), False),
    (lambda n, y: n.op("reduce_sum", [y], "sum", axes=(2, 3), keepdims=False), True),
    (lambda n, y: n.op("reduce_max", [y], "top", axes=(1,), keepdims=True), True)])
def test_folds_compute_their_elements(fold: Callable[[Net, str], str], joined: bool,
                                      batch: int | str) -> None:
    """Where windows overlap little, what is elementwise before a fold is in it, padding left out."""
    net = Net()
    x = net.conv(net.x(batch, 5, 9, 11), 20, (1, 1))
    graph = net.result(fold(net, norm(net, x)), x)
    assert any("relu+" in d for d in does(graph)) == joined
    check_exact(graph, *((1, 3) if batch == "N" else ()))


def test_parts_and_broadcast_operands_are_no_operand_of_the_fold() -> None:
    """Only the padding of an operand of the same extent is left out in the same way."""
    net = Net()
    x, row = net.x("N", 5, 8, 9), net.x("N", 5, 1, 9)
    wide = net.relu(net.op("add", [net.op("expand", [row], "wide", shape=("N", 5, 8, 9)), x], "sum"))
    narrow = net.relu(net.op("expand", [row], "rows", shape=("N", 5, 8, 9)))
    part = net.relu(net.cut(x, {2: range(2, 7)}))
    pooled = [net.pool(y, "max_pool", (2, 2), (2, 2), begin=(1, 1)) for y in (wide, narrow, part)]
    check_exact(net.result(*pooled, x), 1, 3)


def block(conv: Callable[[Net, str], str], batch: int | str, channels: int = 24, size: int = 9) -> Graph:
    """A sum that reads the normalized value, and others that read the value itself."""
    net = Net(reach=2)
    x = net.conv(net.x(batch, 3, size, size + 2), channels, (1, 1))
    return net.result(net.relu(net.bias(conv(net, norm(net, x)))), x)


CONVS: dict[str, Callable[[Net, str], str]] = {
    "pointwise": lambda n, y: n.conv(y, 40, (1, 1)),
    "beyond the end": lambda n, y: n.conv(y, 40, (1, 1), end=(2, 1)),
    "padded": lambda n, y: n.conv(y, 40, (3, 3), begin=(1, 1)),
    "strided": lambda n, y: n.conv(y, 17, (3, 3), (2, 2), begin=(1, 0), end=(0, 2)),
    "dilated": lambda n, y: n.conv(y, 17, (2, 2), dilations=(2, 3)),
    "grouped": lambda n, y: n.conv(y, 32, (3, 3), begin=(1, 1), group=2)}


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize("channels", [20, 48])
@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("conv", CONVS)
def test_inputs_of_convolutions(conv: str, batch: int | str, channels: int, level: str, staged: None) -> None:
    """Exact integers, padding left out, whatever the batch; stages under the loops of the tasks."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    graph, target = block(CONVS[conv], batch, channels), target_for(level, "strict")
    assert "mul+add+relu>conv+add+relu" in does(graph, target)
    check_exact(graph, *((1, 3) if batch == "N" else ()), reach=2, threads=2, target=target)


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize(("size", "end"), [((3, 3), (1, 0)), ((5, 5), (0, 2)), ((40,), (1,))])
def test_stages_end_where_their_values_do(size: tuple[int, ...], end: tuple[int, ...], level: str) -> None:
    """A reader goes on beyond the end, over padding: the stage before it has nothing to compute there."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    net = Net(reach=1)
    y = net.relu(net.op("add", [net.x(1, 16, *size), net.x(1, 16, *size)], "sum"))
    graph = net.result(net.conv(y, 16, (1,) * len(size), end=end))
    check_exact(graph, reach=1, target=target_for(level, "strict"))


def test_gates_and_operands_that_are_read_again(staged: None) -> None:
    """A gate's operands are a stage's; the epilogue reads one of them too."""
    net = Net(reach=2)
    x, gate = net.conv(net.x("N", 3, 8, 9), 24, (1, 1)), net.x("N", 24, 1, 1)
    y = net.op("add", [net.conv(net.op("mul", [x, gate], "gated"), 24, (1, 1)), x], "sum")
    assert "mul>conv+add" in does(net.result(y))
    check_exact(net.result(y), 1, 3, reach=2)


def test_large_images_are_staged_and_small_ones_are_not() -> None:
    """What stays in L2 from kernel to kernel stays a kernel; so does what others read."""
    def made(size: int, *outputs: str) -> list[str]:
        net = Net()
        x = net.conv(net.x(1, 3, size, size), 64, (1, 1))
        y = norm(net, x)
        return does(net.result(net.conv(y, 64, (1, 1)), *[{"x": x, "y": y}[name] for name in outputs]))
    assert "mul+add+relu>conv" in made(128, "x")
    assert not any(">" in d for d in made(14, "x") + made(128, "x", "y"))


def test_bits_of_stages(staged: None) -> None:
    """The same for each number of threads and each place in a batch."""
    net = Net(real=True)
    x = net.conv(net.x("N", 3, 60, 61), 64, (1, 1))
    wide, narrow = net.conv(norm(net, x), 64, (3, 3), begin=(1, 1)), net.conv(norm(net, x), 24, (1, 1))
    graph, target = net.result(wide, narrow, x), target_for(precision="strict")
    assert sum("mul+add+relu>conv" in d for d in does(graph, target)) == 2
    batch, wanted = feeds(graph, 3, real=True), {}
    for threads in (1, 2, 3):
        model = compiled(graph, target, threads)
        poison(model, batch)
        got = results(model, batch)
        wanted = wanted or got
        for name, value in got.items():
            np.testing.assert_array_equal(value, wanted[name])
            alone = results(model, {k: v[2:] for k, v in batch.items()})[name]
            np.testing.assert_array_equal(alone, value[2:])


def test_rows_are_no_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a kernel reads by rows of its result may be channels there: no strips, which would be both."""
    monkeypatch.setattr(stages, "ROWWISE", 0.0)
    net = Net(reach=1)
    q, k, v = (net.x(1, 24, 16, 8) for _ in range(3))
    scores = net.op("contract", [q, k], "scores", equation="bqhd,bkhd->bhqk")
    graph = net.result(net.op("contract", [scores, v], "mixed", equation="bhqk,bkhd->bqhd"))
    model = compiled(graph, replace(target_for(precision="strict"), l2=1 << 12, l3=1 << 14))
    given = feeds(graph, reach=1)
    poison(model, given)
    x, w, u = given.values()
    expected = np.einsum("bhqk,bkhd->bqhd", np.einsum("bqhd,bkhd->bhqk", x, w), u)
    np.testing.assert_array_equal(results(model, given)["y0"], expected)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_strips_of_channels(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools over strips of one vector of channels, where that is one for both."""
    monkeypatch.setattr(stages, "ROWWISE", 0.0)
    net, target = Net(), replace(target_for("x86-64-v2", "strict"), l2=1 << 14, l3=1 << 16)
    x = net.relu(net.conv(net.x("N", 8, 26, 27), 32, (1, 1)))
    y = net.pool(x, "max_pool", (3, 3), (1, 1), begin=(1, 1), end=(1, 1))
    y = net.pool(y, "max_pool", (3, 3), (2, 2))
    plain = net.result(y).live()
    model = compiled(net.result(net.op("cast", [y], "wide", to=dtype)), target)
    given = feeds(plain, 2)
    poison(model, given)
    np.testing.assert_array_equal(results(model, given)["y0"], Oracle(plain, given).outputs["y0"])
    assert any("max_pool>max_pool" in s.ops for s in model.plan.steps) == (dtype == "f32")


@pytest.mark.parametrize("level", LEVELS)
def test_rows_in_phases_that_are_cut_are_no_strips(level: str) -> None:
    """A dilated convolution in tiles, of which the last ones leave the image in some phases only."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    net, target = Net(reach=1), replace(target_for(level), l2=1 << 19)
    y = net.relu(net.conv(net.x("N", 64, 29, 29), 48, (5, 3), (1, 1), (2, 2), (2, 2), (4, 0)))
    assert dict(plan(optimize(net.result(y), target)).texts(target))


@pytest.mark.parametrize("level", LEVELS)
def test_vectors_of_groups_of_whole_blocks(level: str) -> None:
    """Lanes that lie in blocks of their own: one channel of each of several groups."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    net, target = Net(reach=1), target_for(level)
    y = net.conv(net.x(1, 64, 14, 20), 8, (1, 1), (3, 3), (1, 2), group=8)
    y = net.op("add", [y, net.op("sigmoid", [y], "gate")], "sum")
    assert dict(plan(optimize(net.result(y), target)).texts(target))
