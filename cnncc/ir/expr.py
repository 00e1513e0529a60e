"""The two small languages inside a formula: affine index expressions and scalar expressions.

Both are frozen, print as text and parse back (`parse_expr`, `parse_index`); Python's own grammar is borrowed
for the parsing, nothing is ever evaluated by Python.
"""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from cnncc.ir.errors import InternalError
from cnncc.ir.scalars import FUNCTIONS
from cnncc.ir.types import NUMPY

LEVELS = (("== != < <= > >=", "eq ne lt le gt ge"), ("|", "or"), ("^", "xor"), ("&", "and"),
          ("<< >>", "shl shr"), ("+ -", "add sub"), ("* / %", "mul div mod"))
"""The operators and their functions, those that bind least first: Python's own order."""
BINARY = {fn: symbol for symbols, fns in LEVELS
          for symbol, fn in zip(symbols.split(), fns.split(), strict=True)}
BINDING = {fn: level for level, (_, fns) in enumerate(LEVELS) for fn in fns.split()}
OPERATORS: dict[type[ast.operator | ast.cmpop], str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.Mod: "mod", ast.LShift: "shl",
    ast.RShift: "shr", ast.BitAnd: "and", ast.BitXor: "xor", ast.BitOr: "or", ast.Eq: "eq", ast.NotEq: "ne",
    ast.Lt: "lt", ast.LtE: "le", ast.Gt: "gt", ast.GtE: "ge"}
BARE = "f32"                # the dtype of constants that are written without one


@dataclass(frozen=True)
class Index:
    """An affine integer expression over loop dimensions: sum(coefficient * dimension) + const.

    `lookup` is added to that, an element of another operand. One of int32 is a constant table. One of int64
    is data, and the index is that alone: it counts from the end where it is negative, and is cut to the axis.
    """

    terms: tuple[tuple[str, int], ...] = ()
    const: int = 0
    lookup: Load | None = None

    @staticmethod
    def of(dim: str, coefficient: int = 1) -> Index:
        return Index(((dim, coefficient),))

    @functools.cached_property
    def dims(self) -> tuple[str, ...]:
        """All that the value depends on, also through the lookup."""
        own = tuple([d for d, _ in self.terms])
        return own if self.lookup is None else tuple(dict.fromkeys((*own, *self.lookup.dims)))

    @property
    def single(self) -> str | None:
        """The dimension's name where this is just one dimension, else None."""
        if self.const == 0 and len(self.terms) == 1 and self.terms[0][1] == 1 and self.lookup is None:
            return self.terms[0][0]
        return None

    def coefficient(self, dim: str) -> int:
        for d, c in self.terms:
            if d == dim:
                return c
        return 0

    def __add__(self, other: Index) -> Index:
        total = dict(self.terms)
        for d, c in other.terms:
            total[d] = total.get(d, 0) + c
        if self.lookup is not None and other.lookup is not None:
            raise InternalError(f"an index can't look up two tables: {self} + {other}")
        return Index(tuple((d, c) for d, c in total.items() if c), self.const + other.const,
                     self.lookup or other.lookup)

    def scale(self, factor: int) -> Index:
        if self.lookup is not None and factor != 1:
            raise InternalError(f"an index can't scale what it looks up: {factor} * ({self})")
        return Index(tuple((d, c * factor) for d, c in self.terms) if factor else (), self.const * factor,
                     self.lookup)

    def substitute(self, mapping: Mapping[str, Index]) -> Index:
        result = Index((), self.const, self.lookup and self.lookup.substitute(mapping))
        for d, c in self.terms:
            result = result + mapping.get(d, Index.of(d)).scale(c)
        return result

    def bounds(self, extents: Mapping[str, int]) -> tuple[int, int]:
        """The least and the greatest value (inclusive) while each dimension runs over its extent.

        What a lookup adds isn't counted: only the table knows.
        """
        low = high = self.const
        for d, c in self.terms:
            reach = c * (extents[d] - 1)
            low, high = low + min(0, reach), high + max(0, reach)
        return low, high

    def __str__(self) -> str:
        text = ""
        for d, c in self.terms:
            sign = "-" if c < 0 else "+"
            body = d if abs(c) == 1 else f"{abs(c)}*{d}"
            text += (f" {sign} " if text else ("-" if c < 0 else "")) + body
        if self.lookup is not None:
            text += f" + {self.lookup}" if text else str(self.lookup)
        if not text:
            return str(self.const)
        return text + (f" {'-' if self.const < 0 else '+'} {abs(self.const)}" if self.const else "")


@dataclass(frozen=True, slots=True)
class Const:
    """A number; in a dtype other than BARE it is written as a cast, `i64(3)`."""

    value: float
    dtype: str = BARE

    def __str__(self) -> str:
        if self.dtype != BARE:
            return f"{self.dtype}({Const(self.value)})"
        if not math.isfinite(self.value):
            return f'float("{self.value}")'
        whole = self.value == int(self.value) and abs(self.value) < 1e9
        return repr(int(self.value) if whole else self.value)


@dataclass(frozen=True)
class Load:
    tensor: str
    index: tuple[Index, ...]

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash((self.tensor, self.index))

    def __reduce__(self) -> tuple[type[Load], tuple[str, tuple[Index, ...]]]:
        return Load, (self.tensor, self.index)      # the hash is this process's own

    @functools.cached_property
    def dims(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(d for i in self.index for d in i.dims))

    def substitute(self, mapping: Mapping[str, Index]) -> Load:
        return Load(self.tensor, tuple(i.substitute(mapping) for i in self.index))

    def renamed(self, tensors: Mapping[str, str]) -> Load:
        index = tuple(i if i.lookup is None else replace(i, lookup=i.lookup.renamed(tensors))
                      for i in self.index)
        return Load(tensors.get(self.tensor, self.tensor), index)

    def __str__(self) -> str:
        return f"{self.tensor}[{', '.join(map(str, self.index))}]" if self.index else self.tensor


@dataclass(frozen=True, slots=True)
class Table:
    """A number of a small matrix that the code contains; loops over the dimensions of `index` unroll."""

    values: tuple[tuple[float, ...], ...]
    index: tuple[Index, Index]

    @property
    def dtype(self) -> str:
        return "f32"

    def at(self, place: Mapping[str, int]) -> float:
        """The number where each dimension has the value in `place`."""
        row, column = (i.const + sum(c * place[d] for d, c in i.terms) for i in self.index)
        return self.values[row][column]

    def __str__(self) -> str:
        rows = tuple(tuple(int(v) if v == int(v) else v for v in row) for row in self.values)
        return f"{rows}[{self.index[0]}, {self.index[1]}]"


@dataclass(frozen=True, slots=True)
class Call:
    """A function of `ir.scalars` applied to scalar expressions; `size` is the number of operations."""

    fn: str
    args: tuple[Expr, ...]
    size: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + sum(size(a) for a in self.args))

    def __str__(self) -> str:
        if self.fn in BINARY:
            left, right = self.args
            level = BINDING[self.fn]
            a = f"({left})" if _rank(left) < max(level, 1) else str(left)       # comparisons don't chain
            b = f"({right})" if _rank(right) <= level else str(right)
            return f"{a} {BINARY[self.fn]} {b}"
        return f"{self.fn}({', '.join(map(str, self.args))})"


Expr: TypeAlias = Const | Load | Table | Call


def _rank(e: Expr) -> int:
    """How tightly the text of `e` binds: its operator's place in LEVELS, beyond them for the rest."""
    if isinstance(e, Const) and e.dtype == BARE and e.value < 0:
        return BINDING["add"]
    return BINDING.get(e.fn, len(LEVELS)) if isinstance(e, Call) else len(LEVELS)


def loads(e: Expr) -> Iterator[Load]:
    """All loads of `e`, left to right, repeats and lookups included."""
    stack: list[Expr] = [e]
    while stack:
        x = stack.pop()
        if isinstance(x, Load):
            yield x
            stack.extend(i.lookup for i in x.index if i.lookup is not None)
        elif isinstance(x, Call):
            stack.extend(reversed(x.args))


def rewrite(e: Expr, change: Callable[[Load], Expr]) -> Expr:
    """`e` with every load replaced by `change(load)`."""
    if isinstance(e, Load):
        return change(e)
    if isinstance(e, Call):
        return Call(e.fn, tuple(rewrite(a, change) for a in e.args))
    return e


def reindexed(e: Expr, mapping: Mapping[str, Index]) -> Expr:
    """`e` with dimensions replaced by index expressions over others."""
    match e:
        case Load():
            return e.substitute(mapping)
        case Table(values, (row, column)):
            return Table(values, (row.substitute(mapping), column.substitute(mapping)))
        case Call(fn, args):
            return Call(fn, tuple(reindexed(a, mapping) for a in args))
    return e


def tables(e: Expr) -> Iterator[Table]:
    """All tables of `e`."""
    if isinstance(e, Table):
        yield e
    elif isinstance(e, Call):
        for a in e.args:
            yield from tables(a)


def size(e: Expr) -> int:
    """The number of scalar operations in `e`."""
    return e.size if isinstance(e, Call) else 0


def cost(e: Expr) -> int:
    """About how many instructions `e` takes."""
    return FUNCTIONS[e.fn].cost + sum(cost(a) for a in e.args) if isinstance(e, Call) else 0


# ---- text


def parse_index(node: ast.expr | str, symbols: Mapping[str, int] | None = None) -> Index:
    """Read an index expression; names in `symbols` are integers, all others are dimensions.

    Raises InternalError where the text is not affine.
    """
    symbols = symbols or {}
    if isinstance(node, str):
        node = ast.parse(node.strip(), mode="eval").body
    match node:
        case ast.Constant(value=int(v)):
            return Index((), v)
        case ast.Name(id=name):
            return Index((), symbols[name]) if name in symbols else Index.of(name)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return parse_index(x, symbols).scale(-1)
        case ast.BinOp(left=a, op=ast.Add(), right=b):
            return parse_index(a, symbols) + parse_index(b, symbols)
        case ast.BinOp(left=a, op=ast.Sub(), right=b):
            return parse_index(a, symbols) + parse_index(b, symbols).scale(-1)
        case ast.BinOp(left=a, op=ast.Mult(), right=b):
            left, right = parse_index(a, symbols), parse_index(b, symbols)
            if not left.terms:
                return right.scale(left.const)
            if not right.terms:
                return left.scale(right.const)
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            row = tuple(parse_index(p, symbols) for p in parts)
            if all(i.lookup is None for i in row):
                return Index((), 0, Load(name, row))
    raise InternalError(f"not an affine index: {ast.unparse(node)}")


def parse_expr(node: ast.expr | str, symbols: Mapping[str, int | float | str] | None = None) -> Expr:
    """Read a scalar expression; a bare name that is no symbol is a load without index.

    Numbers become bare constants. A symbol that is a text stands for a function. Raises InternalError for
    anything outside the language.
    """
    symbols = symbols or {}
    if isinstance(node, str):
        node = ast.parse(node.strip(), mode="eval").body
    match node:
        case ast.Constant(value=int() | float() as v) if not isinstance(v, bool):
            return Const(v)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as v)):
            return Const(-v)
        case ast.UnaryOp(op=ast.USub() | ast.Invert() as op, operand=x):
            return Call("neg" if isinstance(op, ast.USub) else "invert", (parse_expr(x, symbols),))
        case ast.Name(id=name):
            value = symbols.get(name)
            return Load(name, ()) if value is None or isinstance(value, str) else Const(value)
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value=str(v))]):
            return Const(float(v))
        case ast.Call(func=ast.Name(id=name), args=args) if (fn := str(symbols.get(name, name))) in FUNCTIONS:
            values = tuple(parse_expr(a, symbols) for a in args)
            if fn in NUMPY and len(values) == 1 and isinstance(values[0], Const):
                return Const(values[0].value, fn)
            if len(values) == len(FUNCTIONS[fn].args):
                return Call(fn, values)
        case ast.BinOp(left=a, op=op, right=b) | ast.Compare(left=a, ops=[op], comparators=[b]) \
                if type(op) in OPERATORS:
            return Call(OPERATORS[type(op)], (parse_expr(a, symbols), parse_expr(b, symbols)))
        case ast.Subscript(value=ast.Name(id=name), slice=index):
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            whole = {k: int(v) for k, v in symbols.items() if not isinstance(v, str) and v == int(v)}
            return Load(name, tuple(parse_index(p, whole) for p in parts))
        case ast.Subscript(value=ast.Tuple(elts=rows), slice=ast.Tuple(elts=[row, column])):
            table = tuple(tuple(float(v) for v in ast.literal_eval(r)) for r in rows)
            return Table(table, (parse_index(row), parse_index(column)))
    raise InternalError(f"not a scalar expression: {ast.unparse(node)}")
