"""Which loops are chosen where memory decides, and copies of weights that a step computes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernels import Net, arguments, check_exact, expected_memory, kernels_of, missing, run_memory

from cnncc.compiler import stages
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.kernel import parse_kernel
from cnncc.ir.schedule import Loop
from cnncc.ir.target import LEVELS, Target, target_for
from cnncc.ir.types import TensorType
from cnncc.passes.layouts import PACKED
from cnncc.passes.schedules import Candidate, candidates
from cnncc.passes.training import parameters
from cnncc.train.losses import SoftmaxCrossEntropy
from cnncc.train.optimizers import SGD
from cnncc.train.step import build

FORWARD = """in x f32[8, 9216] as n, c
in w f32[4096, 9216] as n, c
out y f32[8, 4096] as n, c:8, c
stage n=8 k=4096 c=9216
  y[n, k] += x[n, c] * w[k, c]"""
BACKWARD = """in x f32[8, 4096] as n, c:8, c
in w f32[4096, 9216] as n, c
out y f32[8, 9216] as n, c
stage n=8 c=9216 k=4096
  y[n, c] += x[n, k] * w[k, c]"""
WEIGHTS = """in x f32[8, 4096] as n, c:8, c
in w f32[8, 9216] as n, c
in u f32[4096, 9216] as n, c
out y f32[4096, 9216] as n, c
stage k=4096 c=9216 n=8
  acc[k, c] += x[n, k] * w[n, c]
  y[k, c] = u[k, c] * 0.9 + acc[k, c]"""
SMALL_IMAGES = """in x f32[32, 512, 2, 2] as n, c:8, h, w, c
in w f32[512, 512, 3, 3] as n, c:8, h, w, c
out y f32[32, 512, 2, 2] as n, c:8, h, w, c
stage n=32 k=512 p0=2 p1=2 c=512 r0=3 r1=3
  y[n, k, p0, p1] += x[n, c, p0 + r0 - 1, p1 + r1 - 1] * w[k, c, r0, r1]"""
STREAMS = """in x f32[1, 128, 3136] as n, c:16, w, c
in w f32[256, 128, 1, 1] as n, h, w, c
in v f32[1, 256, 3136] as n, c:16, w, c
out y f32[1, 256, 3136] as n, c:16, w, c
stage k=256 p=3136 c=128
  acc[k, p] += x[0, c, p] * w[k, c, 0, 0]
  y[0, k, p] = acc[k, p] + v[0, k, p]"""
TURNED = """in x f32[1, 32, 12544] as n, c:16, w, c
in w f32[48, 32, 1, 1] as n, h, w, c
out y f32[1, 48, 12544] as n, c, w
stage k=48 p=12544 c=32
  y[0, k, p] += x[0, c, p] * w[k, c, 0, 0]"""
NARROW = """in x f32[1, 128, 56, 56] as n, c, h, w
in w f32[128, 4, 3, 3] as n, c, h, w
out y f32[1, 128, 56, 56] as n, c, h, w
stage g=32 k=4 p=56 q=56 c=4 r=3 s=3
  y[0, 4*g + k, p, q] += x[0, 4*g + c, p + r - 1, q + s - 1] * w[4*g + k, c, r, s]"""
FIRST = """in x f32[8, 64, 55, 55] as n, c:8, h, w, c
in w f32[8, 3, 224, 224] as n, c, h, w
out y f32[64, 3, 11, 11] as n, c, h, w
stage k=64 c=3 r0=11 r1=11 n=8 p0=55 p1=55
  y[k, c, r0, r1] += x[n, k, p0, p1] * w[n, c, 4*p0 + r0 - 2, 4*p1 + r1 - 2]"""


def chosen(text: str, *weights: str) -> Candidate:
    return candidates(parse_kernel(text), weights, target_for("x86-64-v3"))[0]


def walked(candidate: Candidate) -> list[str]:
    """The dimensions of the loops around the tile, outermost first."""
    return [x.dim for x in candidate.outside]


def test_rows_of_a_large_result_are_written_as_rows() -> None:
    assert walked(chosen(WEIGHTS))[-1] == "c"


def test_rows_of_a_large_matrix_are_read_as_rows() -> None:
    """Along the sum by vectors; else some rows at a time, each for as many columns as a task has."""
    assert Loop("simd", "c") in chosen(FORWARD).inside
    outside = chosen(BACKWARD).outside
    assert [x.kind for x in outside if x.dim == "k"] == ["chunk"]
    assert [x.dim for x in outside if x.dim in "ck"] == ["c", "k", "c"]


def test_few_pieces_of_memory_are_followed_at_a_time() -> None:
    """A result and a residual beyond L2, of many blocks of channels: a few blocks, or long pieces of each."""
    first = candidates(parse_kernel(STREAMS), ("w",), target_for("x86-64-v4", elsewhere=True))[0].outside[0]
    assert first.dim == "k" or first.step * 4 * 16 >= 2048


def test_rows_that_share_sets_of_l1_are_written_as_lines() -> None:
    """Of 48 rows, 50,176 bytes apart, L1 holds 32 lines: no tile leaves parts of more behind."""
    target = target_for("x86-64-v4", elsewhere=True)
    best = candidates(parse_kernel(TURNED), ("w",), replace(target, l1=32 << 10))[0].outside
    last = max(i for i, x in enumerate(best) if x.dim == "p")
    rows = min((x.step for x in best[:last] if x.dim == "k"), default=48)
    assert rows <= 32 or best[last].step % 16 == 0


def test_factors_of_shared_rows_stay_in_registers() -> None:
    """A tile of rows that taps share leaves room for the factors of all taps."""
    for c in candidates(parse_kernel(NARROW), ("w",), target_for("x86-64-v4", elsewhere=True)):
        rows = next((x.step for x in c.outside[::-1] if x.dim == "p"), 1)
        if Loop("unroll", "p") in c.inside and Loop("reload", "x") not in c.inside:
            assert rows + (rows + 3) + 9 < 32


@pytest.mark.parametrize("level", sorted(LEVELS))
@pytest.mark.parametrize(("size", "copied"), [(32, True), (31, False)])
def test_planes_that_share_a_part_of_l1(size: int, copied: bool, level: str) -> None:
    """Plain images, as narrow groups leave them: a sum over channels reads a copy in blocks where their rows
    drive each other out of L1.
    """
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    net, target = Net(reach=1), target_for(level, "strict")
    x = net.relu(net.conv(net.x(1, 64, size, size), 64, (3, 3), begin=(1, 1), group=32))
    graph = net.result(net.relu(net.conv(x, 128, (1, 1))))
    steps = [str(n.attr["does"]) for n in kernels_of(graph, target)]
    assert any(s.startswith(("copy", PACKED)) for s in steps[:-1]) == copied
    check_exact(graph, reach=1, target=target)


@pytest.mark.parametrize("level", sorted(LEVELS))
def test_what_clauses_write_is_not_copied(level: str) -> None:
    """A value that is written into a joined one at once, and read there by a sum that a copy would suit."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    net = Net(reach=1)
    x = net.relu(net.conv(net.x(1, 64, 32, 32), 64, (3, 3), begin=(1, 1), group=32))
    joined = net.join(x, net.relu(net.x(1, 64, 32, 32)))
    graph = net.result(net.relu(net.conv(x, 128, (1, 1))), joined)
    check_exact(graph, reach=1, target=target_for(level, "strict"))


def test_samples_of_small_images_share_weights() -> None:
    assert Loop("unroll", "n") in chosen(SMALL_IMAGES, "w").inside


def test_vectors_are_full() -> None:
    """Eleven taps would fill two vectors badly; 64 channels fill theirs."""
    assert Loop("simd", "k") in chosen(FIRST).inside


MOVED = """in x f32[{0}, {1}, 3] as n, c:{2}, w, c
out y f32[{0}, {1}, 3] as n:{2}, c:{2}, w, c, n
stage i0={0} i1={1} i2=3
  y[i0, i1, i2] = x[i0, i1, i2]"""


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("blocks", [(1, 1), (2, 3), (5, 2)])
def test_blocks_are_turned_in_squares(level: str, blocks: tuple[int, int]) -> None:
    """A copy between two orders of blocks, by every candidate."""
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    target: Target = target_for(level)
    kernel = parse_kernel(MOVED.format(*(n * target.lanes for n in blocks), target.lanes))
    arrays = arguments(kernel, 1)
    found = candidates(kernel, (), target)
    squares = [c for c in found if Loop("simd", "i1") in c.inside and Loop("unroll", "i0") in c.inside]
    assert squares
    for c in (*squares, found[0]):
        np.testing.assert_array_equal(run_memory(c.kernel, arrays, target), expected_memory(kernel, arrays))


def test_rows_of_a_blocked_result_stay_apart() -> None:
    """The second axis has its blocks outside of the first one: the two are no one dimension."""
    target = target_for("x86-64-v3")
    kernel = parse_kernel("""in x f32[16, 24] as n, c
out y f32[16, 24] as c:8, n, c
stage i0=16 i1=24
  y[i0, i1] = x[i0, i1]""")
    arrays = arguments(kernel)
    found = candidates(kernel, (), target)[0].kernel
    np.testing.assert_array_equal(run_memory(found, arrays, target), expected_memory(kernel, arrays))


def check_all(text: str, target: Target, *weights: str) -> list[Candidate]:
    """All candidates of a kernel give the same integers."""
    kernel = parse_kernel(text)
    arrays = arguments(kernel)
    expected = expected_memory(kernel, arrays)
    found = candidates(kernel, weights, target)
    for c in found:
        np.testing.assert_array_equal(run_memory(c.kernel, arrays, target), expected, f"{c}")
    return found


def test_rows_of_tables_are_unrolled() -> None:
    """Also where fewer rows of the result than the table has could take their place."""
    check_all("""in x f32[1, 16, 1, 16] as n, c:8, h, w, c
out y f32[1, 48, 1, 2] as n, c:8, h, w, c
stage a=3 c=16 p=2 i=6
  y[0, 16*a + c, 0, p] += ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0))[a, i] * \
x[0, c, 0, 4*p + i]""", target_for("x86-64-v3"))


def test_weights_beyond_the_caches() -> None:
    """Some rows of weights stay in L2; or sums wait there while parts of weights that fit into L1 go by."""
    target = replace(target_for("x86-64-v3"), l1=1 << 10, l2=1 << 14)
    found = check_all("""in x f32[2, 64, 9] as n, c:8, w, c
in w f32[48, 64] as n, c
out y f32[2, 48, 9] as n, c:8, w, c
stage n=2 k=48 p=9 c=64
  acc[n, k, p] += x[n, c, p] * w[k, c]
  y[n, k, p] = max(acc[n, k, p], 0)""", target, "w")
    ways = {tuple((x.kind == "chunk", x.dim) for x in c.outside) for c in found}
    assert any(way[0] == (False, "k") == way[-1] for way in ways)
    assert any(way.count((False, "k")) == 2 and (True, "c") in way for way in ways)


def network() -> Graph:
    """Two convolutions whose weights are worth a copy: the second one's data gradient reads them turned."""
    b = Builder("net")
    x, rng = b.input("x", TensorType("f32", (8, 64, 8, 8))), np.random.default_rng(0)
    for name in ("a", "b"):
        w = b.const(f"{name}.w", rng.standard_normal((64, 64, 3, 3)).astype(np.float32))
        one = (1, 1)
        x = b.op("conv", [x, w], name, strides=one, dilations=one, begin=one, end=one, group=1)
    x = b.op("reshape", [x], "flat", shape=(8, 64 * 64))
    w = b.const("w", rng.standard_normal((10, 64 * 64)).astype(np.float32))
    return b.graph([("y", b.op("linear", [x, w], "scores"))])


def test_copies_of_weights_read_through_what_only_moves_them() -> None:
    graph = network()
    made, _ = build(graph, SoftmaxCrossEntropy(), SGD(), 8, parameters(graph), ())
    final = next(g for name, g in stages(made, target_for()) if name == "choose_schedules")
    packs = [(n, x) for n in final if n.kernel is not None and n.attr["does"] == PACKED
             for x in n.kernel.stages[0].loads]
    turned = [n for n, x in packs if any(c < 0 for i in x.index for _, c in i.terms)]
    assert turned and all(n.inputs == ("b.w",) for n in turned)
    assert not any(n.kernel is not None and n.attr["does"] == "transpose" for n in final)
