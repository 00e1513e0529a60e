"""The arrays of a graph's constants, some of which are computed while passes go on."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"


class Later:
    """An array of a known type that the first thread computes which needs it."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[Any], make: Callable[[], Array]) -> None:
        self.shape, self.dtype = shape, dtype
        self._make: Callable[[], Array] | None = make
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return np.asarray, (self.get(),)        # copies are of the array

    def get(self) -> Array:
        """The array. Raises what computing it raises."""
        with self._lock:
            if self._make is not None:
                self._value, self._make = self._make(), None
            return self._value


def made(held: Array | Later) -> Array:
    """The array, computed if need be."""
    return held.get() if isinstance(held, Later) else held


class Constants(MutableMapping[str, Array]):
    """Arrays by name. To ask for one computes it; copies are made without."""

    def __init__(self, arrays: Mapping[str, Array | Later] | None = None) -> None:
        held = arrays._arrays if isinstance(arrays, Constants) else arrays
        self._arrays: dict[str, Array | Later] = dict(held or {})

    @staticmethod
    def of(arrays: Mapping[str, Array]) -> Constants:
        """Arrays by name, not copied where they are Constants already."""
        return arrays if isinstance(arrays, Constants) else Constants(arrays)

    def __getitem__(self, name: str) -> Array:
        return made(self._arrays[name])

    def __setitem__(self, name: str, value: Array | Later) -> None:
        self._arrays[name] = value

    def __delitem__(self, name: str) -> None:
        del self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def held(self, name: str) -> Array | Later:
        """The array, or what it will be: to look at its type."""
        return self._arrays[name]

    def changed(self, arrays: Mapping[str, Array | Later]) -> Constants:
        """These, with other arrays for some names or for new ones."""
        return Constants({**self._arrays, **arrays})

    def only(self, names: Iterable[str]) -> Constants:
        """Those of these names that there are, in their order here."""
        wanted = set(names)
        return Constants({name: held for name, held in self._arrays.items() if name in wanted})

    def open(self) -> Iterator[Later]:
        """What may not be computed yet."""
        return (held for held in self._arrays.values() if isinstance(held, Later))
