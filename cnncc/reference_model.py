"""A graph run by the NumPy reference, called as a compiled model is; and how far a value is from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from cnncc.ir.errors import InputError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.signature import Array, OpenError, Signature, settled
from cnncc.ir.types import dtype_called
from cnncc.runtime.specialise import Build, Variants


class Reference:
    """A model that NumPy computes in `dtype`, float32 or float64, from what the compiled model takes."""

    deciding: tuple[str, ...] = ()

    def __init__(self, graph: Graph, dtype: DTypeLike = np.float32) -> None:
        if dtype not in ("float32", "float64", np.float32, np.float64):
            name = getattr(dtype, "__name__", dtype)
            raise InputError(f"dtype: expected float32 or float64, got {name!s:.60}")
        self.graph, self.dtype = graph, np.dtype(dtype)
        plain = Signature.of(graph)
        self.inputs, self.outputs = plain.inputs, tuple(
            replace(v, dtype=np.promote_types(dtype_called(v.dtype), self.dtype).name)
            if "float" in v.dtype else v for v in plain.outputs)
        self.signature = Signature(self.inputs, self.outputs)

    def __call__(self, /, *args: Any, **feeds: Any) -> Array | tuple[Array, ...]:
        """The output for inputs by position or name; a tuple where there are several. Raises InputError."""
        arrays, _ = self.signature.bind(args, feeds)
        values = evaluate(self.graph, dict(zip(self.graph.inputs, arrays, strict=True)), self.dtype)
        results = settled(self.graph.signals, list(values.values()))
        return results[0] if len(results) == 1 else tuple(results)

    def at(self, feeds: Mapping[str, Array]) -> Reference:
        """This reference: it is for all inputs that fit."""
        return self

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """The outputs of these names (None: all) for inputs by name, as ONNX Runtime gives them."""
        chosen = self.signature.select(outputs or None)
        results = self(**self.signature.by_name(feeds))
        return [results[i] if isinstance(results, tuple) else results for i in chosen]


class OpenReference:
    """The reference of a model whose open sizes, or inputs that decide shapes, are read off each call."""

    def __init__(self, build: Build[Reference], reason: OpenError) -> None:
        self.signature = reason.signature
        self.inputs, self.outputs = self.signature.inputs, self.signature.outputs
        self.deciding = tuple(sorted(reason.values))
        self._variants = Variants(build, reason)

    def __call__(self, /, *args: Any, **feeds: Any) -> Array | tuple[Array, ...]:
        """The output for inputs by position or name; a tuple where there are several."""
        arrays, _ = self.signature.bind(args, feeds)
        return self.at(dict(zip((v.name for v in self.inputs), arrays, strict=True)))(*arrays)

    def run(self, outputs: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """The outputs of these names (None: all) for inputs by name."""
        self.signature.bind((), self.signature.by_name(feeds))
        return self.at(feeds).run(outputs, feeds)

    def at(self, feeds: Mapping[str, Array]) -> Reference:
        """The reference for what these inputs decide."""
        return self._variants.find({v.name: np.asarray(feeds[v.name]) for v in self.inputs})


def error_of(value: Array, truth: Array) -> float:
    """max|value - truth| / max|truth| over the finite numbers; infinite where another isn't the same."""
    value, truth = np.asarray(value, np.float64), np.asarray(truth, np.float64)
    if value.shape != truth.shape:
        return float("inf")
    finite = np.isfinite(truth)
    same = np.array_equal(value[~finite], truth[~finite], equal_nan=True)
    if not same or not np.isfinite(value[finite]).all():
        return float("inf")
    largest = np.abs(truth[finite]).max(initial=0)
    return float(np.abs(value[finite] - truth[finite]).max(initial=0) / (largest or 1.0))
