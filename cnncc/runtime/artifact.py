"""The `.cnncc` file: a compiled model, which is also an entry of the cache.

    header    128 bytes, little-endian: magic, format version, lengths of metadata, object and weights,
              SHA-256 of the object, of the weights, and of (the header so far + zeros behind it + metadata)
    weights   packed, from byte 4096 on: they can be written while the code is still being made
    metadata  JSON
    object    native code, to the end of the file

An artifact is native code: trust it as you trust a shared library. Its hashes detect damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.errors import ArtifactError, ModelError

MAGIC = b"CNNCC\0"
FORMAT = 2      # of the container; what is inside the metadata has versions of its own
WEIGHTS_START = 4096    # bytes: where the weights begin
MAX_META, MAX_OBJECT = 64 << 20, 1 << 30
_HEAD = struct.Struct("<6sHQQQ32s32s")  # then the 32 bytes of the hash of these and of the metadata
_HEADER_BYTES = _HEAD.size + 32
_FILLED = bytes(WEIGHTS_START - _HEADER_BYTES)

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled model as read from a file: metadata, object code, and read-only packed weights."""

    meta: dict[str, Any]
    object: bytes
    weights: NDArray[np.uint8]


def write(path: PathLike, meta: Mapping[str, Any], code: bytes, weights: bytes | memoryview = b"") -> None:
    """Write an artifact atomically, of the weights (of an array of bytes: `array.data`).

    Raises OSError if the disk refuses, ArtifactError if a part is beyond what `read` accepts or `path`
    is something other than a file. Either way an older file at `path` is unharmed.
    """
    draft = Draft(path)
    try:
        draft.append(weights)
        draft.finish(meta, code)
    finally:
        draft.abandon()


def to_bytes(meta: Mapping[str, Any], code: bytes, weights: bytes | memoryview = b"") -> bytes:
    """What `write` puts into a file. Raises ArtifactError if a part is beyond what `read` accepts."""
    text, digest = _text("the model", meta, code), hashlib.sha256(weights).digest()
    return b"".join((_header(text, code, len(weights), digest), weights, text, code))


def _text(where: object, meta: Mapping[str, Any], code: bytes) -> bytes:
    text = json.dumps(dict(meta), separators=(",", ":")).encode()
    if len(text) > MAX_META or len(code) > MAX_OBJECT:
        raise ArtifactError(f"{where}: too large: {len(text):,} bytes of metadata (at most {MAX_META:,}), "
                            f"{len(code):,} of object code (at most {MAX_OBJECT:,})")
    return text


def _header(text: bytes, code: bytes, nbytes: int, weights: bytes) -> bytes:
    """All that goes before the weights, by their size and hash."""
    head = _HEAD.pack(MAGIC, FORMAT, len(text), len(code), nbytes, hashlib.sha256(code).digest(), weights)
    return head + hashlib.sha256(head + _FILLED + text).digest() + _FILLED


def read(path: PathLike, verify: bool = False) -> Artifact:
    """Read an artifact; the header, metadata and object are always checked against their hashes.

    The weights are checked by length, and with `verify` by hash. They stay mapped from the file, which
    may be replaced or removed meanwhile, but not overwritten in place.

    Raises ArtifactError, with path and reason, if the file is damaged, not ours or of another format
    version; also, with the system's error as its cause, if it is missing or does not fit in memory.
    """
    with opened(path, ArtifactError) as file:
        return _read(file, os.fspath(path), verify)


def from_bytes(data: bytes) -> Artifact:
    """The artifact in what `to_bytes` gave, checked against all of its hashes. Raises ArtifactError."""
    with open(os.memfd_create("cnncc"), "w+b") as file:     # in memory: one way to read
        file.write(data)
        file.seek(0)
        return _read(file, "the model's bytes", True)


def _read(file: BinaryIO, where: object, verify: bool) -> Artifact:
    def require(right: bool, otherwise: str) -> None:
        if not right:
            raise ArtifactError(f"{where}: {otherwise}")
    nbytes, front = os.fstat(file.fileno()).st_size, file.read(WEIGHTS_START)
    header, filled = front[:_HEADER_BYTES], front[_HEADER_BYTES:]
    require(header[:len(MAGIC)] == MAGIC, "not a .cnncc file: compile models with cnncc.compile"
            if header else "empty file")
    require(len(header) == _HEADER_BYTES, f"truncated within the {_HEADER_BYTES} bytes of its header")
    _, version, meta_size, code_size, weights_size, code_hash, weights_hash = _HEAD.unpack_from(header)
    require(version == FORMAT, f"format {version}, from {'a newer' if version > FORMAT else 'an older'} "
            f"cnncc; this one reads {FORMAT}: compile the model again")
    require(meta_size <= MAX_META and code_size <= MAX_OBJECT, "damaged header: absurd lengths")
    expected = WEIGHTS_START + weights_size + meta_size + code_size
    require(nbytes == expected, f"truncated or damaged: {nbytes:,} bytes, expected {expected:,}")
    file.seek(WEIGHTS_START + weights_size)
    text = file.read(meta_size)
    require(hashlib.sha256(header[:_HEAD.size] + filled + text).digest() == header[_HEAD.size:],
            "damaged header or metadata: the SHA-256 differs")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{where}: metadata is not JSON: {error}") from None
    require(isinstance(meta, dict), "metadata is not a JSON object")
    code = file.read(code_size)
    require(hashlib.sha256(code).digest() == code_hash, "damaged object code: the SHA-256 differs")
    weights = np.empty(0, np.uint8)
    if weights_size:
        weights = np.frombuffer(
            mmap.mmap(file.fileno(), weights_size, access=mmap.ACCESS_READ, offset=WEIGHTS_START), np.uint8)
    require(not verify or hashlib.sha256(weights.data).digest() == weights_hash,
            "damaged weights: the SHA-256 differs")
    return Artifact(meta, code, weights)


@contextmanager
def opened(path: PathLike, kind: type[ModelError]) -> Iterator[BufferedReader]:
    """A regular file to read. Raises `kind`, caused by the system's error, where this or the block can't."""
    try:
        # O_NONBLOCK: a named pipe must not make us wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError("not a regular file")
            yield file
    except (OSError, ValueError, MemoryError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{os.fspath(path)}: cannot be read: {reason}") from error


class Replacement:
    """A new `file` that takes the place of `path` with `commit`, or vanishes with `abandon`.

    Raises OSError if the disk refuses, ArtifactError if `path` is a directory, device or pipe.
    """

    def __init__(self, path: PathLike) -> None:
        self._target = os.path.realpath(path)
        if os.path.exists(self._target) and not os.path.isfile(self._target):
            raise ArtifactError(f"{os.fspath(path)}: not a regular file")
        self._temporary = os.path.join(os.path.dirname(self._target), f".{os.urandom(8).hex()}.tmp")
        try:
            descriptor = os.open(self._temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except OSError as error:
            error.filename = os.fspath(path)
            raise
        self.file = os.fdopen(descriptor, "wb")

    def flush(self) -> None:
        """What was written is on the disk."""
        self.file.flush()
        os.fsync(self.file.fileno())

    def commit(self) -> None:
        self.flush()
        self.file.close()
        os.replace(self._temporary, self._target)

    def abandon(self) -> None:
        """Nothing is left, unless it was committed."""
        with suppress(OSError):
            self.file.close()
        with suppress(OSError):
            os.unlink(self._temporary)


@contextmanager
def replacing(path: PathLike) -> Iterator[BinaryIO]:
    """The file of a Replacement that is committed when the block ends. Raises as that does."""
    new = Replacement(path)
    try:
        yield new.file
        new.commit()
    finally:
        new.abandon()


class Draft:
    """An artifact at `path` in the making: first all of its weights, then `finish`, or `abandon`.

    Raises as `write`.
    """

    def __init__(self, path: PathLike) -> None:
        self._path, self._nbytes, self._digest = path, 0, hashlib.sha256()
        self._new = Replacement(path)
        self._new.file.seek(WEIGHTS_START)

    def append(self, weights: bytes | memoryview) -> None:
        """Write these behind those before."""
        self._digest.update(weights)
        file, at = self._new.file, WEIGHTS_START + self._nbytes
        file.write(weights)
        self._nbytes += len(weights)
        if hasattr(os, "posix_fadvise"):        # so Linux begins to write to the disk what is only in memory
            os.posix_fadvise(file.fileno(), at, len(weights), os.POSIX_FADV_DONTNEED)

    def flush(self) -> None:
        """What was written is on the disk: so much less is left for `finish`."""
        self._new.flush()

    def finish(self, meta: Mapping[str, Any], code: bytes) -> None:
        try:
            text, file = _text(os.fspath(self._path), meta, code), self._new.file
            file.write(text)
            file.write(code)
            file.seek(0)
            file.write(_header(text, code, self._nbytes, self._digest.digest()))
            self._new.commit()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Nothing is left, unless it is finished."""
        self._new.abandon()
