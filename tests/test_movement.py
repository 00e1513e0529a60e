"""Movement and clauses, exact: joins, slices, padding, transposed convolutions, tables of places."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from kernels import EXACT, Net, Oracle, check_exact, feeds, kernels_of
from samples import SAMPLES

from cnncc.compiler import optimize, plan, stages
from cnncc.ir.errors import InternalError, ModelError
from cnncc.ir.graph import Graph
from cnncc.ir.target import target_for
from cnncc.ir.text import parse_graph

FEW = settings(max_examples=25, deadline=None)
WORDS = ("joined", "cut", "transposed", "expanded", "padded", "deconvolution", "taken", "resampled")
MOVES = [name for name in SAMPLES if name.startswith(WORDS)]


@pytest.mark.parametrize("name", MOVES)
@pytest.mark.parametrize("threads", [1, 3])
def test_samples_are_exact(name: str, threads: int) -> None:
    graph = SAMPLES[name]()
    check_exact(graph, *((1, 3) if any(n.type.symbols for n in graph) else (1,)), reach=2, threads=threads)


@pytest.mark.parametrize("name", MOVES[::3])
def test_texts_are_read_back(name: str) -> None:
    for _, graph in stages(SAMPLES[name](), target_for()):
        again = parse_graph(str(graph), graph.constants)
        assert again.nodes == graph.nodes and again.outputs == graph.outputs
        again.verify()


def does(graph: Graph) -> list[str]:
    return [str(n.attr["does"]) for n in kernels_of(graph)]


def test_a_join_of_convolutions_has_no_copies() -> None:
    net = Net()
    x = net.x("N", 16, 8, 8)
    parts = [net.relu(net.bias(net.conv(x, k, (1, 1)))) for k in (32, 64, 16)]
    graph = net.result(net.conv(net.join(*parts), 20, (3, 3)))
    assert does(graph) == ["conv+add+relu+place"] * 3 + ["conv", "copy"]
    places = [s.places[-1] for s in plan(optimize(graph, target_for())).plan.steps]
    assert len(set(places[:3])) == 1
    joined = kernels_of(graph)[2]
    assert joined.kernel is not None and "c:" in str(joined.kernel.output.layout)
    check_exact(graph, 1, 2)


def test_what_follows_a_join_is_done_in_its_parts() -> None:
    net = Net()
    x = net.x("N", 16, 8, 8)
    inner = net.relu(net.join(net.conv(x, 32, (1, 1)), x))
    graph = net.result(net.conv(net.relu(net.join(inner, net.conv(x, 16, (1, 1)))), 5, (1, 1)))
    assert does(graph)[:3] == ["conv+place+relu+place+relu", "place+relu+place+relu", "conv+place+relu"]
    check_exact(graph, 1, 2)


@FEW
@given(data=st.data())
def test_joins(data: st.DataObject) -> None:
    net, axis = Net(reach=2), data.draw(st.integers(1, 3))
    shape = [data.draw(st.integers(1, 40)), data.draw(st.integers(1, 7)), data.draw(st.integers(1, 9))]
    values = []
    for _ in range(data.draw(st.integers(2, 4))):
        shape[axis - 1] = data.draw(st.sampled_from([1, 8, 16, 17, 32]))
        x = net.x("N", *shape)
        values.append(data.draw(st.sampled_from([x, net.relu(x), net.conv(x, shape[0], (1, 1))])))
    y = net.join(*values, axis=axis)
    if data.draw(st.booleans()):
        y = net.relu(y)
    z = net.conv(y, 9, (1, 1)) if data.draw(st.booleans()) else net.pool(y, "max_pool", (1, 1))
    check_exact(net.result(z, *([y] if data.draw(st.booleans()) else [])), 1, 2, reach=2)


@FEW
@given(data=st.data())
def test_slices(data: st.DataObject) -> None:
    net, shape = Net(reach=2), [data.draw(st.integers(1, e)) for e in (40, 9, 12)]
    x = net.conv(net.x("N", *shape), 40, (1, 1)) if data.draw(st.booleans()) else net.x("N", *shape)
    ranges = {}
    for axis, e in enumerate(net.type(x).shape[1:], 1):
        step = data.draw(st.sampled_from([1, 1, 2, -1, -3]))
        cut = range(int(e))[::step]
        first = data.draw(st.integers(0, len(cut) - 1))
        ranges[axis] = cut[first : data.draw(st.integers(first + 1, len(cut)))]
    y = net.cut(x, ranges)
    z = net.conv(y, 9, (3, 3), begin=(1, 1)) if data.draw(st.booleans()) else net.op("add", [y, y], "twice")
    check_exact(net.result(z, *([y] if data.draw(st.booleans()) else [])), 1, 2, reach=2)


@FEW
@given(data=st.data())
def test_transposed_convolutions(data: st.DataObject) -> None:
    net, axes = Net(reach=2), []
    rank = data.draw(st.integers(1, 2))
    for _ in range(rank):
        r, s, d = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
        e = data.draw(st.integers(1, 7))
        full = (e - 1) * s + (r - 1) * d + 1
        a = data.draw(st.integers(-2, min(3, full - 1)))
        axes.append((e, r, s, d, a, data.draw(st.integers(-2, min(3, full - max(a, 0) - 1)))))
    size, kernel, strides, dilations, begin, end = zip(*axes, strict=True)
    g = data.draw(st.sampled_from([1, 1, 2, 6]))
    c, k = 6 * data.draw(st.integers(1, 3)), 6 * data.draw(st.integers(1, 4))
    y = net.deconv(net.x("N", c, *size), k, kernel, strides, dilations, begin, end, g)
    check_exact(net.result(net.relu(net.bias(y)) if data.draw(st.booleans()) else y), 1, 2, reach=2)


@pytest.mark.parametrize("perm", [(0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2), (0, 3, 2, 1)])
@pytest.mark.parametrize("before", ["input", "conv", "relu"])
def test_transposes(perm: tuple[int, ...], before: str) -> None:
    net = Net()
    x = net.x("N", 18, 5, 7)
    y = net.conv(x, 20, (3, 3)) if before == "conv" else net.relu(x) if before == "relu" else x
    y = net.op("transpose", [y], "turned", perm=perm)
    check_exact(net.result(y, net.conv(net.relu(y), 9, (1, 1))), 1, 3)


def test_a_dense_block_has_no_copies() -> None:
    net = Net(reach=1)
    values = [net.relu(net.conv(net.x("N", 5, 9, 9), 16, (1, 1)))]
    for _ in range(3):
        y = net.join(*values) if len(values) > 1 else values[0]
        y = net.conv(net.relu(net.bias(y)), 16, (3, 3), begin=(1, 1))
        values.append(net.op("clip", [y], "clip", low=-2.0, high=2.0))
    graph = net.result(net.conv(net.join(*values), 9, (1, 1)))
    words = does(graph)
    assert [w for w in words if w.startswith("place")] == []
    assert sum(w.endswith("+place") for w in words) == 4 and len(words) == 4 + 3 + 2
    assert (
        len(
            {s.places[-1] for s in plan(optimize(graph, target_for())).plan.steps if s.ops.endswith("+place")}
        )
        == 1
    )
    check_exact(graph, 1, 3, reach=1)


def test_a_skip_connection_has_no_copies() -> None:
    net = Net(reach=1)
    skip = net.relu(net.conv(net.x("N", 5, 8, 8), 16, (3, 3), begin=(1, 1)))
    y = net.conv(net.pool(skip, "max_pool", (2, 2), (2, 2)), 32, (3, 3), begin=(1, 1))
    up = net.bias(net.deconv(y, 16, (2, 2), (2, 2), (1, 1), (0, 0), (0, 0)))
    graph = net.result(net.conv(net.join(up, skip), 9, (3, 3)))
    assert [w for w in does(graph) if w.startswith(("place", "slice"))] == []
    check_exact(graph, 1, 3, reach=1)


def test_slices_and_transposes_are_read_through() -> None:
    net = Net(reach=2)
    x = net.x("N", 8, 9, 20)  # n, h, w, c
    y = net.op("transpose", [x], "nchw", perm=(0, 3, 1, 2))
    parts = [net.conv(net.cut(y, {1: range(a, a + 10)}), 16, (3, 3), begin=(1, 1)) for a in (0, 10)]
    graph = net.result(
        net.op("transpose", [net.relu(net.op("add", parts, "sum"))], "nhwc", perm=(0, 2, 3, 1))
    )
    assert does(graph)[:2] == ["conv", "conv+add+relu+transpose"]     # there may be a copy into blocks
    check_exact(graph, 1, 3, reach=2)


def test_a_shuffle_of_channels_is_one_kernel() -> None:
    net = Net(reach=2)
    y = net.op("reshape", [net.x("N", 20, 5, 6)], "split", shape=("N", 4, 5, 5, 6))
    y = net.op("transpose", [y], "turned", perm=(0, 2, 1, 3, 4))
    graph = net.result(net.conv(net.op("reshape", [y], "merged", shape=("N", 20, 5, 6)), 9, (3, 3)))
    assert does(graph) == ["transpose", "conv", "copy"]
    assert "reshape" not in [n.op for n in optimize(graph, target_for())]
    check_exact(graph, 1, 3)


def test_sums_of_repeated_elements() -> None:
    """An expanded value is not read through where the same element counts several times."""
    net = Net(reach=2)
    x = net.op("expand", [net.x("N", 1, 7)], "e", shape=("N", 6, 7))
    y = net.op("expand", [net.x("N", 5, 1)], "e", shape=("N", 5, 9))
    sums = [
        net.op("reduce_sum", [v], "s", axes=a, keepdims=True) for v in (x, y) for a in ((1,), (2,), (1, 2))
    ]
    top = net.op("reduce_max", [y], "m", axes=(2,), keepdims=True)
    check_exact(net.result(*sums, top), 1, 3)


def test_padding_joins_the_window() -> None:
    net = Net(reach=2)
    x = net.x("N", 5, 7, 9)
    pads = {"begin": (0, 0, 1, 2), "end": (0, 0, 0, 3)}
    y = net.conv(net.op("pad", [x], "p", value=0.0, **pads), 8, (3, 3), (2, 2), begin=(1, 0))
    lowest = net.op("pad", [x], "p", value=float("-inf"), **pads)
    graph = net.result(y, net.pool(lowest, "max_pool", (3, 3), (2, 2)))
    assert [w for w in does(graph) if w != "copy"] == ["conv", "max_pool"]
    check_exact(graph, 1, 2, reach=2)


def test_channels_cut_within_a_block() -> None:
    """What computes only these channels would begin amid a block of what it reads."""
    net = Net(reach=1)
    x = net.conv(net.x("N", 8, 2, 2), 32, (1, 1))
    y = net.op("clip", [x], "clip", low=-3.0, high=3.0)
    y = net.op("slice", [y], "cut", begin=(0, 3, 0, 0), shape=("N", 6, 2, 2), steps=(1, 1, 1, 1))
    check_exact(net.result(net.relu(net.conv(x, 8, (1, 1))), y), 1, 3, reach=1)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_random_graphs(data: st.DataObject) -> None:
    """Any value may be read again, joined, cut; any may be an output."""
    net, size = Net(seed=data.draw(st.integers(0, 99)), reach=1), data.draw(st.integers(2, 6))
    values = [net.x("N", data.draw(st.sampled_from([3, 8, 16])), size, size)]
    for _ in range(data.draw(st.integers(2, 9))):
        y = data.draw(st.sampled_from(values))
        c = int(net.type(y).shape[1])
        match data.draw(st.sampled_from(["conv", "relu", "join", "join", "cut", "turn", "pool", "take"])):
            case "conv":
                r = data.draw(st.sampled_from([1, 3]))
                y = net.conv(y, data.draw(st.sampled_from([8, 16, 5])), (r, r), begin=(r // 2,) * 2)
            case "relu":
                y = net.relu(net.bias(y))
            case "join":
                more = data.draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
                y = net.join(y, *more) if sum(int(net.type(v).shape[1]) for v in (y, *more)) < 100 else y
            case "cut":
                first = data.draw(st.sampled_from([a for a in (0, 3, 8) if a < c]))
                y = net.cut(y, {1: range(first, data.draw(st.integers(first + 1, c)))})
            case "turn":
                y = net.op("transpose", [y], "turn", perm=(0, 1, 3, 2))
            case "pool":
                y = net.pool(y, "max_pool", (3, 3), begin=(1, 1))
            case "take":
                y = net.op(
                    "take",
                    [y, net.const("t", net.rng.integers(0, size, size).astype(np.int32))],
                    "t",
                    axes=(data.draw(st.sampled_from([2, 3])),),
                )
        values.append(net.op("clip", [y], "clip", low=-3.0, high=3.0) if data.draw(st.booleans()) else y)
    graph = net.result(values[-1], *data.draw(st.lists(st.sampled_from(values), max_size=2, unique=True)))
    assume(Oracle(graph, feeds(graph, 3, reach=1)).reach < EXACT / 2)
    check_exact(graph, 1, 3, reach=1)


def wrong(change: Callable[[Net], str]) -> None:
    net = Net()
    with pytest.raises((InternalError, ModelError)):
        net.result(change(net)).verify()


def test_a_base_has_one_user() -> None:
    def twice(n: Net) -> str:
        shape, steps = ("N", 8), (1, 1)
        first = n.op("place", [n.x("N", 4)], "a", begin=(0, 0), steps=steps, shape=shape)
        n.op("place", [n.x("N", 4)], "b", (), first, begin=(0, 4), steps=steps, shape=shape)
        return n.op("place", [n.x("N", 4)], "c", (), first, begin=(0, 4), steps=steps, shape=shape)

    wrong(twice)
    wrong(
        lambda n: n.op(
            "place", [n.x("N", 4)], "a", (), n.x("N", 8), begin=(0, 0), steps=(1, 1), shape=("N", 8)
        )
    )


@pytest.mark.parametrize("table", [[0, 7], [-1, 3]])
def test_tables_are_checked(table: list[int]) -> None:
    net = Net()
    graph = net.result(
        net.op("take", [net.x(5, 7), net.const("t", np.array(table, np.int32))], "t", axes=(1,))
    )
    with pytest.raises(InternalError, match="outside"):
        optimize(graph, target_for())
