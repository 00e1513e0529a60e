"""Reading the files that a model names: only plain files, and only inside of the model's folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path, PureWindowsPath
from typing import Any, TypeAlias

import numpy as np

from cnncc.ir.errors import ModelError

Array: TypeAlias = np.ndarray[Any, Any]
Opening: TypeAlias = Callable[[str, Path], None]
"""Told the name of a file beside the model, as the model has it, and its real path, before it is read."""

LIMIT = 1 << 31
"""Bytes in the largest model file: protobuf can't hold more, larger models keep their weights beside it."""


def expect(ok: object, why: str) -> None:
    """Raises ModelError unless `ok`; `why` says what is wrong."""
    if not ok:
        raise ModelError(why)


@contextmanager
def opened(path: str | os.PathLike[str], what: str) -> Iterator[tuple[FileIO, int]]:
    """A regular file and its size. Raises ModelError, naming `what`, where the system refuses to read it."""
    try:
        # O_NONBLOCK: a named pipe must not make us wait for its writer.
        with FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            info = os.fstat(file.fileno())
            expect(stat.S_ISREG(info.st_mode), f"{what}: this is no regular file; give a model file's path")
            yield file, info.st_size
    except (OSError, ValueError, MemoryError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise ModelError(f"{what}: can't read the file: {reason}") from None


def read_model(path: str) -> bytes:
    """The bytes of a model file."""
    with opened(path, path) as (file, size):
        expect(size < LIMIT, f"{path}: {size:,} bytes are more than an ONNX file can have (2 GiB); "
                             "save the model with its weights as external data")
        return file.readall()


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


class External:
    """The files beside a model, read slice by slice; a slice is read once, and slices must not overlap."""

    def __init__(self, folder: Path | None, opening: Opening | None) -> None:
        self.folder, self.opening = folder, opening
        self.slices: dict[tuple[Path, int, int], Array] = {}
        self.taken: dict[Path, int] = {}

    def read(self, fields: dict[str, str], size: int, what: str) -> Array:
        """`size` bytes from the place that a tensor's `external_data` entries give, as uint8."""
        location = fields.get("location", "")
        if self.folder is None:
            raise ModelError(f"{what}: its data is in another file, {location[:200]!r}; give the model's "
                             "path, or the folder that holds it")
        path = inside(self.folder, location, what)
        texts = [fields.get("offset", "0"), fields.get("length", str(size))]
        for text in texts:
            expect(text.isascii() and text.isdigit() and len(text) < 19,
                   f"{what}: the place of its external data is {text[:40]!r}, no number of bytes")
        offset, length = map(int, texts)
        expect(length == size, f"{what}: its external data has {length:,} bytes, its shape needs {size:,}")
        if self.opening is not None:
            self.opening(location, path)
        if (path, offset, size) not in self.slices:
            name = repr(path.name[:200])
            with opened(path, f"{what}: its data file {name}") as (file, total):
                expect(offset + size <= total, f"{what}: its data ends at byte {offset + size:,} of {name}, "
                                               f"which has {total:,} bytes")
                self.taken[path] = self.taken.get(path, 0) + size
                expect(self.taken[path] <= total, f"{what}: its data overlaps other tensors' in {name}")
                data = self.slices[path, offset, size] = np.fromfile(file, np.uint8, size, offset=offset)
                expect(data.size == size, f"{what}: its data file {name} ended while it was read")
        return self.slices[path, offset, size]
