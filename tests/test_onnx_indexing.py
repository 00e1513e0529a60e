"""Ops that read or write at places that data say: the importer against ONNX Runtime, values and mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import floats

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.text import parse_graph

Array = np.ndarray
X, IMAGES = floats(5, 6, 7), floats(2, 3, 5, 7, seed=1)
DRAW = np.random.default_rng(7)


def where(low: int, high: int, *shape: int, dtype: type = np.int64) -> Array:
    return DRAW.integers(low, high, shape).astype(dtype)


def row(op: str, *operands: Array, outputs: int = 1, opset: int = 20, **attributes: Any) -> onnx.ModelProto:
    """One node of which all operands are inputs of the model."""
    names = [f"i{i}" for i in range(len(operands))]
    results = [f"y{i}" for i in range(outputs)]
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for n, x in zip(names, operands, strict=True)]
    ends = [helper.make_tensor_value_info(n, 0, None) for n in results]
    node = helper.make_node(op, names, results, name="node", **attributes)
    graph = helper.make_graph([node], "test", infos, ends)
    for end in graph.output:
        end.ClearField("type")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class Case(NamedTuple):
    op: str
    operands: Sequence[Array]
    attributes: Mapping[str, Any] = {}
    opset: int = 20


GRID = DRAW.uniform(-1.4, 1.4, (2, 4, 3, 2)).astype(np.float32)
GRID[0, 0, :2] = [[-1, 1], [1, -1]]
VOLUMES = floats(2, 3, 4, 5, 6), DRAW.uniform(-1.3, 1.3, (2, 2, 3, 4, 3)).astype(np.float32)
PERMUTED = np.stack([DRAW.permutation(6) for _ in range(5 * 7)]).reshape(5, 7, 6).transpose(0, 2, 1)[:, :4]
CASES = {
    "gather": Case("Gather", (X, where(-6, 6, 4)), {"axis": 1}),
    "gather int32": Case("Gather", (X, where(-5, 5, 2, 3, dtype=np.int32)), {"axis": 0}),
    "gather last": Case("Gather", (X, where(-7, 7, 9)), {"axis": -1}),
    "gather one": Case("Gather", (X, where(-5, 5))),
    "gather bytes": Case("Gather", (where(0, 9, 30, dtype=np.uint8), where(0, 30, 2, 5))),
    "gatherelements": Case("GatherElements", (X, where(-6, 6, 5, 4, 7)), {"axis": 1}),
    "gatherelements last": Case("GatherElements", (X, where(-7, 7, 5, 6, 9)), {"axis": 2}),
    "gatherelements part": Case("GatherElements", (X, where(-5, 5, 8, 2, 3)), {"axis": 0}),
    "gathernd": Case("GatherND", (X, where(-5, 5, 4, 2))),
    "gathernd elements": Case("GatherND", (X, where(-5, 5, 2, 3, 3))),
    "gathernd rows": Case("GatherND", (X, where(-5, 5, 3, 2, 1))),
    "gathernd batch": Case("GatherND", (X, where(-6, 6, 5, 3, 1)), {"batch_dims": 1}),
    "scatterelements": Case("ScatterElements", (X, PERMUTED.copy(), floats(5, 4, 7)), {"axis": 1}),
    "scatterelements last": Case("ScatterElements", (X, PERMUTED.transpose(0, 2, 1).copy()[:, :6],
                                                     floats(5, 6, 4)), {"axis": -1}),
    "scatter": Case("Scatter", (X, np.array([[[1, -2, 0]]]), floats(1, 1, 3)), {"axis": 2}, 10),
    "scatterelements add": Case("ScatterElements", (X, where(-6, 6, 5, 9, 7), floats(5, 9, 7)),
                                {"axis": 1, "reduction": "add"}),
    "scatterelements mul": Case("ScatterElements", (X, where(-7, 7, 5, 6, 9), floats(5, 6, 9)),
                                {"axis": 2, "reduction": "mul"}),
    "scatterelements max": Case("ScatterElements", (X, where(-5, 5, 9, 6, 7), floats(9, 6, 7)),
                                {"axis": 0, "reduction": "max"}),
    "scatterelements ints": Case("ScatterElements", (where(0, 9, 4), where(0, 4, 60), where(0, 9, 60)),
                                 {"reduction": "min"}),
    "scatternd": Case("ScatterND", (X, np.array([[1, 2], [-1, 0], [0, 5]]), floats(3, 7)), {}, 16),
    "scatternd old": Case("ScatterND", (X, np.array([[3], [-4]]), floats(2, 6, 7)), {}, 11),
    "scatternd elements": Case("ScatterND", (X, np.array([[1, 2, 3], [0, 0, -1]]), floats(2)), {}, 16),
    "scatternd add": Case("ScatterND", (X, where(-5, 5, 4, 3, 2), floats(4, 3, 7)), {"reduction": "add"}, 16),
    "scatternd max": Case("ScatterND", (X, where(-5, 5, 9, 1), floats(9, 6, 7)), {"reduction": "max"}, 18),
    "gridsample": Case("GridSample", (IMAGES, GRID)),
    "gridsample volumes": Case("GridSample", VOLUMES, {"padding_mode": "border"}),
    "gridsample nearest": Case("GridSample", VOLUMES, {"mode": "nearest", "padding_mode": "reflection"}),
    "gridsample old": Case("GridSample", (IMAGES, GRID), {"mode": "bicubic"}, 16),
    "topk": Case("TopK", (X, np.array([3])), {}),
}
for padding in ("zeros", "border", "reflection"):
    for align in (0, 1):
        for mode in ("linear", "nearest", "cubic"):
            CASES[f"gridsample {mode} {padding} {align}"] = Case(
                "GridSample", (IMAGES, GRID), {"mode": mode, "padding_mode": padding, "align_corners": align})
del CASES["topk"]


@pytest.mark.parametrize("name", CASES)
def test_it_does_what_onnx_runtime_does(name: str) -> None:
    case = CASES[name]
    proto = row(case.op, *case.operands, opset=case.opset, **case.attributes)
    check(proto, case.operands, 1e-6 if case.op != "GridSample" else 1e-5)


def check(proto: onnx.ModelProto, operands: Sequence[Array], tolerance: float) -> None:
    ort = pytest.importorskip("onnxruntime")
    feeds = {i.name: x for i, x in zip(proto.graph.input, operands, strict=True)}
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, feeds)
    graph = read(proto)
    model = cnncc.compile(graph, cache=False, jobs=1, threads=1)
    got = model.run(None, feeds)
    for y, own, other in zip(got, cnncc.reference(graph).run(None, feeds), expected, strict=True):
        assert (y.dtype, y.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(y, other, tolerance, tolerance)
        np.testing.assert_allclose(own, other, tolerance, tolerance)
    model.threads = 3
    assert all(map(np.array_equal, got, model.run(None, feeds)))
    assert str(parse_graph(str(graph), graph.constants)) == str(graph)


@pytest.mark.parametrize("axis, k, largest", [(1, 3, 1), (0, 5, 0), (-1, 1, 1), (2, 7, 0)])
def test_the_first_in_order(axis: int, k: int, largest: int) -> None:
    x = (X * 2).round()         # many are equal
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"], name="node", axis=axis, largest=largest)
    check(ordered(node, x, k), [x], 0)
    ints = x.astype(np.int32)
    check(ordered(node, ints, k), [ints], 0)


def ordered(node: onnx.NodeProto, x: Array, k: int) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        [node], "test", [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, None), helper.make_tensor_value_info("i", 7, None)],
        [onnx.numpy_helper.from_array(np.array([k]), "k")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


def test_a_nan_is_the_greatest() -> None:
    x = np.array([1, np.nan, 3, np.nan, -np.inf, np.inf], np.float32)
    for largest, expected in ((1, [1, 3, 5, 2, 0, 4]), (0, [4, 0, 2, 5, 1, 3])):
        node = helper.make_node("TopK", ["x", "k"], ["y", "i"], name="node", largest=largest)
        values, index = cnncc.compile(ordered(node, x, 6), cache=False, jobs=1)(x)
        assert index.tolist() == expected
        np.testing.assert_array_equal(values, x[expected])


@pytest.mark.parametrize("name", ["gather", "gatherelements last", "gathernd batch", "scatterelements",
                                  "scatternd", "scatternd add"])
@pytest.mark.parametrize("wrong", [6 << 40, 7, -8, -1 << 63])
def test_an_index_out_of_range_is_an_error(name: str, wrong: int) -> None:
    case = CASES[name]
    graph = read(row(case.op, *case.operands, opset=case.opset, **case.attributes))
    operands = [x.copy() for x in case.operands]
    operands[1].flat[-1] = wrong
    for model in (cnncc.compile(graph, cache=False, jobs=1), cnncc.reference(graph)):
        with pytest.raises(InputError, match=rf"{case.op} 'node': an index is out of range"):
            model(*operands)
        model(*case.operands)       # it goes on


def test_the_open_batch() -> None:
    operands = X, where(-6, 6, 5, 3, 1)
    proto = row("GatherND", *operands, batch_dims=1)
    for i in proto.graph.input:
        i.type.tensor_type.shape.dim[0].dim_param = "N"
    model = cnncc.compile(proto, cache=False, jobs=1)
    expected = np.take_along_axis(X, operands[1] % 6, 1)[:, :, :1]
    for n in (5, 2):
        got = model(X[:n], operands[1][:n])
        np.testing.assert_array_equal(got, X[np.arange(n)[:, None], operands[1][:n, :, 0]])
    assert expected.shape == (5, 3, 1)


def test_what_was_computed_is_read_and_written_where_data_say() -> None:
    """Neighbours don't join what they must not, and do what they may."""
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["w", "w"], ["b"]),
             helper.make_node("Gather", ["a", "b"], ["c"], axis=1), helper.make_node("Neg", ["c"], ["d"]),
             helper.make_node("Transpose", ["d"], ["e"], perm=[1, 0, 2]),
             helper.make_node("Exp", ["u"], ["f"]), helper.make_node("Transpose", ["f"], ["g"], perm=[1, 0]),
             helper.make_node("ScatterND", ["e", "v", "g"], ["h"], reduction="add"),
             helper.make_node("Relu", ["h"], ["y"])]
    w, v, u = np.array([2, 0, 1]), np.array([[0, 1], [0, 1], [2, 4], [1, 0]]), floats(7, 4)
    infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for n, x in zip("xwvu", (X, w, v, u), strict=True)]
    graph = helper.make_graph(nodes, "test", infos, [helper.make_tensor_value_info("y", 1, None)])
    check(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8),
          (X, w, v, u), 1e-6)


@pytest.mark.parametrize("case, message", [
    (Case("GatherElements", (X, where(0, 5, 5, 7, 7)), {"axis": 0}), "indices of shape .* don't fit"),
    (Case("GatherND", (X, where(0, 5, 4, 4))), "indices of shape .* don't fit"),
    (Case("GatherND", (X, where(0, 5, 4, 3, 1)), {"batch_dims": 1}), "with batch_dims=1"),
    (Case("ScatterND", (X, where(0, 5, 3, 2), floats(3, 6))), "updates of .* don't fit"),
    (Case("ScatterElements", (X, where(0, 5, 3, 2, 2), floats(3, 2, 1))), "updates of .* don't fit"),
    (Case("ScatterElements", (X, where(0, 5, 1, 1, 1), floats(1, 1, 1)), {"reduction": "xor"}), "reduction"),
    (Case("GridSample", (IMAGES, GRID[:1])), "a grid of .* doesn't fit"),
    (Case("Gather", (X, floats(3))), "its indices are of f32"),
])
def test_what_does_not_fit_is_refused(case: Case, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(row(case.op, *case.operands, opset=case.opset, **case.attributes))


@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 3, 2)])
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_not_zero(shape: tuple[int, ...], turned: bool) -> None:
    """Into its bound, with a count."""
    nodes = [helper.make_node("NonZero", ["x"], ["i"], name="node")]
    nodes += [helper.make_node("Transpose", ["i"], ["y"])] if turned else []
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info("x", 1, shape)],
                              [helper.make_tensor_value_info("y" if turned else "i", 7, None)])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model, reference = cnncc.compile(proto, cache=False, jobs=1), cnncc.reference(proto)
    for x in (DRAW.integers(-1, 2, shape), np.zeros(shape), np.ones(shape)):
        expected = np.stack(np.nonzero(x))
        for made in (model, reference):
            np.testing.assert_array_equal(made(x.astype(np.float32)), expected.T if turned else expected)


@pytest.mark.parametrize("wanted", [None, [1, 2, 7, 8]])
def test_unpooling(wanted: list[int] | None) -> None:
    x = DRAW.permutation(2 * 6 * 7).reshape(1, 2, 6, 7).astype(np.float32)
    names = ["m", "i", *(["s"] if wanted else [])]
    nodes = [helper.make_node("MaxPool", ["x"], ["m", "i"], kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("MaxUnpool", names, ["y"], name="node", kernel_shape=[2, 2], strides=[2, 2])]
    constants = [onnx.numpy_helper.from_array(np.array(wanted), "s")] if wanted else []
    graph = helper.make_graph(nodes, "test", [helper.make_tensor_value_info("x", 1, x[:, :, :, :6].shape)],
                              [helper.make_tensor_value_info("y", 1, None)], constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    x = x[:, :, :, :6].copy()
    blocks = x.reshape(1, 2, 3, 2, 3, 2)
    expected = np.where(blocks == blocks.max((3, 5), keepdims=True), blocks, 0).reshape(x.shape)
    if wanted:
        expected = np.pad(expected, [(0, 0), (0, 0), (0, 1), (0, 2)])
    for made in (cnncc.compile(proto, cache=False, jobs=1), cnncc.reference(proto)):
        np.testing.assert_array_equal(made(x), expected)


def test_rows_of_a_constant_table() -> None:
    table = floats(10, 3)
    proto = row("Gather", table, where(-10, 10, 4, 2))
    table_graph = proto.graph
    del table_graph.input[0]
    table_graph.initializer.append(onnx.numpy_helper.from_array(table, "i0"))
    check(proto, [where(-10, 10, 4, 2)], 0)
