"""The engines to compare with."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeAlias

import numpy as np

from cnncc.compiler import compile, reference
from cnncc.ir.signature import Array

Feeds: TypeAlias = Mapping[str, Array]
Call: TypeAlias = Callable[[Feeds], list[Array]]


@dataclass(frozen=True)
class Engine:
    """`prepare` takes a model's path, the threads of a call, feeds of the shapes to come, and how many calls
    run at a time; it imports the packages that it `needs`.
    """

    prepare: Callable[[str, int, Feeds, int], Call]
    needs: tuple[str, ...] = ()

    @property
    def missing(self) -> list[str]:
        """The packages that aren't installed."""
        return [name for name in self.needs if find_spec(name) is None]


def _onnx(path: str | bytes) -> str | bytes:
    """What others can read of a model: an ONNX file or its bytes, what a definition says as ONNX."""
    from cnncc.compiler import as_onnx
    return path if isinstance(path, bytes) or path.lower().endswith(".onnx") else as_onnx(path)


def onnxruntime(path: str | bytes, threads: int, feeds: Feeds, streams: int = 1,
                optimize: bool = True) -> Call:
    """Without `optimize` it runs the model as written: it also rounds where the model quantizes."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(_onnx(path), options, providers=["CPUExecutionProvider"])
    return lambda given: [np.asarray(y) for y in session.run(None, dict(given))]


def _openvino(path: str, threads: int, feeds: Feeds, streams: int) -> Call:
    import openvino
    core = openvino.Core()
    model = core.read_model(_onnx(path))
    model.reshape({name: list(x.shape) for name, x in feeds.items()})       # a fixed batch is faster
    compiled = core.compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY" if streams == 1 else "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": "f32",                              # its default may be bfloat16
        "INFERENCE_NUM_THREADS": threads * streams, "NUM_STREAMS": streams})
    own = threading.local()

    def run(given: Feeds) -> list[Array]:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        results = own.request.infer(dict(given), share_inputs=True, share_outputs=True)
        return [results[i] for i in range(len(compiled.outputs))]
    return run


def _torch(path: str, threads: int, feeds: Feeds, streams: int, channels_last: bool = False,
           compiled: bool = False) -> Call:
    """The model's nodes as PyTorch's modules; images in its own order of memory or with channels last."""
    import onnx
    import torch
    from onnx2torch import convert
    torch.set_num_threads(threads)
    source = _onnx(path)
    module = convert(onnx.load_from_string(source) if isinstance(source, bytes) else source).eval()
    orders = {4: torch.channels_last, 5: torch.channels_last_3d} if channels_last else {}

    def moved(x: Any) -> Any:
        return x.contiguous(memory_format=orders[x.ndim]) if x.ndim in orders else x
    for parameter in module.parameters():
        parameter.requires_grad_(False)
        parameter.data = moved(parameter.data)
    if compiled:
        import torch._inductor.config
        torch._inductor.config.freezing = True
        module = torch.compile(module)

    def run(given: Feeds) -> list[Array]:
        with torch.no_grad():
            results = module(*(moved(torch.from_numpy(given[name])) for name in feeds))
        return [y.numpy() for y in (results if isinstance(results, list | tuple) else [results])]
    if compiled:        # by its first call
        run(feeds)
    return run


TORCH = "torch", "torchvision", "onnx2torch"
ENGINES: dict[str, Engine] = {
    "cnncc": Engine(lambda path, threads, *_: functools.partial(compile(path, threads=threads).run, None)),
    "numpy": Engine(lambda path, *_: functools.partial(reference(path).run, None)),
    "onnxruntime": Engine(onnxruntime, ("onnxruntime",)),
    "openvino": Engine(_openvino, ("openvino",)),
    "torch": Engine(_torch, TORCH),
    "torch-channels-last": Engine(functools.partial(_torch, channels_last=True), TORCH),
    "torch-compiled": Engine(functools.partial(_torch, channels_last=True, compiled=True), TORCH)}
