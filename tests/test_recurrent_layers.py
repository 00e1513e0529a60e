"""Layers rnn, gru and lstm against PyTorch's, by its names: what they compute, and runs of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cnncc
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for
from cnncc.passes.differentiate import gradients
from cnncc.passes.fold import Rebuild, expand
from cnncc.train.finetune import with_weights

BATCH, STEPS, SIZE, CHANNELS, HIDDEN, CLASSES = 8, 6, 5, 4, 7, 3
NAMES = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU, "lstm": torch.nn.LSTM}


class Classifier(torch.nn.Module):
    """A convolution, the rows of its result as steps, a recurrent layer, scores from its last states."""

    def __init__(self, kind: str, bidirectional: bool) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.cell = NAMES[kind](CHANNELS * SIZE, HIDDEN, batch_first=True, bidirectional=bidirectional)
        self.scores = torch.nn.Linear((1 + bidirectional) * HIDDEN, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = torch.relu(self.conv(x)).transpose(1, 2).flatten(2)
        _, ends = self.cell(rows)
        ends = ends[0] if isinstance(ends, tuple) else ends
        result: torch.Tensor = self.scores(ends.transpose(0, 1).flatten(1))
        return result


def network(kind: str, **keys: Any) -> Graph:
    b = cnncc.Builder("network")
    x = b.conv(b.input("x", ["N", 1, STEPS, SIZE]), out=CHANNELS, k=3, act="relu", id="conv")
    x = b.reshape(b.transpose(x, perm=[0, 2, 1, 3]), shape=[STEPS, CHANNELS * SIZE])
    return b.graph(b.linear(getattr(b, kind)(x, out=HIDDEN, id="cell", **keys), out=CLASSES, id="scores"))


@pytest.mark.parametrize(("kind", "bidirectional"), [("rnn", False), ("gru", True), ("lstm", True),
                                                     ("gru", False)])
def test_training_is_pytorchs(kind: str, bidirectional: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    module = Classifier(kind, bidirectional)
    weights = {name: v.detach().numpy().copy() for name, v in module.state_dict().items()}
    trainer = cnncc.Trainer(network(kind, bidirectional=bidirectional, last=True), batch=BATCH,
                            weights=weights, optimizer=cnncc.SGD(lr=0.2, momentum=0.9))
    assert trainer.missing == ()
    own = torch.optim.SGD(module.parameters(), lr=0.2, momentum=0.9)
    for _ in range(8):
        x = rng.standard_normal((BATCH, 1, STEPS, SIZE)).astype(np.float32)
        y = rng.integers(0, CLASSES, BATCH)
        own.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(torch.tensor(x)), torch.tensor(y))
        loss.backward()
        own.step()
        np.testing.assert_allclose(trainer.step(x, y)[0], loss.item(), rtol=1e-5)
    learned = trainer.weights()
    assert learned.keys() == weights.keys()
    for name, v in module.state_dict().items():
        np.testing.assert_allclose(learned[name].reshape(v.shape), v.numpy(), rtol=1e-4, atol=1e-5)
    trainer.save(path := tmp_path / "learned.onnx")
    again = cnncc.Trainer(network(kind, bidirectional=bidirectional, last=True), weights=path)
    assert again.missing == () and np.array_equal(again.predict(x), trainer.predict(x))
    with torch.no_grad():
        np.testing.assert_allclose(trainer.predict(x), module(torch.tensor(x)).numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("keys", [{}, {"reverse": True}, {"bidirectional": True, "bias": False},
                                  {"reverse": True, "last": True}], ids=str)
def test_states_are_pytorchs(kind: str, keys: dict[str, Any]) -> None:
    b = cnncc.Builder("states")
    x = b.input("x", ["N", STEPS, SIZE])
    graph = b.graph(getattr(b, kind)(x, out=HIDDEN, id="cell", **keys))
    reverse, last = keys.get("reverse", False), keys.get("last", False)
    module = NAMES[kind](SIZE, HIDDEN, batch_first=True, bias=keys.get("bias", True),
                         bidirectional=keys.get("bidirectional", False))
    weights = {f"cell.{name}{'_reverse' * reverse}": v.detach().numpy()
               for name, v in module.state_dict().items()}
    graph, missing = with_weights(graph, weights)
    x = np.random.default_rng(1).standard_normal((2, STEPS, SIZE)).astype(np.float32)
    y = module(torch.tensor(np.flip(x, 1).copy() if reverse else x))[0].detach().numpy()
    y = y[:, -1] if last else np.flip(y, 1) if reverse else y
    assert missing == ()
    (got,) = evaluate(graph, {"x": x}).values()
    np.testing.assert_allclose(got, y, rtol=1e-5, atol=1e-6)


def test_other_loops_are_not_trained() -> None:
    graph = expand(network("gru", last=True), target_for("native"))
    with pytest.raises(UnsupportedError, match="loop 'cell': is no recurrent layer"):
        cnncc.Trainer(graph, batch=2).step(np.zeros((2, 1, STEPS, SIZE), np.float32), np.zeros(2, int))


def test_what_does_not_fit_is_said() -> None:
    b = cnncc.Builder("bad")
    image, x = b.input("image", ["N", 1, STEPS, SIZE]), b.input("x", ["N", STEPS, SIZE])
    with pytest.raises(ModelError, match=r"expected \[N, steps, features\], its input is \[N, 1, 6, 5\]"):
        b.gru(image, out=HIDDEN)
    with pytest.raises(ModelError, match="a bidirectional layer has both directions"):
        b.lstm(x, out=HIDDEN, reverse=True, bidirectional=True)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("kind", NAMES)
def test_gradients_of_an_open_batch_through_two_layers(kind: str, steps: int) -> None:
    b = cnncc.Builder("deep")
    x = getattr(b, kind)(b.input("x", ["N", steps, SIZE]), out=3, bidirectional=True)
    own = Rebuild(b.graph(getattr(b, kind)(x, out=2, id="y")))
    for n in own.old:
        own.copy(n)
    squares = own.op("square", ["y"], "squares")
    total = own.op("reduce_sum", [squares], "total", axes=(0, 1, 2), keepdims=False)
    graph = gradients(own.graph([("total", total)]), total, ["x"])
    rng = np.random.default_rng(0)
    x, along = rng.standard_normal((2, 2, steps, SIZE)).astype(np.float32)
    ends = [evaluate(graph, {"x": x.astype(np.float64) + s * along}, np.float64)["total"]
            for s in (1e-4, -1e-4)]
    exact = evaluate(graph, {"x": x}, np.float64)["x.grad"]
    np.testing.assert_allclose((exact * along).sum(), (ends[0] - ends[1]) / 2e-4, rtol=1e-5)
    _, slopes = cnncc.compile(graph)(x)
    np.testing.assert_allclose(slopes, exact, rtol=1e-4, atol=1e-6)
