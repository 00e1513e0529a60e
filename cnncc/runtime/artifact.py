"""The `.cnncc` file: a compiled model, which is also an entry of the cache.

    header    128 bytes, little-endian: magic, format version, lengths of the three parts,
              SHA-256 of the object, of the weights, and of (the header so far + metadata)
    metadata  JSON
    object    native code
    weights   packed, at the next multiple of 4096 bytes, to the end of the file

An artifact is native code: trust it as you trust a shared library. Its hashes detect damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.errors import ArtifactError
from cnncc.runtime import buffers

MAGIC = b"CNNCC\0"
FORMAT = 1
"""Version of the container; what is inside the metadata has versions of its own."""

WEIGHTS_ALIGNMENT = 4096
MAX_META = 64 << 20
MAX_OBJECT = 1 << 30
_HEAD = struct.Struct("<6sHQQQ32s32s")  # then the 32 bytes of the hash of these and of the metadata
_HEADER_BYTES = _HEAD.size + 32


@dataclass(frozen=True, eq=False)
class Artifact:
    """A compiled model as read from a file: metadata, object code, and read-only packed weights."""

    meta: dict[str, Any]
    object: bytes
    weights: NDArray[np.uint8]


def write(
    path: str | os.PathLike[str],
    meta: Mapping[str, Any],
    object_bytes: bytes,
    weights: Iterable[bytes | memoryview] = (),
) -> None:
    """Write an artifact atomically; `weights` (of an array: `array.data`) are stored one after the other.

    Raises OSError if the disk refuses, ArtifactError if a part is beyond what `read` accepts or `path`
    is something other than a file. Either way an older file at `path` is unharmed.
    """
    text = json.dumps(dict(meta), separators=(",", ":")).encode()
    if len(text) > MAX_META or len(object_bytes) > MAX_OBJECT:
        raise ArtifactError(
            f"{path}: too large: {len(text):,} bytes of metadata (at most {MAX_META:,}), "
            f"{len(object_bytes):,} of object code (at most {MAX_OBJECT:,})"
        )
    with replacing(path) as file:
        start = _weights_start(len(text), len(object_bytes))
        file.write((bytes(_HEADER_BYTES) + text + object_bytes).ljust(start, b"\0"))
        length, digest = 0, hashlib.sha256()
        for piece in weights:
            length += memoryview(piece).nbytes
            digest.update(piece)
            file.write(piece)
        object_digest = hashlib.sha256(object_bytes).digest()
        head = _HEAD.pack(MAGIC, FORMAT, len(text), len(object_bytes), length, object_digest, digest.digest())
        file.seek(0)
        file.write(head + hashlib.sha256(head + text).digest())


def read(path: str | os.PathLike[str], verify: bool = False, copy: bool = False) -> Artifact:
    """Read an artifact; the header, metadata and object are always checked against their hashes.

    The weights are checked by length, and with `verify` by hash. They stay mapped from the file (which
    may be replaced or removed meanwhile, but not overwritten in place), or with `copy` become a private
    copy in huge pages.

    Raises ArtifactError, with path and reason, if the file is damaged, not ours or of another format
    version; also, with the system's error as its cause, if it is missing or does not fit in memory.
    """
    try:
        # O_NONBLOCK: a named pipe must not make us wait for its writer.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            return _read(file, verify, copy)
    except _Damage as damage:
        raise ArtifactError(f"{os.fspath(path)}: {damage}") from None
    except OSError as error:
        raise ArtifactError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error
    except (ValueError, MemoryError, OverflowError) as error:
        raise ArtifactError(f"{os.fspath(path)}: cannot be read: {error}") from error


class _Damage(Exception):
    """Why the bytes are not an artifact."""


def _read(file: BinaryIO, verify: bool, copy: bool) -> Artifact:
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise _Damage("not a regular file")
    header = file.read(_HEADER_BYTES)
    if header[: len(MAGIC)] != MAGIC:
        raise _Damage("not a .cnncc file" if header else "empty file")
    if len(header) < _HEADER_BYTES:
        raise _Damage(f"truncated: {len(header)} bytes, the header alone has {_HEADER_BYTES}")
    _, version, meta_size, object_size, weights_size, code_digest, weights_digest = _HEAD.unpack_from(header)
    if version != FORMAT:
        age = "a newer" if version > FORMAT else "an older"
        raise _Damage(f"format {version}, from {age} cnncc; this one reads {FORMAT}: compile the model again")
    if meta_size > MAX_META or object_size > MAX_OBJECT:
        raise _Damage("damaged header: absurd lengths")
    start = _weights_start(meta_size, object_size)
    if status.st_size != start + weights_size:
        raise _Damage(f"truncated or damaged: {status.st_size:,} bytes, expected {start + weights_size:,}")
    text = file.read(meta_size)
    if hashlib.sha256(header[: _HEAD.size] + text).digest() != header[_HEAD.size :]:
        raise _Damage("damaged header or metadata: the SHA-256 differs")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _Damage(f"metadata is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise _Damage("metadata is not a JSON object")
    code = file.read(object_size)
    if hashlib.sha256(code).digest() != code_digest:
        raise _Damage("damaged object code: the SHA-256 differs")
    weights = _weights(file, start, weights_size, copy)
    if verify and hashlib.sha256(weights.data).digest() != weights_digest:
        raise _Damage("damaged weights: the SHA-256 differs")
    return Artifact(meta, code, weights)


def _weights(file: BinaryIO, start: int, size: int, copy: bool) -> NDArray[np.uint8]:
    if size and not copy:
        memory = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start)
        return np.frombuffer(memory, np.uint8)
    weights = buffers.aligned(size)
    file.seek(start)
    if file.readinto(weights.data) != size:  # type: ignore[attr-defined]
        raise _Damage("truncated while it was read")
    weights.flags.writeable = False
    return weights


def _weights_start(meta_size: int, object_size: int) -> int:
    return -(-(_HEADER_BYTES + meta_size + object_size) // WEIGHTS_ALIGNMENT) * WEIGHTS_ALIGNMENT


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A new file that takes the place of `path` when the block ends, and vanishes if the block raises.

    Raises OSError if the disk refuses, ArtifactError if `path` is a directory, device or pipe.
    """
    target = os.path.realpath(path)
    if os.path.exists(target) and not os.path.isfile(target):
        raise ArtifactError(f"{os.fspath(path)}: not a regular file")
    temporary = os.path.join(os.path.dirname(target), f".{os.urandom(8).hex()}.tmp")
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
