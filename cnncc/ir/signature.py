"""What a model takes and gives, and the check of a caller's arrays against it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.errors import InputError, UnsupportedError, hint
from cnncc.ir.plan import Signal, Value
from cnncc.ir.types import NUMPY, Extent, TensorType, dtype_called

if TYPE_CHECKING:
    from cnncc.ir.graph import Graph

Array = NDArray[Any]


def value(name: str, type: TensorType) -> Value:
    """The record of an input or output; its dtype is NumPy's name."""
    return Value(name, NUMPY[type.dtype].name, type.shape)


def settled(signals: Sequence[Signal], results: Sequence[Array]) -> list[Array]:
    """What the user gets of the results, of which the last are the signals'. Raises InputError for those."""
    if not signals:
        return list(results)
    shown = list(results[:len(results) - len(signals)])
    for signal, number in zip(signals, results[len(shown):], strict=True):
        if signal.output is not None:
            shown[signal.output] = shown[signal.output][(*[slice(None)] * signal.axis, slice(int(number)))]
        elif number.any():
            raise InputError(signal.text)
    return shown


@dataclass(frozen=True)
class Signature:
    """The inputs and outputs of a model, in order."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @staticmethod
    def of(graph: Graph) -> Signature:
        return Signature(tuple(value(i, graph[i].type) for i in graph.inputs),
                         tuple(value(name, graph[v].type) for name, v in graph.shown))

    @property
    def open(self) -> bool:
        """Whether a call chooses a size."""
        return any(isinstance(e, str) for v in self.inputs for e in v.shape)

    @cached_property
    def _expected(self) -> tuple[tuple[np.dtype[Any], tuple[int, ...], bool, tuple[Extent, ...]], ...]:
        """For every input: dtype, shape with -1 for the batch, whether that leads, the shape after it."""
        return tuple((dtype_called(v.dtype), tuple(-1 if isinstance(e, str) else e for e in v.shape),
                      v.shape != () and isinstance(v.shape[0], str), v.shape[1:]) for v in self.inputs)

    def bind(self, args: Sequence[Any], feeds: Mapping[str, Any] | None = None) -> tuple[list[Array], int]:
        """The arrays of a call in the order of the inputs, and the batch size (1 where it isn't symbolic).

        `args` are inputs by position, `feeds` by name. Arrays (anything with `__array__` or DLPack) must have
        the dtype and shape that is expected; Python numbers and lists of them are converted.

        Raises InputError where one is missing, unknown, or doesn't fit.
        """
        expected = self._expected
        arrays: list[Any] = [feeds.get(v.name) for v in self.inputs] if feeds else list(args)
        if len(arrays) == len(expected) == len(args) + len(feeds or ()):  # the usual call: a microsecond
            n = 0
            for x, (dtype, fixed, leads, tail) in zip(arrays, expected, strict=True):
                if type(x) is not np.ndarray or x.dtype != dtype:
                    break
                shape = x.shape
                if shape != fixed:
                    if not leads or not shape or shape[1:] != tail or not shape[0] or (n and n != shape[0]):
                        break
                    n = shape[0]
            else:
                return arrays, n or 1
        return self._bind(args, feeds or {})

    def by_name(self, feeds: Any) -> Mapping[str, Any]:
        """The inputs that `run` was given. Raises InputError where they aren't by name."""
        if isinstance(feeds, Mapping):
            return feeds
        example = ", ".join(f"{v.name!r}: array" for v in self.inputs)
        raise InputError(f"expected inputs by name, {{{example}}}, got {type(feeds).__name__}")

    def select(self, names: Sequence[str] | None) -> list[int]:
        """The positions of these outputs, of all for None. Raises InputError for an unknown name."""
        if isinstance(names, str):
            raise InputError(f"expected a list of outputs, got {names!r}")
        known = [v.name for v in self.outputs]
        for name in names or ():
            if name not in known:
                raise InputError(f"unknown output {name!r}{hint(name, known)}: "
                                 f"the model gives {_list(self.outputs)}")
        return [known.index(name) for name in (known if names is None else names)]

    def _bind(self, args: Sequence[Any], feeds: Mapping[str, Any]) -> tuple[list[Array], int]:
        known = [v.name for v in self.inputs]
        takes = f"the model takes {_list(self.inputs)}"
        if len(args) > len(known):
            raise InputError(f"{len(args)} arrays were given: {takes}")
        given = dict(zip(known, args, strict=False))
        for name in feeds:
            if name not in known:
                raise InputError(f"unknown input {name!r}{hint(name, known)}: {takes}")
            if name in given:
                raise InputError(f"input {name!r} was given twice, by position and by name")
        given |= feeds
        if missing := [name for name in known if name not in given]:
            raise InputError(f"missing input {', '.join(map(repr, missing))}: {takes}")
        arrays = [_array(v, given[v.name]) for v in self.inputs]
        sizes: dict[str, tuple[int, str]] = {}
        for v, x in zip(self.inputs, arrays, strict=True):
            pairs = list(zip(v.shape, x.shape, strict=False))
            empty = next((f" with {e} of at least 1" for e, a in pairs if isinstance(e, str) and a < 1), "")
            if empty or len(v.shape) != x.ndim or any(isinstance(e, int) and e != a for e, a in pairs):
                raise InputError(f"input {v.name!r}: expected shape {_shape(v.shape)}{empty}, "
                                 f"got {_shape(x.shape)}{'' if empty else _advice(v.shape, x.shape)}")
            for e, a in pairs:
                if isinstance(e, str) and a != (first := sizes.setdefault(e, (a, v.name)))[0]:
                    raise InputError(f"input {v.name!r}: expected {e} = {first[0]} as in input {first[1]!r}, "
                                     f"got shape {_shape(x.shape)}")
        return arrays, next((n for n, _ in sizes.values()), 1)


class OpenError(UnsupportedError):
    """A model can be compiled as soon as a call is known: its rows are all for that reason.

    `sizes`: the sizes that the model leaves open are needed; `values` names the inputs whose values are.
    `name` is the model's, `signature` what it takes and gives, open sizes by name.
    """

    def __init__(self, message: str, rows: Iterable[tuple[str, str, str]], sizes: bool,
                 values: frozenset[str], name: str, signature: Signature) -> None:
        super().__init__(message, rows)
        self.sizes, self.values, self.name, self.signature = sizes, values, name, signature

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.rows, self.sizes, self.values, self.name, self.signature)


def _advice(wanted: Sequence[Extent], got: tuple[int, ...]) -> str:
    """What to do about an array of another shape, where that can be told."""
    def fits(shape: Sequence[int]) -> bool:
        return len(shape) == len(wanted) and all(isinstance(w, str) or w == e
                                                 for w, e in zip(wanted, shape, strict=True))
    missing = next((n for n in (1, 2) if fits((1,) * n + got)), 0)
    if missing:
        what = "the batch is" if missing == 1 else "batch and channels are"
        return f": {what} missing: pass array[{', '.join(['None'] * missing)}]"
    if len(got) > 2 and fits((got[0], got[-1], *got[1:-1])):
        return ": are the channels last? They come second here: pass numpy.moveaxis(array, -1, 1)"
    if len(got) > 2 and fits((got[0], *got[2:], got[1])):
        return ": are the channels second? They come last here: pass numpy.moveaxis(array, 1, -1)"
    if len(got) > 1 and got[1:] == tuple(wanted[1:]):
        return f": the model is for {wanted[0]} at a time; leave its batch open when you export it"
    return ""


def _array(v: Value, x: Any) -> Array:
    """What the caller gave as an array of its input's dtype; only Python's own numbers are converted."""
    dtype, expected = dtype_called(v.dtype), f"input {v.name!r}: expected"
    try:
        own = isinstance(x, int | float | list | tuple)
        if isinstance(x, str | bytes | PathLike):
            raise TypeError("read the file first, with numpy.load or an image library")
        foreign = hasattr(x, "__dlpack__") and not hasattr(x, "__array__")
        result = np.from_dlpack(x) if foreign else np.asarray(x)
        if own and result.dtype.kind not in "biuf":
            raise TypeError("its elements are not numbers")
        with np.errstate(all="ignore"):
            converted = result.astype(dtype) if own else result
        if own and dtype.kind in "biu" and not np.array_equal(converted, result):
            raise TypeError("its numbers don't fit")
    except Exception as error:      # whatever the foreign object raises
        raise InputError(f"{expected} an array of {v.dtype}, got {type(x).__name__}, "
                         f"which can't be read as one: {error}") from error
    if converted.dtype == object:
        raise InputError(f"{expected} an array of {v.dtype}, got {type(x).__name__}"
                         + (" of Python objects" if isinstance(x, np.ndarray) else ""))
    if converted.dtype != dtype:
        pixels = dtype.kind == "f" and converted.dtype == np.uint8
        raise InputError(f"{expected} {v.dtype}, got {converted.dtype}, which isn't converted silently: "
                         f"pass numpy.asarray(array, {v.dtype!r})"
                         + ", scaled as when the model was trained (often by 1/255)" * pixels)
    return converted


def _shape(shape: Sequence[Extent]) -> str:
    return f"[{', '.join(map(str, shape))}]"


def _list(values: Sequence[Value]) -> str:
    return ", ".join(f"{v.name}: {v.dtype}{_shape(v.shape)}" for v in values) or "nothing"
