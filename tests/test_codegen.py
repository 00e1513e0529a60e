"""Generated code: no spills in inner loops, equal texts for equal kernels, texts that read back."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from kernels import (
    Net,
    arguments,
    compiled,
    expected_memory,
    kernels_of,
    machine,
    missing,
    results,
    run_memory,
)
from samples import SAMPLES

from cnncc.codegen.lower import lower
from cnncc.codegen.worker import assembly
from cnncc.compiler import optimize, plan, stages
from cnncc.ir.errors import InternalError
from cnncc.ir.graph import Graph
from cnncc.ir.kernel import parse_kernel
from cnncc.ir.regions import scratch_shapes
from cnncc.ir.schedule import parse_schedule
from cnncc.ir.target import Target, target_for

TESTS = Path(__file__).absolute().parent


def level_of(name: str) -> Target:
    if absent := missing(name):
        pytest.skip(f"this CPU has no {absent}")
    return target_for(name)


# ---- registers


def inner_loops(text: str) -> list[str]:
    """The basic blocks that jump to themselves and multiply and add, up to that jump."""
    blocks = re.split(r"^(\.LBB\w+):", text, flags=re.M)[1:]
    loops = [re.match(rf".*\bj\w+\s+{re.escape(label)}\b", body, re.S)
             for label, body in zip(blocks[::2], blocks[1::2], strict=True)]
    return [m[0] for m in loops if m is not None and "vfmadd" in m[0]]


def spilled(body: str) -> int:
    return len(re.findall(r"\(%rsp[,)]", body))


def shapes() -> list[tuple[int, int, int, int, int, int]]:
    """(channels, results, size, window, stride, groups) over the range that networks use."""
    rng = np.random.default_rng(11)
    result = []
    for i in range(24):
        c, k = (int(16 * rng.integers(1, 20)) for _ in range(2))
        size, r, s = (
            int(rng.choice([7, 14, 28, 56])),
            int(rng.choice([1, 3, 3, 5])),
            int(rng.choice([1, 1, 2])),
        )
        result.append((c, c, size, max(r, 3), s, c) if i % 4 == 3 else (3, k, 56, 7, 2, 1) if i % 8 == 6 else
                      (c, k, size, r, s, 1))
    return result


@pytest.mark.parametrize("level", ["x86-64-v4", "x86-64-v3"])   # SSE copies what it adds to
@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_inner_loops_keep_their_registers(shape: tuple[int, ...], level: str) -> None:
    target = level_of(level)
    c, k, size, r, s, g = shape
    net = Net()
    x = net.x(1, c, size, size)
    x = net.relu(x) if c >= 16 else x  # in blocks, as between layers, or as the user gives images
    y = net.relu(net.bias(net.conv(x, k, (r, r), (s, s), begin=(r // 2,) * 2, group=g)))
    found = 0
    for n in kernels_of(net.result(net.op("reduce_sum", [y], "sum", axes=(2, 3), keepdims=False)), target):
        assert n.kernel is not None
        for body in inner_loops(assembly(lower(n.kernel, "k", target), machine(target))):
            found += 1
            assert not spilled(body), f"{n.kernel}\n{body}"
    assert found or g > 1, "no inner loop was found: is the test still looking for the right thing?"


def test_spills_are_seen() -> None:
    text = (
        ".LBB0_1:\n vmovaps 64(%rsp), %zmm1\n vfmadd231ps %zmm1, %zmm2, %zmm3\n jb .LBB0_1\n"
        " movq 8(%rsp), %rax\n"
        ".LBB0_2:\n vfmadd213ps 8(%rsp), %zmm1, %zmm2\n jmp .LBB0_3\n"
    )
    assert [spilled(b) for b in inner_loops(text)] == [1]


# ---- equal texts


def network() -> Graph:
    net = Net()
    x = net.conv(net.x("N", 3, 20, 20), 24, (3, 3), begin=(1, 1))
    for _ in range(3):
        x = net.op("add", [net.bias(net.conv(net.relu(x), 24, (3, 3), begin=(1, 1))), x], "sum")
    return net.result(net.op("softmax", [net.linear(net.flatten(x), 10)], "p", axis=1))


def test_equal_kernels_have_equal_texts() -> None:
    target = target_for()
    first, second = (dict(plan(optimize(network(), target)).texts(target)) for _ in range(2))
    assert first == second


def test_equal_kernels_are_compiled_once() -> None:
    code = plan(optimize(network(), target_for()))
    blocks = [s for s in code.plan.steps if s.ops.startswith("conv+add+add") or "relu" in s.ops]
    assert len(blocks) >= 3
    steps = [s.symbol for s in code.plan.steps]
    assert len(steps) > len(set(steps)) == len(code.kernels)
    texts = list(code.texts(target_for()))
    assert len({symbol for symbol, _ in texts}) == len(texts) == len(code.kernels) + 2      # driver, pool


def test_objects_do_not_depend_on_the_order_of_sets() -> None:
    program = ("import hashlib, test_codegen as t, kernels as k\n"
               "from cnncc.compiler import optimize, plan\n"
               "target = k.target_for()\n"
               "for symbol, text in plan(optimize(t.network(), target)).texts(target):\n"
               "    print(symbol, hashlib.sha256(k.object_of(text, target)).hexdigest())\n")
    outputs = set()
    for seed in ("0", "1", "77"):
        env = {
            **os.environ,
            "PYTHONHASHSEED": seed,
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]),
        }
        outputs.add(subprocess.run([sys.executable, "-c", program], env=env, check=True, capture_output=True,
                                   text=True, timeout=120).stdout)
    assert len(outputs) == 1 and outputs.pop().count("\n") > 4


# ---- texts read back


@pytest.mark.parametrize("name", SAMPLES)
def test_kernels_and_schedules_read_back(name: str) -> None:
    for _, graph in stages(SAMPLES[name](), target_for()):
        for n in graph:
            if n.kernel is not None:
                assert parse_kernel(str(n.kernel)) == n.kernel
                for s in (n.kernel.loops, *(x.schedule for x in n.kernel.stages)):
                    assert parse_schedule(str(s)) == s


def test_scratch_memory_holds_all_parts_that_are_read() -> None:
    """Of one tensor parts side by side are read, which together are more than each; `u` comes after it."""
    kernel = parse_kernel("""in x f32[3, 24] as n, c
scratch t f32[3, 24] as n, c
scratch u f32[3, 8] as n, c
out y f32[3, 8] as n, c
stage i=3 j=24
  t[i, j] = x[i, j] + 1
  loops i, j:8, unroll j:8, simd j
stage i=3 j=8
  u[i, j] = t[i, j + 8] * 2
  loops i, j:8, unroll j:8, simd j
stage i=3 j=8
  y[i, j] = u[i, j] + t[i, j] + t[i, j + 16]
  loops i, j:8, unroll j:8, simd j""")
    assert scratch_shapes(kernel) == {"t": (3, 24), "u": (3, 8)}
    x = np.arange(72, dtype=np.float32).reshape(3, 24)
    got = run_memory(kernel, [x], target_for("native"))
    np.testing.assert_array_equal(got.reshape(3, 8), 2 * (x[:, 8:16] + 1) + x[:, :8] + x[:, 16:] + 2)


def test_parts_of_a_buffer_are_read_by_equal_kernels() -> None:
    """What a kernel adds to an index is in an address; the first part has no such sum to begin with."""
    net = Net()
    x = net.x(6, 4, 20)
    parts = [net.op("tanh", [net.cut(x, {0: range(i, i + 2)})], "tanh") for i in (0, 2, 4)]
    graph = optimize(net.result(net.join(*parts, axis=0)), target_for("native"))
    steps = [s for s in plan(graph).plan.steps if "tanh" in s.ops]
    assert len(steps) == 3 and len({s.symbol for s in steps[1:]}) == 1
    assert [s.places[0].first for s in steps] == [0, 640, 1280]
    assert len({s.places[1].first for s in steps}) == 3
    feed = net.numbers((6, 4, 20))
    np.testing.assert_allclose(results(compiled(net.result(net.join(*parts, axis=0))), {"x0": feed})["y0"],
                               np.tanh(feed), rtol=1e-6)


def test_factors_of_tables_leave_out_what_lies_outside() -> None:
    """Lanes whose taps don't exist add nothing, also where another operand isn't zero there."""
    rows = "((-1, 0, 1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, -1, 0, 1))"
    kernel = parse_kernel(f"""in w f32[7, 1] as n, c
in u f32[1, 7, 14] as n, c, w
out y f32[1, 28, 7] as n, c, w
loops par n
stage n=1 a=4 c=7 p=7 i=4
  y[n, 7*a + c, p] += {rows}[a, i] * (w[c, 0] + u[n, c, 2*p + i - 1])
  loops c, unroll i, unroll a, unroll p:4, simd p""")
    arrays, target = arguments(kernel), target_for("x86-64-v2")
    np.testing.assert_array_equal(run_memory(kernel, arrays, target), expected_memory(kernel, arrays, 1))


def test_a_cut_result_does_not_lie_along_the_vector() -> None:
    kernel = parse_kernel("""in x f32[1, 4, 1, 10] as n, c, h, w
out y f32[1, 1, 1, 19] as n, c, h, w
stage p=10 i=2 a=4
  y[0, 0, 0, 2*p + i] += ((1, 1, 1, 0), (0, 1, -1, 1))[i, a] * x[0, a, 0, p]
  loops p:12, unroll a, unroll i, unroll p:4, simd p""")
    with pytest.raises(InternalError, match="a result that is cut lies along the vector"):
        lower(kernel, "k", target_for("x86-64-v2"))
