"""Saliency, Grad-CAM, occlusion: against PyTorch and by what they must show."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

import cnncc
from cnncc import explanations
from cnncc.explanations import gradcam, occlusion, picture, saliency
from cnncc.ir.errors import InputError, ModelError

X = np.random.default_rng(0).standard_normal((3, 2, 8, 6)).astype(np.float32)


def network(softmax: bool = True) -> cnncc.Graph:
    b = cnncc.Builder("small", seed=1)
    x = b.input("x", ["N", 2, 8, 6])
    x = b.max_pool(b.conv(x, out=6, k=3, act="relu", id="c1"), k=2)
    x = b.conv(x, out=8, k=3, act="relu", id="c2")
    x = b.linear(b.global_avg_pool(x), out=4, id="f")
    return b.graph(b.softmax(x, id="p") if softmax else x)


def theirs(x: Any) -> tuple[Any, Any]:
    """The value of c2 and the scores in PyTorch."""
    w = {name: torch.tensor(a) for name, a in network().constants.items()}
    x = functional.conv2d(x, w["c1.weight"], w["c1.bias"].flatten(), padding=1).relu()
    x = functional.max_pool2d(x, 2)
    x = functional.conv2d(x, w["c2.weight"], w["c2.bias"].flatten(), padding=1).relu()
    return x, functional.linear(x.mean((2, 3)), w["f.weight"], w["f.bias"])


@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("target", [None, [2, 0, 3]])
def test_saliency(softmax: bool, target: Any) -> None:
    x = torch.tensor(X, requires_grad=True)
    scores = theirs(x)[1]
    chosen = scores.argmax(1) if target is None else torch.tensor(target)
    scores[range(3), chosen].sum().backward()
    expected = x.grad.abs().amax(1).numpy()     # type: ignore[union-attr]
    np.testing.assert_allclose(saliency(network(softmax), X, target), expected, rtol=1e-4, atol=1e-6)


def test_gradcam() -> None:
    value, scores = theirs(torch.tensor(X))
    value = value.detach().requires_grad_()
    w = network().constants["f.weight"]
    target = [1, 2, 3]
    expected = torch.relu((torch.tensor(w[target])[:, :, None, None] / 12 * value).sum(1))
    expected = functional.interpolate(expected[:, None], (8, 6), mode="bilinear")[:, 0]
    expected = expected / expected.amax((1, 2), keepdim=True).clamp(1e-9)
    found = gradcam(network(), X, target)
    np.testing.assert_allclose(found, expected.detach().numpy(), atol=1e-4)
    assert np.array_equal(found, gradcam(network(), X, target, "c2"))
    assert gradcam(network(), X, layer="c1").shape == (3, 8, 6) and scores.shape == (3, 4)


def test_occlusion() -> None:
    graph, target = network(False), np.array([1, 2, 3])
    model = cnncc.compile(graph)
    found = occlusion(graph, X, target, size=3, stride=3, value=0.5)
    total, count = np.zeros((3, 8, 6)), np.zeros((8, 6))
    for i in (0, 3, 5):
        for j in (0, 3):
            hidden = X.copy()
            hidden[:, :, i:i + 3, j:j + 3] = 0.5
            fall = (model(X) - model(hidden))[range(3), target]
            total[:, i:i + 3, j:j + 3] += fall[:, None, None]
            count[i:i + 3, j:j + 3] += 1
    np.testing.assert_allclose(found, total / count, rtol=1e-4, atol=1e-6)
    assert occlusion(graph, X, size=6).shape == (3, 8, 6)


def test_a_picture(tmp_path: Path) -> None:
    picture(X[0], np.abs(X[0, 0]), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (6 * 32, 8 * 32) and image.mode == "RGB"
    picture(np.zeros((3, 4, 4)), np.zeros((4, 4)), tmp_path / "a.jpg")
    for name in ("a.nothing", "no/a.png"):
        with pytest.raises(InputError, match="cannot be written"):
            picture(X[0], X[0, 0], tmp_path / name)


def test_pictures_need_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(InputError, match=r"cnncc\[images\]"):
        picture(X[0], X[0, 0], "a.png")


@pytest.mark.parametrize(("call", "what"), [
    (lambda: saliency(network(), X[:, :1]), r"expected float32\[N, 2, 8, 6\], got float32\[3, 1, 8, 6\]"),
    (lambda: saliency(network(), X.astype(np.float64)), "got float64"),
    (lambda: saliency(network(), X, [0, 1, 4]), "expected 3 classes from 0 to 3"),
    (lambda: saliency(network(), X, [0]), "expected 3 classes"),
    (lambda: gradcam(network(), X, layer="c3"), "got 'c3'.*c1"),
    (lambda: gradcam(network(), X, layer="f"), "got 'f'"),
    (lambda: occlusion(network(), X, size=7), "patches of 1 to 6 pixels"),
    (lambda: occlusion(network(), X, size=2, stride=3), "stride 3"),
    (lambda: explanations.explain("lime"), "expected one of saliency, gradcam, occlusion, got 'lime'")])
def test_what_does_not_fit(call: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        call()


def test_networks_that_do_not_map_images_to_scores() -> None:
    b = cnncc.Builder("dense")
    with pytest.raises(ModelError, match=r"images .*scores"):
        saliency(b.graph(b.conv(b.input("x", ["N", 2, 8, 6]), out=3, k=1)), X)
