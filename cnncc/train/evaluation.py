"""What a trained network is worth: cross-validation, and sets of classes with a promised coverage."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.errors import InputError
from cnncc.ir.signature import Array
from cnncc.train.data import Dataset, Rows
from cnncc.train.random import SPLIT, permutation
from cnncc.train.trainer import Trainer


def folds(y: Array, k: int, seed: int = 0) -> list[NDArray[np.int64]]:
    """The indices of k parts of the data; where y are labels each has its share of every class.

    Raises InputError where there are fewer samples than parts.
    """
    if type(k) is not int or k < 2 or k > len(y):
        raise InputError(f"k: expected a number of parts from 2 to that of the samples, {len(y)}, got "
                         f"{k!r:.60}")
    order = permutation(seed, SPLIT, 0, len(y))
    if y.ndim == 1 and y.dtype.kind in "iu":
        order = order[np.argsort(y[order], kind="stable")]
    return [np.sort(order[i::k]) for i in range(k)]


def kfold(make: Callable[[], Trainer], x: Rows, y: Rows, *, k: int = 5, seed: int = 0,
          **fit: Any) -> list[dict[str, float]]:
    """k-fold cross-validation: for each part of the data what `evaluate` says after training on the others.

    `make` gives a new trainer; `fit` are the arguments of its `fit`.
    """
    data, results = Dataset(x, y), []
    parts = folds(np.asarray(y[np.arange(len(y))]), k, seed)
    for i, part in enumerate(parts):
        trainer = make()
        trainer.fit(data.part(np.concatenate(parts[:i] + parts[i + 1:])), **fit)
        results.append(trainer.evaluate(data.part(part)))
    return results


@dataclass(frozen=True)
class Conformal:
    """Sets of classes that contain the right one with a probability of at least 1 - alpha."""

    trainer: Trainer
    limit: float            # of what a class may lack to probability 1

    def sets(self, x: Rows) -> NDArray[np.bool_]:
        """[samples, classes]: whether a class is in the set of a sample."""
        result: NDArray[np.bool_] = 1 - probabilities(self.trainer, x) <= self.limit
        return result


def conformal(trainer: Trainer, x: Rows, y: Array, alpha: float = 0.1) -> Conformal:
    """Split-conformal prediction (Vovk et al. 2005; the score of Sadinle, Lei, Wasserman 2019).

    `x` and `y`, labels, must not have been trained on, and be drawn as the samples to come are. Of less than
    1 / alpha - 1 samples every set has all classes. Raises InputError for labels or an alpha out of range.
    """
    if not 0 < alpha < 1:
        raise InputError(f"alpha: expected a number between 0 and 1, got {alpha!r:.60}")
    p, labels = probabilities(trainer, x), np.asarray(y)
    if labels.shape != p.shape[:1] or labels.dtype.kind not in "iu" or not (
            (labels >= 0) & (labels < p.shape[1])).all():
        raise InputError(f"conformal: expected {len(p)} labels below {p.shape[1]}, got {labels.dtype}"
                         f"{list(labels.shape)}")
    scores = np.sort(1 - p[np.arange(len(p)), labels])
    rank = math.ceil((len(p) + 1) * (1 - alpha))
    return Conformal(trainer, float(scores[rank - 1]) if rank <= len(p) else math.inf)


def probabilities(trainer: Trainer, x: Rows) -> NDArray[np.float64]:
    """[samples, classes]. Raises InputError where the network doesn't tell classes apart."""
    z = trainer.predict(x).astype(np.float64)
    if z.ndim != 2 or trainer.loss.removes != "softmax":
        raise InputError("probabilities are of networks trained with softmax_cross_entropy, a class a sample")
    return z if trainer.ends else softmax(z)


def softmax(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Along axis 1."""
    e = np.exp(z - z.max(1, keepdims=True))
    result: NDArray[np.float64] = e / e.sum(1, keepdims=True)
    return result
