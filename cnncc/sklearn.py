"""A network as a scikit-learn classifier. Needs scikit-learn: cnncc[sklearn]."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from cnncc.compiler import as_onnx, compile, read
from cnncc.frontend.builder import Builder
from cnncc.ir.errors import InputError
from cnncc.ir.graph import Graph
from cnncc.ir.signature import Array
from cnncc.train.evaluation import softmax
from cnncc.train.finetune import with_head
from cnncc.train.optimizers import Optimizer, optimizer_of
from cnncc.train.trainer import Trainer

FEATURES = "float32"


class CNNClassifier(ClassifierMixin, BaseEstimator):      # type: ignore[misc]
    """A convolutional network behind scikit-learn's `fit`, `predict`, `predict_proba` and `score`.

    `network` is what `cnncc.compile` takes; its last fully connected layer gets an output for each class.
    None is a small one that fits the data: convolutions for images [n, channels, height, width], else one
    hidden layer. `shape` is that of a sample, (channels, height, width), where X has rows of numbers.
    `standardize` brings each channel, or feature, to mean 0 and deviation 1. `optimizer`, `batch`, `epochs`
    and `schedule` are those of `cnncc.Trainer`. What is random follows from `random_state`, an integer, or
    None for 0.
    """

    def __init__(self, network: Any = None, *, shape: tuple[int, ...] | None = None, epochs: int = 20,
                 batch: int = 32, optimizer: Optimizer | str = "adam", schedule: Any = "one_cycle",
                 standardize: bool = True, threads: int | None = None,
                 random_state: int | None = None) -> None:
        self.network, self.shape, self.epochs, self.batch = network, shape, epochs, batch
        self.optimizer, self.schedule, self.standardize = optimizer, schedule, standardize
        self.threads, self.random_state = threads, random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Train on samples X, rows or images, and their classes y. Raises ValueError where they don't fit."""
        X, y = validate_data(self, X, y, allow_nd=True, dtype=FEATURES)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(f"the classifier needs samples of at least 2 classes, got 1 class: "
                             f"{self.classes_[0]}")
        seed = 0 if self.random_state is None else int(self.random_state)
        x = self._shaped(X)
        axes = (0, *range(2, x.ndim))
        self.mean_ = x.mean(axes, dtype=np.float64) if self.standardize else np.zeros(x.shape[1])
        deviation = x.std(axes, dtype=np.float64) if self.standardize else np.ones(x.shape[1])
        self.std_ = np.where(deviation > 0, deviation, 1)
        graph = _network(x.shape[1:], seed) if self.network is None else read(self.network)
        trainer = Trainer(with_head(graph, len(self.classes_), seed), optimizer=optimizer_of(self.optimizer),
                          batch=min(self.batch, len(x)), seed=seed, threads=self.threads, mean=self.mean_,
                          std=self.std_)
        self.history_ = trainer.fit(x, labels.reshape(-1), epochs=self.epochs, schedule=self.schedule,
                                    progress=False).rows
        self.n_iter_, self.onnx_, self.ends_ = self.epochs, as_onnx(trainer.inference()), trainer.ends
        self._compiled = compile(self.onnx_, threads=self.threads, cache=False)
        return self

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, in the order of `classes_`: [n, classes] float64."""
        check_is_fitted(self)
        x = self._shaped(validate_data(self, X, allow_nd=True, dtype=FEATURES, reset=False))
        spread = (-1, *[1] * (x.ndim - 2))
        prepared = (x - self.mean_.reshape(spread)) / self.std_.reshape(spread)
        z = self._compiled(np.ascontiguousarray(prepared, np.float32)).astype(np.float64)
        return z / z.sum(1, keepdims=True) if self.ends_ else softmax(z)

    def predict(self, X: Any) -> Array:
        """The class of each sample."""
        p = self.predict_proba(X)
        result: Array = self.classes_[p.argmax(1)]
        return result

    def _shaped(self, x: Array) -> Array:
        shape = x.shape[1:] if self.shape is None else tuple(self.shape)
        if np.prod(shape) != np.prod(x.shape[1:]):
            raise ValueError(f"samples have {list(x.shape[1:])} numbers, the shape is {list(shape)}")
        return x.reshape(len(x), *shape)

    def __getstate__(self) -> dict[str, Any]:
        """Without the compiled model, which is made again from the ONNX file's bytes."""
        return {k: v for k, v in super().__getstate__().items() if k != "_compiled"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "onnx_"):
            self._compiled = compile(self.onnx_, threads=self.threads)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags


def _network(shape: tuple[int, ...], seed: int) -> Graph:
    """A small network for samples of this shape."""
    if len(shape) not in (1, 3):
        raise InputError(f"samples of shape {list(shape)}: give a network, or the shape (channels, height, "
                         "width)")
    b = Builder("classifier", seed=seed)
    x = b.input("x", ["N", *shape])
    if len(shape) == 3:
        for i, channels in enumerate((16, 32)):
            x = b.conv(x, out=channels, k=3, act="relu")
            if min(shape[1:]) >> i >= 4:
                x = b.max_pool(x, k=2)
    x = b.linear(x, out=64, act="relu")
    return b.graph(b.linear(x, out=2, id="scores"))
