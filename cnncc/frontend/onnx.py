"""ONNX models: `read` gives the graph, `inspect` what is in a model, also where it can't be compiled yet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from cnncc.frontend import user
from cnncc.frontend.files import Opening, expect
from cnncc.frontend.onnx_file import DTYPES, OnnxFile, Source, dtype_name, load
from cnncc.frontend.onnx_node import Call, Refused, Scope, support
from cnncc.frontend.onnx_ops import ROWS
from cnncc.frontend.onnx_shapes import FOLDED, fold
from cnncc.frontend.user import Ops
from cnncc.ir.errors import InputError, ModelError, UnsupportedError, hint
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.types import HALVES, Extent, TensorType, product

if TYPE_CHECKING:
    from onnx import NodeProto, TensorShapeProto, ValueInfoProto

Shapes: TypeAlias = Mapping[str, Sequence[int]]
BATCH = "N"
OLDEST = 6
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


def read(source: Source, folder: str | os.PathLike[str] | None = None,
         opening: Opening | None = None, shapes: Shapes | None = None, ops: Ops | None = None) -> Graph:
    """The graph of an ONNX model: a path, its bytes, or an onnx.ModelProto; `shapes` fixes inputs' by name.

    `ops` are the user's by the name that the file gives them: "my.domain.Name", "Name" for ONNX's own domain.

    External data is read from the file's folder, for bytes and ModelProto only where `folder` is given;
    `opening` is told of each file before it is read. An open first axis of the inputs becomes the extent "N".

    Raises UnsupportedError, which lists the nodes that can't be compiled, ModelError for a broken model, and
    InputError for shapes that don't fit.
    """
    return _graph(load(source, folder, opening), shapes, ops)


def inspect(source: Source) -> ModelInfo:
    """What is in a model, with all that can't be compiled. Raises ModelError for a broken model."""
    file = load(source)
    p, g = file.proto, file.proto.graph
    unsupported: tuple[tuple[str, str, str], ...] = ()
    outputs: dict[str, TensorType] = {}
    try:
        graph = _graph(file)
        outputs = {name: graph[value].type for name, value in graph.outputs}
    except UnsupportedError as error:
        unsupported = error.rows or (("model", g.name, error.message),)
    given = {t.name for t in g.initializer}
    tensors = [*g.initializer, *(a.t for n in g.node if n.op_type == "Constant" for a in n.attribute)]
    sizes = [(product(shape), dtype.itemsize) for dtype, shape, _ in map(file.describe, tensors)
             if dtype is not None and "float" in dtype.name]
    return ModelInfo(
        g.name, f"{p.producer_name} {p.producer_version}".strip(), p.ir_version, _opset(file),
        tuple((v.name, _declared(v)) for v in g.input if v.name not in given),
        tuple((v.name, outputs.get(v.name, _declared(v))) for v in g.output),
        dict(Counter(map(_op, g.node)).most_common()),
        sum(count for count, _ in sizes), sum(count * itemsize for count, itemsize in sizes), unsupported)


def _graph(file: OnnxFile, shapes: Shapes | None = None, ops: Ops | None = None) -> Graph:
    try:
        return _Importer(file, shapes or {}, ops or {}).graph()
    except MemoryError:
        raise ModelError(f"{file.label}: there is not enough memory for the model") from None


def _op(node: NodeProto) -> str:
    """The node's row: its op, after its domain where that isn't ONNX's own."""
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


def _fixed(d: TensorShapeProto.Dimension) -> bool:
    """Whether a file gives a size; some exporters write -1 for an open one."""
    return bool(d.HasField("dim_value") and d.dim_value != -1)


class _Importer:
    """One pass over the nodes of a file, in order. What depends on a refused node has no known type."""

    def __init__(self, file: OnnxFile, shapes: Shapes, ops: Ops) -> None:
        self.file, self.proto, self.shapes = file, file.proto.graph, shapes
        self.users = user.ROWS | {name: user.row(op) for name, op in ops.items()}
        self.scope = Scope(file, Builder(self.proto.name or "model"), _opset(file))
        self.rows: list[tuple[str, str, str]] = []
        self.defined: set[str] = set()
        self.symbols: dict[str, str] = {}   # the names of the batch in the file, each with its input

    def expect(self, ok: object, why: str) -> None:
        expect(ok, f"{self.file.label}: {why}")

    def refuse(self, kind: str, name: str, reason: Refused | str) -> None:
        self.rows.append((kind[:120], name[:200], str(reason)))

    def graph(self) -> Graph:
        self._check_version()
        for tensor in self.proto.initializer:
            self._define("initializer", tensor.name)
            self.scope.constants[tensor.name] = tensor
        for sparse in self.proto.sparse_initializer:
            self._define("initializer", sparse.values.name)
            self.refuse("initializer", sparse.values.name, "sparse tensors are not supported")
        inputs = [v.name for v in self.proto.input if v.name not in self.scope.constants]
        if unknown := [name for name in self.shapes if name not in inputs]:
            raise InputError(f"{self.file.label}: shapes: unknown input {unknown[0]!r}"
                             f"{hint(unknown[0], inputs)}: the inputs are {', '.join(inputs)}")
        for value in self.proto.input:
            if value.name not in self.scope.constants:
                self._define("input", value.name)
                try:
                    self.scope.values[value.name] = self._input(value)
                except Refused as reason:
                    self.refuse("input", value.name, reason)
        needed = self.scope.needed = {v.name for v in self.proto.output} - {""}
        for node in reversed(self.proto.node):
            if not needed.isdisjoint(node.output):
                needed.update(filter(None, node.input))
        made = {name for node in self.proto.node for name in node.output}
        for i, node in enumerate(self.proto.node):
            called = node.name[:200] or f"{node.op_type[:60]}_{i}"
            self._check_order(node, f"{node.op_type[:60]} {called!r}", made)
            if not needed.isdisjoint(node.output):
                self._node(node, called)
        outputs = self._outputs()
        if self.rows:
            many = f"{len(self.rows)} things" if len(self.rows) > 1 else "one thing"
            raise UnsupportedError(f"{self.file.label} (opset {self.scope.opset}) needs {many} that can't be "
                                   "compiled yet", self.rows)
        signals = self.scope.signals
        shown = {name for name, _ in outputs}
        hidden = [(self._hidden(f"signal {i}", shown), value) for i, (value, _) in enumerate(signals)]
        return self.scope.builder.graph([*outputs, *hidden], [s for _, s in signals]).live()

    @staticmethod
    def _hidden(name: str, shown: set[str]) -> str:
        while name in shown:
            name += "'"
        return name

    def _check_version(self) -> None:
        from onnx import defs
        newest, opset = defs.onnx_opset_version(), self.scope.opset
        self.expect(opset or all(n.domain not in DOMAINS for n in self.proto.node),
                    "the file names no opset for its ops")
        if opset and not OLDEST <= opset <= newest:
            advice = "install a newer onnx" if opset > newest else "convert it with onnx.version_converter"
            raise UnsupportedError(
                f"{self.file.label} uses opset {opset}, supported are {OLDEST} to {newest}: {advice}")

    def _define(self, kind: str, name: str) -> None:
        self.expect(name, f"an {kind} has no name")
        self.expect(name not in self.defined, f"two {kind}s are called {name[:200]!r}")
        self.defined.add(name)

    def _input(self, value: ValueInfoProto) -> str:
        tensor = value.type.tensor_type
        support(value.type.WhichOneof("value") == "tensor_type", "it is no tensor")
        support(tensor.elem_type in DTYPES,
                f"its type is {dtype_name(tensor.elem_type)}, which isn't supported")
        support(tensor.HasField("shape"), "it has no shape: export the model with its input's shape")
        shape: list[Extent] = []
        given = self._given(value)
        for axis, d in enumerate(tensor.shape.dim):
            if _fixed(d) or given:
                shape.append(given[axis] if given else int(d.dim_value))
                continue
            support(axis == 0, f"axis {axis} has no fixed size ({d.dim_param[:60] or '?'}), only axis 0, the "
                               "batch, may be open: give all sizes with shapes= or --shape")
            self.symbols.setdefault(d.dim_param, value.name)
            name, *others = [s for s in self.symbols if s] or [""]
            support(not others, f"its batch is {d.dim_param[:60]!r}, that of input "
                                f"{self.symbols[name][:200]!r} is {name[:60]!r}: give both one name")
            shape.append(BATCH)
        type = TensorType(DTYPES[tensor.elem_type], tuple(shape))
        self.scope.check(type, f"{self.file.label}: input {value.name[:200]!r}")
        x = self.scope.builder.input(value.name, type)
        return self.scope.builder.op("cast", [x], f"{x}.f32", to="f32") if type.dtype in HALVES else x

    def _given(self, value: ValueInfoProto) -> list[int]:
        """The shape that the caller fixes for an input, or none. Raises InputError where it doesn't fit."""
        given = [int(e) for e in self.shapes.get(value.name, ())]
        sizes = [int(d.dim_value) if _fixed(d) else d.dim_param or "?"
                 for d in value.type.tensor_type.shape.dim]
        if given and (len(given) != len(sizes) or min(given) < 1
                      or any(isinstance(s, int) and s != g for s, g in zip(sizes, given, strict=True))):
            raise InputError(f"{self.file.label}: the shape {given} doesn't fit input {value.name!r}, "
                             f"[{', '.join(map(str, sizes))}]")
        return given

    def _check_order(self, node: NodeProto, what: str, made: set[str]) -> None:
        """Raises ModelError where another node defines a value of this one, or none does before it reads."""
        for name in filter(None, node.input):
            why = "a later node or itself makes: a cycle, or nodes out of order" if name in made \
                else "nothing defines"
            self.expect(name in self.defined, f"{what} reads {name[:200]!r}, which {why}")
        for name in filter(None, node.output):
            self.expect(name not in self.defined, f"{what} defines {name[:200]!r} a second time")
            self.defined.add(name)

    def _node(self, node: NodeProto, name: str) -> None:
        scope = self.scope
        try:
            op = _op(node)
            row = self.users.get(op)
            known = not row and op in FOLDED and all(i in scope.constants for i in node.input if i)
            row = row or ROWS.get(op)
            support(known or row or node.domain in DOMAINS,
                    f"ops of domain {node.domain[:60]!r} are not supported: cnncc.op and ops= define them")
            support(known or row, f"op not supported (opset {scope.opset})")
            if not all(scope.has(i) for i in node.input if i):
                return
            call = Call(scope, node, name)
            result = row(call) if row and not known else fold(call)
            results = result if isinstance(result, tuple) else (result,)
            names = node.output[:len(results)] if isinstance(result, tuple) else (call.out,)
            for extra in node.output:
                support(extra in names or extra not in scope.needed,
                        f"its output {extra[:200]!r} is used; only the first is supported")
            for out, made in zip(names, results, strict=False):
                if isinstance(made, str):
                    scope.values[out] = made
                else:
                    scope.constants[out] = made
        except Refused as reason:
            self.refuse(_op(node), name, reason)

    def _outputs(self) -> list[tuple[str, str]]:
        outputs: dict[str, str] = {}
        self.expect(self.proto.output, "the model has no outputs")
        for v in self.proto.output:
            name = v.name
            self.expect(name not in outputs, f"the output {name[:200]!r} is given twice")
            self.expect(name in self.defined, f"nothing defines the output {name[:200]!r}")
            try:
                if self.scope.has(name):
                    outputs[name] = x = self.scope.value(name)
                    if DTYPES.get(v.type.tensor_type.elem_type) in HALVES:
                        to = DTYPES[v.type.tensor_type.elem_type]
                        outputs[name] = self.scope.builder.op("cast", [x], f"{x}.{to}", to=to)
            except Refused as reason:
                self.refuse("output", name, reason)
        return list(outputs.items())
