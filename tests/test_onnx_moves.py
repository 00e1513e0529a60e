"""Ops that move elements, and shapes that a file computes: the importer against ONNX Runtime, all forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from kernels import compiled, results
from onnx import TensorProto, helper
from onnx_models import NEWEST, floats, ints, model, single

import cnncc
from cnncc.frontend.onnx import read
from cnncc.frontend.onnx_out import to_onnx
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate

Operand = np.ndarray | None


class Case(NamedTuple):
    shape: Sequence[int]
    operands: tuple[Operand, ...] = ()
    attributes: Mapping[str, Any] = MappingProxyType({})
    oldest: int = 7
    newest: int = NEWEST


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


W2, W23 = floats(6, 4, 3, 3), floats(6, 4, 2, 3)
TURN = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
CASES: dict[str, Case] = {
    "transpose": Case([2, 3, 4, 5], (), {"perm": [0, 2, 3, 1]}),
    "transpose reversed": Case([2, 3, 4]),
    "squeeze": Case([2, 1, 3, 1], (), {"axes": [1, -1]}, 11, 12),
    "squeeze old": Case([2, 1, 3, 1], (), {"axes": [1]}, 7, 12),
    "squeeze input": Case([2, 1, 3, 1], (ints(-3),), {}, 13),
    "squeeze all": Case([1, 2, 1, 3]),
    "unsqueeze": Case([2, 3], (), {"axes": [0, 3]}, 7, 12),
    "unsqueeze input": Case([2, 3], (ints(-1, 1),), {}, 13),
    "slice old": Case([4, 9, 7], (), {"starts": [1, -4], "ends": [9999, -1], "axes": [1, 2]}, 7, 9),
    "slice old all": Case([4, 9], (), {"starts": [1, 2], "ends": [3, 100]}, 7, 9),
    "slice": Case([4, 9, 7], (ints(1, -1), ints(4, -100), ints(0, -1), ints(1, -2)), {}, 10),
    "slice reversed": Case(
        [4, 9, 7], (ints(-1, 8, 0), ints(-9, -99, 99), ints(2, 1, 0), ints(-1, -3, 2)), {}, 10
    ),
    "slice plain": Case([4, 9], (ints(1, 2), ints(3, 2**63 - 1)), {}, 10),
    "expand": Case([3, 1, 5], (ints(2, 1, 4, 1),), {}, 8),
    "expand to more": Case([1, 5], (ints(2, 3, 1),), {}, 8),
    "tile": Case([2, 3, 4], (ints(1, 2, 3),)),
    "gather": Case([5, 6, 7], (ints(3, -1, 0, 0, 2),), {"axis": 1}),
    "gather table": Case([5, 6, 7], (np.array([[3, 0, 1], [4, 4, 2]]),), {}),
    "gather one": Case([5, 6, 7], (np.array(2),), {"axis": -1}),
    "gather evenly": Case([5, 16, 7], (ints(14, 11, 8, 5).astype(np.int32),), {"axis": 1}),
    "pad old": Case([2, 3, 5], (), {"pads": [0, 1, 2, 0, 0, 3], "value": 2.0}, 7, 10),
    "pad old reflect": Case([2, 3, 5], (), {"pads": [0, 1, 4, 0, 2, 3], "mode": "reflect"}, 7, 10),
    "pad old edge": Case([2, 3, 5], (), {"pads": [0, 1, 7, 0, 2, 3], "mode": "edge"}, 7, 10),
    "pad": Case([2, 3, 5], (ints(0, 1, 2, 0, 0, 3), np.float32(-1)), {}, 11),
    "pad zero": Case([2, 3, 5], (ints(1, 0, 0, 0, 0, 3),), {}, 11),
    "pad cuts": Case([2, 6, 5], (ints(0, -1, 2, 0, -2, -1),), {}, 11),
    "pad axes": Case([2, 6, 5], (ints(1, 2, 3, 0), None, ints(-1, 1)), {}, 18),
    "pad reflect": Case([2, 3, 5], (ints(0, 1, 4, 0, 2, 3),), {"mode": "reflect"}, 11),
    "pad edge": Case([2, 3, 5], (ints(0, 1, 7, 0, 2, -1),), {"mode": "edge"}, 11),
    "pad wrap": Case([2, 3, 5], (ints(0, 1, 3, 0, 2, 4),), {"mode": "wrap"}, 19),
    "depthtospace": Case([2, 12, 3, 4], (), {"blocksize": 2}),
    "depthtospace crd": Case([2, 12, 3, 4], (), {"blocksize": 2, "mode": "CRD"}, 11),
    "depthtospace dcr": Case([2, 18, 3, 4], (), {"blocksize": 3, "mode": "DCR"}, 11),
    "spacetodepth": Case([2, 3, 6, 9], (), {"blocksize": 3}),
    "convtranspose": Case([2, 6, 5, 4], (W2, floats(4)), TURN),
    "convtranspose plain": Case([2, 6, 5, 4], (W2,), {}),
    "convtranspose extra": Case([2, 6, 5, 4], (W2,), TURN | {"output_padding": [1, 1]}),
    "convtranspose gaps": Case([2, 6, 5, 4], (W23,), {"strides": [3, 4], "pads": [0, 1, 1, 0]}),
    "convtranspose groups": Case([2, 6, 5, 4], (W2,), TURN | {"group": 3}),
    "convtranspose depthwise": Case([2, 6, 5, 4], (floats(6, 1, 4, 4),), TURN | {"group": 6}),
    "convtranspose dilated": Case([1, 6, 5, 4], (W2,), {"dilations": [2, 3], "strides": [2, 2]}),
    "convtranspose shape": Case([1, 6, 5, 4], (W2,), {"strides": [2, 3], "output_shape": [10, 11]}),
    "convtranspose upper": Case([1, 6, 5, 4], (W2,), {"strides": [2, 3], "auto_pad": "SAME_UPPER"}),
    "convtranspose lower": Case([1, 6, 5, 4], (W2,), {"strides": [2, 2], "auto_pad": "SAME_LOWER"}),
    "convtranspose valid": Case([1, 6, 5, 4], (W2,), {"strides": [2, 2], "auto_pad": "VALID"}),
    "convtranspose 1": Case([2, 6, 7], (floats(6, 5, 4),), {"strides": [2], "pads": [1, 1]}),
    "convtranspose 3": Case([1, 4, 3, 4, 2], (floats(4, 3, 2, 3, 2),), {"strides": [2, 2, 1]}),
    "upsample": Case([1, 3, 4, 5], (), {"scales": [1.0, 1.0, 2.0, 3.0]}, 7, 8),
    "upsample linear": Case([1, 3, 4, 5], (), {"scales": [1.0, 1.0, 2.0, 2.0], "mode": "linear"}, 7, 8),
    "upsample input": Case([1, 3, 4, 5], (f32(1, 1, 2, 3),), {}, 9, 9),
    "resize old": Case([1, 3, 4, 5], (f32(1, 1, 2, 2),), {"mode": "linear"}, 10, 10),
    "resize old down": Case([1, 3, 8, 9], (f32(1, 1, 0.6, 0.4),), {}, 10, 10),
    "col2im": Case([2, 12, 20], (ints(5, 6), ints(2, 2)), {}, 18),
    "col2im strides": Case([2, 18, 9], (ints(7, 7), ints(3, 3)),
                           {"strides": [2, 3], "pads": [1, 1, 1, 2], "dilations": [2, 1]}, 18),
    "col2im gaps": Case([1, 2, 9], (ints(8, 8), ints(1, 1)), {"strides": [3, 3]}, 18),
    "col2im 3": Case([1, 16, 24], (ints(3, 4, 5), ints(2, 2, 2)), {}, 18),
    "trilu": Case([2, 5, 19], (), {}, 14),
    "trilu lower": Case([5, 19], (np.array(3),), {"upper": 0}, 14),
    "trilu upper": Case([2, 9, 4], (np.array(-2),), {}, 14),
    "trilu none": Case([3, 4], (np.array(9),), {}, 14),
    "trilu all": Case([3, 4], (np.array(-(2**40)),), {}, 14),
    "lppool": Case([2, 3, 7, 8], (), {"kernel_shape": [3, 2]}),
    "lppool 1": Case([2, 3, 9], (), {"kernel_shape": [3], "p": 1, "strides": [2], "pads": [1, 1]}),
    "lppool 3": Case([2, 3, 7, 8], (), {"kernel_shape": [3, 3], "p": 3, "auto_pad": "SAME_UPPER"}),
    "lppool dilated": Case(
        [1, 2, 9, 9], (), {"kernel_shape": [2, 3], "dilations": [2, 3], "ceil_mode": 1}, 18
    ),
    "globallppool": Case([2, 3, 4, 5]),
    "globallppool 1": Case([2, 3, 4, 5], (), {"p": 1}),
    "globallppool 5": Case([2, 3, 7], (), {"p": 5}),
    "globalmaxpool": Case([2, 3, 4, 5]),
    "globalaveragepool": Case([2, 3, 4, 5]),
}
for _mode in ("nearest", "linear", "cubic"):
    for _how in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"):
        for _scale in (2.0, 1.7, 0.6):
            CASES[f"resize {_mode} {_how} {_scale}"] = Case(
                [1, 2, 7, 9],
                (None, f32(1, 1, _scale, _scale)),
                {"mode": _mode, "coordinate_transformation_mode": _how},
                13,
                19,
            )
for _how in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
    for _size in ((14, 27), (5, 4)):
        CASES[f"resize nearest {_how} {_size}"] = Case(
            [1, 2, 7, 9],
            (None, None, ints(1, 2, *_size)),
            {"nearest_mode": _how, "coordinate_transformation_mode": "asymmetric"},
            13,
        )
CASES |= {
    "resize sizes": Case([1, 2, 7, 9], (None, None, ints(1, 2, 10, 5)), {"mode": "linear"}, 13),
    "resize axes": Case([1, 2, 7, 9], (None, None, ints(10, 5)), {"mode": "linear", "axes": [3, 2]}, 18),
    "resize outside": Case(
        [1, 2, 7, 9],
        (None, f32(1, 1, 1.6, 2.3)),
        {"mode": "cubic", "exclude_outside": 1, "cubic_coeff_a": -0.5},
        13,
    ),
    "resize antialias": Case(
        [1, 2, 12, 18], (None, f32(1, 1, 0.4, 0.5)), {"mode": "linear", "antialias": 1}, 18
    ),
    "resize antialias cubic": Case(
        [1, 2, 12, 18],
        (None, f32(1, 1, 0.4, 0.5)),
        {"mode": "cubic", "antialias": 1, "exclude_outside": 1},
        18,
    ),
    "resize larger": Case(
        [1, 2, 12, 18],
        (None, None, ints(30, 30)),
        {"mode": "linear", "axes": [2, 3], "keep_aspect_ratio_policy": "not_larger"},
        18,
    ),
    "resize crop": Case(
        [1, 2, 12, 18],
        (f32(0, 0, 0.2, 0.1, 1, 1, 0.8, 1), None, ints(1, 2, 7, 5)),
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"},
        13,
    ),
    "resize beyond": Case(
        [1, 2, 12, 18],
        (f32(0, 0, -0.2, 0.1, 1, 1, 0.8, 1.3), None, ints(1, 2, 7, 5)),
        {"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize",
         "extrapolation_value": 7.0},
        13,
    ),
    "resize beyond in one axis": Case(
        [1, 2, 12, 18],
        (f32(0, 0, 0.2, 0.1, 1, 1, 1.2, 1), None, ints(1, 2, 7, 5)),
        {"mode": "nearest", "coordinate_transformation_mode": "tf_crop_and_resize"},
        13,
    ),
    "resize three": Case([1, 2, 3, 4, 5], (None, f32(1, 1, 2, 2, 2)), {"mode": "linear"}, 13, 19),
}
NAMES = {s.name.lower(): s.name for s in onnx.defs.get_all_schemas()}


def expected(source: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """What ONNX Runtime makes of it; None where it doesn't know the opset."""
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = runtime.InferenceSession(source.SerializeToString(), options, ["CPUExecutionProvider"])
    except Exception:
        opset = source.opset_import[0].version
        assert opset > 21, f"ONNX Runtime refuses opset {opset}"
        return None
    result: list[np.ndarray] = session.run(None, feeds)
    return result


def check(source: onnx.ModelProto, feeds: dict[str, np.ndarray], run: bool = True) -> None:
    """The reference and the compiled model give what ONNX Runtime does."""
    wanted = expected(source, feeds)
    if wanted is None:
        return
    graph = read(source)
    values = [evaluate(graph, feeds, np.float64)]
    if run:
        values.append(results(compiled(graph), feeds))
    for got in values:
        for name, y in zip([o.name for o in source.graph.output], wanted, strict=True):
            assert got[name].shape == y.shape
            np.testing.assert_allclose(got[name], y, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", CASES)
def test_results_are_onnx_runtimes(case: str) -> None:
    shape, operands, attributes, oldest, newest = CASES[case]
    x = floats(*shape, seed=9)
    for opset in range(oldest, newest + 1):
        source = single(NAMES[case.partition(" ")[0]], shape, *operands, opset=opset, **attributes)
        check(source, {"x": x}, run=opset == oldest)


def node(op: str, inputs: list[str], outputs: list[str], **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, name=f"{op}_{outputs[0]}", **attributes)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph if n.op not in ("input", "const")]


@pytest.mark.parametrize("opset", [7, 11, 13, 18])
def test_splits(opset: int) -> None:
    x = floats(2, 10, 3)
    forms: list[tuple[list[str], dict[str, Any]]] = [(["x"], {})]
    forms.append((["x", "sizes"], {}) if opset >= 13 else (["x"], {"split": [3, 2, 5]}))
    for inputs, attributes in forms:
        count = 2 if inputs == ["x"] and not attributes else 3
        if opset >= 18 and count == 2:
            attributes = {"num_outputs": 2}
        outputs = [f"y{i}" for i in range(count)]
        nodes = [node("Split", inputs, outputs, axis=1, **attributes)]
        check(
            model(nodes, {"x": [2, 10, 3]}, outputs, {"sizes": ints(3, 2, 5)} if inputs[1:] else {}, opset),
            {"x": x},
        )


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_joins(axis: int) -> None:
    shape = [4, 5, 6]
    nodes = [node("Relu", ["x"], ["a"]), node("Concat", ["a", "z", "k", "x"], ["y"], axis=axis)]
    feeds = {"x": floats(*shape), "z": floats(*shape, seed=1)}
    check(model(nodes, {"x": shape, "z": shape}, ["y"], {"k": floats(*shape, seed=2)}), feeds)


@pytest.mark.parametrize(
    "case", ["transpose", "slice reversed", "expand", "pad cuts", "pad", "gather evenly"]
)
def test_written_as_onnx_again(case: str) -> None:
    shape, operands, attributes, oldest, _ = CASES[case]
    graph = read(single(NAMES[case.partition(" ")[0]], shape, *operands, opset=max(oldest, 13), **attributes))
    x = floats(*shape, seed=9)
    again = expected(to_onnx(graph), {"x": x})
    assert again is not None
    np.testing.assert_array_equal(again[0], evaluate(graph, {"x": x})["y"])


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8, np.bool_, np.float64, np.float16])
def test_elements_of_any_type_are_moved(kind: type[np.generic]) -> None:
    nodes = [
        node("Transpose", ["x"], ["a"], perm=[0, 2, 1]),
        node("Slice", ["x", "four", "far", "one", "back"], ["b"]),
        node("Gather", ["x", "indices"], ["c"], axis=1),
        node("Concat", ["x", "b", "c"], ["d"], axis=1),
        node("Tile", ["x", "times"], ["e"]),
        node("Pad", ["x", "pads"], ["f"]),
        node("Pad", ["x", "pads"], ["g"], mode="edge"),
        node("Expand", ["x", "wide"], ["h"]),
        node("Split", ["d"], ["i", "j"], axis=1, num_outputs=2),
    ]
    constants = {
        "four": ints(4),
        "far": ints(-99),
        "one": ints(1),
        "back": ints(-2),
        "indices": ints(3, 0, 0, 2),
        "times": ints(1, 2, 3),
        "pads": ints(0, 1, 2, 0, 0, 3),
        "wide": ints(3, 1, 1, 1),
    }
    source = model(nodes, {"x": [2, 5, 7]}, list("abcdefghij"), constants, 18)
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    for value in (*source.graph.input, *source.graph.output):
        value.type.tensor_type.elem_type = dtype
    feeds = {
        "x": (floats(2, 5, 7) * 3).astype(kind)
        if kind is not np.uint8
        else np.arange(70).astype(kind).reshape(2, 5, 7)
    }
    wanted, got = expected(source, feeds), results(compiled(read(source)), feeds)
    assert wanted is not None
    for name, y in zip("abcdefghij", wanted, strict=True):
        assert got[name].dtype == y.dtype
        np.testing.assert_array_equal(got[name], y)


def test_shapes_are_folded() -> None:
    """What exporters write for x.view(x.shape[0], -1, x.shape[3]), the batch fixed and open."""
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Gather", ["s", "three"], ["w"]),
        node("Unsqueeze", ["n"], ["n1"], axes=[0]),
        node("Unsqueeze", ["w"], ["w1"], axes=[0]),
        node("Constant", [], ["rest"], value_ints=[-1]),
        node("Concat", ["n1", "rest", "w1"], ["to"], axis=0),
        node("Reshape", ["x", "to"], ["y"]),
    ]
    constants = {"zero": np.array(0), "three": np.array(3)}
    for batch in (2, "N"):
        source = model(nodes, {"x": [batch, 3, 4, 5]}, ["y"], constants, 11)
        assert ops(read(source)) == ["reshape"] and str(read(source)["y"].type) == f"f32[{batch}, 12, 5]"
        check(source, {"x": floats(2, 3, 4, 5)})


@pytest.mark.parametrize("opset", [9, 13, NEWEST])
def test_numbers_are_computed(opset: int) -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Cast", ["s"], ["f"], to=TensorProto.FLOAT),
        node("Mul", ["f", "two"], ["g"]),
        node("Floor", ["g"], ["h"]),
        node("Cast", ["h"], ["i"], to=7),
        node("ConstantOfShape", ["i"], ["ones"], value=helper.make_tensor("v", 1, [1], [2.5])),
        node("Slice", ["ones"], ["part"], starts=[0, 0], ends=[3, 5], axes=[0, 1])
        if opset < 10
        else node("Slice", ["ones", "starts", "ends"], ["part"]),
        node("Add", ["x", "part"], ["y"]),
    ]
    constants = {"two": f32(2.3), "starts": ints(0, 0), "ends": ints(3, 5)}
    source = model(nodes, {"x": [3, 5]}, ["y"], constants, opset)
    assert ops(read(source)) == ["add"]
    check(source, {"x": floats(3, 5)})


def test_a_batch_that_decides_numbers_is_refused() -> None:
    for nodes in (
        [node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["k"]), node("Add", ["x", "k"], ["y"])],
        [node("Size", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1), node("Mul", ["x", "f"], ["y"])],
        [node("Shape", ["x"], ["s"]), node("Mul", ["s", "s"], ["t"]), node("Reshape", ["x", "t"], ["y"])],
    ):
        with pytest.raises(UnsupportedError, match="batch"):
            read(model(nodes, {"x": ["N", 3]}, ["y"]))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (single("Transpose", ["N", 3], perm=[1, 0]), "batch"),
        (single("Concat", ["N", 3], floats(2, 3), axis=0), "batch"),
        (single("Slice", ["N", 3], ints(1), ints(5), ints(0)), "batch"),
        (single("Gather", ["N", 3], ints(1)), "batch"),
        (single("Pad", ["N", 3], ints(1, 0, 0, 0)), "batch"),
        (single("Unsqueeze", ["N", 3], ints(0)), "batch"),
        (single("Expand", ["N", 3], ints(2, 1, 1)), "batch"),
        (single("Resize", ["N", 3, 4, 4], None, f32(2, 1, 1, 1)), "batch"),
        (single("Tile", ["N", 3], ints(2, 1)), "batch"),
    ],
)
def test_an_open_batch_stays_where_it_is(source: onnx.ModelProto, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        read(source)


@pytest.mark.parametrize(
    "source",
    [
        single("Transpose", [2, 3], perm=[0, 0]),
        single("Squeeze", [2, 1], ints(0)),
        single("Unsqueeze", [2, 1], ints(7)),
        single("Slice", [4], ints(1), ints(3), ints(0), ints(0)),
        single("Split", [4], ints(1, 2)),
        single("Gather", [4], ints(4)),
        single("Gather", [4], ints(-5)),
        single("Pad", [4], ints(1, 2, 3)),
        single("Pad", [4], ints(1, 2), mode="mirror"),
        single("Pad", [4], ints(-2, -2)),
        single("Tile", [4], ints(0)),
        single("Expand", [4], ints(3)),
        single("Col2Im", [1, 12, 21], ints(5, 6), ints(2, 2), opset=18),
        single("Col2Im", [1, 13, 20], ints(5, 6), ints(2, 2), opset=18),
        single("Trilu", [4]),
        single("Concat", [4], floats(3, 2), axis=0),
        single("Concat", [4, 3], floats(3, 2), axis=0),
        single("DepthToSpace", [1, 6, 2, 2], blocksize=2),
        single("SpaceToDepth", [1, 6, 3, 2], blocksize=2),
        single("ConvTranspose", [1, 3, 4, 4], floats(2, 3, 3, 3)),
        single("ConvTranspose", [1, 3, 4, 4], floats(3, 3, 3, 3), pads=[9] * 4),
        single("Resize", [1, 3, 4, 4], None, f32(1, 1, 0, 1)),
        single("Resize", [1, 3, 4, 4], None, f32(1, 1)),
        single("Resize", [1, 3, 4, 4], None, f32(1, 1, 2, 2), mode="area"),
        single("Reshape", [4], ints(1 << 40)),
    ],
)
def test_nodes_that_are_wrong(source: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match="node"):
        read(source)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", ["huge"], ["k"]), node("Add", ["x", "k"], ["y"])],
        [node("Expand", ["one", "huge"], ["k"]), node("Add", ["x", "k"], ["y"])],
        [node("Range", ["zero", "many", "unit"], ["k"]), node("Add", ["x", "k"], ["y"])],
        [node("Tile", ["one", "huge1"], ["k"]), node("Add", ["x", "k"], ["y"])],
        [node("OneHot", ["idx", "many", "pair"], ["k"]), node("Add", ["x", "k"], ["y"])],
        [node("Add", ["column", "row"], ["k"]), node("Add", ["x", "k"], ["y"])],
    ],
)
def test_constants_without_bound_are_refused(nodes: list[onnx.NodeProto]) -> None:
    constants = {
        "huge": ints(1 << 20, 1 << 20),
        "one": f32(1),
        "zero": np.array(0),
        "many": np.array(1 << 50),
        "unit": np.array(1),
        "huge1": ints(1 << 40),
        "idx": ints(1),
        "pair": f32(0, 1),
        "column": floats(1 << 16, 1),
        "row": floats(1, 1 << 16),
    }
    with pytest.raises(ModelError):
        read(model(nodes, {"x": [2]}, ["y"], constants))


def test_parts_without_elements() -> None:
    """Slices and splits may leave nothing; what has no elements is known."""
    nodes = [helper.make_node("Slice", ["x", "b", "e"], ["a"]),
             helper.make_node("Split", ["x", "s"], ["c", "d"], axis=1),
             helper.make_node("Concat", ["d", "c"], ["f"], axis=1),
             helper.make_node("ReduceMax", ["d"], ["g"], axes=[1])]
    constants = {"b": ints(1), "e": ints(0), "s": ints(3, 0)}
    source = model(nodes, {"x": [2, 3]}, ["a", "d", "f", "g"], constants)
    x = floats(2, 3)
    for made in (cnncc.compile(source, cache=False, jobs=1), cnncc.reference(source)):
        a, d, f, g = made(x)
        assert (a.shape, d.shape, a.dtype) == ((0, 3), (2, 0), np.float32)
        np.testing.assert_array_equal(f, x)
        np.testing.assert_array_equal(g, np.full((2, 1), -np.inf))
