"""The dtypes of scalar expressions: what follows from the tensors that they load."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from cnncc.ir.errors import ModelError
from cnncc.ir.expr import BARE, Call, Const, Expr, Load, Table
from cnncc.ir.kernel import ACC, Stage, Tensor
from cnncc.ir.scalars import CLASSES, FUNCTIONS
from cnncc.ir.target import Target
from cnncc.ir.types import BYTES, FLOATS


def dtype_of(e: Expr, dtypes: Mapping[str, str]) -> str:
    """The dtype of an expression over tensors of these. Raises ModelError where a function refuses them."""
    if isinstance(e, Const):
        return e.dtype
    if isinstance(e, Load):
        return dtypes[e.tensor]
    if isinstance(e, Table):
        return e.dtype
    f = FUNCTIONS[e.fn]
    given = [dtype_of(a, dtypes) for a in e.args]
    bound = dict(zip(f.args, given, strict=True))
    if any(d not in CLASSES[letter] or d != bound[letter] for letter, d in zip(f.args, given, strict=True)):
        raise ModelError(f"{e.fn} can't be computed of {' and '.join(given)}")
    return bound.get(f.result, f.result)


def resolve(e: Expr, dtypes: Mapping[str, str], wanted: str) -> Expr:
    """Bare constants take the dtype of what they are combined with; else the `wanted` one.

    Raises ModelError where a fraction would become an integer.
    """
    if isinstance(e, Const):
        if e.dtype == BARE and wanted not in FLOATS and math.isfinite(e.value) and e.value != int(e.value):
            raise ModelError(f"{e.value} is no {wanted}")
        return Const(e.value, wanted) if e.dtype == BARE else e
    if isinstance(e, Load | Table):
        return e
    f = FUNCTIONS[e.fn]
    known = {letter: d for letter, a in zip(f.args, e.args, strict=True) if (d := _known(a, dtypes))}
    if f.result in f.args:
        known.setdefault(f.result, wanted)
    return Call(e.fn, tuple(resolve(a, dtypes, known.get(letter, BARE))
                            for letter, a in zip(f.args, e.args, strict=True)))


def _known(e: Expr, dtypes: Mapping[str, str]) -> str | None:
    """The dtype of an expression; None for one of bare constants alone."""
    if isinstance(e, Const | Table):
        return None if e.dtype == BARE else e.dtype
    if isinstance(e, Load):
        return dtypes[e.tensor]
    f = FUNCTIONS[e.fn]
    if f.result not in f.args:
        return f.result
    return next((d for letter, a in zip(f.args, e.args, strict=True)
                 if letter == f.result and (d := _known(a, dtypes))), None)


def stage_dtypes(stage: Stage, tensors: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The dtype of each formula's value, the accumulator's first."""
    dtypes = {name: t.type.dtype for name, t in tensors.items()}
    result: list[str] = []
    for f in stage.formulas:
        dtypes[ACC] = dtype_of(f.expr, dtypes)
        result.append(dtypes[ACC])
    return tuple(result)


def stage_lanes(stage: Stage, tensors: Mapping[str, Tensor], target: Target) -> int:
    """How many elements a vector of a stage has, all its values: the widest fills a register."""
    dtypes = {name: t.type.dtype for name, t in tensors.items()}
    own = stage_dtypes(stage, tensors)
    inner = (d for f in stage.formulas for d in _dtypes(f.expr, dtypes))
    return target.lanes_of(max(*own, *inner, key=lambda d: BYTES[d]))


def _dtypes(e: Expr, dtypes: Mapping[str, str]) -> Iterator[str]:
    """The dtypes that occur in an expression, apart from those of functions of one dtype."""
    if isinstance(e, Load):
        if e.tensor != ACC:
            yield dtypes[e.tensor]
    elif isinstance(e, Const | Table):
        yield e.dtype
    else:
        if FUNCTIONS[e.fn].result in BYTES:
            yield FUNCTIONS[e.fn].result
        for a in e.args:
            yield from _dtypes(a, dtypes)
