"""`cnncc train`, `explain`, `zoo`, `demo --train`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from test_cli import cache_folder, here, say
from test_trainer import dots

import cnncc
from cnncc import zoo
from cnncc.demo import demo

__all__ = ["cache_folder", "here", "say"]

SMALL = """
input: {x: [N, 1, 8, 8]}
layers:
  - {id: c1, op: conv, out: 4, k: 3, act: relu}
  - {op: max_pool, k: 2}
  - {id: scores, op: linear, out: 4}
"""
FAST = ("--epochs", "4", "--lr", "0.1", "--batch", "16", "--threads", "1")


@pytest.fixture(autouse=True)
def files(here: Path) -> Iterator[None]:
    (x, y), (u, v) = dots(64), dots(32, 1)
    np.savez("data.npz", x_train=x, y_train=y, x_test=u, y_test=v)
    Path("small.yaml").write_text(SMALL)
    yield


def train(say: Any, *options: str) -> tuple[int, str, str]:
    found: tuple[int, str, str] = say("train", "small.yaml", "--data", "data.npz", *FAST, *options)
    return found


def test_train(say: Any) -> None:
    code, out, err = train(say, "--schedule", "one_cycle", "--augment", "--out", "m.onnx",
                           "--log", "log.jsonl", "--std", "0.5", "--decay", "1e-4", "--clip", "5",
                           "--smoothing", "0.1")
    assert code == 0 and out.startswith("test: loss ") and "; m.onnx" in out
    assert err.count("epoch ") == 4 and "val_accuracy" in err
    with np.load("data.npz") as data:
        x, y = data["x_test"][:, None].astype(np.float32) / 255 / 0.5, data["y_test"]
    [scores] = onnxruntime.InferenceSession("m.onnx").run(None, {"x": x})
    assert f"accuracy {(scores.argmax(1) == y).mean():.4f}" in out
    assert len(Path("log.jsonl").read_text().splitlines()) == 16
    code, out, err = train(say, "--json", "-q", "--seed", "1", "--optimizer", "adam")
    result = json.loads(out)
    assert code == 0 and not err and len(result["history"]) == 4 and result["test"]["accuracy"] <= 1


def test_resume(say: Any) -> None:
    """To the same file as without a stop."""
    assert train(say, "--out", "whole.onnx")[0] == 0
    assert say("train", "small.yaml", "--data", "data.npz", *FAST[2:], "--epochs", "2", "--out", "m.onnx",
               "--resume")[0] == 0
    assert Path("m.onnx.checkpoints").is_dir()
    assert train(say, "--out", "m.onnx", "--resume")[0] == 0
    assert Path("m.onnx").read_bytes() == Path("whole.onnx").read_bytes()
    code, _, err = train(say, "--out", "m.onnx", "--resume", "--momentum", "0.5")
    assert code == 1 and "another optimizer" in err
    code, _, err = train(say, "--checkpoints", "m.onnx.checkpoints")
    assert code == 1 and "go on with resume=True" in err


def test_fine_tuning(say: Any) -> None:
    assert train(say, "--out", "w.safetensors")[0] == 0
    code, out, _ = train(say, "--weights", "w.safetensors", "--freeze", "c1.*", "--classes", "6",
                         "--out", "m.onnx")
    assert code == 0 and "m.onnx" in out
    first, second = cnncc.Trainer("small.yaml", weights="w.safetensors"), cnncc.Trainer("m.onnx")
    assert np.array_equal(first.weights()["c1.weight"], second.weights()["c1.weight"])
    assert second.output.shape[1] == 6


@pytest.mark.parametrize(("options", "code", "what"), [
    (("--data", "none.npz"), 1, "none.npz: there is no such file"),
    (("--resume",), 2, "--resume needs"), (("--out", "m.txt"), 2, "--out must end in"),
    (("--optimizer", "adam", "--momentum", "0.5"), 2, "--momentum is of sgd and rmsprop"),
    (("--smoothing", "0.1", "--loss", "l1"), 2, "--smoothing is for cross-entropies"),
    (("--loss", "nll"), 1, "loss: expected"), (("--schedule", "no"), 1, "schedule: expected"),
    (("--mean", "1,2"), 1, "mean: expected 1 number"), (("--std", "0"), 2, "must not be 0"),
    (("--lr", "0"), 1, "lr: expected a number above 0"), (("--freeze", "d1.*"), 1, "no weights match"),
    (("--weights", "data.npz"), 1, "has nothing for small"),
    (("--out", "no/m.onnx"), 1, "there is no folder 'no'"),
    (("--plot", "no/m.png"), 1, "there is no folder 'no'"),
    (("--log", "log.txt"), 1, "a log is a .csv or .jsonl file")])
def test_mistakes(say: Any, options: tuple[str, ...], code: int, what: str) -> None:
    found, _, err = train(say, *options, "--epochs", "1")
    assert found == code and what in err and "Traceback" not in err and "epoch " not in err


def test_plots_need_matplotlib_before_training(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnncc.train.history.find_spec", lambda name: None)
    code, _, err = train(say, "--plot", "m.png")
    assert code == 1 and "plots need matplotlib" in err and "epoch " not in err


def test_what_was_learned_is_not_lost_when_it_is_stopped(say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*args: Any, **how: Any) -> None:
        raise KeyboardInterrupt
    monkeypatch.setattr("cnncc.train.trainer.Trainer.fit", stop)
    code, _, err = train(say, "--out", "m.onnx", "--resume")
    assert code == 130 and "stopped after step 0: with --resume the same line goes on" in err
    assert "would have kept what was learned" in train(say)[2]


def test_other_classes_than_outputs_are_noted(say: Any) -> None:
    for name in "abc":
        Path("images/train", name).mkdir(parents=True)
        for i in range(16):
            Image.new("L", (8, 8), i).save(f"images/train/{name}/{i}.png")
    code, _, err = say("train", "small.yaml", "--data", "images", *FAST)
    assert code == 0 and "the data have 3 classes, the network has 4 outputs: --classes 3" in err


def test_patience_needs_something_to_test_with(say: Any) -> None:
    x, y = dots(32)
    np.savez("data.npz", x_train=x, y_train=y)
    code, _, err = train(say, "--patience", "2")
    assert code == 2 and "--patience needs data with a test part" in err
    assert train(say, "--epochs", "1")[1].startswith("train: loss")


def test_explain(say: Any) -> None:
    assert train(say, "--out", "m.onnx")[0] == 0
    Image.fromarray(dots(1)[0][0]).save("a.png")
    for options in ((), ("--method", "saliency", "--class", "2"), ("--method", "occlusion", "--size", "3")):
        code, out, _ = say("explain", "m.onnx", "a.png", "-o", "heat.png", *options)
        assert code == 0 and "in heat.png" in out and Path("heat.png").stat().st_size > 100
        Path("heat.png").unlink()
    out = say("explain", "m.onnx", "a.png", "-o", "h.png", "--json", "--layer", "c1")[1]
    assert json.loads(out)["class"] < 4
    for options, code, what in ((("--size", "3"), 2, "--size of occlusion"),
                                (("--class", "4"), 1, "from 0 to 3"), (("--layer", "c2"), 1, "got 'c2'")):
        found, _, err = say("explain", "m.onnx", "a.png", "-o", "h.png", *options)
        assert found == code and what in err


def test_zoo(say: Any) -> None:
    code, out, _ = say("zoo")
    assert code == 0 and all(name in out for name in ("lenet5", "mnist_cnn", "resnet18_cifar"))
    code, out, _ = say("zoo", "show", "lenet5")
    assert code == 0 and out == zoo.path("lenet5").read_text()
    assert say("zoo", "show")[0] == 2
    code, _, err = say("zoo", "show", "lenet")
    assert code == 1 and "is it 'lenet5'?" in err
    code, _, err = say("train", "lenet", "--data", "data.npz")
    assert code == 1 and "is it 'lenet5'?" in err


@pytest.mark.parametrize("name", zoo.names())
def test_definitions_of_the_package(say: Any, name: str) -> None:
    code, out, _ = say("info", str(zoo.path(name)))
    assert code == 0 and "everything in it can be compiled" in out and zoo.about(name).endswith(".")
    cnncc.Trainer(zoo.path(name))


def test_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("timeit.Timer.autorange", lambda timer: (1, timer.timeit(1)))
    text = "\n".join(demo(threads=1, train=True))
    assert "Training on 1438 digits" in text and "agree with the NumPy reference" in text
    accuracy = float(text.partition("held-out digits: ")[2].partition("%")[0])
    assert accuracy > 95
