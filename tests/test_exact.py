"""Integers, exact: what the compiled code computes of them equals an oracle of our own, with tolerance 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels import EXACT, Net, Oracle, check_exact, compiled, feeds, poison, results

from cnncc.ir.graph import Graph

SOME = settings(max_examples=40, deadline=None)
FEW = settings(max_examples=25, deadline=None)
BATCHES = (1, 2, 3, 5)


class Window(NamedTuple):
    """A shape of images with a window over them."""

    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @property
    def rank(self) -> int:
        return len(self.size)

    @property
    def attrs(self) -> dict[str, Sequence[int]]:
        return {k: getattr(self, k) for k in ("kernel", "strides", "dilations", "begin", "end")}


@st.composite
def windows(draw: st.DrawFn, rank: int, wide: bool = True) -> Window:
    """`wide`: padding may be as large as the window, as convolutions allow; else a window sees something."""
    most, taps, reach = {1: (45, 7, 3), 2: (19, 5, 3), 3: (7, 3, 2)}[rank]
    axes = []
    for _ in range(rank):
        r, s, d = (draw(st.integers(1, n)) for n in (taps, reach, reach))
        span = (r - 1) * d + 1
        room = span + 1 if wide else (r - 1) // 2 * d
        a, b = draw(st.integers(0, room)), draw(st.integers(0, room))
        size = draw(st.integers(max(1, span - a - b) if wide else span, most + span))
        axes.append((size, r, s, d, a, b))
    return Window(*zip(*axes, strict=True))


@st.composite
def groups(draw: st.DrawFn) -> tuple[int, int, int]:
    """(channels, results, groups): dense, depthwise, depthwise with a multiplier, or in between."""
    kind = draw(st.sampled_from(["dense", "dense", "depthwise", "multiplied", "grouped"]))
    if kind == "dense":
        return draw(st.integers(1, 40)), draw(st.integers(1, 40)), 1
    if kind == "grouped":
        g = draw(st.integers(2, 6))
        return g * draw(st.integers(1, 12)), g * draw(st.integers(1, 12)), g
    c = draw(st.integers(1, 40))
    return c, c * (draw(st.integers(2, 3)) if kind == "multiplied" else 1), c


batches = st.sampled_from(["N", "N", 1, 2, 3])


def check(graph: Graph, n: int | str, seed: int = 1) -> None:
    check_exact(graph, *((1, 3) if n == "N" else (int(n),)), seed=seed)


# ---- convolutions


@pytest.mark.parametrize("rank", [1, 2, 3])
@SOME
@given(data=st.data())
def test_convolutions(rank: int, data: st.DataObject) -> None:
    w, (c, k, g), n = data.draw(windows(rank)), data.draw(groups()), data.draw(batches)
    net = Net()
    y = net.conv(net.x(n, c, *w.size), k, **w.attrs, group=g)
    check(net.result(y), n)


@pytest.mark.parametrize(
    ("c", "k", "g"), [(16, 16, 1), (17, 33, 1), (3, 20, 1), (40, 40, 40), (24, 48, 24), (24, 36, 6)]
)
@pytest.mark.parametrize("batch", BATCHES)
def test_a_batch_of_any_size(c: int, k: int, g: int, batch: int) -> None:
    net = Net()
    y = net.relu(net.bias(net.conv(net.x("N", c, 11, 14), k, (3, 3), (1, 1), (1, 1), (1, 0), (1, 2), g)))
    check_exact(net.result(net.conv(y, 8, (1, 1))), batch)


@pytest.mark.parametrize("width", range(1, 34))
def test_every_width_of_images(width: int) -> None:
    """Tiles are balanced: each width has its own."""
    net = Net()
    y = net.conv(net.x(1, 18, 5, width), 40, (3, 3), begin=(1, 1))
    check_exact(net.result(net.conv(net.relu(y), 33, (1, 3), begin=(0, 1))))


@pytest.mark.parametrize("begin", range(6))
@pytest.mark.parametrize("end", range(6))
def test_padding_beyond_the_window(begin: int, end: int) -> None:
    net = Net()
    x = net.x(1, 17, 4, 5)
    ys = [net.conv(x, 20, (3, 2), s, (1, 2), (begin, end), (end, begin)) for s in ((1, 1), (2, 3))]
    check_exact(net.result(*ys))


def test_agrees_with_pytorch() -> None:
    """The oracle itself, against somebody else's convolution."""
    torch = pytest.importorskip("torch")
    for c, k, g, s, d, p in [
        (8, 12, 1, 1, 1, 1),
        (12, 12, 12, 2, 1, 2),
        (12, 18, 6, 3, 2, 0),
        (6, 4, 2, 1, 3, 4),
    ]:
        net = Net()
        y = net.conv(net.x(2, c, 15, 13), k, (3, 2), (s, s), (d, d), (p, p), (p, p), g)
        graph = net.result(y)
        inputs = feeds(graph)
        expected = torch.nn.functional.conv2d(
            torch.tensor(inputs["x0"]).double(), torch.tensor(net.constants["w"]).double(), None, s, p, d, g
        ).numpy()
        np.testing.assert_array_equal(Oracle(graph, inputs).outputs["y0"], expected)
        np.testing.assert_array_equal(results(compiled(graph), inputs)["y0"], expected)


# ---- pools, reductions, fully connected


@pytest.mark.parametrize("op", ["max_pool", "sum_pool"])
@pytest.mark.parametrize("rank", [1, 2, 3])
@FEW
@given(data=st.data())
def test_pools(op: str, rank: int, data: st.DataObject) -> None:
    w, c, n = data.draw(windows(rank, wide=False)), data.draw(st.integers(1, 40)), data.draw(batches)
    net = Net()
    x = net.x(n, c, *w.size)
    if data.draw(st.booleans()):
        x = net.conv(x, c, (1,) * rank)
    check(net.result(net.pool(x, op, **w.attrs)), n)


@SOME
@given(data=st.data())
def test_reductions(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    axes = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, max_size=4, unique=True))
    net = Net()
    x = net.x(*shape)
    ys = [net.op(f"reduce_{f}", [x], f, axes=tuple(sorted(axes)), keepdims=k)
          for f in ("sum", "max") for k in (True, False)]
    check_exact(net.result(*ys))


@FEW
@given(data=st.data())
def test_reductions_of_a_batch_and_of_blocked_channels(data: st.DataObject) -> None:
    c, size = data.draw(st.integers(1, 40)), data.draw(st.tuples(st.integers(1, 9), st.integers(1, 9)))
    axes = data.draw(st.sampled_from([(1,), (2,), (3,), (2, 3), (1, 2), (1, 2, 3), (1, 3)]))
    net = Net()
    x = net.conv(net.x("N", 3, *size), c, (1, 1))
    ys = [net.op(f"reduce_{f}", [x], f, axes=axes, keepdims=k) for f in ("sum", "max") for k in (True, False)]
    total = net.op("scale", [ys[0]], "half", factor=0.5)
    check_exact(net.result(*ys, total), 1, 3)


@SOME
@given(shape=st.lists(st.integers(1, 9), min_size=0, max_size=3), c=st.integers(1, 70), k=st.integers(1, 70),
       n=batches, blocked=st.booleans(), second=st.integers(0, 20))
def test_linear(shape: list[int], c: int, k: int, n: int | str, blocked: bool, second: int) -> None:
    net = Net(reach=2)
    x = net.x(n, c, *shape)
    if blocked and shape:
        x = net.relu(net.conv(x, 20, (1,) * len(shape)))
    y = net.relu(net.bias(net.linear(net.flatten(x) if shape else x, k)))
    if second:
        y = net.linear(y, second)
    graph = net.result(y)
    assume(Oracle(graph, feeds(graph)).reach < EXACT / 2)
    check(graph, n)


# ---- elementwise


@st.composite
def broadcast(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...]]:
    shape = draw(st.lists(st.integers(1, 19), min_size=1, max_size=4))
    other = [e if draw(st.booleans()) else 1 for e in shape][draw(st.integers(0, len(shape) - 1)):]
    return tuple(shape), tuple(other)


@SOME
@given(shapes=broadcast(), op=st.sampled_from(["add", "sub", "mul"]), swap=st.booleans(), const=st.booleans())
def test_broadcasting(
    shapes: tuple[tuple[int, ...], tuple[int, ...]], op: str, swap: bool, const: bool
) -> None:
    net = Net()
    a = net.x(*shapes[0])
    b = net.weights(*shapes[1]) if const else net.x(*shapes[1])
    y = net.op(op, [b, a] if swap else [a, b], op)
    z = net.op("clip", [net.op("mul", [y, y], "square")], "clip", low=-1.0, high=5.0)
    check_exact(net.result(y, z))


def test_both_operands_broadcast() -> None:
    for op in ("add", "sub", "mul"):
        net = Net()
        y = net.op(op, [net.x("N", 20, 1, 7), net.x("N", 1, 5, 1)], op)
        check_exact(net.result(y), 1, 4)


def test_division_rounds_once() -> None:
    net = Net()
    a, b = net.x("N", 37), net.x("N", 37)
    graph = net.result(
        net.op("div", [a, net.op("add", [net.op("mul", [b, b], "square"), net.weights(1)], "d")], "q")
    )
    graph.constants["w"][:] = 3
    inputs = feeds(graph, 3, reach=100)
    expected = inputs[a] / (inputs[b] * inputs[b] + np.float32(3))
    np.testing.assert_array_equal(results(compiled(graph), inputs)["y0"], expected)


@pytest.mark.parametrize("shape", [(5,), (3, 7), (2, 16, 3, 3), (1, 40, 9)])
def test_relu_clip_and_scale(shape: tuple[int, ...]) -> None:
    net = Net()
    x = net.x(*shape)
    ys = [
        net.relu(x),
        net.op("clip", [x], "clip", low=-2.0, high=2.0),
        net.op("scale", [x], "scale", factor=-0.25),
        net.op("clip", [x], "clip", low=float("-inf"), high=1.0),
    ]
    check_exact(net.result(*ys))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (("N", 24, 5, 5), ("N", 600)),
        (("N", 600), ("N", 24, 5, 5)),
        (("N", 24, 5, 5), ("N", 12, 10, 5)),
        (("N", 20, 1, 1), ("N", 20)),
        (("N", 20), ("N", 20, 1, 1)),
        (("N", 24, 6), ("N", 6, 24)),
        ((2, 24, 3), (4, 12, 3)),
    ],
)
def test_views(old: tuple[Any, ...], new: tuple[Any, ...]) -> None:
    """A reshape between kernels, of an input, and of what is an output too."""
    net = Net()
    x = net.x(*old)
    before = net.relu(x)
    view = net.op("reshape", [before], "view", shape=new)
    graph = net.result(net.bias(view), net.op("reshape", [x], "seen", shape=new), view)
    check_exact(graph, 1, 3)


# ---- what follows a convolution joins it


EPILOGUES = (
    "bias",
    "relu",
    "clip",
    "residual",
    "same",
    "scaled",
    "channels",
    "max 2",
    "sum 2",
    "max 3/2",
    "sum 3/1",
    "max 2/2 odd",
    "mean",
    "twice",
    "shifted",
)


def epilogue(net: Net, y: str, word: str) -> str:
    """One more op after y; images become smaller with some."""
    n, c, h, w = net.type(y).shape
    small = int(h) < 3 or int(w) < 3
    match word:
        case "bias":
            return net.bias(y)
        case "relu":
            return net.relu(y)
        case "clip":
            return net.op("clip", [y], "clip", low=-40.0, high=60.0)
        case "residual":
            return net.op("add", [y, net.x(n, int(c), int(h), int(w))], "residual")
        case "same":
            return net.op("sub", [net.x(n, int(c), int(h), int(w)), y], "same")
        case "scaled":
            return net.op("mul", [y, net.x(n, int(c), 1, 1)], "gate")
        case "channels":
            return net.op("mul", [net.weights(1, int(c), 1, 1), y], "channels")
        case "twice":
            return net.op("add", [y, y], "twice")
        case "shifted":
            return net.op("add", [net.op("scale", [y], "scale", factor=2.0), net.weights(int(w))], "shifted")
        case "mean" if not small:
            return net.op("reduce_sum", [y], "sum", axes=(2, 3), keepdims=True)
        case _ if not small:
            op, size, *rest = word.split()
            r, _, s = size.partition("/")
            pad = (int(r) - 1) // 2 if "/" in size and not rest else 0
            return net.pool(y, f"{op}_pool", (int(r),) * 2, (int(s or r),) * 2, begin=(pad,) * 2)
    return y


@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_chains(data: st.DataObject) -> None:
    """A convolution and what follows it, twice: epilogues, stages and the layouts between kernels."""
    net = Net(reach=data.draw(st.integers(1, 2)))
    n = data.draw(batches)
    c, k, g = data.draw(groups())
    r, s = data.draw(st.sampled_from([(1, 1), (3, 1), (3, 2), (2, 2), (5, 1)]))
    size = data.draw(st.tuples(st.integers(r, 15), st.integers(r, 30)))
    y = net.conv(net.x(n, c, *size), k, (r, r), (s, s), (), (r // 2,) * 2, group=g)
    for word in data.draw(st.lists(st.sampled_from(EPILOGUES), max_size=4)):
        y = epilogue(net, y, word)
    values = [y]
    if data.draw(st.booleans()):
        k = int(net.type(y).shape[1])
        g = k if data.draw(st.booleans()) else 1
        y = net.conv(y, k if g > 1 else data.draw(st.integers(1, 40)), (1, 1), group=g)
        for word in data.draw(st.lists(st.sampled_from(EPILOGUES), max_size=2)):
            y = epilogue(net, y, word)
    graph = net.result(y, *(values if data.draw(st.booleans()) else ()))
    assume(Oracle(graph, feeds(graph, 3, reach=2)).reach < EXACT / 2)
    check_exact(graph, *((1, 3) if n == "N" else (n,)), reach=2)


@pytest.mark.parametrize("word", EPILOGUES)
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (16, 13)])
def test_each_epilogue(word: str, size: tuple[int, int]) -> None:
    net = Net(reach=2)
    y = net.conv(net.x("N", 9, *size), 20, (3, 3), begin=(1, 1))
    check_exact(net.result(epilogue(net, y, word)), 1, 2)


# ---- graphs


def test_an_intermediate_value_is_an_output() -> None:
    net = Net(reach=2)
    a = net.conv(net.x("N", 5, 9, 9), 20, (3, 3), begin=(1, 1))
    b = net.relu(a)
    c = net.conv(b, 18, (3, 3))
    d = net.pool(b, "max_pool", (2, 2), (2, 2))
    check_exact(net.result(c, b, a, d), 1, 3)


def test_an_output_with_two_names() -> None:
    net = Net()
    x = net.x("N", 5, 6, 6)
    images = net.conv(x, 20, (3, 3))
    rows = net.linear(net.flatten(x), 7)
    check_exact(net.result(images, images, rows, rows), 1, 3)


def test_outputs_that_nothing_computes() -> None:
    """An input, a constant, views of them, and two views of one value."""
    net = Net()
    x = net.x("N", 4, 3)
    y = net.relu(x)
    w = net.weights(3, 4)
    graph = net.result(x, net.flatten(x), y, net.flatten(y), w, net.op("reshape", [w], "flat", shape=(12,)))
    check_exact(graph, 1, 3)


def test_an_input_with_many_readers() -> None:
    net = Net(reach=2)
    x = net.x("N", 20, 8, 8)
    a = net.conv(x, 20, (3, 3), begin=(1, 1))
    b = net.conv(x, 20, (1, 1))
    c = net.op("add", [net.op("add", [a, b], "ab"), x], "abx")
    check_exact(
        net.result(net.relu(c), net.pool(x, "max_pool", (2, 2)), net.op("mul", [x, x], "square")), 1, 3
    )


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_a_value_twice(op: str) -> None:
    net = Net(reach=2)
    x = net.x("N", 18, 5, 5)
    y = net.conv(x, 18, (3, 3), begin=(1, 1))
    check_exact(net.result(net.op(op, [x, x], "xx"), net.relu(net.op(op, [y, y], "yy"))), 1, 3)


def test_residual_blocks() -> None:
    net = Net(reach=1)
    x = net.pool(
        net.relu(net.conv(net.x("N", 3, 15, 15), 24, (3, 3), (2, 2), begin=(1, 1))),
        "max_pool",
        (3, 3),
        (2, 2),
        begin=(1, 1),
    )
    for i in range(3):
        y = net.bias(net.conv(net.relu(net.conv(x, 24, (1, 1))), 24, (3, 3), begin=(1, 1)))
        x = net.op("clip", [net.op("add", [y, x] if i % 2 else [x, y], "sum")], "clip", low=-3.0, high=4.0)
    y = net.op("reduce_sum", [x], "sum", axes=(2, 3), keepdims=False)
    check_exact(net.result(net.bias(net.linear(y, 10)), x), 1, 3, reach=1)


def test_inverted_residuals() -> None:
    """Expand, depthwise, project: stages where images are large."""
    net = Net(reach=1)
    x = net.x(1, 8, 30, 30)
    y = net.op("clip", [net.conv(x, 40, (1, 1))], "clip", low=0.0, high=6.0)
    y = net.op("clip", [net.conv(y, 40, (3, 3), begin=(1, 1), group=40)], "clip", low=0.0, high=6.0)
    y = net.op("add", [net.conv(y, 8, (1, 1)), x], "sum")
    check_exact(net.result(y), reach=1)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", ["3/2", "3/1", "2/2"])
def test_large_images_go_through_in_strips(stride: int, window: str) -> None:
    """Larger than half of L2 between the two kernels."""
    r, s = map(int, window.split("/"))
    net = Net(reach=1)
    y = net.relu(net.conv(net.x("N", 3, 150, 151), 32, (3, 3), (stride, stride), begin=(1, 1)))
    y = net.pool(y, "max_pool", (r, r), (s, s), begin=((r - 1) // 2,) * 2)
    z = net.conv(net.relu(net.conv(y, 32, (3, 3), begin=(1, 1), group=32)), 20, (1, 1))
    check_exact(net.result(z), 1, 2, reach=1)


def test_batch_norm_folds() -> None:
    net = Net(reach=2)
    y = net.bias(net.conv(net.x("N", 5, 8, 8), 20, (3, 3)))
    def norm(x: str) -> str:
        zeros, ones = (net.const(name, np.full(20, v, np.float32)) for name, v in (("mean", 0), ("var", 1)))
        return net.op("batch_norm", [x, net.weights(20), net.weights(20), zeros, ones], "bn", epsilon=0.0)
    loose = norm(net.pool(net.relu(norm(y)), "max_pool", (2, 2)))
    graph = net.result(loose)
    check_exact(graph, 1, 2)
    assert "batch_norm" not in str(compiled(graph).plan)


def test_the_second_call_forgets_the_first() -> None:
    net = Net(reach=2)
    y = net.pool(net.conv(net.x("N", 5, 8, 8), 20, (3, 3), begin=(1, 1)), "sum_pool", (3, 3), begin=(1, 1))
    graph = net.result(y)
    model = compiled(graph)
    for batch in (3, 1, 5, 2):
        inputs = feeds(graph, batch, seed=batch)
        poison(model, inputs)
        np.testing.assert_array_equal(results(model, inputs)["y0"], Oracle(graph, inputs).outputs["y0"])


# ---- random graphs


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    """Any value may be read again, by any op that fits; any may be an output."""
    net = Net(seed=data.draw(st.integers(0, 99)), reach=1)
    n = data.draw(batches)
    values = [
        net.x(n, data.draw(st.integers(1, 36)), data.draw(st.integers(3, 12)), data.draw(st.integers(3, 12)))
    ]
    for _ in range(data.draw(st.integers(2, 8))):
        y = data.draw(st.sampled_from(values))
        c = int(net.type(y).shape[1])
        word = data.draw(st.sampled_from(["conv", "depthwise", "join", *EPILOGUES]))
        if word == "conv":
            r = data.draw(st.sampled_from([1, 3]))
            y = net.conv(y, data.draw(st.integers(1, 36)), (r, r), begin=(r // 2,) * 2)
        elif word == "depthwise":
            y = net.conv(y, c, (3, 3), begin=(1, 1), group=c)
        elif word == "join":
            same = [v for v in values if net.type(v) == net.type(y)]
            y = net.op(
                data.draw(st.sampled_from(["add", "sub"])), [y, data.draw(st.sampled_from(same))], "join"
            )
        else:
            y = epilogue(net, y, word)
        if data.draw(st.booleans()) and word not in ("bias", "relu", "clip"):
            y = net.op("clip", [y], "clip", low=-9.0, high=8.0)
        values.append(y)
    graph = net.result(values[-1], *data.draw(st.lists(st.sampled_from(values), max_size=2, unique=True)))
    assume(Oracle(graph, feeds(graph, 3, reach=1)).reach < EXACT / 2)
    check_exact(graph, *((1, 3) if n == "N" else (n,)), reach=1)
