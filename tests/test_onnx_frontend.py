"""The ONNX importer: the graph of each op, old and new opsets, and results against ONNX Runtime."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import NEWEST, floats, ints, model, single

from cnncc.frontend.onnx import inspect, read
from cnncc.ir.errors import InputError, ModelError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for
from cnncc.passes.fold import fold_batchnorm

DIGITS = Path(__file__).parent.parent / "cnncc" / "data" / "digits.onnx"


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph if n.op not in ("input", "const")]


def last(graph: Graph) -> tuple[str, tuple[int | str, ...], dict[str, Any]]:
    n = graph[graph.outputs[0][1]]
    return n.op, n.type.shape, n.attr


def refusal(source: onnx.ModelProto) -> tuple[tuple[str, str, str], ...]:
    with pytest.raises(UnsupportedError) as caught:
        read(source)
    for row in caught.value.rows:
        assert row[1] in str(caught.value) and row[2] in str(caught.value)
    found = inspect(source)
    assert (found.unsupported or found.open) == (caught.value.rows or (("model", "test", str(caught.value)),))
    return caught.value.rows


# ---- single ops: the text of the last node


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (single("Conv", [1, 3, 8, 9], floats(4, 3, 3, 3), pads=[1, 0, 2, 1], strides=[2, 1],
                dilations=[1, 2]),
         "y: f32[1, 4, 5, 6] = conv(x, c1) begin=(1,0) dilations=(1,2) end=(2,1) group=1 strides=(2,1)"),
        (single("Conv", ["batch", 4, 8], floats(6, 2, 3), group=2),
         "y: f32[N, 6, 6] = conv(x, c1) begin=(0,) dilations=(1,) end=(0,) group=2 strides=(1,)"),
        (single("Conv", [1, 2, 5, 5, 5], floats(2, 1, 3, 3, 3), group=2, auto_pad="SAME_UPPER",
                strides=[2, 2, 2]),
         "y: f32[1, 2, 3, 3, 3] = conv(x, c1) begin=(1,1,1) dilations=(1,1,1) end=(1,1,1) group=2 "
         "strides=(2,2,2)"),
        (single("Conv", [1, 1, 6], floats(1, 1, 3), auto_pad="SAME_UPPER", strides=[2]),
         "y: f32[1, 1, 3] = conv(x, c1) begin=(0,) dilations=(1,) end=(1,) group=1 strides=(2,)"),
        (single("Conv", [1, 1, 6], floats(1, 1, 3), auto_pad="SAME_LOWER", strides=[2]),
         "y: f32[1, 1, 3] = conv(x, c1) begin=(1,) dilations=(1,) end=(0,) group=1 strides=(2,)"),
        (single("Conv", [1, 1, 6], floats(1, 1, 3), auto_pad="VALID", pads=[1, 1]),
         "y: f32[1, 1, 4] = conv(x, c1) begin=(0,) dilations=(1,) end=(0,) group=1 strides=(1,)"),
        (single("Conv", [1, 1, 6], floats(2, 1, 3), np.zeros(2, np.float32)),
         "y: f32[1, 2, 4] = add(y.conv, y.bias)"),
        (single("Conv", [1, 1, 6], floats(2, 1, 3), floats(2)), "y: f32[1, 2, 4] = add(y.conv, y.bias)"),
        (single("BatchNormalization", ["N", 3, 4, 4], *[floats(3)] * 3, np.ones(3, np.float32)),
         "y: f32[N, 3, 4, 4] = batch_norm(x, c1, c2, c3, c4) epsilon=1e-05 momentum=0.9"),
        (single("Relu", [2, 3]), "y: f32[2, 3] = relu(x)"),
        (single("Clip", [2], opset=7, min=0.0, max=6.0), "y: f32[2] = clip(x) high=6.0 low=0.0"),
        (single("Clip", [2], np.float32(-1), np.float32(6)), "y: f32[2] = clip(x) high=6.0 low=-1.0"),
        (single("Clip", [2], None, np.float32(6)), "y: f32[2] = clip(x) high=6.0 low=-inf"),
        (single("Clip", [2], np.float32(0)), "y: f32[2] = relu(x)"),
        (single("Clip", [2], opset=10, min=0.0), "y: f32[2] = relu(x)"),
        (single("Clip", [2]), "x: f32[2] = input()"),
        (single("Clip", [2], opset=7), "x: f32[2] = input()"),
        (single("Add", ["N", 3, 2], floats(3, 1)), "y: f32[N, 3, 2] = add(x, c1)"),
        (single("Sub", ["N", 3, 2], floats(2)), "y: f32[N, 3, 2] = sub(x, c1)"),
        (single("Exp", ["N", 3]), "y: f32[N, 3] = exp(x)"),
        (single("MaxPool", [1, 2, 6, 6], kernel_shape=[3, 3], strides=[2, 2]),
         "y: f32[1, 2, 2, 2] = max_pool(x) begin=(0,0) dilations=(1,1) end=(0,0) kernel=(3,3) strides=(2,2)"),
        (single("MaxPool", [1, 2, 6], kernel_shape=[3], strides=[2], ceil_mode=1),
         "y: f32[1, 2, 3] = max_pool(x) begin=(0,) dilations=(1,) end=(1,) kernel=(3,) strides=(2,)"),
        # The third window would start beyond the input: ONNX leaves it out.
        (single("MaxPool", [1, 2, 5], kernel_shape=[2], strides=[3], pads=[1, 1], ceil_mode=1),
         "y: f32[1, 2, 2] = max_pool(x) begin=(1,) dilations=(1,) end=(1,) kernel=(2,) strides=(3,)"),
        (single("MaxPool", [1, 2, 9], kernel_shape=[3], dilations=[2], storage_order=1),
         "y: f32[1, 2, 5] = max_pool(x) begin=(0,) dilations=(2,) end=(0,) kernel=(3,) strides=(1,)"),
        (single("AveragePool", [1, 2, 6, 6], kernel_shape=[2, 3]),
         f"y: f32[1, 2, 5, 4] = scale(y.sum) factor={1 / 6}"),
        (single("AveragePool", [1, 2, 6], kernel_shape=[3], pads=[1, 1], count_include_pad=1),
         f"y: f32[1, 2, 6] = scale(y.sum) factor={1 / 3}"),
        (single("AveragePool", [1, 2, 6, 6], kernel_shape=[3, 2], pads=[1, 0, 1, 0]),
         "y: f32[1, 2, 6, 5] = mul(y.sum, y.divisors)"),
        (single("AveragePool", [1, 2, 6, 6], kernel_shape=[1, 1]), "x: f32[1, 2, 6, 6] = input()"),
        (single("GlobalAveragePool", ["N", 2, 6, 6]),
         "y: f32[N, 2, 1, 1] = reduce_mean(x) axes=(2,3) keepdims=True"),
        (single("ReduceMean", [1, 2, 6, 6], axes=[-1, 2], keepdims=0),
         "y: f32[1, 2] = reduce_mean(x) axes=(2,3) keepdims=False"),
        (single("ReduceMean", ["N", 2, 6], ints(-1), opset=18),
         "y: f32[N, 2, 1] = reduce_mean(x) axes=(2,) keepdims=True"),
        (single("ReduceMean", [1, 6], opset=18), "y: f32[1, 1] = reduce_mean(x) axes=(0,1) keepdims=True"),
        (single("ReduceMean", [2, 6], keepdims=0), "y: f32[] = reshape(y.mean) shape=()"),
        (single("ReduceMean", [1, 6], opset=18, noop_with_empty_axes=1), "x: f32[1, 6] = input()"),
        (single("Reshape", ["N", 2, 3, 4], ints(0, -1)), "y: f32[N, 24] = reshape(x) shape=('N',24)"),
        (single("Reshape", ["N", 2, 3, 4], ints(-1, 6, 4)), "y: f32[N, 6, 4] = reshape(x) shape=('N',6,4)"),
        (single("Reshape", [2, 3, 4], ints(0, 2, -1)), "y: f32[2, 2, 6] = reshape(x) shape=(2,2,6)"),
        (single("Reshape", [2, 3], ints(2, 3)), "x: f32[2, 3] = input()"),
        (single("Reshape", [2, 3], ints(-1), opset=14, allowzero=1), "y: f32[6] = reshape(x) shape=(6,)"),
        (single("Flatten", ["N", 2, 3]), "y: f32[N, 6] = reshape(x) shape=('N',6)"),
        (single("Flatten", [4, 2, 3], axis=-1), "y: f32[8, 3] = reshape(x) shape=(8,3)"),
        (single("Flatten", [4, 3], axis=0), "y: f32[1, 12] = reshape(x) shape=(1,12)"),
        (single("Gemm", ["N", 4], floats(5, 4), transB=1), "y: f32[N, 5] = linear(x, c1)"),
        (single("Gemm", ["N", 4], floats(4, 5), floats(5), opset=9), "y: f32[N, 5] = add(y.linear, c2)"),
        (single("Gemm", ["N", 4], floats(4, 5), floats(5), alpha=0.5, beta=2.0),
         "y: f32[N, 5] = add(y.linear, y.bias)"),
        (single("Gemm", ["N", 4], floats(4, 5), floats(5), beta=0.0), "y: f32[N, 5] = linear(x, y.weight)"),
        (single("MatMul", ["N", 4], floats(4, 5)), "y: f32[N, 5] = linear(x, y.weight)"),
        (single("Softmax", ["N", 4, 5], opset=13), "y: f32[N, 4, 5] = softmax(x) axis=2"),
        (single("Softmax", ["N", 4, 5], opset=13, axis=1), "y: f32[N, 4, 5] = softmax(x) axis=1"),
        (single("Softmax", ["N", 4, 5], opset=12), "y: f32[N, 4, 5] = reshape(y.softmax) shape=('N',4,5)"),
        (single("Softmax", ["N", 4, 1], opset=7), "y: f32[N, 4, 1] = softmax(x) axis=1"),
        (single("Identity", [2]), "x: f32[2] = input()"),
        (single("Dropout", [2], opset=7, ratio=0.25), "y: f32[2] = dropout(x) ratio=0.25"),
        (single("Dropout", [2], np.float32(0.25), np.array(False), opset=13),
         "y: f32[2] = dropout(x) ratio=0.25"),
        (single("Dropout", [2], opset=7, ratio=0.0), "x: f32[2] = input()"),
    ])
def test_the_graph_of_an_op(source: onnx.ModelProto, text: str) -> None:
    graph = read(source)
    graph.verify()
    node = graph[graph.outputs[0][1]]
    assert str(node).removesuffix(" from node") == text
    assert graph.outputs[0][0] == "y" and graph.inputs == ("x",)
    assert all(n.origin == ("node",) for n in graph if n.op not in ("input", "const"))
    assert inspect(source).unsupported == ()


def test_batch_norm_is_folded_in_float64() -> None:
    gamma, beta, mean = floats(3, seed=1), floats(3, seed=2), floats(3, seed=3)
    variance = np.array([0.1, 1, 1e-8], np.float32)
    source = single("BatchNormalization", [1, 3, 2, 2], gamma, beta, mean, variance, epsilon=1e-3, opset=7,
                    momentum=0.5, spatial=1)
    graph = read(source)
    scale = gamma.astype(float) / np.sqrt(variance.astype(float) + np.float32(1e-3))
    graph = fold_batchnorm(graph, target_for())
    np.testing.assert_array_equal(graph.constants["y.scale"], scale.astype(np.float32).reshape(3, 1, 1))
    np.testing.assert_array_equal(graph.constants["y.shift"],
                                  (beta - mean * scale).astype(np.float32).reshape(3, 1, 1))


def test_average_counts_only_the_input() -> None:
    graph = read(single("AveragePool", [1, 1, 3, 4], kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    expected = 1 / np.outer([2, 3, 2], [2, 3, 3, 2])
    np.testing.assert_array_equal(graph.constants["y.divisors"], expected[None, None].astype(np.float32))
    assert ops(graph) == ["sum_pool", "mul"]


# ---- results


Case = tuple[list[int], tuple[np.ndarray | None, ...], dict[str, Any], int, int]
PADDED = {"kernel_shape": [3, 2], "strides": [2, 3], "pads": [1, 0, 1, 1]}
CEILED = {"kernel_shape": [3, 3], "strides": [2, 3], "pads": [1, 1, 0, 1], "ceil_mode": 1}
BATCH_NORM = (floats(3), floats(3, seed=1), floats(3, seed=2), floats(3) ** 2)
CASES: dict[str, Case] = {      # shape, further operands, attributes, first and last opset
    "conv1d": ([2, 4, 11], (floats(6, 2, 3), floats(6)), {"group": 2, "dilations": [2], "pads": [3, 1]},
               7, NEWEST),
    "conv2d": ([2, 3, 8, 9], (floats(4, 3, 3, 2), floats(4)), {"strides": [2, 1], "pads": [0, 1, 2, 0]},
               7, NEWEST),
    "conv_lower": ([1, 3, 8, 9], (floats(4, 3, 2, 4),), {"strides": [2, 3], "auto_pad": "SAME_LOWER"},
                   7, NEWEST),
    "conv3d": ([1, 2, 5, 6, 4], (floats(3, 2, 2, 3, 3),), {"auto_pad": "SAME_UPPER"}, 7, NEWEST),
    "batchnormalization": ([2, 3, 4, 5], BATCH_NORM, {}, 7, NEWEST),
    "relu": ([3, 4], (), {}, 7, NEWEST),
    "clip_attributes": ([3, 4], (), {"min": -0.5, "max": 0.25}, 7, 10),
    "clip_inputs": ([3, 4], (np.float32(-0.5), np.float32(0.25)), {}, 11, NEWEST),
    "add": ([2, 3, 4], (floats(3, 1),), {}, 7, NEWEST),
    "sub": ([3, 1], (floats(2, 1, 4),), {}, 7, NEWEST),
    "mul": ([2, 3, 4], (floats(1),), {}, 7, NEWEST),
    "div": ([2, 3, 4], (floats(2, 1, 4) ** 2 + 1,), {}, 7, NEWEST),
    "exp": ([3, 4], (), {}, 7, NEWEST),
    "maxpool": ([1, 2, 9, 8], (), PADDED, 7, NEWEST),
    "maxpool_ceil": ([1, 2, 10, 8], (), PADDED | {"ceil_mode": 1, "dilations": [2, 1]}, 10, NEWEST),
    "averagepool": ([1, 2, 9, 8], (), PADDED, 7, NEWEST),
    "averagepool_same": ([1, 2, 9, 8], (), {"kernel_shape": [4, 2], "auto_pad": "SAME_UPPER"}, 7, NEWEST),
    "averagepool_include": ([1, 2, 9], (), {"kernel_shape": [3], "pads": [1, 1], "count_include_pad": 1},
                            7, NEWEST),
    "averagepool_ceil": ([1, 2, 10, 9], (), CEILED, 10, NEWEST),
    "averagepool_ceil_include": ([1, 2, 10, 9], (), CEILED | {"count_include_pad": 1}, 10, NEWEST),
    "averagepool_dilated": ([1, 2, 10], (), {"kernel_shape": [3], "dilations": [2], "pads": [2, 2]},
                            19, NEWEST),
    "globalaveragepool": ([2, 3, 4, 5], (), {}, 7, NEWEST),
    "reducemean": ([2, 3, 4], (), {"axes": [-1, 0], "keepdims": 0}, 7, 17),
    "reducemean_input": ([2, 3, 4], (ints(1),), {"keepdims": 1}, 18, NEWEST),
    "reducemean_all": ([2, 3, 4], (), {"keepdims": 0}, 7, NEWEST),
    "reshape": ([2, 3, 4], (ints(0, -1, 2),), {}, 7, NEWEST),
    "flatten": ([2, 3, 4], (), {"axis": 2}, 7, NEWEST),
    "gemm": ([3, 4], (floats(4, 5), floats(3, 1)), {"alpha": 0.5, "beta": 2.0}, 7, NEWEST),
    "matmul": ([3, 4], (floats(4, 5),), {}, 7, NEWEST),
    "softmax": ([2, 3, 4], (), {"axis": 1}, 7, NEWEST),
    "softmax_default": ([2, 3, 4], (), {}, 7, NEWEST),
    "softmax_all": ([2, 3, 4], (), {"axis": 0}, 7, NEWEST),
    "identity": ([2, 3], (), {}, 7, NEWEST),
    "dropout": ([2, 3], (), {}, 7, NEWEST),
}
NAMES = {s.name.lower(): s.name for s in onnx.defs.get_all_schemas()}


@pytest.mark.parametrize("case", CASES)
def test_results_are_onnx_runtimes(case: str) -> None:
    runtime = pytest.importorskip("onnxruntime")
    shape, operands, attributes, oldest, newest = CASES[case]
    name = case.partition("_")[0].rstrip("123d") if case.startswith("conv") else case.partition("_")[0]
    x = floats(*shape, seed=9)
    for opset in range(oldest, newest + 1):
        source = single(NAMES[name], shape, *operands, opset=opset, **attributes)
        got = evaluate(read(source), {"x": x}, np.float64)["y"]
        options = runtime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        try:
            session = runtime.InferenceSession(source.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception:
            assert opset > 21, f"ONNX Runtime refuses opset {opset}"
            continue
        expected, = session.run(None, {"x": x})
        assert got.shape == expected.shape, opset
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=f"opset {opset}")


def test_the_digits_model() -> None:
    graph, info = read(DIGITS), inspect(str(DIGITS))
    assert graph["x"].type.shape == ("N", 1, 8, 8)
    (name, value), = graph.outputs
    assert (name, str(graph[value].type)) == ("probabilities", "f32[N, 10]")
    assert read(DIGITS.read_bytes()).summary() == graph.summary() == read(onnx.load(DIGITS)).summary()
    assert (info.name, info.opset, info.unsupported) == ("digits", 17, ())
    assert [str(t) for _, t in (*info.inputs, *info.outputs)] == ["f32[N, 1, 8, 8]", "f32[N, 10]"]
    assert info.nodes["Conv"] == 3 and info.parameter_bytes == 4 * info.parameters > 0


# ---- structure


def node(op: str, inputs: list[str], outputs: list[str], name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=name, **attributes)


def test_outputs_may_be_aliases_inputs_and_constants() -> None:
    nodes = [node("Identity", ["x"], ["a"]), node("Relu", ["a"], ["b"]),
             node("Dropout", ["b"], ["c", "mask"])]
    graph = read(model(nodes, {"x": [2]}, ["c", "a", "b", "k"], {"k": floats(3)}))
    assert graph.outputs == (("c", "c"), ("a", "x"), ("b", "b"), ("k", "k"))
    assert graph["b"].origin == ("Relu_1",)
    assert graph["c"].op == "dropout" and graph["c"].inputs == ("b",)


def test_all_forms_of_constants() -> None:
    tensor = numpy_helper.from_array(floats(2))
    forms: list[dict[str, Any]] = [{"value": tensor}, {"value_float": 1.5}, {"value_floats": [1.0, 2.0]}]
    for form in forms:
        nodes = [node("Constant", [], ["k"], **form), node("Add", ["x", "k"], ["y"])]
        graph = read(model(nodes, {"x": [2]}, ["y"]))
        assert last(graph)[0] == "add" and graph.constants["k"].dtype == np.float32
    for form in ({"value_ints": [3, 2]}, {"value": numpy_helper.from_array(ints(3, 2))}):
        nodes = [node("Constant", [], ["k"], **form), node("Reshape", ["x", "k"], ["y"])]
        assert last(read(model(nodes, {"x": [6]}, ["y"])))[1] == (3, 2)


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("size", [2, 500])
def test_constants_in_every_encoding(typed: bool, size: int) -> None:
    values = floats(size)
    tensor = helper.make_tensor("k", TensorProto.FLOAT, [size], values) if typed \
        else numpy_helper.from_array(values, "k")
    source = model([node("Add", ["x", "k"], ["y"])], {"x": [size]}, ["y"])
    source.graph.initializer.append(tensor)
    for given in (source, source.SerializeToString()):
        value = read(given).constants["k"]
        np.testing.assert_array_equal(value, values)
        assert not value.flags.writeable


def test_constants_are_folded() -> None:
    nodes = [node("Identity", ["w"], ["wi"]), node("Reshape", ["wi", "shape"], ["wr"]),
             node("Flatten", ["wr"], ["wf"]), node("Gemm", ["x", "wf"], ["y"], transB=1)]
    w = floats(5, 2, 2)
    graph = read(model(nodes, {"x": ["N", 4]}, ["y"], {"w": w, "shape": ints(0, -1)}))
    assert ops(graph) == ["linear"]
    np.testing.assert_array_equal(next(iter(graph.constants.values())), w.reshape(5, 4))


def test_initializers_that_are_inputs_too() -> None:
    source = single("Conv", [1, 1, 5], floats(1, 1, 3), opset=8)
    assert [i.name for i in source.graph.input] == ["x", "c1"]
    assert read(source).inputs == ("x",) and [n for n, _ in inspect(source).inputs] == ["x"]


def test_dead_nodes_and_constants_vanish() -> None:
    nodes = [node("Relu", ["x"], ["y"]), node("Sin", ["x"], ["z"])]
    graph = read(model(nodes, {"x": [2], "unused": [3]}, ["y"], {"k": floats(3)}))
    assert list(graph.nodes) == ["x", "unused", "y"]


@pytest.mark.parametrize("extent", ["N", "batch_size", None])
def test_an_open_batch_is_called_n(extent: str | None) -> None:
    nodes = [node("Add", ["x", "z"], ["y"])]
    assert last(read(model(nodes, {"x": [extent, 3], "z": [extent, 3]}, ["y"])))[1] == ("N", 3)


def test_a_long_chain() -> None:
    names = ["x", *(f"v{i}" for i in range(5000))]
    nodes = [node("Relu", [a], [b]) for a, b in pairwise(names)]
    assert len(read(model(nodes, {"x": [2]}, [names[-1]])).nodes) == 5001


# ---- refusals


def test_every_unsupported_node_is_listed() -> None:
    nodes = [node("Multinomial", ["x"], ["a"], "first"), node("Relu", ["a"], ["b"]),
             node("StringSplit", ["b"], ["c"]),
             helper.make_node("Gelu", ["c"], ["d"], domain="com.example"),
             node("AveragePool", ["x"], ["e", "indices"], "pool", kernel_shape=[2]),
             node("Multinomial", ["d", "e", "indices"], ["y"], "last")]
    rows = refusal(model(nodes, {"x": [1, 2, 8]}, ["y"]))
    assert [row[:2] for row in rows] == [("Multinomial", "first"), ("StringSplit", "StringSplit_2"),
                                         ("com.example.Gelu", "Gelu_3"), ("AveragePool", "pool"),
                                         ("Multinomial", "last")]
    assert "opset 17" in rows[0][2] and "indices" in rows[3][2]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (single("Clip", [2], opset=17, min=0.0), "min"),
        (single("BatchNormalization", ["N", 2, 2], *[np.ones(2, np.float32)] * 4, training_mode=1), "batch"),
        (single("Dropout", [2], None, np.array(True)), "training"),
        (single("Reshape", ["N", 4], ints(1, 4)), "fixes the batch"),
        (single("Reshape", ["N", 4], ints(4, -1)), "batch"),
        (single("Reshape", ["N", 4], ints(-1, 2)), "batch"),
        (single("Flatten", ["N", 4, 3], axis=2), "batch"),
        (single("ReduceMean", ["N", 4]), "batch"),
        (single("Softmax", ["N", 4], axis=0), "batch"),
        (single("Softmax", ["N", 4], axis=0, opset=11), "batch"),
        (single("MaxPool", [1, 1, 4], kernel_shape=[2], pads=[2, 0]), "padding"),
    ])
def test_what_a_node_asks_for_in_vain(source: onnx.ModelProto, words: str) -> None:
    (op, name, reason), = refusal(source)
    assert op == source.graph.node[0].op_type and name == "node" and words in reason


@pytest.mark.parametrize(
    ("inputs", "words"),
    [({"x": ["N", 3, "H"]}, "axis 2"), ({"x": [1, None]}, "axis 1"), ({"x": ["N", 2], "z": ["M", 2]}, "'M'")])
def test_other_open_sizes_are_refused(inputs: dict[str, list[Any]], words: str) -> None:
    nodes = [node("Relu", ["x"], ["y"])]
    (op, name, reason), = refusal(model(nodes, inputs, ["y"]))
    assert op == "input" and name == list(inputs)[-1] and words in reason


def test_inputs_of_other_types_are_refused() -> None:
    source = single("Relu", [2])
    source.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    assert refusal(source) == (("input", "x", "its type is string, which isn't supported"),)
    source.graph.input[0].type.sequence_type.elem_type.tensor_type.elem_type = 1
    assert refusal(source)[0][2] == "it is no tensor"


@pytest.mark.parametrize("opset", [1, 5, NEWEST + 1])
def test_opsets_out_of_range(opset: int) -> None:
    source = single("Relu", [2])
    source.opset_import[0].version = opset
    assert refusal(source) == ()


def test_other_sources() -> None:
    with pytest.raises(InputError, match="not int"):
        read(3)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="empty"):
        read(b"")
