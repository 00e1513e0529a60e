"""Random numbers from a counter: the same for a sample wherever it stands in a batch, and on every machine.

Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.signature import Array

Ints = NDArray[np.uint64]
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
_MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_WEYL = 0x9E3779B9, 0xBB67AE85
SHUFFLE, AUGMENT, SPLIT = range(3)      # what numbers are for: each has its own


def philox(counter: tuple[Array, ...], key: tuple[int, int]) -> tuple[Ints, ...]:
    """Four numbers of 32 bits for each counter, given as four arrays of such."""
    x = tuple(np.asarray(c, np.uint64) & _LOW for c in counter)
    k0, k1 = (k & 0xFFFFFFFF for k in key)
    for _ in range(10):
        p0, p1 = x[0] * _MULTIPLIERS[0], x[2] * _MULTIPLIERS[1]
        x = ((p1 >> _HALF) ^ x[1] ^ np.uint64(k0), p1 & _LOW, (p0 >> _HALF) ^ x[3] ^ np.uint64(k1), p0 & _LOW)
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return x


def bits(seed: int, use: int, epoch: int, index: Array, count: int, layer: int = 0) -> Ints:
    """Numbers of 32 bits, [len(index), count], which (seed, use, epoch, layer) and each index decide."""
    index = np.asarray(index, np.uint64)[:, None]
    blocks = np.arange(-(-count // 4), dtype=np.uint64)[None]
    place = np.uint64(use << 24 | layer << 16) + blocks
    parts = philox(tuple(np.broadcast_arrays(index, index >> _HALF, np.uint64(epoch), place)),
                   (seed & 0xFFFFFFFF, seed >> 32))
    return np.stack(parts, -1).reshape(len(index), -1)[:, :count]


def uniform(seed: int, use: int, epoch: int, index: Array, count: int, layer: int = 0) -> NDArray[np.float32]:
    """Numbers from 0 to below 1, as `bits`."""
    whole = bits(seed, use, epoch, index, count, layer) >> np.uint64(8)
    return whole.astype(np.float32) * np.float32(2 ** -24)


def permutation(seed: int, use: int, epoch: int, n: int) -> NDArray[np.int64]:
    """The numbers below n in an order that (seed, use, epoch) decide."""
    return np.argsort(bits(seed, use, epoch, np.arange(n), 1)[:, 0], kind="stable")
