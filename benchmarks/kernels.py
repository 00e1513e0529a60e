"""What the benchmarks share: the package beside this folder, kernels alone, a line of progress."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # the package beside this folder

from cnncc.bench.alone import Alone, alternate

__all__ = ["Alone", "alternate", "progress"]


def progress(text: str) -> None:
    """A line on stderr that the next one replaces, where that is a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
