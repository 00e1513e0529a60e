"""The importer's table, at the end: one row for each ONNX op, some of them in other files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from cnncc.frontend import onnx_elementwise, onnx_indexing, onnx_matrix, onnx_moves, onnx_reduce, onnx_resize
from cnncc.frontend.layers import scale_and_shift
from cnncc.frontend.onnx_moves import MAX_TABLE
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.frontend.onnx_shapes import extents
from cnncc.ir.signature import Array
from cnncc.ir.types import Extent, product

Shape = tuple[Extent, ...]


def _fixed(extents: Iterable[Extent]) -> int:
    """The product of all but the open ones."""
    return product([e for e in extents if isinstance(e, int)])


class _Axis(NamedTuple):
    """Windows along one dimension; `pad` is the file's end padding, `end` what gives `out` windows."""

    size: int
    kernel: int
    stride: int
    dilation: int
    begin: int
    pad: int
    end: int
    out: int

    def taps(self, pads: bool) -> Array:
        """How many taps of each window lie within the input (with `pads` also the padding): at least one."""
        support(self.out <= MAX_TABLE, f"{self.out:,} windows along one dimension are too many")
        start = np.arange(self.out) * self.stride - self.begin
        low, high = (-self.begin, self.size + self.pad) if pads else (0, self.size)
        first = np.maximum(0, -((start - low) // self.dilation))
        taps: Array = np.minimum(self.kernel - 1, (high - 1 - start) // self.dilation) - first + 1
        support((taps > 0).all(), "a window lies wholly in the padding")
        return taps


def _window(c: Call, x: str, weight: tuple[int, ...] | None = None) -> tuple[list[_Axis], dict[str, Any]]:
    """A node's windows over x, and their attributes as ours; a convolution gives the sizes of its weight."""
    spatial = c.spatial(x)
    n, kernel = len(spatial), c.sizes("kernel_shape", len(spatial), 1, weight)
    c.expect(weight in (None, kernel), f"its kernel_shape {list(kernel)} is not that of its weight")
    ceil = weight is None and c.flag("ceil_mode")
    strides, dilations = c.sizes("strides", n, 1, (1,) * n), c.sizes("dilations", n, 1, (1,) * n)
    pads, auto = c.sizes("pads", 2 * n, 0, (0,) * 2 * n), c.attribute("auto_pad", "s", b"NOTSET")
    c.expect(auto in (b"NOTSET", b"SAME_UPPER", b"SAME_LOWER", b"VALID"), f"auto_pad is {auto[:60]!r}")
    axes: list[_Axis] = []
    for size, k, s, d, a, b in zip(spatial, kernel, strides, dilations, pads[:n], pads[n:], strict=True):
        reach = (k - 1) * d + 1
        if auto == b"VALID":
            a = b = 0
        elif auto != b"NOTSET":
            total = max(0, ((size + s - 1) // s - 1) * s + reach - size)
            a, b = (total + (auto == b"SAME_LOWER")) // 2, (total + (auto == b"SAME_UPPER")) // 2
        room = size + a + b - reach
        count = (room + (s - 1 if ceil else 0)) // s + 1
        if ceil and (count - 1) * s >= size + a:      # a window must not start beyond the input
            count -= 1
        c.expect(room >= 0 or (ceil and count > 0),
                 f"a window of {reach} is larger than the padded input, {size + a + b}")
        axes.append(_Axis(size, k, s, d, a, b, max(b, (count - 1) * s + reach - size - a), count))
    attrs = {"strides": strides, "dilations": dilations, "begin": tuple(a.begin for a in axes),
             "end": tuple(a.end for a in axes)}
    return axes, attrs if weight is not None else attrs | {"kernel": kernel}


def _conv(c: Call) -> str:
    x, w = c.value(0), c.needed(1, "weight")
    shape, group = c.shape(x), c.attribute("group", "i", 1)
    c.expect(w.ndim == len(shape), f"its weight has the shape {list(w.shape)}, its input {list(shape)}")
    _, attrs = _window(c, x, w.shape[2:])
    c.expect(group > 0 and w.shape[0] % group == 0 and 0 not in w.shape and shape[1] == w.shape[1] * group,
             f"an input of {shape[1]} channels and a weight of shape {list(w.shape)} don't fit group={group}")
    bias = c.needed(2, "bias") if c.has(2) else np.zeros(w.shape[0], np.float32)
    c.expect(bias.shape == w.shape[:1], f"its bias has the shape {list(bias.shape)}, expected {[w.shape[0]]}")
    bias = bias.reshape(-1, *(1,) * (len(shape) - 2))
    y = c.emit("conv", [x, c.value(1)], "conv" if bias.any() else "", group=group, **attrs)
    return c.emit("add", [y, c.const(bias, "bias")]) if bias.any() else y


def _max_pool(c: Call) -> str:
    x = c.value(0)
    axes, attrs = _window(c, x)
    for a in axes:
        a.taps(pads=False)      # refuses windows that lie wholly in the padding
    return c.emit("max_pool", [x], **attrs)


def _average_pool(c: Call) -> str:
    """A sum, times one factor where all windows count as many elements, else times a table."""
    x = c.value(0)
    axes, attrs = _window(c, x)
    include = c.flag("count_include_pad")
    if {*attrs["kernel"], *attrs["strides"]} == {1} and not any(attrs["begin"] + attrs["end"]):
        return x
    taps = [a.taps(include) for a in axes]
    y = c.emit("sum_pool", [x], "sum", **attrs)
    if all((t == t[0]).all() for t in taps):
        return c.emit("scale", [y], factor=1.0 / float(np.prod([float(t[0]) for t in taps])))
    support(np.prod([float(t.size) for t in taps]) <= MAX_TABLE,
            "its output is too large for padding that is not counted")
    table = np.ones((1, 1), np.float64)
    for t in taps:
        table = table[..., None] / t
    return c.emit("mul", [y, c.const(table.astype(np.float32), "divisors")])


def _batch_norm(c: Call) -> str:
    support(not c.flag("training_mode") and c.flag("spatial", True),
            "training_mode=1 and spatial=0 are not supported: export the model for inference")
    x = c.value(0)
    shape = c.shape(x)
    vectors = [c.needed(i, what) for i, what in enumerate(("scale", "bias", "mean", "variance"), 1)]
    c.expect(len(shape) > 1 and all(v.shape == shape[1:2] for v in vectors),
             f"its parameters have the shapes {[list(v.shape) for v in vectors]}, its input {list(shape)}")
    scale, shift = scale_and_shift(vectors, c.attribute("epsilon", "f", 1e-5), len(shape))
    return c.emit("batch_norm", [x, c.const(scale, "scale"), c.const(shift, "shift")])


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
        return c.scope.widened(c.scope.file.array(c.attribute(name, "t")))
    forms = {"value_float": "f", "value_floats": "floats", "value_int": "i", "value_ints": "ints"}
    support(name in forms, f"attribute {name[:60]!r} is not supported")
    return np.array(c.attribute(name, forms[name]), np.float32 if "float" in name else np.int64)


ROWS = {
    **onnx_elementwise.ROWS,
    **onnx_indexing.ROWS,
    **onnx_matrix.ROWS,
    **onnx_moves.ROWS,
    **onnx_reduce.ROWS,
    **onnx_resize.ROWS,
    "AveragePool": Row(_average_pool, 1, 1),
    "BatchNormalization": Row(_batch_norm, 5, 5, ("momentum", "is_test")),
    "Constant": Row(_constant, 0, 0),
    "Conv": Row(_conv, 2, 3),
    "Flatten": Row(_flatten, 1, 1),
    "MaxPool": Row(_max_pool, 1, 1, ("storage_order",)),
    "Reshape": Row(_reshape, 2, 2),
}
