"""ONNX's products of matrices and one-hot vectors, compiled and by NumPy, against other engines."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx_models import floats, model
from test_onnx_elementwise import Case, check, numbers

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.errors import ModelError, UnsupportedError

SHAPES = [((5, 7), (7, 19)), ((2, 5, 7), (2, 7, 19)), ((3, 5, 7), (7, 9)), ((5, 7), (3, 7, 9)),
          ((2, 3, 4, 33), (33, 20)), ((2, 1, 4, 33), (1, 3, 33, 5)), ((7,), (7, 9)), ((5, 7), (7,)),
          ((2, 3, 7), (7,)), ((7,), (7,))]


@pytest.mark.parametrize("constant", [(), (1,)])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_matmul(shapes: tuple[tuple[int, ...], tuple[int, ...]], constant: tuple[int, ...]) -> None:
    x, w = (numbers(s, seed=i) for i, s in enumerate(shapes))
    check(Case("MatMul", [x, w], {}, constant, 13), 1e-5, 1e-4, batch=w.ndim < 3 and bool(constant))


@pytest.mark.parametrize("dtype", ["int32", "int64", "float64"])
def test_matmul_of_other_types(dtype: str) -> None:
    check(Case("MatMul", [numbers((4, 9), dtype), numbers((9, 6), dtype, 1)], {}, (), 13), 1e-12, batch=False)


@pytest.mark.parametrize("constant", [(), (1,), (1, 2), (2,), (0,)])
@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"transA": 1}, {"alpha": 0.5, "beta": 2.0, "transB": 1},
                                   {"transA": 1, "transB": 1, "beta": 0.0}], ids=str)
def test_gemm(attrs: dict[str, float], constant: tuple[int, ...]) -> None:
    x = numbers((7, 5) if attrs.get("transA") else (5, 7))
    w = numbers((9, 7) if attrs.get("transB") else (7, 9), seed=1)
    check(Case("Gemm", [x, w, numbers((9,), seed=2)], attrs, constant, 13), 1e-5, 1e-4,
          batch=not attrs.get("transA") and 1 in constant)


@pytest.mark.parametrize("nodes", [[("MatMul", {})], [("Gemm", {})]], ids=str)
def test_matrices_that_do_not_fit(nodes: list[tuple[str, dict[str, float]]]) -> None:
    for first, second in (((2, 3), (4, 5)), ((2, 3), (3,)) if nodes[0][0] == "Gemm" else ((2, 3), (4,))):
        made = [helper.make_node(op, ["x", "w"], ["y"], **attrs) for op, attrs in nodes]
        with pytest.raises(ModelError, match=r"multiply|matrices"):
            read(model(made, {"x": first}, ["y"], {"w": floats(*second)}))


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("dtype", ["int64", "int32", "float32"])
def test_one_hot(dtype: str, axis: int) -> None:
    index = np.array([[0, 3, -1, 4], [-5, 2, 7, 1]]).astype(dtype)
    for on_off in ([0, 1], [2, 5]):
        operands = [index, np.array(5, np.int64), np.array(on_off, np.float32)]
        check(Case("OneHot", operands, {"axis": axis}, (1, 2), 11), batch=axis != 0)


def test_channels_last_between_matrix_products() -> None:
    """Rows of an image where channels are elsewhere: they are no blocks, and strips of them are whole."""
    nodes = [helper.make_node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
             helper.make_node("MatMul", ["a", "w"], ["b"]), helper.make_node("Relu", ["b"], ["c"]),
             helper.make_node("MatMul", ["c", "v"], ["d"]),
             helper.make_node("Transpose", ["d"], ["e"], perm=[0, 3, 1, 2]),
             helper.make_node("Add", ["e", "x"], ["y"])]
    source = model(nodes, {"x": [1, 24, 56, 24]}, ["y"], {"w": floats(24, 96), "v": floats(96, 24, seed=1)})
    x = floats(1, 24, 56, 24)
    hidden = np.maximum(np.einsum("nchw,ck->nhwk", x.astype(np.float64), floats(24, 96)), 0)
    expected = np.einsum("nhwc,ck->nkhw", hidden, floats(96, 24, seed=1)) + x
    for made in (cnncc.compile(source, cache=False, jobs=1), cnncc.reference(source)):
        np.testing.assert_allclose(made(x), expected, 1e-4, 1e-4)


@pytest.mark.parametrize("rows", range(1, 6))
@pytest.mark.parametrize("first", [(), (3,), (2, 2)])
def test_determinants(first: tuple[int, ...], rows: int) -> None:
    x = floats(*first, rows, rows)
    graph = read(model([helper.make_node("Det", ["x"], ["y"])], {"x": x.shape}, ["y"]))
    for made in (cnncc.compile(graph, cache=False, jobs=1), cnncc.reference(graph)):
        np.testing.assert_allclose(made(x), np.linalg.det(x.astype(np.float64)), 1e-5, 1e-6)


def test_matrices_without_a_determinant() -> None:
    for shape, error in (((3,), ModelError), ((2, 3), UnsupportedError), ((6, 6), UnsupportedError)):
        with pytest.raises(error, match="matrices"):
            read(model([helper.make_node("Det", ["x"], ["y"])], {"x": shape}, ["y"]))
