"""Cross-validation, conformal sets, the scikit-learn classifier."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from test_trainer import dots, network, trainer

import cnncc
from cnncc import train
from cnncc.ir.errors import InputError, ModelError
from cnncc.train.evaluation import conformal, folds, kfold, probabilities
from cnncc.train.finetune import with_head
from cnncc.train.losses import MeanSquared


def test_the_names_of_the_package() -> None:
    assert dir(train) == sorted(train.__all__) and all(getattr(train, name) for name in train.__all__)
    assert cnncc.Trainer is train.Trainer and cnncc.SGD is train.SGD
    with pytest.raises(AttributeError, match="no attribute 'Adamw'"):
        train.Adamw     # noqa: B018


def test_folds_share_every_class() -> None:
    y = np.array([0] * 20 + [1] * 10)
    parts = folds(y, 5)
    assert sorted(np.concatenate(parts)) == [*range(30)]
    assert all((y[part] == 0).sum() == 4 and (y[part] == 1).sum() == 2 for part in parts)
    assert not np.array_equal(folds(y, 5, seed=1)[0], parts[0])
    assert [len(part) for part in folds(np.zeros((7, 2)), 3)] == [3, 2, 2]
    for k in (1, 31, 2.0):
        with pytest.raises(InputError, match="k: expected"):
            folds(y, k)     # type: ignore[arg-type]


def test_cross_validation() -> None:
    x, y = dots(64)
    results = kfold(trainer, x, y, k=2, epochs=5, schedule="one_cycle")
    assert len(results) == 2 and all(r["accuracy"] > 0.8 for r in results)


def test_conformal_sets_hold_what_they_promise() -> None:
    t = trainer()
    t.fit(*dots(64), epochs=2)
    x, y = dots(400, 5)
    noise = np.random.default_rng(0).integers(0, 120, x.shape)
    x = (x + noise).clip(0, 255).astype(np.uint8)
    made = conformal(t, x[:200], y[:200], alpha=0.2)
    sets = made.sets(x[200:])
    covered = sets[np.arange(200), y[200:]].mean()
    assert sets.shape == (200, 4) and 0.7 < covered < 0.95
    smaller = conformal(t, x[:200], y[:200], alpha=0.5).sets(x[200:])
    assert (smaller <= sets).all() and smaller.sum() < sets.sum()
    assert conformal(t, x[:3], y[:3], alpha=0.2).sets(x[:5]).all()
    for labels, alpha, what in ((y[:3] + 9, 0.1, "labels below 4"), (y[:2], 0.1, "3 labels"),
                                (y[:3], 1, "alpha")):
        with pytest.raises(InputError, match=what):
            conformal(t, x[:3], labels, alpha)
    with pytest.raises(InputError, match="softmax_cross_entropy"):
        probabilities(trainer(loss=MeanSquared()), x[:2])


def test_a_conformal_rank_is_exact() -> None:
    """Of nine scores alpha = 0.1 takes the greatest, of eight there is none."""
    class Fixed:
        loss, ends = trainer().loss, True

        def predict(self, x: Any) -> Any:
            return np.stack([1 - x, x], 1)
    scores = np.arange(1, 10) / 10
    made: Any = conformal(Fixed(), 1 - scores, np.ones(9, int), alpha=0.1)      # type: ignore[arg-type]
    assert made.limit == pytest.approx(0.9)
    assert conformal(Fixed(), scores[:8], np.ones(8, int), alpha=0.1).limit == np.inf   # type: ignore[arg-type]


def test_a_new_head() -> None:
    graph = with_head(network(softmax=True), 7, seed=3)
    x = np.zeros((2, 1, 8, 8), np.float32)
    assert cnncc.reference(graph)(x).shape == (2, 7)
    again, other = with_head(network(softmax=True), 7, seed=3), with_head(network(softmax=True), 7, seed=4)
    weights = [g.constants["f1.weight"] for g in (graph, again, other)]
    assert np.array_equal(weights[0], weights[1]) and not np.array_equal(weights[0], weights[2])
    assert graph.constants["c1.weight"] is not None and not graph.constants["f1.bias"].any()
    b = cnncc.Builder("conv")
    with pytest.raises(ModelError, match="does not end with a fully connected layer"):
        with_head(b.graph(b.conv(b.input("x", ["N", 1, 4, 4]), out=2, k=3)), 3)


def test_the_classifier() -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.model_selection import cross_val_score
    x, y = dots(90)
    names = np.array(["a", "b", "c", "d"])[y]
    own = cnncc.sklearn.CNNClassifier(shape=(1, 8, 8), epochs=8, batch=15, threads=1)
    rows = x.reshape(90, 64)
    assert cross_val_score(own, rows, names, cv=2).mean() > 0.8
    own.fit(rows, names)
    p = own.predict_proba(rows)
    assert p.shape == (90, 4) and np.allclose(p.sum(1), 1) and own.classes_.tolist() == ["a", "b", "c", "d"]
    assert np.array_equal(own.predict(rows), names) and own.score(rows, names) == 1
    again = pickle.loads(pickle.dumps(own))     # noqa: S301
    assert np.array_equal(again.predict_proba(rows), p)
    other = clone(own).set_params(network=network(softmax=True)).fit(rows, y % 2)
    assert other.predict_proba(rows).shape == (90, 2) and other.score(rows, y % 2) > 0.7
    with pytest.raises(ValueError, match=r"samples have \[64\] numbers, the shape is \[1, 9, 9\]"):
        own.set_params(shape=(1, 9, 9)).fit(rows, names)
    with pytest.raises(InputError, match=r"samples of shape \[8, 8\]"):
        own.set_params(shape=None).fit(x, names)


def test_what_scikit_learn_checks() -> None:
    """All that `check_estimator` does with rows of numbers."""
    pytest.importorskip("sklearn")
    from sklearn.utils.estimator_checks import check_estimator
    found = check_estimator(cnncc.sklearn.CNNClassifier(threads=1, epochs=10), on_skip=None, on_fail=None)
    assert not [row for row in found if row["status"] not in ("passed", "skipped")] and len(found) > 40
