"""Weights that are asked for part by part, residuals before the sums: which lines of memory are asked for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernels import arguments, expected_memory, function_of, run_memory

from cnncc.codegen.emitter import Emitter, Value
from cnncc.codegen.lower import lower
from cnncc.ir.kernel import Kernel, parse_kernel
from cnncc.ir.regions import scratch_offsets
from cnncc.ir.target import target_for
from cnncc.ir.tasks import sharing, task_count
from cnncc.passes.refine import early, streaming
from cnncc.runtime import buffers

Array = np.ndarray[Any, Any]
TARGET = target_for("x86-64-v2")
ROWS = """in x f32[1, 64, 50] as n, c:4, w, c
in w f32[48, 64, 1, 1] as h, w, n:4, c, n
out y f32[1, 48, 50] as n, c:4, w, c
loops {}
stage k=48 p0=50 c=64
  y[0, k, p0] += x[0, c, p0] * w[k, c, 0, 0]
  loops {}, c:4, unroll c, unroll p0, unroll k:4, simd k"""
GROUPS = """in x f32[1, 64, 50] as n, c:4, w, c
in w f32[48, 16, 1, 1] as h, w, n:4, c, n
out y f32[1, 48, 50] as n, c:4, w, c
loops {}
stage g=4 k=12 p0=50 c=16
  y[0, 12*g + k, p0] += x[0, 16*g + c, p0] * w[12*g + k, c, 0, 0]
  loops {}, c:4, unroll c, unroll p0, unroll k:4, simd k"""
WINDOW = """in x f32[1, 16, 12, 14] as n, c:4, h, w, c
in w f32[32, 16, 3, 3] as n:4, c:4, h, w, c, n
out y f32[1, 32, 12, 14] as n, c:4, h, w, c
loops {}
stage k=32 p0=12 p1=14 c=16 r0=3 r1=3
  y[0, k, p0, p1] += x[0, c, p0 + r0 - 1, p1 + r1 - 1] * w[k, c, r0, r1]
  loops {}, c:4, r0, unroll r1, c:2, unroll c, unroll p1, unroll k:4, simd k"""
CASES = {
    "rows": (ROWS.format("par k:8", "p0:5"), 10),
    "rows within tasks": (ROWS.format("par p0:25, par k:8", "p0:5"), 5),
    "loops of rows": (ROWS.format("par p0:25", "k:8, p0:5"), 5),
    "chunks": (ROWS.format("par k:8", "chunk c:16, p0:4"), 13),
    "groups": (GROUPS.format("par g", "k:4, p0:5"), 10),
    "one tile of a dimension": (GROUPS.format("par g, par k:12", "p0:5"), 10),
    "whole groups": (GROUPS.format("par g", "p0:4"), 13),
    "windows": (WINDOW.format("par k:8", "p0, p1:4"), 48)}


def lines_asked(kernel: Kernel, name: str, arrays: list[Array], soon: bool,
                monkeypatch: pytest.MonkeyPatch) -> Array:
    """Which lines of an operand's memory, and of four times as much behind it, a call asks for.

    It asks for all of them `soon`, or for none.
    """
    nbytes = kernel.tensors[name].nbytes
    memory, shift = np.zeros(8 * nbytes, np.uint8), 4 * nbytes      # the operand, then what was asked for
    places = [t.layout.pack(a) for t, a in zip(kernel.operands, arrays, strict=False)]
    number = [t.name for t in kernel.operands].index(name)
    memory[:nbytes] = places[number].view(np.uint8)
    places[number] = memory

    def mark(self: Emitter, pointer: Value, at: int, near: bool = True) -> None:
        assert near == soon
        p = self.offset(pointer, at + shift)
        self.line(f"store i8 1, {p.typed}")
    monkeypatch.setattr(Emitter, "prefetch", mark)
    out = np.zeros(kernel.output.layout.elements(kernel.output.type.static()), np.float32)
    scratch = np.zeros(1 + scratch_offsets(kernel)[1], np.uint8)
    slots = np.array([1, *map(buffers.address, (scratch, *places, out))], np.int64)
    function_of.__wrapped__(kernel, TARGET)(buffers.address(slots), 0, task_count(kernel)[0], 0)
    return memory[shift:].reshape(-1, 64).any(axis=1)


@pytest.mark.parametrize("name", CASES)
def test_all_that_follows_is_asked_for_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each tile asks for its part, close to that of the others, of what the next turn around them reads."""
    text, turns = CASES[name]
    assert streaming(parse_kernel(text), ["w"], TARGET) == parse_kernel(text)       # they fit into L2
    kernel = streaming(parse_kernel(text), ["w"], replace(TARGET, l2=1 << 10))
    assert str(kernel).endswith(", stream w")
    load = next(x for x in kernel.stages[0].loads if x.tensor == "w")
    shares = sharing(kernel, kernel.stages[0], load)
    assert shares is not None and shares.turns == turns

    arrays = arguments(kernel)
    np.testing.assert_array_equal(run_memory(kernel, arrays, TARGET), expected_memory(kernel, arrays, 1))

    asked = lines_asked(kernel, "w", arrays, False, monkeypatch)
    w = kernel.tensors["w"]
    first, lines = int(np.flatnonzero(asked)[0]), w.nbytes // 64
    assert first <= lines / 4 and asked[first:lines].mean() > 0.85
    assert asked[lines:].sum() <= 2 * first     # and of what lies behind them as much as of the first turn


RESIDUAL = """in x f32[1, 32, 48] as n, c:4, w, c
in w f32[32, 32, 1, 1] as h, w, n:4, c, n
in u f32[32, 1, 1] as n:4, c, w, n
{}out y f32[1, 32, 48] as n, c:4, w, c
loops par k:8
stage k=32 p0=48 c=32
  acc[k, p0] += x[0, c, p0] * w[k, c, 0, 0]
  y[0, k, p0] = max(acc[k, p0] + u[k, 0, 0] + {}[0, k, p0], 0)
  loops {}p0:4, c:4, unroll c, unroll p0, unroll k:4, simd k"""
OTHER = "in v f32[1, 32, 48] as n, c:4, w, c\n"


@pytest.mark.parametrize(("operands", "name", "chunks"), [(OTHER, "v", ""), (OTHER, "v", "chunk c:16, "),
                                                          ("", "x", "")])
def test_residuals_are_asked_for_early(operands: str, name: str, chunks: str,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of a tile's vectors once, and not what the sum reads of the same operand."""
    plain = parse_kernel(RESIDUAL.format(operands, name, chunks))
    assert early(plain, TARGET) == plain            # all of it fits into L2
    kernel = early(plain, replace(TARGET, l2=1 << 10))
    assert str(kernel).endswith(f", early {name}") and parse_kernel(str(kernel)) == kernel
    arrays = arguments(kernel)
    np.testing.assert_array_equal(run_memory(kernel, arrays, TARGET), expected_memory(kernel, arrays, 1))
    assert lower(kernel, "k", TARGET).count("call void @llvm.prefetch") == 2
    asked, lines = lines_asked(kernel, name, arrays, True, monkeypatch), kernel.tensors[name].nbytes // 64
    assert asked[:lines].all() and not asked[lines:].any()
