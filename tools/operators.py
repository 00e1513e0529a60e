"""docs/operators.md: which ONNX operators, and which layers of definitions, are supported.

    python tools/operators.py --write       # without: to stdout

The code is asked: versions and types are those of small models that the importer reads without an error,
reasons those that it can give. An op of which no small model is found needs a row in SAMPLES.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, defs, helper, numpy_helper

from cnncc.frontend.layers import EXPECTED, KINDS, REQUIRED
from cnncc.frontend.onnx import read
from cnncc.frontend.onnx_file import DTYPES
from cnncc.frontend.onnx_import import OLDEST
from cnncc.frontend.onnx_node import Row
from cnncc.frontend.onnx_ops import ROWS
from cnncc.frontend.onnx_shapes import FOLDED
from cnncc.ir.errors import ModelError, UnsupportedError

PAGE = Path(__file__).parents[1] / "docs" / "operators.md"
TEXT = """# Operators

Made by `tools/operators.py`, which asks the importer.

## ONNX

The ops of opsets {oldest} to {newest} that can be compiled. *Versions* are the opsets that changed an op,
from the one that is in force in opset {oldest} on. *Types* are those of the result, or of the input where
that says nothing; in parentheses are those that ONNX allows and cnncc refuses. f16 and bf16 are
computed in f32. *Refused* are the reasons for which a node may be refused, with `…` for what differs from
node to node; beyond these it is refused for an attribute that the importer doesn't know. What must be a
constant may also follow from inputs of at most 64 integers, or 16 floats: the model is then compiled when it
is called; so it is where a batch that is open is the reason. `cnncc info MODEL` lists all nodes of a model
that are refused.

Ops without a row here that ONNX itself defines by others are compiled where those can be. Functions of a
model, and the branch of an If whose condition is a constant, are put in their place.

| op | versions | types | refused |
|---|---|---|---|
{ops}

{others}Of constants, and of sizes that are fixed, these are computed while a model is read:
{folded}.

## Layers of definitions and of `Builder`

All take `id` and `act` too, in definitions also `of` and `repeat`. A key without a default is needed.

| layer | reads | keys: what is expected, the default | may be an `act` |
|---|---|---|---|
{layers}
"""

SHAPES = ((1, 4, 4, 4), (4, 4), (4,), (1, 4, 4))
REQUIRED_ATTRIBUTES: dict[str, Any] = {
    "axes": [0], "axis": 0, "bias": 0.5, "blocksize": 2, "direction": b"RIGHT", "hidden_size": 4,
    "height_scale": 2.0, "kernel_shape": [1, 1], "num_groups": 2, "output_size": [4, 4], "pads": [0] * 4,
    "scales": [1.0] * 4, "size": 3, "to": 1, "width_scale": 2.0}
CONSTANT = "must be a constant"
FOLLOWS = "follows from values of inputs"
INTS, ONE = np.ones(1, np.int64), np.ones((), np.float32)
BYTE = np.ones((), np.uint8)
SAMPLES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "AffineGrid": ((np.ones((1, 2, 3)), np.array([1, 1, 4, 4])), {}),
    "Col2Im": ((np.ones((1, 4, 9)), np.array([4, 4]), np.array([2, 2])), {}),
    "Constant": ((), {"value_float": 1.0}),
    "Conv": ((np.ones((1, 4, 4, 4)), np.ones((4, 4, 1, 1)), np.ones(4)), {}),
    "ConvTranspose": ((np.ones((1, 4, 4, 4)), np.ones((4, 4, 1, 1)), np.ones(4)), {}),
    "DeformConv": ((np.ones((1, 4, 4, 4)), np.ones((4, 4, 1, 1)), np.zeros((1, 2, 4, 4))), {}),
    "Einsum": ((np.ones((4, 4)), np.ones((4, 4))), {"equation": "ij,jk->ik"}),
    "DFT": ((np.ones((1, 4, 1)),), {}),
    "GRU": ((np.ones((2, 1, 4)), np.ones((1, 12, 4)), np.ones((1, 12, 4))), {"hidden_size": 4}),
    "Gather": ((np.ones(4), INTS), {}),
    "GridSample": ((np.ones((1, 4, 4, 4)), np.ones((1, 4, 4, 2), np.float32)), {}),
    "LSTM": ((np.ones((2, 1, 4)), np.ones((1, 16, 4)), np.ones((1, 16, 4))), {"hidden_size": 4}),
    "Mod": ((np.ones(4), np.ones(4)), {"fmod": 1}),
    "OneHot": ((INTS, INTS * 3, np.ones(2)), {}),
    "Pad": ((np.ones(4), np.ones(2, np.int64), np.ones(())), {}),
    "QLinearConv": ((np.ones((1, 4, 4, 4), np.uint8), ONE, BYTE, np.ones((4, 4, 1, 1), np.uint8), ONE, BYTE,
                     ONE, np.ones(())), {}),
    "Reshape": ((np.ones(4), INTS * 4), {}),
    "Resize": ((np.ones((1, 4, 4, 4)), None, np.float32([1, 1, 2, 2])), {}),
    "RoiAlign": ((np.ones((1, 4, 4, 4)), np.ones((1, 4)), INTS * 0), {}),
    "STFT": ((np.ones((1, 8, 1)), INTS.reshape(()), None, INTS.reshape(()) * 4), {}),
    "ScatterND": ((np.ones(4), INTS.reshape(1, 1), np.ones(1)), {}),
    "Slice": ((np.ones(4), INTS, INTS * 3, INTS * 0, INTS), {}),
}
"""Operands (None: left out) and attributes; operands of float64 stand for the type that is asked about."""


def schemas(op: str) -> dict[int, Any]:
    """The versions of an op by the opset in which they can be read: their own, or the oldest of all."""
    own = sorted((s for s in _all_schemas().get(op, ()) if not s.deprecated), key=lambda s: s.since_version)
    ends = [*(s.since_version for s in own[1:]), 1 << 30]
    return {max(s.since_version, OLDEST): s for s, end in zip(own, ends, strict=False) if end > OLDEST}


@functools.cache
def _all_schemas() -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for s in defs.get_all_schemas_with_history():
        found.setdefault(s.name if s.domain == "" else f"{s.domain}.{s.name}", []).append(s)
    return found


def asked(schema: Any) -> tuple[int, Sequence[str]]:
    """The first input of the result's type, else the first, and the types that ONNX allows for it."""
    result = schema.outputs[0]
    at = next((i for i, x in enumerate(schema.inputs) if x.type_str == result.type_str), 0)
    return at, (schema.inputs[at] if schema.inputs else result).types


# ---- small models


def samples(op: str, schema: Any, dtype: np.dtype[Any]) -> Iterator[tuple[list[Any], dict[str, Any]]]:
    """Operands and attributes of nodes that may be right, with a result, or else an input, of that type."""
    if op in SAMPLES:
        operands, given = SAMPLES[op]
        yield [v.astype(dtype) if v is not None and v.dtype == np.float64 else v for v in operands], given
    attributes = {n: REQUIRED_ATTRIBUTES[n] for n, a in schema.attributes.items()
                  if a.required and n in REQUIRED_ATTRIBUTES}
    if not schema.inputs:
        return
    own = schema.inputs[asked(schema)[0]].type_str
    formal = [schema.inputs[min(i, len(schema.inputs) - 1)] for i in range(max(1, schema.min_input))]
    name = f"tensor({dtype.name.replace('float32', 'float').replace('float64', 'double')})"
    types = [dtype if x.type_str == own or (dtype.kind == "f" and name in x.types) else _some(x.types)
             for x in formal]
    for shape, other in itertools.product(SHAPES, (None, (4,), (1,))):
        yield [np.ones(other if i and other else shape, t) for i, t in enumerate(types)], attributes


def _some(types: Sequence[str]) -> np.dtype[Any]:
    """A type of those that a schema names."""
    names = {"float": "f4", "int64": "i8", "bool": "?", "double": "f8", "uint8": "u1"}
    return np.dtype(next((t for name, t in names.items() if f"tensor({name})" in types), "f4"))


def model(op: str, opset: int, operands: Sequence[Any], attributes: dict[str, Any], inputs: Sequence[int],
          results: int) -> ModelProto:
    """One node, of whose operands those `inputs` are the model's; the others are constants."""
    names = ["" if v is None else f"v{i}" for i, v in enumerate(operands)]
    tensors = [numpy_helper.from_array(v, names[i]) for i, v in enumerate(operands) if v is not None]
    given = [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for i, t in enumerate(tensors)
             if int(t.name[1:]) in inputs]
    outputs = [f"y{i}" for i in range(max(1, results))]
    node = helper.make_node(op, names, outputs, name="node", **attributes)
    ends = [helper.make_empty_tensor_value_info(o) for o in outputs]
    constants = [t for t in tensors if int(t.name[1:]) not in inputs]
    return helper.make_model(helper.make_graph([node], "g", given, ends, constants),
                             opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def found(op: str, opset: int, schema: Any, dtype: int) -> tuple[list[Any], dict[str, Any]] | None:
    """A node that the importer reads."""
    at, _ = asked(schema)
    for operands, attributes in samples(op, schema, np.dtype(helper.tensor_dtype_to_np_dtype(dtype))):
        for inputs in ([at], [0], range(len(operands))):
            try:
                read(model(op, opset, operands, attributes, inputs, schema.min_output))
            except ModelError:
                continue
            return operands, attributes
    return None


def onnx_name(dtype: int) -> str:
    """A schema's name of a type."""
    return f"tensor({str(TensorProto.DataType.Name(dtype)).lower()})"


# ---- reasons


def reasons(op: str, node: tuple[list[Any], dict[str, Any]] | None) -> list[str]:
    """Why a node may be refused: what its row's functions say, and for operands that are no constants."""
    texts = {text for f in _functions(ROWS[op]) for text in _texts(f)}
    opset = max(schemas(op), default=0)
    operands, attributes = node or ([], {})
    for i in range(len(operands)):
        try:
            read(model(op, opset, operands, attributes, [i], schemas(op)[opset].min_output))
        except UnsupportedError as error:
            rows = [why.replace(FOLLOWS, CONSTANT) for _, _, why in error.rows]
            texts |= {re.sub(rf", '.*?',|(?<={CONSTANT}).*", "", why) for why in rows if CONSTANT in why}
        except ModelError:
            pass
    return sorted(texts - {"…"})


def _functions(row: Row) -> list[FunctionType]:
    """All functions of the importer's rows that a row uses."""
    seen: dict[FunctionType, None] = {}
    todo: list[Any] = [row.convert]
    while todo:
        f = todo.pop()
        if isinstance(f, FunctionType) and f not in seen and f.__module__.startswith("cnncc.frontend.onnx_"):
            seen[f] = None
            todo += [c.cell_contents for c in f.__closure__ or ()]
            todo += [f.__globals__.get(n) for n in _names(f.__code__) if n != "support"]
    return list(seen)


def _names(code: CodeType) -> set[str]:
    return set(code.co_names).union(*(_names(c) for c in code.co_consts if isinstance(c, CodeType)))


@functools.cache
def _texts(f: Callable[..., Any]) -> tuple[str, ...]:
    """The texts that a function gives to `support` and `Refused`."""
    if f.__name__ == "<lambda>":
        return ()
    calls = [n for n in ast.walk(ast.parse(textwrap.dedent(inspect.getsource(f)))) if isinstance(n, ast.Call)]
    texts = [_text(n.args[-1]) for n in calls if ast.unparse(n.func) in ("support", "Refused")]
    return tuple(t for t in texts if CONSTANT not in t)


def _text(node: ast.expr) -> str:
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=parts):
            return "".join(map(_text, parts))
        case ast.BinOp(left=a, right=b):
            return _text(a) + _text(b)
    return "…"


# ---- the page


def onnx_row(op: str) -> str:
    """The op's line of the table."""
    versions, good, bad, node = dict[int, Any](), list[str](), list[str](), None
    for opset, schema in schemas(op).items():
        allowed = {d: name for d, name in DTYPES.items() if onnx_name(d) in asked(schema)[1]}
        nodes = {d: found(op, opset, schema, d) for d in allowed}
        if any(nodes.values()):
            versions[schema.since_version] = schema
            good, bad = ([allowed[d] for d in allowed if bool(nodes[d]) == ok] for ok in (True, False))
            node = next(filter(None, nodes.values()))
    types = " ".join(good) + f" ({' '.join(bad)})" * bool(bad)
    return _line(op, ", ".join(map(str, versions)), types, "; ".join(reasons(op, node)))


def layer_row(name: str) -> str:
    """The line of a kind of layers."""
    kind = KINDS[name]
    keys = [f"`{key}`: {EXPECTED[what][0]}" + ("" if default is REQUIRED else f", {_default(default)}")
            for key, (what, default) in kind.keys.items()]
    values = f"{kind.inputs} value{'s' * (kind.inputs > 1)}"
    return _line(name, values, "; ".join(keys), "yes" * kind.activation)


def _default(value: Any) -> str:
    if value is None:
        return "else chosen by the layer"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _line(*cells: str) -> str:
    return "| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |"


def _list(names: Iterable[str]) -> str:
    return textwrap.fill(", ".join(sorted(names)), 115, break_on_hyphens=False)


def page() -> str:
    others = [op for op in sorted(ROWS) if not schemas(op)]
    return TEXT.format(oldest=OLDEST, newest=defs.onnx_opset_version(), folded=_list(FOLDED - set(ROWS)),
                       others=f"Of other domains:\n{_list(others)}.\n\n" if others else "",
                       ops="\n".join(onnx_row(op) for op in sorted(ROWS) if schemas(op)),
                       layers="\n".join(map(layer_row, KINDS)))


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
