"""Results of sizes that data say: values and counts against ONNX Runtime and NumPy; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import floats
from test_onnx_indexing import check, row

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.errors import InputError, ModelError, UnsupportedError

DRAW = np.random.default_rng(5)
Array = np.ndarray


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_parts_for_which_a_condition_holds(axis: int | None, share: float) -> None:
    x = floats(4, 5, 6)
    true = DRAW.random(120 if axis is None else x.shape[axis] - 1) < share
    check(row("Compress", x, true, **({} if axis is None else {"axis": axis})), [x, true], 0)


def test_a_constant_condition() -> None:
    x, true = floats(4, 5), np.array([True, False, True])
    proto = row("Compress", x, true, axis=1)
    del proto.graph.input[1]
    proto.graph.initializer.append(numpy_helper.from_array(true, "i1"))
    check(proto, [x], 0)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_what_there_is(dtype: type, axis: int | None, ordered: int) -> None:
    x = DRAW.integers(0, 2, (9, 3)).astype(dtype) if axis == 0 else DRAW.integers(0, 3, (4, 7)).astype(dtype)
    attributes = {"sorted": ordered} | ({} if axis is None else {"axis": axis})
    check(row("Unique", x, outputs=4, **attributes), [x], 0)


def test_many_classes_of_one() -> None:
    for x in (DRAW.permutation(500).astype(np.float32), np.zeros(70, np.float32)):
        check(row("Unique", x, outputs=4), [x], 0)


def suppression(boxes: Array, scores: Array, most: int | None, limit: float | None, floor: float | None,
                **attributes: Any) -> onnx.ModelProto:
    given = {"most": most, "limit": limit, "floor": floor}
    tensors = [numpy_helper.from_array(np.array([v], np.int64 if k == "most" else np.float32), k)
               for k, v in given.items() if v is not None]
    names = ["boxes", "scores", *(k if v is not None else "" for k, v in given.items())]
    node = helper.make_node("NonMaxSuppression", names, ["y"], name="node", **attributes)
    graph = helper.make_graph(
        [node], "test", [helper.make_tensor_value_info(n, 1, x.shape) for n, x in
                         (("boxes", boxes), ("scores", scores))],
        [helper.make_tensor_value_info("y", 7, None)], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)


@pytest.mark.parametrize("centre", [0, 1])
@pytest.mark.parametrize("most, limit, floor", [(3, 0.5, None), (20, 0.3, 0.4), (99, None, 0.0),
                                                (5, 0.5, 2.0), (None, 0.5, None)])
def test_the_best_boxes(most: int | None, limit: float | None, floor: float | None, centre: int) -> None:
    boxes = DRAW.random((2, 40, 4), np.float32)
    scores = DRAW.random((2, 3, 40), np.float32)
    check(suppression(boxes, scores, most, limit, floor, center_point_box=centre), [boxes, scores], 0)


def test_boxes_of_no_size_and_equal_scores() -> None:
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 2, 3], [2, 2, 2, 3], [1, 1, 0, 0]]], np.float32)
    scores = np.ones((1, 1, 5), np.float32)
    check(suppression(boxes, scores, 9, 0.5, 0.1), [boxes, scores], 0)


@pytest.mark.parametrize("time", [0, 1])
def test_sequences_in_reverse_order(time: int) -> None:
    x = floats(4, 5, 3)
    lengths = np.array([1, 5, 2, 4][:5 - time] if time else [4, 0, 1, 3, 2])
    proto = row("ReverseSequence", x, lengths, time_axis=time, batch_axis=1 - time)
    check(proto, [x, lengths], 0)
    model = cnncc.compile(proto, cache=False, jobs=1)
    with pytest.raises(InputError, match="ReverseSequence 'node': an index is out of range"):
        model(x, lengths + 5)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("given", [True, False])
def test_caches(mode: str, given: bool) -> None:
    x, u, at = floats(3, 2, 6, 4), floats(3, 2, 2, 4, seed=1), np.array([4, 0, 3])
    operands = [x, u, *([at + (mode == "circular")] if given else [])]
    proto = row("TensorScatter", *operands, opset=24, mode=mode)
    expected = x.copy()
    for b, t in np.ndindex(3, 2):
        expected[b, :, ((operands[2][b] if given else 0) + t) % 6] = u[b, :, t]
    for model in (cnncc.compile(proto, cache=False, jobs=1), cnncc.reference(proto)):
        np.testing.assert_array_equal(model(*operands), expected)


@pytest.mark.parametrize("op, operands, attributes, message", [
    ("Compress", (floats(4, 5), np.ones(5, bool)), {"axis": 0}, "a condition of shape"),
    ("Compress", (floats(4, 5), np.ones((2, 2), bool)), {"axis": 0}, "a condition of shape"),
    ("NonMaxSuppression", (floats(1, 5, 4), floats(1, 2, 6)), {}, "boxes of shape"),
    ("ReverseSequence", (floats(4, 5), np.ones(4, np.int64)), {}, "input 1 has the shape"),
    ("ReverseSequence", (floats(4, 5), np.ones(4, np.int64)), {"time_axis": 1}, "its axes are 1 and 1"),
    ("TensorScatter", (floats(3, 4, 5), floats(3, 2, 4)), {}, "updates of"),
    ("TensorScatter", (floats(3, 4, 5), floats(3, 2, 5)), {"mode": "wrap"}, "mode is"),
])
def test_what_does_not_fit_is_refused(op: str, operands: tuple[Array, ...], attributes: dict[str, Any],
                                      message: str) -> None:
    with pytest.raises(ModelError, match=f"{op} 'node'.*{message}"):
        read(row(op, *operands, opset=24, **attributes))


def test_what_is_too_much() -> None:
    x = np.zeros(3000, np.float32)
    with pytest.raises(UnsupportedError, match="it compares 3,000 parts with each other"):
        read(row("Unique", x))
    boxes, scores = np.zeros((1, 9000, 4), np.float32), np.zeros((1, 9, 9000), np.float32)
    with pytest.raises(UnsupportedError, match="it chooses 9,000 of 9,000 boxes"):
        read(suppression(boxes, scores, 1 << 40, 0.5, None))


def network(nodes: list[onnx.NodeProto], feeds: dict[str, Array], outputs: dict[str, int],
            **constants: Array) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for k, v in feeds.items()]
    ends = [helper.make_tensor_value_info(k, kind, None) for k, kind in outputs.items()]
    tensors = [numpy_helper.from_array(v, k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "test", infos, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_is_not_zero_is_read() -> None:
    """Indices beyond the count are no places: adding to them may lead out of the axis."""
    x, table = DRAW.integers(-1, 2, (4, 5)).astype(np.float32), floats(6, 3)
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Transpose", ["i"], ["t"]),
             helper.make_node("GatherND", ["x", "t"], ["v"]), helper.make_node("Abs", ["v"], ["a"]),
             helper.make_node("Mul", ["a", "v"], ["y"]),
             helper.make_node("Gather", ["i", "one"], ["column"], axis=0),
             helper.make_node("Add", ["column", "two"], ["far"]),
             helper.make_node("Sub", ["far", "one"], ["near"]),
             helper.make_node("Gather", ["table", "near"], ["z"])]
    source = network(nodes, {"x": x, "table": table}, {"y": 1, "z": 1, "t": 7},
                     one=np.array(1), two=np.array(2))
    check(source, [x, table], 0)
    for empty in (np.zeros_like(x), np.ones_like(x)):
        check(source, [empty, table], 0)


def test_boxes_that_were_chosen_are_read() -> None:
    """As detectors are exported: boxes, scores and classes of what was chosen."""
    boxes, scores = DRAW.random((1, 60, 4), np.float32), DRAW.random((1, 3, 60), np.float32)
    nodes = [*suppression(boxes, scores, 9, 0.4, 0.3).graph.node,
             helper.make_node("Slice", ["y", "two", "three", "one"], ["column"]),
             helper.make_node("Squeeze", ["column", "one"], ["index"]),
             helper.make_node("Squeeze", ["boxes", "zero"], ["all"]),
             helper.make_node("Gather", ["all", "index"], ["chosen"]),
             helper.make_node("Gather", ["y", "kind"], ["class"], axis=1),
             helper.make_node("Cast", ["class"], ["label"], to=6),
             helper.make_node("Unsqueeze", ["chosen", "zero"], ["batch"]),
             helper.make_node("GatherND", ["scores", "y"], ["score"])]
    source = network(nodes, {"boxes": boxes, "scores": scores},
                     {"batch": 1, "label": 6, "score": 1}, zero=np.array([0]), one=np.array([1]),
                     two=np.array([2]), three=np.array([3]), kind=np.array(1), most=np.array([9]),
                     limit=np.array([0.4], np.float32), floor=np.array([0.3], np.float32))
    check(source, [boxes, scores], 0)


@pytest.mark.parametrize("node", [
    helper.make_node("Add", ["i", "row"], ["y"]), helper.make_node("Add", ["i", "j"], ["y"]),
    helper.make_node("Slice", ["i", "zero", "two", "one"], ["y"]),
    helper.make_node("Gather", ["i", "zero"], ["y"], axis=1),
    helper.make_node("ReduceSum", ["i"], ["y"]), helper.make_node("Shape", ["i"], ["y"]),
    helper.make_node("GatherND", ["i", "zero"], ["y"])], ids=lambda n: n.op_type)
def test_what_needs_the_size_is_refused(node: onnx.NodeProto) -> None:
    x = floats(2, 3)
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("NonZero", ["w"], ["j"]), node]
    with pytest.raises(UnsupportedError, match=r"of which data say how large it is"):
        read(network(nodes, {"x": x, "w": x}, {"y": 7}, row=np.arange(6), zero=np.array([0]),
                     one=np.array([1]), two=np.array([2])))
