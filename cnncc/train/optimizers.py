"""Optimizers: what a user writes, and the nodes of their updates."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

import numpy as np

from cnncc.ir.errors import InputError
from cnncc.ir.op import Composer
from cnncc.ir.signature import Array
from cnncc.ir.types import TensorType
from cnncc.train.names import named
from cnncc.train.regularizers import L2, Regularizer, check_positive, is_vector

Slots: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class Group:
    """Weights whose name matches `pattern` (as file names do: `conv*.weight`), with their own settings.

    `lr` is a factor on the learning rate; `weight_decay` and `regularizers` are in the place of those of the
    optimizer.
    """

    pattern: str
    lr: float = 1.0
    weight_decay: float = 0.0
    regularizers: Sequence[Regularizer] = ()

    def __post_init__(self) -> None:
        check_positive("Group: lr", self.lr, zero=True)
        check_positive("Group: weight_decay", self.weight_decay, zero=True)


@dataclass(frozen=True)
class Weight:
    """A weight in a graph: the values of itself, its gradient and its slots."""

    value: str
    gradient: str
    slots: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What the optimizers have in common.

    `lr` is the learning rate, which a schedule multiplies. `weight_decay` and `regularizers` are for all
    weights that aren't one number for each channel (biases, norms), unless one of `groups` matches: the first
    decides. Regularizers act in their order. The loss that is reported doesn't contain penalties.
    """

    lr: float
    weight_decay: float = 0.0
    regularizers: Sequence[Regularizer] = ()
    groups: Sequence[Group] = ()

    def __post_init__(self) -> None:
        check_positive("lr", self.lr)
        check_positive("weight_decay", self.weight_decay, zero=True)
        for what, kind in (("regularizers", Regularizer), ("groups", Group)):
            if not all(isinstance(item, kind) for item in getattr(self, what)):
                raise InputError(f"{what}: expected a list of {kind.__name__}, got "
                                 f"{getattr(self, what)!r:.100}")

    def slots(self, type: TensorType) -> dict[str, Array]:
        """What is remembered of a weight of this type, as it is before the first step."""
        return {}

    def update(self, b: Composer, w: str, g: str, slots: Mapping[str, str], lr: str, step: str
               ) -> tuple[str, Slots]:
        """Add the nodes of one weight's update; the values of the new weight and slots.

        `lr` is a scalar f32, `step` a scalar, f32 or i64, that counts from 1 on.
        """
        raise NotImplementedError

    def decayed(self, b: Composer, w: str, g: str, lr: str, decay: float) -> tuple[str, str]:
        """The weight and gradient with weight decay: by default a part of the gradient."""
        return w, L2(decay).gradient(b, w, g)

    def updates(self, b: Composer, weights: Mapping[str, Weight], lr: str, step: str
                ) -> dict[str, tuple[str, Slots]]:
        """Add the update of all weights, by name: gradients bounded, penalties, update, constraints."""
        names = [*weights]
        gradients = [weights[name].gradient for name in names]
        for r in self.regularizers:
            gradients = r.gradients(b, gradients)
        result = {}
        for name, g in zip(names, gradients, strict=True):
            own, w = self.group(name, b.type(weights[name].value)), weights[name].value
            rate = lr if own.lr == 1 else b.op("scale", [lr], f"{name}.lr", factor=float(own.lr))
            for r in own.regularizers:
                g = r.gradient(b, w, g)
            if own.weight_decay:
                w, g = self.decayed(b, w, g, rate, own.weight_decay)
            w, slots = self.update(b, w, g, weights[name].slots, rate, step)
            for r in own.regularizers:
                w = r.weight(b, w)
            result[name] = w, slots
        return result

    def group(self, name: str, type: TensorType) -> Group:
        """The settings of a weight."""
        found = next((g for g in self.groups if fnmatchcase(name, g.pattern)), None)
        if found is not None:
            return found
        return Group(name) if is_vector(type) else Group(name, 1.0, self.weight_decay, self.regularizers)


def _zeros(type: TensorType, *names: str) -> dict[str, Array]:
    return {name: np.zeros(type.static(), type.numpy) for name in names}


def _check_betas(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < 1:
            raise InputError(f"{name}: expected a number from 0 to below 1, got {value!r:.60}")


@dataclass(frozen=True, kw_only=True)
class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum * v + g; w -= lr * v.

    With `nesterov` w -= lr * (g + momentum * v). As PyTorch's.
    """

    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(momentum=self.momentum)
        if self.nesterov and not self.momentum:
            raise InputError("nesterov needs a momentum above 0")

    def slots(self, type: TensorType) -> dict[str, Array]:
        return _zeros(type, "momentum") if self.momentum else {}

    def update(self, b: Composer, w: str, g: str, slots: Mapping[str, str], lr: str, step: str
               ) -> tuple[str, Slots]:
        new: Slots = {}
        if self.momentum:
            v = b.op("momentum", [slots["momentum"], g], f"{w}.momentum", beta=float(self.momentum))
            new["momentum"] = v
            g = b.op("plus_scaled", [g, v], f"{w}.ahead", factor=float(self.momentum)) if self.nesterov else v
        return b.op("descended", [w, g, lr], f"{w}.new"), new


@dataclass(frozen=True, kw_only=True)
class Adam(Optimizer):
    """Adam (Kingma, Ba 2015), as PyTorch's: weight decay is a part of the gradient."""

    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(beta1=self.betas[0], beta2=self.betas[1])
        check_positive("eps", self.eps)

    def slots(self, type: TensorType) -> dict[str, Array]:
        return _zeros(type, "mean", "square")

    def update(self, b: Composer, w: str, g: str, slots: Mapping[str, str], lr: str, step: str
               ) -> tuple[str, Slots]:
        first, second = map(float, self.betas)
        mean = b.op("average", [slots["mean"], g], f"{w}.mean", beta=first, rest=1 - first)
        square = b.op("average_square", [slots["square"], g], f"{w}.square", beta=second, rest=1 - second)
        rate = b.op("div", [lr, _remaining(b, w, step, first)], f"{w}.rate")
        scale = b.op("reciprocal", [_remaining(b, w, step, second)], f"{w}.scale")
        root = b.op("root_plus", [square, scale], f"{w}.root", epsilon=float(self.eps))
        ahead = b.op("div", [mean, root], f"{w}.step")
        return b.op("descended", [w, ahead, rate], f"{w}.new"), {"mean": mean, "square": square}


def _remaining(b: Composer, w: str, step: str, beta: float) -> str:
    """1 - beta ** step, exact also where beta is nearly 1."""
    t = step if b.type(step).dtype == "f32" else b.op("cast", [step], f"{w}.step", to="f32")
    return b.op("remaining", [t], f"{w}.remaining", log_beta=math.log(beta) if beta else -math.inf)


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decay apart from the gradient (Loshchilov, Hutter 2019): w -= lr * weight_decay * w."""

    weight_decay: float = 0.01

    def decayed(self, b: Composer, w: str, g: str, lr: str, decay: float) -> tuple[str, str]:
        return b.op("decayed", [w, lr], f"{w}.decayed", factor=float(decay)), g


@dataclass(frozen=True, kw_only=True)
class RMSprop(Optimizer):
    """RMSprop (Hinton 2012), as PyTorch's: a gradient over the root of the running mean of its squares.

    With `centered` over the root of its running variance; `momentum` is of the quotients.
    """

    lr: float = 0.01
    alpha: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    centered: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_betas(alpha=self.alpha, momentum=self.momentum)
        check_positive("eps", self.eps)

    def slots(self, type: TensorType) -> dict[str, Array]:
        return _zeros(type, "square", *["mean"] * self.centered, *["momentum"] * (self.momentum > 0))

    def update(self, b: Composer, w: str, g: str, slots: Mapping[str, str], lr: str, step: str
               ) -> tuple[str, Slots]:
        alpha, eps = float(self.alpha), float(self.eps)
        square = b.op("average_square", [slots["square"], g], f"{w}.square", beta=alpha, rest=1 - alpha)
        new = {"square": square}
        if self.centered:
            new["mean"] = b.op("average", [slots["mean"], g], f"{w}.mean", beta=alpha, rest=1 - alpha)
            root = b.op("root_variance", [square, new["mean"]], f"{w}.root", epsilon=eps)
        else:
            root = b.op("root_of", [square], f"{w}.root", epsilon=eps)
        ahead = b.op("div", [g, root], f"{w}.step")
        if self.momentum:
            ahead = b.op("momentum", [slots["momentum"], ahead], f"{w}.momentum", beta=float(self.momentum))
            new["momentum"] = ahead
        return b.op("descended", [w, ahead, lr], f"{w}.new"), new


NAMES: dict[str, Callable[..., Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop}


def optimizer_of(optimizer: Optimizer | str) -> Optimizer:
    """An optimizer, or one of NAMES with its defaults. Raises InputError for an unknown name."""
    return optimizer if isinstance(optimizer, Optimizer) else named("an optimizer", optimizer, NAMES)
