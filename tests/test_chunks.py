"""Sums in chunks, whose accumulators wait in scratch memory: exact, with the bits of one sum, or refused."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import arguments, expected_memory, run_memory

from cnncc.ir.errors import InternalError
from cnncc.ir.kernel import Kernel, parse_kernel
from cnncc.ir.regions import accumulators, scratch_offsets
from cnncc.ir.target import target_for

LANES = target_for().lanes
CONV = f"""in x f32[2, 20, 9, 11] as n, c, h, w
in w f32[24, 20, 3, 3] as n:{LANES}, c, h, w, n
in u f32[24, 1, 1] as n:{LANES}, c, w, n
out y f32[2, 24, 9, 11] as n, c:{LANES}, h, w, c
stage n=2 k=24 p=9 q=11 c=20 r=3 s=3
  acc[n, k, p, q] += x[n, c, p + r - 1, q + s - 1] * w[k, c, r, s]
  y[n, k, p, q] = max(acc[n, k, p, q] + u[k, 0, 0], 0)
  loops """
GRADIENT = f"""in x f32[N, 9, 10, 12] as n, c, h, w
in g f32[N, 24, 8, 10] as n, c:{LANES}, h, w, c
out y f32[24, 9, 3, 3] as n:{LANES}, c, h, w, n
stage k=24 c=9 r=3 s=3 n=N p=8 q=10
  y[k, c, r, s] += x[n, c, p + r, q + s] * g[n, k, p, q]
  loops """
LINEAR = """in x f32[5, 70] as n, c
in w f32[11, 70] as n, c
out y f32[5, 11] as n, c
stage n=5 k=11 c=70
  y[n, k] += x[n, c] * w[k, c]
  loops """
LARGEST = f"""in x f32[3, 7, 24] as n, w, c
out y f32[3, 24] as n, c
stage n=3 c=24 i=7
  y[n, c] max= x[n, i, c]
  loops chunk i:3, n, c:{LANES}, i, unroll c:{LANES}, simd c"""
END = f"unroll k:{LANES}, simd k"


def kernel(text: str, loops: str = "") -> Kernel:
    found = parse_kernel(text + loops)
    assert parse_kernel(str(found)) == found
    return found


@pytest.mark.parametrize(("text", "loops"), [
    (CONV, f"n, k:{2 * LANES}, chunk c:7, p, q:4, c, r, unroll s, unroll q, {END}"),
    (CONV, f"chunk c:8, n, k:{LANES}, p, q:3, c, r, unroll s, unroll q, {END}"),
    (CONV, f"n, chunk c:8, k:{LANES}, chunk c:3, p, q:5, c, r, unroll s, unroll q, {END}"),
    (CONV, f"n, k:{LANES}, chunk c:20, p, q:4, c, r, unroll s, unroll q, {END}"),
    (GRADIENT, f"chunk n, k:{LANES}, c:4, r, s, p, q, unroll c, {END}"),
    (GRADIENT, f"k:{LANES}, chunk n, chunk p:3, r, c:4, p, q, unroll s, unroll c, {END}"),
    (GRADIENT, f"k:{LANES}, chunk p:3, chunk q:4, c, r, n, p, q, unroll s, {END}"),
    (LINEAR, f"chunk c:{2 * LANES}, n, k:3, c:{LANES}, unroll k, unroll c:{LANES}, simd c"),
    (LINEAR, "chunk c:9, n, k:3, c, unroll k"),
    (LARGEST, ""),
])
def test_chunks(text: str, loops: str) -> None:
    k, batch = kernel(text, loops), 3
    arrays = arguments(k, batch)
    got = run_memory(k, arrays, target_for(), batch)
    np.testing.assert_array_equal(got, expected_memory(k, arrays, batch))
    assert scratch_offsets(k)[1]


def test_bits_are_those_of_one_sum() -> None:
    inner = f"p, q:4, c, r, unroll s, unroll q, {END}"
    chunks = "", "chunk c:8, ", "chunk c:11, chunk c:2, "
    kernels = [kernel(CONV, f"n, k:{LANES}, {c}{inner}") for c in chunks]
    arrays = arguments(kernels[0], real=True)
    one, *parts = (run_memory(k, arrays, target_for()) for k in kernels)
    for other in parts:
        np.testing.assert_array_equal(one, other)


def test_accumulators_of_what_is_inside_wait() -> None:
    found = accumulators(kernel(CONV, f"n, k:{LANES}, chunk c:8, p, q:4, c, r, unroll s, unroll q, {END}"))
    assert {j: t.type.shape for j, t in found.items()} == {0: (1, LANES, 9, 11)}
    assert not accumulators(kernel(CONV, f"n, k:{LANES}, p, q:4, c, r, unroll s, unroll q, {END}"))


@pytest.mark.parametrize(("text", "loops"), [
    (CONV, f"n, k:{LANES}, p, q:4, chunk c:8, c, r, unroll s, unroll q, {END}"),        # nothing waits
    (CONV, f"n, k:{LANES}, chunk p:3, p, q:4, c, r, unroll s, unroll q, {END}"),        # no sum over p
    (CONV, f"n, k:{LANES}, c:8, p, q:4, c, r, unroll s, unroll q, {END}"),              # not said
    (CONV, f"n, k:{LANES}, chunk r, p, q:4, c, unroll s, unroll q, {END}"),             # p would be left out
    (GRADIENT, f"chunk n:2, k:{LANES}, c:4, r, s, n, p, q, unroll c, {END}"),
    (LARGEST.replace("[3,", "[N,").replace("n=3", "n=N"), ""),                          # how much would wait?
])
def test_loops_that_are_refused(text: str, loops: str) -> None:
    k = kernel(text, loops)
    with pytest.raises(InternalError):
        run_memory(k, arguments(k, 3), target_for(), 3)


def test_stages_of_a_kernel_have_their_own() -> None:
    """A producer inside of shared loops, in chunks, and its reader, in chunks as well."""
    text = f"""in x f32[1, 16, 12, 10] as n, c, h, w
in w f32[24, 16, 1, 1] as n:{LANES}, c, h, w, n
in v f32[16, 24, 1, 1] as n:{LANES}, c, h, w, n
scratch t f32[1, 24, 12, 10] as n, c:{LANES}, h, w, c
out y f32[1, 16, 12, 10] as n, c:{LANES}, h, w, c
loops par p:4
stage k=24 p=12 q=10 c=16
  t[0, k, p, q] += x[0, c, p, q] * w[k, c, 0, 0]
  loops chunk c:5, k:{LANES}, p, q:4, c, unroll q, unroll k:{LANES}, simd k
stage k=16 p=12 q=10 c=24
  y[0, k, p, q] += t[0, c, p, q] * v[k, c, 0, 0]
  loops chunk c:{LANES}, k:{LANES}, p, q:4, c, unroll q, unroll k:{LANES}, simd k"""
    k = kernel(text)
    assert set(accumulators(k)) == {0, 1}
    arrays = arguments(k)
    np.testing.assert_array_equal(run_memory(k, arrays, target_for()), expected_memory(k, arrays))
