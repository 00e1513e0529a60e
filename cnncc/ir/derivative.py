"""Derivatives of scalar expressions, in reverse: what of a result's gradient each loaded element gets.

Kinks follow PyTorch: relu'(0) = 0, of equal operands of max and min the second gets the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping

from cnncc.ir.errors import UnsupportedError
from cnncc.ir.expr import Call, Const, Expr, Load, Table, parse_expr, rewrite
from cnncc.ir.infer import dtype_of
from cnncc.ir.types import FLOATS, NUMPY

NONE = ("floor", "ceil", "trunc", "round", "sign")
"""Functions that are constant between their steps."""

RULES: dict[str, tuple[str, ...]] = {
    "add": ("g", "g"), "sub": ("g", "-g"), "mul": ("g * w", "g * x"), "div": ("g / w", "-(g * (x / w)) / w"),
    "mod": ("g", "-g * floor(x / w)"), "fmod": ("g", "-g * trunc(x / w)"),
    "pow": ("g * w * pow(x, w - 1)", "where(x == 0, 0, g * pow(x, w) * log(x))"),
    "neg": ("-g",), "abs": ("g * sign(x)",), "sqrt": ("g * 0.5 / sqrt(x)",),
    "max": ("where(max(x, w) > w, g, 0)", "where(max(x, w) > w, 0, g)"),
    "min": ("where(min(x, w) < w, g, 0)", "where(min(x, w) < w, 0, g)"),
    "where": ("", "where(x, g, 0)", "where(x, 0, g)"),
    "exp": ("g * exp(x)",), "expm1": ("g * (expm1(x) + 1)",), "log": ("g / x",), "log1p": ("g / (x + 1)",),
    "sigmoid": ("g * sigmoid(x) * (1 - sigmoid(x))",), "tanh": ("g * (1 - tanh(x) * tanh(x))",),
    "softplus": ("g * sigmoid(x)",), "erf": ("g * 1.1283791670955126 * exp(-x * x)",),
    "sin": ("g * cos(x)",), "cos": ("-g * sin(x)",), "tan": ("g * (tan(x) * tan(x) + 1)",),
    "sinh": ("g * cosh(x)",), "cosh": ("g * sinh(x)",), "asin": ("g / sqrt(1 - x * x)",),
    "acos": ("-g / sqrt(1 - x * x)",), "atan": ("g / (x * x + 1)",), "asinh": ("g / sqrt(x * x + 1)",),
    "acosh": ("g / sqrt(x * x - 1)",), "atanh": ("g / (1 - x * x)",)}
"""By function: what each argument (x, w, u) gets of the result's gradient g; nothing where it is no number.
In terms of the function itself where that is exact, so that the result stands in for its recomputation."""

_PARSED = {fn: tuple(parse_expr(text) if text else None for text in texts) for fn, texts in RULES.items()}


def adjoints(e: Expr, g: Expr, dtypes: Mapping[str, str]) -> dict[Load, Expr]:
    """What each distinct load of floats in `e` gets, if the value of `e` gets `g`.

    Raises UnsupportedError for a function without a derivative.
    """
    found: dict[Load, Expr] = {}
    todo: list[tuple[Expr, Expr]] = [(e, g)]
    while todo:
        x, own = todo.pop()
        if isinstance(x, Const | Table) or dtype_of(x, dtypes) not in FLOATS:
            continue
        if isinstance(x, Load):
            found[x] = Call("add", (found[x], own)) if x in found else own
        elif x.fn in NUMPY:                                         # a cast
            source = dtype_of(x.args[0], dtypes)
            if source in FLOATS:
                todo.append((x.args[0], own if source == x.fn else Call(source, (own,))))
        elif x.fn in _PARSED:
            names = {"g": own, **dict(zip("xwu", x.args, strict=False))}
            todo += [(a, _filled(rule, names)) for a, rule in zip(x.args, _PARSED[x.fn], strict=True)
                     if rule is not None]
        elif x.fn not in NONE:
            raise UnsupportedError(f"{x.fn} has no derivative", [])
    return found


def _filled(rule: Expr, names: Mapping[str, Expr]) -> Expr:
    return rewrite(rule, lambda x: names[x.tensor])


def replaced(e: Expr, part: Expr, by: Expr) -> Expr:
    """`e` with every occurrence of a part replaced."""
    if e == part:
        return by
    return Call(e.fn, tuple(replaced(a, part, by) for a in e.args)) if isinstance(e, Call) else e
