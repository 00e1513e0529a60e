"""Augmentation: images changed at random, each in a way that (seed, epoch, its index) decide.

Every change is a map from places of the result to places of the image; all of them together are one bilinear
sampling, which is exact where places fall on pixels. What lies outside of the image is zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.errors import InputError
from cnncc.ir.signature import Array
from cnncc.train.random import AUGMENT, uniform
from cnncc.train.regularizers import check_positive

Places: TypeAlias = NDArray[Any]
"""float32 [n, 2, height, width], from the middle of the image: rows, columns."""


@dataclass(frozen=True)
class Change:
    """A way to change an image; `numbers` are how many random ones it takes of an image of that size."""

    def numbers(self, height: int, width: int) -> int:
        return 1

    def __call__(self, places: Places, r: Array) -> Places:
        """The places that are read instead, by random numbers [n, numbers] from 0 to below 1."""
        raise NotImplementedError


@dataclass(frozen=True)
class Crop(Change):
    """The image moved by up to `padding` pixels each way: a random crop of the image amid zeros."""

    padding: int = 4

    def __post_init__(self) -> None:
        check_positive("Crop: padding", self.padding)

    def numbers(self, height: int, width: int) -> int:
        return 2

    def __call__(self, places: Places, r: Array) -> Places:
        moved: Places = places + (np.floor(r * (2 * self.padding + 1)) - self.padding)[:, :, None, None]
        return moved


@dataclass(frozen=True)
class Flip(Change):
    """Left and right exchanged, with probability `p`."""

    p: float = 0.5

    def __call__(self, places: Places, r: Array) -> Places:
        sign = np.ones((len(r), 2, 1, 1), np.float32)
        sign[:, 1, 0, 0] = np.where(r[:, 0] < self.p, -1, 1)
        return places * sign


@dataclass(frozen=True)
class Rotate(Change):
    """Turned by up to `degrees` either way."""

    degrees: float = 15

    def __post_init__(self) -> None:
        check_positive("Rotate: degrees", self.degrees)

    def __call__(self, places: Places, r: Array) -> Places:
        angle = np.deg2rad((r * 2 - 1) * np.float32(self.degrees))[:, :, None]
        rows, columns, c, s = places[:, 0], places[:, 1], np.cos(angle), np.sin(angle)
        return np.stack([rows * c - columns * s, rows * s + columns * c], 1)


@dataclass(frozen=True)
class Rescale(Change):
    """Larger or smaller by a factor from 1 / (1 + by) to 1 + by, the same for rows and columns."""

    by: float = 0.15

    def __post_init__(self) -> None:
        check_positive("Rescale: by", self.by)

    def __call__(self, places: Places, r: Array) -> Places:
        scaled: Places = places * np.exp((r * 2 - 1) * np.float32(np.log1p(self.by)))[:, :, None, None]
        return scaled


@dataclass(frozen=True)
class Elastic(Change):
    """Places moved by a smooth random field (Simard, Steinkraus, Platt 2003).

    It is uniform noise from -1 to 1, smoothed by a Gaussian of `sigma` pixels, times `alpha` pixels.
    """

    alpha: float = 34
    sigma: float = 4

    def __post_init__(self) -> None:
        check_positive("Elastic: alpha", self.alpha)
        check_positive("Elastic: sigma", self.sigma)

    def numbers(self, height: int, width: int) -> int:
        return 2 * height * width

    def __call__(self, places: Places, r: Array) -> Places:
        noise = (r * 2 - 1).reshape(places.shape)
        height, width = places.shape[2:]
        moved: Places = places + np.float32(self.alpha) * (self._blur(height) @ noise @ self._blur(width).T)
        return moved

    def _blur(self, n: int) -> Array:
        """The matrix that smooths n pixels, zeros around them."""
        d = np.subtract.outer(np.arange(n), np.arange(n)) / self.sigma
        reach = np.arange(-4 * n, 4 * n + 1) / self.sigma
        blur: Array = np.exp(-d * d / 2) / np.exp(-reach * reach / 2).sum()
        return blur.astype(np.float32)


class Augmentation:
    """Changes in order, applied to the images of a batch: `Augmentation([Crop(2), Rotate(10)], seed=0)`."""

    def __init__(self, changes: Sequence[Change], seed: int = 0) -> None:
        for change in changes:
            if not isinstance(change, Change):
                raise InputError(f"augment: expected changes such as Crop(2), got {change!r:.60}")
        self.changes, self.seed = tuple(changes), seed

    def __call__(self, x: Array, epoch: int, index: Array) -> NDArray[Any]:
        """The images x [n, channels, height, width], changed; `index` says which of the data they are."""
        if x.ndim != 4:
            raise InputError(f"augment: expected images [n, channels, height, width], got {list(x.shape)}")
        height, width = x.shape[2:]
        middle = np.array([(height - 1) / 2, (width - 1) / 2], np.float32)[:, None, None]
        places = np.indices((height, width), np.float32) - middle
        places = np.broadcast_to(places, (len(x), *places.shape))
        for layer, change in enumerate(self.changes):
            r = uniform(self.seed, AUGMENT, epoch, index, change.numbers(height, width), layer)
            places = change(places, r)
        return sample(x, places + middle)


def sample(x: Array, places: Places) -> NDArray[Any]:
    """Images x [n, channels, h, w] read between their pixels at places [n, 2, h, w], zero outside."""
    n, channels, height, width = x.shape
    padded = np.zeros((n, channels, height + 3, width + 3), x.dtype)     # a border of zeros to read
    padded[:, :, 1:height + 1, 1:width + 1] = x
    far = np.array([height, width], np.float32)[:, None, None]
    places = np.minimum(np.maximum(places, np.float32(-1)), far)
    first = np.floor(places)
    down, right = np.moveaxis((places - first).astype(x.dtype)[:, None], 2, 0)
    rows, columns = np.moveaxis(first.astype(np.intp)[:, None] + 1, 2, 0)
    images = np.arange(n * channels).reshape(n, channels, 1, 1) * ((height + 3) * (width + 3))
    at = rows * (width + 3) + columns + images

    def between(at: NDArray[np.intp]) -> Array:
        near = padded.take(at)
        return near + (padded.take(at + 1) - near) * right if right.any() else near
    top = between(at)
    return top + (between(at + (width + 3)) - top) * down if down.any() else top
