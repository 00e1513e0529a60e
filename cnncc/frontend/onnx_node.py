"""What an importer row sees of one ONNX node: checked operands and attributes, a way to emit our nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnncc.frontend.files import expect
from cnncc.frontend.onnx_file import DTYPES, MAX_ELEMENTS, MAX_RANK, OnnxFile, absurd, dtype_name
from cnncc.ir.errors import ModelError
from cnncc.ir.graph import Attr, Builder
from cnncc.ir.op import Move
from cnncc.ir.plan import Signal
from cnncc.ir.signature import Array
from cnncc.ir.types import NUMPY, Extent, TensorType

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto, TensorProto

KINDS = {1: ("f", "a float"), 2: ("i", "an int"), 3: ("s", "a string"), 4: ("t", "a tensor"),
         6: ("floats", "floats"), 7: ("ints", "ints"), 8: ("strings", "strings")}
"""AttributeProto.type: the field that holds the value, and how messages call the kind."""
MAX_DECIDING = 64           # inputs that one value may follow from
SPARE = 256 << 20           # bytes that derived constants may take beyond twice the model's own weights


class Refused(Exception):
    """A node is valid but can't be compiled; the text is the reason."""


class Open(Refused):
    """A node can be compiled once the model's sizes are known or, where given, the values of `inputs`."""

    def __init__(self, why: str, inputs: frozenset[str] = frozenset()) -> None:
        super().__init__(why)
        self.inputs = inputs


def support(ok: object, why: str) -> None:
    """Raises Refused, for the reason `why`, unless `ok`."""
    if not ok:
        raise Refused(why)


@dataclass
class Scope:
    """What is known while a model is imported, by ONNX value name."""

    file: OnnxFile
    builder: Builder
    opset: int
    values: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Array | TensorProto] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)   # what the model's outputs depend on
    folded: int = 0
    signals: list[tuple[str, Signal]] = field(default_factory=list)
    counted: dict[str, tuple[int, str]] = field(default_factory=dict)   # axis, and how much of it there is
    narrow: set[str] = field(default_factory=set)   # constants of a type that isn't computed with
    open: set[str] = field(default_factory=set)     # constants that depend on the size of the open batch
    roots: dict[str, frozenset[str]] = field(default_factory=dict)  # inputs whose values make it a constant

    def array(self, name: str) -> Array:
        value = self.constants[name]
        if not isinstance(value, np.ndarray):
            dtype, _, _ = self.file.describe(value)
            support(dtype is not None,
                    f"reads {name[:200]!r} of type {dtype_name(value.data_type)}, which is not supported")
            if value.data_type not in DTYPES:
                self.narrow.add(name)
            value = self.constants[name] = self.widened(self.file.array(value))
        return value

    @staticmethod
    def widened(array: Array) -> Array:
        """Halves as single floats: that is what they are computed in."""
        return array.astype(np.float32) if array.dtype.name in ("float16", "bfloat16") else array

    def empty(self, name: str) -> bool:
        """Whether a value is a constant without elements."""
        value = self.constants.get(name)
        return value is not None and 0 in (value.shape if isinstance(value, np.ndarray) else value.dims)

    def value(self, name: str, may_be_empty: bool = False) -> str:
        """Our name of a value; a constant becomes a node with its first use."""
        if name not in self.values:
            array = self.array(name)
            support(array.size or may_be_empty, f"reads {name[:200]!r}, which is empty")
            support(name not in self.open, f"reads {name[:200]!r}, which depends on the open batch")
            support(array.dtype in NUMPY.values(), f"reads {name[:200]!r} of type {array.dtype}, which isn't "
                                                   "computed with: convert the model to float32")
            self.values[name] = self.builder.const(name, array)
        return self.values[name]

    def has(self, name: str) -> bool:
        return name in self.values or name in self.constants

    def alias(self, name: str, known: str) -> None:
        """Give a value a second name."""
        for marked in (self.open, self.narrow):
            if known in marked:
                marked.add(name)
        tables: tuple[dict[str, Any], ...] = self.values, self.constants, self.roots
        for table in tables:
            if known in table:
                table[name] = table[known]

    def decided(self, names: Iterable[str]) -> frozenset[str]:
        """The inputs whose values make all of these constants; none where they can't, or needn't."""
        found: set[str] = set()
        for name in names:
            if name and name not in self.constants:
                if name not in self.roots or len(found) > MAX_DECIDING:
                    return frozenset()
                found |= self.roots[name]
        return frozenset(found)

    def fails(self, value: str, text: str) -> None:
        """A call of the model fails with a text where a value of it, one number, isn't zero."""
        self.signals.append((value, Signal(text)))

    def check(self, type: TensorType, what: str) -> None:
        """Raises ModelError for a tensor of a size that nobody can mean, Refused for an empty one."""
        expect(not absurd([e if isinstance(e, int) else 1 for e in type.shape], 0),
               f"{what}: a tensor of {type} is too large (at most {MAX_RANK} dimensions and "
               f"{MAX_ELEMENTS:,} elements)")
        support(0 not in type.shape, f"its tensor of {type} is empty")


class Call:
    """One node of the file while it is imported."""

    def __init__(self, scope: Scope, node: NodeProto, name: str, opset: int) -> None:
        self.scope, self.node, self.name, self.opset = scope, node, name, opset
        self.label = f"{scope.file.label}: {node.op_type[:60]} {name!r}"
        self.out: str = next((o for o in node.output if o), "")
        self.counts = False             # whether the row says what becomes of operands that aren't whole
        self.read: set[str] = set()

    def expect(self, ok: object, why: str) -> None:
        """Raises ModelError, naming the node, unless `ok`."""
        expect(ok, f"{self.label}: {why}")

    @cached_property
    def attributes(self) -> dict[str, AttributeProto]:
        found: dict[str, AttributeProto] = {}
        for a in self.node.attribute:
            what = f"attribute {a.name[:60]!r}"
            self.expect(a.name not in found, f"{what} is given twice")
            self.expect(not a.ref_attr_name, f"{what} refers to a function's, but this is no function")
            found[a.name] = a
        return found

    def attribute(self, name: str, kind: str, default: Any = None) -> Any:
        """The value of an attribute; where given it must be of that kind (a field of AttributeProto)."""
        self.read.add(name)
        a = self.attributes.get(name)
        if a is None:
            return default
        given, what = KINDS.get(a.type, ("", "of another type"))
        self.expect(given == kind, f"attribute {name} is {what}, not {dict(KINDS.values())[kind]}")
        return getattr(a, kind)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.attribute(name, "i", default)
        self.expect(value in (0, 1), f"attribute {name} is {value}, not 0 or 1")
        return bool(value)

    def sizes(self, name: str, count: int, low: int, default: Sequence[int] | None) -> tuple[int, ...]:
        """`count` ints of at least `low`; they must be given where there is no default."""
        self.expect(default is not None or name in self.attributes, f"attribute {name} is missing")
        value = tuple(self.attribute(name, "ints", default))
        self.expect(len(value) == count and all(low <= v <= MAX_ELEMENTS for v in value),
                    f"attribute {name} is {list(value[:20])}, expected {count} sizes of at least {low}")
        return value

    def axis(self, value: int, rank: int) -> int:
        self.expect(-rank <= value < rank, f"axis {value} is outside of the {rank} dimensions of its input")
        return value % rank

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and self.node.input[i] != ""

    def wanted(self, i: int) -> bool:
        """Whether something depends on output i."""
        return i < len(self.node.output) and self.node.output[i] in self.scope.needed

    def operand(self, i: int) -> str | Array:
        """The operand: its array where it is a constant, else our name of it."""
        self.expect(self.has(i), f"input {i} is missing")
        name = self.node.input[i]
        support(self.counts or name not in self.scope.counted,
                f"reads {name[:200]!r}, of which data say how large it is: make it an output")
        if name not in self.scope.constants:
            return self.scope.value(name)
        value = self.scope.array(name)
        support(name not in self.scope.narrow or self.node.op_type in ("Cast", "DequantizeLinear"),
                f"reads {name[:200]!r}, of a type that isn't computed with")
        return value

    def follows(self, i: int, axes: Sequence[int | None]) -> None:
        """What data say of the size of operand i they say of the result's: where there the operand's `axes`
        are; None for one that isn't there as it is.
        """
        if known := self.scope.counted.get(self.node.input[i]):
            axis = axes[known[0]]
            alike = axis is not None and self.scope.counted.setdefault(self.out, (axis, known[1]))
            support(alike == (axis, known[1]), f"changes {self.node.input[i][:200]!r}, of which data say how "
                    "large it is, or joins it with another such: make it an output")

    def value(self, i: int) -> str:
        """Our name of the operand, also of a constant."""
        x = self.operand(i)
        return x if isinstance(x, str) else self.scope.value(self.node.input[i])

    def needed(self, i: int, what: str, *dtypes: str, open: bool = False) -> Array:
        """The operand, which must be a constant (float32 if nothing else is said); where `open` it may depend
        on the size of the batch. Raises Refused where it isn't, Open where inputs of the model decide it.
        """
        value, dtypes = self.operand(i), dtypes or ("float32",)
        if isinstance(value, str) and NUMPY[self.dtype(value)].name in dtypes \
                and (inputs := self.scope.decided([self.node.input[i]])):
            raise Open(f"its {what} follows from values of inputs: {', '.join(sorted(inputs))}", inputs)
        if isinstance(value, str) or value.dtype.name not in dtypes:
            raise Refused(f"its {what}, {self.node.input[i][:200]!r}, must be a constant of type {dtypes[0]}"
                          + ("" if isinstance(value, str) else f", not {value.dtype}"))
        support(open or self.node.input[i] not in self.scope.open,
                f"its {what} depends on the batch, whose size is open: export the model with a fixed batch")
        return value

    def shape(self, x: str | Array) -> tuple[Extent, ...]:
        return self.scope.builder.nodes[x].type.shape if isinstance(x, str) else x.shape

    def dtype(self, x: str) -> str:
        return self.scope.builder.nodes[x].type.dtype

    def spatial(self, value: str) -> tuple[int, ...]:
        """The sizes after batch and channels, of which there must be one to three."""
        shape = self.shape(value)
        sizes = tuple(e for e in shape[2:] if isinstance(e, int))
        self.expect(3 <= len(shape) == len(sizes) + 2 <= 5, f"its input has the shape {list(shape)}; "
                    "expected [N, C, ...] with 1 to 3 spatial dimensions of fixed size")
        return sizes

    def emit(self, op: str, inputs: Sequence[str], step: str = "", base: str = "", **attrs: Attr) -> str:
        """Add one of our nodes, named after the output; all but the last of a row give a `step`.

        With a `base` it is written over that.
        """
        builder = self.scope.builder
        try:
            name = f"{self.out}.{step}" if step else self.out
            value = builder.op(op, inputs, name, (self.name,), base, **attrs)
        except ModelError as error:
            raise ModelError(f"{self.label}: {error}") from None
        self.checked(builder.nodes[value].type)
        return value

    def checked(self, type: TensorType) -> None:
        """Raises ModelError or Refused for the type of a result that can't be."""
        self.scope.check(type, self.label)
        support(not any(isinstance(e, str) for e in type.shape[1:]),
                f"its result {type} has the batch, whose size is open, in another place than the first")

    def const(self, array: Array, step: str) -> str:
        """Add a constant of this node's own."""
        self.spend(array.nbytes)
        return self.scope.builder.const(f"{self.out}.{step}", array)

    def loop(self, count: int, operands: Sequence[str], state: tuple[str, Move],
             turn: Callable[[Call, Sequence[str], str], str]) -> str:
        """Add a loop over a state that is a clause by now; the state after `count` turns.

        `turn` makes the first turn of what it is given: the operands, the same in all turns, and the state.
        """
        def made(body: Builder, names: Sequence[str]) -> str:
            own = copy(self)
            own.scope = replace(self.scope, builder=body)
            end = turn(own, names[:-1], names[-1])
            self.scope.folded = own.scope.folded
            return end
        return self.scope.builder.loop(count, [(v, None) for v in operands], state, f"{self.out}.loop",
                                       (self.name,), made)

    def spend(self, nbytes: int) -> None:
        """Account for a constant derived from the model's. Raises ModelError where they are too many."""
        file = self.scope.file
        self.scope.folded += nbytes
        self.expect(self.scope.folded <= SPARE + 2 * (file.size + file.taken.total()),
                    "the constants derived from the model's would take too much memory")

    def named(self, out: str) -> Call:
        """The same node, its values named after `out`."""
        result = copy(self)
        result.out = out
        return result


Results: TypeAlias = str | Array | tuple[str | Array, ...]


@dataclass(frozen=True)
class Row:
    """An op of `least` to `most` inputs; `convert` gives our value's name, or an array if all is constant.

    A tuple is of the first outputs, else there is one. Those that nothing depends on cost nothing.
    """

    convert: Callable[[Call], Results]
    least: int
    most: int
    ignored: tuple[str, ...] = ()   # attributes that change no result
    counts: bool = False            # whether operands may be as large as data say (`Call.follows`)

    def __call__(self, c: Call) -> Results:
        c.expect(self.least <= len(c.node.input) <= self.most,
                 f"has {len(c.node.input)} inputs, expected {self.least} to {self.most}")
        c.counts = self.counts
        result = self.convert(c)
        for name in sorted(set(c.attributes) - c.read - set(self.ignored)):
            raise Refused(f"attribute {name[:60]!r} is not supported (opset {c.opset})")
        return result
