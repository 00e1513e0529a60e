"""What an op is: a formula made of text, or one made of other ops; the kinds of entries of `ir.ops`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Call, Expr, Index, Load, Table, rewrite
from cnncc.ir.formula import COMBINE, Formula, bind, pointwise
from cnncc.ir.infer import dtype_of, resolve
from cnncc.ir.types import Extent, TensorType, name_of, product

Attrs = Mapping[str, Any]
Shape = tuple[Extent, ...]
Shapes = Sequence[Sequence[Extent]]
Indices = tuple[Index, ...]
Gradient: TypeAlias = "Callable[[Parts, Made, str], Mapping[int, str]]"
"""Of a node's parts, the node, and the gradient of its result: those of its operands, by number, an empty
name where another operand's has it."""
Move: TypeAlias = "tuple[int, int] | None"
"""(axis, step) of what each turn of a loop finds `step` further along an axis; None: all find the same."""
NAMES = ("x", "w", "u", "v", "t", "z", "o", "j")
MANY = 4096                 # bound formulas that are kept


class Made(Protocol):
    """What a composed op reads of its node."""

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def attr(self) -> dict[str, Any]: ...
    @property
    def origin(self) -> tuple[str, ...]: ...


class Composer(Protocol):
    """Where a composed op adds the nodes that it is made of."""

    def op(self, op: str, inputs: Sequence[str], name: str, origin: tuple[str, ...] = (),
           base: str = "", **attrs: Any) -> str: ...
    def const(self, name: str, value: NDArray[Any]) -> str: ...
    def type(self, name: str) -> TensorType: ...
    def loop(self, count: int, operands: Sequence[tuple[str, Move]], state: tuple[str, Move], name: str,
             origin: tuple[str, ...], turn: Callable[[Composer, Sequence[str]], str]) -> str: ...


@dataclass(frozen=True)
class Op:
    """`bound` gives the formula and the result's shape; an op without is `composed` of others, or a view.

    `gradient` gives the gradients of operands, by number, of which it knows more than the formula says.
    """

    name: str
    bound: Callable[[Shapes, Attrs], tuple[Formula, tuple[Extent, ...]]] | None = None
    shape: Callable[[Shapes, Attrs], tuple[Extent, ...]] | None = None
    composed: Callable[[Composer, Made], str] | None = None
    gradient: Gradient | None = None

    def infer(self, types: Sequence[TensorType], attrs: Attrs) -> TensorType:
        """The type of the result. Raises ModelError where the operands don't fit the op."""
        if self.shape is not None:
            return TensorType(types[0].dtype, self.shape([t.shape for t in types], attrs))
        if not types:
            return TensorType(attrs["dtype"], self.formula(types, attrs)[1])
        if self.composed is not None:
            parts = _Types(dict(zip(NAMES, types, strict=False)))
            return parts.types[self.composed(parts, _Node(NAMES[:len(types)], dict(attrs)))]
        f, shape = self.formula(types, attrs)
        folded = f.expr if f.fold == "=" else Call(COMBINE[f.fold], (f.expr, f.expr))
        return TensorType(dtype_of(folded, _dtypes(types)), shape)

    def formula(self, types: Sequence[TensorType], attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        """The formula bound to types and attributes; the result's shape. Raises ModelError as `infer`."""
        if self.bound is None:
            raise InternalError(f"op {self.name} has no formula of its own")
        key = (self, tuple(types), repr(sorted(attrs.items())))     # as text: 0.0 is not -0.0
        if key not in _FORMULAS:
            formula, shape = self.bound([t.shape for t in types], attrs)
            wanted = types[0].dtype if types else attrs["dtype"]
            found = replace(formula, expr=resolve(formula.expr, _dtypes(types), wanted)), shape
            if len(_FORMULAS) >= MANY:
                _FORMULAS.clear()
            return _FORMULAS.setdefault(key, found)
        return _FORMULAS[key]


class _Types:
    """A composer that only finds the types of what it is given."""

    def __init__(self, types: dict[str, TensorType]) -> None:
        self.types = types

    def _put(self, type: TensorType) -> str:
        name = f"value{len(self.types)}"
        self.types[name] = type
        return name

    def op(self, op: str, inputs: Sequence[str], name: str, origin: tuple[str, ...] = (),
           base: str = "", **attrs: Any) -> str:
        return self._put(OPS[op].infer([self.types[i] for i in inputs], attrs))

    def const(self, name: str, value: NDArray[Any]) -> str:
        return self._put(TensorType(name_of(value.dtype), value.shape))

    def type(self, name: str) -> TensorType:
        return self.types[name]

    def loop(self, count: int, operands: Sequence[tuple[str, Move]], state: tuple[str, Move], name: str,
             origin: tuple[str, ...], turn: Callable[[Composer, Sequence[str]], str]) -> str:
        return self._put(self.types[state[0]])


@dataclass(frozen=True)
class _Node:
    """A composed op by itself, of operands called as in formulas."""

    inputs: tuple[str, ...]
    attr: dict[str, Any]
    name: str = ""
    origin: tuple[str, ...] = ()


def _dtypes(types: Sequence[TensorType]) -> dict[str, str]:
    return {name: t.dtype for name, t in zip(NAMES, types, strict=False)}


OPS: dict[str, Op] = {}
_FORMULAS: dict[object, tuple[Formula, tuple[Extent, ...]]] = {}


def register(op: Op) -> Op:
    OPS[op.name] = op
    return op


def elementwise(name: str, text: str, *attributes: str) -> Op:
    """A scalar expression over x, w, ... (broadcast) and attributes: numbers, or names of functions."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        operands = list(zip(NAMES, shapes, strict=False))
        return pointwise(text, operands, {a: attrs[a] for a in attributes})
    return register(Op(name, bound))


def relation(name: str, template: str, window: bool = False) -> Op:
    """A fold over index arithmetic; with `window` the extents of r come from the attribute `kernel`."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        spatial = len(shapes[0]) - 2
        symbols: dict[str, int] = {}
        given: dict[str, int] = {"g": int(attrs["group"])} if "group" in attrs else {}
        for i in range(spatial):
            for letter, key in zip("sdab", ("strides", "dilations", "begin", "end"), strict=True):
                if key in attrs:
                    symbols[f"{letter}{i}"] = int(attrs[key][i])
            if window:
                given[f"r{i}"] = int(attrs["kernel"][i])
        return bind(template, list(zip(NAMES, shapes, strict=False)), symbols, given, spatial)
    return register(Op(name, bound))


def transform(name: str, template: str) -> Op:
    """Tiles along the spatial `axis` times the attribute `matrix`, t; braces are the indices of those axes.

    `tile` is the distance of tiles, `count` their number, `begin` how far the first starts before its axis.
    What the last one gives beyond `extent` is left out. With a `dilation` d, one of d phases takes each d-th
    element: tile p of phase f is number p*d + f.

    `points` are the axes, behind the channels, of points along other axes of the image: <others>. <all> adds
    the points a of this one before: as axes too where `apart`, else a group of channels for each.
    """
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        axis, matrix, count = int(attrs["axis"]), attrs["matrix"], int(attrs["count"])
        others = {f"b{i}": int(e) for i, e in enumerate(attrs["points"])}
        number, source = "a", "<all>" if "x[n, <all>" in template else "<others>"
        for point, e in others.items():
            number = f"({number})*{e} + {point}"
        lists = {"<others>": ["c", *others],
                 "<all>": ["c", "a", *others] if attrs["apart"] else [f"({number})*C + c"]}
        merged = source == "<all>" and not attrs["apart"]
        groups = len(matrix[0]) * product(attrs["points"]) if merged else 1
        channels, spatial = int(shapes[0][1]) // groups, len(shapes[0]) - 1 - len(lists[source])
        text = re.sub("<.*?>", lambda match: ", ".join(lists[match[0]]), template)
        def indices(match: re.Match[str]) -> str:
            return ", ".join(match[1] if i == axis else f"q{i}" for i in range(spatial))
        operands = [("t", (len(matrix), len(matrix[0]))), ("x", shapes[0])]
        m, d = int(attrs["tile"]), int(attrs["dilation"])
        symbols = {"m": m, "d": d, "b": int(attrs["begin"]), "e": count * m * d, "C": channels}
        given = {"p": count, "f": d, "c": channels, **others}
        f, shape = bind(re.sub(r"\{([^}]*)\}", indices, text), operands, symbols, given)
        def known(x: Load) -> Expr:
            return x if x.tensor == "x" else Table(matrix, (x.index[0], x.index[1]))
        at = len(shape) - spatial + axis
        return replace(f, expr=rewrite(f.expr, known)), (*shape[:at], int(attrs["extent"]), *shape[at + 1:])
    return register(Op(name, bound))


def reduction(name: str, fold: str, text: str = "x", *attributes: str) -> Op:
    """A fold of a scalar expression over `axes`, which stay with extent 1 where `keepdims`."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
        operands = list(zip(NAMES, shapes, strict=False))
        f, shape = pointwise(text, operands, {a: attrs[a] for a in attributes})
        kept = [a for a in range(len(shape)) if a not in attrs["axes"] or attrs["keepdims"]]
        index = [Index() if a in attrs["axes"] else Index.of(f"i{a}") for a in kept]
        last = {f"i{a}" for a in attrs["axes"]}
        extents = sorted(f.extents, key=lambda item: item[0] in last)
        result = tuple(1 if a in attrs["axes"] else shape[a] for a in kept)
        return Formula(Load("y", tuple(index)), fold, f.expr, tuple(extents)), result
    return register(Op(name, bound))


def axes(rank: int) -> Indices:
    """The dimensions i0, i1, ... as the indices of so many axes."""
    return tuple(Index.of(f"i{a}") for a in range(rank))


def movement(name: str, index: Callable[[Shapes, Attrs], tuple[Shape, Indices, Indices]],
             scattered: bool = False) -> Op:
    """Elements of x at other places: `index` gives the result's shape and how y and x are indexed.

    The dimensions i0, i1, ... run over the axes of y; where `scattered` over those of x.
    """
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
        shape, out, source = index(shapes, attrs)
        extents = tuple((f"i{a}", e) for a, e in enumerate(shapes[0] if scattered else shape))
        return Formula(Load("y", out), "=", Load("x", source), extents), shape
    return register(Op(name, bound))


class Parts:
    """Where the parts of a composed op are made: named after its node, the last one like it."""

    def __init__(self, b: Composer, n: Made) -> None:
        self.b, self.n = b, n

    def __call__(self, op: str, *inputs: str, step: str = "", **attrs: Any) -> str:
        name = f"{self.n.name}.{step}" if step else self.n.name
        return self.b.op(op, inputs, name, self.n.origin, **attrs)

    def count(self, x: str, axes: Sequence[int]) -> int:
        """The number of elements that a reduction over `axes` combines."""
        return product([int(self.b.type(x).shape[a]) for a in axes])


def composed(make: Callable[[Parts, Made], str]) -> None:
    """Registers a function, by its name, that makes the parts of an op and gives the last one."""
    register(Op(make.__name__[1:], composed=lambda b, n: make(Parts(b, n), n)))


def gradient(name: str) -> Callable[[Gradient], None]:
    """Registers a function that makes the gradients of an op's operands, or of some of them."""
    def known(rule: Gradient) -> None:
        register(replace(OPS[name], gradient=rule))
    return known
