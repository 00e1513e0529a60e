"""Importer rows of quantized ops: integers of 8 and 16 bits for (integer - zero point) * scale.

Contractions are computed in int32, scales in float32, in the order of ONNX Runtime. Halves are rounded
to even, NaN becomes 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace

import numpy as np

from cnncc.frontend.onnx_conv import average, convolution
from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_file import DTYPES
from cnncc.frontend.onnx_matrix import product
from cnncc.frontend.onnx_moves import MAX_TABLE, pick
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_reduce import along, along_one, reduced
from cnncc.ir.graph import Builder
from cnncc.ir.reference import evaluate
from cnncc.ir.signature import Array
from cnncc.ir.types import HALVES, NUMPY, Extent

BYTES = ("u8", "i8")
WORDS = (*BYTES, "u16", "i16")


def _parameter(c: Call, i: int, shape: Sequence[Extent] = ()) -> str:
    """A scale or zero point: one number, or a vector that is seen in a shape of as many elements."""
    v = c.value(i)
    own = c.shape(v)
    wanted = () if own in ((), (1,)) else tuple(shape) if len(own) == 1 and shape else own
    return v if own == wanted else c.emit("reshape", [v], f"parameter{i}", shape=wanted)


def _zero(c: Call, i: int, dtype: str) -> str:
    """The zero point that operand i may give, one number."""
    return of(c, _parameter(c, i), (dtype,)) if c.has(i) else c.const(np.zeros((), NUMPY[dtype]), "zero")


def _centred(c: Call, x: str, zero: str, step: str) -> str:
    """x without its zero point, in int32, of floats of few bits in float32."""
    y = c.emit("sub" if c.dtype(x) == "f32" else "offset", [x, zero], step)
    fits = c.shape(y) == c.shape(x) and c.dtype(x) == c.dtype(zero)
    c.expect(fits, f"its zero point, {c.dtype(zero)}{list(c.shape(zero))}, doesn't fit "
                   f"{c.dtype(x)}{list(c.shape(x))}")
    return y


def _scaled(c: Call, x: str, scale: str, step: str = "") -> str:
    """Integers times a scale."""
    y = c.emit("mul", [c.emit("cast", [x], "float", to="f32"), scale], step)
    fits = c.shape(y) == c.shape(x)
    c.expect(fits, f"a scale of shape {list(c.shape(scale))} doesn't fit {list(c.shape(x))}")
    return y


def _real(c: Call, i: int, *over: str) -> str:
    """Operand i by the scale and the zero point that follow it; `over` is a scale to divide that by."""
    x, scale = of(c, c.value(i), BYTES), _parameter(c, i + 1)
    for other in over:
        scale = c.emit("div", [scale, other], "ratio")
    return _scaled(c, _centred(c, x, _zero(c, i + 2, c.dtype(x)), "centred"), scale, "real")


def _narrow(c: Call, x: str, i: int, dtype: str) -> str:
    """x, in steps of its scale, by the zero point of operand i."""
    zero = _zero(c, i, dtype)
    return c.emit("saturated", [x, zero], to=dtype)


def _pair(c: Call, y: str) -> str:
    """The result of two operands: ONNX Runtime rounds it after its zero point is added."""
    dtype = c.dtype(c.value(0))
    zero = c.emit("cast", [_zero(c, 7, dtype)], "zero", to="f32")
    return c.emit("saturated", [c.emit("add", [y, zero], "shifted"), _zero(c, 9, dtype)], to=dtype)


# ---- to and from floats


def _folding(convert: Callable[[Call], str]) -> Callable[[Call], str | Array]:
    """An array where all operands are constants."""
    def folded(c: Call) -> str | Array:
        scope = c.scope
        if not all(i in scope.constants for i in c.node.input if i):
            return convert(c)
        part = copy(c)
        part.scope = replace(scope, builder=Builder(c.name), values={})
        y = convert(part)
        result = evaluate(part.scope.builder.graph([("y", y)]), {})["y"]
        c.spend(result.nbytes)
        return result
    return folded


def _beside(c: Call, i: int, shape: Sequence[Extent]) -> str:
    """Operand i beside a value: one number, one per index of the axis, or one for a block along it."""
    axis, block, own = c.attribute("axis", "i", 1), c.attribute("block_size", "i", 0), c.shape(c.operand(i))
    fits = f"a scale or zero point of shape {list(own)} doesn't fit {list(shape)}"
    if own in ((), (1,)) and not block:
        return _parameter(c, i)
    axis = c.axis(axis, len(shape))
    extent = shape[axis]
    if not isinstance(extent, int):
        support(False, "its scales are along the batch, whose size is open")
    elif block:
        blocks = (*shape[:axis], -(-extent // max(1, block)), *shape[axis + 1:])
        c.expect(block > 0 and own == blocks, f"{fits} with block_size={block}")
        support(extent <= MAX_TABLE, f"its axis of {extent:,} elements is too long for blocks")
        return pick(c.named(f"{c.out}.blocks{i}"), c.value(i), {axis: np.arange(extent) // block})
    c.expect(own == (extent,), f"{fits} along axis {axis}")
    return _parameter(c, i, (extent, *(1,) * (len(shape) - 1 - axis)))


def _quantize(c: Call) -> str:
    """By division, in float32; the result's type is that of the zero point, or an attribute."""
    x = of(c, c.value(0), ("f32", "i32"))
    x = c.emit("cast", [x], "float", to="f32") if c.dtype(x) == "i32" else x
    number, precision = c.attribute("output_dtype", "i", 0), c.attribute("precision", "i", 0) or 1
    support(DTYPES.get(precision) in ("f32", *HALVES), f"precision={precision} is not supported")
    given = DTYPES.get(number or 2, "")
    zero = _beside(c, 2, c.shape(x)) if c.has(2) else ""
    dtype = c.dtype(zero) if zero else given
    support(dtype in WORDS, f"its result's type, {number}, is not supported")
    c.expect(not number or dtype == given, f"output_dtype={number} is not the type of its zero point")
    steps = c.emit("div", [x, _beside(c, 1, c.shape(x))], "steps")
    return c.emit("saturated", [steps, zero or _zero(c, 2, dtype)], to=dtype)


def _dequantize(c: Call) -> str:
    """To float32, also where `output_dtype` is a half: rounded where the model's outputs are halves."""
    c.attribute("output_dtype", "i")
    x = c.value(0)
    x = of(c, x, ("f32",) if c.node.input[0] in c.scope.narrow and c.dtype(x) == "f32" else (*WORDS, "i32"))
    zero = _beside(c, 2, c.shape(x)) if c.has(2) else _zero(c, 2, c.dtype(x))
    return _scaled(c, _centred(c, x, zero, "centred"), _beside(c, 1, c.shape(x)))


def _quantize_by_range(c: Call) -> tuple[str, str, str]:
    """To uint8 by the range of the values and zero; the scale is 1 where all are zero."""
    x = of(c, c.value(0), ("f32",))
    c.expect(len(c.node.output) == 3, f"has {len(c.node.output)} outputs, expected 3")
    _, second, third = (c.named(o or c.out) for o in c.node.output)
    axes = along(c, x, range(len(c.shape(x))))
    high, low = (reduced(c.named(f"{c.out}.{op}"), op, x, axes, False) for op in ("reduce_max", "reduce_min"))
    high, low = c.emit("relu", [high], "high"), c.emit("clip", [low], "low", low=-np.inf, high=0.0)
    scale = second.emit("byte_scale", [high, low])
    least = c.emit("div", [c.emit("neg", [low], "least"), scale], "least")
    zero = third.emit("saturated", [least, _zero(c, 3, "u8")], to="u8")
    return c.emit("saturated", [c.emit("div", [x, scale], "steps"), zero], to="u8"), scale, zero


# ---- contractions


def _operand(c: Call, i: int, zero: int, shape: Sequence[Extent] = ()) -> str:
    """Operand i without the zero point that operand `zero` may give, or a vector of them seen in `shape`."""
    x = of(c, c.value(i), BYTES)
    return _centred(c, x, _parameter(c, zero, shape) if c.has(zero) else _zero(c, zero, c.dtype(x)), f"x{i}")


def _ratio(c: Call, first: str, second: str, result: int) -> str:
    """first * second / the scale of the result."""
    scale = c.emit("mul", [first, second], "scales")
    return c.emit("div", [scale, _parameter(c, result)], "ratio")


def _outer(c: Call, w: int) -> tuple[Extent, ...]:
    """The shape of a number for each of a convolution's filters, operand w, beside its result."""
    return (*c.shape(c.operand(w))[:1], *(1,) * (len(c.shape(c.operand(0))) - 2))


def _conv_integer(c: Call) -> str:
    return convolution(c, _operand(c, 0, 2), _operand(c, 1, 3, (*_outer(c, 1), 1)))


def _qlinear_conv(c: Call) -> str:
    outer = _outer(c, 3)
    y = convolution(c, _operand(c, 0, 2), _operand(c, 3, 5, (*outer, 1)), "sum")
    if c.has(8):
        c.expect(c.shape(c.operand(8)) == outer[:1], f"its bias has the shape {list(c.shape(c.operand(8)))}")
        y = c.emit("add", [y, c.emit("reshape", [c.value(8)], "bias", shape=outer)], "biased")
    ratio = _ratio(c, _parameter(c, 1), _parameter(c, 4, outer), 6)
    return _narrow(c, _scaled(c, y, ratio, "steps"), 7, c.dtype(c.value(7)))


def _rows(c: Call, i: int) -> tuple[Extent, ...]:
    """The shape of a vector of numbers for the rows of a matrix."""
    return (*c.shape(c.operand(i)), 1)


def _matmul_integer(c: Call) -> str:
    return product(c, _operand(c, 0, 2, _rows(c, 2) if c.has(2) else ()), _operand(c, 1, 3))


def _qlinear_matmul(c: Call) -> str:
    y = product(c, _operand(c, 0, 2, _rows(c, 2)), _operand(c, 3, 5), "sum")
    ratio = _ratio(c, _parameter(c, 1, _rows(c, 1)), _parameter(c, 4), 6)
    return _narrow(c, _scaled(c, y, ratio, "steps"), 7, c.dtype(c.value(7)))


def _qgemm(c: Call) -> str:
    """Quantized where it is given the scale of the result, else a float."""
    c.expect(all(len(c.shape(c.operand(i))) == 2 for i in (0, 3)), "its operands are no matrices")
    x, w = _operand(c, 0, 2), _operand(c, 3, 5, _rows(c, 5) if c.flag("transB") else ())
    x, w = (c.emit("transpose", [v], "turned", perm=(1, 0)) if c.flag(name) else v
            for v, name in ((x, "transA"), (w, "transB")))
    y = c.emit("matmul", [x, w], "sum")
    if c.has(6):
        shape, bias = c.shape(y), c.value(6)
        y = c.emit("add", [y, bias], "biased")
        c.expect(c.shape(y) == shape, f"its bias of shape {list(c.shape(bias))} doesn't fit {list(shape)}")
    first = c.emit("scale", [_parameter(c, 1)], "alpha", factor=c.attribute("alpha", "f", 1.0))
    if not c.has(7):
        return _scaled(c, y, c.emit("mul", [first, _parameter(c, 4)], "scales"))
    ratio = _ratio(c, first, _parameter(c, 4), 7)
    return _narrow(c, _scaled(c, y, ratio, "steps"), 8, c.dtype(c.value(0)))


# ---- of com.microsoft: elementwise, per tensor


def _qlinear_add(c: Call) -> str:
    scale = _parameter(c, 6)
    return _pair(c, c.emit("add", [_real(c, 0, scale), _real(c, 3, scale)], "sum"))


def _qlinear_mul(c: Call) -> str:
    y = c.emit("mul", [_operand(c, 0, 2), _operand(c, 3, 5)], "product")
    return _pair(c, _scaled(c, y, _ratio(c, _parameter(c, 1), _parameter(c, 4), 6), "steps"))


def _by_reals(function: Callable[[Call, str], str]) -> Row:
    """What a function makes of the operand as floats, quantized."""
    def convert(c: Call) -> str:
        y = function(c, _real(c, 0))
        return _narrow(c, c.emit("div", [y, _parameter(c, 3)], "steps"), 4, c.dtype(c.value(0)))
    return Row(convert, 4, 5)


def _unary(op: str, **attributes: float) -> Row:
    """A function of floats; attributes with their defaults."""
    return _by_reals(lambda c, x: c.emit(op, [x], op, **{name: c.attribute(name, "f", default)
                                                         for name, default in attributes.items()}))


def _average(c: Call, x: str) -> str:
    support(not c.flag("channels_last"), "channels_last=1 is not supported")
    return average(c, x, "average")


def _softmax(c: Call, x: str) -> str:
    """Its attribute says from which opset it comes."""
    return along_one(c, "softmax", x, c.attribute("opset", "i", 13), "real_softmax")


def _qlinear_global_pool(c: Call) -> str:
    x, rank = _operand(c, 0, 2), len(c.shape(c.value(0)))
    axes = along(c, x, range(1, rank - 1) if c.flag("channels_last") else range(2, rank))
    total = c.emit("reduce_sum", [x], "sum", axes=axes, keepdims=True)
    count = float(np.prod([float(e) for a, e in enumerate(c.shape(x)) if a in axes]))
    part = c.emit("scale", [_parameter(c, 3)], "part", factor=count)
    ratio = c.emit("div", [_parameter(c, 1), part], "ratio")
    return _narrow(c, _scaled(c, total, ratio, "steps"), 4, c.dtype(c.value(0)))


def _qlinear_concat(c: Call) -> str:
    """The scale and the zero point of the result, then three operands for each part."""
    c.expect(len(c.node.input) % 3 == 2, f"has {len(c.node.input)} inputs, expected 2 and 3 for each part")
    scale, dtype, parts = _parameter(c, 0), c.dtype(c.value(1)), []
    for i in range(2, len(c.node.input), 3):
        own = c.named(f"{c.out}.part{i}")
        parts.append(_narrow(own, own.emit("div", [_real(own, i), scale], "steps"), 1, dtype))
    axis = c.axis(c.attribute("axis", "i", 0), len(c.shape(parts[0])))
    for part in parts:
        along(c, part, [axis])
    return c.emit("concat", parts, axis=axis)


ROWS: dict[str, Row] = {
    "QuantizeLinear": Row(_folding(_quantize), 2, 3, ("saturate",)),
    "DequantizeLinear": Row(_folding(_dequantize), 2, 3),
    "DynamicQuantizeLinear": Row(_quantize_by_range, 1, 1),
    "ConvInteger": Row(_conv_integer, 2, 4),
    "QLinearConv": Row(_qlinear_conv, 8, 9),
    "MatMulInteger": Row(_matmul_integer, 2, 4),
    "QLinearMatMul": Row(_qlinear_matmul, 8, 8),
    "com.microsoft.QuantizeLinear": Row(_folding(_quantize), 2, 3),
    "com.microsoft.DequantizeLinear": Row(_folding(_dequantize), 2, 3),
    "com.microsoft.QGemm": Row(_qgemm, 6, 9),
    "com.microsoft.QLinearAdd": Row(_qlinear_add, 7, 8),
    "com.microsoft.QLinearMul": Row(_qlinear_mul, 7, 8),
    "com.microsoft.QLinearSigmoid": _unary("sigmoid"),
    "com.microsoft.QLinearLeakyRelu": _unary("leaky_relu", alpha=0.01),
    "com.microsoft.QLinearAveragePool": _by_reals(_average),
    "com.microsoft.QLinearSoftmax": _by_reals(_softmax),
    "com.microsoft.QLinearGlobalAveragePool": Row(_qlinear_global_pool, 4, 5),
    "com.microsoft.QLinearConcat": Row(_qlinear_concat, 5, 1 << 16),
}
