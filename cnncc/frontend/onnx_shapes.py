"""Values that follow from constants and static shapes, computed while a file is read.

Each node is evaluated by onnx's own reference, after its type inference has told how large the results are.
A batch that is open counts as OPEN in this arithmetic: more than any extent can be, so that what depends on
it shows; only ops that can't hide that are allowed on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cnncc.frontend.onnx_file import MAX_ELEMENTS, absurd
from cnncc.frontend.onnx_node import Call, Refused, support
from cnncc.ir.signature import Array
from cnncc.ir.types import Extent, product

if TYPE_CHECKING:
    from onnx import ModelProto

OPEN = 1 << 40
KNOWN = 64              # elements of an operand that may decide the shape of a result
OPEN_OPS = frozenset([
    "Concat", "Gather", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze", "Where"])
FOLDED = OPEN_OPS | frozenset([
    "Abs", "Add", "And", "BlackmanWindow", "Cast", "Ceil", "Clip", "ConstantOfShape", "CumSum", "Div",
    "Equal", "Exp", "Expand", "Floor", "GatherElements", "GatherND", "Greater", "GreaterOrEqual",
    "HammingWindow", "HannWindow", "Less", "LessOrEqual", "Log", "Max", "MelWeightMatrix", "Min", "Mod",
    "Mul", "Neg", "NonZero", "Not", "OneHot", "Or", "Pow", "Range", "Reciprocal", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Round", "ScatterElements", "ScatterND", "Sign",
    "Sqrt", "Sub", "Sum", "Tile", "Trilu", "Xor"])
DATA = frozenset(["NonZero"])       # ops whose results are as large as the data say, but no larger than these


def fold(c: Call) -> tuple[Array, ...]:
    """The results of a node of constants. Raises Refused, or ModelError where the node is wrong."""
    from onnx.reference import ReferenceEvaluator
    arrays = {name: np.asarray(c.operand(i)) for i, name in enumerate(c.node.input) if name}
    op, tainted = c.node.op_type, [name for name in arrays if name in c.scope.open]
    support(not tainted or _plain(c, [arrays[n] for n in c.node.input if n not in tainted]),
            "it computes with the size of the batch, which is open: export the model with a fixed batch")
    model = _model(c, arrays)
    known = sum(a.nbytes for a in arrays.values()) if op in DATA else \
        _range_bytes(c) if op == "Range" else _result_bytes(c, model)
    c.spend(known * (8 if op in DATA else 1))
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(model).run(None, arrays)
    except NotImplementedError as error:
        raise Refused(f"op not supported on constants (opset {c.opset}): {error}") from None
    except Exception as error:      # whatever a wrong node makes of the reference
        c.expect(False, f"can't be computed: {str(error)[:200]}")
    made = tuple(c.scope.widened(np.asarray(r)) for r in results)
    c.expect(all(not absurd(r.shape, 0) for r in made), "a result has a shape that no tensor can have")
    by_name = dict(zip(filter(None, c.node.output), made, strict=True))
    if tainted:
        c.scope.open |= {n for n, r in by_name.items() if (np.abs(r.astype(np.float64)) > MAX_ELEMENTS).any()}
    return tuple(by_name.get(o, np.zeros(0)) for o in c.node.output)


def _plain(c: Call, others: Sequence[Array]) -> bool:
    """Whether what a node makes of the open batch shows in its results."""
    op = c.node.op_type
    if op == "Equal":                                   # to a number that no extent is
        return len(others) == 1 and bool((others[0] < 1).all())
    if op == "Cast":
        return c.attribute("to", "i") in (1, 7, 11)     # float, int64, double hold it
    if op == "Mul":
        size = np.abs(others[0].astype(np.float64)) if len(others) == 1 else np.zeros(())
        return len(others) == 1 and bool(((size == 0) | ((size > 2 ** -8) & (size < 2 ** 20))).all())
    return op in OPEN_OPS


def _model(c: Call, arrays: dict[str, Array]) -> ModelProto:
    """The node alone; small operands are known to type inference."""
    from onnx import helper, numpy_helper
    inputs = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for n, a in arrays.items()]
    small = [numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items() if a.size <= KNOWN]
    outputs = [helper.make_empty_tensor_value_info(o) for o in c.node.output if o]
    graph = helper.make_graph([c.node], "node", inputs, outputs, small)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", c.opset)], ir_version=8)


def _result_bytes(c: Call, model: ModelProto) -> int:
    """The size of a node's results by type inference."""
    from onnx import shape_inference
    try:
        outputs = shape_inference.infer_shapes(model, data_prop=True).graph.output
    except Exception as error:      # onnx raises several kinds
        c.expect(False, f"can't be right: {str(error)[:200]}")
    total = 0
    for o in outputs:
        tensor = o.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else -1 for d in tensor.shape.dim]
        support(tensor.HasField("shape") and -1 not in dims, "the size of its result can't be told before")
        c.expect(not absurd(dims, 0), f"its result would have the shape {dims}")
        total += 8 * product(dims)
    return total


def _range_bytes(c: Call) -> int:
    """The size of a Range's result."""
    start, limit, delta = (float(c.needed(i, "limits", c.scope.array(name).dtype.name).reshape(-1)[0])
                           for i, name in enumerate(c.node.input))
    c.expect(delta != 0 and np.isfinite([start, limit, delta]).all(), "its limits make no range")
    count = max(0.0, (limit - start) / delta)
    c.expect(count <= MAX_ELEMENTS, f"its result would have {count:.3g} elements")
    return 8 * int(count + 1)


def shape_of(c: Call) -> Array:
    """The Shape or Size of a value."""
    shape = [OPEN if isinstance(e, str) else e for e in c.shape(c.operand(0))]
    if c.node.op_type == "Size":
        result = np.array(product(shape), np.int64)
    else:
        result = np.array(shape[c.attribute("start", "i", 0):c.attribute("end", "i", None)], np.int64)
    if (result > MAX_ELEMENTS).any():
        c.scope.open.add(c.out)
    return result


def extents(c: Call, i: int, what: str, old: Sequence[Extent]) -> list[Extent]:
    """Operand i, numbers among which the batch may be that `old` leaves open."""
    numbers = c.needed(i, what, "int64", open=True).reshape(-1).tolist()
    c.expect(len(numbers) <= 64, f"{len(numbers)} dimensions are absurd")
    batch = next((e for e in old if isinstance(e, str)), None)
    if batch is None or c.node.input[i] not in c.scope.open:
        c.expect(all(abs(e) <= MAX_ELEMENTS for e in numbers), f"its {what} {numbers} is no size of a tensor")
        return numbers
    support(all(e == OPEN or abs(e) <= MAX_ELEMENTS for e in numbers),
            "it mixes the batch, whose size is open, with other numbers: export the model with a fixed batch")
    return [batch if e == OPEN else e for e in numbers]
