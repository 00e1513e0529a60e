"""The op whose formula is in its attributes: what users define, and model files bring along."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cnncc.ir.errors import InputError, InternalError, ModelError, hint
from cnncc.ir.expr import Index, parse_expr, tables
from cnncc.ir.formula import Formula, bind, expand, outside, parse_formula, parsed, pointwise, shape_of, split
from cnncc.ir.op import NAMES, Attrs, Composer, Op, Shape, Shapes, register
from cnncc.ir.scalars import FUNCTIONS
from cnncc.ir.types import FLOATS, Extent, product

Value: TypeAlias = "float | tuple[float, ...]"
"""An attribute: a number, or one for each spatial dimension."""

MAX_TEXT = 2000
MAX_DEPTH = 50
MAX_NUMBER = 1 << 31        # in indices
MAX_WINDOW = 1 << 20        # positions of all dimensions that no operand has
DIMENSION, EXTENT = re.compile(r"[a-z][a-z0-9_]*"), re.compile(r"[A-Z]\d*")


@dataclass(frozen=True, slots=True)
class Template:
    """A checked formula: its text, with tensors called as in `NAMES`, and what the user called them."""

    text: str
    operands: tuple[str, ...]


def _expect(ok: object, why: str) -> None:
    if not ok:
        raise ModelError(why)


# ---- reading


def parse_template(text: object, attributes: Collection[str]) -> Template:
    """Read a user's formula, in which `attributes` are numbers.

    The operands are the tensors of the right side in order of appearance. A formula without any index is
    elementwise, over operands that broadcast. Raises InputError, which says what is wrong where.
    """
    if not isinstance(text, str) or len(text) > MAX_TEXT:
        raise InputError(f"a formula is a text of at most {MAX_TEXT:,} characters, got {text!r:.60}")
    try:
        left, fold, right = split(text)
        out, tree = (ast.parse(side.strip(), mode="eval").body for side in (left, right))
        _expect(_depth(tree) <= MAX_DEPTH, f"more than {MAX_DEPTH} levels of nesting")
        return _checked(out, fold, tree, attributes)
    except SyntaxError as error:
        near = f" near {(error.text or '')[max(0, (error.offset or 1) - 1):][:30]!r}" if error.text else ""
        raise InputError(f"formula {text!r:.200}: {error.msg}{near}") from None
    except (InternalError, ModelError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"formula {text!r:.200}: {error}") from None


def _checked(out: ast.expr, fold: str, tree: ast.expr, attributes: Collection[str]) -> Template:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            _check_call(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            _expect(node.value < 1 << 64, "a number is too large")
        elif isinstance(node, ast.Subscript):
            _check_element(node, attributes)
            if not isinstance(node.value, ast.Name):
                shape_of(node.value, {})
    found = list(dict.fromkeys(_tensors(tree, attributes)))
    own = ast.unparse(out.value if isinstance(out, ast.Subscript) else out)
    _expect(own not in (*found, *attributes), f"{own} can't be made of itself")
    _expect(0 < len(found) <= len(NAMES),
            f"reads {len(found)} tensors ({', '.join(found)}), expected 1 to {len(NAMES)}")
    for name in found:
        _expect(name not in FUNCTIONS, f"the function {name} needs its arguments")
    head = ""
    if isinstance(out, ast.Subscript):
        _check_element(out, attributes)
        head = ast.unparse(out)[len(own):]
    else:
        _expect(fold == "=", f"a formula without indices is elementwise: = instead of {fold}")
        _expect(all(not isinstance(n, ast.Subscript) for n in ast.walk(tree)), f"{own} needs indices as well")
    body = ast.unparse(_Renamed(dict(zip(found, NAMES, strict=False))).visit(tree))
    plain = parsed(expand(f"y = {body}", 1, attributes))[3]
    names = {n.id for n in ast.walk(plain) if isinstance(n, ast.Name)}
    parse_expr(plain, {n: 1 for n in names if EXTENT.fullmatch(n)
                       or not {n, n.rstrip("0123456789")}.isdisjoint(attributes)})
    return Template(re.sub(r"\s", "", f"y{head}{fold}{body}"), tuple(found))


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [c for n in level for c in ast.iter_child_nodes(n)]
    return depth


def _tensors(node: ast.expr, attributes: Collection[str]) -> Iterator[str]:
    """The tensors from left to right, repeats included; other bare names are numbers."""
    match node:
        case ast.Subscript(value=ast.Name(id=name)):
            yield name
        case ast.Name(id=name) if name not in attributes and not EXTENT.fullmatch(name):
            yield name
        case ast.Call(args=args):
            for a in args:
                yield from _tensors(a, attributes)
        case ast.BinOp() | ast.UnaryOp() | ast.Compare():
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.expr):
                    yield from _tensors(child, attributes)
        case ast.Constant() | ast.Name() | ast.Subscript():
            pass
        case _:
            raise ModelError(f"not a scalar expression: {ast.unparse(node)}")


class _Renamed(ast.NodeTransformer):
    """Tensors called by other names; functions and what indexes them stay."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.names.get(node.id, node.id), node.ctx)

    def visit_Subscript(self, node: ast.Subscript) -> ast.Subscript:
        return ast.Subscript(self.visit(node.value), node.slice, node.ctx)

    def visit_Call(self, node: ast.Call) -> ast.Call:
        return ast.Call(node.func, [self.visit(a) for a in node.args], [])


def _check_call(node: ast.Call) -> None:
    name = ast.unparse(node.func)
    _expect(name in FUNCTIONS, f"there is no function {name[:60]!r}{hint(name, FUNCTIONS)}")
    takes = len(FUNCTIONS[name].args)
    _expect(len(node.args) == takes and not node.keywords,
            f"{name} takes {takes} argument{'s' * (takes > 1)}, got {len(node.args)}")


def _check_element(node: ast.Subscript, attributes: Collection[str]) -> None:
    where = ast.unparse(node)
    for part in _parts(node):
        braced = part.elts if isinstance(part, ast.Set) else [part]
        _expect(len(braced) == 1, f"{where}: braces hold one index, which is repeated")
        index = braced[0]
        if isinstance(index, ast.BinOp) and isinstance(index.op, ast.BitOr):
            _expect(all(not isinstance(n, ast.Name) or n.id in attributes for n in ast.walk(index.right)),
                    f"{where}: what follows | is a number of elements")
            _check_index(index.right, where, attributes)
            index = index.left
        _check_index(index, where, attributes)


def _parts(node: ast.Subscript) -> Sequence[ast.expr]:
    return node.slice.elts if isinstance(node.slice, ast.Tuple) else [node.slice]


def _check_index(index: ast.expr, where: str, attributes: Collection[str]) -> None:
    match index:
        case ast.Name(id=name):
            _expect(name in attributes or DIMENSION.fullmatch(name) or EXTENT.fullmatch(name),
                    f"{where}: {name} is no dimension (lower case), extent (upper case) or attribute")
        case ast.Constant(value=int(v)) if not isinstance(v, bool):
            _expect(v <= MAX_NUMBER, f"{where}: {v} is too large")
        case ast.UnaryOp(op=ast.USub(), operand=x):
            _check_index(x, where, attributes)
        case ast.BinOp(left=a, op=ast.Add() | ast.Sub() | ast.Mult(), right=b):
            _check_index(a, where, attributes)
            _check_index(b, where, attributes)
        case _:
            _expect(False, f"{where}: not an affine index: {ast.unparse(index)}")


# ---- binding


def _bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    text, values = str(attrs["text"]), dict(attrs["values"])
    operands = list(zip(NAMES, shapes, strict=False))
    try:
        if not text.startswith("y["):
            return pointwise(split(text)[2], operands, values)
        spatial = _spatial(text, dict(operands))
        formula, shape = bind(text, operands, *_numbers(text, values, spatial), spatial, tuple(values))
        _check(formula, dict(operands))
        return formula, shape
    except InternalError as error:
        raise ModelError(str(error)) from None


def _spatial(text: str, shapes: Mapping[str, Sequence[Extent]]) -> int:
    """How often braces repeat: what the first operand with braces leaves for them."""
    for node in ast.walk(parsed(text)[2]):
        if isinstance(node, ast.Subscript):
            parts = _parts(node)
            braces = sum(isinstance(p, ast.Set) for p in parts)
            if braces:
                shape = shape_of(node.value, shapes)
                times, rest = divmod(len(shape) - len(parts) + braces, braces)
                _expect(times > 0 and not rest, f"operand {ast.unparse(node.value)} has rank {len(shape)}, "
                        f"expected {len(parts)} or more")
                return times
    return 0


def _numbers(text: str, values: Mapping[str, Value], spatial: int) -> tuple[dict[str, float], dict[str, int]]:
    """The attributes as symbols, and the extents that upper-case ones give their dimensions."""
    symbols: dict[str, float] = {}
    for name, value in values.items():
        several = value if isinstance(value, tuple) else (value,) * spatial
        _expect(len(several) == spatial or not spatial,
                f"attribute {name} has {len(several)} numbers for {spatial} spatial dimensions")
        symbols |= {f"{name}{i}": v for i, v in enumerate(several)}
        if not isinstance(value, tuple):
            symbols[name] = value
    dims = set(re.findall(r"\b[a-z]\d*\b", expand(text, spatial, values)))
    given = {n.lower(): int(v) for n, v in symbols.items() if EXTENT.fullmatch(n) and n.lower() in dims}
    _expect(all(symbols[d.upper()] == e > 0 for d, e in given.items())
            and product([*given.values()]) <= MAX_WINDOW,
            f"extents are integers of at least 1, together at most {MAX_WINDOW:,}")
    return symbols, given


def _check(f: Formula, shapes: Mapping[str, Sequence[Extent]]) -> None:
    """Raises ModelError unless each element of the result is written once, of elements that are there.

    The lowering decides what a fold leaves out by the loops over one dimension of the result and over taps.
    """
    _expect(f.fold != "=" or not f.reduced,
            f"{', '.join(f.reduced)} isn't on the left side: += would add up over it")
    for x in f.loads:
        for i, size in zip(x.index, shapes[x.tensor], strict=True):
            if outside(i, size, f.sizes):
                _expect(f.fold != "=", f"{x} leaves its operand, {_show(shapes[x.tensor])}: "
                        "only folds leave out what isn't there")
                kept = [d for d in i.dims if d in f.out_dims and f.sizes[d] != 1]
                _expect(len(kept) <= 1 and all(c > 0 for d, c in i.terms if d not in kept),
                        f"{x} leaves its operand, {_show(shapes[x.tensor])}: such an index has at most "
                        "one dimension of the left side, plus others")
    for t in tables(f.expr):
        for i, size in zip(t.index, (len(t.values), len(t.values[0])), strict=True):
            _expect(not outside(i, size, f.sizes), f"the index {i} leaves its table")
    seen: set[str] = set()
    for i in f.out.index:
        _expect(seen.isdisjoint(i.dims) and _counts(i, f.sizes),
                f"left side: {i} doesn't count the elements of the result one by one")
        seen.update(i.dims)


def _counts(index: Index, sizes: Mapping[str, Extent]) -> bool:
    """Whether an index takes each value from 0 on once."""
    if index.single:
        return True
    step = 1
    for d, c in sorted(index.terms, key=lambda term: term[1]):
        size = sizes[d]
        if isinstance(size, str) or (c != step and size > 1):
            return False
        step *= size
    return index.const == 0


def _show(shape: Sequence[Extent]) -> str:
    return f"[{', '.join(map(str, shape))}]"


register(Op("formula", _bound))


def _derived(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """A bound formula: its `text`, the `extents` of its dimensions in order, the `shape` of its result."""
    return parse_formula(attrs["text"], dict(attrs["extents"])), tuple(attrs["shape"])


register(Op("derived", _derived))


def derived(b: Composer, f: Formula, values: Mapping[str, str], name: str, origin: tuple[str, ...],
            shape: Sequence[Extent], base: str = "", dtype: str = "") -> str:
    """Add a node for a formula over `values`, by the names that it calls them, floats first.

    `dtype` is that of a formula without operands.
    """
    found = dict.fromkeys(x.tensor for x in f.loads)
    used = sorted(found, key=lambda t: b.type(values[t]).dtype not in FLOATS)
    text = str(f.renamed(dict(zip(used, NAMES, strict=False)))).replace(" ", "")
    given = {} if used else {"dtype": dtype}
    return b.op("derived", [values[t] for t in used], name, origin, base, text=text, extents=f.extents,
                shape=tuple(shape), **given)
