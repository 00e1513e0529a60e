"""Any legal schedule gives the same integers: candidates of the pass, and loops changed at random."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from kernels import arguments, expected_memory, missing, run_memory
from samples import SAMPLES

from cnncc.compiler import stages
from cnncc.ir.errors import InternalError
from cnncc.ir.kernel import Kernel
from cnncc.ir.schedule import Loop, Schedule
from cnncc.ir.target import LEVELS, Target, target_for
from cnncc.passes.schedules import candidates, weights_of

MOST = 12


def kernels(name: str, target: Target) -> Iterator[tuple[Kernel, Sequence[str]]]:
    """The kernels of one stage before they have schedules, and which operands are weights."""
    graph = next(g for p, g in stages(SAMPLES[name](), target) if p == "choose_layouts")
    for n in graph:
        if n.kernel is not None and len(n.kernel.stages) == 1 and n.kernel.output.type.shape != ():
            yield n.kernel, weights_of(n, graph)


def check(kernel: Kernel, target: Target) -> None:
    batch = 2 if any(t.type.symbols for t in kernel.operands) else 1
    arrays = arguments(kernel, batch)
    got = run_memory(kernel, arrays, target, batch)
    np.testing.assert_array_equal(got, expected_memory(kernel, arrays, batch), f"{kernel}")


SMALL = [n for i, n in enumerate(SAMPLES) if "strips" not in n and i % 2 == 0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SMALL)
def test_candidates(name: str, level: str) -> None:
    """The best, the worst and some between."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    target = target_for(level)
    rng = np.random.default_rng(len(name))
    for kernel, weights in kernels(name, target):
        found = candidates(kernel, weights, target)
        chosen = {0, len(found) - 1, *rng.integers(0, len(found), MOST // 2 if level == "x86-64-v4" else 2)}
        for i in sorted(chosen):
            check(found[i].kernel, target)


def changed(loops: tuple[Loop, ...], kernel: Kernel, rng: np.random.Generator) -> tuple[Loop, ...]:
    """Some loops with another step, two neighbours swapped, a loop unrolled."""
    result = list(loops)
    for i, x in enumerate(result):
        extent = kernel.stages[-1].extents.get(x.dim)
        if x.kind == "for" and isinstance(extent, int) and rng.random() < 0.5:
            unit = next((y.step for y in loops if y.kind == "unroll" and y.dim == x.dim), 1)
            if any(y.dim == x.dim for y in loops[i + 1:]) or x.step > 1:
                result[i] = replace(x, step=int(rng.integers(1, 5)) * unit)
            elif extent < 6 and rng.random() < 0.5:
                result[i] = replace(x, kind="unroll")
    if len(result) > 2 and rng.random() < 0.5:
        i = int(rng.integers(0, len(result) - 1))
        result[i], result[i + 1] = result[i + 1], result[i]
    return tuple(result)


@pytest.mark.parametrize("name", [n for n in SMALL if "conv" in n or "pool" in n or "linear" in n])
def test_random_schedules(name: str) -> None:
    """What the lowering takes is right; what it can't do, it refuses."""
    target = target_for()
    rng = np.random.default_rng(len(name))
    taken = 0
    for kernel, weights in kernels(name, target):
        found = candidates(kernel, weights, target)
        for _ in range(MOST // 2):
            base = found[int(rng.integers(0, len(found)))].kernel
            stage = base.stages[0]
            other = replace(
                base, stages=(replace(stage, schedule=Schedule(changed(stage.schedule.loops, base, rng))),)
            )
            try:
                check(other, target)
            except InternalError:
                continue
            taken += other != base
    assert taken
