"""torch.compile with our backend: as PyTorch computes, and it says what it left to PyTorch."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.backends.registry import lookup_backend, register_backend
from torch.nn import functional as F

from cnncc import torch_backend

GROUP = "torch_dynamo_backends"
PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


@pytest.fixture(autouse=True)
def fresh(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    torch.manual_seed(3)
    torch._dynamo.reset()
    torch_backend.report(reset=True)
    with caplog.at_level(logging.WARNING, "cnncc"), torch.no_grad():
        yield


def compiled(f: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    result: Callable[..., Any] = torch.compile(f, backend=torch_backend.backend, **options)
    return result


def close(a: torch.Tensor, b: torch.Tensor, limit: float = 1e-4) -> None:
    assert a.shape == b.shape and a.dtype == b.dtype
    assert float((a - b).abs().max()) <= limit * float(b.abs().max())


class Block(nn.Module):
    def __init__(self, c: int, k: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c, k, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(k)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(k, k, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(k)
        down = nn.Sequential(nn.Conv2d(c, k, 1, stride, bias=False), nn.BatchNorm2d(k))
        self.down = down if c != k else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class ResNet18(nn.Sequential):
    def __init__(self) -> None:
        blocks = [Block(c, k, 1 if c == k else 2) for c, k in [
            (64, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512)]]
        super().__init__(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))


def resnet() -> nn.Module:
    model = ResNet18().eval()
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.normal_(0, 0.2)
            m.running_var.uniform_(0.5, 2)
    return model


def test_resnet_by_its_name() -> None:
    [(name, value)] = tomllib.loads(PROJECT.read_text())["project"]["entry-points"][GROUP].items()
    entry = EntryPoint(name, value, GROUP).load()
    assert entry is torch_backend.backend
    try:
        assert lookup_backend("cnncc").__name__ == entry.__name__   # where it is installed
    except torch._dynamo.exc.InvalidBackend:
        register_backend(entry, "cnncc")
    model, x = resnet(), torch.randn(1, 3, 32, 32)
    fast = torch.compile(model, backend="cnncc")
    for _ in range(2):
        close(fast(x), model(x))
    report = torch_backend.report()
    assert report.share >= 0.99 and (report.calls, report.eager_calls) == (2, 0) and not report.eager


class Middle(nn.Module):
    """Something between two convolutions, on half of the channels."""

    def __init__(self, middle: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.middle = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1), middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.first(x).relu().chunk(2, 1)
        return self.second(torch.cat([self.middle(a), b], 1)) * 2


def test_stretches(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Middle(torch.special.bessel_j0), torch.randn(2, 3, 9, 9)
    fast = compiled(model)
    for _ in range(2):
        close(fast(x), model(x))
    report = torch_backend.report()
    assert report.share == 1 and "special_bessel_j0" in report.eager and "conv2d" not in report.eager
    [line] = caplog.messages
    assert line.startswith("torch.compile: cnncc runs 100.0 % of a graph's FLOPs, PyTorch runs")
    assert "special_bessel_j0 (Exporting the operator" in line


@pytest.mark.parametrize("train", [F.dropout, F.alpha_dropout])
def test_random(train: Callable[..., torch.Tensor]) -> None:
    model, x = Middle(lambda t: train(t, 0.5, True)), torch.randn(2, 3, 9, 9)
    fast = compiled(model)
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        y = fast(x)
        torch.manual_seed(seed)
        close(y, model(x))
    assert any("random" in why for why in torch_backend.report().eager.values())


def test_weights_change() -> None:
    model, x = Middle(torch.neg), torch.randn(1, 3, 5, 5)
    fast = compiled(model)
    for scale in range(torch_backend.SHAPES + 2):
        close(fast(x), model(x))
        if scale % 2:
            model.first.weight += 1
        else:
            model.second.bias.data = torch.full((4,), float(scale))
    assert torch_backend.report().share == 1 and not torch_backend.report().eager_calls


def test_modules_that_share_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    exported: list[int] = []
    export = torch_backend._export
    monkeypatch.setattr(torch_backend, "_export", lambda *args: exported.append(1) or export(*args))
    models = [nn.Conv2d(3, 2, 3) for _ in range(3)]
    fast, x = compiled(lambda model, x: model(x)), torch.randn(1, 3, 5, 5)
    for _ in range(2):
        for model in models:
            close(fast(model, x), model(x))
    assert len(exported) == len(models) and torch_backend.report().share == 1


def test_shapes_change(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Conv2d(3, 4, 3)
    fast = compiled(model, dynamic=True)
    for n in range(6, 7 + torch_backend.SHAPES):
        x = torch.randn(n, 3, 4, 2 + n).transpose(0, 2).contiguous().transpose(0, 2)
        close(fast(x), model(x))
    assert torch_backend.report().eager_calls == 1 and "more than 8 combinations" in caplog.text
    fast(torch.randn(6, 3, 4, 8))
    assert torch_backend.report().eager_calls == 1


def test_numbers_and_results() -> None:
    def f(x: torch.Tensor, k: int, same: torch.Tensor) -> dict[str, Any]:
        y = sums(x, 5)
        return {"y": y.reshape(x.shape[0], -1) * k, "k": k, "same": same, "both": [y, y + 1], "none": None}
    fast = compiled(f, dynamic=True)
    for k in (2, 3):
        x = torch.randn(k, 3, 4, 5)
        ours, theirs = fast(x, k, x), f(x, k, x)
        close(ours["y"], theirs["y"])
        close(ours["both"][1], theirs["both"][1])
        assert ours["k"] == k and ours["same"] is x and ours["none"] is None
    assert not torch_backend.report().eager_calls


def test_inference_mode_and_autocast() -> None:
    model, x = Middle(torch.neg), torch.randn(1, 3, 5, 5)
    fast = compiled(model)
    with torch.inference_mode():
        close(fast(x + 0), model(x + 0))
    assert torch_backend.report().share == 1
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(fast(x), model(x)) and fast(x).dtype == torch.bfloat16


def test_gradients(caplog: pytest.LogCaptureFixture) -> None:
    model, x = Middle(torch.neg), torch.randn(1, 3, 5, 5)
    fast = compiled(model)
    with torch.enable_grad():
        for _ in range(2):
            fast(x).sum().backward()
        assert model.first.weight.grad is not None
    assert torch_backend.report().eager_calls == 2
    assert caplog.messages == ["torch.compile: a graph runs in PyTorch: gradients are requested: "
                               "call the model under torch.no_grad()"]


def sums(x: torch.Tensor, out: int = 2) -> torch.Tensor:
    return F.conv2d(x, torch.ones(out, 3, 1, 1))


WRITES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "an input": lambda x: sums(x.add_(1)),
    "a view of it": lambda x: sums(x.view(1, 3, 20).mul_(2).view(1, 3, 4, 5), 3) + x,
    "a tensor with views": lambda x: (y := sums(x), v := y[:, :1], y.neg_(), v + y)[3],
    "an element": lambda x: (y := sums(x), y[0, 0].fill_(7.0), y * 2)[2],
}


@pytest.mark.parametrize("what", WRITES)
def test_writes_to_others(what: str) -> None:
    fast, x = compiled(WRITES[what]), torch.randn(1, 3, 4, 5)
    for _ in range(2):
        ours, theirs = x.clone(), x.clone()
        close(fast(ours), WRITES[what](theirs))
        assert torch.equal(ours, theirs)


def test_own_writes() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = sums(x)
        y.relu_()
        y += 1
        return torch.relu_(y.flatten(1).sub_(2)) * 3
    fast, x = compiled(f), torch.randn(1, 3, 4, 5)
    close(fast(x), f(x))
    assert torch_backend.report().share == 1 and not torch_backend.report().eager_calls


def test_training_mode_keeps_statistics(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    fast = compiled(ours)
    for _ in range(2):
        x = torch.randn(2, 3, 4, 5)
        close(fast(x), theirs(x))
    assert torch.equal(ours.running_mean, theirs.running_mean) and ours.num_batches_tracked == 2
    assert "writes to a tensor that is used elsewhere" in caplog.text


def test_other_types() -> None:
    fast, x = compiled(lambda x: (x.double().cumsum(1).sinh() * 2).to(torch.float64)), torch.randn(2, 3)
    assert torch.equal(fast(x), (x.double().cumsum(1).sinh() * 2))
