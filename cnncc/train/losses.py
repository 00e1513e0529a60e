"""Losses: what a user writes, the nodes that it becomes, and the measure that is shown beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from cnncc.ir.errors import InputError
from cnncc.ir.op import Composer
from cnncc.ir.signature import Array
from cnncc.ir.types import TensorType, dtype_called, product
from cnncc.train.names import named

Weights: TypeAlias = "Sequence[float] | None"


@dataclass(frozen=True)
class Loss:
    """A loss compares a network's outputs with targets of their shape and dtype, elementwise.

    `removes` is an op that the loss contains: where the network ends with it, training goes without.
    """

    measure: ClassVar[str] = "absolute_error"
    removes: ClassVar[str] = ""

    def target(self, output: TensorType) -> TensorType:
        """The type of the targets for outputs of this type."""
        return output

    def nodes(self, b: Composer, output: str, target: str) -> str:
        """Add the loss, a scalar: the mean over the batch. Raises ModelError where the two don't fit."""
        raise NotImplementedError

    def targets(self, y: Array, output: TensorType) -> Array:
        """The targets as the step takes them. Raises InputError, which names the first that doesn't fit."""
        wanted = self.target(output)
        shape = (len(y), *map(int, wanted.shape[1:]))
        if y.shape == shape[:1] == shape[:1] * product(shape[1:]):      # one number a sample
            y = y.reshape(shape)
        if y.shape != shape or y.dtype.kind not in "fiub":
            raise InputError(f"targets: expected numbers {_show(shape)} for the network's outputs {output}, "
                             f"got {y.dtype.name}{_show(y.shape)}")
        return np.ascontiguousarray(y, wanted.numpy)

    def counts(self, targets: Array) -> tuple[float, float]:
        """How much of all data a batch is, where the loss and where the measure is the mean over these."""
        return len(targets), len(targets)

    def score(self, outputs: Array, targets: Array) -> float:
        """The measure of a batch: the mean of the absolute errors."""
        return float(np.abs(outputs.astype(np.float64) - targets).mean())


def _show(shape: Sequence[object]) -> str:
    return f"[{', '.join(map(str, shape))}]"


@dataclass(frozen=True)
class SoftmaxCrossEntropy(Loss):
    """Cross-entropy of the softmax of the outputs (logits) over axis 1; other axes after it are places.

    Targets are labels 0, 1, ..., without axis 1. With `soft` they are probabilities, or ones and zeros, of
    the outputs' shape. `label_smoothing` s makes them (1 - s) * target + s / classes; `class_weights` has a
    factor for each class, and the mean is over what the labels count by these; places whose label is
    `ignore_index` count nothing. As PyTorch's CrossEntropyLoss, except that a batch of nothing but ignored
    places has loss 0.
    """

    soft: bool = False
    label_smoothing: float = 0.0
    class_weights: Weights = None
    ignore_index: int | None = None
    measure: ClassVar[str] = "accuracy"
    removes: ClassVar[str] = "softmax"

    def __post_init__(self) -> None:
        _check_smoothing(self.label_smoothing)
        if self.soft and self.ignore_index is not None:
            raise InputError("ignore_index is for labels: soft targets have none")

    def target(self, output: TensorType) -> TensorType:
        if output.rank < 2:
            raise InputError(f"softmax_cross_entropy needs outputs [batch, classes, ...], they are {output}")
        return output if self.soft else TensorType("i64", (output.shape[0], *output.shape[2:]))

    def nodes(self, b: Composer, output: str, target: str) -> str:
        weights = _class_weights(b, self.class_weights, output)
        ignored = () if self.ignore_index is None else (self.ignore_index,)
        return b.op("softmax_cross_entropy", [output, target, *weights], "loss",
                    smoothing=float(self.label_smoothing), ignored=ignored)

    def targets(self, y: Array, output: TensorType) -> Array:
        if self.soft:
            return super().targets(y, output)
        wanted, classes = self.target(output), int(output.shape[1])
        shape = (len(y), *wanted.shape[1:])
        if y.shape == (len(y), 1) and shape == (len(y),):
            y = y[:, 0]
        if y.shape != shape or y.dtype.kind not in "iu":
            whole = y.dtype.kind == "f" and y.shape == shape and (y == np.floor(y)).all()
            raise InputError(f"targets: expected integers {_show(shape)}, the labels of {classes} classes, "
                             f"got {y.dtype.name}{_show(y.shape)}" + ": y.astype(int)" * whole)
        bad = (y < 0) | (y >= classes)
        if self.ignore_index is not None:
            bad &= y != self.ignore_index
        if bad.any():
            place = tuple(int(i) for i in np.argwhere(bad)[0])
            raise InputError(f"targets: the label {y[place]} at {_show(place)} of the batch is out of range: "
                             f"the network has outputs for {classes} classes, 0 to {classes - 1}"
                             + ": labels begin at 0" * bool(y.min() > 0 and y.max() == classes))
        return np.ascontiguousarray(y, np.int64)

    def counts(self, targets: Array) -> tuple[float, float]:
        """Of labels what the places count by class, and the number of those that aren't ignored."""
        if self.soft:
            return super().counts(targets)
        kept = targets if self.ignore_index is None else targets[targets != self.ignore_index]
        weights = np.ones(kept.size) if self.class_weights is None else np.asarray(self.class_weights)[kept]
        return float(weights.sum()), kept.size

    def score(self, outputs: Array, targets: Array) -> float:
        """The part of the places where the greatest output is the target's."""
        labels = targets.argmax(1) if self.soft else targets
        right = outputs.argmax(1) == labels
        if self.ignore_index is not None:
            right = right[labels != self.ignore_index]
        return float(right.mean()) if right.size else 0.0


@dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    """Cross-entropy of the sigmoid of each output, for classes that don't exclude each other.

    Targets are 0 to 1 in the outputs' shape; `class_weights` is a factor for each class, axis 1.
    """

    label_smoothing: float = 0.0
    class_weights: Weights = None
    measure: ClassVar[str] = "accuracy"
    removes: ClassVar[str] = "sigmoid"

    def __post_init__(self) -> None:
        _check_smoothing(self.label_smoothing)

    def nodes(self, b: Composer, output: str, target: str) -> str:
        weights = _class_weights(b, self.class_weights, output)
        return b.op("sigmoid_cross_entropy", [output, target, *weights], "loss",
                    smoothing=float(self.label_smoothing))

    def targets(self, y: Array, output: TensorType) -> Array:
        result = super().targets(y, output)
        if result.size and not (result.min() >= 0 and result.max() <= 1):
            raise InputError(f"targets: sigmoid_cross_entropy takes 0 to 1, got {result.min():g} to "
                             f"{result.max():g}")
        return result

    def score(self, outputs: Array, targets: Array) -> float:
        """The part of the outputs on the right side of 1/2."""
        return float(((outputs > 0) == (targets > 0.5)).mean())


@dataclass(frozen=True)
class MeanSquared(Loss):
    """The mean of squared differences (Caffe's Euclidean loss is half of the sum per sample)."""

    def nodes(self, b: Composer, output: str, target: str) -> str:
        return b.op("mean", [b.op("square", [_difference(b, output, target)], "loss.square")], "loss")


@dataclass(frozen=True)
class MeanAbsolute(Loss):
    """L1: the mean of absolute differences."""

    def nodes(self, b: Composer, output: str, target: str) -> str:
        return b.op("mean", [b.op("abs", [_difference(b, output, target)], "loss.abs")], "loss")


@dataclass(frozen=True)
class Huber(Loss):
    """The mean of d*d/2 for differences d up to `delta`, beyond it delta * (|d| - delta/2)."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        if not self.delta > 0:
            raise InputError(f"delta: expected a number above 0, got {self.delta!r:.60}")

    def nodes(self, b: Composer, output: str, target: str) -> str:
        each = b.op("huber", [_difference(b, output, target)], "loss.each", delta=float(self.delta))
        return b.op("mean", [each], "loss")


NAMES: dict[str, Callable[[], Loss]] = {
    "softmax_cross_entropy": SoftmaxCrossEntropy, "sigmoid_cross_entropy": SigmoidCrossEntropy,
    "mean_squared": MeanSquared, "l1": MeanAbsolute, "huber": Huber}


def loss_of(loss: Loss | str) -> Loss:
    """A loss, or one of NAMES. Raises InputError for an unknown name."""
    return loss if isinstance(loss, Loss) else named("a loss", loss, NAMES)


def value_of(loss: Loss, outputs: Array, targets: Array) -> float:
    """The loss of outputs and targets as NumPy computes it."""
    from cnncc.ir.graph import Builder
    from cnncc.ir.reference import evaluate
    b, dtype = Builder("loss"), "f64" if outputs.dtype == np.float64 else "f32"
    x = b.input("output", TensorType(dtype, outputs.shape))
    y = b.input("target", loss.target(b.type(x)))
    graph = b.graph([("loss", loss.nodes(b, x, y))])
    feeds = {"output": outputs, "target": targets}
    return float(evaluate(graph, feeds, dtype_called(outputs.dtype.name))["loss"])


def _difference(b: Composer, output: str, target: str) -> str:
    return b.op("sub", [output, target], "loss.difference")


def _class_weights(b: Composer, weights: Weights, output: str) -> list[str]:
    if weights is None:
        return []
    values, type = np.asarray(weights, np.float64), b.type(output)
    if values.shape != (type.shape[1],) or not np.isfinite(values).all() or (values < 0).any():
        raise InputError(f"class_weights: expected {type.shape[1]} numbers of at least 0, one for each "
                         f"class, got {weights!r:.100}")
    return [b.const("loss.class_weights", values.astype(type.numpy))]


def _check_smoothing(value: Any) -> None:
    if not 0 <= value < 1:
        raise InputError(f"label_smoothing: expected a number from 0 to below 1, got {value!r:.60}")
