"""Elements at places that data say: gathers, scatters over a base, samples between elements.

Indices are int64: they count from the end where they are negative, and are cut to the axis.
"""

from __future__ import annotations

from cnncc.ir.expr import Call, Const, Expr, Index, Load, parse_expr, rewrite
from cnncc.ir.formula import Formula
from cnncc.ir.op import Attrs, Indices, Op, Shape, Shapes, axes, elementwise, reduction, register
from cnncc.ir.types import Extent

elementwise("copy", "x")        # what a scatter can be written over
reduction("any_outside", "max=", "(x < -w) | (x >= w)")


def _moved(y: Indices, x: Indices, extents: list[Extent], fold: str = "=") -> Formula:
    return Formula(Load("y", y), fold, Load("x", x), tuple((f"i{a}", e) for a, e in enumerate(extents)))


def _said(w: Indices, *column: int) -> Index:
    """The place that w says, of a row of places that in a column."""
    return Index((), 0, Load("w", (*w, *(Index((), c) for c in column))))


def _gather(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """x along `axis` at all places in w, whose axes take that one's place."""
    (x, w), axis = shapes, attrs["axis"]
    shape = (*x[:axis], *w, *x[axis + 1:])
    y = axes(len(shape))
    end = axis + len(w)
    return _moved(y, (*y[:axis], _said(y[axis:end]), *y[end:]), list(shape)), shape


def _gather_elements(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """x where its index along `axis` is what w says there."""
    shape, axis = tuple(shapes[1]), attrs["axis"]
    y = axes(len(shape))
    return _moved(y, (*y[:axis], _said(y), *y[axis + 1:]), list(shape)), shape


def _gather_nd(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """The parts of x that the rows of w name; the first `batch` axes are common."""
    (x, w), batch = shapes, attrs["batch"]
    named = int(w[-1])
    shape = (*w[:-1], *x[batch + named:])
    y = axes(len(shape))
    rows, rest = y[:len(w) - 1], y[len(w) - 1:]
    return _moved(y, (*y[:batch], *(_said(rows, c) for c in range(named)), *rest), list(shape)), shape


def _scatter_elements(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """x into a tensor of `shape` where the index along `axis` is what w says."""
    axis, x = attrs["axis"], axes(len(shapes[0]))
    y = (*x[:axis], _said(x), *x[axis + 1:])
    return _moved(y, x, list(shapes[0]), attrs["fold"]), attrs["shape"]


def _scatter_nd(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """x into the parts of a tensor of `shape` that the rows of w name."""
    (first, w), x = shapes, axes(len(shapes[0]))
    rows = x[:len(w) - 1]
    y = (*(_said(rows, c) for c in range(int(w[-1]))), *x[len(rows):])
    return _moved(y, x, list(first), attrs["fold"]), attrs["shape"]


def _sample(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Folds of weighted elements of images x; w[n, p.., axis, r] are the places, u their weights.

    With v the images that it names, else image n. Of a sum a weight of zero leaves an element out.
    """
    x, w, _, *named = shapes
    rank, taps = len(x) - 2, int(w[-1])
    shape = (w[0], x[1], *w[1:-2])
    y = axes(len(shape))
    places, sizes = (y[0], *y[2:]), [(f"r{a}", taps) for a in range(rank)]
    rows = [(*places, Index((), a), Index.of(f"r{a}")) for a in range(rank)]
    image = Index((), 0, Load("v", y[:1])) if named else y[0]
    value: Expr = Load("x", (image, y[1], *(Index((), 0, Load("w", row)) for row in rows)))
    weight: Expr = Load("u", rows[0])
    for row in rows[1:]:
        weight = Call("mul", (weight, Load("u", row)))
    term: Expr = Call("mul", (value, weight))
    if attrs["fold"] == "+=":
        term = Call("where", (Call("eq", (weight, Const(0))), Const(0), term))
    extents = (*((f"i{a}", e) for a, e in enumerate(shape)), *sizes)
    return Formula(Load("y", y), attrs["fold"], term, extents), shape


_BEFORE = {"largest": "{0} > {1}", "smallest": "{0} < {1}",
           "largest_float": "({0} > {1}) | (isnan({0}) & ({1} == {1}))",
           "smallest_float": "({0} < {1}) | (isnan({1}) & ({0} == {0}))"}


def _rank(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """How many elements along `axis` come before each: in the `order`, or equal and earlier by w, 0, 1, ...

    A NaN is greater than all numbers.
    """
    shape, axis = tuple(shapes[0]), attrs["axis"]
    y = axes(len(shape))
    other = (*y[:axis], Index.of("r"), *y[axis + 1:])
    loads = {"x": Load("x", other), "w": Load("x", y), "u": Load("w", (other[axis],)),
             "v": Load("w", (y[axis],))}
    before, after = (_BEFORE[attrs["order"]].format(*pair) for pair in ("xw", "wx"))
    expr = rewrite(parse_expr(f"where(({before}) | (~({after}) & (u < v)), i64(1), i64(0))"),
                   lambda x: loads[x.tensor])
    extents = (*((f"i{a}", e) for a, e in enumerate(shape)), ("r", shape[axis]))
    return Formula(Load("y", y), "+=", expr, extents), shape


def _compare_rows(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """How row a of x compares with row b: 0 as equal, an odd number as greater, another one as less.

    The number is that of w, even and falling, where they first differ.
    """
    (rows, k), (a, b, r) = shapes[0], map(Index.of, ("i0", "i1", "r"))
    loads = {"x": Load("x", (a, r)), "w": Load("x", (b, r)), "u": Load("w", (r,))}
    expr = rewrite(parse_expr("where(x == w, i64(0), where(x > w, u + 1, u))"), lambda x: loads[x.tensor])
    return Formula(Load("y", (a, b)), "max=", expr, (("i0", rows), ("i1", rows), ("r", k))), (rows, rows)


for name, bound in (("gather", _gather), ("gather_elements", _gather_elements), ("gather_nd", _gather_nd),
                    ("scatter_elements", _scatter_elements), ("scatter_nd", _scatter_nd), ("sample", _sample),
                    ("rank", _rank), ("compare_rows", _compare_rows)):
    register(Op(name, bound))
