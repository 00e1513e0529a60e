"""The importer's table: one row for each ONNX op."""

from __future__ import annotations

import math

import numpy as np

from cnncc.frontend.onnx_file import DTYPES, Array, dtype_name
from cnncc.frontend.onnx_node import FLOAT, FLOATS, INT, INTS, TENSOR, Call, Refused, Row
from cnncc.frontend.onnx_window import average, window
from cnncc.ir.types import Extent, product

LOWEST = float(np.finfo(np.float32).min)


def _channels(vector: Array, rank: int) -> Array:
    """[C] as [C, 1, ...], to broadcast against a value of that rank."""
    return vector.reshape(-1, *(1,) * (rank - 2))


def _conv(c: Call) -> str:
    x, w = c.value(0), c.needed(1, "weight")
    spatial, shape, group = c.spatial(x), c.shape(x), c.integer("group", 1)
    if w.ndim != len(shape):
        raise c.wrong(f"its weight has the shape {list(w.shape)}, its input {list(shape)}")
    if group < 1 or w.shape[0] % group or 0 in w.shape or shape[1] != w.shape[1] * group:
        raise c.wrong(f"an input of {shape[1]} channels and a weight of shape {list(w.shape)} don't fit "
                      f"group={group}")
    if c.sizes("kernel_shape", len(spatial), 1, w.shape[2:]) != w.shape[2:]:
        raise c.wrong(f"its kernel_shape is not that of its weight, {list(w.shape[2:])}")
    win = window(c, w.shape[2:], spatial)
    bias = c.needed(2, "bias") if c.has(2) else np.zeros(w.shape[0], np.float32)
    if bias.shape != w.shape[:1]:
        raise c.wrong(f"its bias has the shape {list(bias.shape)}, expected {[w.shape[0]]}")
    y = c.emit("conv", [x, c.value(1)], "conv" if bias.any() else "", group=group, **win.attrs)
    return c.emit("add", [y, c.const(_channels(bias, len(shape)), "bias")]) if bias.any() else y


def _max_pool(c: Call) -> str:
    x = c.value(0)
    spatial = c.spatial(x)
    kernel = c.sizes("kernel_shape", len(spatial), 1, None)
    win = window(c, kernel, spatial, ceil=c.flag("ceil_mode", False))
    if any(win.begin) or any(win.end):
        win.counts(c, pads=False)       # refuses windows that lie wholly in the padding
    return c.emit("max_pool", [x], kernel=kernel, **win.attrs)


def _batch_norm(c: Call) -> str:
    if c.flag("training_mode", False) or not c.flag("spatial", True):
        raise Refused("training_mode=1 and spatial=0 are not supported: export the model for inference")
    x = c.value(0)
    shape = c.shape(x)
    names = ("scale", "bias", "mean", "variance")
    vectors = [c.needed(i, what).astype(np.float64) for i, what in enumerate(names, 1)]
    if len(shape) < 2 or any(v.shape != shape[1:2] for v in vectors):
        raise c.wrong(f"its parameters have the shapes {[list(v.shape) for v in vectors]}, its input "
                      f"{list(shape)}")
    gamma, beta, mean, variance = vectors
    with np.errstate(all="ignore"):
        scale = gamma / np.sqrt(variance + c.number("epsilon", 1e-5))
        shift = (beta - mean * scale).astype(np.float32)
        scale = scale.astype(np.float32)
    parts = [c.const(_channels(v, len(shape)), step) for v, step in ((scale, "scale"), (shift, "shift"))]
    return c.emit("batch_norm", [x, *parts])


def _clip(c: Call) -> str:
    if c.opset < 11:
        low, high = c.number("min", LOWEST), c.number("max", -LOWEST)
    else:
        bounds = [c.needed(i, "bound") if c.has(i) else np.array(v) for i, v in ((1, LOWEST), (2, -LOWEST))]
        if any(b.size != 1 for b in bounds):
            raise c.wrong("its bounds must be single numbers")
        low, high = (float(b.reshape(())) for b in bounds)
    if math.isnan(low) or math.isnan(high):
        raise c.wrong("a bound is not a number")
    if low <= LOWEST and high >= -LOWEST:
        return c.value(0)
    if low == 0 and high >= -LOWEST:
        return c.emit("relu", [c.value(0)])
    return c.emit("clip", [c.value(0)], low=low if low > LOWEST else -math.inf,
                  high=high if high < -LOWEST else math.inf)


def _mean(c: Call, x: str, axes: tuple[int, ...], keepdims: bool, op: str = "reduce_mean") -> str:
    shape = c.shape(x)
    if any(isinstance(shape[a], str) for a in axes):
        raise Refused("it reduces over the batch, whose size is not fixed")
    if not axes:
        return x
    if keepdims or len(axes) < len(shape):
        return c.emit(op, [x], axes=axes, keepdims=keepdims)
    return c.emit("reshape", [c.emit(op, [x], "mean", axes=axes, keepdims=True)], shape=())


def _reduce_mean(c: Call) -> str:
    x = c.value(0)
    rank = len(c.shape(x))
    noop, keepdims, given = c.flag("noop_with_empty_axes", False), c.flag("keepdims", True), None
    if c.opset < 18:
        given = c.ints("axes")
    elif c.has(1):
        given = tuple(c.needed(1, "axes", "int64").reshape(-1).tolist())
    if not given and noop:
        return x
    axes = tuple(c.axis(a, rank) for a in given) if given else tuple(range(rank))
    if len(set(axes)) != len(axes):
        raise c.wrong(f"axes {list(given or ())} name one dimension twice")
    return _mean(c, x, tuple(sorted(axes)), keepdims)


def _global(op: str, c: Call) -> str:
    x = c.value(0)
    return _mean(c, x, tuple(range(2, 2 + len(c.spatial(x)))), True, op)


def _reshape_to(c: Call, x: str, shape: tuple[Extent, ...], step: str = "") -> str:
    return x if shape == c.shape(x) else c.emit("reshape", [x], step, shape=shape)


def _target(c: Call, old: tuple[Extent, ...], wanted: list[int], allowzero: bool) -> tuple[Extent, ...]:
    """The shape that a Reshape asks for: 0 copies an extent, -1 is what is left."""
    wrong = [w for i, w in enumerate(wanted) if w < -1 or (w == 0 and (allowzero or i >= len(old)))]
    if wrong or wanted.count(-1) > 1:
        raise c.wrong(f"can't reshape {list(old)} to {wanted}")
    new: list[Extent] = [old[i] if w == 0 else w for i, w in enumerate(wanted)]
    fixed = product([e for e in new if isinstance(e, int) and e != -1])
    total = product([e for e in old if isinstance(e, int)])
    batch = old[0] if old and isinstance(old[0], str) else None
    if batch is not None and batch not in new:
        if -1 not in new:
            raise Refused(f"its shape {wanted} fixes the batch, which the input leaves open: export the "
                          "model with a batch of fixed size")
        if new[0] != -1 or fixed != total:
            raise Refused(f"reshaping {list(old)} to {wanted} mixes the batch with other dimensions")
        new[0] = batch
    elif -1 in new:
        if not fixed or total % fixed:
            raise c.wrong(f"can't reshape {list(old)} to {wanted}")
        new[new.index(-1)] = total // fixed
    if batch is not None and new[0] != batch:
        raise Refused(f"reshaping {list(old)} to {wanted} moves the batch from the first axis")
    return tuple(new)


def _reshape(c: Call) -> str | Array:
    wanted: list[int] = c.needed(1, "shape", "int64").reshape(-1).tolist()
    if len(wanted) > 64:
        raise c.wrong(f"a shape of {len(wanted)} dimensions is absurd")
    allowzero, array = c.flag("allowzero", False), c.constant(0)
    if array is not None:
        shape = _target(c, array.shape, wanted, allowzero)
        if product([int(e) for e in shape]) != array.size:
            raise c.wrong(f"can't reshape {list(array.shape)} to {wanted}")
        return array.reshape([int(e) for e in shape])
    x = c.value(0)
    return _reshape_to(c, x, _target(c, c.shape(x), wanted, allowzero))


def _flat(c: Call, old: tuple[Extent, ...], axis: int) -> tuple[Extent, ...]:
    """[extents before axis, extents from axis on], each as one number."""
    parts: list[Extent] = []
    for part in (old[:axis], old[axis:]):
        size = product([e for e in part if isinstance(e, int)])
        symbols = [e for e in part if isinstance(e, str)]
        if symbols and (size != 1 or parts):
            raise Refused(f"flattening {list(old)} at axis {axis} mixes the batch with other dimensions")
        parts.append(symbols[0] if symbols else size)
    return tuple(parts)


def _flatten(c: Call) -> str | Array:
    array = c.constant(0)
    old = array.shape if array is not None else c.shape(c.value(0))
    axis = c.integer("axis", 1)
    if not -len(old) <= axis <= len(old):
        raise c.wrong(f"axis {axis} is outside of the {len(old)} dimensions of its input")
    shape = _flat(c, old, axis + len(old) if axis < 0 else axis)
    return array.reshape([int(e) for e in shape]) if array is not None else _reshape_to(c, c.value(0), shape)


def _matrix(c: Call, i: int) -> Array:
    w = c.needed(i, "second matrix")
    if w.ndim != 2 or 0 in w.shape:
        raise Refused(f"its second matrix has the shape {list(w.shape)}; only two dimensions are supported")
    return w


def _scaled(array: Array, factor: float) -> Array:
    with np.errstate(all="ignore"):
        return array if factor == 1 else (array * np.float64(factor)).astype(np.float32)


def _gemm(c: Call) -> str:
    x, w = c.value(0), _matrix(c, 1)
    if c.flag("transA", False):
        raise Refused("transA=1 is not supported")
    if not c.flag("transB", False):
        w = w.T
    alpha, beta = c.number("alpha", 1.0), c.number("beta", 1.0)
    name = c.value(1) if w is c.constant(1) and alpha == 1 else c.const(_scaled(w, alpha), "weight")
    if c.opset < 11 and not c.has(2):
        raise c.wrong("input 2 is missing")
    if len(c.shape(x)) != 2 or c.shape(x)[1] != w.shape[1]:
        raise c.wrong(f"its input has the shape {list(c.shape(x))}, expected [.., {w.shape[1]}]")
    bias = c.constant(2) if c.has(2) else None
    if not c.has(2) or beta == 0 or (bias is not None and not bias.any()):
        return c.emit("linear", [x, name])
    addend = c.value(2)
    if beta != 1:
        addend = c.emit("scale", [addend], "scaled", factor=beta) if bias is None \
            else c.const(_scaled(bias, beta), "bias")
    y = c.emit("linear", [x, name], "linear")
    shape = c.shape(addend)
    if len(shape) > 2 or any(e not in (1, s) for e, s in zip(shape[::-1], c.shape(y)[::-1], strict=False)):
        raise c.wrong(f"its bias of shape {list(shape)} doesn't broadcast to {list(c.shape(y))}")
    return c.emit("add", [y, addend])


def _matmul(c: Call) -> str:
    x, w = c.value(0), _matrix(c, 1)
    if len(c.shape(x)) != 2:
        raise Refused(f"its input has the shape {list(c.shape(x))}; only two dimensions are supported")
    if c.shape(x)[1] != w.shape[0]:
        raise c.wrong(f"can't multiply {list(c.shape(x))} by {list(w.shape)}")
    return c.emit("linear", [x, c.const(w.T, "weight")])


def _softmax(c: Call) -> str:
    x = c.value(0)
    shape = c.shape(x)
    axis = c.axis(c.integer("axis", -1 if c.opset >= 13 else 1), len(shape))
    flat = [a for a in range(axis, len(shape)) if shape[a] != 1] or [axis]
    if any(isinstance(shape[a], str) for a in ([axis] if c.opset >= 13 else flat)):
        raise Refused("it normalises over the batch")
    if c.opset >= 13 or len(flat) == 1:
        return c.emit("softmax", [x], axis=axis if c.opset >= 13 else flat[0])
    # before opset 13: over all dimensions from axis on
    rows = (*shape[:axis], product([int(e) for e in shape[axis:]]))
    y = c.emit("softmax", [_reshape_to(c, x, rows, "flat")], "softmax", axis=axis)
    return c.emit("reshape", [y], shape=shape)


def _same(c: Call) -> str | Array:
    array = c.constant(0)
    return array if array is not None else c.value(0)


def _dropout(c: Call) -> str | Array:
    if c.has(2) and c.needed(2, "training_mode", "bool").any():
        raise Refused("training_mode is on: export the model for inference")
    return _same(c)


def _constant(c: Call) -> Array:
    if len(c.attributes) != 1:
        raise c.wrong(f"has {len(c.attributes)} attributes, expected one")
    name, a = next(iter(c.attributes.items()))
    forms = {"value": TENSOR, "value_float": FLOAT, "value_floats": FLOATS, "value_int": INT,
             "value_ints": INTS}
    if name not in forms:
        raise Refused(f"attribute {name[:60]!r} is not supported")
    c.attribute(name, forms[name])
    if name == "value":
        if a.t.data_type not in DTYPES:
            raise Refused(f"its type is {dtype_name(a.t.data_type)}")
        return c.scope.file.array(a.t)
    value = {FLOAT: a.f, INT: a.i, FLOATS: a.floats, INTS: a.ints}[forms[name]]
    return np.array(value, np.float32 if "float" in name else np.int64)


def _transpose(c: Call) -> Array:
    array = c.constant(0)
    if array is None:
        raise Refused("only constants can be transposed yet")
    perm = c.ints("perm") or tuple(reversed(range(array.ndim)))
    if sorted(perm) != list(range(array.ndim)):
        raise c.wrong(f"perm {list(perm)[:20]} is no order of the {array.ndim} dimensions of its input")
    return array.transpose(perm)


def _cast(c: Call) -> str | Array:
    to, array = c.integer("to", 1), c.constant(0)
    if to not in DTYPES or (array is None and to != 1):
        raise Refused(f"casting to {dtype_name(to)} is not supported")
    if array is None:
        return c.value(0)
    with np.errstate(all="ignore"):
        return array.astype(np.bool_ if to == 9 else np.dtype(DTYPES[to][1]), copy=False)


ROWS: dict[str, Row] = {
    "Add": Row(lambda c: c.emit("add", [c.value(0), c.value(1)]), (2, 2)),
    "AveragePool": Row(average, (1, 1)),
    "BatchNormalization": Row(_batch_norm, (5, 5), frozenset({"momentum"})),
    "Cast": Row(_cast, (1, 1), frozenset({"saturate", "round_mode"})),
    "Clip": Row(_clip, (1, 3)),
    "Constant": Row(_constant, (0, 0)),
    "Conv": Row(_conv, (2, 3)),
    "Dropout": Row(_dropout, (1, 3), frozenset({"ratio", "seed"})),
    "Flatten": Row(_flatten, (1, 1)),
    "Gemm": Row(_gemm, (2, 3)),
    "GlobalAveragePool": Row(lambda c: _global("reduce_mean", c), (1, 1)),
    "GlobalMaxPool": Row(lambda c: _global("reduce_max", c), (1, 1)),
    "Identity": Row(_same, (1, 1)),
    "MatMul": Row(_matmul, (2, 2)),
    "MaxPool": Row(_max_pool, (1, 1), frozenset({"storage_order"})),
    "ReduceMean": Row(_reduce_mean, (1, 2)),
    "Relu": Row(lambda c: c.emit("relu", [c.value(0)]), (1, 1)),
    "Reshape": Row(_reshape, (2, 2)),
    "Softmax": Row(_softmax, (1, 1)),
    "Transpose": Row(_transpose, (1, 1)),
}
