"""ONNX models: `read` gives the graph, `inspect` what is in a model, also where it can't be compiled yet."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cnncc.frontend.onnx_file import OnnxFile, Source, dtype_name, load
from cnncc.frontend.onnx_node import Call, Refused, Scope
from cnncc.frontend.onnx_ops import ROWS
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.types import Extent, TensorType, product

if TYPE_CHECKING:
    from onnx import NodeProto, ValueInfoProto

BATCH = "N"
OLDEST = 7
DOMAINS = ("", "ai.onnx")


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What `cnncc info` shows. Extents that the file leaves open are names or `?`; parameters are floats."""

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


def read(source: Source, folder: str | os.PathLike[str] | None = None) -> Graph:
    """The graph of an ONNX model: a path, its bytes, or an onnx.ModelProto.

    External data is read from the file's folder, for bytes and ModelProto only where `folder` is given. An
    open first axis of the inputs becomes the extent "N". Constants are views of the file's bytes.

    Raises UnsupportedError, which lists every node that can't be compiled, and ModelError for a broken model.
    """
    return _guarded(load(source, folder))


def inspect(source: Source, folder: str | os.PathLike[str] | None = None) -> ModelInfo:
    """What is in a model, with all that can't be compiled; weights are read only where shapes depend on them.

    Raises ModelError for a broken model.
    """
    file = load(source, folder, weights=False)
    unsupported: tuple[tuple[str, str, str], ...] = ()
    outputs: dict[str, TensorType] = {}
    try:
        graph = _guarded(file)
        outputs = {name: graph[value].type for name, value in graph.outputs}
    except UnsupportedError as error:
        unsupported = error.rows or (("model", file.proto.graph.name, error.message),)
    p = file.proto
    given = {t.name for t in p.graph.initializer}
    sizes = [(product(shape), itemsize) for dtype, itemsize, shape, _ in map(file.describe, file.tensors())
             if dtype in (1, 10, 11)]
    return ModelInfo(
        p.graph.name, f"{p.producer_name} {p.producer_version}".strip(), p.ir_version, _opset(file),
        tuple((v.name, _declared(v)) for v in p.graph.input if v.name not in given),
        tuple((v.name, outputs.get(v.name, _declared(v))) for v in p.graph.output),
        dict(Counter(_op(n) for n in p.graph.node).most_common()),
        sum(count for count, _ in sizes), sum(count * itemsize for count, itemsize in sizes), unsupported)


def _guarded(file: OnnxFile) -> Graph:
    try:
        return _Importer(file).graph()
    except MemoryError:
        raise ModelError(f"{file.label}: there is not enough memory for the model") from None


def _op(node: NodeProto) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"


def _opset(file: OnnxFile) -> int:
    """The version of the default domain's ops, 0 where the file imports only others."""
    return max((o.version for o in file.proto.opset_import if o.domain in DOMAINS), default=0)


def _declared(value: ValueInfoProto) -> TensorType:
    """The type that the file gives an input or output, for showing."""
    tensor = value.type.tensor_type
    shape: tuple[Extent, ...] = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim)
    return TensorType(dtype_name(tensor.elem_type), shape if tensor.HasField("shape") else ("...",))


class _Importer:
    """One pass over the nodes of a file, in order."""

    def __init__(self, file: OnnxFile) -> None:
        self.file, self.proto = file, file.proto.graph
        self.scope = Scope(file, Builder(self.proto.name or "model"), _opset(file))
        self.rows: list[tuple[str, str, str]] = []
        self.unknown: set[str] = set()      # values of no known type: of refused nodes and what reads them
        self.claimed = {v.name: v for v in self.proto.value_info}
        self.symbols: dict[str, str] = {}   # the names of the batch in the file, each with its input

    def wrong(self, reason: str) -> ModelError:
        return ModelError(f"{self.file.label}: {reason}")

    def graph(self) -> Graph:
        self._versions()
        self._initializers()
        for value in self.proto.input:
            self._input(value)
        self._check_order()
        needed = {v.name for v in self.proto.output}
        live = []
        for index in reversed(range(len(self.proto.node))):
            node = self.proto.node[index]
            if not needed.isdisjoint(node.output):
                live.append((index, node))
                needed.update(node.input)
        for index, node in reversed(live):
            self._node(node, node.name[:200] or f"{node.op_type[:60]}_{index}", needed)
        outputs = self._outputs()
        if self.rows:
            many = f"{len(self.rows)} things" if len(self.rows) > 1 else "one thing"
            raise UnsupportedError(f"{self.file.label} (opset {self.scope.opset}) needs {many} that can't be "
                                   "compiled yet", self.rows)
        return self.scope.builder.graph(outputs).live()

    def _versions(self) -> None:
        from onnx import defs
        newest, opset = defs.onnx_opset_version(), self.scope.opset
        if opset == 0 and any(n.domain in DOMAINS for n in self.proto.node):
            raise self.wrong("the file names no opset for its ops")
        if opset and not OLDEST <= opset <= newest:
            advice = "install a newer onnx" if opset > newest else "convert it with onnx.version_converter"
            raise UnsupportedError(
                f"{self.file.label} uses opset {opset}, supported are {OLDEST} to {newest}: {advice}")

    def _initializers(self) -> None:
        constants = self.scope.constants
        for tensor in self.proto.initializer:
            if not tensor.name or tensor.name in constants:
                raise self.wrong(f"two initializers are called {tensor.name[:200]!r}" if tensor.name
                                 else "an initializer has no name")
            self.file.check(tensor)
            constants[tensor.name] = tensor
        for sparse in self.proto.sparse_initializer:
            self.rows.append(("initializer", sparse.values.name[:200], "sparse tensors are not supported"))
            self.unknown.add(sparse.values.name)

    def _input(self, value: ValueInfoProto) -> None:
        name, scope = value.name, self.scope
        if not name or name in scope.values or name in self.unknown:
            raise self.wrong(f"two inputs are called {name[:200]!r}" if name else "an input has no name")
        if name in scope.constants:
            return
        try:
            type = self._type(value)
            scope.check(type)
        except Refused as reason:
            self.rows.append(("input", name[:200], str(reason)))
            self.unknown.add(name)
        except ModelError as error:
            raise self.wrong(f"input {name[:200]!r}: {error}") from None
        else:
            scope.values[name] = scope.builder.input(name, type)

    def _type(self, value: ValueInfoProto) -> TensorType:
        """The type of an input. Raises Refused for what can't be compiled."""
        if value.type.WhichOneof("value") != "tensor_type":
            raise Refused("it is no tensor")
        tensor = value.type.tensor_type
        if tensor.elem_type != 1:
            raise Refused(f"its type is {dtype_name(tensor.elem_type)}, only float32 inputs are supported")
        if not tensor.HasField("shape"):
            raise Refused("it has no shape: export the model with its input's shape")
        shape: list[Extent] = []
        for axis, d in enumerate(tensor.shape.dim):
            if d.HasField("dim_value"):
                shape.append(int(d.dim_value))
                continue
            if axis:
                raise Refused(f"axis {axis} has no fixed size ({d.dim_param[:60] or '?'}), only axis 0, the "
                              "batch, may be open: export the model with a fixed size")
            self.symbols.setdefault(d.dim_param, value.name)
            names = [s for s in self.symbols if s]
            if len(names) > 1:
                raise Refused(f"its batch is {d.dim_param[:60]!r}, that of input "
                              f"{self.symbols[names[0]][:200]!r} is {names[0][:60]!r}: give both one name")
            shape.append(BATCH)
        return TensorType("f32", tuple(shape))

    def _check_order(self) -> None:
        """Raises ModelError where two nodes define a value, or none does before it is read."""
        known = {*self.scope.constants, *self.scope.values, *self.unknown}
        makers: dict[str, int] = {}
        for index, node in enumerate(self.proto.node):
            for name in filter(None, node.output):
                if name in known or name in makers:
                    raise self.wrong(f"{self._label(index)} defines the value {name[:200]!r} a second time")
                makers[name] = index
        for index, node in enumerate(self.proto.node):
            for name in filter(None, node.input):
                if name not in known and makers.get(name, index) >= index:
                    why = f"which {self._label(makers[name])} makes: a cycle, or nodes out of order" \
                        if name in makers else "which nothing defines"
                    raise self.wrong(f"{self._label(index)} reads {name[:200]!r}, {why}")

    def _label(self, index: int) -> str:
        node = self.proto.node[index]
        return f"{node.op_type[:60]} {node.name[:200] or f'{node.op_type[:60]}_{index}'!r}"

    def _node(self, node: NodeProto, name: str, needed: set[str]) -> None:
        scope = self.scope
        try:
            row = ROWS.get(node.op_type) if node.domain in DOMAINS else None
            if row is None:
                raise Refused(f"op not supported (opset {scope.opset})" if node.domain in DOMAINS else
                              f"ops of domain {node.domain[:60]!r} are not supported")
            if not self.unknown.isdisjoint(node.input):
                self._refused(node)
                return
            call = Call(scope, node, name)
            extra = [o for o in node.output if o and o != call.out and o in needed]
            if extra:
                raise Refused(f"its output {extra[0][:200]!r} is used; only the first is supported")
            result = row(call)
        except Refused as reason:
            self.rows.append((_op(node)[:120], name, str(reason)))
            self._refused(node)
            return
        except ModelError:
            if not self.rows:
                raise
            self._refused(node)     # it may come from a shape that the file only claims
            return
        if isinstance(result, np.ndarray):
            scope.constants[call.out] = result
        else:
            scope.values[call.out] = result

    def _refused(self, node: NodeProto) -> None:
        """Go on after a node that isn't compiled with the types that the file claims, so as to report all."""
        for name in filter(None, node.output):
            try:
                batch = bool(self.symbols)
                type = self._type(self.claimed[name])
                self.scope.check(type)
                if type.symbols and not batch:
                    raise Refused("its batch is none of an input")
                self.scope.values[name] = self.scope.builder.input(self.scope.builder.fresh(name), type)
            except (KeyError, Refused, ModelError):
                self.unknown.add(name)

    def _outputs(self) -> list[tuple[str, str]]:
        outputs: dict[str, str] = {}
        for name in (v.name for v in self.proto.output):
            if name in outputs:
                raise self.wrong(f"the output {name[:200]!r} is given twice")
            if name in self.unknown:
                continue
            if name not in self.scope.values and name not in self.scope.constants:
                raise self.wrong(f"nothing defines the output {name[:200]!r}")
            try:
                outputs[name] = self.scope.value(name)
            except Refused as reason:
                self.rows.append(("output", name[:200], str(reason)))
        if not self.proto.output:
            raise self.wrong("the model has no outputs")
        return list(outputs.items())


__all__ = ["ModelInfo", "inspect", "read"]
