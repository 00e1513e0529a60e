"""Training: `cnncc.train.Trainer` and what it is given. Each name is imported when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnncc.train.augment import Augmentation, Change, Crop, Elastic, Flip, Rescale, Rotate
    from cnncc.train.data import Data, Dataset, read_data, read_idx
    from cnncc.train.evaluation import Conformal, conformal, folds, kfold
    from cnncc.train.history import EarlyStopping, History
    from cnncc.train.losses import (
        Huber,
        Loss,
        MeanAbsolute,
        MeanSquared,
        SigmoidCrossEntropy,
        SoftmaxCrossEntropy,
    )
    from cnncc.train.optimizers import SGD, Adam, AdamW, Group, Optimizer, RMSprop
    from cnncc.train.regularizers import L1, L2, ClipNorm, ClipValue, ElasticNet, MaxNorm, Regularizer
    from cnncc.train.schedules import Constant, Cosine, OneCycle, Schedule, StepDecay, Warmup
    from cnncc.train.trainer import Trainer

_HOMES = {
    "augment": ("Augmentation", "Change", "Crop", "Elastic", "Flip", "Rescale", "Rotate"),
    "data": ("Data", "Dataset", "read_data", "read_idx"),
    "evaluation": ("Conformal", "conformal", "folds", "kfold"),
    "history": ("EarlyStopping", "History"),
    "losses": ("Huber", "Loss", "MeanAbsolute", "MeanSquared", "SigmoidCrossEntropy", "SoftmaxCrossEntropy"),
    "optimizers": ("SGD", "Adam", "AdamW", "Group", "Optimizer", "RMSprop"),
    "regularizers": ("L1", "L2", "ClipNorm", "ClipValue", "ElasticNet", "MaxNorm", "Regularizer"),
    "schedules": ("Constant", "Cosine", "OneCycle", "Schedule", "StepDecay", "Warmup"),
    "trainer": ("Trainer",)}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
__all__ = ["L1", "L2", "SGD", "Adam", "AdamW", "Augmentation", "Change", "ClipNorm", "ClipValue", "Conformal",
           "Constant", "Cosine", "Crop", "Data", "Dataset", "EarlyStopping", "Elastic", "ElasticNet", "Flip",
           "Group", "History", "Huber", "Loss", "MaxNorm", "MeanAbsolute", "MeanSquared", "OneCycle",
           "Optimizer", "RMSprop", "Regularizer", "Rescale", "Rotate", "Schedule", "SigmoidCrossEntropy",
           "SoftmaxCrossEntropy", "StepDecay", "Trainer", "Warmup", "conformal", "folds", "kfold",
           "read_data", "read_idx"]


def __getattr__(name: str) -> Any:
    from importlib import import_module
    if name not in _MODULES:
        raise AttributeError(f"module 'cnncc.train' has no attribute {name!r}")
    return getattr(import_module(f"cnncc.train.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
