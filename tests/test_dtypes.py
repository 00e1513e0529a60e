"""Random graphs of operations on all dtypes: compiled as the NumPy reference computes them.

What kernels join, how many lanes their stages have and which values lie in blocks follows from the dtypes;
the reference knows none of that.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from kernels import Feeds, Net, compiled, results
from scalars import quiet

from cnncc.ir.errors import ModelError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.types import HALVES, NUMPY, TensorType

DTYPES = [d for d in NUMPY if d not in HALVES]
ONE = ["neg", "abs", "relu", "exp", "tanh", "floor", "invert", "sign", "square", "softsign", "mish"]
TWO = ["add", "mul", "sub", "max", "min", "lt", "eq", "div", "and", "xor"]
FOLDS = ["reduce_sum", "reduce_max", "reduce_min", "reduce_mean", "reduce_prod"]


def step(net: Net, r: random.Random, values: list[str]) -> str:
    """A random node. Raises ModelError where its operands' types don't fit it."""
    x = r.choice(values[-3:])
    type = net.type(x)
    fixed = [a for a, e in enumerate(type.shape) if isinstance(e, int)]
    images = type.rank == 4
    match r.choice(["cast", "cast", "one", "two", "two", "fold", "argmax", "conv", "pool", "where"]):
        case "cast":
            return net.op("cast", [x], "cast", to=r.choice(DTYPES))
        case "one":
            return net.op(r.choice(ONE), [x], "one")
        case "two":
            same = [v for v in values if net.type(v).dtype == type.dtype]
            return net.op(r.choice(TWO), [x, r.choice(same)], "two")
        case "fold":
            return net.op(r.choice(FOLDS), [x], "fold", axes=(r.choice(fixed),), keepdims=True)
        case "argmax":
            return net.op("argmax", [x], "at", axes=(r.choice(fixed),), keepdims=True, last=r.random() < 0.5)
        case "conv" if images and type.dtype == "f32":
            group, window = r.choice([1, int(type.shape[1])]), r.choice([(1, 1), (3, 3)])
            return net.conv(x, 20 if group == 1 else group, window, begin=(1, 1), group=group)
        case "pool" if images:
            return net.pool(x, "max_pool", (2, 2), begin=(1, 1))
        case "where":
            return net.op("where", [net.op("gt", [x, x], "never"), x, x], "where")
    return x


def random_graph(seed: int) -> tuple[Graph, Feeds]:
    r, rng = random.Random(seed), np.random.default_rng(seed)
    net = Net(seed, real=True)
    channels, batch = r.choice([1, 3, 8, 13, 16, 17, 33]), r.choice(["N", 1, 2])
    shape = (batch, channels, *((r.choice([1, 4, 7]), r.choice([1, 5, 8])) if r.random() < 0.7 else ()))
    values = [net.input(f"x{i}", TensorType(r.choice(DTYPES), shape)) for i in range(r.choice([1, 2]))]
    for _ in range(r.randint(2, 10)):
        try:
            values.append(step(net, r, values))
        except ModelError:
            pass
    graph = net.result(*dict.fromkeys([values[-1], r.choice(values)]))
    feeds = {}
    for name in graph.inputs:
        dtype, size = NUMPY[graph[name].type.dtype], [3 if isinstance(e, str) else e for e in shape]
        feeds[name] = (rng.uniform(-2, 2, size) if dtype.kind == "f" else
                       rng.integers(0, 2 if dtype.kind == "b" else 5, size)).astype(dtype)
    return graph, feeds


@pytest.mark.parametrize("seed", range(80))
def test_random_graphs(seed: int) -> None:
    graph, feeds = random_graph(seed)
    got = results(compiled(graph), feeds)
    with quiet():
        expected = evaluate(graph, feeds)
    for name, y in expected.items():
        assert got[name].dtype == y.dtype
        if y.dtype.kind == "f":
            largest = np.abs(y[np.isfinite(y)]).max(initial=1)
            np.testing.assert_allclose(got[name], y, rtol=2e-5, atol=1e-5 * largest, err_msg=str(graph))
        else:       # a float that rounds otherwise may be cut to the next integer
            assert (got[name] != y).mean() < 0.03, graph
