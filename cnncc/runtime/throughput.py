"""Many independent calls at a time, one core each: more samples per second than one call on all cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(call: Callable[[int, T], R], items: Iterable[T], workers: int, ahead: int) -> Iterator[R]:
    """`call(number, item)` for every item, on `workers` threads; the results in the order of the items.

    At most `workers + ahead` items are taken before the first of their results is. What `call` or `items`
    raises comes in its place and ends it. Closed early, it waits for the calls that have begun only.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(workers, "cnncc") as threads:
        try:
            for pair in enumerate(items):
                waiting.append(threads.submit(call, *pair))
                if len(waiting) == workers + ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
