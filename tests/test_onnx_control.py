"""Branches and functions that are put in the places of the nodes that stand for them; other control flow."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, TensorProto, helper, numpy_helper
from onnx_models import floats, ints, model

import cnncc

node = helper.make_node
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]


def branch(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str],
           constants: Mapping[str, np.ndarray] | None = None) -> GraphProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    tensors = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    return helper.make_graph(nodes, "branch", [], ends, tensors)


def choice(condition: str, then: GraphProto, other: GraphProto, *outputs: str) -> onnx.NodeProto:
    return node("If", [condition], outputs or ["y"], "choice" if not outputs else f"choice {outputs}",
                then_branch=then, else_branch=other)


def check(source: onnx.ModelProto, *arrays: np.ndarray) -> None:
    """The compiled model and our reference against ONNX Runtime."""
    feeds = dict(zip((v.name for v in source.graph.input), arrays, strict=True))
    session = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feeds)
    for made in (cnncc.compile(source, cache=False), cnncc.reference(source)):
        for a, b in zip(made.run(None, feeds), expected, strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


THEN = branch([node("Relu", ["x"], ["t"]), node("Add", ["t", "w"], ["u"])], ["u"], {"w": floats(1)})
ELSE = branch([node("Neg", ["x"], ["t"])], ["t"])


@pytest.mark.parametrize("taken", [True, False])
def test_a_constant_condition(taken: bool) -> None:
    nodes = [choice("c", THEN, ELSE), node("Relu", ["y"], ["t"])]       # t: once more, outside
    check(model(nodes, {"x": ["N", 4]}, ["y", "t"], {"c": np.array(taken)}), floats(3, 4))


@pytest.mark.parametrize("size", [4, 6])
def test_a_condition_that_follows_from_a_shape(size: int) -> None:
    """As exporters write Squeeze: only where the dimension is 1."""
    nodes = [node("Shape", ["x"], ["s"]), node("Gather", ["s", "one"], ["n"]),
             node("Equal", ["n", "four"], ["c"]), choice("c", THEN, ELSE)]
    check(model(nodes, {"x": ["N", size]}, ["y"], {"one": np.array(1), "four": np.array(4)}), floats(2, size))


def test_branches_within_branches() -> None:
    """A branch reads values of those around it; names are used again."""
    inner = choice("d", branch([node("Add", ["t", "x"], ["u"])], ["u"]),
                   branch([node("Sub", ["t", "x"], ["u"])], ["u"]), "v")
    then = branch([node("Abs", ["x"], ["t"]), inner, node("Exp", ["v"], ["u"])], ["u", "t"])
    other = branch([node("Neg", ["x"], ["u"]), node("Abs", ["x"], ["t"])], ["u", "t"])
    for d in (True, False):
        nodes = [choice("c", then, other, "y", "z")]
        check(model(nodes, {"x": [2, 4]}, ["y", "z"], {"c": np.array(True), "d": np.array(d)}), floats(2, 4))


def test_two_uses_have_names_of_their_own() -> None:
    odd = "choice ('a',).0//t"
    nodes = [choice("c", THEN, ELSE, "a"), node("Identity", ["a"], ["x2"]), choice("c", THEN, ELSE, "b"),
             node("Add", ["x2", "b"], [odd]), node("Identity", [odd], ["y"])]
    check(model(nodes, {"x": ["N", 4]}, ["y"], {"c": np.array(True)}), floats(3, 4))


def test_a_condition_that_an_input_decides() -> None:
    source = model([choice("c", THEN, ELSE)], {"x": ["N", 4], "c": []}, ["y"])
    source.graph.input[1].type.tensor_type.elem_type = TensorProto.BOOL
    for taken in (True, False):
        check(source, floats(3, 4), np.array(taken))


def by_data(kind: str) -> onnx.NodeProto:
    if kind == "If":
        return choice("c", branch([node("Add", ["r", "x"], ["u"])], ["u"]), ELSE)
    more = [node("Identity", ["k"], ["l"])] if kind == "Loop" else []
    body = helper.make_graph(
        [node("Add", ["r", "s"], ["t"]), *more], "body",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
         for n in (["i", "k", "s"] if kind == "Loop" else ["s"])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
         for n in (["l", "t"] if kind == "Loop" else ["t"])])
    if kind == "Loop":
        return node("Loop", ["", "c", "x"], ["y"], "loop", body=body)
    return node("Scan", ["r"], ["y"], "scan", body=body, num_scan_inputs=1)


@pytest.mark.parametrize(("kind", "cut"), [("If", ["c", "r"]), ("Loop", ["c", "r"]), ("Scan", ["r"])])
def test_other_control_flow_says_where_to_cut(kind: str, cut: list[str]) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("ReduceMax", ["r"], ["m"], keepdims=0),
             node("Greater", ["m", "zero"], ["c"]), by_data(kind)]
    source = model(nodes, {"x": [20, 20]}, ["y"], {"zero": np.array(0, np.float32)})
    with pytest.raises(cnncc.UnsupportedError) as caught:
        cnncc.compile(source)
    (op, _, reason), = caught.value.rows
    assert op == kind and f"outputs={cut}" in reason
    x = floats(20, 20)
    found = dict(zip(cut, cnncc.compile(source, outputs=cut, cache=False).run(None, {"x": x}), strict=True))
    assert np.array_equal(found["r"], np.maximum(x, 0)) and found.get("c", True)


@pytest.mark.parametrize(("change", "message"), [
    (lambda n: n.attribute[1].g.ClearField("output"), "'choice'.*0 outputs"),
    (lambda n: n.attribute.pop(), "'choice'.*branches"),
    (lambda n: n.attribute[1].g.node[0].input.append("nowhere"), "nowhere.*nothing defines"),
    (lambda n: setattr(n.attribute[1].g.output[0], "name", "nowhere"), "nowhere.*nothing defines")])
def test_broken_branches(change: Callable[[onnx.NodeProto], None], message: str) -> None:
    source = model([choice("c", THEN, ELSE)], {"x": ["N", 4]}, ["y"], {"c": np.array(True)})
    assert [a.name for a in source.graph.node[0].attribute] == ["else_branch", "then_branch"]
    change(source.graph.node[0])
    with pytest.raises(cnncc.ModelError, match=message):
        cnncc.compile(source)


# ---- functions


def function(name: str, inputs: Sequence[str], nodes: Sequence[onnx.NodeProto],
             attributes: Sequence[str] = (), opset: int = 17) -> onnx.FunctionProto:
    """A function of the domain "my" whose output is o."""
    return helper.make_function("my", name, inputs, ["o"], nodes,
                                [helper.make_opsetid("", opset), OPSETS[1]], list(attributes))


def calling(nodes: Sequence[onnx.NodeProto], *functions: onnx.FunctionProto) -> onnx.ModelProto:
    source = model(nodes, {"x": ["N", 4]}, ["y"])
    source.functions.extend(functions)
    source.opset_import.append(OPSETS[1])
    return source


def leaky() -> onnx.FunctionProto:
    n = node("LeakyRelu", ["a"], ["t"])
    n.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=1))
    return function("Leaky", ["a", "b"], [n, node("Clip", ["t", "b"], ["o"])], ["slope"])


def test_functions_of_the_model() -> None:
    twice = function("Twice", ["a"], [node("Leaky", ["a"], ["t"], domain="my", slope=0.5),
                                      node("Leaky", ["t"], ["o"], domain="my")])
    nodes = [node("Twice", ["x"], ["t"], domain="my"), node("Leaky", ["t"], ["y"], domain="my", slope=2.0)]
    check(calling(nodes, twice, leaky()), floats(3, 4))


def test_functions_have_an_opset_of_their_own() -> None:
    old = function("Axes", ["a"], [node("Unsqueeze", ["a"], ["o"], axes=[1])], opset=11)
    made = cnncc.compile(calling([node("Axes", ["x"], ["y"], domain="my")], old))
    assert made(floats(3, 4)).shape == (3, 1, 4)        # ONNX Runtime refuses it


def test_a_branch_in_a_function() -> None:
    then, other = branch([node("Add", ["t", "a"], ["u"])], ["u"]), branch([node("Neg", ["a"], ["u"])], ["u"])
    body = [node("Constant", [], ["c"], value=numpy_helper.from_array(np.array(True))),
            node("Abs", ["a"], ["t"]), choice("c", then, other, "o")]
    check(calling([node("F", ["x"], ["y"], domain="my")], function("F", ["a"], body)), floats(3, 4))


def test_errors_name_the_node_in_the_function() -> None:
    f = function("F", ["a"], [node("StringSplit", ["a"], ["o"], "inner")])
    with pytest.raises(cnncc.UnsupportedError) as caught:
        cnncc.compile(calling([node("F", ["x"], ["y"], "outer", domain="my")], f))
    assert [row[:2] for row in caught.value.rows] == [("StringSplit", "outer/inner")]
    with pytest.raises(cnncc.UnsupportedError, match="no attribute 'other'"):
        cnncc.compile(calling([node("Leaky", ["x"], ["y"], domain="my", other=1)], leaky()))
    with pytest.raises(cnncc.ModelError, match="has 3 inputs"):
        cnncc.compile(calling([node("Leaky", ["x", "x", "x"], ["y"], domain="my")], leaky()))


def test_functions_without_end() -> None:
    with pytest.raises(cnncc.ModelError, match="32 deep"):
        cnncc.compile(calling([node("F", ["x"], ["y"], domain="my")],
                              function("F", ["a"], [node("F", ["a"], ["o"], domain="my")])))
    many = [function(f"F{i}", ["a"], [node(f"F{i + 1}", ["a"], ["t"], domain="my"),
                                      node(f"F{i + 1}", ["t"], ["o"], domain="my")]) for i in range(25)]
    last = function("F25", ["a"], [node("Identity", ["a"], ["o"])])
    with pytest.raises(cnncc.ModelError, match="become more than"):
        cnncc.compile(calling([node("F0", ["x"], ["y"], domain="my")], *many, last))
    odd = "/" * 99
    with pytest.raises(cnncc.ModelError, match="slashes"):
        cnncc.compile(calling([node("F25", ["x"], [odd], domain="my"), node("Relu", [odd], ["y"])], last))


def test_ops_that_onnx_defines_by_others() -> None:
    source = model([node("CenterCropPad", ["x", "s"], ["y"], axes=[1, 2])], {"x": [2, 5, 7]}, ["y"],
                   {"s": ints(3, 9)}, opset=18)
    check(source, floats(2, 5, 7))
    norm = node("LayerNormalization", ["x", "s"], ["y", "mean", "deviation"])      # our row has one result
    check(model([norm], {"x": [2, 3, 8]}, ["y", "mean", "deviation"], {"s": floats(8)}), floats(2, 3, 8))
    with pytest.raises(cnncc.UnsupportedError) as caught:
        cnncc.compile(model([node("Bernoulli", ["x"], ["y"], "dice")], {"x": [3]}, ["y"]))
    (_, name, reason), = caught.value.rows
    assert name == "dice" and "as ONNX defines it" in reason
