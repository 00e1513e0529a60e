"""Activations that exporters spell as several nodes become epilogues; transposed results are exact."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from kernels import compiled, results
from onnx.helper import make_node as node
from onnx_models import floats, model

from cnncc.compiler import optimize
from cnncc.frontend.onnx import read
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for
from cnncc.ir.types import NUMPY, TensorType

SPELLED: dict[str, Sequence[onnx.NodeProto]] = {
    "silu": [node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["y"])],
    "hard_swish": [node("Add", ["c", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["b"]),
                   node("Mul", ["c", "b"], ["m"]), node("Div", ["m", "six"], ["y"])],
    "gelu": [node("Div", ["c", "root"], ["a"]), node("Erf", ["a"], ["b"]), node("Add", ["b", "one"], ["d"]),
             node("Mul", ["c", "d"], ["m"]), node("Mul", ["m", "half"], ["y"])],
    "mish": [node("Softplus", ["c"], ["a"]), node("Tanh", ["a"], ["b"]), node("Mul", ["c", "b"], ["y"])],
    "gated": [node("Relu", ["c"], ["a"]), node("Neg", ["c"], ["b"]), node("Sigmoid", ["b"], ["d"]),
              node("Mul", ["a", "d"], ["y"])]}
NUMBERS = {"zero": 0.0, "half": 0.5, "one": 1.0, "three": 3.0, "six": 6.0, "root": 2 ** 0.5}


def kernels(graph: Graph) -> int:
    return sum(n.kernel is not None for n in optimize(graph, target_for()))


@pytest.mark.parametrize("name", SPELLED)
def test_spelled_activations_are_epilogues(name: str) -> None:
    nodes = [node("Conv", ["x", "w", "bias"], ["c"]), *SPELLED[name], node("GlobalMaxPool", ["y"], ["z"])]
    constants = {"w": floats(12, 3, 3, 3), "bias": floats(12)}
    constants |= {k: np.array(v, np.float32) for k, v in NUMBERS.items()}
    proto = model(nodes, {"x": [1, 3, 9, 10]}, ["z"], constants)
    graph, x = read(proto.SerializeToString()), floats(1, 3, 9, 10, seed=1)
    assert kernels(graph) == 2
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, = session.run(None, {"x": x})
    for got in (results(compiled(graph), {"x": x}), evaluate(graph, {"x": x})):
        np.testing.assert_allclose(got["z"], expected, rtol=1e-5, atol=1e-5)


def test_what_a_clause_reads_of_its_base_is_not_finished_early() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Concat", ["a", "a"], ["j"], axis=1),
             node("Add", ["j", "b"], ["s"]), node("Relu", ["s"], ["y"])]
    x, b = floats(1, 8, 2, 2), floats(16, 1, 1, seed=1)
    graph = read(model(nodes, {"x": ["N", 8, 2, 2]}, ["y"], {"b": b}).SerializeToString())
    a = np.maximum(x, 0)
    expected = np.maximum(np.concatenate([a, a], 1) + b, 0)
    np.testing.assert_array_equal(results(compiled(graph), {"x": x})["y"], expected)


@pytest.mark.parametrize("dtype", ["f32", "f64", "u8", "i64", "f16"])
@pytest.mark.parametrize(("shape", "perm"), [
    ((1, 20, 5, 7), (0, 2, 3, 1)), ((1, 5, 7, 20), (0, 3, 1, 2)), ((2, 3, 8, 9), (0, 2, 3, 1)),
    ((2, 8, 9, 3), (0, 3, 1, 2)), ((33, 18), (1, 0)), (("N", 6, 17), (0, 2, 1))])
def test_transposed(shape: tuple[int | str, ...], perm: tuple[int, ...], dtype: str) -> None:
    """One kernel, whose vectors are turned in squares, whole ones and parts."""
    builder = Builder("turned")
    y = builder.op("transpose", [builder.input("x", TensorType(dtype, shape))], "y", perm=perm)
    graph = builder.graph([("y", y)])
    given = [3 if e == "N" else int(e) for e in shape]
    x = np.random.default_rng(0).integers(0, 200, given).astype(NUMPY[dtype])
    assert kernels(graph) == 1
    np.testing.assert_array_equal(results(compiled(graph), {"x": x})["y"], x.transpose(perm))


@pytest.mark.parametrize("shape, axis", [((20, 1000), 1), ((1, 21, 30, 40), 1), ((4, 50, 6), -2)])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_a_fold_over_other_dimensions_is_a_kernel_of_its_own(op: str, shape: tuple[int, ...],
                                                             axis: int) -> None:
    """What reads the extreme beside all elements would compute it anew for each of them."""
    graph = read(model([node(op, ["x"], ["y"], axis=axis)], {"x": shape}, ["y"]).SerializeToString())
    elements = int(np.prod(shape))
    assert all(s.flops() <= 4 * elements for n in optimize(graph, target_for()) if n.kernel
               for s in n.kernel.stages)
    x = floats(*shape).round(1)
    expected = getattr(np, op.lower())(x, axis=axis, keepdims=True)
    np.testing.assert_array_equal(results(compiled(graph), {"x": x})["y"], expected)
