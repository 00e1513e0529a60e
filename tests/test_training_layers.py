"""Layers in training: their gradients as PyTorch has them, what is drawn at random and how often."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import cnncc
from cnncc.compiler import optimize
from cnncc.ir.graph import Graph
from cnncc.ir.target import target_for
from cnncc.passes.fold import fold_batchnorm
from cnncc.passes.training import parameters
from cnncc.train.finetune import with_head
from cnncc.train.losses import SoftmaxCrossEntropy
from cnncc.train.optimizers import SGD
from cnncc.train.step import Step

Weights = Mapping[str, torch.Tensor]
BATCH, CHANNELS, SIZE = 4, 8, 6


def step_of(graph: Graph, batch: int = BATCH, seed: int = 0) -> Step:
    return Step(graph, SoftmaxCrossEntropy(), SGD(lr=0.1), batch=batch, threads=1, seed=seed)


def batch_of(graph: Graph, classes: int, batch: int = BATCH, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = [int(e) for e in graph[graph.inputs[0]].type.shape[1:]]
    return rng.standard_normal((batch, *shape)).astype(np.float32), rng.integers(0, classes, batch)


def standard(x: torch.Tensor, axes: tuple[int, ...], eps: float = 1e-5) -> torch.Tensor:
    rest = x - x.mean(axes, keepdim=True)
    return rest / (rest.square().mean(axes, keepdim=True) + eps).sqrt()


def affine(y: torch.Tensor, w: Weights) -> torch.Tensor:
    return y * w["n.weight"] + w["n.bias"]


def response(x: torch.Tensor, w: Weights) -> torch.Tensor:
    norm = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
    return affine(x * (norm / (norm.mean(1, keepdim=True) + 1e-6)), w) + x


def divided(x: torch.Tensor, w: Weights) -> torch.Tensor:
    squares = x.square().mean(1, keepdim=True)
    return x / (F.avg_pool2d(squares, 3, 1, 1, count_include_pad=False) + 0.1).sqrt()


def local(x: torch.Tensor, w: Weights) -> torch.Tensor:
    windows = F.pad(x, (1, 1, 1, 1)).unfold(2, 3, 1).unfold(3, 3, 1)
    return torch.einsum("ncpqab,kcabpq->nkpq", windows, w["n.weight"]) + w["n.bias"]


def shuffled(x: torch.Tensor, w: Weights) -> torch.Tensor:
    return F.relu(F.pixel_shuffle(F.channel_shuffle(x, 2), 2))


# kind: its keys, and what PyTorch makes of it
LAYERS: dict[str, tuple[dict[str, Any], Callable[[torch.Tensor, Weights], torch.Tensor]]] = {
    "layer_norm": ({}, lambda x, w: affine(standard(x, (1,)), w)),
    "group_norm": ({"groups": 2}, lambda x, w: affine(F.group_norm(x, 2), w)),
    "instance_norm": ({}, lambda x, w: affine(standard(x, (2, 3)), w)),
    "rms_norm": ({}, lambda x, w: x * (x.square().mean(1, keepdim=True) + 1e-5).rsqrt() * w["n.weight"]),
    "lrn": ({"size": 3, "alpha": 0.5}, lambda x, w: F.local_response_norm(x, 3, 0.5)),
    "global_response_norm": ({}, response),
    "divisive_norm": ({"k": 3, "eps": 0.1}, divided),
    "locally_connected": ({"out": 5, "k": 3}, local),
    "conv_transpose": ({"out": 5, "k": 3, "stride": 2}, lambda x, w: F.conv_transpose2d(
        x, w["n.weight"], w["n.bias"].reshape(-1), 2, 1, 1)),
    "upsample": ({"factor": 2, "mode": "bilinear"}, lambda x, w: F.interpolate(
        x, scale_factor=2, mode="bilinear").square()),
    "lp_pool": ({"k": 2, "p": 3}, lambda x, w: F.avg_pool2d(x.abs() ** 3, 2).mul(4) ** (1 / 3)),
    "avg_pool": ({"k": 3, "pad": 1, "count_include_pad": False, "stride": 2}, lambda x, w: F.avg_pool2d(
        x, 3, 2, 1, count_include_pad=False)),
    "prelu": ({}, lambda x, w: F.prelu(x, w["n.slope"].reshape(-1))),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_steps_follow_pytorch(kind: str) -> None:
    keys, net = LAYERS[kind]
    b = cnncc.Builder(seed=1)
    x = b.conv(b.input("x", ["N", 3, SIZE, SIZE]), out=CHANNELS, k=3, id="a")
    x = getattr(b, kind)(x, id="n", act="square" if kind == "upsample" else None, **keys)
    graph = b.graph(b.linear(b.global_avg_pool(x), out=10, id="fc"))
    follow(graph, lambda x, w: net(F.conv2d(x, w["a.weight"], w["a.bias"].reshape(-1), padding=1), w))


def follow(graph: Graph, net: Callable[[torch.Tensor, Weights], torch.Tensor]) -> None:
    """Three steps end at the weights at which PyTorch's end."""
    step = step_of(graph)
    weights = {n: torch.tensor(a) for n, a in graph.constants.items()}
    learned = [weights[n].requires_grad_() for n in parameters(graph)]
    assert {n for n in weights if n.endswith((".weight", ".bias", ".slope"))} == {*parameters(graph)}
    optimizer = torch.optim.SGD(learned, lr=0.1)
    for seed in range(3):
        x, y = batch_of(graph, 10, seed=seed)
        loss, _ = step(x, y, 0.1)
        optimizer.zero_grad()
        out = net(torch.tensor(x), weights).mean((2, 3))
        out = F.linear(out, weights["fc.weight"], weights["fc.bias"].reshape(-1))
        expected = F.cross_entropy(out, torch.tensor(y))
        expected.backward()
        optimizer.step()
        assert abs(loss - expected.item()) <= 1e-4 * abs(expected.item())
    for n in parameters(graph):
        np.testing.assert_allclose(step.state[f"w:{n}"], weights[n].detach().numpy(), rtol=1e-3, atol=1e-5,
                                   err_msg=n)


def test_moves_have_gradients() -> None:
    b = cnncc.Builder()
    x = b.conv(b.input("x", ["N", 3, SIZE, SIZE]), out=CHANNELS, k=3, id="a")
    x = b.depth_to_space(b.channel_shuffle(x, groups=2), block=2, order="CRD", act="relu")
    follow(b.graph(b.linear(b.global_avg_pool(x), out=10, id="fc")),
           lambda x, w: shuffled(F.conv2d(x, w["a.weight"], w["a.bias"].reshape(-1), padding=1), w))


def test_large_locally_connected_layers() -> None:
    """Of more weights than a cache holds, behind a layer that gets its gradients from them."""
    b = cnncc.Builder()
    x = b.conv(b.input("x", ["N", 3, 24, 24]), out=16, k=1, id="a")
    graph = b.graph(b.linear(b.global_avg_pool(b.locally_connected(x, out=16, k=3, id="n")), out=10, id="fc"))
    follow(graph, lambda x, w: local(F.conv2d(x, w["a.weight"], w["a.bias"].reshape(-1)), w))
    step = optimize(step_of(graph).graph, target_for("native"))
    local_ones = [n.kernel.flops() for n in step if n.kernel and n.type.shape[-2:] == (24, 24)
                  and any(t.type.rank == 6 for t in n.kernel.operands)]
    assert max(local_ones) <= 2 * min(local_ones)           # gradients go over windows, not over all places


def test_weights_that_a_sample_uses_once_are_read_once_for_the_batch() -> None:
    b = cnncc.Builder()
    x = b.locally_connected(b.input("x", ["N", 16, 24, 24]), out=16, k=3)
    [n] = [n for n in optimize(b.graph(x), target_for("x86-64-v3")) if "local_conv" in n.attr.get("does", "")]
    assert n.kernel is not None
    loops = [loop for s in n.kernel.stages for loop in (*n.kernel.loops.loops, *s.schedule.loops)]
    assert [loop.kind for loop in loops if loop.dim == "n"] == ["for", "unroll"]


def test_norms_of_inputs_are_learned() -> None:
    b = cnncc.Builder()
    x = b.layer_norm(b.input("x", ["N", 3, 2, 2]), id="n")
    assert parameters(b.graph(b.relu(x))) == ("n.weight", "n.bias")


@pytest.mark.parametrize(("kind", "keys"), [
    ("global_response_norm", {}), ("lp_pool", {"k": 2}), ("lp_pool", {"k": 2, "p": 3}),
    ("stochastic_pool", {"k": 2})])
def test_dead_channels_have_gradients(kind: str, keys: dict[str, int]) -> None:
    """The norm of zeros has no slope: PyTorch takes 0."""
    b = cnncc.Builder()
    x = b.conv(b.input("x", ["N", 3, SIZE, SIZE]), out=CHANNELS, k=3, id="a",
               bias=np.repeat(np.float32([-100, 0]), CHANNELS // 2), act="relu")
    step = step_of(b.graph(b.linear(b.global_avg_pool(getattr(b, kind)(x, **keys)), out=10)))
    step(*batch_of(step.graph, 10), 0.1)
    assert all(np.isfinite(a).all() for a in step.state.values())


# ---- stochastic pooling

WINDOW = np.float32([[1, 2, -3, 5], [0, 7, 4, 0.5]])      # two windows of 2 x 2, side by side


def pooled(batch: int, seed: int) -> Step:
    """The model's two outputs are the two windows' results."""
    b = cnncc.Builder()
    x = b.locally_connected(b.input("x", ["N", 1, 2, 4]), out=1, k=1, bias=False, id="own",
                            weight=np.ones((1, 1, 1, 1, 2, 4), np.float32))
    return step_of(b.graph(b.flatten(b.stochastic_pool(x, k=2))), batch, seed)


def test_values_are_drawn_in_proportion() -> None:
    step = pooled(1000, 7)
    x, y = np.broadcast_to(WINDOW, (1000, 1, 2, 4)).copy(), np.zeros(1000, np.int64)
    drawn = np.concatenate([step(x, y, 0.0)[1].reshape(-1, 2) for _ in range(8)])
    for column, window in enumerate((WINDOW[:, :2], WINDOW[:, 2:])):
        weights = window.clip(0) / window.clip(0).sum()
        assert {*drawn[:, column]} == {*window[weights > 0]}
        for value, share in zip(window.ravel(), weights.ravel(), strict=True):
            error = (share * (1 - share) / len(drawn)) ** 0.5
            assert abs((drawn[:, column] == value).mean() - share) <= 4 * error


def test_draws_follow_from_seed_step_and_place() -> None:
    x, y = np.broadcast_to(WINDOW, (50, 1, 2, 4)).copy(), np.zeros(50, np.int64)
    runs = [[pooled_step(x, y, 0.0)[1].tolist() for _ in range(2)] for pooled_step in
            (pooled(50, 1), pooled(50, 1), pooled(50, 2))]
    assert runs[0] == runs[1] and runs[0][0] != runs[0][1] and runs[0] != runs[2]


def test_the_gradient_goes_to_the_chosen_place() -> None:
    step = pooled(1, 3)
    _, out = step(WINDOW[None, None], np.zeros(1, np.int64), 0.1)
    changed = step.state["w:own.weight"].reshape(2, 4) != 1
    assert WINDOW[changed].tolist() == sorted(WINDOW[changed], key=out.ravel().tolist().index)
    assert changed[:, :2].sum() == changed[:, 2:].sum() == 1


def test_windows_without_positive_values_give_zero() -> None:
    step = pooled(1, 3)
    _, out = step(-np.abs(WINDOW)[None, None], np.zeros(1, np.int64), 0.1)
    assert not out.any() and (step.state["w:own.weight"] == 1).all()


# ---- dropped weights


def dropping(p: float) -> Graph:
    b = cnncc.Builder()
    return b.graph(b.linear(b.input("x", ["N", 1]), out=4000, bias=False, drop_connect=p, id="l",
                            weight=np.ones((4000, 1), np.float32)))


def test_weights_keep_their_share() -> None:
    graph = dropping(0.3)
    step, x = step_of(graph), np.ones((BATCH, 1), np.float32)
    first, second = (step(x, np.zeros(BATCH, np.int64), 0.0)[1] for _ in range(2))
    assert (first == first[:1]).all() and (first != second).any()      # per step, for all samples
    np.testing.assert_allclose(np.unique(first), [0, 1 / 0.7], rtol=1e-6)
    assert abs((first[0] == 0).mean() - 0.3) <= 4 * (0.3 * 0.7 / 4000) ** 0.5
    other = step_of(graph)
    assert np.array_equal(other(x, np.zeros(BATCH, np.int64), 0.0)[1], first)


def test_a_head_of_dropped_weights_can_be_changed() -> None:
    graph = with_head(dropping(0.5), 3)
    assert graph[graph.outputs[0][1]].type.shape == ("N", 3) and parameters(graph) == ("l.weight",)


def test_dropped_weights_stay() -> None:
    step = step_of(dropping(0.5))
    _, out = step(np.ones((BATCH, 1), np.float32), np.zeros(BATCH, np.int64), 1.0)
    assert np.array_equal(step.state["w:l.weight"].ravel() != 1, out[0] != 0)


def test_dropped_weights_still_fold() -> None:
    b = cnncc.Builder()
    x = b.conv(b.input("x", ["N", 3, 4, 4]), out=4, k=3, drop_connect=0.5)
    graph = fold_batchnorm(b.graph(b.batch_norm(x)), target_for())
    assert [n.op for n in graph if n.op not in ("input", "const")] == ["conv", "add"]
