"""ONNX's and com.microsoft's quantized ops, compiled and by NumPy, against ONNX Runtime and exact integers.

Every result that is an integer must be the same integer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from kernels import compiled, results
from onnx import TensorProto, helper, numpy_helper
from onnx_models import NEWEST, floats, model, single

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.reference import evaluate
from cnncc.verify import verify

Array = np.ndarray[Any, Any]
F32 = np.float32


def of(*values: float, dtype: Any = F32) -> Array:
    """A scalar, or a vector of several numbers."""
    return np.array(values[0] if len(values) == 1 else values, dtype)


def integers(shape: Sequence[int], dtype: str = "uint8", seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(info.min, info.max + 1, shape).astype(dtype)


def weights(shape: Sequence[int], seed: int = 1) -> Array:
    """Of 7 bits: ONNX Runtime may saturate sums of two products with uint8 to 16 bits."""
    return integers(shape, "int8", seed) // 2


def node(op: str, operands: Sequence[Array | None], constant: Sequence[int] = (), outputs: int = 1,
         opset: int = 21, **attrs: Any) -> onnx.ModelProto:
    """A node of operands (None: left out), some of them constants; its op may be "domain.Op"."""
    *domain, op = op.rsplit(".", 1)
    names = ["" if v is None else f"x{i}" for i, v in enumerate(operands)]
    given = {i: v for i, v in enumerate(operands) if v is not None}
    infos = [helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
             for i, v in given.items() if i not in constant]
    ends = [onnx.ValueInfoProto(name=f"y{i}") for i in range(outputs)]
    made = helper.make_node(op, names, [e.name for e in ends], "node", domain="".join(domain), **attrs)
    graph = helper.make_graph([made], "test", infos, ends, [numpy_helper.from_array(given[i], f"x{i}")
                                                            for i in constant])
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domain)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10 if opset > 20 else 8)


def oracle(source: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """What ONNX Runtime, else onnx.reference, computes."""
    import onnxruntime
    from onnx.reference import ReferenceEvaluator
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    names = [o.name for o in source.graph.output]
    try:
        session = onnxruntime.InferenceSession(source.SerializeToString(), options, ["CPUExecutionProvider"])
        values = session.run(names, {k: np.asarray(v) for k, v in feeds.items()})
    except Exception:
        values = ReferenceEvaluator(source).run(names, dict(feeds))
    return dict(zip(names, map(np.asarray, values), strict=True))


def same(source: onnx.ModelProto, feeds: Mapping[str, Array], expected: Mapping[str, Array] | None = None,
         steps: int = 0) -> None:
    """Integers may differ by `steps`, in one of a hundred elements; floats are equal up to their rounding."""
    expected = expected or oracle(source, feeds)
    graph = read(source)
    for got in (results(compiled(graph), feeds), evaluate(graph, feeds)):
        for name, y in expected.items():
            assert (got[name].dtype, got[name].shape) == (y.dtype, y.shape)
            if y.dtype.kind == "f":
                np.testing.assert_allclose(got[name], y, rtol=3e-7, atol=1e-12)
            else:
                apart = np.abs(got[name].astype(np.int64) - y)
                assert apart.max() <= steps and (apart != 0).mean() <= 0.01, name


def check(op: str, operands: Sequence[Array | None], constant: Sequence[int] = (), outputs: int = 1,
          opset: int = 21, steps: int = 0, **attrs: Any) -> None:
    feeds = {f"x{i}": v for i, v in enumerate(operands) if v is not None and i not in constant}
    same(node(op, operands, constant, outputs, opset, **attrs), feeds, steps=steps)


# ---- to and from floats

X = np.concatenate([np.arange(-12, 12) / 4, [np.inf, -np.inf, 1e20, -1e20, 127.5, 254.5, 32766.5, 65534.5]]
                   ).astype(F32).reshape(2, 4, 4)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
@pytest.mark.parametrize("constant", [(), (1, 2)])
def test_quantize(dtype: str, constant: tuple[int, ...]) -> None:
    zeros = integers((4,), dtype)
    check("QuantizeLinear", [X, of(0.5), zeros[1]], constant)
    check("QuantizeLinear", [X, of(0.3, 0.5, 1.0, 0.1), zeros], constant)
    check("QuantizeLinear", [X, of(0.3, 0.5), zeros[:2]], constant, axis=-3)
    small = np.clip(X, -1e4, 1e4)
    check("QuantizeLinear", [small, floats(2, 2, 4) ** 2 + F32(0.1), integers((2, 2, 4), dtype)], constant,
          block_size=2)
    check("QuantizeLinear", [small, floats(2, 4, 2) ** 2 + F32(0.1)], (1,), axis=2, block_size=3,
          output_dtype=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    check("QuantizeLinear", [small.astype(np.float16), of(0.5, dtype=np.float16), zeros[1]], constant)
    check("QuantizeLinear", [X, of(0.5).reshape(1), zeros[:1]], constant)


def test_quantize_of_other_opsets() -> None:
    for opset in (10, 13, 19, NEWEST):
        x = np.clip(X, -1e4, 1e4) if opset == NEWEST else X     # onnx.reference cuts to int32
        for operands in ([x, of(0.5), of(7, dtype=np.int8)], [x, of(0.3)]):
            check("QuantizeLinear", operands, opset=opset)
        numbers = np.array([5, 300, -7, 8], np.int32)
        expected = np.array([5, 153, 0, 7], np.uint8)       # halves to even
        made = node("QuantizeLinear", [numbers, of(2.0), of(3, dtype=np.uint8)], opset=13)
        same(made, {"x0": numbers, "x1": of(2.0), "x2": of(3, dtype=np.uint8)}, {"y0": expected})


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "int32"])
def test_dequantize(dtype: str) -> None:
    x, zeros = integers((3, 4, 6), dtype), integers((4,), dtype, 1)
    zeros = zeros if dtype != "int32" else zeros * 0
    for constant in ((), (1, 2)):
        check("DequantizeLinear", [x, of(0.5), zeros[1]], constant)
        check("DequantizeLinear", [x, of(0.3, 0.5, 1.0, 0.1), zeros], constant)
    check("DequantizeLinear", [x, floats(3, 4, 2)], axis=2, block_size=3)
    check("DequantizeLinear", [x, floats(6)], axis=-1)
    check("DequantizeLinear", [x, of(0.5)], opset=13 if dtype in ("uint8", "int8", "int32") else 21)
    check("DequantizeLinear", [x[0, 0, 0], of(0.5)])
    made = node("DequantizeLinear", [x, of(0.5), zeros[1]], (0, 1, 2))
    assert [n.op for n in read(made)] == ["const"]


@pytest.mark.parametrize("x", [floats(3, 5, 7), np.abs(floats(50)), -np.abs(floats(50)), np.zeros(4, F32)],
                         ids=["both", "positive", "negative", "zero"])
def test_dynamic_quantize(x: Array) -> None:
    check("DynamicQuantizeLinear", [x], outputs=3)


# ---- contractions


def test_conv_integer() -> None:
    for dtype, kind in (("uint8", "int8"), ("uint8", "uint8"), ("int8", "int8")):
        x, w = integers((2, 6, 7, 8), dtype), integers((20, 3, 3, 3), kind, 1)
        zeros = [of(100, dtype=dtype), of(3, dtype=kind)]
        for constant in ((), (1, 3)):
            made = node("ConvInteger", [x, w, *zeros], constant, pads=[1, 1, 1, 0], strides=[2, 1], group=2)
            feeds = {f"x{i}": v for i, v in enumerate([x, w, *zeros]) if i not in constant}
            padded = np.pad(x.astype(np.int64) - zeros[0], ((0, 0), (0, 0), (1, 1), (1, 0)))
            windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2]
            expected = np.concatenate([
                np.einsum("ncpqrs,kcrs->nkpq", windows[:, 3 * g:3 * g + 3],
                          (w.astype(np.int64) - zeros[1])[10 * g:10 * g + 10]) for g in (0, 1)], 1)
            same(made, feeds, {"y0": expected.astype(np.int32)})
    check("ConvInteger", [integers((1, 3, 9)), integers((4, 3, 3))])
    check("ConvInteger", [x, w, None, integers((20,), "int8", 2)], opset=10, group=2)


@pytest.mark.parametrize("constant", [(), (1, 2, 3, 4, 5, 6, 7, 8)])
@pytest.mark.parametrize("channels", [(3, 20), (16, 16)])
def test_qlinear_conv(channels: tuple[int, int], constant: tuple[int, ...]) -> None:
    inner, outer = channels
    x, bias = integers((2, inner, 6, 7)), integers((outer,), "int16", 4).astype(np.int32)
    w, scales = weights((outer, inner, 3, 3)), (np.abs(floats(outer)) + F32(0.5)) / 900
    zero, ends = of(111, dtype=np.uint8), [of(3.7), of(90, dtype=np.uint8)]
    for by in ([of(0.002), of(0, dtype=np.int8)], [scales, np.zeros(outer, np.int8)]):
        check("QLinearConv", [x, of(0.9), zero, w, *by, *ends, bias], constant, pads=[1] * 4, steps=1)
    check("QLinearConv", [x, of(0.5), zero, w, of(2.0 ** -9), by[1][0], of(2.0), ends[1]], constant[:-1])


def test_matmul_integer() -> None:
    for dtype, kind in (("uint8", "int8"), ("int8", "uint8")):
        x, w = integers((2, 5, 33), dtype), integers((33, 20), kind, 1)
        rows = integers((2, 5, 1), dtype, 2)
        for zeros in ([], [of(5, dtype=dtype), of(9, dtype=kind)], [rows, integers((20,), kind, 3)]):
            expected = (x.astype(np.int64) - (zeros[0] if zeros else 0)) @ (
                w.astype(np.int64) - (zeros[1] if zeros else 0))
            feeds = {f"x{i}": v for i, v in enumerate([x, w, *zeros])}
            same(node("MatMulInteger", [x, w, *zeros]), feeds, {"y0": expected.astype(np.int32)})
    check("MatMulInteger", [x[0], w, None, of(9, dtype=kind)], (1,))
    check("MatMulInteger", [x[0, 0], w])


@pytest.mark.parametrize("constant", [(), (3, 4, 5)])
def test_qlinear_matmul(constant: tuple[int, ...]) -> None:
    x, w = integers((2, 5, 33)), weights((33, 20))
    each = np.abs(floats(20)) / 300, integers((20,), "int8", 2)
    for scale, zero in ((of(0.004), of(3, dtype=np.int8)), each):
        check("QLinearMatMul", [x, of(0.7), of(99, dtype=np.uint8), w, scale, zero, of(2.2),
                                of(70, dtype=np.uint8)], constant, steps=1)
    rows, y = [np.array([0.5, 0.25], F32), np.array([1, 2], np.uint8)], [of(1.0), of(0, dtype=np.uint8)]
    operands = [np.array([[3, 4], [6, 8]], np.uint8), *rows, np.eye(2, dtype=np.uint8), of(1.0), y[1], *y]
    feeds = {f"x{i}": v for i, v in enumerate(operands)}
    same(node("QLinearMatMul", operands), feeds, {"y0": np.array([[1, 2], [1, 2]], np.uint8)})


# ---- com.microsoft


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearMul"])
def test_pairs(op: str, dtype: str) -> None:
    def zero(n: int) -> Array:
        return of(n, dtype=dtype)
    for shape in ((3, 5, 7), (5, 1), ()):
        x, w = integers((3, 5, 7), dtype), integers(shape, dtype, 1)
        check(f"com.microsoft.{op}", [x, of(0.5), zero(5), w, of(0.25), zero(7), of(2.0), zero(9)])
        check(f"com.microsoft.{op}", [x, of(0.31), zero(5), w, of(0.17), zero(7), of(0.77), zero(9)], steps=1)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_unary(dtype: str) -> None:
    every = np.arange(256).astype(np.uint8).view(dtype)
    scales = [of(0.04), of(100, dtype=dtype), of(1 / 256), of(0, dtype=dtype)]
    check("com.microsoft.QLinearSigmoid", [every, *scales], (1, 2, 3, 4))
    scales[2] = of(0.05)
    check("com.microsoft.QLinearLeakyRelu", [every, *scales], (1, 2, 3, 4), alpha=0.3)
    check("com.microsoft.DequantizeLinear", [every, *scales[:2]])
    check("com.microsoft.QuantizeLinear", [every.astype(F32), of(0.7), of(9, dtype=dtype)])


@pytest.mark.parametrize("last", [0, 1])
def test_global_pool_and_concat(last: int) -> None:
    x, zeros = integers((2, 5, 7, 5)), [of(n, dtype=np.uint8) for n in (40, 90, 3)]
    check("com.microsoft.QLinearGlobalAveragePool", [x, of(0.11), zeros[0], of(0.05), zeros[1]],
          channels_last=last)
    parts = [x, of(0.3), zeros[0], x[:, :2], of(0.17), zeros[1], x, of(0.45), zeros[2]]
    check("com.microsoft.QLinearConcat", [of(0.3), zeros[0], *parts], axis=1)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
def test_average_pool_and_softmax(dtype: str) -> None:
    x, zeros = integers((2, 5, 7, 6), dtype), [of(n, dtype=dtype) for n in (40, 7)]
    operands = [x, of(0.1137), zeros[0], of(0.0831), zeros[1]]
    for attrs in ({}, {"pads": [1, 1, 1, 1]}, {"pads": [1, 0, 1, 1], "count_include_pad": 1}):
        check("com.microsoft.QLinearAveragePool", operands, (1, 2, 3, 4), steps=1, kernel_shape=[3, 2],
              strides=[2, 1], **attrs)
    operands[3:] = [of(1 / 256), of(-128 if dtype == "int8" else 0, dtype=dtype)]
    for opset, axis in ((13, -1), (11, 2)):
        source = node("com.microsoft.QLinearSoftmax", operands, (1, 2, 3, 4), axis=axis)
        source.graph.node[0].attribute.append(helper.make_attribute("opset", opset))
        same(source, {"x0": x}, steps=1)


@pytest.mark.parametrize("attrs", [{}, {"transB": 1}, {"transA": 1, "alpha": 1.5}], ids=str)
def test_qgemm(attrs: dict[str, Any]) -> None:
    x, w = integers((9, 5) if attrs.get("transA") else (5, 9)), weights((9, 12))
    bias, zero = integers((12,), "int16", 2).astype(np.int32), of(99, dtype=np.uint8)
    w = np.ascontiguousarray(w.T) if attrs.get("transB") else w
    first, ends = [x, of(0.7), zero, w], [of(1.9), of(120, dtype=np.uint8)]
    each = np.abs(floats(12)) / 100, integers((12,), "int8", 3)
    for scale, own in ((of(0.01), of(3, dtype=np.int8)), each):
        check("com.microsoft.QGemm", [*first, scale, own, bias, *ends], (3, 4, 5, 6), steps=1, **attrs)
        check("com.microsoft.QGemm", [*first, scale, own, bias], (3, 4, 5, 6), **attrs)


# ---- models


def quantized(name: str, scale: float, zero: int, x: str = "") -> list[onnx.NodeProto]:
    """x (or `name`) to uint8 and back."""
    numbers = {"scale": of(scale), "zero": of(zero, dtype=np.uint8)}
    given = [helper.make_node("Constant", [], [f"{name}.{k}"], value=numpy_helper.from_array(v))
             for k, v in numbers.items()]
    by = [f"{name}.{k}" for k in numbers]
    return [*given, helper.make_node("QuantizeLinear", [x or name, *by], [f"{name}.q"]),
            helper.make_node("DequantizeLinear", [f"{name}.q", *by], [f"{name}.d"])]


@pytest.mark.parametrize("channels", [5, 16])
def test_a_model_that_quantizes_and_dequantizes(channels: int) -> None:
    nodes = [*quantized("x", 0.05, 120),
             helper.make_node("DequantizeLinear", ["w", "scales", "zeros"], ["wd"], axis=0),
             helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"]),
             helper.make_node("Conv", ["x.d", "wd", "bd"], ["c"], pads=[1] * 4),
             helper.make_node("Relu", ["c"], ["r"]), *quantized("r", 0.5, 0),
             helper.make_node("MaxPool", ["r.d"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
             helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("DequantizeLinear", ["v", "bs"], ["vd"]),
             helper.make_node("MatMul", ["f", "vd"], ["y"])]
    constants = {"w": weights((channels, channels, 3, 3)), "scales": np.abs(floats(channels)) / 50,
                 "zeros": np.zeros(channels, np.int8), "b": integers((channels,), "int16").astype(np.int32),
                 "bs": of(0.001), "v": weights((channels * 12, 10))}
    source = model(nodes, {"x": [2, channels, 6, 8]}, ["y"], constants)
    graph = read(source)
    assert {"const", "input"} >= {graph[i].op for n in graph if n.op == "linear" for i in n.inputs[1:]}
    x = floats(2, channels, 6, 8) * 2
    expected = oracle(source, {"x": x})["y"]
    for got in (results(compiled(graph), {"x": x})["y"], evaluate(graph, {"x": x})["y"]):
        apart = np.abs(got - expected).max() / np.abs(expected).max()
        assert apart < 1e-2                             # where sums round to another step


def test_dynamic_quantization_before_a_product() -> None:
    nodes = [helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
             helper.make_node("MatMulInteger", ["q", "w", "z"], ["m"]),
             helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
             helper.make_node("Mul", ["f", "s"], ["y"])]
    source = model(nodes, {"x": [3, 9]}, ["y"], {"w": weights((9, 20))})
    same(source, {"x": floats(3, 9)})


@pytest.mark.parametrize(("source", "words"), [
    (single("QuantizeLinear", [2, 3], floats(2)), "doesn't fit"),
    (single("QuantizeLinear", [2, 3], floats(3), integers((2,))), "doesn't fit"),
    (single("QuantizeLinear", [2, 3], floats(3), axis=5), "axis 5"),
    (single("QuantizeLinear", [2, 6], floats(2, 2), opset=21, block_size=2), "block_size=2"),
    (single("QuantizeLinear", [2, 6], floats(2, 2), opset=21, block_size=-2), "block_size=-2"),
    (single("QuantizeLinear", [2, 3], of(1.0), integers(()), opset=21, output_dtype=3), "output_dtype"),
    (single("DequantizeLinear", [2, 3], of(1.0)), "f32"),
    (single("ConvInteger", [1, 2, 4, 4], integers((2, 2, 3, 3))), "f32"),
    (node("QLinearConv", [integers((1, 2, 4, 4)), *[of(1.0), integers(())], integers((3, 2, 1, 1)),
                          *[floats(2), integers(())] * 2]), "reshape"),
    (node("MatMulInteger", [integers((2, 3)), integers((4, 2))]), "multiply"),
    (node("MatMulInteger", [integers((2, 3)), integers((3, 2)), integers((4,))]), "broadcast"),
    (node("MatMulInteger", [integers((1, 3)), integers((3, 2)), integers((4,))]), "zero point"),
    (node("com.microsoft.QLinearConcat", [of(1.0), integers(()), integers((2,)), of(1.0)]), "inputs"),
    (node("com.microsoft.QLinearAdd", [integers((2,)), of(1.0), of(0, dtype=np.int8), integers((2,)), of(1.0),
                                       integers(()), of(1.0), integers(())]), "i8"),
    (node("DynamicQuantizeLinear", [floats(2)], outputs=2), "outputs"),
])
def test_quantized_ops_that_are_wrong(source: onnx.ModelProto, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        read(source)


@pytest.mark.parametrize(("source", "words"), [
    (single("QuantizeLinear", ["N", 3], floats(2), axis=0), "batch"),
    (model([helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])], {"x": ["N", 3]}, ["y"]),
     "batch"),
    (single("QuantizeLinear", [2, 3], of(1.0), opset=23, precision=11), "precision=11"),
    (single("QuantizeLinear", [2, 3], of(1.0), opset=23, output_dtype=22), "22"),
])
def test_quantized_ops_that_are_refused(source: onnx.ModelProto, words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        read(source)


def test_verify_compares_with_the_model_as_written(tmp_path: Path) -> None:
    """ONNX Runtime's optimizer makes of this sum an op that rounds its halves in another way."""
    pytest.importorskip("onnxruntime")
    from cnncc.verify import verify
    narrow, wide = ["half", "odd"], ["one", "odd"]
    nodes = [helper.make_node(op, ins, [out]) for op, ins, out in (
        ("QuantizeLinear", ["x", *narrow], "a"), ("DequantizeLinear", ["a", *narrow], "b"),
        ("Add", ["b", "b2"], "s"), ("DequantizeLinear", ["w", *narrow], "b2"),
        ("QuantizeLinear", ["s", *wide], "q"), ("DequantizeLinear", ["q", *wide], "y"))]
    nodes[2:4] = nodes[3:1:-1]
    constants = {"half": of(0.5), "one": of(1.0), "odd": of(101, dtype=np.uint8), "w": integers((1, 4, 8, 8))}
    path = tmp_path / "sum.onnx"
    onnx.save(model(nodes, {"x": [1, 4, 8, 8]}, ["y"], constants), path)
    report = verify(str(path), [], 1, lambda what, fraction: None)
    assert report.ok and report.engines["onnxruntime"] == 0


NARROW = {"INT4": (21, 22), "FLOAT8": (17, 18, 19, 20), "FLOAT4": (23,), "INT2": (25, 26)}


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("number", [n for kinds in NARROW.values() for n in kinds])
def test_constants_of_few_bits(number: int, raw: bool) -> None:
    """They are what onnx reads, an odd number of them too; only dequantizing or a cast reads them."""
    own = helper.tensor_dtype_to_np_dtype(number)
    x = np.array([0, 1, 1.5, -1, 0.5, 1, -2, 1, 0, 1, 1] * 3).reshape(3, 11).astype(own)
    tensor = numpy_helper.from_array(x, "x")
    if not raw:
        numbers = np.frombuffer(tensor.raw_data, np.uint8)
        tensor.ClearField("raw_data")
        tensor.int32_data.extend(map(int, numbers))
    scale = of(0.5)
    nodes = [helper.make_node("DequantizeLinear", ["x", "s"], ["y"]),
             helper.make_node("Cast", ["x"], ["z"], to=1), helper.make_node("Add", ["y", "u"], ["v"])]
    infos = [helper.make_tensor_value_info("u", 1, x.shape)]
    ends = [helper.make_tensor_value_info(n, 1, x.shape) for n in "vz"]
    graph = helper.make_graph(nodes, "test", infos, ends, [tensor, numpy_helper.from_array(scale, "s")])
    source = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 25)], ir_version=13)
    u, wide = floats(3, 11), x.astype(F32)
    expected = wide * F32(0.5) + u, wide
    for got, wanted in zip(cnncc.compile(source, cache=False, jobs=1)(u), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    for op, inputs in (("Identity", ["x"]), ("CastLike", ["y", "x"]), ("QuantizeLinear", ["y", "s", "x"])):
        del source.graph.node[1:]
        source.graph.node.append(helper.make_node(op, inputs, ["v"]))
        del source.graph.output[1:]
        with pytest.raises(UnsupportedError, match="of a type that isn't computed with"):
            cnncc.compile(source, cache=False)


def test_sums_of_products_of_uint8_and_int8_are_exact(tmp_path: Path) -> None:
    """ONNX Runtime's saturate in 16 bits where the CPU has no VNNI, and `verify` says so.

    It adds two products at a time, of channels that are last.
    """
    rng = np.random.default_rng(0)
    x, w = rng.integers(200, 256, (1, 16, 8, 8), np.uint8), rng.choice([-127, 127, 100], (8, 16, 3, 3))
    zero, scales = np.array(0, np.uint8), np.full(8, 1 / 512, F32)
    operands = [x, of(1.0), zero, w.astype(np.int8), scales, np.zeros(8, np.int8), of(64.0),
                np.array(128, np.uint8)]
    source = node("QLinearConv", operands, range(1, 8))
    windows = np.lib.stride_tricks.sliding_window_view(x[0].astype(np.int64), (3, 3), (1, 2))
    products = windows.transpose(1, 2, 3, 4, 0).reshape(6, 6, 1, -1) * w.transpose(0, 2, 3, 1).reshape(8, -1)
    pairs = products.reshape(6, 6, 8, -1, 2).sum(-1)
    exact, saturated = (np.clip(np.rint(s.sum(-1) / 512 / 64) + 128, 0, 255).transpose(2, 0, 1)[None]
                        for s in (pairs, pairs.clip(-1 << 15, (1 << 15) - 1)))
    assert (exact != saturated).any()
    graph = read(source)
    name = source.graph.input[0].name
    for got in (results(compiled(graph), {name: x}), evaluate(graph, {name: x})):
        np.testing.assert_array_equal(next(iter(got.values())), exact)
    other = next(iter(oracle(source, {name: x}).values()))
    assert np.array_equal(other, exact) or np.array_equal(other, saturated)
    onnx.save(source, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", x)
    report = verify(str(tmp_path / "model.onnx"), [str(tmp_path / "x.npy")], 1, lambda what, share: None,
                    cache=False)
    assert report.ok and any("saturate" in n for n in report.notes) == np.array_equal(other, saturated)
