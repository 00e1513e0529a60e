"""The engines that can be compared: each prepares a model for one number of threads, in float32."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Feeds: TypeAlias = Mapping[str, Array]
Call: TypeAlias = Callable[[Feeds], list[Array]]


def _cnncc(path: str, threads: int, feeds: Feeds) -> Call:
    from cnncc.compiler import compile
    return functools.partial(compile(path, threads=threads).run, None)


def _numpy(path: str, threads: int, feeds: Feeds) -> Call:
    from cnncc.compiler import reference
    return functools.partial(reference(path).run, None)


def _onnx(path: str) -> str | bytes:
    """What others can read of a model file: the file itself, or what it says as ONNX."""
    from cnncc.compiler import as_onnx
    return path if path.lower().endswith(".onnx") else as_onnx(path)


def _onnxruntime(path: str, threads: int, feeds: Feeds) -> Call:
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(_onnx(path), options, providers=["CPUExecutionProvider"])
    return lambda given: [np.asarray(y) for y in session.run(None, dict(given))]


def _openvino(path: str, threads: int, feeds: Feeds) -> Call:
    import openvino
    core = openvino.Core()
    model = core.read_model(_onnx(path))
    model.reshape({name: list(x.shape) for name, x in feeds.items()})       # a fixed batch is faster
    compiled = core.compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32",   # its default may be bfloat16
        "INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1})
    request = compiled.create_infer_request()

    def run(given: Feeds) -> list[Array]:
        results = request.infer(dict(given), share_inputs=True, share_outputs=True)
        return [results[i] for i in range(len(compiled.outputs))]
    return run


ENGINES: dict[str, Callable[[str, int, Feeds], Call]] = {
    "cnncc": _cnncc, "numpy": _numpy, "onnxruntime": _onnxruntime, "openvino": _openvino}


def installed(engine: str) -> bool:
    """Whether the package of an engine can be imported here; it isn't."""
    return importlib.util.find_spec(engine) is not None
