"""The importer: one pass over the nodes of an ONNX file, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cnncc.frontend import user
from cnncc.frontend.files import expect
from cnncc.frontend.onnx_file import DTYPES, MAX_PARTS, OnnxFile, defined_names, dtype_name
from cnncc.frontend.onnx_inline import (
    Body,
    branch,
    call,
    condition,
    definition,
    has_definition,
    reads,
    separator,
)
from cnncc.frontend.onnx_node import Call, Open, Refused, Results, Scope, support
from cnncc.frontend.onnx_ops import ROWS
from cnncc.frontend.onnx_shapes import FOLDED, KNOWN, fold
from cnncc.frontend.user import Ops
from cnncc.ir.errors import InputError, ModelError, UnsupportedError, hint
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.plan import Signal, Value
from cnncc.ir.signature import Array, OpenError, Signature
from cnncc.ir.types import FLOATS, HALVES, NUMPY, Extent, TensorType, product

if TYPE_CHECKING:
    from onnx import NodeProto, TensorShapeProto, ValueInfoProto

Shapes: TypeAlias = Mapping[str, Sequence[int]]
BATCH = "N"
OLDEST = 6
DOMAINS = ("", "ai.onnx")
CONTROL = ("If", "Loop", "Scan")
FOLLOWING = FOLDED | {"Constant", "Flatten", "Identity", "Reshape", "Shape", "Size"}
"""Ops whose results are constants where their operands are."""
MAX_INLINED, MAX_DEPTH = MAX_PARTS >> 3, 32     # nodes of bodies put in place of others, and bodies in bodies
SCALES = 16                                     # elements of floats that may decide: scales, a region


@dataclass(frozen=True)
class Given:
    """What the caller of a model adds.

    The shapes of inputs; the values of inputs, which become constants; the tensors that are the outputs in
    place of the model's own; the user's ops by the name that the file gives them: "my.domain.Name", "Name"
    for ONNX's own domain.
    """

    shapes: Shapes = field(default_factory=dict)
    values: Mapping[str, Array] = field(default_factory=dict)
    outputs: tuple[str, ...] | None = None
    ops: Ops = field(default_factory=dict)


NOTHING = Given()


def declared(value: ValueInfoProto) -> TensorType:
    """The type that the file gives an input or output, for showing."""
    tensor = value.type.tensor_type
    shape: tuple[Extent, ...] = tuple(
        int(d.dim_value) if _fixed(d) else d.dim_param or "?" for d in tensor.shape.dim)
    return TensorType(dtype_name(tensor.elem_type), shape if tensor.HasField("shape") else ("...",))


def _fixed(d: TensorShapeProto.Dimension) -> bool:
    """Whether a file gives a size; some exporters write -1 for an open one."""
    return bool(d.HasField("dim_value") and d.dim_value != -1)


def _symbol(d: TensorShapeProto.Dimension) -> str:
    """The name of an open size; exporters write the same for several that are not alike."""
    return "" if d.dim_param in ("None", "?") else d.dim_param


class _Frame:
    """Nodes that are being read: the graph's, or those of a body; `needed` are the values that are read."""

    def __init__(self, nodes: Sequence[NodeProto], needed: set[str], body: Body | None = None) -> None:
        self.body, self.needed = body, needed
        for node in reversed(nodes):
            if not needed.isdisjoint(node.output):
                needed.update(reads(node))
        self.made = {name for node in nodes for name in node.output}
        self.rest = enumerate(nodes)

    def called(self, i: int, node: NodeProto) -> str:
        """How messages call a node."""
        name = node.name[:200] or f"{node.op_type[:60]}_{i}"
        if self.body is None:
            return name
        return self.body.origin or f"{self.body.label}/{name}"[:200]


class Importer:
    """Makes the graph. What depends on a refused node has no known type, and is passed over."""

    def __init__(self, file: OnnxFile, given: Given) -> None:
        self.file, self.proto, self.given = file, file.proto.graph, given
        self.scope = Scope(file, Builder(self.proto.name or "model"), file.opset)
        self.rows: list[tuple[str, str, str]] = []
        self.open: list[tuple[str, str, str]] = []      # what can be compiled when more is known
        self.deciding: set[str] = set()
        self.sizes = False
        self.defined: set[str] = set()
        self.symbols: dict[str, str] = {}   # the names of the batch in the file, each with its input
        self.functions = {(f.domain, f.name, f.overload): f for f in file.proto.functions}
        self.inlined, self.slashes = 0, ""
        self.users = user.ROWS | {name: user.row(op) for name, op in given.ops.items()}

    def expect(self, ok: object, why: str) -> None:
        expect(ok, f"{self.file.label}: {why}")

    def refuse(self, kind: str, name: str, reason: Refused | str) -> None:
        row = (kind[:120], name[:200], str(reason))
        if isinstance(reason, Open):
            self.open.append(row)
            self.deciding |= reason.inputs
            self.sizes |= not reason.inputs
        else:
            self.rows.append(row)

    def graph(self) -> Graph:
        """The graph. Raises UnsupportedError, of its kind OpenError, ModelError and InputError as `read`."""
        self._check_opset(self.scope.opset, f"{self.file.label} uses")
        self.expect(self.scope.opset or all(n.domain not in DOMAINS for n in self.proto.node),
                    "the file names no opset for its ops")
        for tensor in self.proto.initializer:
            self._define("initializer", tensor.name)
            self.scope.constants[tensor.name] = tensor
        for sparse in self.proto.sparse_initializer:
            self._define("initializer", sparse.values.name)
            self.refuse("initializer", sparse.values.name, "sparse tensors are not supported")
        inputs = [v for v in self.proto.input if v.name not in self.scope.constants]
        self._check_inputs([v.name for v in inputs])
        for value in inputs:
            self._define("input", value.name)
            try:
                self._input(value)
            except Refused as reason:
                self.refuse("input", value.name, reason)
        self._nodes()
        outputs = self._outputs()
        if rows := self.rows or self.open:
            many = f"{len(rows)} things" if len(rows) > 1 else "one thing"
            message = f"{self.file.label} (opset {self.scope.opset}) needs {many} "
            if self.rows:
                raise UnsupportedError(f"{message}that can't be compiled yet", rows)
            raise OpenError(f"{message}to be known first: give sizes with shapes= or --shape, values as "
                            "constants in the model", rows, self.sizes, frozenset(self.deciding),
                            self.scope.builder.name, self.signature())
        signals, shown = self.scope.signals, {name for name, _ in outputs}
        hidden = [(_hidden(f"signal {i}", shown), value) for i, (value, _) in enumerate(signals)]
        return self.scope.builder.graph([*outputs, *hidden], [s for _, s in signals]).live()

    def with_batch(self, n: int) -> Shapes | None:
        """Shapes with a batch of n for all inputs, if it is the first axis of them that is open."""
        initial = {t.name for t in self.proto.initializer}
        shapes: dict[str, Sequence[int]] = {v.name: [n if not _fixed(d) and axis == 0 else int(d.dim_value)
                           for axis, d in enumerate(v.type.tensor_type.shape.dim)]
                  for v in self.proto.input if v.name not in initial and v.name not in self.given.shapes}
        known = all(min(s, default=1) > 0 for s in shapes.values())
        return shapes | {**self.given.shapes} if self.symbols and known else None

    def signature(self) -> Signature:
        """What the model takes and gives, open sizes by their names in the file."""
        initial = {t.name for t in self.proto.initializer}
        inputs = []
        for v in (v for v in self.proto.input if v.name not in initial):
            dims = v.type.tensor_type.shape.dim
            shape: list[Extent] = [*self._given(v)] or [
                int(d.dim_value) if _fixed(d) else _symbol(d) or f"{v.name}.{axis}"
                for axis, d in enumerate(dims)]
            inputs.append(Value(v.name, _numpy(dtype_name(v.type.tensor_type.elem_type)), tuple(shape)))
        types = {v.name: declared(v) for v in (*self.proto.value_info, *self.proto.output)}
        outputs = []
        for name in self._wanted():
            type = types.get(name, TensorType("unknown", ("...",)))
            if name in self.scope.values and name not in types:
                type = self.scope.builder.type(self.scope.values[name])
            outputs.append(Value(name, _numpy(type.dtype), type.shape))
        return Signature(tuple(inputs), tuple(outputs))

    def _check_opset(self, opset: int, who: str) -> None:
        from onnx import defs
        newest = defs.onnx_opset_version()
        if opset and not OLDEST <= opset <= newest:
            advice = "install a newer onnx" if opset > newest else "convert it with onnx.version_converter"
            raise UnsupportedError(f"{who} opset {opset}, supported are {OLDEST} to {newest}: {advice}")

    def _define(self, kind: str, name: str) -> None:
        self.expect(name, f"an {kind} has no name")
        self.expect(name not in self.defined, f"two {kind}s are called {name[:200]!r}")
        self.defined.add(name)

    def _check_inputs(self, inputs: Sequence[str]) -> None:
        for what in ("shapes", "values"):
            if unknown := [name for name in getattr(self.given, what) if name not in inputs]:
                name = f"{unknown[0]!r}{hint(unknown[0], inputs)}"
                raise InputError(f"{self.file.label}: {what}: unknown input {name}: the inputs are "
                                 f"{', '.join(inputs)}")

    def _input(self, value: ValueInfoProto) -> None:
        scope, tensor, name = self.scope, value.type.tensor_type, value.name
        support(value.type.WhichOneof("value") == "tensor_type", "it is no tensor")
        support(tensor.elem_type in DTYPES,
                f"its type is {dtype_name(tensor.elem_type)}, which isn't supported")
        support(tensor.HasField("shape"), "it has no shape: export the model with its input's shape")
        dtype, small = DTYPES[tensor.elem_type], KNOWN
        if dtype in (*FLOATS, *HALVES):
            small = SCALES
        if name in self.given.values:
            array = self.given.values[name]
            scope.builder.input(name, TensorType(dtype, array.shape))
            scope.constants[name] = scope.widened(array)
            return
        type = TensorType(dtype, self._shape(value))
        if 0 in type.shape:             # all that follows from it is known
            scope.builder.input(name, type)
            scope.constants[name] = scope.widened(np.zeros(type.static(), NUMPY[dtype]))
            return
        scope.check(type, f"{self.file.label}: input {name[:200]!r}")
        if product([e for e in type.shape if isinstance(e, int)]) <= small:
            scope.roots[name] = frozenset([name])
        x = scope.builder.input(name, type)
        scope.values[name] = scope.builder.op("cast", [x], f"{x}.f32", to="f32") if dtype in HALVES else x

    def _shape(self, value: ValueInfoProto) -> tuple[Extent, ...]:
        shape: list[Extent] = []
        given = self._given(value)
        for axis, d in enumerate(value.type.tensor_type.shape.dim):
            if _fixed(d) or given:
                shape.append(given[axis] if given else int(d.dim_value))
                continue
            if axis:
                raise Open(f"axis {axis} has no fixed size ({d.dim_param[:60] or '?'})")
            self.symbols.setdefault(_symbol(d), value.name)
            name, *others = [s for s in self.symbols if s] or [""]
            if others:
                raise Open(f"its batch is {d.dim_param[:60]!r}, that of input {self.symbols[name][:200]!r} "
                           f"is {name[:60]!r}")
            shape.append(BATCH)
        return tuple(shape)

    def _given(self, value: ValueInfoProto) -> list[int]:
        """The shape that the caller fixes for an input, or none. Raises InputError where it doesn't fit."""
        given = [int(e) for e in self.given.shapes.get(value.name, ())]
        sizes = [int(d.dim_value) if _fixed(d) else d.dim_param or "?"
                 for d in value.type.tensor_type.shape.dim]
        if given and (len(given) != len(sizes) or min(given) < 1
                      or any(isinstance(s, int) and s != g for s, g in zip(sizes, given, strict=True))):
            raise InputError(f"{self.file.label}: the shape {given} doesn't fit input {value.name!r}, "
                             f"[{', '.join(map(str, sizes))}]")
        return given

    # ---- nodes

    def _nodes(self) -> None:
        """Read all nodes, those of bodies in the places that they take."""
        stack = [_Frame(self.proto.node, set(self._wanted()))]
        while stack:
            frame = stack[-1]
            i, node = next(frame.rest, (0, None))
            if node is None:
                stack.pop()
                for inner, outer in frame.body.results if frame.body else ():
                    self.expect(inner in self.defined, f"nothing defines {inner[:200]!r}, which a body gives")
                    self.scope.alias(outer, inner)
                continue
            name = frame.called(i, node)
            self._check_order(node, f"{node.op_type[:60]} {name!r}", frame.made)
            if not frame.needed.isdisjoint(node.output) and (body := self._node(node, name, frame)):
                self._enter(stack, body)

    def _enter(self, stack: list[_Frame], body: Body) -> None:
        self.inlined += 1 + len(body.nodes)
        what = f"{body.label!r}: functions and branches"
        self.expect(len(stack) < MAX_DEPTH, f"{what} are more than {MAX_DEPTH} deep within each other")
        self.expect(self.inlined <= MAX_INLINED, f"{what} become more than {MAX_INLINED:,} nodes")
        self._check_opset(body.opset, f"{self.file.label}: {body.label!r} uses")
        for inner, tensor in body.tensors:
            self._define("initializer", inner)
            self.scope.constants[inner] = tensor
        for inner, outer in body.given:
            self._define("input", inner)
            self.scope.alias(inner, outer)
        needed = {inner for inner, outer in body.results if outer in stack[-1].needed}
        stack.append(_Frame(body.nodes, needed, body))

    def _prefix(self, name: str) -> str:
        """What goes before the names of a body: no other name begins so."""
        if not self.slashes:
            self.slashes = separator(defined_names(self.file.proto), self.file.label)
        return f"{name[:60]}.{self.inlined}{self.slashes}"

    def _check_order(self, node: NodeProto, what: str, made: set[str]) -> None:
        """Raises ModelError where another node defines a value of this one, or none does before it reads."""
        for name in reads(node):
            if name not in self.defined:
                why = "a later node or itself makes: a cycle, or nodes out of order" if name in made \
                    else "nothing defines"
                self.expect(False, f"{what} reads {name[:200]!r}, which {why}")
        for name in filter(None, node.output):
            self.expect(name not in self.defined, f"{what} defines {name[:200]!r} a second time")
            self.defined.add(name)

    def _node(self, node: NodeProto, name: str, frame: _Frame) -> Body | None:
        """Read a node; the body of one that others stand for."""
        op = node.op_type if node.domain in DOMAINS else f"{node.domain}.{node.op_type}"
        try:
            c = Call(self.scope, node, name, frame.body.opset if frame.body else self.scope.opset)
            function = self.functions.get((node.domain, node.op_type, node.overload))
            if function and op not in self.given.ops:
                return call(c, function, self._prefix(node.name or node.op_type), defined=False)
            row = self.users.get(op)
            support(row or op in ROWS or node.domain in DOMAINS, f"ops of domain {node.domain[:60]!r} are "
                    "not supported: cnncc.op and ops= define them")
            if op in CONTROL and not row:
                return self._control(c)
            empty = op in ROWS and any(map(self.scope.empty, node.input))
            if empty and (inputs := self.scope.decided(node.input)) and all(
                    self.scope.builder.type(i).dtype in ("i64", "i32") for i in inputs):
                raise Open(f"it is computed from values of inputs: {', '.join(sorted(inputs))}", inputs)
            known = not row and (op in FOLDED or empty) \
                and all(i in self.scope.constants for i in node.input if i)
            convert = fold if known else row or ROWS.get(op)
            return self._convert(c, convert, frame.needed) if convert else self._defined(c)
        except Refused as reason:
            within = frame.body and frame.body.origin and not isinstance(reason, Open)
            self.refuse(op, name, Refused(f"as ONNX defines it, {op}: {reason}") if within else reason)
        except ModelError as error:     # ONNX's definition isn't the model's fault
            if not (frame.body and frame.body.origin):
                raise
            self.refuse(op, name, f"as ONNX defines it, {error}")
        return None

    def _convert(self, c: Call, row: Callable[[Call], Results], needed: set[str]) -> Body | None:
        """By its row; where that hasn't got an output that is used, by ONNX's definition, if there is one."""
        scope, node = self.scope, c.node
        if not all(scope.has(i) for i in node.input if i):
            return None
        scope.needed = needed
        result = row(c)
        results = result if isinstance(result, tuple) else (result,)
        names = node.output[:len(results)] if isinstance(result, tuple) else (c.out,)
        for extra in (o for o in node.output if o in needed and o not in names):
            support(has_definition(c), f"its output {extra[:200]!r} is used; only the first is supported")
            return self._defined(c)
        roots = scope.decided(node.input) if node.op_type in FOLLOWING else None
        for out, made in zip(names, results, strict=False):
            if isinstance(made, str):
                scope.values[out] = made
                if roots:
                    scope.roots[out] = roots
            else:
                scope.constants[out] = made
        return None

    def _defined(self, c: Call) -> Body | None:
        """An op without a row: values of inputs make it a constant, or ONNX defines it by others."""
        unknown = f"op not supported (opset {c.opset})"
        ready = all(self.scope.has(i) for i in c.node.input if i)
        if c.node.op_type in FOLDED and ready and (inputs := self.scope.decided(c.node.input)):
            raise Open(f"it is computed from values of inputs: {', '.join(sorted(inputs))}", inputs)
        support(c.node.op_type in FOLDED or has_definition(c), unknown)
        function = definition(c) if ready else None
        support(function or not ready, unknown)
        return call(c, function, self._prefix(c.name), defined=True) if function else None

    def _control(self, c: Call) -> Body | None:
        """The branch of an If that is taken. Raises Refused, with advice, for other control flow."""
        if c.node.op_type == "If" and c.has(0) and not self.scope.has(c.node.input[0]):
            return None
        if c.node.op_type == "If":
            taken = condition(c)
            if taken is not None:
                sides = {a.name: a.g for a in c.node.attribute if a.HasField("g")}
                c.expect(set(sides) == {"then_branch", "else_branch"}, "its branches aren't one of each kind")
                return branch(c, sides["then_branch" if taken else "else_branch"], self._prefix(c.name))
            if inputs := self.scope.decided(c.node.input):
                raise Open(f"its condition follows from inputs: {', '.join(sorted(inputs))}", inputs)
        values, given = self.scope.values, {v.name for v in self.proto.input}
        before = [n for n in dict.fromkeys(reads(c.node)) if n in values and n not in given]
        advice = f"; what comes before it can be, with outputs={before[:8]}"
        raise Refused("control flow that depends on data is not compiled"
                      f"{advice if before and not self.rows else ''}")

    # ---- outputs

    def _wanted(self) -> Sequence[str]:
        return [v.name for v in self.proto.output] if self.given.outputs is None else self.given.outputs

    def _outputs(self) -> list[tuple[str, str]]:
        outputs: dict[str, str] = {}
        types = {v.name: DTYPES.get(v.type.tensor_type.elem_type, "") for v in self.proto.output}
        self.expect(self.proto.output or self.given.outputs, "the model has no outputs")
        for name in self._wanted():
            if self.given.outputs is None:
                self.expect(name not in outputs, f"the output {name[:200]!r} is given twice")
                self.expect(name in self.defined, f"nothing defines the output {name[:200]!r}")
            elif name not in self.defined:
                raise InputError(f"{self.file.label} has no value {name!r}{hint(name, self.defined)}")
            try:
                if self.scope.has(name):
                    support(name not in self.scope.narrow, "it is of a type that isn't computed with")
                    outputs[name] = x = self.scope.value(name, may_be_empty=True)
                    if (to := types.get(name)) in HALVES:
                        outputs[name] = self.scope.builder.op("cast", [x], f"{x}.{to}", to=to)
                    if counted := self.scope.counted.get(name):
                        signal = Signal(f"size of {name[:200]!r}", len(outputs) - 1, counted[0])
                        self.scope.signals.append((counted[1], signal))
            except Refused as reason:
                self.refuse("output", name, reason)
        return list(outputs.items())


def _hidden(name: str, shown: set[str]) -> str:
    while name in shown:
        name += "'"
    return name


def _numpy(dtype: str) -> str:
    """NumPy's name of a type, or ours where it hasn't got one."""
    return NUMPY[dtype].name if dtype in NUMPY else dtype
