"""Reading the files that a model names: only plain files, and only inside of the model's folder."""

from __future__ import annotations

import mmap
import os
import stat
from io import FileIO
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from cnncc.ir.errors import ModelError

LIMIT = 1 << 31
"""Bytes in the largest model file: protobuf can't hold more, larger models keep their weights beside it."""


def open_plain(path: str | os.PathLike[str], what: str) -> tuple[int, int]:
    """A descriptor (never inherited) of a regular file, and its size. Raises ModelError naming `what`."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)      # a pipe must not make us wait
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ModelError(f"{what}: can't open the file: {reason}") from None
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        os.close(fd)
        kind = "a directory" if stat.S_ISDIR(info.st_mode) else "no regular file"
        raise ModelError(f"{what}: this is {kind}; give the path of a model file")
    return fd, info.st_size


def read_bytes(file: FileIO, size: int) -> np.ndarray[Any, Any]:
    """The next `size` bytes (NumPy's memory takes them faster than `bytes`, in huge pages)."""
    data = np.empty(size, np.uint8)
    done = 0
    while done < size:
        count = file.readinto(data[done:].data)
        if not count:
            raise OSError("the file ended while it was read")
        done += count
    return data


def read_model(path: str | os.PathLike[str], map_only: bool = False) -> memoryview:
    """The bytes of a model file; `map_only` maps it instead, for a short look without its weights."""
    label = os.fsdecode(path)
    fd, size = open_plain(path, label)
    with FileIO(fd) as file:
        if size == 0:
            raise ModelError(f"{label}: the file is empty")
        if size > LIMIT:
            raise ModelError(f"{label}: {size:,} bytes are more than an ONNX file can have (2 GiB); "
                             "save the model with its weights as external data")
        try:
            if map_only:
                return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ))
            return read_bytes(file, size).data.toreadonly()
        except (OSError, ValueError, MemoryError) as error:
            raise ModelError(f"{label}: can't read the file: {error}") from None


def inside(folder: Path, location: str, what: str) -> Path:
    """The real path of `location` within `folder`. Raises ModelError where it would lead out of it."""
    windows = PureWindowsPath(location)
    if not location or "\0" in location or location.startswith("/") or windows.drive or windows.root:
        raise ModelError(f"{what}: its data is in {location[:200]!r}; only paths relative to the model's "
                         "folder are read")
    if ".." in windows.parts:
        raise ModelError(f"{what}: its data is in {location[:200]!r}; paths with '..' are not followed")
    try:
        root = folder.resolve(strict=True)
        path = (root / location).resolve()
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{what}: can't find its data {location[:200]!r}: {error}") from None
    if not path.is_relative_to(root):
        raise ModelError(f"{what}: its data {location[:200]!r} is a link out of the model's folder: "
                         "copy the file there")
    return path


class External:
    """The files beside a model, read slice by slice; a slice is read once, and slices must not overlap."""

    def __init__(self, folder: Path | None, map_only: bool = False) -> None:
        self.folder, self.map_only = folder, map_only
        self.slices: dict[tuple[Path, int, int], np.ndarray[Any, Any]] = {}
        self.taken: dict[Path, int] = {}

    def read(self, fields: dict[str, str], size: int, what: str) -> np.ndarray[Any, Any]:
        """`size` bytes from the place that a tensor's `external_data` entries give, as uint8."""
        if self.folder is None:
            raise ModelError(f"{what}: its data is in another file, {fields.get('location', '')!r}; give the "
                             "model's path, or the folder that holds it")
        path = inside(self.folder, fields.get("location", ""), what)
        offset, length = _number(fields, "offset", 0, what), _number(fields, "length", size, what)
        if length != size:
            raise ModelError(f"{what}: its external data has {length:,} bytes, its shape needs {size:,}")
        found = self.slices.get((path, offset, size))
        return self._slice(path, offset, size, what) if found is None else found

    def _slice(self, path: Path, offset: int, size: int, what: str) -> np.ndarray[Any, Any]:
        fd, total = open_plain(path, f"{what}: its data file {path.name[:200]!r}")
        with FileIO(fd) as file:
            if offset + size > total:
                raise ModelError(f"{what}: its data ends at byte {offset + size:,} of {path.name[:200]!r}, "
                                 f"which has {total:,} bytes")
            self.taken[path] = self.taken.get(path, 0) + size
            if self.taken[path] > total:
                raise ModelError(f"{what}: its data overlaps that of other tensors in {path.name[:200]!r}")
            try:
                if self.map_only and size:
                    return np.memmap(file, np.uint8, "r", offset, (size,))
                file.seek(offset)
                data = read_bytes(file, size)
            except (OSError, ValueError, MemoryError) as error:
                raise ModelError(f"{what}: can't read its data from {path.name[:200]!r}: {error}") from None
        self.slices[path, offset, size] = data
        return data


def _number(fields: dict[str, str], key: str, default: int, what: str) -> int:
    text = fields.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ModelError(f"{what}: the {key} of its external data is {text[:40]!r}, no number of bytes")
    return int(text)
