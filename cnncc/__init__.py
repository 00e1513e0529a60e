"""cnncc: a compiler from convolutional networks to optimized CPU code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cnncc.version import __version__

if TYPE_CHECKING:
    from cnncc.compiler import compile, load, reference
    from cnncc.ir.errors import CnnccError, InputError, InternalError, ModelError, UnsupportedError
    from cnncc.ir.graph import Graph
    from cnncc.reference_model import Reference
    from cnncc.runtime.model import CompiledModel

_HOMES = {
    "compile": "compiler", "load": "compiler", "reference": "compiler", "Reference": "reference_model",
    "CompiledModel": "runtime.model", "Graph": "ir.graph", "CnnccError": "ir.errors", "InputError": "ir.errors",
    "InternalError": "ir.errors", "ModelError": "ir.errors", "UnsupportedError": "ir.errors",
}
__all__ = ["CnnccError", "CompiledModel", "Graph", "InputError", "InternalError", "ModelError", "Reference",
           "UnsupportedError", "__version__", "compile", "load", "reference"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cnncc' has no attribute {name!r}")
    from importlib import import_module
    return getattr(import_module(f"cnncc.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
