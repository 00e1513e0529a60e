"""Zeroed, aligned memory for weights and workspaces."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

PAGE, HUGE_PAGE, HUGE_FROM = 4096, 2 << 20, 4 << 20
"""Bytes in a page and in a huge page; NumPy asks the kernel for huge pages from so many bytes."""


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """A new writable array of zero bytes, which starts on a page, from `HUGE_FROM` bytes on a huge page.

    Memory is taken when first touched. Raises MemoryError if the system refuses, ValueError if negative.
    """
    if nbytes <= 0:
        return np.zeros(nbytes, np.uint8)
    if nbytes >= 1 << 62:       # NumPy has another error for what no address can reach
        raise MemoryError(f"cannot allocate {nbytes:,} bytes")
    page = HUGE_PAGE if nbytes >= HUGE_FROM else PAGE
    memory = np.zeros(-(-nbytes // page) * page + page, np.uint8)     # whole pages: the tail is huge too
    start = -address(memory) % page
    return memory[start:start + nbytes]


def address(array: NDArray[Any]) -> int:
    """The address of the first element of `array`, which may be read-only."""
    return int(array.__array_interface__["data"][0])
