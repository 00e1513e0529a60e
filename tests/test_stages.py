"""Elementwise producers: a part of the fold that reads them once, a stage of the sum that does so often."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernels import Net, check_exact

from cnncc.compiler import optimize
from cnncc.ir.graph import Graph
from cnncc.ir.target import target_for


def does(graph: Graph) -> list[str]:
    """What the kernels of the compiled graph do."""
    return [str(n.attr["does"]) for n in optimize(graph, target_for(precision="strict")) if n.kernel]


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
