"""ONNX Runtime's interface: `import cnncc as ort` in a script that makes a session and runs it.

Options that don't change results are accepted and ignored, but for the number of threads.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncc.compiler import Source, compile
from cnncc.frontend.user import Ops
from cnncc.ir.errors import InputError
from cnncc.ir.plan import Value
from cnncc.ir.types import Extent

log = logging.getLogger("cnncc")

PROVIDER = "CPUExecutionProvider"
TYPES = {"float16": "float16", "float32": "float", "float64": "double"}


def get_available_providers() -> list[str]:
    """What may be asked of a session as `providers`."""
    return [PROVIDER]


def get_device() -> str:
    """The kind of device that runs models."""
    return "CPU"


class GraphOptimizationLevel(enum.IntEnum):
    """Accepted and ignored: a model is always compiled the same way."""

    ORT_DISABLE_ALL, ORT_ENABLE_BASIC, ORT_ENABLE_EXTENDED, ORT_ENABLE_LAYOUT, ORT_ENABLE_ALL = 0, 1, 2, 3, 99


class ExecutionMode(enum.IntEnum):
    """Accepted and ignored: kernels run one after the other, each on all threads."""

    ORT_SEQUENTIAL, ORT_PARALLEL = 0, 1


class SessionOptions:
    """Options of a session, as attributes; `intra_op_num_threads` (0: the default) is the one that counts."""

    def __init__(self) -> None:
        self.intra_op_num_threads = 0
        self.inter_op_num_threads = 0
        self.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_ALL
        self.execution_mode = ExecutionMode.ORT_SEQUENTIAL

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Accepted and ignored."""


class RunOptions:
    """Options of a run, as attributes, all of them ignored."""


@dataclass(frozen=True)
class NodeArg:
    """An input or output; a word in `shape` is a size that a call chooses, `type` is as 'tensor(float)'."""

    name: str
    shape: list[Extent]
    type: str

    @staticmethod
    def of(value: Value) -> NodeArg:
        return NodeArg(value.name, list(value.shape), f"tensor({TYPES.get(value.dtype, value.dtype)})")


class InferenceSession:
    """A model, compiled, in the place of `onnxruntime.InferenceSession`.

    `sess_options` is ours or ONNX Runtime's, `ops` as in `cnncc.compile`. A provider other than
    the CPU's is passed over with a warning.
    Raises as `cnncc.compile`: ModelError for a bad model, UnsupportedError for one that can't be compiled,
    InputError for another kind of source or a wrong number of threads.
    """

    def __init__(self, path_or_bytes: Source, sess_options: Any = None,
                 providers: Sequence[str | tuple[str, Any]] | None = None, provider_options: Any = None,
                 *, ops: Ops | None = None, **ignored: Any) -> None:
        names = [p if isinstance(p, str) else p[0] for p in providers or ()]
        if others := [name for name in names if name != PROVIDER]:
            log.warning("no %s: the session runs on the CPU", ", ".join(others))
        self._options = sess_options or SessionOptions()
        threads = getattr(self._options, "intra_op_num_threads", 0)
        self._model = compile(path_or_bytes, threads=threads or None, ops=ops)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any],
            run_options: Any = None) -> list[NDArray[np.generic]]:
        """The outputs of these names (None: all) for inputs by name. Raises InputError where one is wrong."""
        if not isinstance(input_feed, Mapping):
            raise InputError(f"input_feed: expected arrays by name, got {type(input_feed).__name__}")
        return self._model.run(output_names, input_feed)

    def get_inputs(self) -> list[NodeArg]:
        """The inputs in the model's order."""
        return [NodeArg.of(v) for v in self._model.inputs]

    def get_outputs(self) -> list[NodeArg]:
        """The outputs in the model's order."""
        return [NodeArg.of(v) for v in self._model.outputs]

    def get_providers(self) -> list[str]:
        """The CPU's, whatever was asked for."""
        return [PROVIDER]

    def get_session_options(self) -> Any:
        """The options that the session was made with."""
        return self._options
