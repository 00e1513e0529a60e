"""Batches: data in an order that (seed, epoch) decide, prepared as a network takes them, one step ahead."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from cnncc.ir.errors import InputError
from cnncc.ir.signature import Array
from cnncc.train.augment import Augmentation
from cnncc.train.data import Dataset, Rows
from cnncc.train.random import SHUFFLE, permutation

T = TypeVar("T")
Numbers: TypeAlias = "Sequence[float] | Array | float | None"
Pairs: TypeAlias = "Iterable[tuple[Any, Any]]"


@dataclass(frozen=True)
class Batch:
    """Some samples with their targets; `index` says which of the data they are."""

    x: Array
    y: Array
    index: Array

    def __len__(self) -> int:
        return len(self.x)


class Preparation:
    """Samples as a network takes them: float32 [n, *shape], (values - mean) / std for each channel.

    Bytes are scaled to 0..1, a missing channel dimension is added, then images may be augmented.
    """

    def __init__(self, shape: Sequence[int], mean: Numbers = None, std: Numbers = None,
                 augmentation: Augmentation | None = None) -> None:
        self.shape, self.augmentation = tuple(shape), augmentation
        self.mean, self.std = self._numbers("mean", mean, 0.0), self._numbers("std", std, 1.0)
        if not (self.std > 0).all():
            raise InputError(f"std: expected numbers above 0, got {std!r:.100}")

    def _numbers(self, name: str, given: Numbers, default: float) -> Array:
        channels = self.shape[0] if self.shape else 1
        values = np.asarray(default if given is None else given, np.float32).reshape(-1)
        if len(values) not in (1, channels) or not np.isfinite(values).all():
            raise InputError(f"{name}: expected 1 number or one for each of {channels} channels, got "
                             f"{given!r:.100}")
        return values.reshape(-1, *[1] * (len(self.shape) - 1)) if len(self.shape) else values[0]

    def check(self, x: Rows) -> None:
        """Raises InputError unless samples like these can be prepared."""
        own = tuple(x.shape[1:])
        if own not in (self.shape, self.shape[1:] if self.shape[:1] == (1,) else self.shape):
            turned = len(own) == 3 and (own[2], *own[:2]) == self.shape
            raise InputError(f"data: samples are {list(own)}, the network takes {list(self.shape)}"
                             + ": channels come first, use x.transpose(0, 3, 1, 2)" * turned)
        dtype = getattr(x, "dtype", None)
        if getattr(dtype, "kind", "f") not in "biuf":       # others than NumPy's have no kind
            raise InputError(f"data: expected numbers, got {dtype}")

    def __call__(self, x: Array, epoch: int, index: Array, train: bool) -> Array:
        """The samples x, of these indices, prepared; only to `train` with are they augmented."""
        x = np.asarray(x)
        self.check(x)
        scaled = x.astype(np.float32).reshape(len(x), *self.shape)
        if x.dtype == np.uint8:
            scaled *= np.float32(1 / 255)
        if train and self.augmentation is not None:
            scaled = self.augmentation(scaled, epoch, index)
        return np.ascontiguousarray((scaled - self.mean) / self.std, np.float32)


class Source:
    """Where batches come from: a Dataset, or an iterable of batches (x, y) that can be read again.

    Those of an iterable are cut and joined to batches of one size, in its own order.
    """

    def __init__(self, data: Dataset | Pairs, batch: int, prepare: Preparation, seed: int,
                 targets: Callable[[Array], Array]) -> None:
        self.data, self.batch, self.prepare = data, batch, prepare
        self.seed, self.targets = seed, targets
        if isinstance(data, Dataset):
            prepare.check(data.x)
        elif iter(data) is data:
            raise InputError("data: this iterator ends after one epoch; give a list, or an object whose "
                             "__iter__ begins again")

    @property
    def steps(self) -> int | None:
        """The number of batches of an epoch, where that is known."""
        return -(-len(self.data) // self.batch) if isinstance(self.data, Dataset) else None

    def epoch(self, epoch: int, first: int = 0, train: bool = True) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, the last of which may be smaller."""
        parts = self._ordered if isinstance(self.data, Dataset) else self._streamed
        for x, y, index in parts(epoch, first, train):
            yield Batch(self.prepare(x, epoch, index, train), self.targets(np.asarray(y)), index)

    def _ordered(self, epoch: int, first: int, train: bool) -> Iterator[tuple[Array, Array, Array]]:
        assert isinstance(self.data, Dataset)
        n = len(self.data)
        order = permutation(self.seed, SHUFFLE, epoch, n) if train else np.arange(n)
        for begin in range(first * self.batch, n, self.batch):
            index = order[begin:begin + self.batch]
            yield self.data.x[index], self.data.y[index], index

    def _streamed(self, epoch: int, first: int, train: bool) -> Iterator[tuple[Array, Array, Array]]:
        assert not isinstance(self.data, Dataset)
        for number, (x, y) in enumerate(_regrouped(self.data, self.batch)):
            if number >= first:
                yield x, y, np.arange(len(x)) + number * self.batch


def _regrouped(pairs: Pairs, batch: int) -> Iterator[tuple[Array, Array]]:
    """Batches of one size of batches of any; the last may be smaller."""
    held: list[tuple[Array, Array]] = []
    count = 0
    for pair in pairs:
        try:
            x, y = map(np.asarray, pair)
        except (TypeError, ValueError):
            raise InputError(f"data: expected batches (x, y), got {type(pair).__name__}") from None
        if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
            raise InputError(f"data: a batch of {list(x.shape)} samples with {list(y.shape)} targets")
        held.append((x, y))
        count += len(x)
        while count >= batch:
            xs, ys = _joined(held)
            yield xs[:batch], ys[:batch]
            held, count = [(xs[batch:], ys[batch:])], count - batch
    if count:
        yield _joined(held)


def _joined(held: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    xs, ys = zip(*held, strict=True)
    return (xs[0], ys[0]) if len(held) == 1 else (np.concatenate(xs), np.concatenate(ys))


def prefetched(items: Iterator[T], ahead: int = 2) -> Iterator[T]:
    """The items, made by a thread up to so many ahead; what it raises is raised here in its place."""
    room: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: tuple[T | None, BaseException | None]) -> bool:
        while not stopped.is_set():
            try:
                room.put(item, timeout=0.1)
                return True
            except queue.Full:
                pass
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((item, None)):
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))
    thread = threading.Thread(target=work, name="cnncc batches", daemon=True)
    thread.start()
    try:
        while True:
            item, error = room.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item      # type: ignore[misc]
    finally:
        stopped.set()
        thread.join()
