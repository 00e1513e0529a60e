"""Adjoints of formulas: what all points add to elements x[index], as a sum for each element.

y[h] += term for the points with index = h is a scatter. It becomes gathers: an index is solved for one of its
dimensions, for each remainder modulo that one's coefficient. Indices that name each element at most once need
no solving: they stay on the left side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from cnncc.ir.errors import UnsupportedError
from cnncc.ir.expr import Expr, Index, Load, loads, reindexed
from cnncc.ir.formula import Formula, outside
from cnncc.ir.types import Extent

Sizes = dict[str, Extent]


@dataclass(frozen=True)
class Adjoint:
    """Formulas that write disjoint parts of a value, all of it where `covers`."""

    formulas: tuple[Formula, ...]
    covers: bool


@dataclass(frozen=True)
class _Solution:
    """What stands for the dimensions of an axis's index, the new dimensions, and where the result goes."""

    mapping: Mapping[str, Index]
    sizes: Mapping[str, Extent]
    place: Index


def adjoint(index: Sequence[Index], term: Expr, extents: Mapping[str, Extent], shape: Sequence[Extent],
            operands: Mapping[str, Sequence[Extent]]) -> Adjoint:
    """y[index] += term while every dimension of `extents` runs over its extent, y of `shape`.

    `operands` are the shapes of what `term` loads; where a load is outside of its operand, or `index` of the
    shape, nothing is added. Raises UnsupportedError where no dimension of an index can be solved for.
    """
    kept = _kept(index, extents, shape)
    if kept is None:
        return Adjoint((), False)
    mapping = {d: Index((), first) if n == 1 else Index(((d, 1),), first) for d, (first, n) in kept.items()}
    index, term = [i.substitute(mapping) for i in index], reindexed(term, mapping)
    sizes: Sizes = {d: kept[d][1] if d in kept else e for d, e in extents.items()}
    sizes = {d: e for d, e in sizes.items() if e != 1}
    if any(i.lookup for i in index):
        return Adjoint((_formula(index, term, sizes, operands),), False)
    if _distinct(index, sizes, shape):
        full = all(_reach(i, sizes) >= (e if isinstance(e, int) else 0) for i, e in
                   zip(index, shape, strict=True))
        return Adjoint((_formula(index, term, sizes, operands),), full)
    guarded = {i.single for x in loads(term) for i, e in zip(x.index, operands[x.tensor], strict=True)
               if i.single and sizes[i.single] == e}
    taken: set[str] = set()
    axes: list[list[_Solution | None]] = []
    for axis, (i, extent) in enumerate(zip(index, shape, strict=True)):
        axes.append(list(_solved(i, f"h{axis}", extent, sizes, guarded - taken)))
        taken |= set(i.dims)
    found = list(itertools.product(*axes))
    formulas = []
    for chosen in found:
        parts = [s for s in chosen if s is not None]
        if len(parts) == len(chosen):
            mapping = {d: i for s in parts for d, i in s.mapping.items()}
            own = {**sizes, **{d: e for s in parts for d, e in s.sizes.items()}}
            left = {d: e for d, e in own.items() if d not in mapping}
            formulas.append(_formula([s.place for s in parts], reindexed(term, mapping), left, operands))
    full = all(i.terms or e == 1 for i, e in zip(index, shape, strict=True))
    return Adjoint(tuple(formulas), full and len(formulas) == len(found))


def _kept(index: Sequence[Index], extents: Mapping[str, Extent],
          shape: Sequence[Extent]) -> dict[str, tuple[int, int]] | None:
    """The first place and the number of places of dimensions, as far as what they alone index is there.

    None where nothing is.
    """
    kept = {d: (0, e) for d, e in extents.items() if isinstance(e, int)}
    for i, extent in zip(index, shape, strict=True):
        terms = [(d, c) for d, c in i.terms if extents[d] != 1]
        if i.lookup or len(terms) > 1 or isinstance(extent, str) or any(d not in kept for d, _ in terms):
            continue
        if not terms and not 0 <= i.const < extent:
            return None
        for d, c in terms:
            near, far = (-i.const, extent - 1 - i.const) if c > 0 else (i.const - extent + 1, i.const)
            (low, n), first, last = kept[d], max(0, -(-near // abs(c))), far // abs(c)
            low, end = max(low, first), min(low + n, last + 1)
            if low >= end:
                return None
            kept[d] = low, end - low
    return kept


def _formula(index: Sequence[Index], term: Expr, sizes: Sizes,
             operands: Mapping[str, Sequence[Extent]]) -> Formula:
    """The sum, its dimensions those of the result first; a dimension that only falls is turned around."""
    used = list(dict.fromkeys(d for i in index for d in i.dims))
    rest = [d for d in sizes if d not in used]
    falls = {d for d in rest if {c < 0 for x in loads(term) for i in x.index if len(i.terms) > 1
                                 for own, c in i.terms if own == d} == {True}}
    term = reindexed(term, {d: Index(((d, -1),), int(sizes[d]) - 1) for d in falls})
    left = Load("y", tuple(index))
    scattered = any(i.lookup for i in index)
    leaves = any(outside(i, e, sizes) for x in loads(term)
                 for i, e in zip(x.index, operands[x.tensor], strict=True))
    fold = "+=" if rest or scattered or leaves else "="
    return Formula(left, fold, term, tuple((d, sizes[d]) for d in (*used, *rest)))


def _distinct(index: Sequence[Index], sizes: Sizes, shape: Sequence[Extent]) -> bool:
    """Whether no element is named twice, and none before the first."""
    seen: set[str] = set()
    for i, extent in zip(index, shape, strict=True):
        if not seen.isdisjoint(i.dims) or i.const < 0:
            return False
        seen.update(i.dims)
        step = 1
        for d, c in sorted(i.terms, key=lambda term: term[1]):
            if c < step:
                return False
            size = sizes[d]
            if isinstance(size, str):
                return i.single is not None
            step = c * (size - 1) + step
        if isinstance(extent, int) and i.const + step > extent and len(i.terms) == 1:
            return False
    return True


def _reach(i: Index, sizes: Sizes) -> float:
    """How many elements from the first on an index names without a gap."""
    if i.single and isinstance(sizes[i.single], str):
        return math.inf
    step = 1
    for d, c in sorted(i.terms, key=lambda term: term[1]):
        if c != step:
            return 0
        step *= int(sizes[d])
    return step if i.const == 0 else 0


def _solved(i: Index, h: str, extent: Extent, sizes: Sizes,
            free: Collection[str | None]) -> Iterator[_Solution | None]:
    """An index = h, solved for one of the `free` dimensions: a solution for each remainder, or None."""
    if not i.terms or (i.single and sizes[i.single] == extent):
        yield _Solution({}, {}, i)
        return
    solvable = [(int(sizes[d]), abs(c), c, d) for d, c in i.terms if d in free]
    if not solvable or isinstance(extent, str):
        raise UnsupportedError(f"its index {i} can't be solved for a dimension of the result")
    _, step, c, v = max(solvable)                       # the sum that is left is over the others
    rest = Index(tuple((d, k) for d, k in i.terms if d != v), i.const)
    for remainder in range(min(step, extent)):
        yield _remainder(rest, h, step, c, v, remainder, extent, sizes)


def _remainder(rest: Index, h: str, step: int, c: int, v: str, remainder: int, extent: int,
               sizes: Sizes) -> _Solution | None:
    """c*v + rest = step*h + remainder, solved for v; None where that has no solution."""
    uneven = [(d, k) for d, k in rest.terms if k % step]
    if len(uneven) > 1:
        raise UnsupportedError(f"{step} doesn't divide several dimensions of its index {rest} + {c}*{v}")
    mapping: dict[str, Index] = {}
    new: dict[str, Extent] = {h: -(-(extent - remainder) // step)}
    if uneven:
        (d, k), size = uneven[0], int(sizes[uneven[0][0]])
        fit = [r for r in range(size) if (remainder - rest.const - k * r) % step == 0]
        if not fit:
            return None
        apart = step // math.gcd(step, k)
        mapping[d] = Index(((f"{d}_", apart),), fit[0])
        new[f"{d}_"] = len(fit)
    elif (remainder - rest.const) % step:
        return None
    left = Index(((h, step),), remainder) + rest.substitute(mapping).scale(-1)
    sign = 1 if c > 0 else -1
    mapping[v] = Index(tuple((d, sign * k // step) for d, k in left.terms), sign * left.const // step)
    return _Solution(mapping, new, Index(((h, step),), remainder))
