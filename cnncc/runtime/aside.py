"""Work in a thread of its own, for what leaves Python to others while it goes on: large copies, files."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class _Once(Generic[T]):
    """A task that is done once, by whichever thread calls it first; the others wait, and get the same."""

    def __init__(self, task: Callable[[], T]) -> None:
        self._task: Callable[[], T] | None = task
        self._lock, self._done = threading.Lock(), Future[T]()

    def __call__(self) -> T:
        with self._lock:
            if self._task is not None:
                task, self._task = self._task, None
                try:
                    self._done.set_result(task())
                except BaseException as error:
                    self._done.set_exception(error)
        return self._done.result()


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
        """What gives the task's result, or raises what it raised; it does the task where none has yet."""
        once = _Once(task)
        with suppress(RuntimeError):        # no thread can be had
            self._pool.submit(once)
        return once
