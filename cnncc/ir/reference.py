"""The NumPy reading of the IR: what a formula, a kernel or a graph computes, from the formulas alone.

Every load becomes a strided view with one axis per dimension of the formula (of length 1 where the load
doesn't use it), so that scalar functions broadcast, a fold reduces axes, and a sum of products is a matrix
product. A view must not leave its operand: the formula's space is cropped, and split where that isn't enough.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import DTypeLike, NDArray

from cnncc.ir.errors import InternalError
from cnncc.ir.expr import Call, Const, Expr, Index, Load, Table, loads, rewrite
from cnncc.ir.formula import IDENTITY, Formula, multiply_add
from cnncc.ir.graph import Builder, Graph, Loop, Node
from cnncc.ir.infer import stage_dtypes
from cnncc.ir.kernel import Kernel
from cnncc.ir.ops import NAMES, OPS
from cnncc.ir.scalars import FUNCTIONS, cast
from cnncc.ir.types import FLOATS, HALVES, NUMPY, product

Array = NDArray[Any]
Ranges = dict[str, range]

BLOCK = 1 << 23
"""Elements of a temporary array beyond which the work is done in parts."""

COMBINE: dict[str, np.ufunc] = {"+=": np.add, "*=": np.multiply, "max=": np.maximum, "min=": np.minimum}


def held(name: str, floats: DTypeLike) -> np.dtype[Any]:
    """How NumPy holds values of a dtype of ours where floats are computed at least in `floats`."""
    return np.promote_types(NUMPY[name], floats) if name in (*HALVES, *FLOATS) else NUMPY[name]


# ---- one formula


def apply(formula: Formula, operands: Mapping[str, Array], shape: tuple[int, ...], sizes: Mapping[str, int],
          floats: DTypeLike = np.float32, out: Array | None = None, dtype: str = "f32") -> Array:
    """The value of a formula over `operands`, of dtype `dtype`; `sizes` gives the symbolic extents.

    Floats are computed at least in `floats`; integers in what they are. The result has `shape`. What the
    formula doesn't write is zero, or as it is in `out`, which is then written and returned. A tap of which a
    load lies outside of its operand is left out of the fold.
    """
    own = held(dtype, floats)
    result = np.zeros(shape, own) if out is None else out
    ranges = _ranges(formula, sizes)
    if formula.scattered:
        return _scatter(formula, operands, ranges, floats, result, dtype)
    formula, operands = _looked_up(formula, operands, ranges)
    arrays = {x.tensor: np.asarray(operands[x.tensor]) for x in formula.loads}
    arrays = {name: np.asarray(a, np.promote_types(a.dtype, floats)) if "float" in a.dtype.name else a
              for name, a in arrays.items()}
    for x in (formula.out, *formula.loads):
        if len(x.index) != (result if x is formula.out else arrays[x.tensor]).ndim:
            raise InternalError(f"formula {formula}: {x} has the wrong rank")
    reach = _bounds(formula.out, ranges)
    if any(low < 0 for low, _ in reach):
        raise InternalError(f"formula {formula}: the left side leaves its shape {list(shape)}")
    full = tuple(max(e, high + 1) for (_, high), e in zip(reach, shape, strict=True))
    if full != shape:                           # what lies beyond the far end is not part of the result
        inside = tuple(slice(e) for e in shape)
        whole = np.zeros(full, own)
        whole[inside] = result
        known = whole if out is not None else None
        result[...] = apply(formula, operands, full, sizes, floats, known, dtype)[inside]
        return result
    if out is not None or formula.fold in ("*=", "max=", "min="):
        _view(result, formula.out, ranges)[...] = _identity(formula.fold, own)
    with np.errstate(all="ignore"):
        _Fold(*_padded(formula, arrays, ranges), result, np.dtype(floats)).run(ranges)
    return result


def _looked_up(f: Formula, operands: Mapping[str, Array],
               ranges: Ranges) -> tuple[Formula, Mapping[str, Array]]:
    """The formula with what is looked up gathered before: x[c, t[p]] is z[p, c] with z = x[:, t].T."""
    found: dict[Load, Load] = {}
    arrays = dict(operands)
    for x in f.loads:
        named = [d for i in x.index if i.lookup is not None for d in i.dims]
        if any(i.lookup is not None for i in x.index):
            apart = [a for a, i in enumerate(x.index)
                     if i.lookup is not None or not set(named).isdisjoint(i.dims)]
            dims = list(dict.fromkeys(d for a in apart for d in x.index[a].dims))
            places = [_place(x.index[a], operands, dims, ranges, operands[x.tensor].shape[a]) for a in apart]
            first = np.moveaxis(operands[x.tensor], apart, range(len(apart)))
            arrays[str(x)] = np.broadcast_to(first[tuple(places)], (*(len(ranges[d]) for d in dims),
                                                                    *first.shape[len(apart):]))
            rest = [i for a, i in enumerate(x.index) if a not in apart]
            found[x] = Load(str(x), (*map(Index.of, dims), *rest))
    return (replace(f, expr=rewrite(f.expr, lambda x: found.get(x, x))), arrays) if found else (f, operands)


def _place(index: Index, operands: Mapping[str, Array], dims: Sequence[str], ranges: Ranges,
           extent: int) -> Array:
    """The values of an index, one axis for each of `dims`; what data say is cut to the extent."""
    def spread(d: str) -> Array:
        return np.arange(len(ranges[d])).reshape([-1 if d == other else 1 for other in dims])
    result: Array = np.full((1,) * len(dims), index.const)
    for d, c in index.terms:
        result = result + c * spread(d)
    if index.lookup is not None:
        table = operands[index.lookup.tensor]
        at = tuple(_place(i, operands, dims, ranges, e) for i, e in
                   zip(index.lookup.index, table.shape, strict=True))
        named = table[at] if at else table.reshape((1,) * len(dims))
        if table.dtype == np.int64:
            named = np.where(named < 0, named + extent, named).clip(0, extent - 1)
        result = result + named
    return result


def _scatter(f: Formula, operands: Mapping[str, Array], ranges: Ranges, floats: DTypeLike, result: Array,
             dtype: str) -> Array:
    """The values of a formula at the places that data say, into `result`, one after the other."""
    dims = list(ranges)
    lengths = tuple(len(r) for r in ranges.values())
    plain = replace(f, out=Load(f.out.tensor, tuple(map(Index.of, dims))), fold="=")
    sizes = {e: len(ranges[d]) for d, e in f.extents if isinstance(e, str)}
    values = apply(plain, operands, lengths, sizes, floats, dtype=dtype)
    places = (np.broadcast_to(_place(i, operands, dims, ranges, e), lengths).reshape(-1)
              for i, e in zip(f.out.index, result.shape, strict=True))
    at = tuple(places)
    if f.fold == "=":
        result[at] = values.reshape(-1)
    else:
        COMBINE[f.fold].at(result, at, values.reshape(-1))
    return result


def _ranges(f: Formula, sizes: Mapping[str, int]) -> Ranges:
    return {d: range(sizes[e] if isinstance(e, str) else e) for d, e in f.extents}


def _identity(fold: str, dtype: np.dtype[Any]) -> float:
    value = IDENTITY.get(fold, 0.0)
    if np.isfinite(value) or dtype.kind == "f":
        return value
    if dtype.kind == "b":
        return value > 0
    return np.iinfo(dtype).min if value < 0 else np.iinfo(dtype).max


def _start(index: Index, ranges: Ranges) -> int:
    return index.const + sum(c * ranges[d].start for d, c in index.terms)


def _bounds(x: Load, ranges: Ranges) -> list[tuple[int, int]]:
    """The least and the greatest index of every axis of a load."""
    lengths = {d: len(r) for d, r in ranges.items()}
    return [replace(i, const=_start(i, ranges)).bounds(lengths) for i in x.index]


def _view(array: Array, x: Load, ranges: Ranges) -> Array:
    """The elements of a load: one axis per dimension of `ranges`. All of its indices must be valid."""
    strides = dict.fromkeys(ranges, 0)
    used = {d for i in x.index for d in i.dims}
    for i, stride in zip(x.index, array.strides, strict=True):
        for d, c in i.terms:
            strides[d] += c * stride
    start: tuple[Any, ...] = tuple(slice(_start(i, ranges), None) for i in x.index)
    lengths = [len(r) if d in used else 1 for d, r in ranges.items()]
    return as_strided(array[(*start, ...)], lengths, tuple(strides.values()))


def _padded(f: Formula, arrays: dict[str, Array], ranges: Ranges) -> tuple[Formula, dict[str, Array]]:
    """The same product of two operands with zeros around them instead of indices that leave them.

    Not where a zero times the other factor isn't zero.
    """
    new: list[Load] = []
    for x, other in itertools.permutations(multiply_add(f) or (), 2):
        if not isinstance(x, Load) or not isinstance(other, Load) or x.tensor == other.tensor:
            return f, arrays
        pads = [(max(0, -low), max(0, high + 1 - e))
                for (low, high), e in zip(_bounds(x, ranges), arrays[x.tensor].shape, strict=True)]
        if any(map(any, pads)):
            if not np.isfinite(arrays[other.tensor]).all():
                return f, arrays
            arrays = arrays | {x.tensor: np.pad(arrays[x.tensor], pads)}
            x = Load(x.tensor, tuple(i + Index((), a) for i, (a, _) in zip(x.index, pads, strict=True)))
        new.append(x)
    return (replace(f, expr=Call("mul", tuple(new))) if new else f), arrays


@dataclass(frozen=True, slots=True)
class _Fold:
    """A formula with its arrays; `run` folds a part of its space into `out`; floats at least in `floats`."""

    formula: Formula
    arrays: Mapping[str, Array]
    out: Array
    floats: np.dtype[Any]

    def run(self, ranges: Ranges) -> None:
        cropped = self.crop(ranges)
        if cropped is None:
            return
        if (loop := self.loop(cropped)) is None:
            self.whole(cropped)
            return
        dim, step = loop
        for i in range(0, len(cropped[dim]), step):
            self.run({**cropped, dim: cropped[dim][i:i + step]})

    def crop(self, ranges: Ranges) -> Ranges | None:
        """Without the taps whose loads are outside as far as one dimension tells; None: nothing is left."""
        before = ranges
        for x in self.formula.loads:
            for i, size in zip(x.index, self.arrays[x.tensor].shape, strict=True):
                base, long = _start(i, ranges), [(d, c) for d, c in i.terms if len(ranges[d]) > 1]
                if len(long) == 1:
                    (d, c), = long
                    near, far = (-base, size - 1 - base) if c > 0 else (base - size + 1, base)
                    first, last = max(0, -(-near // abs(c))), min(len(ranges[d]) - 1, far // abs(c))
                    if first > last:
                        return None
                    ranges = {**ranges, d: ranges[d][first:last + 1]}
                elif not long and not 0 <= base < size:
                    return None
        return ranges if ranges == before else self.crop(ranges)    # of what is shorter others tell more

    def loop(self, ranges: Ranges) -> tuple[str, int] | None:
        """The dimension to split and the step: for valid loads, distinct results, windows, bounded memory."""
        f, factors = self.formula, multiply_add(self.formula)
        for x in f.loads:
            shape = self.arrays[x.tensor].shape
            for i, (low, high), size in zip(x.index, _bounds(x, ranges), shape, strict=True):
                long = [d for d in i.dims if len(ranges[d]) > 1]
                # a window is a loop over its taps; in a product it becomes a matrix
                window = factors is None and len(long) > 1 and not set(long) <= set(f.out_dims)
                if low < 0 or high >= size or window:
                    return self.shortest(long, ranges), 1
        if self.overlaps(ranges):
            shared = [d for i in f.out.index if len(i.terms) > 1 for d in i.dims]
            return self.shortest(shared or f.out_dims, ranges), 1
        for e in factors or (f.expr,):
            dims = [d for d in ranges if any(d in i.dims for x in loads(e) for i in x.index)]
            size = product([len(ranges[d]) for d in dims])
            if size > BLOCK and not (factors is None and isinstance(e, Load)):
                dim = next(d for d in dims if len(ranges[d]) > 1)
                return dim, max(1, len(ranges[dim]) * BLOCK // size)
        return None

    def shortest(self, dims: Iterable[str], ranges: Ranges) -> str:
        """The one to split first: of the fold's dimensions where there are such."""
        return min((d for d in dims if len(ranges[d]) > 1),
                   key=lambda d: (d in self.formula.out_dims, len(ranges[d])))

    def overlaps(self, ranges: Ranges) -> bool:
        """Whether two points of the space may write the same element."""
        out, reach = _view(self.out, self.formula.out, ranges), 0
        for stride, n in sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1):
            if stride <= reach:
                return True
            reach += stride * (n - 1)
        return False

    def whole(self, ranges: Ranges) -> None:
        """Fold a part whose loads are all valid."""
        f, out = self.formula, _view(self.out, self.formula.out, ranges)
        if f.fold == "=":
            out[...] = self.value(f.expr, ranges)
            return
        kept = {axis for axis, d in enumerate(ranges) if d in f.out_dims}
        value, *factors = (self.value(e, ranges) for e in multiply_add(f) or (f.expr,))
        if factors:
            value = _product(value, factors[0], kept)
        axes = tuple(axis for axis, n in enumerate(value.shape) if axis not in kept and n > 1)
        if axes:
            value = COMBINE[f.fold].reduce(value, axis=axes, keepdims=True, dtype=value.dtype)
        used = f.tabled.union(d for x in f.loads for i in x.index for d in i.dims)
        times = product([len(ranges[d]) for d in f.reduced if d not in used])
        if f.fold == "+=" and times > 1:
            value = value * value.dtype.type(times)
        COMBINE[f.fold](out, value, out=out)

    def value(self, e: Expr, ranges: Ranges) -> Array:
        """A scalar expression over the space."""
        if isinstance(e, Load):
            return _view(self.arrays[e.tensor], e, ranges)
        if isinstance(e, Table):
            return _view(np.array(e.values, held(e.dtype, self.floats)), Load("", e.index), ranges)
        if isinstance(e, Const):
            return np.full((1,) * len(ranges), e.value, held(e.dtype, self.floats))
        args = [self.value(a, ranges) for a in e.args]
        return cast(args[0], held(e.fn, self.floats)) if e.fn in NUMPY else FUNCTIONS[e.fn].numpy(*args)


def _product(a: Array, b: Array, kept: Collection[int]) -> Array:
    """The product of two arrays, by a matrix product summed over the shared axes that aren't kept."""
    groups: dict[str, list[int]] = {"batch": [], "rows": [], "columns": [], "sum": [], "rest": []}
    for axis in range(a.ndim):
        own, other = a.shape[axis] > 1, b.shape[axis] > 1
        if axis not in kept and own != other:
            a, b = (x.sum(axis, keepdims=True) if x.shape[axis] > 1 else x for x in (a, b))
            own = other = False
        groups[("batch" if axis in kept else "sum") if own and other else "rows" if own else
               "columns" if other else "rest"].append(axis)
    if not groups["sum"]:
        return a * b
    if max(groups["rows"], default=-1) > max(groups["columns"], default=-1):    # the last axis varies fastest
        a, b, groups["rows"], groups["columns"] = b, a, groups["columns"], groups["rows"]
    batch, rows, columns, shared, rest = groups.values()
    c: Array = np.matmul(_matrix(a, batch, rows, shared), _matrix(b, batch, shared, columns))
    order = [*batch, *rows, *columns, *shared, *rest]
    lengths = [1 if axis in shared else max(a.shape[axis], b.shape[axis]) for axis in order]
    return c.reshape(lengths).transpose(np.argsort(order))


def _matrix(x: Array, batch: list[int], rows: list[int], columns: list[int]) -> Array:
    """The array as one matrix per batch element, a copy where it must be one, in the cheaper order."""
    def step(axes: list[int]) -> float:
        return min((abs(x.strides[axis]) / x.shape[axis] for axis in axes), default=np.inf)
    if step(rows) < step(columns):
        return _matrix(x, batch, columns, rows).swapaxes(1, 2)
    order = [*batch, *rows, *columns]
    others = [axis for axis in range(x.ndim) if axis not in order]      # of length 1
    lengths = [product([x.shape[axis] for axis in group]) for group in (batch, rows, columns)]
    return x.transpose([*order, *others]).reshape(lengths)


# ---- kernels and graphs


def run_kernel(kernel: Kernel, inputs: Collection[Array], sizes: Mapping[str, int],
               floats: DTypeLike = np.float32, base: Array | None = None) -> Array:
    """The value of a kernel's output: stages in order, each completely, written into `base` where given.

    Floats are computed at least in `floats`.
    """
    values = {t.name: np.asarray(array, held(t.type.dtype, floats)).reshape(t.type.static(**sizes))
              for t, array in zip(kernel.operands, inputs, strict=False)}
    if base is not None:
        values[kernel.output.name] = base.reshape(kernel.output.type.static(**sizes))
    typed = (zip(s.formulas, stage_dtypes(s, kernel.tensors), strict=True) for s in kernel.stages)
    for f, dtype in itertools.chain.from_iterable(typed):
        name, own = f.out.tensor, None
        if name in kernel.tensors:              # several formulas may each write their part
            shape, own = kernel.tensors[name].type.static(**sizes), values.get(name)
            if own is not None and any(x.tensor == name for x in f.loads):
                own = own.copy()
        else:                                   # the accumulator: as large as its indices reach
            shape = tuple(high + 1 for _, high in _bounds(f.out, _ranges(f, sizes)))
        values[name] = apply(f, values, shape, sizes, floats, own, dtype)
    return values[kernel.output.name]


def evaluate(graph: Graph, inputs: Mapping[str, Array], floats: DTypeLike = np.float32,
             keep: Collection[str] | None = None) -> dict[str, Array]:
    """The outputs of a graph by their names for the user, or the values named in `keep`, after any pass.

    Floats are computed and returned at least in `floats`. An intermediate value lives until its last use.
    """
    sizes = {s: n for name in graph.inputs
             for s, n in zip(graph[name].type.shape, inputs[name].shape, strict=True) if isinstance(s, str)}
    if keep is not None:
        graph = replace(graph, outputs=tuple((name, name) for name in keep), signals=(), state=())
    graph = replace(graph, state=()).live()
    uses = {name: len(users) for name, users in graph.users().items()}
    values: dict[str, Array] = {}
    for n in graph:
        if not uses[n.name]:            # an input that nothing reads
            continue
        if n.op in ("input", "state", "const"):
            values[n.name] = np.asarray(graph.constants[n.name] if n.op == "const" else inputs[n.name],
                                        held(n.type.dtype, floats))
        else:
            base = values.get(n.base)
            if base is not None and uses[n.base] > 1:
                base = base.copy()
            values[n.name] = _node(graph, n, [values[i] for i in n.inputs], sizes, floats, base)
        for i in n.needs:
            uses[i] -= 1
            if not uses[i]:
                del values[i]
    return {name: np.array(values[value]) for name, value in graph.outputs}


def _node(graph: Graph, n: Node, operands: list[Array], sizes: Mapping[str, int],
          floats: DTypeLike, base: Array | None) -> Array:
    shape = n.type.static(**sizes)
    if n.kernel is not None:
        return run_kernel(n.kernel, operands, sizes, floats, base).reshape(shape)
    if n.loop is not None and base is not None:
        return _turns(n.loop, [*operands, base], floats)
    op = OPS[n.op]
    if op.bound is not None:
        formula, _ = op.formula(graph.types(n), n.attr)
        named = dict(zip(NAMES, operands, strict=False))
        return apply(formula, named, shape, sizes, floats, base, n.type.dtype)
    if op.composed is None:
        return operands[0].reshape(shape)
    b = Builder(n.name)
    for i in dict.fromkeys(n.inputs):
        b.input(i, graph[i].type)
    parts = b.graph([("result", op.composed(b, n))])
    return evaluate(parts, dict(zip(n.inputs, operands, strict=True)), floats)["result"]


def _turns(loop: Loop, operands: Sequence[Array], floats: DTypeLike) -> Array:
    """The state after all turns; what a turn accesses is moved to where the first one finds it."""
    (_, value), = loop.body.outputs
    *_, state = operands
    for turn in range(loop.count):
        feeds = {i: np.roll(x, -turn * move[1], move[0]) if move else x for i, x, move in
                 zip(loop.body.inputs, (*operands[:-1], state), loop.moves, strict=True)}
        state, move = evaluate(loop.body, feeds, floats, [value])[value], loop.moves[-1]
        state = np.roll(state, turn * move[1], move[0]) if move else state
    return state
