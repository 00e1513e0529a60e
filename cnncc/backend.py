"""The ONNX backend interface, for tools and test suites that are written against it.

`cnncc.backend.prepare(model).run(inputs)`; the functions here are those of `onnx.backend.base.Backend`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper
from onnx.backend import base

from cnncc.compiler import compile
from cnncc.ir.errors import InputError, UnsupportedError
from cnncc.runtime.model import CompiledModel
from cnncc.runtime.specialise import SpecialisingModel


class BackendRep(base.BackendRep):
    """A compiled model that is run with a list of inputs."""

    def __init__(self, model: CompiledModel | SpecialisingModel) -> None:
        self.model = model
        self._outputs = base.namedtupledict("Outputs", [v.name for v in model.outputs])

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The outputs, by position or name, for inputs as a list in the model's order, a dict, or one array.

        Raises InputError where an input doesn't fit.
        """
        if not isinstance(inputs, Mapping):
            arrays = inputs if isinstance(inputs, list | tuple) else [inputs]
            if len(arrays) != len(self.model.inputs):
                raise InputError(f"{len(arrays)} inputs were given, {len(self.model.inputs)} expected")
            inputs = {v.name: x for v, x in zip(self.model.inputs, arrays, strict=True)}
        return self._outputs(*self.model.run(None, inputs))


class Backend(base.Backend):
    """cnncc as an ONNX backend. All raise UnsupportedError for what can't be compiled, ModelError for what
    is no valid model, and InputError for arrays that don't fit."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Whether a model can be compiled."""
        try:
            cls.prepare(model, device)
        except UnsupportedError:
            return False
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
        """A model, compiled. Options are passed over."""
        if not cls.supports_device(device):
            raise UnsupportedError(f"device {device!r}: there is only the CPU")
        return BackendRep(compile(model))

    @classmethod
    def run_node(cls, node: onnx.NodeProto, inputs: Any, device: str = "CPU",
                 outputs_info: Sequence[tuple[np.dtype[Any], tuple[int, ...]]] | None = None,
                 **kwargs: Any) -> tuple[Any, ...]:
        """The outputs of one node, of the newest opset unless `opset_version` is given."""
        names = [name for name in node.input if name]
        given = inputs if isinstance(inputs, Mapping) else dict(
            zip(names, inputs if isinstance(inputs, list | tuple) else [inputs], strict=True))
        arrays = {name: np.asarray(given[name]) for name in dict.fromkeys(names)}
        takes = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
                 for name, x in arrays.items()]
        gives = [helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None)
                 for name in node.output if name]
        version = kwargs.get("opset_version") or onnx.defs.onnx_opset_version()
        opsets = [helper.make_opsetid(node.domain, version)]
        graph = helper.make_graph([node], node.name or node.op_type, takes, gives)
        return cls.prepare(helper.make_model(graph, opset_imports=opsets), device).run(arrays)

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Whether `device` is the CPU."""
        return device.partition(":")[0] == "CPU"


is_compatible, prepare = Backend.is_compatible, Backend.prepare
run_model, run_node, supports_device = Backend.run_model, Backend.run_node, Backend.supports_device
