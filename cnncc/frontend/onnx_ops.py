"""The importer's table: one row for each ONNX op."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from cnncc.frontend.external import Array
from cnncc.frontend.onnx_moves import MOVES
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_resize import RESIZE
from cnncc.frontend.onnx_shapes import extents
from cnncc.frontend.onnx_window import average_pool, max_pool, window
from cnncc.ir.types import Extent, product

Shape = tuple[Extent, ...]


def _fixed(extents: Iterable[Extent]) -> int:
    """The product of all but the open ones."""
    return product([e for e in extents if isinstance(e, int)])


def _conv(c: Call) -> str:
    x, w = c.value(0), c.needed(1, "weight")
    shape, group = c.shape(x), c.attribute("group", "i", 1)
    c.expect(w.ndim == len(shape), f"its weight has the shape {list(w.shape)}, its input {list(shape)}")
    _, attrs = window(c, x, w.shape[2:])
    c.expect(group > 0 and w.shape[0] % group == 0 and 0 not in w.shape and shape[1] == w.shape[1] * group,
             f"an input of {shape[1]} channels and a weight of shape {list(w.shape)} don't fit group={group}")
    bias = c.needed(2, "bias") if c.has(2) else np.zeros(w.shape[0], np.float32)
    c.expect(bias.shape == w.shape[:1], f"its bias has the shape {list(bias.shape)}, expected {[w.shape[0]]}")
    bias = bias.reshape(-1, *(1,) * (len(shape) - 2))
    y = c.emit("conv", [x, c.value(1)], "conv" if bias.any() else "", group=group, **attrs)
    return c.emit("add", [y, c.const(bias, "bias")]) if bias.any() else y


def _batch_norm(c: Call) -> str:
    support(not c.flag("training_mode") and c.flag("spatial", True),
            "training_mode=1 and spatial=0 are not supported: export the model for inference")
    x = c.value(0)
    shape = c.shape(x)
    vectors = [c.needed(i, what) for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)]
    c.expect(len(shape) > 1 and all(v.shape == shape[1:2] for v in vectors),
             f"its parameters have the shapes {[list(v.shape) for v in vectors]}, its input {list(shape)}")
    gamma, beta, mean, variance = (v.astype(np.float64) for v in vectors)
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + c.attribute("epsilon", "f", 1e-5))
        parts = [(scale.astype(np.float32), "scale"), ((beta - mean * scale).astype(np.float32), "shift")]
    ones = (1,) * (len(shape) - 2)
    return c.emit("batch_norm", [x, *(c.const(v.reshape(-1, *ones), step) for v, step in parts)])


def _clip(c: Call) -> str:
    bounds: list[float] = []
    for i, name, default in ((1, "min", -math.inf), (2, "max", math.inf)):
        bound = np.asarray(c.attribute(name, "f", default) if c.opset < 11 else
                           c.needed(i, "bound") if c.has(i) else default)
        c.expect(bound.size == 1 and not np.isnan(bound).any(), "its bounds are arrays or not a number")
        bounds.append(float(bound.reshape(())))
    if bounds == [-math.inf, math.inf]:
        return c.value(0)
    if bounds == [0, math.inf]:
        return c.emit("relu", [c.value(0)])
    return c.emit("clip", [c.value(0)], low=bounds[0], high=bounds[1])


def _reduce_mean(c: Call) -> str:
    x = c.value(0)
    shape, noop, keepdims = c.shape(x), c.flag("noop_with_empty_axes"), c.flag("keepdims", True)
    given = c.attribute("axes", "ints", ()) if c.opset < 18 else \
        c.needed(1, "axes", "int64").reshape(-1).tolist() if c.has(1) else ()
    axes = tuple(sorted(c.axis(a, len(shape)) for a in given)) or (() if noop else tuple(range(len(shape))))
    c.expect(len(set(axes)) == len(axes), f"axes {list(given)} name one dimension twice")
    support(all(isinstance(shape[a], int) for a in axes), "it reduces over the batch, whose size is open")
    if not axes:
        return x
    if keepdims or len(axes) < len(shape):
        return c.emit("reduce_mean", [x], axes=axes, keepdims=keepdims)
    return c.emit("reshape", [c.emit("reduce_mean", [x], "mean", axes=axes, keepdims=True)], shape=())


def _global(op: str) -> Row:
    """Over all that comes after the channels."""
    def convert(c: Call) -> str:
        x = c.value(0)
        rank = len(c.shape(x))
        c.expect(rank > 2, f"its input has {rank} dimensions, expected at least 3")
        return c.emit(op, [x], axes=tuple(range(2, rank)), keepdims=True)
    return Row(convert, 1, 1)


def _shaped(c: Call, x: str | Array, shape: Shape) -> str | Array:
    if isinstance(x, str):
        return x if shape == c.shape(x) else c.emit("reshape", [x], shape=shape)
    c.expect(_fixed(shape) == x.size, f"can't reshape {list(x.shape)} to {list(shape)}")
    return x.reshape([int(e) for e in shape])


def _target(c: Call, old: Shape, wanted: list[Extent], allowzero: bool) -> Shape:
    """The shape that a Reshape asks for: 0 copies an extent, -1 is what is left."""
    change = f"to reshape {list(old)} to {wanted}"
    wrong = [w for i, w in enumerate(wanted) if isinstance(w, int)
             and (w < -1 or (w == 0 and (allowzero or i >= len(old))))]
    c.expect(not wrong and wanted.count(-1) <= 1, f"{change} is not possible")
    new = [old[i] if w == 0 else w for i, w in enumerate(wanted)]
    fixed, total = _fixed(e for e in new if e != -1), _fixed(old)
    if old and isinstance(old[0], str) and new[:1] != [old[0]]:
        support(new[:1] == [-1] and fixed == total, f"{change} fixes the batch, which the input leaves open, "
                "or mixes it with other dimensions: export the model with a batch of fixed size")
        new[0] = old[0]
    elif -1 in new:
        c.expect(fixed and total % fixed == 0, f"{change} is not possible")
        new[new.index(-1)] = total // fixed
    return tuple(new)


def _reshape(c: Call) -> str | Array:
    x = c.operand(0)
    wanted = extents(c, 1, "target to reshape to", c.shape(x))
    return _shaped(c, x, _target(c, c.shape(x), wanted, c.flag("allowzero")))


def _flatten(c: Call) -> str | Array:
    """To [extents before axis, extents from axis on], each as one number."""
    x, axis = c.operand(0), c.attribute("axis", "i", 1)
    old = c.shape(x)
    axis = axis if axis == len(old) else c.axis(axis, len(old))
    batch = [e for e in old if isinstance(e, str)]
    support(not batch or (_fixed(old[:axis]) == 1 and set(batch).isdisjoint(old[axis:])),
            f"flattening {list(old)} at axis {axis} mixes the batch with other dimensions")
    return _shaped(c, x, (batch[0] if batch else _fixed(old[:axis]), _fixed(old[axis:])))


def _gemm(c: Call) -> str:
    x, w = c.value(0), c.needed(1, "second matrix")
    turned, alpha, beta = c.flag("transB"), c.attribute("alpha", "f", 1.0), c.attribute("beta", "f", 1.0)
    support(not c.flag("transA"), "transA=1 is not supported")
    support(len(c.shape(x)) == w.ndim == 2, f"its inputs have the shapes {list(c.shape(x))} and "
            f"{list(w.shape)}; only two dimensions are supported")
    c.expect(c.opset >= 11 or c.has(2) or c.node.op_type == "MatMul", "input 2 is missing")
    w = w if turned else w.T
    c.expect(c.shape(x)[1] == w.shape[1], f"can't multiply {list(c.shape(x))} by {list(w.T.shape)}")
    bias = c.needed(2, "bias") if c.has(2) and beta != 0 else np.zeros(1, np.float32)
    with np.errstate(all="ignore"):
        weight = c.value(1) if turned and alpha == 1 else c.const(w * np.float32(alpha), "weight")
        scaled = bias * np.float32(beta)
    y = c.emit("linear", [x, weight], "linear" if bias.any() else "")
    if not bias.any():
        return y
    rows, columns = (1, 1, *bias.shape)[-2:]
    c.expect(bias.ndim <= 2 and rows in (1, c.shape(y)[0]) and columns in (1, len(w)),
             f"its bias of shape {list(bias.shape)} doesn't broadcast to {list(c.shape(y))}")
    return c.emit("add", [y, c.value(2) if beta == 1 else c.const(scaled, "bias")])


def _softmax(c: Call) -> str:
    x = c.value(0)
    shape = c.shape(x)
    axis = c.axis(c.attribute("axis", "i", -1 if c.opset >= 13 else 1), len(shape))
    # Before opset 13 it is over all dimensions from axis on.
    over = [axis] if c.opset >= 13 else [a for a in range(axis, len(shape)) if shape[a] != 1] or [axis]
    support(all(isinstance(shape[a], int) for a in over), "it normalises over the batch")
    if len(over) == 1:
        return c.emit("softmax", [x], axis=over[0])
    flat = c.emit("reshape", [x], "flat", shape=(*shape[:axis], _fixed(shape[axis:])))
    return c.emit("reshape", [c.emit("softmax", [flat], "softmax", axis=axis)], shape=shape)


def _dropout(c: Call) -> str | Array:
    support(not (c.has(2) and c.needed(2, "training_mode", "bool").any()),
            "training_mode is on: export the model for inference")
    return c.operand(0)


def _constant(c: Call) -> Array:
    c.expect(len(c.attributes) == 1, f"has {len(c.attributes)} attributes, expected one")
    name = next(iter(c.attributes))
    if name == "value":
        return c.scope.file.array(c.attribute(name, "t"))
    forms = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
    support(name in forms, f"attribute {name[:60]!r} is not supported")
    return np.array(c.attribute(name, forms[name]), np.float32 if "float" in name else np.int64)


def _elementwise(op: str, inputs: int = 2) -> Row:
    return Row(lambda c: c.emit(op, [c.value(i) for i in range(inputs)]), inputs, inputs)


ROWS = {
    **MOVES, **RESIZE,
    "Add": _elementwise("add"),
    "AveragePool": Row(average_pool, 1, 1),
    "BatchNormalization": Row(_batch_norm, 5, 5, ("momentum",)),
    "Clip": Row(_clip, 1, 3),
    "Constant": Row(_constant, 0, 0),
    "Conv": Row(_conv, 2, 3),
    "Div": _elementwise("div"),
    "Dropout": Row(_dropout, 1, 3, ("ratio", "seed")),
    "Exp": _elementwise("exp", 1),
    "Flatten": Row(_flatten, 1, 1),
    "Gemm": Row(_gemm, 2, 3),
    "GlobalAveragePool": _global("reduce_mean"),
    "GlobalMaxPool": _global("reduce_max"),
    "Identity": Row(lambda c: c.operand(0), 1, 1),
    "MatMul": Row(_gemm, 2, 2),
    "MaxPool": Row(max_pool, 1, 1, ("storage_order",)),
    "Mul": _elementwise("mul"),
    "ReduceMean": Row(_reduce_mean, 1, 2),
    "Relu": _elementwise("relu", 1),
    "Reshape": Row(_reshape, 2, 2),
    "Softmax": Row(_softmax, 1, 1),
    "Sub": _elementwise("sub"),
}
