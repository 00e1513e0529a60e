"""Any legal schedule gives the same integers: candidates of the pass, and loops changed at random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
from kernels import Array, Net, arguments, base_of, expected_memory, missing, run_memory, tables_of
from samples import SAMPLES

from cnncc.codegen.lower import lower
from cnncc.compiler import optimize, stages
from cnncc.ir.errors import InternalError
from cnncc.ir.kernel import Kernel, parse_kernel
from cnncc.ir.schedule import Loop, Schedule
from cnncc.ir.target import LEVELS, Target, target_for
from cnncc.passes.choice import schedule
from cnncc.passes.refine import even, refined
from cnncc.passes.schedules import candidates, weights_of

MOST = 12


class Given(NamedTuple):
    """What a kernel needs beside numbers: tables of indices, and whether it writes over something."""

    tables: Mapping[int, Array]
    clause: bool


def kernels(name: str, target: Target) -> Iterator[tuple[Kernel, Sequence[str], Given]]:
    """The kernels of one stage before they have schedules, and which operands are weights."""
    graph = next(g for p, g in stages(SAMPLES[name](), target) if p == "choose_layouts")
    clauses = graph.clauses()
    for n in graph:
        if n.kernel is not None and len(n.kernel.stages) == 1 and n.kernel.output.type.shape != ():
            yield n.kernel, weights_of(n, graph), Given(tables_of(graph, n), n.name in clauses)


def check(kernel: Kernel, target: Target, given: Given) -> None:
    batch = 2 if any(t.type.symbols for t in kernel.operands) else 1
    arrays = arguments(kernel, batch, tables=given.tables)
    base = base_of(kernel, batch) if given.clause else None
    got = run_memory(kernel, arrays, target, batch, base=base)
    np.testing.assert_array_equal(got, expected_memory(kernel, arrays, batch, base), f"{kernel}")


SMALL = [n for i, n in enumerate(SAMPLES) if "strips" not in n and i % 2 == 0]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SMALL)
def test_candidates(name: str, level: str) -> None:
    """The best, the worst and some between."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    target = target_for(level)
    rng = np.random.default_rng(len(name))
    for kernel, weights, given in kernels(name, target):
        found = candidates(kernel, weights, target)
        chosen = {0, len(found) - 1, *rng.integers(0, len(found), MOST // 2 if level == "x86-64-v4" else 2)}
        for i in sorted(chosen):
            check(refined(found[i].kernel, weights, replace(target, l2=1 << 10)), target, given)


def changed(loops: tuple[Loop, ...], kernel: Kernel, rng: np.random.Generator) -> tuple[Loop, ...]:
    """Some loops with another step, two neighbours swapped, a loop unrolled."""
    result = list(loops)
    for i, x in enumerate(result):
        extent = kernel.stages[-1].extents.get(x.dim)
        if x.kind == "for" and isinstance(extent, int) and rng.random() < 0.5:
            unit = next((y.step for y in loops if y.kind == "unroll" and y.dim == x.dim), 1)
            if any(y.dim == x.dim for y in loops[i + 1:]) or x.step > 1:
                result[i] = replace(x, step=int(rng.integers(1, 5)) * unit, even=bool(rng.integers(0, 2)))
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
    for kernel, weights, given in kernels(name, target):
        found = candidates(kernel, weights, target)
        for _ in range(MOST // 2):
            base = found[int(rng.integers(0, len(found)))].kernel
            stage = base.stages[0]
            other = replace(
                base, stages=(replace(stage, schedule=Schedule(changed(stage.schedule.loops, base, rng))),)
            )
            try:
                check(other, target, given)
            except InternalError:
                continue
            taken += other != base
    assert taken


CONVOLUTION = """in x f32[1, 8, 200, 79] as n, c:8, h, w, c
in w f32[24, 8, 3, 3] as n:8, c, h, w, n
out y f32[1, 24, 200, 79] as n, c:8, h, w, c
loops {}
stage k=24 p0=200 p1=79 c=8 r0=3 r1=3
  acc[k, p0, p1] += x[0, c, p0 + r0 - 1, p1 + r1 - 1] * w[k, c, r0, r1]
  y[0, k, p0, p1] = max(acc[k, p0, p1], 0)
  loops {}"""
TILE = "c, r0, unroll r1, unroll p1, unroll k:8, simd k"


@pytest.mark.parametrize(("around", "inside", "ranges"), [
    ("par k:8, par p0:67", f"p0, p1:4, {TILE}", "par k:8, par p0:67~; p0, p1:4~, "),     # 201, 80
    ("par k:16, par p0:9", f"p0, p1:7, {TILE}", "par k:16, par p0:9; p0, p1:7, "),       # 32, 207, 84
    ("par p0:67, par k:8", f"p1:10, p0, {TILE}", "par p0:67~, par k:8; p1:10~, p0, "),   # 201, 80
    ("par k:8", f"p0:3, chunk c:4, p0, p1:4, {TILE}", "par k:8; p0:3~, chunk c:4, p0, p1:4, ")])
def test_tiles_of_one_size(around: str, inside: str, ranges: str) -> None:
    """Where that computes little twice the last tile begins earlier, also where the taps within it differ."""
    kernel = even(parse_kernel(CONVOLUTION.format(around, inside)))
    assert f"{kernel.loops}; {kernel.stages[0].schedule}".startswith(ranges)
    check(kernel, target_for("x86-64-v3"), Given({}, False))


def test_sums_are_not_added_to_twice() -> None:
    for inside in (f"p0, p1:4, c:3~, {TILE}", f"chunk c:4, p0, p1:4~, {TILE}"):
        with pytest.raises(InternalError, match="twice"):
            lower(parse_kernel(CONVOLUTION.format("par k:8", inside)), "k", target_for("x86-64-v3"))


def test_what_is_written_over_its_operand_is_computed_once() -> None:
    net = Net()
    old = net.x(1, 16, 196)
    new = net.conv(old, 16, (1,))
    graph = net.result(new)
    texts = [str(optimize(g, target_for("x86-64-v3"))[new].kernel) for g in (
        graph, replace(graph, inputs=(), state=((old, new),)))]
    assert ["~" in text for text in texts] == [True, False]


@pytest.mark.parametrize("rows", [1, 2, 3])
@pytest.mark.parametrize("shape", ["20, 56", "56, 4"])
def test_windows_of_strips(shape: str, rows: int) -> None:
    """Loops over the taps of a stage whose rows the shared loops place say which of them are inside."""
    h, w = shape.split(", ")
    kernel = schedule(parse_kernel(f"""in x f32[1, 24, {shape}] as n, c:8, h, w, c
in w f32[24, 1, 3, 3] as n, c, h, w
in u f32[16, 24, 1, 1] as n, c, h, w
scratch t f32[1, 24, {shape}] as n, c:8, h, w, c
out y f32[1, 16, {shape}] as n, c:8, h, w, c
loops par p0:{rows}
stage g=24 p0={h} p1={w} r0=3 r1=3
  t[0, g, p0, p1] += x[0, g, p0 + r0 - 1, p1 + r1 - 1] * w[g, 0, r0, r1]
stage k=16 p0={h} p1={w} c=24
  y[0, k, p0, p1] += t[0, c, p0, p1] * u[k, c, 0, 0]"""), ("w", "u"), target_for("x86-64-v3"))
    check(kernel, target_for("x86-64-v3"), Given({}, False))
