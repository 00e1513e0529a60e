"""Dumps of small graphs after every pass, held against files; they parse back to what they were printed from.

`CNNCC_GOLDEN=write pytest tests/test_golden.py` writes the files anew: read the difference before committing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from cnncc.codegen.lower import lower
from cnncc.compiler import optimize, stages
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.target import Target
from cnncc.ir.text import parse_graph
from cnncc.ir.types import TensorType

FOLDER = Path(__file__).parent / "golden"
TARGETS = {"v4": Target("x86_64-unknown-linux-gnu", "x86-64-v4", "", 16, 32),
           "v3": Target("x86_64-unknown-linux-gnu", "x86-64-v3", "", 8, 16)}


def _weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(-3, 4, shape).astype(np.float32)


def _conv(b: Builder, x: str, name: str, out: int, k: int, stride: int = 1, group: int = 1) -> str:
    channels = b.type(x).shape[1]
    assert isinstance(channels, int)
    w = b.const(f"{name}.w", _weights(out, channels // group, k, k))
    pad = (k // 2, k // 2)
    return b.op("conv", [x, w], name, (name,), strides=(stride, stride), dilations=(1, 1), begin=pad, end=pad,
                group=group)


def _pool(b: Builder, x: str, k: int, stride: int, pad: int) -> str:
    return b.op("max_pool", [x], "pool", ("pool",), kernel=(k, k), strides=(stride, stride), dilations=(1, 1),
                begin=(pad, pad), end=(pad, pad))


def conv_relu_pool() -> Graph:
    b = Builder("conv_relu_pool")
    b.input("x", TensorType("f32", ("N", 3, 12, 12)))
    y = _conv(b, "x", "conv", 20, 3)
    y = b.op("add", [y, b.const("bias", _weights(20, 1, 1))], "biased", ("conv",))
    y = b.op("relu", [y], "relu", ("relu",))
    return b.graph([("y", _pool(b, y, 2, 2, 0))])


def residual() -> Graph:
    b = Builder("residual")
    b.input("x", TensorType("f32", (1, 32, 14, 14)))
    a = b.op("relu", [_conv(b, "x", "first", 32, 1)], "relu1", ("relu1",))
    y = _conv(b, a, "second", 32, 3)
    vectors = [b.const(name, abs(_weights(32))) for name in ("weight", "bias", "mean", "variance")]
    y = b.op("batch_norm", [y, *vectors], "bn", ("bn",), epsilon=1e-5)
    y = b.op("relu", [b.op("add", [y, a], "sum", ("sum",))], "relu2", ("relu2",))
    y = b.op("reduce_mean", [y], "mean", ("mean",), axes=(2, 3), keepdims=True)
    y = b.op("reshape", [y], "flat", ("flat",), shape=(1, 32))
    y = b.op("linear", [y, b.const("fc.w", _weights(10, 32))], "fc", ("fc",))
    return b.graph([("y", b.op("softmax", [y], "softmax", ("softmax",), axis=1))])


def strips() -> Graph:
    b = Builder("strips")
    b.input("x", TensorType("f32", (8, 16, 160, 160)))
    y = b.op("relu", [_conv(b, "x", "expand", 48, 1)], "relu", ("relu",))
    y = b.op("clip", [_conv(b, y, "depthwise", 48, 3, group=48)], "clip", ("clip",), low=0.0, high=6.0)
    y = b.op("reduce_max", [_conv(b, y, "project", 16, 1)], "top", ("top",), axes=(2, 3), keepdims=False)
    return b.graph([("y", y)])


def preactivation() -> Graph:
    b = Builder("preactivation")
    b.input("x", TensorType("f32", (1, 16, 64, 64)))
    x = _conv(b, "x", "stem", 64, 1)
    vectors = [b.const(name, abs(_weights(64))) for name in ("weight", "bias", "mean", "variance")]
    y = b.op("relu", [b.op("batch_norm", [x, *vectors], "bn", ("bn",), epsilon=1e-5)], "relu", ("relu",))
    y = b.op("add", [_conv(b, y, "conv", 64, 1), x], "sum", ("sum",))
    return b.graph([("y", b.op("reduce_max", [y], "top", ("top",), axes=(2, 3), keepdims=False))])


@pytest.mark.parametrize("level", TARGETS)
@pytest.mark.parametrize("make", [conv_relu_pool, residual, strips, preactivation])
def test_dumps(make: Callable[[], Graph], level: str) -> None:
    text = ""
    for name, graph in stages(make(), TARGETS[level]):
        text += f"---- {name}\n{graph}\n"
        again = parse_graph(str(graph), graph.constants)
        assert str(again) == str(graph)
        assert again.nodes == graph.nodes
        assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    path = FOLDER / f"{make.__name__}.{level}.txt"
    if os.environ.get("CNNCC_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("name", ["a b", "it's", "a'b\"c d", "line\nfeed", "back\\slash", "x: y", "(", ","])
def test_names_of_any_characters(name: str) -> None:
    b = Builder(name)
    b.input(name, TensorType("f32", (1,)))
    graph = b.graph([(name, b.op("relu", [name], f"{name}.relu", (name,)))])
    again = parse_graph(str(graph))
    assert (again.name, again.nodes, again.outputs) == (graph.name, graph.nodes, graph.outputs)


def test_llvm_text_of_a_small_kernel() -> None:
    """The whole text of one kernel: what the emitter writes for a run of tiles, a tail and an epilogue."""
    b = Builder("small")
    b.input("x", TensorType("f32", ("N", 20)))
    y = b.op("linear", ["x", b.const("w", _weights(4, 20))], "fc", ("fc",))
    graph = optimize(b.graph([("y", b.op("relu", [y], "relu", ("relu",)))]), TARGETS["v3"])
    kernels = [n.kernel for n in graph if n.kernel is not None]
    assert len(kernels) == 1
    text = lower(kernels[0], "kernel", TARGETS["v3"])
    path = FOLDER / "small.ll"
    if os.environ.get("CNNCC_GOLDEN") == "write":
        path.write_text(text)
    assert text == path.read_text()
