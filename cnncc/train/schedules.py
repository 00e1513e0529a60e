"""Schedules: what the learning rate is multiplied by while training goes on. `Warmup(2) * Cosine()` is one.

A schedule is called with the epoch, a number such as 2.25 after a quarter of the third, and the number of
epochs in all; any function of these two is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cnncc.ir.errors import InputError
from cnncc.train.names import named
from cnncc.train.regularizers import check_positive

AnySchedule: TypeAlias = "Callable[[float, float], float] | str | None"


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate; by itself 1."""

    def __call__(self, epoch: float, epochs: float) -> float:
        return 1.0

    def __mul__(self, other: Schedule) -> Product:
        return Product(self, other)


@dataclass(frozen=True)
class Product(Schedule):
    """Two schedules at once."""

    first: Schedule
    second: Schedule

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.first(epoch, epochs) * self.second(epoch, epochs)


@dataclass(frozen=True)
class Constant(Schedule):
    """Always `factor`."""

    factor: float = 1.0

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.factor


@dataclass(frozen=True)
class StepDecay(Schedule):
    """Times `factor` after every so many epochs."""

    every: float = 30
    factor: float = 0.1

    def __post_init__(self) -> None:
        check_positive("every", self.every)

    def __call__(self, epoch: float, epochs: float) -> float:
        return float(self.factor ** math.floor(epoch / self.every))


@dataclass(frozen=True)
class Cosine(Schedule):
    """Half a cosine from 1 down to `end` over all epochs (Loshchilov, Hutter 2017)."""

    end: float = 0.0

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.end + (1 - self.end) * _falling(epoch / epochs)


@dataclass(frozen=True)
class Warmup(Schedule):
    """A straight line from `start` up to 1 in the first so many epochs."""

    epochs: float = 1
    start: float = 0.1

    def __post_init__(self) -> None:
        check_positive("epochs", self.epochs)

    def __call__(self, epoch: float, epochs: float) -> float:
        return self.start + (1 - self.start) * min(1.0, epoch / self.epochs)


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From `start` up to 1 in the first `rise` of all epochs, then down to `end`, by cosines (Smith 2018)."""

    rise: float = 0.3
    start: float = 1 / 25
    end: float = 1 / 250_000

    def __post_init__(self) -> None:
        if not 0 < self.rise < 1:
            raise InputError(f"rise: expected a part of the epochs, between 0 and 1, got {self.rise!r:.60}")

    def __call__(self, epoch: float, epochs: float) -> float:
        t = epoch / epochs
        if t < self.rise:
            return 1 + (self.start - 1) * _falling(t / self.rise)
        return self.end + (1 - self.end) * _falling((t - self.rise) / (1 - self.rise))


def _falling(t: float) -> float:
    """From 1 at 0 to 0 at 1 and after."""
    return (1 + math.cos(math.pi * min(1.0, t))) / 2


NAMES: dict[str, Callable[[], Schedule]] = {
    "constant": Constant, "step": StepDecay, "cosine": Cosine, "warmup": Warmup, "one_cycle": OneCycle,
    "warmup_cosine": lambda: Warmup() * Cosine()}


def schedule_of(schedule: AnySchedule) -> Callable[[float, float], float]:
    """A schedule, or one of NAMES; None is a constant. Raises InputError for an unknown name."""
    if schedule is None or callable(schedule):
        return schedule or Constant()
    return named("a schedule", schedule, NAMES)
