"""Nodes with several results, norms, and what ONNX Runtime's optimizer writes, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from kernels import compiled, results
from onnx import helper, numpy_helper
from onnx_models import NEWEST, floats

from cnncc.frontend.onnx import read
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.reference import evaluate

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """A node of operands (None: left out), those given by name constant; how many results are compared."""

    op: str
    operands: Sequence[Array | None]
    attrs: Mapping[str, Any] = {}
    outputs: int = 1
    constant: Sequence[int] = ()
    domain: str = "com.microsoft"
    opset: int = 17

    def model(self, outputs: Sequence[str] = ()) -> onnx.ModelProto:
        names = ["" if v is None else f"x{i}" for i, v in enumerate(self.operands)]
        outs = list(outputs or [f"y{i}" for i in range(self.outputs)])
        node = helper.make_node(self.op, names, outs, "node", domain=self.domain, **self.attrs)
        given = {f"x{i}": v for i, v in enumerate(self.operands) if v is not None and i not in self.constant}
        infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                 for k, v in given.items()]
        tensors = [numpy_helper.from_array(v, f"x{i}") for i in self.constant
                   if (v := self.operands[i]) is not None]
        ends = [onnx.ValueInfoProto(name=o) for o in outs if o]
        graph = helper.make_graph([node], "test", infos, ends, tensors)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10 if self.opset > 20 else 8)

    @property
    def feeds(self) -> dict[str, Array]:
        return {f"x{i}": v for i, v in enumerate(self.operands) if v is not None and i not in self.constant}


def check(case: Case, expected: Sequence[Array | None] = ()) -> None:
    source = case.model()
    if not expected:
        runtime = pytest.importorskip("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        session = runtime.InferenceSession(source.SerializeToString(), options, ["CPUExecutionProvider"])
        expected = session.run(None, case.feeds)
    graph = read(source)
    for got in (results(compiled(graph), case.feeds), evaluate(graph, case.feeds)):
        for o, y in zip(source.graph.output, expected, strict=True):
            if y is not None:
                assert (got[o.name].dtype, got[o.name].shape) == (y.dtype, y.shape)
                np.testing.assert_allclose(got[o.name], y, rtol=2e-5, atol=2e-6)


X, W, B = floats(2, 6, 7, 9), floats(8, 6, 3, 3, seed=1), floats(8, seed=2)
H, S, G = floats(2, 5, 19, seed=3), floats(2, 5, 19, seed=4), floats(19, seed=5)
V = floats(1, 2, 4, 5, 6)
PADS = {"pads": [1, 1, 1, 1]}
CASES = [
    Case("FusedConv", [X, W, B], PADS | {"activation": "Relu"}, 1, (1, 2)),
    Case("FusedConv", [X, W], PADS, 1, (1,)),
    Case("FusedConv", [X, W, B], {"activation": "LeakyRelu", "activation_params": [0.1]}, 1, (1, 2)),
    Case("FusedConv", [X, W, B], {"activation": "Clip", "activation_params": [-0.5, 1.5]}, 1, (1, 2)),
    Case("FusedConv", [X, W, B], {"activation": "HardSigmoid", "activation_params": [0.3, 0.4]}, 1, (1, 2)),
    Case("FusedConv", [X, W, B, floats(2, 8, 7, 9, seed=6)], PADS | {"activation": "Relu"}, 1, (1, 2)),
    Case("FusedGemm", [H[0], floats(19, 8), B], {"activation": "Relu", "beta": 0.5}, 1, (1, 2)),
    Case("FusedGemm", [H[0], floats(8, 19), B],
         {"activation": "LeakyRelu", "activation_alpha": 0.2, "transB": 1}),
    Case("FusedMatMul", [H, S], {"transB": 1, "alpha": 0.25}), Case("FusedMatMul", [H, S], {"transA": 1}),
    Case("FusedMatMul", [H, floats(19, 8)], {"alpha": 2.0}, 1, (1,)),
    Case("FusedMatMul", [floats(5, 2, 4, 19), floats(2, 4, 19, 3)], {"transBatchA": 1}),
    Case("FusedMatMul", [floats(2, 5, 6), floats(4, 2, 5)], {"transA": 1, "transB": 1, "transBatchB": 1}),
    Case("Gelu", [H]), Case("BiasGelu", [H, G]), Case("FastGelu", [H]), Case("FastGelu", [H, G]),
    Case("QuickGelu", [H]), Case("QuickGelu", [H], {"alpha": 0.7}), Case("Trilu", [H], {"upper": 0}),
    Case("SkipLayerNormalization", [H, S, G, G + 1]),
    Case("SkipLayerNormalization", [H, S, G], {"epsilon": 0.1}),
    Case("SkipSimplifiedLayerNormalization", [H, S, G, G + 1]),
    Case("SimplifiedLayerNormalization", [H, G], {"axis": -1, "epsilon": 1e-6}, domain=""),
    Case("LayerNormalization", [H, G], {}, domain="", opset=12),
    Case("LayerNormalization", [X, X[0], X[1]], {"axis": 1}, 3, domain=""),
    Case("LayerNormalization", [X + 100, X[0, 0]], {"axis": 2, "epsilon": 1e-3}, 3, domain=""),
    Case("LayerNormalization", [H[0], G, G], {"axis": -1}, 2, domain=""),
    Case("MaxPool", [X], {"kernel_shape": [3, 2], "strides": [2, 1]}, 2, domain=""),
    Case("MaxPool", [X.round()], PADS | {"kernel_shape": [3, 3], "storage_order": 1}, 2, domain=""),
    Case("MaxPool", [H], {"kernel_shape": [3], "dilations": [2], "pads": [1, 2]}, 2, domain=""),
    Case("MaxPool", [V.round()], {"kernel_shape": [2, 3, 2], "strides": [2, 1, 3]}, 2, domain=""),
    Case("MaxPool", [V], {"kernel_shape": [2, 2, 2], "storage_order": 1}, 2, domain=""),
    Case("Dropout", [H], {}, 2, domain=""),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.op} {c.attrs} {len(c.operands)}")
def test_results_are_onnx_runtimes(case: Case) -> None:
    check(case)


def test_sums_that_a_norm_gives() -> None:
    total = (H + S + 1).astype(np.float32)
    case = Case("SkipLayerNormalization", [H, S, G, None, np.ones(19, np.float32)], {"epsilon": 1e-5}, 4)
    double = total.astype(np.float64)
    mean, inverse = double.mean(-1, keepdims=True), 1 / np.sqrt(double.var(-1, keepdims=True) + 1e-5)
    wanted = ((double - mean) * inverse * G, mean, inverse, total)
    check(case, [np.asarray(v, np.float32) for v in wanted])


@pytest.mark.skipif(NEWEST < 23, reason="this ONNX has no RMSNormalization")
@pytest.mark.parametrize("axis", [-1, 1])
def test_rms_norm(axis: int) -> None:
    axes = (1, 2, 3) if axis == 1 else (3,)
    scale = np.broadcast_to(X[0, 0], X.shape[1:]) if axis == 1 else X[0, 0]
    y = X / np.sqrt((X.astype(np.float64) ** 2).mean(axes, keepdims=True) + 1e-5) * scale
    check(Case("RMSNormalization", [X, np.ascontiguousarray(scale)], {"axis": axis}, domain="", opset=23),
          [y.astype(np.float32)])


def test_outputs_that_nothing_needs_cost_nothing() -> None:
    for case in (Case("LayerNormalization", [H, G], domain=""),
                 Case("MaxPool", [X], {"kernel_shape": [2, 2]}, domain="")):
        plain, more = read(case.model()), case.model(["y0", "unused"])
        del more.graph.output[1:]
        assert [n.op for n in read(more)] == [n.op for n in plain]


def test_what_is_refused() -> None:
    source = Case("MaxPool", [X], {"kernel_shape": [2, 2]}, 2, domain="").model()
    source.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    with pytest.raises(UnsupportedError, match="batch"):
        read(source)
    with pytest.raises(ModelError, match="has 1 inputs and 2 outputs"):
        read(Case("Relu", [X], {}, 2, domain="").model())
    with pytest.raises(UnsupportedError, match="activation"):
        read(Case("FusedConv", [X, W], {"activation": "Sine"}, 1, (1,)).model())
    for case in (Case("FusedConv", [X, W], {"activation": "Clip"}, 1, (1,)), Case("FusedMatMul", [G, H]),
                 Case("SkipLayerNormalization", [np.float32(1), np.float32(2), G]),
                 Case("LayerNormalization", [H, B], domain="")):
        with pytest.raises(ModelError, match="node"):
            read(case.model())


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint16"])
def test_shifts_of_integers(dtype: str) -> None:
    """All bits are shifted out by numbers that are negative or too large, arithmetically to the right."""
    x = np.array([-128, -8, -1, 0, 1, 77, 127], np.int64).astype(dtype)
    by = np.array([[0], [1], [3], [31], [100]], np.int64).astype(dtype)
    if np.dtype(dtype).kind == "i":
        by[-1] = -1
    bits = np.iinfo(x.dtype).bits
    for way in ("LEFT", "RIGHT"):
        def shifted(v: int, s: int, left: bool = way == "LEFT") -> int:
            s = s if 0 <= s < bits else bits
            return v << s if left else v >> s
        low = np.array([[shifted(v, s) & ((1 << bits) - 1) for v in x.tolist()] for s in by[:, 0].tolist()],
                       np.uint64)
        expected = low.astype(np.dtype(f"u{x.dtype.itemsize}")).view(dtype)
        check(Case("BitShift", [x, by], {"direction": way}, domain=""), [expected])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_remainders_of_floats(dtype: str) -> None:
    x = (floats(5, 19) * 9).astype(dtype)
    w = (floats(5, 19, seed=1) * 3).astype(dtype)
    check(Case("Mod", [x, w], {}, domain=""), [np.mod(x, w)])
