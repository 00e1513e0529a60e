"""Neighbouring dimensions that every operand walks together become one: 14 x 14 pixels are 196."""

from __future__ import annotations

import functools
from dataclasses import replace

from cnncc.ir.expr import Index, Load, rewrite
from cnncc.ir.formula import Formula
from cnncc.ir.kernel import ACC, Kernel, Stage, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.types import TensorType


@functools.lru_cache(maxsize=1024)
def collapse(kernel: Kernel) -> Kernel:
    """The kernel with as few dimensions as its operands' memory allows (kernels of one stage)."""
    if len(kernel.stages) != 1:
        return kernel
    while True:
        stage = kernel.stages[0]
        dims = list(stage.extents)
        pair = next(((a, b) for a in dims for b in dims if a != b and _together(kernel, stage, a, b)), None)
        if pair is None:
            return kernel
        kernel = _merge(kernel, stage, *pair)


def _axis(tensor: Tensor, x: Load, a: str, b: str) -> int | None:
    """The axis that `a` indexes, `b` the next in memory; -1: the load has neither; None: no merging."""
    used = {d for i in x.index for d in i.dims}
    if not used & {a, b}:
        return -1
    for axis in range(len(x.index) - 1):
        if x.index[axis].single == a and x.index[axis + 1].single == b:
            order = tensor.layout.order
            at = next(i for i, (ax, _) in enumerate(order) if ax == axis)
            once = sum(d in (a, b) for i in x.index for d in i.dims) == 2
            plain = order[at][1] == 0 and order[at + 1:at + 2] == ((axis + 1, 0),) \
                and tensor.layout.block(axis + 1) == 1
            return axis if plain and once else None
    return None


def _together(kernel: Kernel, stage: Stage, a: str, b: str) -> bool:
    """Whether `a` and `b`, in this order, can be one dimension."""
    extents, tensors = stage.extents, kernel.tensors
    if isinstance(extents[a], str) or isinstance(extents[b], str):
        return False
    for dims in (stage.first.reduced, stage.formulas[-1].out_dims):
        if (a in dims) != (b in dims):
            return False
    for x in (stage.out, *stage.loads):
        t = tensors[x.tensor]
        axis = _axis(t, x, a, b)
        if axis is None or (axis >= 0 and t.type.shape[axis:axis + 2] != (extents[a], extents[b])):
            return False
    return True


def _merge(kernel: Kernel, stage: Stage, a: str, b: str) -> Kernel:
    extents = stage.extents
    axes = {x.tensor: _axis(kernel.tensors[x.tensor], x, a, b) for x in (stage.out, *stage.loads)}
    def load(x: Load) -> Load:
        if x.tensor == ACC:
            return Load(ACC, tuple(i for i in x.index if i != Index.of(b)))
        axis = axes[x.tensor]
        return x if axis is None or axis < 0 else Load(x.tensor, (*x.index[:axis + 1], *x.index[axis + 2:]))
    size = int(extents[a]) * int(extents[b])
    def formula(f: Formula) -> Formula:
        sizes = tuple((d, size if d == a else e) for d, e in f.extents if d != b)
        return Formula(load(f.out), f.fold, rewrite(f.expr, load), sizes)
    def tensor(t: Tensor) -> Tensor:
        axis = axes.get(t.name)
        if axis is None or axis < 0:
            return t
        shape = (*t.type.shape[:axis], size, *t.type.shape[axis + 2:])
        order = tuple((x - (x > axis), block) for x, block in t.layout.order if x != axis + 1)
        return replace(t, type=TensorType(t.type.dtype, shape), layout=Layout(order))
    merged = Stage(tuple(formula(f) for f in stage.formulas))
    return Kernel(tuple(tensor(t) for t in kernel.operands), (merged,))
