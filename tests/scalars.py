"""Single formulas as kernels over arrays of any dtype, for tests of what the scalar functions compute."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from kernels import function_of

from cnncc.ir.kernel import Kernel, parse_kernel
from cnncc.ir.op import NAMES
from cnncc.ir.target import LEVELS, TRIPLE, Target, target_for
from cnncc.ir.tasks import task_count
from cnncc.ir.types import NUMPY, name_of
from cnncc.passes.choice import schedule
from cnncc.runtime import buffers

Array = np.ndarray[Any, Any]
LEVEL = {name: Target(TRIPLE, *LEVELS[f"x86-64-{name}"]) for name in ("v2", "v3", "v4")}


def kernel_of(text: str, out: str, dtypes: list[str], n: int, target: Target) -> Kernel:
    """`text` over x[i], w[i], u[i] of these dtypes, with the loops that the compiler would choose."""
    tensors = "".join(f"in {name} {d}[{n}] as n\n" for name, d in zip(NAMES, dtypes, strict=False))
    kernel = parse_kernel(f"{tensors}out y {out}[{n}] as n\nstage i={n}\n  y[i] = {text}")
    return schedule(kernel, (), target)


def compute(text: str, out: str, *arrays: Array, target: Target | None = None) -> Array:
    """The value of an expression over arrays of one length, by compiled code."""
    target = target or target_for()
    kernel = kernel_of(text, out, [name_of(a.dtype) for a in arrays], arrays[0].size, target)
    y = np.zeros(arrays[0].size, NUMPY[out])
    arrays = tuple(map(np.ascontiguousarray, arrays))
    slots = np.array([1, 0, *map(buffers.address, (*arrays, y))], np.int64)
    function_of(kernel, target)(buffers.address(slots), 0, task_count(kernel)[0], 0)
    return y


def ulps(got: Array, exact: Array) -> Array:
    """The distance in units of the last place of got's dtype from what is known to more digits."""
    least = np.finfo(got.dtype).tiny
    with np.errstate(all="ignore"):
        unit = np.spacing(np.maximum(np.abs(exact), least).astype(got.dtype))
        distance = np.abs(got.astype(exact.dtype) - exact) / unit
    return np.where((np.abs(exact) < least) & (np.abs(got) <= least), 0, distance)


@contextmanager
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield
