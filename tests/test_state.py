"""Memory of a model's own: kept from call to call, read and written by name, updated where it lies."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.ir.errors import InputError, InternalError
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.text import parse_graph
from cnncc.ir.types import TensorType
from cnncc.runtime.model import CompiledModel


def compiled(graph: Graph) -> CompiledModel:
    made = cnncc.compile(graph, cache=False)
    assert isinstance(made, CompiledModel)
    return made


def own(b: Builder, **shapes: tuple[int, ...]) -> None:
    for name, shape in shapes.items():
        b.add(cnncc.ir.graph.Node(name, "input", (), TensorType("f32", shape)))


def counting() -> Graph:
    b = Builder("counting")
    b.input("x", TensorType("f32", (3,)))
    own(b, total=(3,))
    new = b.op("add", ["total", "x"], "new")
    return b.graph([("y", b.op("scale", ["total"], "y", factor=2.0))], (), [("total", new)])


def test_a_state_is_kept_from_call_to_call() -> None:
    m = compiled(counting())
    assert not m.state["total"].any()
    x = np.array([1, 2, 3], np.float32)
    assert [m(x).tolist() for _ in range(3)] == [[0, 0, 0], [2, 4, 6], [4, 8, 12]]
    m.state = {"total": x}
    assert np.array_equal(m(x), 2 * x) and np.array_equal(m.state["total"], 2 * x)


def test_a_state_must_fit() -> None:
    m = compiled(counting())
    with pytest.raises(InputError, match=r"counting has no state 'totl' .is it 'total'"):
        m.state = {"totl": np.zeros(3, np.float32)}
    with pytest.raises(InputError, match=r"state 'total': expected float32\[3\], got float64\[3\]"):
        m.state = {"total": np.zeros(3)}


def test_a_state_survives_its_text_and_its_plan() -> None:
    graph = counting()
    assert str(parse_graph(str(graph))) == str(graph)
    m = compiled(graph)
    again = cnncc.runtime.model.from_bytes(m.__reduce__()[1][0])
    x = np.ones(3, np.float32)
    again(x)
    assert again.state["total"].tolist() == [1, 1, 1]


def test_states_that_read_each_other_change_at_once() -> None:
    """Each gets what the other was: neither is written before it is read."""
    b = Builder("swapped")
    b.input("x", TensorType("f32", (1,)))
    own(b, p=(4, 16), q=(4, 16))
    a = b.op("add", ["q", "x"], "a")
    graph = b.graph([("y", b.op("add", ["p", "q"], "y"))], (), [("p", a), ("q", "p")])
    with pytest.raises(InternalError, match="must come after"):
        compiled(graph)


def test_what_reads_other_elements_is_not_written_in_place() -> None:
    b = Builder("turned")
    b.input("x", TensorType("f32", (1,)))
    own(b, p=(16, 16))
    new = b.op("transpose", [b.op("add", ["p", "x"], "more")], "new", perm=(1, 0))
    m = compiled(b.graph([], (), [("p", new)]))
    p = np.arange(256, dtype=np.float32).reshape(16, 16)
    m.state = {"p": p}
    m(np.ones(1, np.float32))
    assert np.array_equal(m.state["p"], p.T + 1)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_states_may_lie_in_blocks(threads: int) -> None:
    """What convolutions read and write is in their order; the caller sees plain arrays."""
    b = Builder("blocks")
    b.input("x", TensorType("f32", (2, 12, 6, 6)))
    own(b, seen=(2, 20, 6, 6))
    w = b.const("w", np.random.default_rng(0).integers(-2, 3, (20, 12, 3, 3)).astype(np.float32))
    conv = b.op("conv", ["x", w], "conv", strides=(1, 1), dilations=(1, 1), begin=(1, 1), end=(1, 1), group=1)
    m = compiled(b.graph([], (), [("seen", b.op("add", [conv, "seen"], "new"))]))
    m.threads = threads
    x = np.random.default_rng(1).integers(-2, 3, (2, 12, 6, 6)).astype(np.float32)
    once = cnncc.reference(b.graph([("conv", conv)]))(x)
    start = np.arange(once.size, dtype=np.float32).reshape(once.shape)
    m.state = {"seen": start}
    assert np.array_equal(m.state["seen"], start)
    for times in (1, 2):
        m(x)
        assert np.array_equal(m.state["seen"], start + times * once)
