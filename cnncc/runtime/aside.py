"""Work in a thread of its own, for what leaves Python to others while it goes on: large copies, files."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self, TypeVar

T = TypeVar("T")


class Aside:
    """One thread that does tasks in their order; a context manager, whose end drops what isn't begun yet.

    `ending` is set then: a long task may look at it.
    """

    def __init__(self) -> None:
        self.ending = threading.Event()
        self._pool = ThreadPoolExecutor(1, "cnncc-aside")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self._pool.shutdown(cancel_futures=True)

    def start(self, task: Callable[[], T]) -> Callable[[], T]:
        """What waits for the task and gives its result, or raises what it raised.

        Where no thread can be had, that does the task when it is called first.
        """
        try:
            return self._pool.submit(task).result
        except RuntimeError:
            return functools.cache(task)
