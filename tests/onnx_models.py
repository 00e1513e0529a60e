"""Small ONNX models for tests, made without a checker so that they may be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NEWEST = onnx.defs.onnx_opset_version()
IR_VERSION = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7}
"""The file format's version by opset, where it isn't a later one: with 3, initializers are inputs too."""


def model(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[Any]], outputs: Sequence[str],
          constants: Mapping[str, np.ndarray] | None = None, opset: int = 17) -> onnx.ModelProto:
    """A model of float inputs of the given shapes; a string is a symbolic extent, None an unknown one."""
    tensors = [numpy_helper.from_array(v, k) for k, v in (constants or {}).items()]
    infos = [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in inputs.items()]
    ir_version = IR_VERSION.get(opset, 8)
    if ir_version < 4:
        infos += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in tensors]
    ends = [helper.make_tensor_value_info(k, TensorProto.FLOAT, None) for k in outputs]
    graph = helper.make_graph(nodes, "test", infos, ends, tensors)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)


def single(op: str, shape: Sequence[Any], *operands: np.ndarray | None, opset: int = 17,
           **attributes: Any) -> onnx.ModelProto:
    """One node called "node" of the input x and constant operands (None: left out); the output is y."""
    names = ["x", *("" if v is None else f"c{i}" for i, v in enumerate(operands, 1))]
    constants = {n: v for n, v in zip(names[1:], operands, strict=True) if v is not None}
    node = helper.make_node(op, names, ["y"], name="node", **attributes)
    return model([node], {"x": shape}, ["y"], constants, opset)


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)
