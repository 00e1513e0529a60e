"""Einsum, transforms and running sums, compiled and by NumPy, against NumPy and other engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from kernels import compiled, results
from onnx import helper
from onnx_models import NEWEST, floats, ints, model, single
from test_onnx_elementwise import Case, check, numbers

from cnncc.compiler import optimize, plan
from cnncc.frontend.onnx import read
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for

EQUATIONS: list[tuple[str, list[tuple[int, ...]]]] = [
    ("ij,jk->ik", [(5, 7), (7, 19)]), ("ij,jk", [(5, 7), (7, 9)]), ("bij,bkj->bik", [(2, 5, 7), (2, 9, 7)]),
    (" b h q d , b h k d -> b h q k ", [(2, 3, 4, 8), (2, 3, 5, 8)]), ("ij->ji", [(3, 17)]),
    ("ij->", [(3, 17)]), ("ij->i", [(3, 17)]), ("ii->i", [(19, 19)]), ("ii", [(6, 6)]),
    ("bii->bi", [(2, 18, 18)]), ("iji->j", [(3, 20, 3)]), ("i,i", [(9,), (9,)]), ("i,j->ij", [(3,), (18,)]),
    ("i,j->ji", [(3,), (18,)]),
    ("...ij,...jk->...ik", [(2, 1, 3, 5), (4, 5, 6)]), ("...ii->...i", [(2, 3, 5, 5)]),
    ("...j,j", [(2, 3, 5), (5,)]), ("i...,...->i", [(3,), ()]), ("a...->...a", [(2, 3, 17)]),
    ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 18)]),
    ("ab,cd->ac", [(3, 4), (5, 6)]), ("ab,bc,cd,bd->", [(3, 4), (4, 5), (5, 6), (4, 6)]),
    ("ij,kj->ik", [(3, 1), (18, 5)]), (",ij,->ij", [(), (3, 17), ()]), ("i,j,k->", [(3,), (4,), (5,)]),
    ("bCij,Cij->bC", [(2, 19, 3, 3), (19, 3, 3)]), ("nctkv,kvw->nctw", [(2, 6, 4, 3, 5), (3, 5, 7)])]


@pytest.mark.parametrize(("equation", "shapes"), EQUATIONS, ids=[e for e, _ in EQUATIONS])
def test_einsum(equation: str, shapes: list[tuple[int, ...]]) -> None:
    """The letters' extents of 1 broadcast as in NumPy."""
    operands = [numbers(s, "float32", i) for i, s in enumerate(shapes)]
    expected = np.asarray(np.einsum(equation.replace(" ", ""), *(x.astype(np.float64) for x in operands)))
    check(Case("Einsum", operands, {"equation": equation}, (), 12), 1e-5, 1e-4, expected.astype(np.float32),
          batch=False)


@pytest.mark.parametrize("dtype", ["float64", "int32", "int64"])
def test_einsum_of_other_types(dtype: str) -> None:
    operands = [numbers((3, 9), dtype), numbers((9, 5), dtype, 1)]
    check(Case("Einsum", operands, {"equation": "ij,jk->ik"}, (), 12), 1e-12, 1e-12, batch=False)


def test_einsum_of_an_open_batch() -> None:
    operands = [numbers((3, 4, 9)), numbers((9, 5), seed=1)]
    check(Case("Einsum", operands, {"equation": "bij,jk->bik"}, (1,), 12), 1e-5, 1e-4)


def test_a_product_of_matrices_calls_the_kernel_of_matmul() -> None:
    def kernels(op: str, **attributes: Any) -> set[str]:
        node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
        graph = optimize(read(model([node], {"x": (6, 40), "w": (40, 32)}, ["y"])), target_for("native"))
        return {str(k).split("loops")[1] for k in plan(graph).kernels.values()}
    loops, = kernels("MatMul")
    renamed, = kernels("Einsum", equation="ij,jk->ik")
    for old, new in (("i0", "m"), ("i1", "k"), ("i2", "c")):
        renamed = renamed.replace(old, new)
    assert renamed == loops


@pytest.mark.parametrize(("equation", "shapes"), [
    ("ij,jk", [(2, 3)]), ("ij", [(2, 3, 4)]), ("ij->ik", [(2, 3)]), ("ij->ii", [(2, 3)]), ("i1", [(2, 3)]),
    ("ij,jk->ik", [(2, 3), (4, 5)]), ("ii->i", [(2, 3)]), ("...i->i", [(2, 3)]), ("i->i->i", [(2,)]),
    ("...i...", [(2, 3)]), ("ij...", [(2,)]), ("", [(2,)])])
def test_wrong_equations(equation: str, shapes: list[tuple[int, ...]]) -> None:
    names = [f"x{i}" for i in range(len(shapes))]
    node = helper.make_node("Einsum", names, ["y"], name="node", equation=equation)
    with pytest.raises(ModelError, match="node"):
        read(model([node], dict(zip(names, shapes, strict=True)), ["y"]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64"])
@pytest.mark.parametrize(("shape", "axis"), [((37,), 0), ((3, 17, 5), 1), ((2, 70), -1), ((5, 18), 0),
                                             ((2, 1), 1)])
def test_running_sums(shape: tuple[int, ...], axis: int, dtype: str) -> None:
    """Of small integers, so that all are exact; held against NumPy as well."""
    x = np.random.default_rng(1).integers(-9, 9, shape).astype(dtype)
    for attrs in ({}, {"exclusive": 1}, {"reverse": 1}, {"exclusive": 1, "reverse": 1}):
        if dtype != "float32" and attrs and shape[0] > 2:
            continue
        check(Case("CumSum", [x, np.array(axis)], attrs, (1,), 14), batch=axis != 0)
    graph = read(Case("CumSum", [x, np.array(axis)], {}, (1,), 14).model())
    total = results(compiled(graph), {"x0": x})["y0"]
    np.testing.assert_array_equal(total, np.cumsum(x, axis))


@pytest.mark.skipif(NEWEST < 26, reason="this ONNX has no CumProd")
@pytest.mark.parametrize("attrs", [{}, {"exclusive": 1}, {"reverse": 1}], ids=str)
def test_running_products(attrs: dict[str, int]) -> None:
    check(Case("CumProd", [numbers((3, 19), reach=1.5), np.array(1)], attrs, (1,), 26), 1e-5)


def spectrum(x: np.ndarray, attrs: dict[str, int], *operands: np.ndarray | None, opset: int = 20) -> None:
    constant = [i for i, v in enumerate(operands, 1) if v is not None]
    check(Case("DFT", [x, *operands], attrs, constant, opset), 1e-4, 1e-4, batch=False)


@pytest.mark.parametrize("inputs", [1, 2])
@pytest.mark.parametrize("length", [None, 9, 21])
def test_dft(inputs: int, length: int | None) -> None:
    x, given = numbers((2, 17, 5, inputs)), None if length is None else np.array(length)
    for inverse in (0, 1) if inputs == 2 else (0,):
        spectrum(x, {"inverse": inverse}, given, np.array(1))
        spectrum(x, {"inverse": inverse}, given)
        spectrum(x, {"inverse": inverse, "axis": 1}, *([given] if length else []), opset=17)
    if inputs == 1:
        spectrum(x, {"onesided": 1}, given, np.array(1))


@pytest.mark.parametrize("length", [16, 17])
def test_inverse_dft_of_one_side(length: int) -> None:
    half = np.fft.rfft(numbers((3, length)).astype(np.float64))
    x = np.stack([half.real, half.imag], -1).astype(np.float32)
    case = Case("DFT", [x, np.array(length), np.array(1)], {"inverse": 1, "onesided": 1}, (1, 2), 20)
    check(case, 1e-4, 1e-4, np.fft.irfft(half, length)[..., None].astype(np.float32), batch=False)


@pytest.mark.parametrize("constant", [(1, 2, 3), (1, 3)], ids=str)
@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(onesided: int, constant: tuple[int, ...]) -> None:
    x, window = numbers((2, 40, 1)), np.hanning(16).astype(np.float32)
    operands = [x, np.array(5), window, np.array(16)]
    frames = np.stack([x[:, i:i + 16, 0].astype(np.float64) * window for i in range(0, 25, 5)], 1)
    wanted = np.fft.rfft(frames) if onesided else np.fft.fft(frames)
    check(Case("STFT", operands, {"onesided": onesided}, constant, 17), 1e-4, 1e-4,
          np.stack([wanted.real, wanted.imag], -1).astype(np.float32), batch=False)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
def test_windows_are_folded(op: str) -> None:
    nodes = [helper.make_node(op, ["size"], ["w"]), helper.make_node("Mul", ["x", "w"], ["y"])]
    graph = read(model(nodes, {"x": (2, 12)}, ["y"], {"size": np.array(12)}))
    assert [n.op for n in graph] == ["input", "const", "mul"]
    got = evaluate(graph, {"x": np.ones((2, 12), np.float32)})["y"][0]
    turn = np.arange(12) * 2 * np.pi / 12
    terms = {"HannWindow": (0.5, 0.5, 0), "HammingWindow": (25 / 46, 21 / 46, 0),
             "BlackmanWindow": (0.42, 0.5, 0.08)}
    a, b, c = terms[op]
    np.testing.assert_allclose(got, a - b * np.cos(turn) + c * np.cos(2 * turn), atol=1e-6)


@pytest.mark.parametrize("corners", [0, 1])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 3, 3, 4, 5)], ids=str)
def test_affine_grid(size: tuple[int, ...], corners: int) -> None:
    n = len(size) - 2
    case = Case("AffineGrid", [numbers((2, n, n + 1)), ints(*size)], {"align_corners": corners}, (1,), 20)
    check(case, 1e-5, 1e-5, batch=False)


@pytest.mark.parametrize("source", [
    single("CumSum", [2, 3], np.array(2)), single("DFT", [2, 3, 4], opset=20), single("DFT", [3], opset=20),
    single("STFT", [2, 9, 1], np.array(0), floats(4)), single("STFT", [2, 9, 1], np.array(1), np.float32(1)),
    single("DFT", [2, 3, 1], None, ints(), opset=20), single("DFT", [], opset=17),
    single("Einsum", [], equation="i"),
    single("STFT", [2, 9, 1], np.array(1), None, np.array(12)),
    single("AffineGrid", [2, 2, 3], ints(1, 1, 4, 4), opset=20)])
def test_nodes_that_are_wrong(source: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match="node"):
        read(source)


def test_matrices_without_bound_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="too large"):
        read(single("DFT", [1, 1 << 20, 1], opset=20))
    with pytest.raises(ModelError):
        read(single("AffineGrid", [1, 2, 3], ints(1, 1, 1 << 20, 1 << 20), opset=20))
