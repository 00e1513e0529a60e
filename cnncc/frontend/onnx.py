"""ONNX models: `read` gives the graph, `inspect` what is in a model, also where it can't be compiled yet."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, replace

from cnncc.frontend.files import Opening
from cnncc.frontend.onnx_file import OnnxFile, Source, load
from cnncc.frontend.onnx_import import DOMAINS, NOTHING, Given, Importer, declared
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.signature import OpenError
from cnncc.ir.types import TensorType, product


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
    return _graph(load(source, folder, opening), given)


def inspect(source: Source, given: Given = NOTHING) -> ModelInfo:
    """What is in a model, with all that can't be compiled. Raises ModelError for a broken model."""
    file = load(source)
    p, g = file.proto, file.proto.graph
    unsupported: tuple[tuple[str, str, str], ...] = ()
    open: tuple[tuple[str, str, str], ...] = ()
    outputs: dict[str, TensorType] = {}
    try:
        graph = _graph(file, given)
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


def _graph(file: OnnxFile, given: Given) -> Graph:
    """The graph; where nodes are refused and the batch is open, that may be why: one of 1 is tried."""
    importer = Importer(file, given)
    try:
        try:
            return importer.graph()
        except UnsupportedError as error:
            batch = importer.single()
            if batch is None or (isinstance(error, OpenError) and not error.sizes):
                raise
            values = _deciding(file, replace(given, shapes=batch), error)
            message = (f"{file.label} (opset {file.opset}) needs sizes to be known first: give them with "
                       "shapes= or --shape")
            raise OpenError(message, error.rows, True, values, importer.scope.builder.name,
                            importer.signature()) from None
    except MemoryError:
        raise ModelError(f"{file.label}: there is not enough memory for the model") from None


def _deciding(file: OnnxFile, given: Given, first: UnsupportedError) -> frozenset[str]:
    """The inputs whose values decide, too, in a model with a batch of 1. Raises what is wrong with that."""
    try:
        Importer(file, given).graph()
    except OpenError as error:
        return error.values
    except UnsupportedError:
        raise
    except ModelError:
        raise first from None
    return frozenset()
