"""Reading of untrusted model files: plain files only, and beside a model only those inside of its folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path, PureWindowsPath
from typing import TypeAlias, TypeGuard

from cnncc.frontend import foreign
from cnncc.ir.errors import ModelError

Opening: TypeAlias = Callable[[str, Path], None]
"""Told the name of a file beside the model, as the model has it, and its real path, before it is read."""

DEFINITIONS = (".yaml", ".yml")
LIMIT = 1 << 31             # bytes in a model file: protobuf holds no more, others keep weights beside it


def is_definition(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Whether this is the path of a definition file."""
    return isinstance(source, str | os.PathLike) and Path(os.fsdecode(source)).suffix.lower() in DEFINITIONS


def expect(ok: object, why: str) -> None:
    """Raises ModelError unless `ok`; `why` says what is wrong."""
    if not ok:
        raise ModelError(why)


@contextmanager
def opened(path: str | os.PathLike[str], what: str, beside: bool = False) -> Iterator[tuple[FileIO, int]]:
    """A regular file and its size. Raises ModelError, naming `what`, where the system refuses to read it.

    A file `beside` the model, which names it, must have no other hard link: that may be anywhere.
    """
    try:
        # O_NONBLOCK: a named pipe must not make us wait for its writer.
        with FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            info = os.fstat(file.fileno())
            expect(stat.S_ISREG(info.st_mode), f"{what}: this is no regular file; give a model file's path")
            expect(not beside or info.st_nlink < 2, f"{what}: the file has other hard links, which may lead "
                   "out of the model's folder: copy it there")
            yield file, info.st_size
    except (OSError, ValueError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"{what}: can't read the file: {reason}{foreign.advice_at(path)}") from None


def inside(folder: Path, location: str, what: str) -> Path:
    """The real path of `location` within `folder`. Raises ModelError where it would lead out of it."""
    where, windows = f"{what}: its data is in {location[:200]!r}", PureWindowsPath(location)
    expect(location and "\0" not in location and not windows.drive and not windows.root,
           f"{where}; only paths relative to the model's folder are read")
    expect(".." not in windows.parts, f"{where}; paths with '..' are not followed")
    try:
        root = folder.resolve(strict=True)
        path = (root / location).resolve()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{where}, which can't be found: {error}") from None
    expect(path.is_relative_to(root), f"{where}, a link out of the model's folder: copy the file there")
    return path
