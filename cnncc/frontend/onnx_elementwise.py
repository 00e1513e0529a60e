"""Importer rows of ONNX's elementwise ops. Before opset 7 `broadcast` and `axis` say how operands align."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import numpy as np

from cnncc.frontend.onnx_file import DTYPES, MAX_ELEMENTS, dtype_name
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.ir.scalars import FUNCTIONS
from cnncc.ir.signature import Array
from cnncc.ir.types import BYTES, FLOATS, HALVES, INTEGERS, NUMPY, name_of

OLD = ("consumed_inputs", "broadcast", "axis")
TRUTH = ("bool",)


def of(c: Call, x: str, dtypes: Collection[str] = FLOATS) -> str:
    """The operand, which must have one of these dtypes."""
    c.expect(c.dtype(x) in dtypes, f"it is not for {c.dtype(x)}")
    return x


def aligned(c: Call, x: str, w: str) -> str:
    """A second operand; that of old arithmetic has its dimensions below those of the first from `axis` on."""
    rank, shape = len(c.shape(x)), c.shape(w)
    if c.opset >= 7 or not c.flag("broadcast") or "axis" not in c.attributes:
        return w
    axis = c.axis(c.attribute("axis", "i"), rank)
    c.expect(axis + len(shape) <= rank, f"{list(shape)} at axis {axis} doesn't fit {list(c.shape(x))}")
    return c.emit("reshape", [w], "aligned", shape=(*shape, *(1,) * (rank - axis - len(shape))))


def row(op: str, inputs: int = 1, dtypes: Collection[str] = tuple(NUMPY), **attributes: float) -> Row:
    """An op of operands that broadcast, the first of these dtypes, and float attributes with defaults."""
    def convert(c: Call) -> str:
        x, *rest = (c.value(i) for i in range(inputs))
        given = {name: c.attribute(name, "f", default) for name, default in attributes.items()}
        y = c.emit(op, [of(c, x, dtypes), *(aligned(c, x, w) for w in rest)], **given)
        return broadcast(c, y)
    return Row(convert, inputs, inputs, OLD[:1] if inputs == 1 else OLD, counts=True)


def broadcast(c: Call, y: str) -> str:
    """The result of operands that broadcast, some of which may be as large as data say."""
    rank, shapes = len(c.shape(y)), [c.shape(c.operand(i)) for i in range(len(c.node.input))]
    for i, shape in enumerate(shapes):
        c.follows(i, range(rank - len(shape), rank))
    if known := c.scope.counted.get(c.out):
        for name, shape in zip(c.node.input, shapes, strict=True):
            at = known[0] - rank + len(shape)
            support(name in c.scope.counted or at < 0 or shape[at] == 1,
                    f"reads {name[:200]!r} beside another operand, of which data say how large it is")
    return y


def variadic(op: str, mean: bool = False) -> Row:
    """An op of any number of operands, folded from the left; for their mean the result is divided."""
    def convert(c: Call) -> str:
        count = len(c.node.input)
        x = c.value(0)
        for i in range(1, count):
            x = c.emit(op, [x, c.value(i)], f"{op}{i}" if i < count - 1 or mean else "")
        return c.emit("scale", [of(c, x)], factor=1.0 / count) if mean and count > 1 else x
    return Row(convert, 1, 1 << 20, OLD[:1])


def _clip(c: Call) -> str:
    """By attributes before opset 11, then by inputs; both bounds are optional."""
    x = c.value(0)
    dtype, none = NUMPY[c.dtype(x)], {i: _end(c, x, i) for i in (1, 2)}
    if c.opset >= 11 and any(c.has(i) and isinstance(c.operand(i), str) for i in none):
        ends = [c.value(i) if c.has(i) else c.const(np.array(end, dtype), f"bound{i}")
                for i, end in none.items()]
        c.expect(all(c.shape(e) in ((), (1,)) for e in ends), "its bounds are arrays")
        return c.emit("clip_to", [x, *ends])
    bounds: list[float] = []
    for (i, end), name in zip(none.items(), ("min", "max"), strict=True):
        bound = np.asarray(c.attribute(name, "f", end) if c.opset < 11 else
                           c.needed(i, "bound", dtype.name) if c.has(i) else end)
        c.expect(bound.size == 1 and not np.isnan(bound).any(), "its bounds are arrays or not a number")
        bounds.append(bound.reshape(()).item())
    if bounds == [*none.values()]:
        return x
    if bounds == [0, math.inf]:
        return c.emit("relu", [x])
    return c.emit("clip", [x], low=bounds[0], high=bounds[1])


def _end(c: Call, x: str, i: int) -> float:
    """The bound that bounds nothing: the least (i = 1) or the greatest number of a dtype."""
    if c.dtype(x) in FLOATS:
        return -math.inf if i == 1 else math.inf
    info = np.iinfo(NUMPY[c.dtype(x)])
    return info.min if i == 1 else info.max


def _prelu(c: Call) -> str:
    """The slope broadcasts to the input; before opset 7 it has one number per channel."""
    x, slope = of(c, c.value(0)), c.value(1)
    shape = c.shape(slope)
    if c.opset < 7 and len(shape) == 1 and shape != (1,):
        slope = c.emit("reshape", [slope], "slope", shape=(*shape, *(1,) * (len(c.shape(x)) - 2)))
    y = c.emit("prelu", [x, slope])
    c.expect(c.shape(y) == c.shape(x), f"a slope of {list(shape)} doesn't broadcast to {list(c.shape(x))}")
    return y


def _gelu(c: Call) -> str:
    form = c.attribute("approximate", "s", b"none")
    c.expect(form in (b"none", b"tanh"), f"approximate is {form[:60]!r}")
    return c.emit("gelu" if form == b"none" else "gelu_tanh", [of(c, c.value(0))])


def _power(c: Call) -> str:
    """Common constant exponents are products and roots; else the exponent takes the base's dtype."""
    x, w = c.value(0), c.operand(1)
    simple = {1: None, 2: "square", 3: "cube"} | ({0.5: "sqrt"} if c.dtype(x) in FLOATS else {})
    if not isinstance(w, str) and w.size == 1 and w.ndim <= len(c.shape(x)) and w.item() in simple:
        op = simple[w.item()]
        return c.emit(op, [x]) if op else x
    return _mixed(c, x, aligned(c, x, c.value(1)))


def _mixed(c: Call, x: str, w: str) -> str:
    """Powers of two dtypes: of integers to floats they are computed in floats."""
    own, other = c.dtype(x), c.dtype(w)
    if own == other:
        return c.emit("pow", [x, w])
    if own in FLOATS or other not in FLOATS:
        return c.emit("pow", [x, c.emit("cast", [w], "exponent", to=own)])
    return c.emit("cast", [c.emit("pow", [c.emit("cast", [x], "base", to=other), w], "power")], to=own)


def _mod(c: Call) -> str:
    x = c.value(0)
    fmod = c.flag("fmod")
    return c.emit("fmod" if fmod else "mod", [x, c.value(1)])


def _bit_shift(c: Call) -> str:
    way = c.attribute("direction", "s", b"")
    c.expect(way in (b"LEFT", b"RIGHT"), f"direction is {way[:60]!r}")
    return c.emit("shl" if way == b"LEFT" else "shr", [of(c, c.value(0), INTEGERS), c.value(1)])


def _cast(c: Call) -> str:
    """To a half: computed in f32, rounded where the model's outputs are halves."""
    number = c.attribute("to", "i", 0)
    support(number in DTYPES, f"casts to {dtype_name(number)} are not supported")
    x, to = c.value(0), "f32" if DTYPES[number] in HALVES else DTYPES[number]
    return broadcast(c, x if c.dtype(x) == to else c.emit("cast", [x], to=to))


def _bit_cast(c: Call) -> str:
    """The same bits read as another type of the same size: of integers and truth values that is a cast."""
    x, number = c.value(0), c.attribute("to", "i", 0)
    own, to = c.dtype(x), DTYPES.get(number, "")
    support(to and to not in HALVES, f"casts to {dtype_name(number)} are not supported")
    c.expect(BYTES[own] == BYTES[to], f"{own} and {to} differ in size")
    support(to != "bool", "not every byte is a truth value")
    bits = 8 * BYTES[own]
    support(own != "f32" or not c.scope.file.halves, "it may read the bits of a half")
    if own in FLOATS and to not in FLOATS:
        x, own = c.emit(f"bits{bits}", [x], "bits" if to[0] == "u" else ""), f"i{bits}"
    if to in FLOATS and own not in FLOATS:
        x = x if own[0] == "i" else c.emit("cast", [x], "bits", to=f"i{bits}")
        return c.emit(f"real{bits}", [x])
    return x if own == to else c.emit("cast", [x], to=to)


def _identity(c: Call) -> str | Array:
    x = c.operand(0)
    return x if not isinstance(x, str) else broadcast(c, x)


def _cast_like(c: Call) -> str | Array:
    other, constant = c.operand(1), c.operand(0)
    like = c.dtype(other) if isinstance(other, str) else name_of(other.dtype)
    if not isinstance(constant, str) and like in FLOATS:
        with np.errstate(over="ignore"):
            return constant.astype(NUMPY[like])
    x = c.value(0)
    return x if c.dtype(x) == like else c.emit("cast", [x], to=like)


def _is_inf(c: Call) -> str:
    return c.emit("isinf", [of(c, c.value(0))], positive=int(c.flag("detect_positive", True)),
                  negative=int(c.flag("detect_negative", True)))


def _dropout(c: Call) -> tuple[str, ...] | tuple[Array, ...]:
    """The operand, of which training drops a share, and a mask that keeps all."""
    support(not (c.has(2) and c.needed(2, "training_mode", "bool").any()),
            "training_mode is on: export the model for inference")
    x = c.operand(0)
    if not isinstance(x, str):
        return x, np.ones(x.shape, bool)
    ratio = c.attribute("ratio", "f", 0.5)
    if c.opset >= 12:
        ratio = float(c.needed(1, "ratio", "float32", "float64", "float16")) if c.has(1) else 0.5
    mask = c.named(c.node.output[1]) if c.wanted(1) else None
    if 0 < ratio < 1 and c.dtype(x) in FLOATS:
        x = c.emit("dropout", [x], ratio=ratio)
    return (x, mask.emit("fill", [], shape=c.shape(x), value=1, dtype="bool")) if mask else (x,)


ACTIVATIONS: dict[str, tuple[str, dict[str, float | None]]] = {
    **{name: (name, {}) for name in ("relu", "tanh", "sigmoid", "softsign", "softplus")},
    "leakyrelu": ("leaky_relu", {"alpha": 0.01}), "elu": ("elu", {"alpha": 1.0}),
    "thresholdedrelu": ("thresholded_relu", {"alpha": 1.0}),
    "hardsigmoid": ("hard_sigmoid", {"alpha": 0.2, "beta": 0.5}),
    "affine": ("affine", {"alpha": None, "beta": None}),
    "scaledtanh": ("scaled_tanh", {"alpha": None, "beta": None}),
    "clip": ("clip", {"low": None, "high": None})}
"""Of nodes that name them in an attribute: our op, its numbers with their defaults where there are some."""


def activation(c: Call, name: bytes, number: Callable[[str], float | None]) -> tuple[str, dict[str, Any]]:
    """Our op for an activation, and its attributes; `number` gives what the node says of one."""
    text = name.decode("utf-8", "replace")[:60]
    support(text.lower() in ACTIVATIONS, f"its activation {text!r} is not supported")
    op, defaults = ACTIVATIONS[text.lower()]
    given = {n: default if (own := number(n)) is None else own for n, default in defaults.items()}
    c.expect(None not in given.values(), f"the numbers of its activation {text!r} are missing")
    return op, {n: float(v) for n, v in given.items() if v is not None}


def _one_hot(c: Call) -> str:
    """A vector for each index, which counts from the end where it is negative; none fits one outside."""
    x = c.value(0)
    sizes = c.needed(1, "depth", "int64", "int32", "float32").reshape(-1)
    values = c.needed(2, "values", *(d.name for d in NUMPY.values()))
    c.expect(sizes.size == 1 and 1 <= sizes[0] <= MAX_ELEMENTS and values.shape == (2,),
             f"its depth is {sizes.tolist()[:9]}, its values have the shape {list(values.shape)}")
    rank, depth = len(c.shape(x)), int(sizes[0])
    axis = c.axis(c.attribute("axis", "i", -1), rank + 1)
    shape = (*c.shape(x)[:axis], 1, *c.shape(x)[axis:])
    support(axis or not isinstance(shape[1], str), "its new axis comes before the batch, whose size is open")
    x = c.emit("reshape", [x], "index", shape=shape)
    own = NUMPY[c.dtype(x)]
    c.spend(4 * depth * own.itemsize)
    numbers = np.arange(depth, dtype=own).reshape(-1, *(1,) * (rank - axis))
    hits = [c.emit("eq", [x, c.const(n, "number")], "hit") for n in (numbers, (numbers - depth).astype(own))]
    off, on = (c.const(v.reshape(()), "value") for v in values)
    return c.emit("where", [c.emit("or", hits, "hot"), on, off])


SAME = ("Exp", "Log", "Sqrt", "Floor", "Ceil", "Round", "Erf", "Sin", "Cos", "Tan", "Asin", "Acos", "Atan",
        "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Sigmoid", "Tanh", "Softplus", "Softsign", "Mish",
        "Reciprocal", "IsNaN")
"""Functions of floats that have the same name here."""
PAIRS = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Less": "lt", "LessOrEqual": "le",
         "Greater": "gt", "GreaterOrEqual": "ge", "Equal": "eq"}
LOGIC = {"And": "and", "Or": "or", "Xor": "xor", "Not": "invert"}
ROWS: dict[str, Row] = {
    **{name: row(name.lower(), dtypes=FLOATS) for name in SAME},
    **{name: row(op, 2) for name, op in PAIRS.items()},
    **{name: row(op, len(FUNCTIONS[op].args), TRUTH) for name, op in LOGIC.items()},
    **{f"Bitwise{name}": row(op, len(FUNCTIONS[op].args), INTEGERS) for name, op in LOGIC.items()},
    "Abs": row("abs"), "Neg": row("neg"), "Sign": row("sign"), "Relu": row("relu"),
    "BitCast": Row(_bit_cast, 1, 1),
    "BitShift": Row(_bit_shift, 2, 2),
    "OneHot": Row(_one_hot, 3, 3),
    "Cast": Row(_cast, 1, 1, ("saturate", "round_mode"), counts=True),
    "CastLike": Row(_cast_like, 2, 2, ("saturate", "round_mode")),
    "Celu": row("celu", dtypes=FLOATS, alpha=1.0),
    "Clip": Row(_clip, 1, 3, OLD[:1]),
    "Dropout": Row(_dropout, 1, 3, ("ratio", "seed", "is_test")),
    "Elu": row("elu", dtypes=FLOATS, alpha=1.0),
    "Gelu": Row(_gelu, 1, 1),
    "HardSigmoid": row("hard_sigmoid", dtypes=FLOATS, alpha=0.2, beta=0.5),
    "HardSwish": Row(lambda c: c.emit("hard_swish", [of(c, c.value(0))], alpha=1 / 6, beta=0.5), 1, 1),
    "Identity": Row(_identity, 1, 1, counts=True),
    "IsInf": Row(_is_inf, 1, 1),
    "LeakyRelu": row("leaky_relu", dtypes=FLOATS, alpha=0.01),
    "Max": variadic("max"), "Mean": variadic("add", mean=True), "Min": variadic("min"),
    "Sum": variadic("add"),
    "Mod": Row(_mod, 2, 2), "Pow": Row(_power, 2, 2, OLD), "PRelu": Row(_prelu, 2, 2, OLD[:1]),
    "Selu": row("selu", dtypes=FLOATS, alpha=1.67326319217681884765625, gamma=1.05070102214813232421875),
    "Shrink": row("shrink", dtypes=FLOATS, bias=0.0, lambd=0.5),
    "Swish": row("swish", dtypes=FLOATS, alpha=1.0),
    "ThresholdedRelu": row("thresholded_relu", dtypes=FLOATS, alpha=1.0),
    "Where": row("where", 3, TRUTH),
}
