"""Formulas: what an op computes, as one line of index arithmetic.

`y[n, g*K + k, {p}] += x[n, g*C + c, {p*s + r*d - a | b}] * w[g*K + k, c, {r}]` is convolution of any rank:
braces repeat per spatial dimension (p -> p0, p1, ...), an upper-case letter is the extent of its lower-case
dimension, `| b` lets the index reach b past the far end. Bound to operand shapes and attributes a template
gives a `Formula`: affine loads, extents, a fold. Taps outside of an operand are left out of the fold.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from cnncc.ir.errors import InternalError, ModelError
from cnncc.ir.expr import Call, Expr, Index, Load, loads, parse_expr, parse_index, reindexed, rewrite, tables
from cnncc.ir.types import Extent

FOLDS = ("=", "+=", "*=", "max=", "min=")
IDENTITY = {"+=": 0.0, "*=": 1.0, "max=": float("-inf"), "min=": float("inf")}
COMBINE = {"+=": "add", "*=": "mul", "max=": "max", "min=": "min"}


@dataclass(frozen=True)
class Formula:
    """`out fold expr` while every dimension of `extents` runs over its extent, first ones outermost."""

    out: Load
    fold: str
    expr: Expr
    extents: tuple[tuple[str, Extent], ...]

    @property
    def sizes(self) -> dict[str, Extent]:
        return dict(self.extents)

    @property
    def out_dims(self) -> tuple[str, ...]:
        used = {d for i in self.out.index for d in i.dims}
        return tuple(d for d, _ in self.extents if d in used)

    @property
    def reduced(self) -> tuple[str, ...]:
        used = set(self.out_dims)
        return tuple(d for d, _ in self.extents if d not in used)

    @cached_property
    def tabled(self) -> frozenset[str]:
        """The dimensions that index a table."""
        return frozenset(d for t in tables(self.expr) for i in t.index for d in i.dims)

    @cached_property
    def loads(self) -> tuple[Load, ...]:
        """The distinct loads, in order of appearance, those that say where to write last."""
        return tuple(dict.fromkeys((*loads(self.expr), *(i.lookup for i in self.out.index if i.lookup))))

    @cached_property
    def lookups(self) -> frozenset[str]:
        """The operands that say where others are read or written."""
        return frozenset(i.lookup.tensor for x in (self.out, *self.loads) for i in x.index if i.lookup)

    @property
    def scattered(self) -> bool:
        """Whether data say where the result goes.

        Then the fold goes on from what is there, over its points in order, first dimensions outermost.
        """
        return any(i.lookup is not None for i in self.out.index)

    def substitute(self, mapping: Mapping[str, Index], extents: Mapping[str, Extent]) -> Formula:
        """Dimensions replaced by index expressions over others; `extents` gives the sizes of the new ones."""
        sizes: dict[str, Extent] = {}
        for d, e in self.extents:
            if d not in mapping:
                sizes.setdefault(d, e)
            else:
                for new in mapping[d].dims:
                    sizes.setdefault(new, extents[new])
        expr = reindexed(self.expr, mapping)
        return Formula(self.out.substitute(mapping), self.fold, expr, tuple(sizes.items()))

    def renamed(self, tensors: Mapping[str, str]) -> Formula:
        return replace(self, out=self.out.renamed(tensors),
                       expr=rewrite(self.expr, lambda x: x.renamed(tensors)))

    def __str__(self) -> str:
        return f"{self.out} {self.fold} {self.expr}"


def outside(index: Index, size: Extent, extents: Mapping[str, Extent]) -> bool:
    """Whether an index can leave [0, size): such a load needs a test of validity. What a table says can't."""
    if isinstance(size, str) or index.lookup or any(isinstance(extents[d], str) for d in index.dims):
        return False
    low, high = index.bounds({d: int(extents[d]) for d in index.dims})
    return low < 0 or high >= size


def drop_units(f: Formula) -> Formula:
    """The formula without its dimensions of extent 1."""
    units: dict[str, Index] = {d: Index() for d, e in f.extents if e == 1}
    return f.substitute(units, {}) if units else f


def parse_formula(text: str, extents: Mapping[str, Extent]) -> Formula:
    """Read the text of a bound formula; `extents` gives its dimensions in order. Raises InternalError."""
    left, fold, right = split(text)
    out = parse_expr(left)
    if not isinstance(out, Load):
        raise InternalError(f"formula {text!r}: the left side must be an element")
    return Formula(out, fold, parse_expr(right), tuple(extents.items()))


def split(text: str) -> tuple[str, str, str]:
    """The left side, the fold and the right side. Raises InternalError."""
    match = re.match(r"^(\w+(?:\[(?:[^\[\]]|\[[^\]]*\])*\])?)\s*(\+=|\*=|max=|min=|=)(?!=)\s*(.*)$",
                     text.strip(), re.S)
    if not match:
        raise InternalError(f"not a formula: {text!r}")
    return match[1], match[2], match[3]


# ---- templates


def expand(template: str, rank: int, names: Iterable[str] = ()) -> str:
    """Braces repeated per spatial dimension, their letters (and other `names`) numbered."""
    numbered = re.compile(rf"\b({'|'.join(['[a-z]', *names])})\b")
    def repeat(match: re.Match[str]) -> str:
        return ", ".join(numbered.sub(rf"\g<1>{i}", match[1]) for i in range(rank))
    return re.sub(r"\{([^}]*)\}", repeat, template)


@functools.lru_cache(1024)
def parsed(expanded: str) -> tuple[str, str, ast.expr, ast.expr]:
    """The left side and the fold of a formula, and its right side twice: as it is and without reaches."""
    left, fold, right = split(expanded)
    plain, reaching = (ast.parse(right.strip(), mode="eval").body for _ in range(2))
    return left, fold, reaching, _WithoutReach().visit(plain)


class _WithoutReach(ast.NodeTransformer):
    """Indices without what `|` says; elsewhere it is an operator."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.Subscript:
        parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
        parts = [p.left if isinstance(p, ast.BinOp) and isinstance(p.op, ast.BitOr) else p for p in parts]
        node.slice = ast.Tuple(parts, ast.Load())
        return node


def bind(template: str, operands: Sequence[tuple[str, Sequence[Extent]]], symbols: Mapping[str, float],
         given: Mapping[str, int] | None = None, spatial: int = 0,
         names: Collection[str] = ()) -> tuple[Formula, tuple[Extent, ...]]:
    """A template with shapes and attributes filled in, and the shape of its result.

    `operands` are (name, shape) of the tensors it loads, `symbols` the attributes it names (`s0`, `a0`),
    `given` the extents that no operand tells (windows, groups), `names` the longer names of attributes that
    braces number. Raises ModelError where shapes don't agree or an extent can't be found.
    """
    left, fold, right, plain = parsed(expand(template, spatial, names))
    shapes = dict(operands)
    extents: dict[str, Extent] = dict(given or {})
    pending = _accesses(right, shapes)
    known = dict(symbols)
    whole = {k: int(v) for k, v in symbols.items() if v == int(v)}
    while pending:
        rest = [item for item in pending if not _solve(*item, extents, whole)]
        if len(rest) == len(pending):
            raise ModelError(f"can't find the extents of the index {ast.unparse(rest[0][1])}")
        pending = rest
        found = {d.upper(): e for d, e in extents.items()
                 if isinstance(e, int) and re.fullmatch(r"[a-z]\d*", d)}
        whole, known = found | whole, found | known
    expr = parse_expr(plain, known)
    if lost := [x.tensor for x in loads(expr) if len(x.index) != len(shapes.get(x.tensor, "?"))]:
        raise ModelError(f"{lost[0]} is neither a number nor an element")
    out = parse_expr(left, known)
    assert isinstance(out, Load)
    dims = dict.fromkeys(d for i in out.index for d in i.dims)
    inner = [i for x in loads(expr) for i in x.index] + [i for t in tables(expr) for i in t.index]
    dims.update(dict.fromkeys(d for i in inner for d in i.dims))
    if missing := [d for d in dims if d not in extents]:
        raise ModelError(f"can't find the extent of {missing[0]}: no operand has it")
    formula = Formula(out, fold, expr, tuple((d, extents[d]) for d in dims))
    shape: list[Extent] = []
    for i in out.index:
        if i.single and isinstance(extents[i.single], str):
            shape.append(extents[i.single])
        else:
            shape.append(1 + i.bounds({d: int(extents[d]) for d in i.dims})[1])
    return formula, tuple(shape)


def _accesses(right: ast.expr, shapes: Mapping[str, Sequence[Extent]]) -> list[tuple[str, ast.expr, Extent]]:
    """(operand, index, size of the axis) for every axis of every load and table."""
    result: list[tuple[str, ast.expr, Extent]] = []
    for node in ast.walk(right):
        if isinstance(node, ast.Subscript):
            parts = node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]
            name, shape = ast.unparse(node.value), shape_of(node.value, shapes)
            if len(parts) != len(shape):
                raise ModelError(f"operand {name} has rank {len(shape)}, expected {len(parts)}")
            result += [(name, p, e) for p, e in zip(parts, shape, strict=True)]
    return result


def shape_of(node: ast.expr, shapes: Mapping[str, Sequence[Extent]]) -> Sequence[Extent]:
    """The shape of an operand, or of a table written as rows of numbers."""
    if isinstance(node, ast.Name):
        return shapes[node.id]
    rows = node.elts if isinstance(node, ast.Tuple) else []
    columns = {len(r.elts) if isinstance(r, ast.Tuple) else 0 for r in rows}
    if len(columns) != 1:
        raise InternalError(f"not a table: {ast.unparse(node)}")
    return len(rows), *columns


def _solve(name: str, node: ast.expr, size: Extent, extents: dict[str, Extent],
           symbols: dict[str, int]) -> bool:
    """Find the one unknown extent of an index, or check the size where all are known; False: too early."""
    far: int | None = None
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        far, node = parse_index(node.right, symbols).const, node.left
    letters = [x.id for x in ast.walk(node) if isinstance(x, ast.Name) and x.id not in symbols]
    unknown = [d for d in letters if d not in extents and d[0].islower()]
    capital = next((d for d in letters if d.isupper()), None)
    if capital is not None:                             # g*K + k: the axis is made of K-sized groups
        others = [extents[d] for d in letters if d in extents]
        if unknown != [capital.lower()] or len(others) != 1 or isinstance(others[0], str):
            return False
        if isinstance(size, str) or size % others[0]:
            raise ModelError(f"operand {name}: {size} channels don't divide into {others[0]} groups")
        extents[capital.lower()] = symbols[capital] = size // others[0]
        return True
    index = parse_index(node, symbols)
    if len(unknown) > 1:
        return False
    if index.single in unknown and isinstance(size, str):
        extents[unknown[0]] = size
        return True
    if any(isinstance(extents.get(d, 0), str) for d in index.dims) or isinstance(size, str):
        if index.single and extents.get(index.single) == size:
            return True
        raise ModelError(f"operand {name}: its extent {size} doesn't fit the index {index}")
    sizes = {d: int(extents.get(d, 1)) for d in index.dims}
    low, high = index.bounds(sizes)
    room = size - 1 + (far or 0) - high
    if unknown:
        if index.coefficient(unknown[0]) < 1:
            return False
        extents[unknown[0]] = count = room // index.coefficient(unknown[0]) + 1
        if count < 1:
            raise ModelError(f"operand {name}: an axis of {size} is too small for the window")
    elif not index.terms:
        if not 0 <= low < size:
            raise ModelError(f"operand {name}: there is no element {low} of {size}")
    elif far is None and low != 0:
        raise ModelError(f"operand {name}: an axis of {size} elements is indexed from {low} to {high}")
    elif far is None and room != 0:
        raise ModelError(f"operand {name}: an axis has {size} elements where {high + 1} are expected")
    return True


@functools.lru_cache(1024)
def _right(text: str) -> ast.expr:
    return ast.parse(text.strip(), mode="eval").body


def pointwise(text: str, operands: Sequence[tuple[str, Sequence[Extent]]],
              symbols: Mapping[str, float | str]) -> tuple[Formula, tuple[Extent, ...]]:
    """A scalar expression over broadcast operands. Raises ModelError where shapes don't broadcast."""
    shapes = dict(operands)
    rank = max((len(s) for s in shapes.values()), default=0)
    shape: list[Extent] = [1] * rank
    for s in shapes.values():
        for axis, extent in enumerate(s, rank - len(s)):
            if shape[axis] == 1:
                shape[axis] = extent
            elif extent not in (1, shape[axis]):
                listed = " and ".join(str(list(v)) for v in shapes.values())
                raise ModelError(f"shapes don't broadcast: {listed}")
    def change(x: Load) -> Expr:
        own = shapes[x.tensor]
        return Load(x.tensor, tuple(Index() if e == 1 and shape[a] != 1 else Index.of(f"i{a}")
                                    for a, e in enumerate(own, rank - len(own))))
    expr = rewrite(parse_expr(_right(text), symbols), change)
    out = Load("y", tuple(Index.of(f"i{a}") for a in range(rank)))
    return Formula(out, "=", expr, tuple((f"i{a}", e) for a, e in enumerate(shape))), tuple(shape)


def multiply_add(f: Formula) -> tuple[Expr, Expr] | None:
    """The two factors of a sum of products, else None."""
    if f.fold == "+=" and isinstance(f.expr, Call) and f.expr.fn == "mul":
        return f.expr.args[0], f.expr.args[1]
    return None
