"""ONNX's convolutions, pools and norms in other types and of run-time operands, against other engines."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from kernels import compiled, results
from onnx import helper
from onnx_models import floats, model
from test_onnx_elementwise import Case, check, numbers

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.errors import ModelError
from cnncc.ir.target import target_for
from cnncc.passes.algorithms import tile_sizes

TIGHT = {"float32": 2e-5, "float64": 1e-13}
DTYPES = ["float32", "float64"]


@pytest.mark.parametrize("constant", [(), (1,), (1, 2), (2,), (0,)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("attrs", [
    {"pads": [1] * 4}, {"pads": [1, 0, 2, 1], "strides": [2, 2], "group": 2}, {"dilations": [2, 1]}], ids=str)
def test_conv(attrs: dict[str, Any], dtype: str, constant: tuple[int, ...]) -> None:
    x = numbers((2, 6, 9, 8), dtype)
    w, bias = numbers((20, 6 // attrs.get("group", 1), 3, 3), dtype, 1), numbers((20,), dtype, 2)
    check(Case("Conv", [x, w, bias], attrs, constant, 17), atol=TIGHT[dtype] * 50, batch=constant != (0,))


def test_winograd_is_for_constant_weights_in_single_precision() -> None:
    for dtype in DTYPES:
        for constant in ((), (1,)):
            operands = [numbers((1, 32, 24, 24), dtype), numbers((32, 32, 3, 3), dtype, 1)]
            graph = read(Case("Conv", operands, {"pads": [1] * 4}, constant, 17).model())
            node = next(n for n in graph if n.op == "conv")
            chosen = dtype == "float32" and constant == (1,)
            assert (len(tile_sizes(node, graph, target_for("x86-64-v2"))) > 1) == chosen


def test_conv_of_scattered_pixels_by_a_computed_weight() -> None:
    nodes = [helper.make_node("Neg", ["w"], ["v"]),
             helper.make_node("Conv", ["x", "v"], ["c"], strides=[2, 2]),
             helper.make_node("BatchNormalization", ["c", *["p"] * 4], ["y"])]
    source = model(nodes, {"x": [2, 16, 9, 9], "w": [16, 16, 1, 1]}, ["y"], {"p": np.ones(16, np.float32)})
    feeds = {"x": floats(2, 16, 9, 9), "w": floats(16, 16, 1, 1, seed=1)}
    pixels = feeds["x"][:, :, ::2, ::2].astype(np.float64)
    products = np.einsum("ncpq,kc->nkpq", pixels, -feeds["w"][..., 0, 0])
    expected = (products - 1) / np.sqrt(1 + 1e-5) + 1
    np.testing.assert_allclose(results(compiled(read(source)), feeds)["y"], expected, atol=1e-4)


@pytest.mark.parametrize("constant", [(), (1, 2), (2,)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_conv_transpose(dtype: str, constant: tuple[int, ...]) -> None:
    x, w, bias = numbers((2, 6, 5, 4), dtype), numbers((6, 7, 3, 3), dtype, 1), numbers((14,), dtype, 2)
    expected = transposed(x, w, bias)
    case = Case("ConvTranspose", [x, w, bias], {"strides": [2, 2], "pads": [1] * 4, "group": 2}, constant, 17)
    check(case, atol=TIGHT[dtype] * 50, expected=expected)


def transposed(x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """PyTorch's convolution, as ONNX Runtime has none in float64."""
    import torch
    parts = map(torch.from_numpy, (x, w, bias))
    return torch.conv_transpose2d(*parts, stride=2, padding=1, groups=2).numpy()


@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int8"])
def test_pools(dtype: str) -> None:
    attrs: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    check(Case("MaxPool", [numbers((2, 19, 7, 8), dtype)], attrs, (), 12))
    if dtype in DTYPES:
        for include in (0, 1):
            attrs["count_include_pad"] = include
            check(Case("AveragePool", [numbers((2, 19, 7, 8), dtype)], attrs, (), 11), atol=TIGHT[dtype])


@pytest.mark.parametrize("constant", [(), (1, 2, 3, 4), (3, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_normalization(dtype: str, constant: tuple[int, ...]) -> None:
    x, (scale, bias, mean, variance) = numbers((2, 19, 4, 5), dtype), numbers((4, 19), dtype, 1)
    operands = [x, scale, bias, mean, np.abs(variance)]
    check(Case("BatchNormalization", operands, {"epsilon": 1e-3}, constant, 15), atol=TIGHT[dtype])


@pytest.mark.parametrize("opset", [7, 9, 13])
def test_several_outputs_of_a_batch_normalization_are_training(opset: int) -> None:
    x, vectors = floats(2, 5, 4, 3), dict(zip("sbmv", np.abs(floats(4, 5, seed=1)), strict=True))
    def made(*shown: str) -> onnx.ModelProto:
        node = helper.make_node("BatchNormalization", ["x", *"sbmv"], ["y", *"pqrt"])
        return model([node], {"x": x.shape}, shown, vectors, opset)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(made("y").SerializeToString(), providers=["CPUExecutionProvider"])
    y, = session.run(None, {"x": x})
    for run in (cnncc.compile(made("y"), cache=False), cnncc.reference(made("y"))):
        np.testing.assert_allclose(run(x), y, atol=1e-5)
    with pytest.raises(cnncc.UnsupportedError, match="only its first output"):
        cnncc.compile(made("y", "p"))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "uint64", "float64"])
def test_gemm_of_other_types(dtype: str) -> None:
    x, w, bias = numbers((5, 9), dtype), numbers((12, 9), dtype, 1), numbers((12,), dtype, 2)
    for constant in ((), (1, 2)):
        expected = (x @ w.T * 2 + 3 * bias).astype(dtype)
        check(Case("Gemm", [x, w, bias], {"transB": 1, "alpha": 2.0, "beta": 3.0}, constant, 13), 1e-13,
              expected=expected)
    with pytest.raises(ModelError, match="floats only" if dtype != "float64" else "multiply"):
        read(Case("Gemm", [x, w if dtype == "float64" else w.T, bias], {"beta": 0.5}, (1, 2), 13).model())


def test_operands_that_do_not_fit() -> None:
    x = floats(2, 4, 5, 5)
    for operands, words in (([x, floats(4, 4, 3, 3).astype(np.float64)], "f64"),
                            ([x, floats(4, 4, 3, 3), floats(3)], "bias"), ([x, floats(4, 4, 3)], "weight"),
                            ([x, floats(4, 3, 3, 3)], "channels"),
                            ([x.astype(np.int32), floats(4, 4, 3, 3)], "i32")):
        with pytest.raises(ModelError, match=words):
            read(Case("Conv", operands, {}, (), 17).model())
