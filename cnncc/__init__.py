"""cnncc: a compiler from convolutional networks to optimized CPU code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnncc.version import __version__

if TYPE_CHECKING:
    from cnncc.compiler import compile, convert, reference
    from cnncc.embedding.embed import Embedded, embed
    from cnncc.frontend.builder import Builder
    from cnncc.frontend.preprocess import Preprocess
    from cnncc.frontend.user import UserOp, op
    from cnncc.ir.errors import (
        ArtifactError,
        CnnccError,
        InputError,
        InternalError,
        ModelError,
        UnsupportedError,
    )
    from cnncc.ir.graph import Graph
    from cnncc.reference_model import Reference
    from cnncc.runtime.model import CompiledModel, load
    from cnncc.runtime.specialise import SpecialisingModel
    from cnncc.session import (
        ExecutionMode,
        GraphOptimizationLevel,
        InferenceSession,
        RunOptions,
        SessionOptions,
        get_available_providers,
        get_device,
    )
    from cnncc.train.optimizers import SGD, Adam, AdamW, RMSprop
    from cnncc.train.trainer import Trainer
    from cnncc.tuner import tune

_HOMES = {"compile": "compiler", "convert": "compiler", "reference": "compiler", "Graph": "ir.graph",
          "Embedded": "embedding.embed", "embed": "embedding.embed",
          "Builder": "frontend.builder", "Preprocess": "frontend.preprocess",
          "UserOp": "frontend.user", "op": "frontend.user",
          "Reference": "reference_model", "tune": "tuner",
          "load": "runtime.model", "CompiledModel": "runtime.model",
          "SpecialisingModel": "runtime.specialise", "Trainer": "train.trainer",
          **dict.fromkeys(("SGD", "Adam", "AdamW", "RMSprop"), "train.optimizers"),
          **dict.fromkeys(("ExecutionMode", "GraphOptimizationLevel", "InferenceSession", "RunOptions",
                           "SessionOptions", "get_available_providers", "get_device"), "session")}
_MODULES = ("backend", "explanations", "sklearn", "torch_backend", "train")
__all__ = ["SGD", "Adam", "AdamW", "ArtifactError", "Builder", "CnnccError", "CompiledModel", "Embedded",
           "ExecutionMode", "Graph", "GraphOptimizationLevel", "InferenceSession", "InputError",
           "InternalError", "ModelError", "Preprocess", "RMSprop", "Reference", "RunOptions",
           "SessionOptions", "SpecialisingModel", "Trainer", "UnsupportedError", "UserOp", "__version__",
           "compile", "convert", "embed", "get_available_providers", "get_device", "load", "op", "reference",
           "tune"]   # the rest: errors


def __getattr__(name: str) -> Any:
    from importlib import import_module
    if name in _MODULES:
        return import_module(f"cnncc.{name}")
    if name not in __all__:
        raise AttributeError(f"module 'cnncc' has no attribute {name!r}")
    return getattr(import_module(f"cnncc.{_HOMES.get(name, 'ir.errors')}"), name)


def __dir__() -> list[str]:
    return __all__
