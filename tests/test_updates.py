"""Losses and optimizers as compiled graphs, against PyTorch's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import cnncc
from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.graph import Builder
from cnncc.ir.types import TensorType
from cnncc.passes.differentiate import gradients
from cnncc.train import losses, optimizers, regularizers
from cnncc.train.optimizers import SGD, Adam, AdamW, Group, Optimizer, RMSprop, Weight
from cnncc.train.regularizers import L1, L2, ClipNorm, ClipValue, ElasticNet, MaxNorm

WEIGHTS = (0.5, 1.0, 2.0, 0.25, 3.0)
SCALAR = TensorType("f32", ())


def value_and_slope(loss: losses.Loss, x: Any, y: Any) -> tuple[float, Any]:
    """The compiled loss and its derivative."""
    b = Builder("loss")
    output = b.input("x", TensorType("f32", x.shape))
    value = loss.nodes(b, output, b.input("y", loss.target(b.type(output))))
    graph = gradients(b.graph([("loss", value)]), value, [output])
    found = cnncc.compile(graph, cache=False).run(None, {"x": x, "y": y})
    return float(found[0]), found[1]


def data(shape: tuple[int, ...], kind: str) -> tuple[Any, Any]:
    rng = np.random.default_rng(len(shape))
    x = (rng.standard_normal(shape) * 4).astype(np.float32)
    if kind == "labels":
        return x, rng.integers(0, shape[1], (shape[0], *shape[2:]))
    y = rng.random(shape).astype(np.float32)
    return x, y / y.sum(1, keepdims=True) if kind == "soft" else y


def check(loss: losses.Loss, x: Any, y: Any, theirs: Callable[[Any, Any], Any]) -> None:
    value, slope = value_and_slope(loss, x, y)
    tensor = torch.tensor(x, requires_grad=True)
    expected = theirs(tensor, torch.tensor(y))
    expected.backward()
    assert value == pytest.approx(expected.item(), rel=1e-6)
    assert losses.value_of(loss, x, y) == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(slope, tensor.grad.numpy(), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("shape", [(6, 5), (4, 5, 3), (2, 5, 3, 4)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize(("soft", "ignored"), [(False, None), (False, 2), (False, -100), (True, None)])
def test_softmax_cross_entropy(shape: tuple[int, ...], smoothing: float, weights: Any, soft: bool,
                               ignored: int | None) -> None:
    x, y = data(shape, "soft" if soft else "labels")
    if ignored is not None:
        y[0] = ignored
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weights) if weights else None, label_smoothing=smoothing,
                                       ignore_index=-100 if ignored is None else ignored)
    check(losses.SoftmaxCrossEntropy(soft, smoothing, weights, ignored), x, y, theirs)


def test_softmax_cross_entropy_of_large_numbers() -> None:
    """Where exponentials overflow, where a class is impossible, and of nothing but ignored places."""
    x = np.array([[1000, 0, -1000], [-np.inf, 3, 3]], np.float32)
    value, slope = value_and_slope(losses.SoftmaxCrossEntropy(), x, np.array([0, 2]))
    assert value == pytest.approx(np.log(2) / 2)
    np.testing.assert_allclose(slope, [[0, 0, 0], [0, 0.25, -0.25]], atol=1e-7)
    value, slope = value_and_slope(losses.SoftmaxCrossEntropy(ignore_index=7), x, np.array([7, 7]))
    assert value == 0 and not slope.any()


@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3, 4)])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_sigmoid_cross_entropy(shape: tuple[int, ...], weights: Any, smoothing: float) -> None:
    x, y = data(shape, "any")
    factor = None if weights is None else torch.tensor(weights).reshape(-1, *[1] * (len(shape) - 2))
    check(losses.SigmoidCrossEntropy(smoothing, weights), x, y,
          lambda x, y: torch.nn.functional.binary_cross_entropy_with_logits(
              x, y * (1 - smoothing) + smoothing / 2, factor))


def test_sigmoid_cross_entropy_of_large_numbers() -> None:
    value, slope = value_and_slope(losses.SigmoidCrossEntropy(), np.array([[80, -80]], np.float32),
                                   np.array([[1, 0]], np.float32))
    assert value == pytest.approx(np.exp(-80.0), rel=1e-3)
    assert np.abs(slope).max() < 1e-30


@pytest.mark.parametrize(("loss", "theirs"), [
    (losses.MeanSquared(), torch.nn.MSELoss()), (losses.MeanAbsolute(), torch.nn.L1Loss()),
    (losses.Huber(), torch.nn.HuberLoss()), (losses.Huber(2.5), torch.nn.HuberLoss(delta=2.5))])
@pytest.mark.parametrize("shape", [(7,), (6, 1), (2, 3, 4, 5)])
def test_regressions(loss: losses.Loss, theirs: Any, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    check(loss, *(rng.standard_normal((2, *shape)) * 3).astype(np.float32), theirs)


def test_names() -> None:
    for name, kind in losses.NAMES.items():
        assert losses.loss_of(name) == kind()
    for name, make in optimizers.NAMES.items():
        assert optimizers.optimizer_of(name) == make()
    with pytest.raises(InputError, match="is it 'huber'"):
        losses.loss_of("hubert")
    with pytest.raises(InputError, match="is it 'adam'"):
        optimizers.optimizer_of("adamm")


@pytest.mark.parametrize(("loss", "y", "what"), [
    ("softmax_cross_entropy", [0, 3, 1], r"label 3 at \[1\] .* 3 classes, 0 to 2"),
    ("softmax_cross_entropy", [0, -1, 1], r"label -1 at \[1\]"),
    ("softmax_cross_entropy", [0.0, 1.0, 1.0], r"expected integers \[3\].* got float64\[3\]"),
    ("softmax_cross_entropy", [[1, 0, 0]] * 3, r"expected integers \[3\].* got int64\[3, 3\]"),
    ("sigmoid_cross_entropy", [[0, 1, 2]] * 3, "takes 0 to 1, got 0 to 2"),
    ("mean_squared", [0, 1, 2], r"expected numbers \[3, 3\].* got int64\[3\]"),
    ("l1", [["a", "b", "c"]] * 3, "expected numbers")])
def test_targets_that_do_not_fit(loss: str, y: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        losses.loss_of(loss).targets(np.array(y), TensorType("f32", (3, 3)))


def test_targets_and_scores() -> None:
    output = TensorType("f32", (3, 2))
    loss = losses.SoftmaxCrossEntropy(ignore_index=9)
    y = loss.targets(np.array([[1], [0], [9]], np.uint8), output)
    assert y.dtype == np.int64 and y.tolist() == [1, 0, 9]
    x = np.array([[0, 1], [0, 1], [1, 0]], np.float32)
    assert loss.score(x, y) == 0.5
    assert losses.SoftmaxCrossEntropy(soft=True).score(x, np.array([[0, 1], [0, 1], [0, 1]])) == 2 / 3
    assert losses.SigmoidCrossEntropy().score(x - 0.5, x) == 1
    assert losses.MeanSquared().score(x, x + 2) == 2
    assert losses.Huber().targets(np.arange(3), TensorType("f32", (3, 1))).shape == (3, 1)


def test_a_loss_of_the_wrong_shape() -> None:
    b = Builder("loss")
    x, y = b.input("x", TensorType("f32", (3, 4))), b.input("y", TensorType("i64", (4,)))
    with pytest.raises(ModelError, match=r"i64\[4\] don't fit outputs f32\[3, 4\]: expected i64\[3\]"):
        losses.SoftmaxCrossEntropy().nodes(b, x, y)
    with pytest.raises(ModelError, match="fixed size"):
        losses.Huber().nodes(b, b.input("n", TensorType("f32", ("N", 2))), "n")


@pytest.mark.parametrize("wrong", [
    lambda: losses.SoftmaxCrossEntropy(label_smoothing=1.0), lambda: losses.Huber(0),
    lambda: losses.SoftmaxCrossEntropy(soft=True, ignore_index=1), lambda: SGD(lr=0), lambda: SGD(lr=np.nan),
    lambda: SGD(momentum=1.0), lambda: SGD(nesterov=True), lambda: Adam(betas=(0.9, 1.0)),
    lambda: Adam(eps=0), lambda: RMSprop(alpha=-1), lambda: SGD(weight_decay=-1),
    lambda: SGD(regularizers=[1]), lambda: ClipNorm(0), lambda: L2(-1), lambda: L1(float("inf")),
    lambda: MaxNorm(-1), lambda: Group("*", lr=-1)])
def test_wrong_settings(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError, match=r"expected|needs|is for"):
        wrong()


SHAPES = {"conv.weight": (4, 3, 2, 2), "conv.bias": (4, 1, 1), "fc.weight": (5, 16), "slope": ()}


def run(optimizer: Optimizer, steps: int = 5, counter: str = "f32") -> dict[str, Any]:
    """Some steps of the compiled updates of weights, each with gradients of its own."""
    b = Builder("update")
    lr, step = b.input("lr", SCALAR), b.input("step", TensorType(counter, ()))
    slots: dict[str, Any] = {}
    weights = {}
    for name, shape in SHAPES.items():
        own = optimizer.slots(TensorType("f32", shape))
        slots |= {f"{name}/{slot}": array for slot, array in own.items()}
        weights[name] = Weight(b.input(f"w:{name}", TensorType("f32", shape)),
                               b.input(f"g:{name}", TensorType("f32", shape)),
                               {s: b.input(f"{name}/{s}", TensorType("f32", shape)) for s in own})
    made = optimizer.updates(b, weights, lr, step)
    outputs = [(f"w:{name}", w) for name, (w, _) in made.items()]
    outputs += [(f"{name}/{slot}", v) for name, (_, new) in made.items() for slot, v in new.items()]
    model = cnncc.compile(b.graph([(name, v) for name, v in outputs]), cache=False)
    state = {f"w:{name}": array for name, array in start().items()} | slots
    for t in range(steps):
        feeds = state | {f"g:{name}": g for name, g in slopes(t).items()}
        feeds |= {"lr": np.float32(0.1 / (t + 1)), "step": np.array(t + 1, b.type(step).numpy)}
        state = dict(zip((name for name, _ in outputs), model.run(None, feeds), strict=True))
    return {name: state[f"w:{name}"] for name in SHAPES}


def start() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def slopes(t: int) -> dict[str, Any]:
    rng = np.random.default_rng(t + 1)
    return {name: np.float32(3) * rng.standard_normal(shape).astype(np.float32)
            for name, shape in SHAPES.items()}


def theirs(make: Callable[[Any], Any], decay: float = 0.0, clip: float = 0.0, value: float = 0.0,
           l1: float = 0.0, steps: int = 5) -> dict[str, Any]:
    """The same with PyTorch; matrices have the decay and the rest."""
    weights = {name: torch.nn.Parameter(torch.tensor(w)) for name, w in start().items()}
    matrices = [w for name, w in weights.items() if name.endswith("weight")]
    optimizer = make([{"params": matrices, "weight_decay": decay},
                      {"params": [w for name, w in weights.items() if not name.endswith("weight")],
                       "weight_decay": 0.0}])
    for t in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 / (t + 1)
        for name, g in slopes(t).items():
            weights[name].grad = torch.tensor(g)
        if clip:
            torch.nn.utils.clip_grad_norm_(weights.values(), clip)
        if value:
            torch.nn.utils.clip_grad_value_(matrices, value)
        for w in matrices:
            w.grad += l1 * w.detach().sign()
        optimizer.step()
    return {name: w.detach().numpy() for name, w in weights.items()}


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, w in expected.items():
        np.testing.assert_allclose(found[name], w, rtol=2e-5, atol=2e-6, err_msg=name)


@pytest.mark.parametrize(("ours", "make"), [
    (SGD(), torch.optim.SGD),
    (SGD(momentum=0.9), lambda p: torch.optim.SGD(p, momentum=0.9)),
    (SGD(momentum=0.9, nesterov=True), lambda p: torch.optim.SGD(p, momentum=0.9, nesterov=True)),
    (Adam(), torch.optim.Adam),
    (Adam(betas=(0.5, 0.99), eps=1e-3), lambda p: torch.optim.Adam(p, betas=(0.5, 0.99), eps=1e-3)),
    (AdamW(), torch.optim.AdamW),
    (RMSprop(), torch.optim.RMSprop),
    (RMSprop(alpha=0.9, momentum=0.8, centered=True),
     lambda p: torch.optim.RMSprop(p, alpha=0.9, momentum=0.8, centered=True))])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_optimizers(ours: Optimizer, make: Any, decay: float) -> None:
    same(run(replace(ours, weight_decay=decay)), theirs(make, decay))


def test_bias_correction_after_many_steps() -> None:
    """1 - beta ** step has no rounding error of its own, and the counter may be an integer."""
    same(run(Adam(betas=(0.9, 0.999)), 200, "i64"), theirs(torch.optim.Adam, steps=200))


def test_penalties_and_bounds() -> None:
    sgd = torch.optim.SGD
    same(run(SGD(regularizers=[L2(0.2)])), theirs(sgd, 0.2))
    same(run(SGD(regularizers=[L1(0.3)])), theirs(sgd, l1=0.3))
    same(run(SGD(regularizers=[ElasticNet(0.3, 0.2)])), theirs(sgd, 0.2, l1=0.3))
    same(run(SGD(regularizers=[ClipNorm(2.0)])), theirs(sgd, clip=2.0))
    same(run(SGD(regularizers=[ClipNorm(1e6)])), theirs(sgd))
    same(run(SGD(regularizers=[ClipNorm(9.0), ClipValue(0.5), L1(0.1)])),
         theirs(sgd, clip=9.0, value=0.5, l1=0.1))


def test_max_norm() -> None:
    found, free = run(SGD(regularizers=[MaxNorm(0.5)]), 1), run(SGD(), 1)
    for name, w in free.items():
        if regularizers.is_vector(TensorType("f32", w.shape)):
            assert np.array_equal(found[name], w)
        else:
            norm = np.sqrt((w * w).sum(tuple(range(1, w.ndim)), keepdims=True))
            np.testing.assert_allclose(found[name], w * np.minimum(1, 0.5 / norm), rtol=1e-5)


def test_groups() -> None:
    """The first pattern that matches decides; a factor of 0 on the rate freezes."""
    groups = [Group("fc.*", lr=0.0), Group("conv.bias", weight_decay=0.1), Group("conv.*", lr=0.5)]
    found, free, began = run(SGD(weight_decay=0.3, groups=groups), 1), run(SGD(), 1), start()
    assert np.array_equal(found["fc.weight"], began["fc.weight"])
    np.testing.assert_allclose(found["conv.bias"], free["conv.bias"] - 0.01 * began["conv.bias"], rtol=1e-5)
    half = (free["conv.weight"] + began["conv.weight"]) / 2
    np.testing.assert_allclose(found["conv.weight"], half, rtol=1e-5, atol=1e-6)
    assert np.array_equal(found["slope"], free["slope"])
