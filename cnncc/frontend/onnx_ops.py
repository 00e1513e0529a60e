"""The importer's table, at the end: one row for each ONNX op, some of them in other files."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cnncc.frontend import (
    onnx_contrib,
    onnx_conv,
    onnx_detection,
    onnx_einsum,
    onnx_elementwise,
    onnx_indexing,
    onnx_matrix,
    onnx_moves,
    onnx_quantized,
    onnx_recurrent,
    onnx_reduce,
    onnx_resize,
    onnx_selection,
)
from cnncc.frontend.onnx_conv import Axis, window
from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_file import DTYPES
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_shapes import extents
from cnncc.ir.signature import Array
from cnncc.ir.types import NUMPY, Extent, product

Shape = tuple[Extent, ...]


def _fixed(extents: Iterable[Extent]) -> int:
    """The product of all but the open ones."""
    return product([e for e in extents if isinstance(e, int)])


def _max_pool(c: Call) -> tuple[str, ...]:
    """The maxima, and the place of the first of equals in the whole input."""
    x = c.value(0)
    axes, attrs = window(c, x)
    for a in axes:
        a.taps(pads=False)      # refuses windows that lie wholly in the padding
    y, by_columns = c.emit("max_pool", [x], **attrs), c.flag("storage_order")
    if not c.wanted(1):
        return y,
    own, shape = c.named(c.node.output[1]), c.shape(x)
    support(isinstance(shape[0], int), "its indices depend on the batch, whose size is open")
    image = product([a.size for a in axes])
    count = product([int(e) for e in shape[:2]])
    own.spend(4 * image + 8 * count)
    places = np.arange(image, dtype=np.int32).reshape([a.size for a in axes])
    images = np.arange(count, dtype=np.int64) * image
    images = images.reshape(*map(int, shape[:2]), *(1,) * len(axes))
    first = own.emit("first_in_window", [x, y, own.const(places, "places")], "first", **attrs)
    place = own.emit("cast", [first], "place", to="i64")
    place = _by_columns(own, place, axes) if by_columns else place
    return y, own.emit("add", [place, own.const(images, "image")])


def _by_columns(c: Call, place: str, axes: list[Axis]) -> str:
    """Numbers of places counted with the last dimension fastest, counted with the first one fastest."""
    result = ""
    for i in reversed(range(len(axes))):
        size, apart = (c.const(np.array(product([a.size for a in part])), "size") for part in
                       (axes[i:i + 1], axes[:i]))
        part = c.emit("mul", [c.emit("mod", [place, size], f"index{i}"), apart], f"part{i}")
        result = c.emit("add", [result, part], f"columns{i}") if result else part
        place = c.emit("div", [place, size], f"rest{i}")
    return result


def _lp_pool(c: Call) -> str:
    x, p = onnx_elementwise.of(c, c.value(0)), c.attribute("p", "i", 2)
    c.expect(0 < p <= 1 << 20, f"p is {p}")
    y = c.emit("sum_pool", [onnx_reduce.powers(c, x, p)], "sum" if p > 1 else "", **window(c, x)[1])
    return onnx_reduce.root(c, y, p)


def _batch_norm(c: Call) -> str:
    """By the batch's own mean and variance in training: before opset 14 several outputs mean that."""
    training = c.flag("training_mode") or (c.opset < 14 and len(c.node.output) > 1 and not c.flag("is_test"))
    support(c.flag("spatial", True), "spatial=0 is not supported")
    support(not any(c.wanted(i) for i in range(1, 5)), "of training only its first output is computed")
    x, parameters, epsilon = of(c, c.value(0)), range(1, 5), c.attribute("epsilon", "f", 1e-5)
    shape, own = c.shape(x), NUMPY[c.dtype(x)]
    shapes = [c.shape(c.operand(i)) for i in parameters]
    c.expect(len(shape) > 1 and all(s == shape[1:2] for s in shapes),
             f"its parameters have the shapes {[list(s) for s in shapes]}, its input {list(shape)}")
    if training:
        axes = onnx_reduce.along(c, x, [a for a in range(len(shape)) if a != 1])
        y = c.emit("standardize", [x], "standard", axes=axes, epsilon=epsilon)
        return onnx_reduce.affine(c, y, shape=(*shape[1:2], *(1,) * (len(shape) - 2)))
    vectors = [c.value(i) if isinstance(v := c.operand(i), str) or v.dtype == own
               else c.const(v.astype(own), f"parameter{i}") for i in parameters]
    return c.emit("batch_norm", [x, *vectors], epsilon=epsilon,
                  momentum=round(c.attribute("momentum", "f", 0.9), 6))


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


def _constant(c: Call) -> Array:
    c.expect(len(c.attributes) == 1, f"has {len(c.attributes)} attributes, expected one")
    name = next(iter(c.attributes))
    if name == "value":
        tensor = c.attribute(name, "t")
        if tensor.data_type not in DTYPES:
            c.scope.narrow.add(c.out)
        return c.scope.widened(c.scope.file.array(tensor))
    forms = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
    support(name in forms, f"attribute {name[:60]!r} is not supported")
    return np.array(c.attribute(name, forms[name]), np.float32 if "float" in name else np.int64)


ROWS = {
    **onnx_conv.ROWS,
    **onnx_contrib.ROWS,
    **onnx_detection.ROWS,
    **onnx_einsum.ROWS,
    **onnx_elementwise.ROWS,
    **onnx_indexing.ROWS,
    **onnx_matrix.ROWS,
    **onnx_moves.ROWS,
    **onnx_quantized.ROWS,
    **onnx_recurrent.ROWS,
    **onnx_reduce.ROWS,
    **onnx_resize.ROWS,
    **onnx_selection.ROWS,
    "BatchNormalization": Row(_batch_norm, 5, 5, ("momentum", "is_test")),
    "Constant": Row(_constant, 0, 0),
    "Flatten": Row(_flatten, 1, 1),
    "LpPool": Row(_lp_pool, 1, 1),
    "MaxPool": Row(_max_pool, 1, 1),
    "Reshape": Row(_reshape, 2, 2),
    "com.microsoft.FusedConv": onnx_contrib.fused_conv(onnx_conv.conv),
    "com.microsoft.FusedGemm": onnx_contrib.fused_gemm(onnx_matrix.gemm),
}
