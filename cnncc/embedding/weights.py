"""The weights of an embedded network: those of all targets in a row, in its object or in a file."""

from __future__ import annotations

import hashlib
import struct
from functools import cached_property
from typing import IO

import numpy as np
from numpy.typing import NDArray

from cnncc.compiler import Code
from cnncc.ir.plan import aligned
from cnncc.passes.memory import pack
from cnncc.runtime import buffers

MAGIC = b"CNNCCW\0\1"
MOST = 3 << 29              # bytes of weights in an object: code and data of a program are within 2 GiB
HEAD = struct.Struct("<8sQ16x32s")
"""What begins a file of weights: MAGIC, the length of the file, the SHA-256 of the rest."""


class Weights:
    """Weights in the orders in which kernels read them; in a file after a head, by which code knows them."""

    def __init__(self, in_file: bool) -> None:
        self.in_file = in_file
        self.parts: list[NDArray[np.uint8]] = []

    @property
    def nbytes(self) -> int:
        return HEAD.size * self.in_file + sum(p.nbytes for p in self.parts)

    def add(self, code: Code) -> int:
        """Pack the weights of a target; where they begin."""
        place, part = self.nbytes, buffers.aligned(aligned(code.plan.weights))
        pack(code.constants, code.packings, part)
        self.parts.append(part)
        return place

    @cached_property
    def head(self) -> bytes:
        if not self.in_file:
            return b""
        digest = hashlib.sha256()
        for p in self.parts:
            digest.update(p.data)
        return HEAD.pack(MAGIC, self.nbytes, digest.digest())

    @property
    def key(self) -> tuple[int, ...] | None:
        """The words of eight bytes that begin a file; None where the weights are in the object."""
        return struct.unpack(f"<{HEAD.size // 8}q", self.head) if self.in_file else None

    def write(self, file: IO[bytes]) -> None:
        file.write(self.head)
        for p in self.parts:
            file.write(p.data)
        file.flush()
