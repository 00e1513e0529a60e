"""What an importer row sees of one ONNX node: checked operands and attributes, a way to emit our nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.frontend.onnx_file import MAX_ELEMENTS, MAX_RANK, Array, OnnxFile
from cnncc.ir.errors import ModelError
from cnncc.ir.graph import Attr, Builder
from cnncc.ir.types import Extent, TensorType, product

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto, TensorProto

FLOAT, INT, STRING, TENSOR, FLOATS, INTS = 1, 2, 3, 4, 6, 7
KINDS = {FLOAT: "a float", INT: "an int", STRING: "a string", TENSOR: "a tensor", 5: "a graph",
         FLOATS: "floats", INTS: "ints", 8: "strings", 9: "tensors", 10: "graphs"}
SPARE = 256 << 20           # bytes that derived constants may take beyond twice the model's own weights


class Refused(Exception):
    """A node is valid but can't be compiled; the text is the reason."""


@dataclass
class Scope:
    """What is known while a model is imported, by ONNX value name."""

    file: OnnxFile
    builder: Builder
    opset: int
    values: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Array | TensorProto] = field(default_factory=dict)
    folded: int = 0

    def array(self, name: str) -> Array:
        value = self.constants[name]
        if not isinstance(value, np.ndarray):
            value = self.constants[name] = self.file.array(value)
        return value

    def value(self, name: str) -> str:
        """Our name of a value; a constant becomes a node with its first use."""
        if name not in self.values:
            array = self.array(name)
            if array.dtype != np.float32:
                raise Refused(f"reads {name[:200]!r} of type {array.dtype}; only float32 is computed with: "
                              "convert the model to float32")
            self.values[name] = self.builder.const(name, array)
        return self.values[name]

    def check(self, type: TensorType) -> None:
        """Raises ModelError for a tensor of a size that nobody can mean."""
        sizes = [e for e in type.shape if isinstance(e, int)]
        if len(type.shape) > MAX_RANK or min(sizes, default=1) < 1 or product(sizes) > MAX_ELEMENTS:
            raise ModelError(f"a tensor of {type} is too large (at most {MAX_RANK} dimensions and "
                             f"{MAX_ELEMENTS:,} elements) or has an empty dimension")


class Call:
    """One node of the file while it is imported."""

    def __init__(self, scope: Scope, node: NodeProto, name: str) -> None:
        self.scope, self.node, self.name = scope, node, name
        self.opset = scope.opset
        self.out: str = next((o for o in node.output if o), "")
        self.read: set[str] = set()

    def wrong(self, reason: str) -> ModelError:
        return ModelError(f"{self.scope.file.label}: {self.node.op_type[:60]} {self.name!r}: {reason}")

    # ---- attributes

    @cached_property
    def attributes(self) -> dict[str, AttributeProto]:
        found: dict[str, AttributeProto] = {}
        for a in self.node.attribute:
            if a.name in found:
                raise self.wrong(f"attribute {a.name[:60]!r} is given twice")
            if a.ref_attr_name:
                raise self.wrong(f"attribute {a.name[:60]!r} refers to a function's, but this is no function")
            found[a.name] = a
        return found

    def attribute(self, name: str, kind: int) -> Any:
        """The attribute, which must be of that kind, or None where it is not given."""
        self.read.add(name)
        a = self.attributes.get(name)
        if a is not None and a.type != kind:
            raise self.wrong(f"attribute {name} is {KINDS.get(a.type, 'of another type')}, not {KINDS[kind]}")
        return a

    def integer(self, name: str, default: int) -> int:
        a = self.attribute(name, INT)
        return default if a is None else int(a.i)

    def flag(self, name: str, default: bool) -> bool:
        value = self.integer(name, default)
        if value not in (0, 1):
            raise self.wrong(f"attribute {name} is {value}, not 0 or 1")
        return bool(value)

    def number(self, name: str, default: float) -> float:
        a = self.attribute(name, FLOAT)
        return default if a is None else float(a.f)

    def text(self, name: str, default: str) -> str:
        a = self.attribute(name, STRING)
        return default if a is None else a.s.decode("utf-8", "replace")

    def ints(self, name: str) -> tuple[int, ...] | None:
        a = self.attribute(name, INTS)
        return None if a is None else tuple(map(int, a.ints))

    def sizes(self, name: str, count: int, low: int, default: Sequence[int] | None) -> tuple[int, ...]:
        """`count` ints of at least `low`. Raises ModelError for others, and where there is no default."""
        value = self.ints(name)
        if value is None:
            if default is None:
                raise self.wrong(f"attribute {name} is missing")
            return tuple(default)
        if len(value) != count:
            raise self.wrong(f"attribute {name} has {len(value)} numbers, expected {count}")
        if not all(low <= v <= MAX_ELEMENTS for v in value):
            raise self.wrong(f"attribute {name} is {list(value)}: each must be at least {low} and not absurd")
        return value

    def axis(self, value: int, rank: int) -> int:
        if not -rank <= value < rank:
            raise self.wrong(f"axis {value} is outside of the {rank} dimensions of its input")
        return value % rank

    # ---- operands

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and self.node.input[i] != ""

    def _operand(self, i: int) -> str:
        if not self.has(i):
            raise self.wrong(f"input {i} is missing")
        return str(self.node.input[i])

    def constant(self, i: int) -> Array | None:
        """The operand's array where it is a constant, else None."""
        name = self._operand(i)
        return self.scope.array(name) if name in self.scope.constants else None

    def needed(self, i: int, what: str, dtype: str = "float32") -> Array:
        """The operand, which must be a constant. Raises Refused where it isn't."""
        value = self.constant(i)
        if value is None:
            raise Refused(f"its {what}, {self.node.input[i][:200]!r}, must be a constant")
        if value.dtype != dtype:
            raise Refused(f"its {what} has type {value.dtype}, only {dtype} is supported: convert the model")
        return value

    def value(self, i: int) -> str:
        """Our name of the operand."""
        return self.scope.value(self._operand(i))

    def shape(self, value: str) -> tuple[Extent, ...]:
        return self.scope.builder.nodes[value].type.shape

    def spatial(self, value: str) -> tuple[int, ...]:
        """The sizes after batch and channels. Raises ModelError where there are none."""
        sizes = self.shape(value)[2:]
        if not 1 <= len(sizes) <= 3:
            raise self.wrong(f"its input has the shape {list(self.shape(value))}; expected [N, C, ...] with "
                             "1 to 3 spatial dimensions")
        return tuple(int(s) for s in sizes)

    # ---- results

    def emit(self, op: str, inputs: Sequence[str], step: str = "", **attrs: Attr) -> str:
        """Add one of our nodes, named after the output; all but the last of a row give a `step`."""
        builder = self.scope.builder
        try:
            value = builder.op(op, inputs, f"{self.out}.{step}" if step else self.out, (self.name,), **attrs)
            self.scope.check(builder.nodes[value].type)
        except ModelError as error:
            raise self.wrong(str(error)) from None
        return value

    def const(self, array: Array, step: str) -> str:
        """Add a constant of this node's own."""
        self.scope.folded += array.nbytes
        file = self.scope.file
        if self.scope.folded > SPARE + 2 * (file.size + sum(file.external.taken.values())):
            raise self.wrong("the constants derived from the model's would take too much memory")
        return self.scope.builder.const(f"{self.out}.{step}", array)


@dataclass(frozen=True)
class Row:
    """How one ONNX op is imported: `convert` gives our value's name, or an array where all is constant.

    `inputs` is the least and the greatest number of inputs; the attributes in `ignored` change no result.
    """

    convert: Callable[[Call], str | Array]
    inputs: tuple[int, int]
    ignored: frozenset[str] = frozenset()

    def __call__(self, c: Call) -> str | Array:
        least, most = self.inputs
        if not least <= len(c.node.input) <= most:
            raise c.wrong(f"has {len(c.node.input)} inputs, expected {least} to {most}")
        result = self.convert(c)
        unread = sorted(set(c.attributes) - c.read - self.ignored)
        if unread:
            raise Refused(f"attribute {unread[0][:60]!r} is not supported (opset {c.opset})")
        return result
