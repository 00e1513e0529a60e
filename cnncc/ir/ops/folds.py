"""Contractions, windows and reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cnncc.ir.errors import ModelError
from cnncc.ir.expr import Call, Expr, Index, Load
from cnncc.ir.formula import Formula, bind, pointwise
from cnncc.ir.op import (
    NAMES,
    Attrs,
    Made,
    Op,
    Parts,
    Shape,
    Shapes,
    axes,
    gradient,
    reduction,
    register,
    relation,
    transform,
)
from cnncc.ir.types import Extent

relation("conv", "y[n, g*K + k, {p}] += x[n, g*C + c, {p*s + r*d - a | b}] * w[g*K + k, c, {r}]")


@gradient("conv")
def _conv_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    """That of the data is the transposed convolution."""
    x, w = n.inputs
    same = {key: n.attr[key] for key in ("strides", "dilations", "begin", "group")}
    return {0: make("conv_transpose", dy, w, size=tuple(make.b.type(x).shape[2:]), **same)}


relation("local_conv", "y[n, k, {p}] += x[n, c, {p*s + r*d - a | b}] * w[k, c, {r}, {p}]")
relation("local_conv_slope", "y[k, c, {r}, {p}] += x[n, k, {p}] * w[n, c, {p*s + r*d}]", window=True)


@gradient("local_conv")
def _local_conv_gradient(make: Parts, n: Made, dy: str) -> Mapping[int, str]:
    """That of the weights reads the padding as zeros: no loop over their places alone can leave it out."""
    (x, w), a = n.inputs, n.attr
    if any((*a["begin"], *a["end"])):
        x = make("pad", x, step="padded", begin=(0, 0, *a["begin"]), end=(0, 0, *a["end"]), value=0.0)
    kernel = tuple(make.b.type(w).shape[2:2 + len(a["strides"])])
    return {1: make("local_conv_slope", dy, x, kernel=kernel, strides=a["strides"], dilations=a["dilations"])}


relation("linear", "y[n, k] += x[n, c, {r}] * w[k, c, {r}]")
relation("max_pool", "y[n, c, {p}] max= x[n, c, {p*s + r*d - a | b}]", window=True)
relation("sum_pool", "y[n, c, {p}] += x[n, c, {p*s + r*d - a | b}]", window=True)
relation("first_in_window", "y[n, c, {p}] min= where(x[n, c, {p*s + r*d - a | b}] < w[n, c, {p}], "
                            "2147483647, u[{p*s + r*d - a | b}])", window=True)
relation("chosen_in_window", "y[n, c, {p}] += where(w[n, c, {p}] == u[{p*s + r*d - a | b}], "
                             "x[n, c, {p*s + r*d - a | b}], 0)", window=True)
transform("input_transform", "y[n, <all>, {p*d + f}] += t[a, i] * x[n, <others>, {p*m*d + i*d + f - b | e}]")
transform("output_transform", "y[n, <others>, {p*m*d + i*d + f}] += t[i, a] * x[n, <all>, {p*d + f}]")
reduction("reduce_sum", "+=")
reduction("reduce_prod", "*=")
reduction("reduce_max", "max=")
reduction("reduce_min", "min=")
reduction("reduce_abs_sum", "+=", "abs(x)")
reduction("reduce_square_sum", "+=", "x * x")
reduction("reduce_difference", "+=", "x - w")
reduction("reduce_variation", "+=", "(x - w) * (x - w)")
reduction("reduce_exp_sum", "+=", "exp(x - w)")
reduction("first_not_below", "min=", "where(x < w, 2147483647, u)")
reduction("last_not_below", "max=", "where(x < w, -1, u)")


def _neighbours(shapes: Shapes, attrs: Attrs) -> tuple[Formula, tuple[Extent, ...]]:
    size, below = attrs["size"], (attrs["size"] - 1) // 2
    template = "y[n, c, {p}] += x[n, c + r - a | b, {p}] * x[n, c + r - a | b, {p}]"
    return bind(template, [("x", shapes[0])], {"a": below, "b": size - 1 - below}, {"r": size},
                len(shapes[0]) - 2)


register(Op("neighbour_squares", _neighbours))


def _matmul(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Products of matrices along the last two axes, the axes before broadcast."""
    (*first, rows, inner), (*second, other, columns) = shapes
    if inner != other:
        raise ModelError(f"can't multiply {list(shapes[0])} by {list(shapes[1])}")
    leading, shape = pointwise("x * w", [("x", first), ("w", second)], {})
    x, w = (next(i.index for i in leading.loads if i.tensor == name) for name in "xw")
    row, column, c = map(Index.of, "mkc")
    factors = Load("x", (*x, row, c)), Load("w", (*w, c, column))
    extents = (*leading.extents, ("m", rows), ("k", columns), ("c", inner))
    out = Load("y", (*leading.out.index, row, column))
    return Formula(out, "+=", Call("mul", factors), extents), (*shape, rows, columns)


register(Op("matmul", _matmul))


def _contract(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
    """Products of one or two operands, summed over the letters that the right side of `equation` lacks.

    One without letters on that side has one element. Extents of 1 broadcast.
    """
    given, result = attrs["equation"].split("->")
    terms, sizes = list(zip(NAMES, given.split(","), shapes, strict=False)), dict[str, Extent]()
    for _, term, shape in terms:
        for letter, e in zip(term, shape, strict=True):
            if sizes.setdefault(letter, e) == 1:
                sizes[letter] = e
            elif e not in (1, sizes[letter]):
                raise ModelError(f"{attrs['equation']}: {letter} has {sizes[letter]} and {e} elements")
    last = dict.fromkeys(letter for letter in sizes if letter not in result)
    dims = {letter: f"i{n}" for n, letter in enumerate([*result, *last])}
    factors: list[Expr] = [Load(name, tuple(Index() if e != sizes[letter] else Index.of(dims[letter])
                                            for letter, e in zip(term, shape, strict=True)))
                           for name, term, shape in terms]
    out = Load("y", tuple(Index.of(dims[letter]) for letter in result) or (Index(),))
    return Formula(out, "+=" if last else "=", Call("mul", tuple(factors)) if factors[1:] else factors[0],
                   tuple((d, sizes[letter]) for letter, d in dims.items())), \
        tuple(sizes[letter] for letter in result) or (1,)


def _running(fold: str) -> Callable[[Shapes, Attrs], tuple[Formula, Shape]]:
    """Along `axis` a fold of `count` elements, as far as they exist, from `begin` on, `stride` apart."""
    def bound(shapes: Shapes, attrs: Attrs) -> tuple[Formula, Shape]:
        shape, axis = tuple(shapes[0]), attrs["axis"]
        out = axes(len(shape))
        place = Index(((f"i{axis}", 1), ("r", attrs["stride"])), attrs["begin"])
        extents = (*((f"i{a}", e) for a, e in enumerate(shape)), ("r", attrs["count"]))
        return Formula(Load("y", out), fold, Load("x", (*out[:axis], place, *out[axis + 1:])), extents), shape
    return bound


register(Op("contract", _contract))
register(Op("running_sum", _running("+=")))
register(Op("running_product", _running("*=")))
