"""ONNX models: `read` gives the graph, `inspect` what is in a model, also where it can't be compiled yet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cnncc.frontend.files import Opening
from cnncc.frontend.onnx_file import OnnxFile, Source, load
from cnncc.frontend.onnx_import import DOMAINS, NOTHING, Given, Importer, declared
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.signature import OpenError
from cnncc.ir.types import TensorType, product

BATCHES = 1, 12             # where a model with an open batch is wrong, these may be right: 12 has divisors


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `cnncc info` shows. Extents that the file leaves open are names or `?`; parameters are floats.

    `unsupported` is what can't be compiled, `open` what can only be when a call gives sizes and values.
    """

    name: str
    producer: str
    ir_version: int
    opset: int
    inputs: tuple[tuple[str, TensorType], ...]
    outputs: tuple[tuple[str, TensorType], ...]
    nodes: dict[str, int]
    parameters: int
    parameter_bytes: int
    unsupported: tuple[tuple[str, str, str], ...]
    open: tuple[tuple[str, str, str], ...] = ()


def read(source: Source, folder: str | os.PathLike[str] | None = None,
         opening: Opening | None = None, given: Given = NOTHING) -> Graph:
    """The graph of an ONNX model: a path, its bytes, or an onnx.ModelProto; `given` is what its caller adds.

    External data is read from the file's folder, for bytes and ModelProto only where `folder` is given;
    `opening` is told of each file before it is read. An open first axis of the inputs becomes the extent "N".

    Raises UnsupportedError, which lists the nodes that can't be compiled, OpenError where that takes only
    more of a call, ModelError for a broken model, and InputError for what is given and doesn't fit.
    """
    return graph_of(load(source, folder, opening), given)


def inspect(source: Source, given: Given = NOTHING) -> ModelInfo:
    """What is in a model, with all that can't be compiled. Raises ModelError for a broken model."""
    file = load(source)
    p, g = file.proto, file.proto.graph
    unsupported: tuple[tuple[str, str, str], ...] = ()
    open: tuple[tuple[str, str, str], ...] = ()
    outputs: dict[str, TensorType] = {}
    try:
        graph = graph_of(file, given)
        outputs = {name: graph[value].type for name, value in graph.outputs}
    except OpenError as error:
        open = error.rows
    except UnsupportedError as error:
        unsupported = error.rows or (("model", g.name, error.message),)
    initial = {t.name for t in g.initializer}
    tensors = [*g.initializer, *(a.t for n in g.node if n.op_type == "Constant" for a in n.attribute)]
    sizes = [(product(shape), dtype.itemsize) for dtype, shape, _ in map(file.describe, tensors)
             if dtype is not None and "float" in dtype.name]
    return ModelInfo(
        g.name, f"{p.producer_name} {p.producer_version}".strip(), p.ir_version, file.opset,
        tuple((v.name, declared(v)) for v in g.input if v.name not in initial),
        tuple((v.name, outputs.get(v.name, declared(v))) for v in g.output),
        dict(Counter(n.op_type if n.domain in DOMAINS else f"{n.domain}.{n.op_type}"
                     for n in g.node).most_common()),
        sum(count for count, _ in sizes), sum(count * itemsize for count, itemsize in sizes),
        unsupported, open)


def graph_of(file: OnnxFile, given: Given = NOTHING) -> Graph:
    """The graph; where something is wrong and the batch is open, that may be why: others are tried."""
    importer = Importer(file, given)
    try:
        try:
            return importer.graph()
        except ModelError as error:
            batches = [s for n in BATCHES if (s := importer.with_batch(n)) is not None]
            if not batches or (isinstance(error, OpenError) and not error.sizes):
                raise
            values = _deciding(file, [replace(given, shapes=s) for s in batches], error)
            message = (f"{file.label} (opset {file.opset}) needs sizes to be known first: give them with "
                       "shapes= or --shape")
            rows = error.rows if isinstance(error, UnsupportedError) else [("model", file.proto.graph.name,
                                                                            str(error))]
            raise OpenError(message, rows, True, values, importer.scope.builder.name,
                            importer.signature()) from None
    except MemoryError:
        raise ModelError(f"{file.label}: there is not enough memory for the model") from None


def _deciding(file: OnnxFile, tries: Sequence[Given], first: ModelError) -> frozenset[str]:
    """The inputs whose values decide, too, in a model with one of some batches. Raises what is wrong."""
    for given in tries:
        try:
            Importer(file, given).graph()
        except OpenError as error:
            return error.values
        except UnsupportedError as error:
            first = first if given is not tries[0] else error
        except ModelError:
            pass
        else:
            return frozenset()
    raise first from None
