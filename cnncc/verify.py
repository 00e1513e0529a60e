"""Is a compiled model right? Compared with the NumPy reference in float64, and ONNX Runtime where installed.

An error is max|value - reference| / max|reference|. `cnncc show --check` asks the same of every pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnncc.bench.engines import Feeds, onnxruntime
from cnncc.compiler import as_onnx, compile, optimize, reference, stages
from cnncc.feeds import random_feeds, read_feeds
from cnncc.frontend.preprocess import Preprocess
from cnncc.frontend.user import Ops
from cnncc.ir.errors import InputError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.signature import Signature
from cnncc.ir.target import Target, host_features, target_for
from cnncc.reference_model import error_of

FACTOR, FLOOR = {"strict": 3.0, "fast": 20.0}, 1e-6
PLAUSIBLE = 1e-4    # errors beyond this are not rounding: an engine that has one doesn't widen the limit
PASS_LIMIT = 1e-5   # what folding constants in float32 may change in a pass, computed in float64


@dataclass(frozen=True)
class Row:
    """A value's error against float64 and what it may be."""

    name: str
    nodes: tuple[str, ...]
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        return self.error <= self.limit


@dataclass(frozen=True)
class Report:
    """`engines` are the others' own errors, `values` intermediate values where these were compared."""

    outputs: tuple[Row, ...]
    engines: dict[str, float]
    notes: tuple[str, ...]
    values: tuple[Row, ...] = ()

    @property
    def ok(self) -> bool:
        rows = (*self.outputs, *self.values)
        return all(row.ok for row in rows) and all(error <= PLAUSIBLE for error in self.engines.values())

    def record(self) -> dict[str, Any]:
        """What was found, as plain data."""
        rows = {what: [{**vars(row), "ok": row.ok} for row in getattr(self, what)]
                for what in ("outputs", "values")}
        return {"ok": self.ok, **vars(self), **rows}

    def __str__(self) -> str:
        bad = next((row for row in (*self.values, *self.outputs) if not row.ok), None)
        where = f", first in {bad.name} ({', '.join(bad.nodes)})" if bad else ": the reference is in doubt"
        return "\n".join([
            "max|error| / max|reference| against the NumPy reference in float64",
            *(f"  {engine:16} {error:.1e}" + f"  DISAGREES: above {PLAUSIBLE}" * (error > PLAUSIBLE)
              for engine, error in self.engines.items()),
            *(f"  {'good' if row.ok else 'BAD '} {row.error:.1e} (allowed {row.limit:.1e})  {row.name}"
              + f"  <- {', '.join(row.nodes)}" * bool(row.nodes) for row in (*self.outputs, *self.values)),
            *(f"  {note}" for note in self.notes),
            "the compiled model is right" if self.ok else f"MISMATCH{where}"])


def tolerance(own: Sequence[float], precision: str = "fast") -> float:
    """The error that is allowed: a multiple of the largest float32 error of an engine that is right."""
    return FACTOR[precision] * max([FLOOR, *(e for e in own if e <= PLAUSIBLE)])


def _half(y: np.ndarray[Any, Any]) -> float:
    """What rounding to half precision may change."""
    return {"float16": 2.0 ** -10, "bfloat16": 2.0 ** -7}.get(y.dtype.name, 0.0)


def verify(path: str, files: Sequence[str], batch: int, report: Callable[[str, float], None],
           target: str = "native", precision: str = "fast", threads: int | None = None,
           cache: bool = True, shapes: Mapping[str, Sequence[int]] | None = None,
           outputs: Sequence[str] | None = None, ops: Ops | None = None,
           schedules: str | None = None, preprocess: Preprocess | None = None) -> Report:
    """Compare a model's outputs for inputs from files, or random ones, and on a mismatch its kernels.

    Raises as `compile` and `read_feeds` do.
    """
    ours = reference(path, shapes=shapes, outputs=outputs, ops=ops, preprocess=preprocess)
    feeds = read_feeds(ours.inputs, files) if files else random_feeds(ours.inputs, batch,
                                                                      deciding=ours.deciding)
    graph = ours.at(feeds).graph
    model = compile(path, threads=threads, target=target, precision=precision, cache=cache,
                    shapes=shapes, outputs=outputs, ops=ops, schedules=schedules, preprocess=preprocess)
    report("reference", 0.2)
    truth, single = (evaluate(graph, feeds, dtype) for dtype in (np.float64, np.float32))
    errors = {"numpy float32": max(error_of(single[name], truth[name]) for name in truth)}
    report("ONNX Runtime", 0.6)
    notes = []
    try:
        if outputs is not None:
            raise InputError("it has no such outputs")
        source = path if preprocess is None else as_onnx(graph)
        other = onnxruntime(source, model.threads, feeds, optimize=False)(feeds)
        errors["onnxruntime"] = max(map(error_of, other, truth.values()))
        if errors["onnxruntime"] > PLAUSIBLE and _saturates(graph):
            notes.append(f"onnxruntime is off by {errors.pop('onnxruntime'):.1e}: on a CPU without VNNI it "
                         "adds products of uint8 and int8 in 16 bits, which saturate; the reference is exact")
    except ImportError:
        notes.append("onnxruntime is not installed")
    except Exception as error:      # whatever it dislikes in a model that we take
        notes.append(f"onnxruntime failed: {str(error).splitlines()[0][:200]}")
    results = model.run(None, feeds)
    limit = tolerance(list(errors.values()), precision)
    rows = tuple(Row(name, graph[value].origin, error_of(y, truth[name]), max(limit, _half(y)))
                 for (name, value), y in zip(graph.shown, results, strict=True))
    values: tuple[Row, ...] = ()
    if not all(row.ok for row in rows):
        report("kernels", 0.8)
        values = _kernels(graph, feeds, target, precision, threads)
        if all(row.ok for row in values):
            notes.append("compiled anew with all kernels' results as outputs it is right: is the cached "
                         "model stale (--no-cache), or a kernel wrong only beside others?")
    return Report(rows, errors, tuple(notes), values)


def _saturates(graph: Graph) -> bool:
    """Whether ONNX Runtime may saturate sums of products of uint8 and int8: here, and in this model."""
    if {"avx512vnni", "avxvnni"} & {*host_features()}:
        return False

    def source(x: str) -> str:
        """The dtype of what became an operand in int32."""
        while graph[x].type.dtype == "i32" and graph[x].inputs:
            x = graph[x].inputs[0]
        return graph[x].type.dtype
    return any({"u8", "i8"} <= {*map(source, n.inputs)} for n in graph
               if n.type.dtype == "i32" and n.op in ("conv", "matmul", "linear"))


def _kernels(graph: Graph, feeds: Feeds, target: str, precision: str, threads: int | None) -> tuple[Row, ...]:
    """The values that kernels store and the graph as read has too, all outputs of one model compiled anew."""
    stored = {n.name: n.origin for n in optimize(graph, target_for(target, precision)) if n.kernel is not None
              and n.name in graph.nodes and n.type == graph[n.name].type}
    if not stored:
        return ()
    probe = replace(graph, outputs=tuple((name, name) for name in stored), signals=())
    model = compile(probe, threads=threads, target=target, precision=precision, cache=False)
    results = model.run(None, feeds)
    truth, single = (evaluate(probe, feeds, dtype) for dtype in (np.float64, np.float32))
    return tuple(Row(name, origin, error_of(y, truth[name]),
                     tolerance([error_of(single[name], truth[name])], precision))
                 for (name, origin), y in zip(stored.items(), results, strict=True))


def check_passes(graph: Graph, target: Target) -> Iterator[tuple[str, float, bool]]:
    """(pass, how much it changed the outputs in float64, whether that is only rounding), in order."""
    feeds = random_feeds(Signature.of(graph).inputs, 2)
    values = ((name, evaluate(g, feeds, np.float64)) for name, g in stages(graph, target))
    for (_, before), (name, after) in itertools.pairwise(values):
        change = max(error_of(after[k], before[k]) for k in before)
        yield name, change, change <= PASS_LIMIT
