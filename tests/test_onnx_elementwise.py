"""ONNX's elementwise ops, reductions and normalizations, compiled and by NumPy, against other engines.

The oracle is ONNX Runtime, or onnx.reference where that has no such op or type. Channels are no multiple of a
vector; operands broadcast between ranks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from kernels import compiled, machine, results
from onnx import TensorProto, helper, numpy_helper
from onnx_models import IR_VERSION, NEWEST
from scalars import LEVEL

from cnncc.codegen.worker import assembly
from cnncc.compiler import optimize, plan
from cnncc.frontend.onnx import read
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for
from cnncc.ir.types import HALVES, NUMPY

Array = np.ndarray[Any, Any]
INF, NAN = float("inf"), float("nan")
FLOATS = ("float32", "float64")
SIGNED = ("int8", "int16", "int32", "int64")
UNSIGNED = ("uint8", "uint16", "uint32", "uint64")


class Case(NamedTuple):
    """A node: operands as arrays (None: left out), those that are constants, attributes, the opset."""

    op: str
    operands: Sequence[Array | None]
    attrs: Mapping[str, Any] = {}
    constant: Sequence[int] = ()
    opset: int = NEWEST

    def model(self, batch: bool = False) -> onnx.ModelProto:
        names = ["" if v is None else f"x{i}" for i, v in enumerate(self.operands)]
        given = {i: v for i, v in enumerate(self.operands) if v is not None}
        rank = max(v.ndim for i, v in given.items() if i not in self.constant)
        infos = [helper.make_tensor_value_info(
            f"x{i}", helper.np_dtype_to_tensor_dtype(v.dtype),
            ["N", *v.shape[1:]] if batch and v.shape[:1] > (1,) and v.ndim == rank else v.shape)
            for i, v in given.items() if i not in self.constant or self.opset < 9]
        tensors = [numpy_helper.from_array(given[i], f"x{i}") for i in self.constant]
        node = helper.make_node(self.op, names, ["y0"], name="node", **self.attrs)
        graph = helper.make_graph([node], "test", infos, [onnx.ValueInfoProto(name="y0")], tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)],
                                 ir_version=IR_VERSION.get(self.opset, 10 if self.opset > 20 else 8))

    @property
    def feeds(self) -> dict[str, Array]:
        return {f"x{i}": v for i, v in enumerate(self.operands) if v is not None and i not in self.constant}


def oracle(case: Case) -> Array:
    """What ONNX Runtime, else onnx.reference, computes."""
    import onnxruntime
    from onnx.reference import ReferenceEvaluator
    model = case.model()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
        return np.asarray(session.run(None, case.feeds)[0])
    except Exception:
        with np.errstate(all="ignore"):
            return np.asarray(ReferenceEvaluator(model).run(None, case.feeds)[0])


def check(case: Case, rtol: float = 0.0, atol: float = 0.0, expected: Array | None = None,
          batch: bool = True) -> None:
    """Compiled with a fixed and with an open batch, and computed by NumPy."""
    expected = oracle(case) if expected is None else expected
    graphs = [read(case.model())]
    if batch:
        try:
            graphs.append(read(case.model(batch=True)))
        except UnsupportedError:        # a reduction over it
            pass
    for graph in graphs:
        got = results(compiled(graph), case.feeds)["y0"]
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol)
    with np.errstate(all="ignore"):
        again = evaluate(graphs[0], case.feeds)["y0"]
    assert again.dtype == expected.dtype
    np.testing.assert_allclose(again, expected, rtol=rtol, atol=atol)


def numbers(shape: Sequence[int], dtype: str = "float32", seed: int = 0, reach: float = 3.0) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype in FLOATS:
        return rng.uniform(-reach, reach, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(max(info.min, -40), min(info.max, 40) + 1, shape, dtype=np.int64).astype(dtype)


SHAPE = (3, 19, 5, 6)
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 1e-3, 30.0, -30.0, 100.0, -100.0]


def special(shape: Sequence[int] = SHAPE) -> Array:
    rng = np.random.default_rng(5)
    x = numbers(shape)
    return np.where(rng.random(shape) < 0.2, rng.choice(SPECIAL, shape), x).astype(np.float32)


# ---- one operand

ACTIVATIONS: list[tuple[str, dict[str, Any], int]] = [
    ("Relu", {}, 6), ("LeakyRelu", {}, 6), ("LeakyRelu", {"alpha": -0.3}, 16), ("Elu", {}, 6),
    ("Elu", {"alpha": 0.4}, 6), ("Selu", {}, 6), ("Selu", {"alpha": 0.7, "gamma": 2.0}, 22), ("Celu", {}, 12),
    ("Celu", {"alpha": 2.5}, 12), ("Gelu", {}, 20), ("Gelu", {"approximate": "tanh"}, 20),
    ("HardSigmoid", {}, 6), ("HardSigmoid", {"alpha": 0.5, "beta": 0.6}, 22), ("HardSwish", {}, 14),
    ("Sigmoid", {}, 6), ("Tanh", {}, 6), ("Softplus", {}, 6), ("Softsign", {}, 6),
    ("ThresholdedRelu", {}, 10),
    ("ThresholdedRelu", {"alpha": -0.5}, 22), ("Mish", {}, 18), ("Shrink", {}, 9),
    ("Shrink", {"lambd": 1.5, "bias": 0.25}, 9), ("Identity", {}, 6),
    ("Neg", {}, 6), ("Abs", {}, 6), ("Sign", {}, 9), ("Reciprocal", {}, 6), ("Exp", {}, 6), ("Floor", {}, 6),
    ("Ceil", {}, 6), ("Round", {}, 11), ("Erf", {}, 9), ("Sin", {}, 7), ("Cos", {}, 7), ("Tan", {}, 7),
    ("Atan", {}, 7), ("Sinh", {}, 9), ("Cosh", {}, 9), ("Asinh", {}, 9), ("IsNaN", {}, 9), ("IsInf", {}, 10),
    ("IsInf", {"detect_negative": 0}, 10), ("IsInf", {"detect_positive": 0}, 20),
    ("Sqrt", {}, 6), ("Log", {}, 6), ("Asin", {}, 7), ("Acos", {}, 7), ("Acosh", {}, 9), ("Atanh", {}, 9)]
if NEWEST >= 24:
    ACTIVATIONS += [("Swish", {}, 24), ("Swish", {"alpha": 0.3}, 24)]
POSITIVE = {"Sqrt", "Log", "Acosh"}
WITHIN_ONE = {"Asin", "Acos", "Atanh"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("op", "attrs", "since"), ACTIVATIONS)
def test_functions_of_one_operand(op: str, attrs: dict[str, Any], since: int, dtype: str) -> None:
    x = numbers(SHAPE, dtype)
    x = np.abs(x) + 1 if op in POSITIVE else x / 3.01 if op in WITHIN_ONE else x
    for opset in {since, NEWEST}:
        check(Case(op, [x.astype(dtype)], attrs, opset=opset), 4e-6, 1e-6)


@pytest.mark.parametrize(("op", "attrs", "since"), ACTIVATIONS)
def test_functions_of_special_values(op: str, attrs: dict[str, Any], since: int) -> None:
    """As PyTorch in float64, which passes NaN on; ONNX Runtime is no measure of that.

    In float32 its GELU of infinity is NaN on some CPUs.
    """
    torch = pytest.importorskip("torch")
    F = torch.nn.functional
    x = special()
    t = torch.tensor(x, dtype=torch.float64)
    a = attrs.get("alpha")
    known = {
        "Relu": F.relu, "LeakyRelu": lambda v: F.leaky_relu(v, a if a is not None else 0.01),
        "Elu": lambda v: F.elu(v, a or 1.0), "Celu": lambda v: F.celu(v, a or 1.0),
        "Gelu": lambda v: F.gelu(v, approximate=attrs.get("approximate", "none")), "HardSwish": F.hardswish,
        "Sigmoid": torch.sigmoid, "Tanh": torch.tanh, "Softplus": F.softplus, "Softsign": F.softsign,
        "Mish": F.mish, "ThresholdedRelu": lambda v: F.threshold(v, 1.0 if a is None else a, 0.0),
        "Shrink": lambda v: F.hardshrink(v, 1.5) - torch.sign(F.hardshrink(v, 1.5)) * 0.25,
        "IsNaN": torch.isnan, "Identity": lambda v: v, "Reciprocal": lambda v: 1 / v}
    if op in ("Abs", "Neg", "Exp", "Floor", "Ceil", "Round", "Erf", "Atan", "Sqrt", "Log", "Asin", "Acos",
              "Acosh", "Atanh", "Asinh", "Sinh", "Cosh", "Sin", "Cos"):
        known[op] = getattr(torch, op.lower())
    if op in known and not (op == "Shrink" and not attrs):
        expected = known[op](t)
        check(Case(op, [x], attrs), 5e-6, 1e-6, expected.to(torch.float32 if expected.is_floating_point()
                                                            else expected.dtype).numpy())


@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED])
@pytest.mark.parametrize("op", ["Abs", "Sign", "Neg", "BitwiseNot", "Relu"])
def test_functions_of_integers(op: str, dtype: str) -> None:
    if dtype in UNSIGNED and op in ("Neg", "Relu"):
        return
    check(Case(op, [numbers(SHAPE, dtype)]))


# ---- two operands

BROADCAST = [((3, 19, 5, 6), (3, 19, 5, 6)), ((3, 19, 5, 6), (6,)), ((19, 1, 1), (3, 19, 5, 6)),
             ((3, 1, 5), (2, 1, 7, 1)), ((37,), (1,)), ((3, 37), ()), ((), ())]


def pair(first: Sequence[int], second: Sequence[int], dtype: str) -> list[Array]:
    return [numbers(first, dtype), numbers(second, dtype, 1)]


@pytest.mark.parametrize("shapes", BROADCAST)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "int64", "uint8", "uint32"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "Max", "Min", "Sum"])
def test_arithmetic(op: str, dtype: str, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    x, w = pair(*shapes, dtype)
    if op == "Div":
        w = np.where(w == 0, np.ones((), dtype), w).astype(dtype)
    divide = np.divide if dtype in FLOATS else lambda a, b: np.trunc(a / b)
    expected = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Max": np.maximum, "Min": np.minimum,
                "Sum": np.add, "Div": divide}[op](x, w)
    check(Case(op, [x, w]), 1e-7, expected=np.asarray(expected).astype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "int32", "int64", "uint8", "uint64"])
@pytest.mark.parametrize("op", ["Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"])
def test_comparisons(op: str, dtype: str) -> None:
    for shapes in BROADCAST[:5]:
        x, w = (np.round(v).astype(dtype) for v in pair(*shapes, dtype))
        relation = {"Less": np.less, "LessOrEqual": np.less_equal, "Greater": np.greater,
                    "GreaterOrEqual": np.greater_equal, "Equal": np.equal}[op]
        check(Case(op, [x, w]), expected=relation(x, w))


@pytest.mark.parametrize("op", ["And", "Or", "Xor", "Equal"])
def test_logic(op: str) -> None:
    for shapes in BROADCAST[:5]:
        check(Case(op, pair(*shapes, "bool")))
    check(Case("Not", [numbers(SHAPE, "bool")]))


@pytest.mark.parametrize("dtype", [*SIGNED, *UNSIGNED])
@pytest.mark.parametrize("op", ["BitwiseAnd", "BitwiseOr", "BitwiseXor"])
def test_bits(op: str, dtype: str) -> None:
    check(Case(op, pair((3, 19, 5), (19, 1), dtype)))


@pytest.mark.parametrize("dtype", UNSIGNED)
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_shifts(direction: str, dtype: str) -> None:
    x, w = numbers((4, 21), dtype), numbers((4, 21), dtype, 1) % 8
    expected = x << w if direction == "LEFT" else x >> w
    check(Case("BitShift", [x, w.astype(dtype)], {"direction": direction}), expected=expected.astype(dtype))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32"])
@pytest.mark.parametrize("fmod", [0, 1])
def test_mod(fmod: int, dtype: str) -> None:
    x, w = pair((3, 19, 5), (19, 1), dtype)
    w = np.where(w == 0, np.ones((), dtype), w).astype(dtype)
    check(Case("Mod", [x, w], {"fmod": fmod}), expected=(np.fmod if fmod else np.mod)(x, w))


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32"])
def test_dividing_integers_by_zero_does_not_end_the_program(dtype: str) -> None:
    x, w = numbers((50,), dtype), np.zeros(50, dtype)
    x[:2], w[:2] = np.iinfo(dtype).min, np.array([-1, 1]).astype(dtype)
    graph = read(Case("Div", [x, w]).model())
    got = results(compiled(graph), {"x0": x, "x1": w})["y0"]
    assert (got[2:] == 0).all()


def test_fmod_of_floats() -> None:
    for dtype in FLOATS:
        check(Case("Mod", pair((3, 19, 5), (19, 1), dtype), {"fmod": 1}))


@pytest.mark.parametrize(("base", "exponent"), [
    ("float32", "float32"), ("float64", "float64"), ("float32", "int64"), ("int32", "int32"),
    ("int64", "int64"), ("int32", "float32"), ("float32", "float64")])
def test_pow(base: str, exponent: str) -> None:
    x, w = np.abs(numbers((3, 19, 5), base)) % 7, np.abs(numbers((19, 1), exponent, 1)) % 4
    expected = np.power(x.astype(np.float64), w.astype(np.float64))
    check(Case("Pow", [x, w]), 1e-6, expected=expected.astype(base))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0, 3.0, -1.0, 2.5])
def test_pow_of_constants(exponent: float) -> None:
    x = np.abs(numbers(SHAPE)) + 0.1
    for shape in ((), (1,)):
        check(Case("Pow", [x, np.full(shape, exponent, np.float32)], constant=[1]), 1e-6)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
def test_any_number_of_operands(op: str, count: int) -> None:
    operands = [numbers(s, seed=i) for i, s in enumerate([(3, 19, 5), (19, 1), (5,), (3, 1, 1), ()][:count])]
    check(Case(op, operands), 1e-6, 1e-6)


def test_maxima_keep_nan() -> None:
    x, w = special((4, 37)), special((4, 37))[::-1].copy()
    for op, f in (("Max", np.maximum), ("Min", np.minimum)):
        check(Case(op, [x, w]), expected=f(x, w))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "int64", "uint8", "bool"])
def test_where(dtype: str) -> None:
    for shapes in (((3, 19, 5), (3, 19, 5), (3, 19, 5)), ((19, 1), (3, 1, 5), ()),
                   ((2, 1, 1, 4), (3, 1), (1, 4))):
        c, (x, w) = numbers(shapes[0], "bool", 2), pair(*shapes[1:], dtype)
        check(Case("Where", [c, x, w]), expected=np.where(c, x, w))


@pytest.mark.parametrize("slope", [(19, 1, 1), (1,), (5, 6), (19, 5, 6), ()])
def test_prelu(slope: tuple[int, ...]) -> None:
    x, w = numbers(SHAPE), numbers(slope, seed=1)
    check(Case("PRelu", [x, w]), expected=np.where(x < 0, x * w, x))
    check(Case("PRelu", [x, w], constant=[1]), expected=np.where(x < 0, x * w, x))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "int64", "uint8"])
def test_clip(dtype: str) -> None:
    x = numbers(SHAPE, dtype)
    low, high = np.array(2, dtype), np.array(3, dtype)
    for bounds in ([low, high], [None, high], [low], [low, None], [high, low], []):
        least, most = ([*bounds, None, None])[:2]
        expected = x if least is None else np.maximum(x, least)
        expected = expected if most is None else np.minimum(expected, most)
        for constant in ([], [i for i, b in enumerate(bounds, 1) if b is not None]):
            check(Case("Clip", [x, *bounds], constant=constant), expected=expected)


# ---- casts

ALL = [*FLOATS, *SIGNED, *UNSIGNED, "bool"]


@pytest.mark.parametrize("source", ALL)
@pytest.mark.parametrize("to", ALL)
def test_casts(source: str, to: str) -> None:
    x = numbers((3, 19, 5), source)
    number = helper.np_dtype_to_tensor_dtype(np.dtype(to))
    if source in FLOATS and to in UNSIGNED:
        x = np.abs(x)
    check(Case("Cast", [x], {"to": number}), expected=x.astype(to))
    check(Case("CastLike", [x, np.zeros(1, to)]), expected=x.astype(to))


def test_a_chain_through_several_types() -> None:
    """One vector has as many lanes as the widest type allows; channels are no multiple of it."""
    nodes = [helper.make_node("Cast", ["x"], ["a"], to=TensorProto.FLOAT),
             helper.make_node("Mul", ["a", "k"], ["b"]),
             helper.make_node("Cast", ["b"], ["c"], to=TensorProto.DOUBLE),
             helper.make_node("Floor", ["c"], ["d"]),
             helper.make_node("Cast", ["d"], ["e"], to=TensorProto.INT8),
             helper.make_node("Greater", ["d", "c"], ["f"]),
             helper.make_node("Cast", ["e"], ["g"], to=TensorProto.INT64)]
    x = numbers((2, 21, 3, 5), "uint8")
    k = np.float32(0.75)
    outputs = {n: onnx.ValueInfoProto(name=n) for n in "abcdefg"}
    info = helper.make_tensor_value_info("x", TensorProto.UINT8, ["N", 21, 3, 5])
    graph = helper.make_graph(nodes, "test", [info], list(outputs.values()),
                              [numpy_helper.from_array(np.array(k), "k")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    b = x.astype(np.float32) * k
    d = np.floor(b.astype(np.float64))
    expected = {"a": x.astype(np.float32), "b": b, "c": b.astype(np.float64), "d": d, "e": d.astype(np.int8),
                "f": np.zeros(x.shape, bool), "g": d.astype(np.int64)}
    for chosen in (list(expected), ["e"], ["g"]):
        del model.graph.output[:]
        model.graph.output.extend(outputs[n] for n in chosen)
        got = results(compiled(read(model)), {"x": x})
        for name in chosen:
            np.testing.assert_array_equal(got[name], expected[name], name)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("channels", [3, 16, 21])
def test_halves_are_widened_and_narrowed(channels: int, dtype: str) -> None:
    """Inputs, outputs and weights in half precision; everything between is computed in single."""
    x, w = (numbers(s).astype(NUMPY[dtype]) for s in ((2, channels, 6, 7), (5, channels, 1, 1)))
    nodes = [helper.make_node("Conv", ["x", "w"], ["a"]), helper.make_node("Gelu", ["a"], ["y"]),
             helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Cast", ["f"], ["h"], to=helper.np_dtype_to_tensor_dtype(NUMPY[dtype]))]
    info = helper.make_tensor_value_info
    half, single = helper.np_dtype_to_tensor_dtype(NUMPY[dtype]), TensorProto.FLOAT
    graph = helper.make_graph(nodes, "test", [info("x", half, ["N", channels, 6, 7])],
                              [info("y", half, None), info("f", single, None), info("h", half, None),
                               info("w", half, None)],
                              [numpy_helper.from_array(w, "w") if channels == 3 else     # else not raw
                               helper.make_tensor("w", half, w.shape, w.astype(np.float32).ravel())])
    source = read(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    got = results(compiled(source), {"x": x})
    a = np.einsum("nchw,kc->nkhw", x.astype(np.float64), w[:, :, 0, 0].astype(np.float64))
    exact = 0.5 * a * (1 + np.vectorize(math.erf)(a / math.sqrt(2)))
    assert got["y"].dtype == NUMPY[dtype] and got["f"].dtype == np.float32
    rounding = 2.0 ** -11 if dtype == "f16" else 2.0 ** -8
    np.testing.assert_allclose(got["y"].astype(np.float32), exact, rtol=rounding * 1.001, atol=1e-6)
    np.testing.assert_array_equal(got["f"], x.astype(np.float32))
    np.testing.assert_array_equal(got["h"], x)
    np.testing.assert_array_equal(got["w"], w)
    again = evaluate(source, {"x": x})
    np.testing.assert_allclose(again["y"], exact, rtol=1e-5, atol=1e-6)
    if dtype == "bf16":
        optimize(source, LEVEL["v2"])
        return
    with pytest.raises(UnsupportedError, match="half precision needs x86-64-v3"):
        compiled(source, target_for("x86-64-v2"))


# ---- reductions

REDUCTIONS = ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
              "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"]


def reduction(op: str, x: Array, axes: Sequence[int], opset: int = NEWEST, **attrs: Any) -> Case:
    """The axes as an input or, in old opsets, as an attribute."""
    if opset >= (13 if op == "ReduceSum" else 18):
        return Case(op, [x, np.array(axes, np.int64)] if axes else [x], attrs, [1] if axes else [], opset)
    return Case(op, [x], attrs | ({"axes": list(axes)} if axes else {}), [], opset)


@pytest.mark.parametrize("axes", [(1,), (-1,), (2, 3), (1, 2, 3), (3, 1), (0, 2), ()])
@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str, axes: tuple[int, ...]) -> None:
    x = np.abs(numbers(SHAPE)) * 0.5 + 0.5 if op == "ReduceLogSum" else numbers(SHAPE, reach=1.2)
    for keepdims in (0, 1):
        check(reduction(op, x, axes, keepdims=keepdims), 2e-5, 1e-6)
    for opset in (6, 11, 17):
        check(reduction(op, x, axes, opset, keepdims=1), 2e-5, 1e-6, expected=oracle(reduction(op, x, axes)))
    check(reduction(op, x.astype(np.float64), axes), 2e-5, 1e-6)


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint32", "int8", "uint8"])
@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1",
                                "ReduceSumSquare"])
def test_reductions_of_integers(op: str, dtype: str) -> None:
    if dtype in ("int8", "uint8") and op not in ("ReduceMax", "ReduceMin"):
        return
    x = numbers((3, 19, 5), dtype) % 5
    f = {"ReduceSum": np.sum, "ReduceMax": np.max, "ReduceMin": np.min, "ReduceProd": np.prod,
         "ReduceMean": lambda v, **k: np.trunc(np.sum(v, **k) / v.shape[k["axis"]]),
         "ReduceL1": lambda v, **k: np.sum(np.abs(v), **k),
         "ReduceSumSquare": lambda v, **k: np.sum(v * v, **k)}[op]
    for axis in (0, 1, 2):
        expected = f(x.astype(np.int64), axis=axis, keepdims=True).astype(dtype)
        check(reduction(op, x, (axis,)), expected=expected)


def test_reductions_of_truth_values() -> None:
    x = numbers((3, 19, 5), "bool")
    for axis in (1, 2):
        check(reduction("ReduceMax", x, (axis,)), expected=x.max(axis, keepdims=True))
        check(reduction("ReduceMin", x, (axis,)), expected=x.min(axis, keepdims=True))


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions_over_no_axes(op: str) -> None:
    x = np.abs(numbers((3, 19))) + 0.5
    expected = {"ReduceSumSquare": x * x, "ReduceLogSum": np.log(x)}.get(op, x)
    check(Case(op, [x, np.zeros(0, np.int64)], {"noop_with_empty_axes": 1}, [1]), 1e-6, 1e-6, expected)


def test_log_sum_exp_of_infinities() -> None:
    x = np.array([[-INF] * 20, [INF, *[0.0] * 19], [NAN, *[0.0] * 19], [3e38] * 20, [-3e38] * 20], np.float32)
    expected = np.array([-INF, INF, NAN, 3e38, -3e38], np.float32)
    check(reduction("ReduceLogSumExp", x, (1,), keepdims=0), 1e-6, expected=expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int32", "int64", "uint8"])
@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_positions_of_extremes(op: str, dtype: str) -> None:
    x = np.round(numbers((3, 19, 5, 6), dtype) % 7).astype(dtype)
    f = np.argmax if op == "ArgMax" else np.argmin
    for axis in (0, 1, 2, 3, -1):
        for keepdims in (0, 1):
            first = f(x, axis=axis, keepdims=bool(keepdims))
            last = x.shape[axis] - 1 - f(np.flip(x, axis), axis=axis, keepdims=bool(keepdims))
            check(Case(op, [x], {"axis": axis, "keepdims": keepdims}), expected=first)
            check(Case(op, [x], {"axis": axis, "keepdims": keepdims, "select_last_index": 1}), expected=last)


# ---- normalizations

SCALE, SHIFT = numbers((19,), seed=3), numbers((19,), seed=4)
GROUPS = numbers((2, 20), seed=5)


@pytest.mark.parametrize("case", [
    *[Case(op, [numbers(SHAPE, d)], {"axis": axis}) for op in ("Softmax", "LogSoftmax", "Hardmax")
      for d in FLOATS for axis in (1, 2, -1)],
    *[Case(op, [numbers((4, 19, 3))], {"axis": 1}, opset=opset) for op in ("Softmax", "LogSoftmax", "Hardmax")
      for opset in (6, 11, 12, 13)],
    *[Case("LpNormalization", [numbers(SHAPE)], {"axis": axis, "p": p}) for axis in (1, -1) for p in (1, 2)],
    *[Case("LpNormalization", [np.zeros((2, 19), np.float32)], {"p": p}) for p in (1, 2)],
    Case("InstanceNormalization", [numbers(SHAPE), SCALE, SHIFT]),
    Case("InstanceNormalization", [numbers((2, 19, 33)), SCALE, SHIFT], {"epsilon": 0.1}, (1, 2), 6),
    Case("LayerNormalization", [numbers((3, 5, 19)), SCALE, SHIFT]),
    Case("LayerNormalization", [numbers((3, 5, 19)), SCALE], {"epsilon": 1e-2}, (1,)),
    Case("LayerNormalization", [numbers((3, 5, 19)), numbers((5, 19)), SHIFT], {"axis": 1}, (1, 2), 17),
    Case("GroupNormalization", [numbers((3, 20, 5, 6)), *GROUPS], {"num_groups": 4}),
    Case("GroupNormalization", [numbers((3, 20, 5)), *GROUPS], {"num_groups": 20}, (1, 2)),
    Case("LRN", [numbers(SHAPE)], {"size": 5}),
    Case("LRN", [numbers(SHAPE)], {"size": 3, "alpha": 1.0, "beta": 0.5, "bias": 2.0}, (), 13),
    Case("GlobalAveragePool", [numbers(SHAPE)]), Case("GlobalMaxPool", [numbers(SHAPE)]),
], ids=lambda c: f"{c.op}-{c.opset}")
def test_normalizations(case: Case) -> None:
    check(case, 2e-5, 2e-6)


@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_lrn_of_any_rank_and_size(size: int) -> None:
    x = numbers((2, 5, 7))
    wide = np.pad(x, ((0, 0), ((size - 1) // 2, size - 1 - (size - 1) // 2), (0, 0))) ** 2
    total = sum(wide[:, i:i + 5] for i in range(size))
    expected = x / (2 + 0.5 / size * total) ** 0.75
    check(Case("LRN", [x], {"size": size, "alpha": 0.5, "bias": 2.0}, (), 6), 1e-5, expected=expected)


def test_mean_variance_normalization() -> None:
    x = numbers(SHAPE)
    for axes in ((0, 2, 3), (2, 3)):
        mean, std = x.mean(axes, keepdims=True), x.std(axes, keepdims=True)
        check(Case("MeanVarianceNormalization", [x], {"axes": axes}), 2e-5, 2e-6, (x - mean) / (std + 1e-9))


def test_group_normalization_with_a_scale_per_group() -> None:
    torch = pytest.importorskip("torch")
    x, scale, shift = numbers((3, 20, 5, 6)), numbers((4,), seed=1), numbers((4,), seed=2)
    y = torch.nn.functional.group_norm(torch.tensor(x), 4, eps=1e-5).numpy()
    expected = y * np.repeat(scale, 5)[:, None, None] + np.repeat(shift, 5)[:, None, None]
    check(Case("GroupNormalization", [x, scale, shift], {"num_groups": 4}, opset=18), 2e-5, 2e-6, expected)


def test_normalizations_are_accurate_where_the_mean_is_large() -> None:
    x = (numbers((2, 19, 400)).astype(np.float64) + 1000).astype(np.float32)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(2, keepdims=True)) / np.sqrt(wide.var(2, keepdims=True) + 1e-5)
    check(Case("InstanceNormalization", [x, np.ones(19, np.float32), np.zeros(19, np.float32)]), 0, 1e-4,
          expected.astype(np.float32))


# ---- code for CPUs of every level, whatever this one is


@pytest.mark.parametrize("level", LEVEL)
@pytest.mark.parametrize("case", [
    *[Case(op, [numbers(SHAPE, d)]) for op in ("Gelu", "Mish", "Elu", "Erf", "Tan", "Round", "IsNaN")
      for d in FLOATS],
    *[Case(op, pair((3, 19, 5), (19, 1), d)) for op in ("Add", "Div", "Mul", "Max", "Less")
      for d in ("float64", *SIGNED, *UNSIGNED)],
    *[Case(op, pair((3, 19, 5), (19, 1), d)) for op in ("Mod", "Pow") for d in ("int32", "int64")],
    *[Case("Cast", [numbers(SHAPE, source)], {"to": to}) for source in ("uint8", "float64", "int64", "bool")
      for to in (TensorProto.FLOAT, TensorProto.INT8, TensorProto.DOUBLE, TensorProto.BOOL,
                 TensorProto.UINT64)],
    *[Case("ArgMax", [numbers(SHAPE, d)], {"axis": axis}) for d in ("float32", "int8") for axis in (1, 3)],
    Case("LayerNormalization", [numbers((3, 5, 19)), SCALE, SHIFT]),
    Case("Where", [numbers(SHAPE, "bool"), *pair(SHAPE, SHAPE, "uint8")]),
    Case("And", pair((3, 19, 5), (19, 1), "bool")),
], ids=lambda c: f"{c.op}-{'-'.join(str(v.dtype) for v in c.operands)}")
def test_every_level_compiles(case: Case, level: str) -> None:
    target = LEVEL[level]
    for batch in (False, True):
        code = plan(optimize(read(case.model(batch)), target))
        for symbol, text in code.texts(target):
            if symbol in code.kernels:
                assert not re.search(r"\bcall", assembly(text, machine(target)))


# ---- old forms


def test_operands_aligned_as_before_opset_7() -> None:
    x = numbers((3, 19, 5, 6))
    for op, f in (("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply)):
        for shape, axis in (((19,), 1), ((19, 5), 1), ((3, 19), 0), ((6,), None), ((5, 6), None)):
            w = numbers(shape, seed=1)
            attrs = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
            placed = w.reshape(*shape, *(1,) * (4 - axis - len(shape))) if axis is not None else w
            for constant in ([], [1]):
                check(Case(op, [x, w], attrs, constant, 6), 1e-6, expected=f(x, placed), batch=False)
    check(Case("Less", [x, numbers((19,))], {"broadcast": 1, "axis": 1}, opset=6), batch=False,
          expected=x < numbers((19,))[:, None, None])
    check(Case("PRelu", [x, SCALE], opset=6), batch=False,
          expected=np.where(x < 0, x * SCALE[:, None, None], x))
    check(Case("Clip", [x], {"min": -0.5}, opset=6), expected=np.maximum(x, np.float32(-0.5)))
    check(Case("Dropout", [x], {"ratio": 0.5, "is_test": 1}, opset=6), expected=x)


# ---- what is wrong is said


@pytest.mark.parametrize(("case", "message"), [
    (Case("Add", [numbers((3, 19)), numbers((18,))]),
     r"Add 'node': shapes don't broadcast: \[3, 19\] and \[18\]"),
    (Case("Add", [numbers((3, 19)), numbers((18,))], constant=[1]), r"Add 'node': shapes don't broadcast"),
    (Case("Add", [numbers((3,)), numbers((3,), "int64")]), "'node': add can't be computed of f32 and i64"),
    (Case("PRelu", [numbers((3, 4)), numbers((2, 3, 4))]), "PRelu 'node': a slope of .* doesn't broadcast"),
    (Case("PRelu", [numbers((3, 4)), numbers((5,))], constant=[1]), "PRelu 'node': shapes don't broadcast"),
    (Case("InstanceNormalization", [numbers((2, 4, 5)), numbers((3,)), numbers((4,))]),
     r"input 1 has the shape \[3\], expected \[4\]"),
    (Case("LayerNormalization", [numbers((2, 4)), numbers((3,))], {}, (1,)), "don't broadcast"),
    (Case("GroupNormalization", [numbers((2, 4, 5)), numbers((4,)), numbers((4,))], {"num_groups": 3}),
     "can't be split into 3 groups"),
    (Case("Exp", [numbers((3,), "int32")]), "Exp 'node': it is not for i32"),
    (Case("And", [numbers((3,), "int32")] * 2), "And 'node': it is not for i32"),
    (Case("BitShift", [numbers((3,), "uint8")] * 2, {"direction": "UP"}), "direction is b'UP'"),
    (Case("Where", [numbers((3,))] * 3), "Where 'node': it is not for f32"),
    (Case("Cast", [numbers((3,))], {"to": TensorProto.STRING}), "casts to string are not supported"),
    (Case("LRN", [numbers((1, 3, 4))], {"size": 0}), "its size is 0"),
    (Case("ReduceSum", [numbers((3, 4), "bool")]), "'node': add can't be computed of bool and bool"),
    (Case("ReduceSum", [numbers((3, 4)), np.array([1, -1])], {}, (1,)), "name one dimension twice"),
])
def test_what_does_not_fit(case: Case, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        read(case.model())


def test_a_batch_that_would_move_is_refused() -> None:
    model = Case("Add", [numbers((3, 19)), numbers((2, 1, 1))], constant=[1]).model(batch=True)
    with pytest.raises(UnsupportedError, match="in another place than the first"):
        read(model)
