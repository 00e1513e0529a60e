"""RNN, GRU and LSTM, compiled and by NumPy, against ONNX Runtime, layout 1 against the same with layout 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from kernels import compiled, results
from onnx import helper, numpy_helper

from cnncc.compiler import compile, optimize, plan, stages
from cnncc.explain import native, why
from cnncc.frontend.onnx import read
from cnncc.frontend.onnx_out import to_onnx
from cnncc.ir.errors import InternalError, ModelError, UnsupportedError
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for
from cnncc.ir.text import parse_graph
from cnncc.passes.fold import Rebuild, expand

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
BATCH, FEATURES, HIDDEN = 3, 5, 7
Feeds = dict[str, np.ndarray[Any, Any]]


def operands(op: str, steps: int, ways: int, parts: Sequence[str]) -> Feeds:
    """X, W, R and those of `parts`: B, lengths, h, c, P."""
    rng = np.random.default_rng(len(op) + steps)
    size = GATES[op] * HIDDEN
    shapes = {"X": (steps, BATCH, FEATURES), "W": (ways, size, FEATURES), "R": (ways, size, HIDDEN),
              "B": (ways, 2 * size), "lengths": (), "h": (ways, BATCH, HIDDEN), "c": (ways, BATCH, HIDDEN),
              "P": (ways, 3 * HIDDEN)}
    made = {k: rng.standard_normal(s).astype(np.float32) / 2 for k, s in shapes.items()}
    made["lengths"] = np.array([steps, 2, 1], np.int32)
    return {k: v for k, v in made.items() if k in "XWR" or k in parts}


def recurrent(op: str, given: Feeds, constant: Sequence[str], batch: str | None = None,
              outputs: Sequence[str] = (), **attrs: Any) -> onnx.ModelProto:
    names = ["X", "W", "R", "B", "lengths", "h", "c", "P"][:8 if op == "LSTM" else 6]
    if given["W"].shape[0] == 2:
        attrs["direction"] = "bidirectional"
    outs = list(outputs or ["Y", "Yh", "Yc"][:3 if op == "LSTM" else 2])
    names = [n if n in given else "" for n in names]
    node = helper.make_node(op, names, outs, "node", hidden_size=HIDDEN, **attrs)
    infos = [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype),
                                           [batch, *v.shape[1:]] if batch else v.shape)
             for k, v in given.items() if k not in constant]
    tensors = [numpy_helper.from_array(v, k) for k, v in given.items() if k in constant]
    ends = [onnx.ValueInfoProto(name=o) for o in outs if o]
    graph = helper.make_graph([node], "test", infos, ends, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def oracle(source: onnx.ModelProto, feeds: Feeds) -> Feeds:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in source.graph.output], session.run(None, feeds), strict=True))


def same(source: onnx.ModelProto, feeds: Feeds, expected: Feeds) -> None:
    graph = read(source)
    for got in (results(compiled(graph), feeds), evaluate(graph, feeds)):
        assert got.keys() == expected.keys()
        for name, y in expected.items():
            assert (got[name].shape, got[name].dtype) == (y.shape, y.dtype)
            np.testing.assert_allclose(got[name], y, rtol=1e-5, atol=2e-6, err_msg=name)


CASES: list[tuple[str, int, Sequence[str], dict[str, Any]]] = [
    *((op, ways, parts, {}) for op in GATES for ways, parts in ((1, ()), (2, ("B", "h", "c")))),
    *((op, 1, ("B", "lengths", "h"), {"direction": "reverse"}) for op in GATES),
    *((op, 1, ("B",), {"clip": 0.2}) for op in GATES),
    ("GRU", 2, ("B",), {"linear_before_reset": 1}), ("GRU", 1, (), {"linear_before_reset": 1}),
    ("LSTM", 2, ("B", "P", "c"), {}), ("LSTM", 1, ("P",), {"input_forget": 1}), ("LSTM", 2, ("lengths",), {}),
    ("LSTM", 1, (), {"activations": ["HardSigmoid", "Softsign", "Relu"], "activation_alpha": [0.3],
                     "activation_beta": [0.4]}),
    ("GRU", 1, (), {"activations": ["HardSigmoid", "ScaledTanh"], "activation_alpha": [0.3, 1.2],
                    "activation_beta": [0.4, 0.7]}),
    ("RNN", 2, (), {"activations": ["Affine", "LeakyRelu"], "activation_alpha": [0.3, 0.1],
                    "activation_beta": [0.4]})]


@pytest.mark.parametrize("constant", ["WRBP", ""], ids=["constant", "given"])
@pytest.mark.parametrize(("op", "ways", "parts", "attrs"), CASES, ids=str)
def test_results_are_onnx_runtimes(op: str, ways: int, parts: Sequence[str], attrs: dict[str, Any],
                                   constant: str) -> None:
    given = operands(op, 4, ways, parts)
    if op != "LSTM":
        given = {k: v for k, v in given.items() if k not in "cP"}
    source = recurrent(op, given, constant, **attrs)
    feeds = {k: v for k, v in given.items() if k not in constant}
    same(source, feeds, oracle(source, feeds))


@pytest.mark.parametrize(("op", "ways", "parts", "attrs"), CASES, ids=str)
def test_written_as_onnx_it_is_the_same(op: str, ways: int, parts: Sequence[str],
                                        attrs: dict[str, Any]) -> None:
    given = operands(op, 4, ways, [p for p in parts if op == "LSTM" or p not in "cP"])
    source = recurrent(op, given, "WRB", **attrs)
    feeds = {k: v for k, v in given.items() if k not in "WRB"}
    written = oracle(to_onnx(read(source)), feeds)
    for name, y in oracle(source, feeds).items():
        np.testing.assert_allclose(written[name], y, rtol=1e-5, atol=2e-6, err_msg=name)


def test_what_onnx_does_not_give_is_not_written() -> None:
    source = read(recurrent("LSTM", operands("LSTM", 3, 1, ()), "WR"))
    whole = next(n.name for n in source if n.op == "recurrent")
    with pytest.raises(UnsupportedError, match="its states are read as a whole"):
        to_onnx(replace(source, outputs=(("states", whole),)))
    b = Rebuild(source)
    for n in source:
        b.copy(n)
    middle = b.op("slice", [whole], "middle", begin=(1, 0, HIDDEN), steps=(1, 1, 1), shape=(2, BATCH, HIDDEN))
    with pytest.raises(UnsupportedError, match="its cell's states between steps are read"):
        to_onnx(b.graph([("middle", middle)]))


@pytest.mark.parametrize("batch", [None, "N"])
@pytest.mark.parametrize("op", GATES)
def test_the_batch_may_come_first(op: str, batch: str | None) -> None:
    given = operands(op, 3, 2, ("B",))
    y, *states = oracle(recurrent(op, given, "WRB"), {"X": given["X"]}).values()
    expected = {"Y": y.transpose(2, 0, 1, 3)}
    expected |= {name: s.transpose(1, 0, 2) for name, s in zip(("Yh", "Yc"), states, strict=False)}
    given["X"] = given["X"].transpose(1, 0, 2).copy()
    same(recurrent(op, given, "WRB", batch, layout=1), {"X": given["X"]}, expected)


@pytest.mark.parametrize("outputs", [["", "Yh"], ["", "", "Yc"], ["Y"]], ids=str)
def test_outputs_may_be_left_out(outputs: list[str]) -> None:
    given = operands("LSTM", 2, 1, ("B",))
    source = recurrent("LSTM", given, "WRB", outputs=outputs)
    same(source, {"X": given["X"]}, oracle(source, {"X": given["X"]}))


@pytest.mark.parametrize("op", GATES)
def test_the_turns_are_the_same_for_any_number_of_steps(op: str) -> None:
    plans = []
    for steps in (4, 900):
        graph = read(recurrent(op, operands(op, steps, 2, ("B",)), "WRB"))
        code = plan(optimize(graph, target_for("native")))
        assert {t.count for t in code.plan.loops} == {steps} and len(code.plan.loops) == 2
        plans.append([[s.ops for s in code.plan.steps[t.first:t.last]] for t in code.plan.loops])
    assert plans[0] == plans[1]


@pytest.mark.parametrize("op", GATES)
def test_many_steps(op: str) -> None:
    given = operands(op, 3000, 2, ("B", "h"))
    feeds = {k: given[k] for k in "Xh"}
    source = recurrent(op, given, "WRB")
    got = results(compiled(read(source)), feeds)
    for name, y in oracle(source, feeds).items():
        np.testing.assert_allclose(got[name], y, rtol=1e-4, atol=1e-5)


def test_after_every_pass_the_value_and_the_text_are_right() -> None:
    given = operands("LSTM", 4, 2, ("B", "c", "lengths"))
    graph = read(recurrent("LSTM", given, "WRB"))
    feeds = {k: given[k] for k in ("X", "c", "lengths")}
    expected = evaluate(graph, feeds, np.float64)
    for name, after in stages(graph, target_for("native")):
        for k, y in evaluate(after, feeds, np.float64).items():
            np.testing.assert_allclose(y, expected[k], rtol=1e-12, err_msg=f"{name} {k}")
        assert str(parse_graph(str(after))) == str(after), name


def test_a_loop_that_does_not_fit_is_found() -> None:
    graph = expand(read(recurrent("RNN", operands("RNN", 4, 1, ()), "WR")), target_for("native"))
    n = next(n for n in graph if n.loop)
    assert n.loop is not None
    wrong = (replace(n, inputs=n.inputs[:-1]), replace(n, base=""),
             replace(n, loop=replace(n.loop, moves=n.loop.moves[1:])))
    for bad in wrong:
        with pytest.raises(InternalError):
            replace(graph, nodes={**graph.nodes, n.name: bad}).verify()


def test_steps_of_a_loop_are_profiled_and_explained() -> None:
    given = operands("GRU", 50, 1, ("B",))
    source = recurrent("GRU", given, "WRB")
    times = compile(source.SerializeToString(), cache=False).profile(given["X"], repeat=2)
    product = next(t for t in times if t.flops >= 50 * 2 * BATCH * HIDDEN * 2 * HIDDEN and "matmul" in t.ops)
    assert product.nodes == ("node",)
    target = target_for("native")
    assert all(w.chosen is not None for w in why(read(source), target, "node")[0])
    assert len(list(native(read(source), target, "node", "llvm"))) == len({t.symbol for t in times})


def test_double_precision() -> None:
    single = operands("GRU", 3, 1, ("B",))
    double = {k: v.astype(np.float64) for k, v in single.items()}
    got = results(compiled(read(recurrent("GRU", double, "WRB"))), {"X": double["X"]})
    wanted = oracle(recurrent("GRU", single, "WRB"), {"X": single["X"]})
    for name, y in wanted.items():
        assert got[name].dtype == np.float64
        np.testing.assert_allclose(got[name], y, atol=1e-6)


def test_what_is_refused() -> None:
    given = operands("RNN", 4, 1, ())
    with pytest.raises(UnsupportedError, match="activation"):
        read(recurrent("RNN", given, "WR", activations=["Sine"]))
    for changed in ({"W": given["W"][:, 1:]}, {"R": given["R"][..., 1:]}, {"B": given["W"][0]}):
        with pytest.raises(ModelError, match="node"):
            read(recurrent("RNN", given | changed, ""))
    for attrs in ({"activations": ["Tanh", "Tanh"]}, {"activations": ["Affine"]}, {"direction": "up"}):
        with pytest.raises(ModelError, match="node"):
            read(recurrent("RNN", given, "WR", **attrs))
