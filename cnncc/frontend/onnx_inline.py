"""Nodes that stand for others: an If whose condition is known, calls of functions, ops that ONNX defines so.

What is put in their place is copied; all its names get a prefix that no name of the file has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.frontend.files import expect
from cnncc.frontend.onnx_file import DTYPES
from cnncc.frontend.onnx_node import Call, Refused, Scope
from cnncc.ir.types import NUMPY, name_of

if TYPE_CHECKING:
    from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TensorProto

NUMBERS = {name: number for number, name in DTYPES.items()}
LONGEST = 64                # slashes in a row that a file's names may have


@dataclass(frozen=True)
class Body:
    """Nodes in the place of one; pairs are (name within, name outside). `origin` is how messages call the
    node where those within are not the file's own.
    """

    nodes: list[NodeProto]
    tensors: list[tuple[str, TensorProto]]
    given: list[tuple[str, str]]
    results: list[tuple[str, str]]
    opset: int
    label: str
    origin: str = ""


def reads(node: NodeProto) -> Iterator[str]:
    """The names that a node reads, also from within its sub-graphs."""
    yield from filter(None, node.input)
    for a in node.attribute:
        for graph in (*([a.g] if a.HasField("g") else ()), *a.graphs):
            own = _names(graph)
            yield from (name for n in graph.node for name in reads(n) if name not in own)
            yield from (v.name for v in graph.output if v.name not in own)


def separator(names: Iterable[str], label: str) -> str:
    """A text that is in none of these names."""
    longest = max((len(run) for name in names for run in re.findall("/{2,}", name)), default=1)
    expect(longest <= LONGEST, f"{label}: a name has {longest:,} slashes in a row: absurd")
    return "/" * (longest + 1)


def branch(c: Call, graph: GraphProto, prefix: str) -> Body:
    """One side of an If; what it reads from outside keeps its name."""
    c.expect(not graph.input and len(graph.output) == len(c.node.output),
             f"its branch has {len(graph.input)} inputs and {len(graph.output)} outputs, expected none and "
             f"{len(c.node.output)}")
    own = _names(graph)

    def within(name: str) -> str:
        return prefix + name if name in own else name
    results = [(within(v.name), out) for v, out in zip(graph.output, c.node.output, strict=True)]
    tensors = [(within(t.name), t) for t in graph.initializer]
    c.expect(not graph.sparse_initializer, "its branch has sparse tensors")
    c.spend(sum(n.ByteSize() for n in graph.node))
    return Body([_renamed(n, within, None) for n in graph.node], tensors, [], results, c.opset, c.name)


def call(c: Call, function: FunctionProto, prefix: str, defined: bool) -> Body:
    """The body of a function of the model, or (`defined`) of ONNX."""
    label = f"{function.name[:60]!r}"
    c.expect(len(c.node.input) <= len(function.input) and len(c.node.output) <= len(function.output),
             f"has {len(c.node.input)} inputs and {len(c.node.output)} outputs, the function {label} has "
             f"{len(function.input)} and {len(function.output)}")
    attributes = {a.name: a for a in function.attribute_proto} | c.attributes
    if defined:
        attributes = _defaults(c) | attributes
    else:
        known = {*function.attribute, *(a.name for a in function.attribute_proto)}
        for name in attributes.keys() - known:
            raise Refused(f"the function {label} has no attribute {name[:60]!r}")
    given = dict(zip(function.input, c.node.input, strict=False))
    missing = {name for name in function.input if not given.get(name)}

    def within(name: str) -> str:
        return prefix + name if name and name not in missing else ""
    results = [(within(v), out) for v, out in zip(function.output, c.node.output, strict=False) if out]
    opset = next((o.version for o in function.opset_import if o.domain in ("", "ai.onnx")), c.opset)
    c.spend(sum(n.ByteSize() for n in function.node))
    return Body([_renamed(n, within, attributes) for n in function.node], [],
                [(within(v), x) for v, x in given.items() if x], results, opset, c.name,
                c.name if defined else "")


def has_definition(c: Call) -> bool:
    """Whether ONNX defines the op by others."""
    from onnx import defs
    if not defs.has(c.node.op_type, c.opset, ""):
        return False
    schema: Any = defs.get_schema(c.node.op_type, c.opset, "")
    return bool(schema.has_function or schema.has_context_dependent_function)


def definition(c: Call) -> FunctionProto | None:
    """ONNX's own definition of an op by others, if it has one. Raises Refused where it doesn't fit."""
    from onnx import FunctionProto, defs
    if not has_definition(c):
        return None
    schema: Any = defs.get_schema(c.node.op_type, c.opset, "")
    function = FunctionProto()
    try:
        if schema.has_function:
            version = _nearest(schema.function_opset_versions, c.opset)
            data = schema.get_function_with_opset_version(version)
        else:
            version = _nearest(schema.context_dependent_function_opset_versions, c.opset)
            data = schema.get_context_dependent_function_with_opset_version(
                version, c.node.SerializeToString(), [_type(c.scope, name) for name in c.node.input])
        function.ParseFromString(data)
    except Exception as error:      # onnx raises several kinds
        raise Refused(f"ONNX can't define it here: {str(error)[:200]}") from None
    return function


def _defaults(c: Call) -> dict[str, AttributeProto]:
    """The values that ONNX gives attributes of an op."""
    from onnx import defs
    attributes = defs.get_schema(c.node.op_type, c.opset, "").attributes
    return {name: a.default_value for name, a in attributes.items() if a.default_value.type}


def _nearest(versions: Iterable[int], opset: int) -> int:
    """The newest version up to `opset`, else the oldest."""
    return max((v for v in versions if v <= opset), default=min(versions))


def _type(scope: Scope, name: str) -> bytes:
    from onnx import TypeProto, helper
    if not name:
        return bytes(TypeProto().SerializeToString())
    if name in scope.constants:
        array = scope.array(name)
        dtype, shape = name_of(array.dtype) if array.dtype in NUMPY.values() else "", [*array.shape]
    else:
        type = scope.builder.nodes[scope.values[name]].type
        dtype, shape = type.dtype, [*type.shape]
    made: TypeProto = helper.make_tensor_type_proto(NUMBERS.get(dtype, 0), shape)
    return bytes(made.SerializeToString())


def _names(graph: GraphProto) -> set[str]:
    """The names that a graph defines."""
    return {*(t.name for t in graph.initializer), *(s.values.name for s in graph.sparse_initializer),
            *(v.name for v in graph.input), *(name for n in graph.node for name in n.output)} - {""}


def _renamed(node: NodeProto, within: Callable[[str], str],
             attributes: Mapping[str, AttributeProto] | None) -> NodeProto:
    """A copy with other names and, in a function, the attributes that it refers to."""
    from onnx import NodeProto
    copy = NodeProto()
    copy.CopyFrom(node)
    _rename(copy, within, attributes)
    return copy


def _rename(node: NodeProto, within: Callable[[str], str],
            attributes: Mapping[str, AttributeProto] | None) -> None:
    node.input[:] = [within(i) for i in node.input]
    node.output[:] = [within(o) for o in node.output]
    if attributes is not None and any(a.ref_attr_name for a in node.attribute):
        found = [_referred(a, attributes) for a in node.attribute]
        del node.attribute[:]
        node.attribute.extend(a for a in found if a is not None)
    for a in node.attribute:
        for graph in (*([a.g] if a.HasField("g") else ()), *a.graphs):
            own = _names(graph)

            def inner(name: str, own: set[str] = own) -> str:
                return name if name in own else within(name)
            for n in graph.node:
                _rename(n, inner, attributes)
            for v in graph.output:
                v.name = inner(v.name)


def _referred(a: AttributeProto, attributes: Mapping[str, AttributeProto]) -> AttributeProto | None:
    """An attribute, or what it refers to under its name; None where the call doesn't give that."""
    if not a.ref_attr_name:
        return a
    if a.ref_attr_name not in attributes:
        return None
    from onnx import AttributeProto
    copy = AttributeProto()
    copy.CopyFrom(attributes[a.ref_attr_name])
    copy.name = a.name
    return copy


def condition(c: Call) -> Any:
    """The condition of an If where it is a constant, else None."""
    x = c.operand(0)
    if isinstance(x, str):
        return None
    c.expect(x.dtype == np.bool_ and x.size == 1, f"its condition is {x.dtype}{list(x.shape)}")
    return bool(x.reshape(()))
