"""The trainer: what it learns, that it goes on as if it had never stopped, what it says of bad input."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

import cnncc
from cnncc.ir.errors import CnnccError, InputError, ModelError
from cnncc.train import checkpoint
from cnncc.train.augment import Crop, Flip
from cnncc.train.data import Data, Dataset
from cnncc.train.diagnosis import first_bad
from cnncc.train.history import EarlyStopping
from cnncc.train.losses import MeanSquared, SoftmaxCrossEntropy
from cnncc.train.optimizers import SGD, Adam
from cnncc.train.trainer import Trainer

RNG = np.random.default_rng(1)


def dots(n: int, seed: int = 0) -> tuple[Any, Any]:
    """Images with a bright quarter, which is the class."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 100, (n, 8, 8), np.uint8), rng.integers(0, 4, n)
    for image, label in zip(x, y, strict=True):
        image[4 * (label // 2):][:4, 4 * (label % 2):][:, :4] += 100
    return x, y


X, Y = dots(48)


def network(softmax: bool = False, drop: bool = True) -> cnncc.Graph:
    b = cnncc.Builder("small")
    x = b.input("x", ["N", 1, 8, 8])
    x = b.batch_norm(b.conv(x, out=4, k=3, bias=False, id="c1"), id="n1", act="relu")
    x = b.max_pool(x, k=2)
    if drop:
        x = b.dropout(x, p=0.2)
    x = b.linear(x, out=4, id="f1")
    return b.graph(b.softmax(x, id="p") if softmax else x)


def trainer(graph: Any = None, **how: Any) -> Trainer:
    settings: dict[str, Any] = {"optimizer": SGD(lr=0.1, momentum=0.9), "batch": 16, "mean": 0.4, "std": 0.2,
                                "threads": 1} | how
    return Trainer(network() if graph is None else graph, **settings)


def same(a: Trainer, b: Trainer) -> bool:
    first, second = a.state, b.state
    return first.keys() == second.keys() and all(np.array_equal(first[k], second[k]) for k in first)


# ---- learning


def test_it_learns_and_what_is_saved_says_the_same(tmp_path: Path) -> None:
    t = trainer()
    history = t.fit(X, Y, epochs=8, validation=dots(30, 1), schedule="one_cycle", progress=True)
    assert len(history) == 8 and t.position.step == 8 * 3
    assert history["loss"][-1] < 0.3 < history["loss"][0] and history["val_accuracy"][-1] == 1
    assert history.rows[-1].keys() >= {"epoch", "step", "loss", "accuracy", "val_loss", "lr", "seconds"}
    x, y = dots(40, 2)
    result, outputs = t.evaluate(x, y), t.predict(x)
    assert result["accuracy"] == (outputs.argmax(1) == y).mean() == 1
    t.save(tmp_path / "m.onnx")
    prepared = t.prepare(x, 0, np.arange(40), False)
    [theirs] = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"x": prepared})
    np.testing.assert_allclose(theirs, outputs, atol=1e-4)
    np.testing.assert_allclose(cnncc.compile(t.inference())(prepared), outputs, atol=1e-5)
    t.save(tmp_path / "w.safetensors")
    again = trainer(weights=tmp_path / "w.safetensors")
    assert not again.missing and np.array_equal(again.predict(x), outputs)
    for name in ("m.txt", "no/m.onnx"):
        with pytest.raises((InputError, OSError)):
            t.save(tmp_path / name)


@pytest.mark.parametrize("how", [{"class_weights": (0.1, 1.0, 5.0, 0.0)}, {"ignore_index": 3},
                                 {"class_weights": (1.0, 2.0, 3.0, 4.0), "ignore_index": 0}], ids=str)
def test_evaluation_is_the_mean_over_all_that_counts(how: dict[str, Any]) -> None:
    x, y = dots(600)
    order = np.argsort(y, kind="stable")            # batches that count differently
    t = trainer(loss=SoftmaxCrossEntropy(**how))
    result, outputs = t.evaluate(x[order], y[order]), t.predict(x[order])
    weight = torch.tensor(how["class_weights"], dtype=torch.float64) if "class_weights" in how else None
    labels, ignored = torch.tensor(y[order]), how.get("ignore_index", -100)
    expected = torch.nn.functional.cross_entropy(torch.tensor(outputs).double(), labels, weight,
                                                 ignore_index=ignored)
    assert result["loss"] == pytest.approx(expected.item(), rel=1e-5)
    kept = y[order] != ignored
    assert result["accuracy"] == pytest.approx((outputs.argmax(1) == y[order])[kept].mean())


def test_the_bits_do_not_depend_on_threads_or_on_how_data_come() -> None:
    X, Y = dots(50)     # the last batch has two samples
    one = trainer(augment=[Flip(), Crop(1)])
    one.fit(X, Y, epochs=2)
    two = trainer(augment=[Flip(), Crop(1)], threads=3)
    two.fit(Dataset(X, Y), epochs=2)
    assert same(one, two)
    listed = trainer()
    listed.fit([(X[:7], Y[:7]), (X[7:], Y[7:])], epochs=2)
    other = trainer()
    other.fit([(X[:30], Y[:30]), (X[30:], Y[30:])], epochs=2)
    assert same(listed, other) and not same(one, listed)


def test_tensors_of_pytorch() -> None:
    own, other = trainer(), trainer()
    own.fit(X.astype(np.float32), Y)
    other.fit(torch.tensor(X.astype(np.float32)), torch.tensor(Y))
    assert same(own, other)


def test_one_hot_targets_and_those_of_other_losses() -> None:
    labels, hot = trainer(), trainer()
    labels.fit(X, Y)
    hot.fit(X, np.eye(4, dtype=np.uint8)[Y])
    assert isinstance(hot.loss, SoftmaxCrossEntropy) and hot.loss.soft
    for name, a in labels.state.items():
        np.testing.assert_allclose(hot.state[name], a, atol=1e-5)
    numbers = trainer(loss=MeanSquared(), optimizer=Adam(lr=0.01))
    rows = numbers.fit(X, np.eye(4)[Y], epochs=3).rows
    assert rows[-1]["loss"] < rows[0]["loss"] and "absolute_error" in rows[0]


def test_a_last_softmax_is_part_of_the_loss() -> None:
    t, plain = trainer(network(softmax=True)), trainer()
    t.fit(X, Y)
    plain.fit(X, Y)
    assert all(np.array_equal(t.weights()[name], a) for name, a in plain.weights().items())
    p = t.predict(X)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    assert np.array_equal(p.argmax(1), plain.predict(X).argmax(1))
    assert t.evaluate(X, Y) == plain.evaluate(X, Y)


def test_single_steps_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cnncc.train.trainer.STEPS", 1)
    t = trainer()
    losses = [t.step(X[:n], Y[:n], lr=0.01)[0] for n in (16, 1, 16)]
    assert np.isfinite(losses).all() and t.position.step == 3
    loss, measure = t.step(X[:16], Y[:16])
    assert loss > 0 and 0 <= measure <= 1


def test_callbacks_and_early_stopping() -> None:
    t, seen = trainer(), []
    stopping = EarlyStopping("val_accuracy", patience=2)
    t.fit(Data(Dataset(X, Y), Dataset(*dots(30, 1))), epochs=50, early_stopping=stopping,
          callbacks=[lambda own, row: seen.append((own is t, row["epoch"]))])
    assert [e for _, e in seen] == [*range(1, len(t.history) + 1)] and len(seen) < 50
    assert t.evaluate(*dots(30, 1))["accuracy"] == max(t.history["val_accuracy"]) == stopping.best


def test_training_goes_on_with_a_second_call() -> None:
    t = trainer()
    t.fit(X, Y)
    t.fit(X, Y, epochs=2)
    assert t.history["epoch"] == [1, 2, 3] and t.history["step"] == [3, 6, 9]
    other = trainer()
    other.fit(X, Y, epochs=3)
    assert same(t, other)


def test_fine_tuning(tmp_path: Path) -> None:
    """Weights of an ONNX file, another head, frozen layers."""
    first = trainer()
    first.fit(X, Y, epochs=2)
    first.save(tmp_path / "m.onnx")
    t = trainer(tmp_path / "m.onnx", classes=2, frozen=["c1.*", "n1.*"])
    before = t.weights()
    t.fit(X, Y // 2, epochs=2)
    after = t.weights()
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert len(changed) == 2 and all(2 in after[name].shape for name in changed)
    assert t.predict(X).shape == (48, 2)
    with pytest.raises(InputError, match=r"no weights match 'c2\.\*'"):
        trainer(frozen=["c2.*"])
    with pytest.raises(InputError, match="has nothing for small"):
        trainer(weights={"other": np.ones(3, np.float32)})
    partial = trainer(weights={"c1.weight": first.weights()["c1.weight"]})
    assert "f1.weight" in partial.missing and "c1.weight" not in partial.missing


# ---- going on


def test_going_on_gives_the_same_bits(tmp_path: Path) -> None:
    """After any checkpoint, within an epoch or after one."""
    def fit(folder: Path, **how: Any) -> Trainer:
        t = trainer(augment=[Crop(1)])
        t.fit(X, Y, epochs=3, schedule="cosine", checkpoints=folder, every=2, keep=99, resume=True,
              early_stopping=EarlyStopping(patience=9), validation=dots(10, 1), log=folder / "log.csv",
              **how)
        return t
    whole = fit(tmp_path / "whole")
    log = (tmp_path / "whole" / "log.csv").read_text().splitlines()
    files = checkpoint.Folder(tmp_path / "whole").files()
    assert len(files) == 6 and len(log) == 10
    for at in (0, 2, 4, 5):
        folder = tmp_path / str(at)
        folder.mkdir()
        for file in files[:at + 1]:
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "log.csv").write_text("\n".join(log) + "\n")
        again = fit(folder)
        assert same(again, whole)
        for name in ("epoch", "step", "loss", "accuracy", "val_loss"):
            assert again.history[name] == whole.history[name]
        rows = (folder / "log.csv").read_text().splitlines()
        assert [int(r.split(",")[0]) for r in rows[1:]] == [*range(1, 10)]


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from test_trainer import X, Y, trainer
t = trainer()
t.fit(X, Y, epochs=40, checkpoints=sys.argv[2], every=2, resume=True)
"""


def test_going_on_after_being_killed(tmp_path: Path) -> None:
    """SIGKILL at random times, some of them while a checkpoint is written."""
    whole = trainer()
    whole.fit(X, Y, epochs=40)
    folder, rng, killed = checkpoint.Folder(tmp_path), np.random.default_rng(2), 0
    for _ in range(4):
        process = subprocess.Popen([sys.executable, "-c", SCRIPT, os.path.dirname(__file__), str(tmp_path)])
        begin = len(folder.files()) and folder.files()[-1]
        while process.poll() is None and (not folder.files() or folder.files()[-1] == begin):
            time.sleep(0.01)
        time.sleep(rng.random() * 0.1)
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
    assert killed
    again = trainer()
    again.fit(X, Y, epochs=40, checkpoints=tmp_path, every=2, resume=True)
    assert same(again, whole)


def test_another_run_is_not_gone_on_with(tmp_path: Path) -> None:
    trainer().fit(X, Y, checkpoints=tmp_path)
    with pytest.raises(InputError, match="has checkpoints of another run: go on with resume=True"):
        trainer().fit(X, Y, checkpoints=tmp_path)
    for how, what in (({"batch": 8}, "another batch: batch was 16, now 8"),
                      ({"optimizer": Adam()}, r"another optimizer: optimizer was SGD\("),
                      ({"seed": 1, "std": 0.3}, "another seed, std"),
                      ({"graph": network(drop=False)}, "another network")):
        with pytest.raises(InputError, match=what):
            trainer(**how).fit(X, Y, checkpoints=tmp_path, resume=True)
    for file in tmp_path.glob("step-*"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="no checkpoint is good"):
        trainer().fit(X, Y, checkpoints=tmp_path, resume=True)


def test_a_checkpoint_of_another_version(tmp_path: Path) -> None:
    trainer().fit(X, Y, checkpoints=tmp_path)
    [file] = checkpoint.Folder(tmp_path).files()
    found = checkpoint.read(file)
    for meta in (found.meta | {"position": {"epoch": 1, "speed": 2}},
                 {k: v for k, v in found.meta.items() if k != "history"}):
        checkpoint.write(file, found.state, meta)
        with pytest.raises(InputError, match=r"step-000000003\.safetensors: .* of another version"):
            trainer().fit(X, Y, checkpoints=tmp_path, resume=True)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(tmp_path: Path) -> None:
    whole = trainer()
    whole.fit(X, Y, epochs=3, checkpoints=tmp_path / "a")
    files = checkpoint.Folder(tmp_path / "a").files()
    files[-1].write_bytes(files[-1].read_bytes()[:-1])
    again = trainer()
    again.fit(X, Y, epochs=3, checkpoints=tmp_path / "a", resume=True)
    assert same(again, whole) and len(again.warnings) == 1
    assert "damaged checkpoint" in again.warnings[0] and "going on from the one before" in again.warnings[0]


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, calls = checkpoint.write, []

    def full(path: Path, *what: Any) -> None:
        calls.append(path)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *what)
    monkeypatch.setattr(checkpoint, "write", full)
    t = trainer()
    t.fit(X, Y, epochs=3, checkpoints=tmp_path)
    assert len(t.history) == 3 and len(t.warnings) == 1
    assert "the checkpoint of step 6 cannot be written: No space left on device; training goes on, the " \
        "last good one is step-000000003.safetensors" in t.warnings[0]
    assert checkpoint.Folder(tmp_path).files()[-1].name == "step-000000009.safetensors"


# ---- bad input


def test_a_loss_that_is_no_number_names_the_layer() -> None:
    t = trainer(loss=MeanSquared(), optimizer=SGD(lr=1e15))
    with pytest.raises(InputError, match=r"step \d+ \(epoch 1\): the loss is not finite; the first value "
                                         r"that isn't is that of the layer 'f1' \(linear\).*rate is 1e\+15"):
        t.fit(X, np.eye(4)[Y], epochs=5)
    assert all(np.isfinite(a).all() for a in t.state.values())
    bad = X.astype(np.float32)
    bad[3, 2, 2] = np.nan
    with pytest.raises(InputError, match="sample 3 of the data has values that are not finite"):
        trainer().fit(bad, Y)
    graph = network()
    with pytest.raises(InputError, match=r"in the weights 'f1\.bias'"):
        trainer(weights={"f1.bias": np.array([0, np.inf, 0, 0], np.float32)}).fit(X, Y)
    assert first_bad(graph, np.zeros((1, 1, 8, 8), np.float32)) is None


def test_the_state_before_a_bad_step_comes_back() -> None:
    """Bit for bit, also where the states that are kept are some steps older."""
    t, good = trainer(), trainer()
    x = X.astype(np.float32)
    with pytest.raises(InputError, match=r"step 7 \(epoch 1\)"):
        t.fit([(x, Y), (x, Y), (x * np.float32(np.nan), Y)], epochs=1)
    good.fit([(x, Y), (x, Y)], epochs=1)
    assert good.position.step == 6 and same(t, good)


@pytest.mark.parametrize(("fit", "what"), [
    (lambda: trainer().fit(X, Y + 1), r"label 4 at \[\d+\] of the batch is out of range.* 4 classes, 0 to 3"),
    (lambda: trainer().fit(X, Y % 3 + 2), "4 classes, 0 to 3: labels begin at 0"),
    (lambda: trainer().fit(X, Y - 1), "label -1"),
    (lambda: trainer().fit(X, Y * 0.5), r"expected integers .* got float64\[16\]$"),
    (lambda: trainer().fit(X, Y * 1.0), r"expected integers .* got float64\[16\]: y.astype\(int\)"),
    (lambda: trainer().fit(X, Y[1:]), "48 samples with 47 targets"),
    (lambda: trainer().fit(X), "there are no targets"),
    (lambda: trainer().fit(3), "expected arrays x and y, or batches of both, got int"),
    (lambda: trainer().fit(X[:, :7], Y), r"samples are \[7, 8\], the network takes \[1, 8, 8\]"),
    (lambda: trainer().fit(X, Y, epochs=0), "epochs: expected"),
    (lambda: trainer().fit(X, Y, resume=True), "resume: needs the folder"),
    (lambda: trainer().fit(X, Y, schedule="no"), "schedule: expected"),
    (lambda: trainer().fit(X, Y, early_stopping=EarlyStopping()), "has no 'val_loss'"),
    (lambda: trainer().fit([]), "there are no samples"),
    (lambda: trainer().evaluate([]), "there are no samples"),
    (lambda: trainer().predict(X[:0]), "there are no samples"),
    (lambda: trainer(batch=0), "batch: expected"),
    (lambda: trainer(seed=-1), "seed: expected"),
    (lambda: trainer(loss="nll"), "loss: expected"),
    (lambda: trainer(classes=0), "classes: expected"),
    (lambda: trainer(augment=["flip"]), "augment: expected")])
def test_what_does_not_fit(fit: Callable[[], object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        fit()


def test_networks_that_cannot_be_trained() -> None:
    b = cnncc.Builder("two")
    x, y = b.input("x", ["N", 3]), b.input("y", ["N", 3])
    with pytest.raises(ModelError, match="has 2 inputs and 1 outputs"):
        Trainer(b.graph(b.add(x, y)))
    b = cnncc.Builder("fixed")
    with pytest.raises(ModelError, match=r"its input is f32\[4, 3\]; expected float32 with an open batch"):
        Trainer(b.graph(b.linear(b.input("x", [4, 3]), out=2)))
    b = cnncc.Builder("pooled")
    with pytest.raises(ModelError, match="does not end with a fully connected layer"):
        Trainer(b.graph(b.global_avg_pool(b.input("x", ["N", 3, 4, 4]))), classes=3)
    b = cnncc.Builder("constant")
    with pytest.raises(CnnccError, match="nothing to learn"):
        Trainer(b.graph(b.relu(b.input("x", ["N", 3])))).fit(np.ones((4, 3), np.float32), np.zeros(4, int))
