"""Train the demonstration network and write cnncc/data/digits.onnx, digits.npz and digits_train.npz.

    pip install torch==2.13.0 scikit-learn onnx
    python tools/train_digits.py                     # a quarter of a minute on one core

The data are scikit-learn's load_digits: 1797 images of 8x8 pixels, values 0..16, from "Optical
Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning Repository,
CC BY 4.0. One fifth of each class is held out: it goes into digits.npz and is looked at once, at the
end; the others go into digits_train.npz. The seeds are fixed; with the same versions on the same kind
of CPU the same files come out.

The ONNX file is built node by node from the trained weights, so that it has readable names, a
symbolic batch size and its BatchNormalization nodes (exporters fold them away).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from torch import nn

SEED = 20261122
EPOCHS = 60
BATCH = 64
CREDIT = (
    "Trained on: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine "
    "Learning Repository, CC BY 4.0, as distributed with scikit-learn (load_digits)."
)


def split(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices to train on and to hold out: a fifth of each class, at random; both in file order."""
    rng = np.random.default_rng(SEED)
    held_out = np.concatenate(
        [rng.permutation(of_class)[: round(len(of_class) / 5)] for of_class in
         (np.flatnonzero(labels == digit) for digit in range(10))]
    )
    return np.setdiff1d(np.arange(len(labels)), held_out), np.sort(held_out)


def make_network() -> nn.Sequential:
    """conv-conv-pool-conv-pool-linear: 8x8 -> 4x4 -> 2x2 -> 10 classes. Softmax is added on export."""

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(
        *conv(1, 16), *conv(16, 16), nn.MaxPool2d(2), *conv(16, 32), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 10),
    )


def shifted(x: torch.Tensor) -> torch.Tensor:
    """Each image moved by -1, 0 or 1 pixels in both directions (0 half of the time)."""
    offsets = torch.tensor([-1, 0, 0, 1])[torch.randint(4, (len(x), 2))]
    padded = nn.functional.pad(x, (1, 1, 1, 1))
    rows = torch.arange(8) + 1 + offsets[:, :1]
    columns = torch.arange(8) + 1 + offsets[:, 1:]
    image = torch.arange(len(x))[:, None, None]
    return padded[image, 0, rows[:, :, None], columns[:, None, :]][:, None]


def train(network: nn.Sequential, x: torch.Tensor, labels: torch.Tensor) -> None:
    steps = -(-len(x) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=EPOCHS * steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    network.train()
    for epoch in range(EPOCHS):
        total = 0.0
        for batch in torch.randperm(len(x)).split(BATCH):
            optimizer.zero_grad()
            loss = loss_of(network(shifted(x[batch])), labels[batch])
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch % 10 == 9:
            print(f"epoch {epoch + 1}: loss {total / len(x):.4f}")
    network.eval()


def to_onnx(network: nn.Sequential) -> onnx.ModelProto:
    nodes: list[onnx.NodeProto] = []
    weights: list[TensorProto] = []
    counts: dict[str, int] = {}

    def add(op: str, value: str, *tensors: tuple[str, torch.Tensor], **attributes: object) -> str:
        """Append a node named conv1, bn1, ... with its weights conv1.weight, ...; return its output."""
        short = {"BatchNormalization": "bn", "MaxPool": "pool"}.get(op, op.lower())
        counts[short] = counts.get(short, 0) + 1
        name = f"{short}{counts[short]}"
        names = [f"{name}.{suffix}" for suffix, _ in tensors]
        for full, (_, tensor) in zip(names, tensors, strict=True):
            weights.append(numpy_helper.from_array(tensor.detach().numpy(), full))
        output = "probabilities" if op == "Softmax" else name
        nodes.append(helper.make_node(op, [value, *names], [output], name=name, **attributes))
        return output

    value = "x"
    for layer in network:
        match layer:
            case nn.Conv2d():
                value = add("Conv", value, ("weight", layer.weight), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
            case nn.BatchNorm2d():
                value = add(
                    "BatchNormalization", value, ("scale", layer.weight), ("bias", layer.bias),
                    ("mean", layer.running_mean), ("var", layer.running_var), epsilon=layer.eps,
                )
            case nn.ReLU():
                value = add("Relu", value)
            case nn.MaxPool2d():
                value = add("MaxPool", value, kernel_shape=[2, 2], strides=[2, 2])
            case nn.Flatten():
                value = add("Flatten", value, axis=1)
            case nn.Linear():
                value = add("Gemm", value, ("weight", layer.weight), ("bias", layer.bias), transB=1)
            case _:
                raise AssertionError(layer)
    add("Softmax", value, axis=1)

    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", 10])],
        weights,
        doc_string="Handwritten digits, 8x8 grey values scaled to 0..1 (ink is 1), to ten probabilities.",
    )
    model = helper.make_model(
        graph, producer_name="cnncc", ir_version=8, opset_imports=[helper.make_opsetid("", 17)],
        doc_string=CREDIT,
    )
    helper.set_model_props(model, {"credit": CREDIT, "written_by": "tools/train_digits.py"})
    onnx.checker.check_model(model, full_check=True)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "cnncc" / "data")
    out: Path = parser.parse_args().out

    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)

    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    if not np.array_equal(images, digits.images):
        raise SystemExit("load_digits has values that are not small integers")
    x = torch.from_numpy(images[:, None].astype(np.float32) / 16)
    y = torch.from_numpy(labels.astype(np.int64))
    train_on, held_out = split(labels.astype(np.int64))

    network = make_network()
    train(network, x[train_on], y[train_on])
    with torch.no_grad():
        correct = int((network(x[held_out]).argmax(1) == y[held_out]).sum())
    print(f"held out: {correct} of {len(held_out)} right, {correct / len(held_out):.2%}")

    out.mkdir(parents=True, exist_ok=True)
    onnx.save(to_onnx(network), out / "digits.onnx")
    np.savez_compressed(out / "digits.npz", images=images[held_out], labels=labels[held_out])
    np.savez_compressed(out / "digits_train.npz", images=images[train_on], labels=labels[train_on])
    for name in ("digits.onnx", "digits.npz", "digits_train.npz"):
        print(f"{out / name}: {(out / name).stat().st_size} bytes")


if __name__ == "__main__":
    main()
