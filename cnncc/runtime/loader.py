"""Object bytes into this process: LLVM's linker loads a model's objects, and once the thread pool."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.ir.errors import ArtifactError

ABI = 4
"""Version of what generated code and runtime agree on: call frame, arguments, pool, the list of objects."""

ENTRY = "cnncc_run"
POOL = ("cnncc_pool_acquire", "cnncc_pool_run", "cnncc_pool_release")

_lock, _names = threading.Lock(), itertools.count()
_pool: list[Any] = []     # its library, once it is loaded


@dataclass(frozen=True, eq=False, slots=True)
class Code:
    """Addresses of the entry, valid while this lives, and of the pool's acquire, run, release (or 0)."""

    entry: int
    pool: tuple[int, int, int]
    library: object


def load_code(objects: Sequence[bytes], pool: bytes | None = None) -> Code:
    """Link `objects`, which together define the entry, and the thread pool unless the process has one.

    LLVM may crash on damaged objects: check their hash. Raises ArtifactError where they don't fit together.
    """
    with _lock:
        if not _pool and pool is not None:
            _pool.append(_link([pool], POOL))
        library = _link(objects, (ENTRY,))
    acquire, run, release = (_pool[0][name] if _pool else 0 for name in POOL)
    return Code(library[ENTRY], (acquire, run, release), library)


@functools.cache
def _jit() -> Any:
    """LLVM's linker of this process; JITLink takes half the time of the default RuntimeDyld."""
    import llvmlite.binding as llvm
    llvm.initialize_native_target()
    return llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)


def _link(objects: Sequence[bytes], exports: Sequence[str]) -> Any:
    """The library of these objects, which lives as long as the result: the addresses of its exports."""
    import llvmlite.binding as llvm
    builder = llvm.JITLibraryBuilder().add_current_process()
    for data in objects:
        builder.add_object_img(data)
    for name in exports:
        builder.export_symbol(name)
    try:
        return builder.link(_jit(), f"cnncc{next(_names)}")
    except RuntimeError as error:
        raise ArtifactError(f"the object code cannot be loaded: {error}") from error
