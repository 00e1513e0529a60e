"""Layers rnn, gru and lstm against PyTorch's, by its names: what they compute, and runs of training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import cnncc
from cnncc.ir.errors import ModelError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
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
def test_training_is_pytorchs(kind: str, bidirectional: bool) -> None:
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


def test_what_does_not_fit_is_said() -> None:
    b = cnncc.Builder("bad")
    image, x = b.input("image", ["N", 1, STEPS, SIZE]), b.input("x", ["N", STEPS, SIZE])
    with pytest.raises(ModelError, match=r"expected \[N, steps, features\], its input is \[N, 1, 6, 5\]"):
        b.gru(image, out=HIDDEN)
    with pytest.raises(ModelError, match="a bidirectional layer has both directions"):
        b.lstm(x, out=HIDDEN, reverse=True, bidirectional=True)
