"""Gradients: the reference in float64 and compiled code against PyTorch; what can't be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cnncc
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.types import TensorType
from cnncc.passes.differentiate import gradients

Torch = Callable[..., torch.Tensor]
RNG = np.random.default_rng(0)


def weighted(op: str, shapes: dict[str, tuple[int, ...]], attrs: dict[str, Any]) -> Graph:
    """The sum of an op's result times the input r, with the gradients of all other inputs."""
    b = Builder("gradients")
    for name, shape in shapes.items():
        b.input(name, TensorType("f32", shape))
    y = b.op(op, list(shapes), "y", **attrs)
    b.input("r", b.type(y))
    loss = b.op("reduce_sum", [b.op("mul", [y, "r"], "part")], "loss", axes=tuple(range(b.type(y).rank)),
                keepdims=False)
    return gradients(b.graph([("loss", loss)]), loss, list(shapes))


def check(op: str, shapes: dict[str, tuple[int, ...]], attrs: dict[str, Any], torch_op: Torch) -> None:
    graph = weighted(op, shapes, attrs)
    feeds = {i: RNG.standard_normal(graph[i].type.static()).astype(np.float32) for i in graph.inputs}
    leaves = {i: torch.tensor(feeds[i], dtype=torch.float64, requires_grad=True) for i in shapes}
    (torch_op(*leaves.values()) * torch.tensor(feeds["r"], dtype=torch.float64)).sum().backward()
    exact = evaluate(graph, feeds, np.float64)
    results = dict(zip([name for name, _ in graph.outputs], cnncc.compile(graph, cache=False)(**feeds),
                       strict=True))
    for i, leaf in leaves.items():
        assert leaf.grad is not None
        wanted = leaf.grad.numpy()
        scale = np.abs(wanted).max()
        assert np.abs(exact[f"{i}.grad"] - wanted).max() <= 1e-12 * scale
        assert np.abs(results[f"{i}.grad"] - wanted).max() <= 1e-5 * scale


@pytest.mark.parametrize(("stride", "dilation", "pad", "group", "kernel"), [
    (1, 1, 1, 1, 3), (2, 1, 1, 1, 3), (2, 1, 0, 1, 1), (1, 2, 2, 2, 3), (3, 2, 1, 1, 3), (1, 1, 1, 8, 3),
    (2, 1, 2, 8, 5), (2, 1, 3, 1, 7)])
def test_convolutions(stride: int, dilation: int, pad: int, group: int, kernel: int) -> None:
    attrs = {"strides": (stride,) * 2, "dilations": (dilation,) * 2, "begin": (pad,) * 2, "end": (pad,) * 2,
             "group": group}
    check("conv", {"x": (2, 8, 11, 13), "w": (16, 8 // group, kernel, kernel)}, attrs,
          lambda x, w: F.conv2d(x, w, stride=stride, dilation=dilation, padding=pad, groups=group))


@pytest.mark.parametrize("rank", [1, 3])
def test_convolutions_of_other_ranks(rank: int) -> None:
    attrs: dict[str, Any] = {"strides": (2,) * rank, "dilations": (1,) * rank, "begin": (1,) * rank,
                             "end": (1,) * rank, "group": 1}
    torch_op: Torch = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    check("conv", {"x": (2, 4, *(7, 6, 5)[:rank]), "w": (8, 4, *(3,) * rank)}, attrs,
          lambda x, w: torch_op(x, w, stride=2, padding=1))


def test_transposed_convolution() -> None:
    attrs = {"strides": (2, 2), "dilations": (1, 1), "begin": (1, 1), "group": 2, "size": (9, 9)}
    check("conv_transpose", {"x": (2, 8, 5, 5), "w": (8, 3, 3, 3)}, attrs,
          lambda x, w: F.conv_transpose2d(x, w, stride=2, padding=1, groups=2))


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, 0), (3, 2, 1), (3, 1, 1), (2, 3, 0)])
def test_pools(kernel: int, stride: int, pad: int) -> None:
    attrs: dict[str, Any] = {"kernel": (kernel,) * 2, "strides": (stride,) * 2, "dilations": (1, 1),
                             "begin": (pad,) * 2, "end": (pad,) * 2}
    check("max_pool", {"x": (2, 5, 12, 11)}, attrs, lambda x: F.max_pool2d(x, kernel, stride, pad))
    check("sum_pool", {"x": (2, 5, 12, 11)}, attrs,
          lambda x: F.avg_pool2d(x, kernel, stride, pad, divisor_override=1))


X = {"x": (4, 6, 5, 3)}
OTHERS: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, Any], Torch]] = {
    "linear": ({"x": (4, 20), "w": (10, 20)}, {}, lambda x, w: x @ w.T),
    "matmul": ({"x": (3, 4, 20), "w": (20, 10)}, {}, lambda x, w: x @ w),
    "add": ({"x": (4, 8, 5), "w": (8, 1)}, {}, lambda x, w: x + w),
    "mul": ({"x": (4, 8, 5), "w": (4, 1, 5)}, {}, lambda x, w: x * w),
    "div": ({"x": (4, 8), "w": (4, 1)}, {}, lambda x, w: x / w),
    "relu": ({"x": (4, 8)}, {}, torch.relu),
    "softmax": (X, {"axis": 1}, lambda x: torch.softmax(x, 1)),
    "log_softmax": (X, {"axis": 2}, lambda x: torch.log_softmax(x, 2)),
    "reduce_log_sum_exp": (X, {"axes": (1,), "keepdims": True}, lambda x: torch.logsumexp(x, 1, True)),
    "concat": ({"x": (4, 8, 3), "w": (4, 16, 3)}, {"axis": 1}, lambda x, w: torch.cat([x, w], 1)),
    "slice": (X, {"begin": (0, 1, 4, 0), "steps": (1, 2, -1, 1), "shape": (4, 2, 3, 3)},
              lambda x: x[:, 1:5:2].flip(2)[:, :, :3]),
    "pad": (X, {"begin": (0, 0, 1, 1), "end": (0, 0, 2, -1), "value": 1.0},
            lambda x: F.pad(x, (1, -1, 1, 2), value=1.0)),
    "transpose": (X, {"perm": (0, 3, 1, 2)}, lambda x: x.permute(0, 3, 1, 2)),
    "reshape": (X, {"shape": (4, 90)}, lambda x: x.reshape(4, 90)),
    "expand": ({"x": (1, 6, 1)}, {"shape": (4, 6, 5)}, lambda x: x.expand(4, 6, 5)),
    "standardize": (X, {"axes": (1, 2, 3), "epsilon": 1e-5}, lambda x: F.layer_norm(x, (6, 5, 3))),
    "lrn": (X, {"size": 5, "bias": 1.0, "alpha": 0.1, "beta": 0.75},
            lambda x: F.local_response_norm(x, 5, 0.1, 0.75, 1.0)),
    "lp_norm": (X, {"axis": 1, "p": 2}, lambda x: F.normalize(x, dim=1)),
    "reduce_mean": (X, {"axes": (2, 3), "keepdims": True}, lambda x: x.mean((2, 3), keepdim=True)),
    "reduce_max": (X, {"axes": (2, 3), "keepdims": False}, lambda x: x.amax((2, 3))),
    "reduce_prod": (X, {"axes": (2,), "keepdims": False}, lambda x: x.prod(2)),
    "running_sum": (X, {"axis": 2, "begin": -4, "count": 5, "stride": 1}, lambda x: x.cumsum(2))}


@pytest.mark.parametrize("op", OTHERS)
def test_other_ops(op: str) -> None:
    check(op, *OTHERS[op])


FUNCTIONS: dict[str, tuple[dict[str, float], Torch]] = {
    "sigmoid": ({}, torch.sigmoid), "tanh": ({}, torch.tanh), "exp": ({}, torch.exp), "abs": ({}, torch.abs),
    "softplus": ({}, F.softplus), "erf": ({}, torch.erf), "sin": ({}, torch.sin), "cos": ({}, torch.cos),
    "atan": ({}, torch.atan), "sinh": ({}, torch.sinh), "asinh": ({}, torch.asinh), "gelu": ({}, F.gelu),
    "gelu_tanh": ({}, lambda x: F.gelu(x, approximate="tanh")), "mish": ({}, F.mish),
    "softsign": ({}, F.softsign), "leaky_relu": ({"alpha": 0.1}, lambda x: F.leaky_relu(x, 0.1)),
    "elu": ({"alpha": 1.5}, lambda x: F.elu(x, 1.5)), "clip": ({"low": 0.0, "high": 6.0}, F.relu6),
    "selu": ({"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}, F.selu),
    "hard_swish": ({"alpha": 1 / 6, "beta": 0.5}, F.hardswish), "swish": ({"alpha": 1.0}, F.silu),
    "reciprocal": ({}, torch.reciprocal), "cube": ({}, lambda x: x ** 3)}


@pytest.mark.parametrize("op", FUNCTIONS)
def test_functions(op: str) -> None:
    check(op, {"x": (3, 50)}, *FUNCTIONS[op])


def test_kinks_follow_pytorch() -> None:
    b = Builder("kinks")
    b.input("x", TensorType("f32", (5,)))
    loss = b.op("reduce_sum", [b.op("relu", ["x"], "y")], "loss", axes=(0,), keepdims=False)
    graph = gradients(b.graph([("loss", loss)]), loss, ["x"])
    x = np.array([-1, -0.0, 0, np.nan, 2], np.float32)
    leaf = torch.tensor(x, requires_grad=True)
    torch.relu(leaf)[[0, 1, 2, 4]].sum().backward()
    _, dx = cnncc.compile(graph, cache=False)(x)
    assert leaf.grad is not None
    assert np.array_equal(dx, leaf.grad.numpy())


def test_the_first_of_equal_maxima_gets_the_gradient() -> None:
    attrs = {"kernel": (3, 3), "strides": (2, 2), "dilations": (1, 1), "begin": (1, 1), "end": (1, 1)}
    graph = weighted("max_pool", {"x": (1, 8, 9, 9)}, attrs)
    feeds = {"x": RNG.integers(0, 3, (1, 8, 9, 9)).astype(np.float32),
             "r": RNG.standard_normal(graph["r"].type.static()).astype(np.float32)}
    leaf = torch.tensor(feeds["x"], requires_grad=True)
    (F.max_pool2d(leaf, 3, 2, 1) * torch.tensor(feeds["r"])).sum().backward()
    _, dx = cnncc.compile(graph, cache=False)(**feeds)
    assert leaf.grad is not None
    np.testing.assert_allclose(dx, leaf.grad.numpy(), rtol=1e-6, atol=1e-6)


def test_gradients_are_those_of_one_number() -> None:
    b = Builder("several")
    b.input("x", TensorType("f32", (5,)))
    b.op("relu", ["x"], "y")
    with pytest.raises(ModelError, match=r"one number: y is f32\[5\]"):
        gradients(b.graph([("y", "y")]), "y", ["x"])


SCATTERS = {"max=": "amax", "min=": "amin", "*=": "prod", "+=": "sum"}


@pytest.mark.parametrize("fold", SCATTERS)
def test_scatters(fold: str) -> None:
    """With equal elements, and with zeros among the factors: none, one, several."""
    rng = np.random.default_rng(3)
    at = rng.integers(0, 3, (4, 6))
    b = Builder("scatter")
    b.input("base", TensorType("f32", (4, 4)))
    b.input("x", TensorType("f32", at.shape))
    b.input("r", TensorType("f32", (4, 4)))
    y = b.op("scatter_elements", ["x", b.const("at", at)], "y", (), b.op("copy", ["base"], "copied"), axis=1,
             shape=(4, 4), fold=fold)
    loss = b.op("reduce_sum", [b.op("mul", [y, "r"], "part")], "loss", axes=(0, 1), keepdims=False)
    graph = gradients(b.graph([("loss", loss)]), loss, ["base", "x"])
    feeds = {"base": rng.integers(-2, 3, (4, 4)), "x": rng.integers(-2, 3, at.shape),
             "r": rng.standard_normal((4, 4))}
    feeds = {name: a.astype(np.float32) for name, a in feeds.items()}
    base, x = (torch.tensor(feeds[name], dtype=torch.float64, requires_grad=True) for name in ("base", "x"))
    result = base.scatter_reduce(1, torch.tensor(at), x, SCATTERS[fold])
    (result * torch.tensor(feeds["r"], dtype=torch.float64)).sum().backward()
    exact = evaluate(graph, feeds, np.float64)
    names = [name for name, _ in graph.outputs]
    got = dict(zip(names, cnncc.compile(graph, cache=False)(**feeds), strict=True))
    for name, leaf in (("base.grad", base), ("x.grad", x)):
        assert leaf.grad is not None
        np.testing.assert_allclose(exact[name], leaf.grad.numpy(), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(got[name], leaf.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_products_with_zeros() -> None:
    attrs = {"axes": (1,), "keepdims": False}
    x = np.array([[2, 3, 4], [2, 0, 4], [0, 3, 0]], np.float32)
    graph = weighted("reduce_prod", {"x": (3, 3)}, attrs)
    _, dx = cnncc.compile(graph, cache=False)(x, np.ones(3, np.float32))
    assert dx.tolist() == [[12, 8, 6], [0, 8, 0], [0, 0, 0]]


def test_nodes_without_a_derivative_are_all_named() -> None:
    b = Builder("stuck")
    b.input("x", TensorType("f32", (5, 5)))
    at = b.const("at", np.zeros((5, 5), np.int64))
    y = b.op("copy", ["x"], "low")
    for name in ("first", "second"):
        y = b.op("scatter_elements", ["x", at], name, (name,), y, axis=0, shape=(5, 5), fold="max=")
    loss = b.op("reduce_sum", [y], "loss", axes=(0, 1), keepdims=False)
    with pytest.raises(UnsupportedError, match="scatter_elements 'second': several scatters write over"):
        gradients(b.graph([("loss", loss)]), loss, ["x"])
