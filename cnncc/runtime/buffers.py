"""Zeroed, aligned memory for weights and workspaces."""

import mmap
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

HUGE_PAGE, HUGE_FROM = 2 << 20, 4 << 20
"""Bytes in a huge page on x86-64; buffers of at least so many bytes ask for them."""


def aligned(nbytes: int) -> NDArray[np.uint8]:
    """A new writable array of zero bytes in a private mapping, which it keeps alive.

    It starts on a page (4096 bytes), from `HUGE_FROM` bytes on a huge page, for which it asks the kernel.
    Memory is taken when first touched. Raises MemoryError if the system refuses, ValueError if negative.
    """
    if nbytes <= 0:
        return np.empty(nbytes, np.uint8)
    huge = nbytes >= HUGE_FROM
    span = -(-nbytes // HUGE_PAGE) * HUGE_PAGE  # whole huge pages, so that the tail is one too
    try:
        # Not the default MAP_SHARED: that is shared with forked children and gets no huge pages.
        memory = mmap.mmap(-1, span + HUGE_PAGE if huge else nbytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"cannot allocate {nbytes:,} bytes: {error}") from None
    start = -address(np.frombuffer(memory, np.uint8)) % HUGE_PAGE if huge else 0
    with suppress(OSError):  # a kernel without huge pages
        if huge:
            memory.madvise(mmap.MADV_HUGEPAGE, start, span)
    return np.frombuffer(memory, np.uint8, nbytes, start)


def address(array: NDArray[Any]) -> int:
    """The address of the first element of `array`, which may be read-only."""
    return int(array.__array_interface__["data"][0])
