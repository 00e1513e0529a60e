"""Gradients of RNN, GRU and LSTM, compiled and by NumPy, against PyTorch's and against differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from test_onnx_recurrent import BATCH, FEATURES, HIDDEN, Feeds, operands, recurrent

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.passes.differentiate import gradients
from cnncc.passes.fold import Rebuild

STEPS = 5
ORDER = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}       # of PyTorch's gates, in ONNX's
RNG = np.random.default_rng(0)


def loss_of(op: str, given: Feeds, factors: Feeds, **attrs: Any) -> Graph:
    """The sum of all outputs times numbers, with the gradients of all that is given, as outputs."""
    source = read(recurrent(op, given, "", **attrs))
    b = Rebuild(source)
    for n in source:
        b.copy(n)
    parts = []
    for name, value in source.outputs:
        factors[name] = RNG.standard_normal(b.type(value).static()).astype(np.float32)
        product = b.op("mul", [value, b.const(f"{name}.factors", factors[name])], f"{name}.product")
        parts.append(b.op("reduce_sum", [product], f"{name}.sum", axes=tuple(range(b.type(value).rank)),
                          keepdims=False))
    while len(parts) > 1:
        parts[:2] = [b.op("add", parts[:2], "total")]
    return gradients(b.graph([("loss", parts[0])]), parts[0], [k for k in given if k != "lengths"])


def both(graph: Graph, feeds: Feeds) -> Feeds:
    """The reference's results in double precision, which those of compiled code are compared with."""
    exact = evaluate(graph, feeds, np.float64)
    got = cnncc.compile(graph, cache=False)(**feeds)
    for (name, _), y in zip(graph.outputs, got, strict=True):
        bound = 1e-5 * np.abs(exact[name]).max()
        np.testing.assert_allclose(y, exact[name], rtol=1e-4, atol=bound, err_msg=name)
    return exact


def by_pytorch(op: str, given: Feeds, factors: Feeds, reverse: bool) -> Feeds:
    leaves = {k: torch.tensor(v, dtype=torch.float64, requires_grad=True) for k, v in given.items()}
    ways = given["W"].shape[0]
    module = getattr(torch.nn, op)(FEATURES, HIDDEN, bidirectional=ways == 2, dtype=torch.float64)
    rows = np.concatenate([np.arange(g * HIDDEN, (g + 1) * HIDDEN) for g in ORDER[op]])
    weights = {}
    for d, suffix in zip(range(ways), ("", "_reverse"), strict=False):
        biases = leaves["B"][d].reshape(2, -1)
        for kind, value in (("weight_ih", leaves["W"][d]), ("weight_hh", leaves["R"][d]),
                            ("bias_ih", biases[0]), ("bias_hh", biases[1])):
            weights[f"{kind}_l0{suffix}"] = value[rows]
    x = leaves["X"].flip(0) if reverse else leaves["X"]
    states = (leaves["h"], leaves["c"]) if op == "LSTM" else leaves["h"]
    y, ends = torch.func.functional_call(module, weights, (x, states))
    y = y.reshape(STEPS, BATCH, ways, HIDDEN).transpose(1, 2)
    found = {"Y": y.flip(0) if reverse else y}
    found |= dict(zip(("Yh", "Yc"), ends if op == "LSTM" else (ends,), strict=False))
    sum((found[k] * torch.tensor(f)).sum() for k, f in factors.items()).backward()
    return {k: v.grad.numpy() for k, v in leaves.items()}


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ORDER)
def test_gradients_are_pytorchs(op: str, direction: str) -> None:
    parts = ("B", "h", "c") if op == "LSTM" else ("B", "h")
    given, factors = operands(op, STEPS, 1 + (direction == "bidirectional"), parts), Feeds()
    attrs = {"linear_before_reset": 1} if op == "GRU" else {}
    graph = loss_of(op, given, factors, direction=direction, **attrs)
    exact = both(graph, given)
    for name, wanted in by_pytorch(op, given, factors, direction == "reverse").items():
        np.testing.assert_allclose(exact[f"{name}.grad"], wanted, rtol=1e-9, atol=1e-12, err_msg=name)


CASES: list[tuple[str, int, Sequence[str], dict[str, Any]]] = [
    ("GRU", 2, ("B", "h"), {}), ("GRU", 1, (), {"linear_before_reset": 1}), ("RNN", 1, ("B", "lengths"), {}),
    ("GRU", 2, ("B", "h", "lengths"), {}), ("LSTM", 1, ("B", "h", "c", "lengths"), {"direction": "reverse"}),
    ("LSTM", 2, ("B", "P", "c"), {}), ("LSTM", 1, ("P",), {"input_forget": 1}),
    ("RNN", 1, ("B",), {"clip": 0.7}),
    ("LSTM", 1, (), {"activations": ["HardSigmoid", "Softsign", "Elu"], "activation_alpha": [0.3, 0.7],
                     "activation_beta": [0.4]})]


@pytest.mark.parametrize(("op", "ways", "parts", "attrs"), CASES, ids=str)
def test_gradients_are_differences(op: str, ways: int, parts: Sequence[str], attrs: dict[str, Any]) -> None:
    given = operands(op, STEPS, ways, parts)
    graph = loss_of(op, given, {}, **attrs)
    exact = evaluate(graph, given, np.float64)
    for name in given.keys() - {"lengths"}:
        along = RNG.standard_normal(given[name].shape)
        ends = [evaluate(graph, {**given, name: given[name] + s * along}, np.float64)["loss"]
                for s in (1e-5, -1e-5)]
        slope = (exact[f"{name}.grad"] * along).sum()
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-6, err_msg=name)


def test_compiled_gradients_of_cut_sequences() -> None:
    given = operands("GRU", STEPS, 1, ("B", "h", "lengths"))
    both(loss_of("GRU", given, {}, direction="reverse"), given)
