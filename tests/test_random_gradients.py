"""Random graphs: gradients of the reference in float64 are difference quotients; compiled ones agree."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from test_random_graphs import graph

import cnncc
from cnncc.compiler import read
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.types import TensorType
from cnncc.passes.differentiate import gradients
from cnncc.passes.fold import Rebuild

GRAPHS = 8                  # of a test
NEAR = 1e-6


def weighted(made: Graph) -> tuple[Graph, list[str]]:
    """The sum of all outputs of floats times the inputs r0, r1, ..., and the inputs that it depends on."""
    b: Builder = Rebuild(made)
    for n in made:
        b.copy(n)  # type: ignore[attr-defined]
    total = ""
    for i, (_, value) in enumerate(made.outputs):
        t = b.type(value)
        if t.dtype == "f32":
            r = b.input(f"r{i}", TensorType("f32", t.shape))
            part = b.op("mul", [value, r], "part")
            if t.rank:
                part = b.op("reduce_sum", [part], "sum", axes=tuple(range(t.rank)), keepdims=False)
            total = b.op("add", [total, part], "total") if total else part
    whole = b.graph([("loss", total)] if total else [])
    return whole, [i for i in made.inputs if made[i].type.dtype == "f32"]


def check(seed: int) -> bool:
    """Whether the graph of a seed has gradients to compare."""
    proto, inputs, _ = graph(seed)
    whole, wrt = weighted(read(proto))
    if not whole.outputs or not wrt:
        return False
    made = gradients(whole, whole.outputs[0][1], wrt)
    rng = np.random.default_rng(seed)
    feeds = {i: inputs.get(i, rng.standard_normal(whole[i].type.static()).astype(np.float32))
             for i in whole.inputs}
    exact = evaluate(made, feeds, np.float64)
    along = {i: rng.standard_normal(feeds[i].shape) for i in wrt}

    def loss(step: float) -> NDArray[np.float64]:
        moved = {i: feeds[i] + step * along[i] if i in along else x for i, x in feeds.items()}
        return evaluate(whole, moved, np.float64)["loss"]
    slope = sum(float((exact[f"{i}.grad"] * along[i]).sum()) for i in wrt)
    size = sum(float(np.abs(exact[f"{i}.grad"] * along[i]).sum()) for i in wrt)
    quotients = [float((loss(h) - loss(-h)) / (2 * h)) for h in (NEAR, NEAR / 8)]
    if abs(quotients[0] - quotients[1]) <= 1e-6 * max(size, 1e-3):      # no kink is that near
        assert abs(slope - quotients[1]) <= 1e-6 * max(size, 1e-3), f"seed {seed}"
    results = cnncc.compile(made, cache=False, jobs=1).run(None, feeds)
    for (name, _), got in zip(made.outputs[1:], results[1:], strict=True):     # the loss may cancel
        scale = np.abs(exact[name]).max(initial=1e-3)
        np.testing.assert_allclose(got, exact[name], rtol=0, atol=1e-5 * scale, err_msg=f"seed {seed} {name}")
    return True


@pytest.mark.parametrize("first", range(0, 5 * GRAPHS, GRAPHS))
def test_random_gradients(first: int) -> None:
    assert sum(map(check, range(first, first + GRAPHS))) >= GRAPHS // 2
