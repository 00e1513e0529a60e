"""The compile cache: a folder of artifacts, and the remembered hashes of model files.

Variables: CNNCC_CACHE=0 switches it off; CNNCC_CACHE_DIR is the folder (empty: off); CNNCC_CACHE_BYTES
bounds it (default 4 GiB; 0: off). Whatever the disk does, the worst outcome is to compile again.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any, Self

from cnncc.ir.errors import ArtifactError, InputError, ModelError
from cnncc.runtime import artifact

_LOG = logging.getLogger("cnncc.cache")
_INDEX, _INDEX_FILES, _INDEX_BYTES = "files.json", 1000, 4 << 20
_SETTLED = 2 * 10**9  # ns: a file changed more recently may change again within one tick of its clock
_STALE = 3600  # s: a temporary file older than this lost its writer


@dataclass(frozen=True)
class Entry:
    """One artifact in the cache: its size in bytes, and when it was last used (seconds since 1970)."""

    key: str
    path: Path
    nbytes: int
    used: float


def limit() -> int:
    """The bound on the cache in bytes. Raises InputError if CNNCC_CACHE_BYTES is not a whole number."""
    text = os.environ.get("CNNCC_CACHE_BYTES", "").strip() or str(4 << 30)
    if not re.fullmatch("[0-9]{1,19}", text):
        raise InputError(f"CNNCC_CACHE_BYTES={text!r}: expected a whole number of bytes, 0 for no cache")
    return int(text)


def directory() -> Path | None:
    """The cache's folder, created if need be; None if the cache is off or the folder cannot be trusted.

    Raises as `limit`.
    """
    chosen = os.environ.get("CNNCC_CACHE_DIR")
    if os.environ.get("CNNCC_CACHE", "").strip() == "0" or chosen == "" or limit() == 0:
        return None
    if chosen is None:
        import platformdirs
        chosen = platformdirs.user_cache_dir("cnncc")
    path = Path(os.path.abspath(os.path.expanduser(chosen)))
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.stat()
    except (OSError, ValueError) as error:
        return _without(f"no compile cache: {error}")
    if status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return _without(f"no compile cache: others own {path} or may write to it")
    return path


def key(*parts: str | bytes) -> str:
    """The SHA-256, in hex, that names what is compiled from `parts` (their order and borders count)."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(b"%s%d:" % (b"b" if isinstance(part, bytes) else b"s", len(data)))
        digest.update(data)
    return digest.hexdigest()


def load(key: str) -> artifact.Artifact | None:
    """The stored artifact, marked as used; None if there is none. A damaged one is removed."""
    if (folder := directory()) is None:
        return None
    path = folder / f"{key}.cnncc"
    try:
        found = artifact.read(path)
    except ArtifactError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            _LOG.warning("not used from the compile cache: %s", error)
        if error.__cause__ is None:  # the file is to blame, not the disk or the memory
            _remove(path)
        return None
    _touch(path)
    return found


class Making:
    """An entry of which the weights are written while the code is made; unfinished it leaves nothing.

    What goes wrong is warned of once: then there is no entry.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        self._folder = directory()
        self._draft: artifact.Draft | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._draft is not None:
            self._draft.abandon()

    def append(self, weights: memoryview) -> None:
        """Write weights behind those before."""
        self._attempt(lambda draft: draft.append(weights))

    def flush(self) -> None:
        """What was written is on the disk: so much less is left for `finish`."""
        self._attempt(artifact.Draft.flush)

    def _attempt(self, do: Callable[[artifact.Draft], None]) -> None:
        if self._folder is None:
            return
        try:
            self._draft = self._draft or artifact.Draft(self._folder / f"{self.key}.cnncc")
            do(self._draft)
        except (OSError, ArtifactError) as error:
            _unstored(self._folder, error)
            self._folder = None

    def finish(self, meta: Mapping[str, Any], code: bytes) -> None:
        """Write the rest, and keep it as `store` does."""
        self._attempt(lambda draft: None)       # also where there are no weights
        if (draft := self._draft) is not None and self._folder is not None:
            store(self.key, lambda _: draft.finish(meta, code))


def store(key: str, write: Callable[[Path], None]) -> Path | None:
    """Store what `write` writes, remove the least recently used beyond the limit; None if that fails."""
    if (folder := directory()) is None:
        return None
    path = folder / f"{key}.cnncc"
    try:
        write(path)
        nbytes = path.stat().st_size
    except (OSError, ArtifactError) as error:
        return _unstored(folder, error)
    if nbytes > limit():
        _remove(path)
        return _without(f"not stored in the compile cache: {nbytes:,} bytes exceed its limit of {limit():,}")
    _touch(path)
    try:
        _remove_stale(folder, _STALE)
        if sum(entry.nbytes for entry in entries()) > limit():
            _trim(folder, path)
    except (OSError, NotImplementedError) as error:  # no locks on this disk, or another process is at it
        _LOG.info("compile cache not trimmed: %s", error)
    return path


def _trim(folder: Path, path: Path) -> None:
    """Remove the least recently used beyond the limit, but not `path`. Raises OSError without a lock."""
    import filelock
    with filelock.FileLock(folder / "lock", timeout=10):
        held = entries()
        excess = sum(entry.nbytes for entry in held) - limit()
        for entry in reversed(held):
            if excess > 0 and entry.path != path and _remove(entry.path):
                excess -= entry.nbytes


def entries() -> list[Entry]:
    """What the cache holds, the most recently used first."""
    found, folder = [], directory()
    for path in folder.glob("*.cnncc") if folder else ():
        with suppress(OSError):
            status = path.stat()
            found.append(Entry(path.stem, path, status.st_size, status.st_mtime))
    return sorted(found, key=lambda entry: entry.used, reverse=True)


def clear() -> int:
    """Remove everything from the cache; return how many artifacts that were."""
    if (folder := directory()) is None:
        return 0
    _remove(folder / _INDEX)
    _remove_stale(folder, 0)
    return sum(_remove(entry.path) for entry in entries())


def file_hash(path: str | os.PathLike[str]) -> str:
    """The SHA-256, in hex, of a file, remembered while path, size, inode and times stay the same.

    Raises ModelError if it can't be read.
    """
    known: dict[str, Any] = {}      # [stamp, digest] by path
    if folder := directory():
        with suppress(OSError, ValueError, RecursionError), open(folder / _INDEX, "rb") as file:
            rows = json.loads(file.read(_INDEX_BYTES))
            known = rows if isinstance(rows, dict) else {}
    with artifact.opened(path, ModelError) as file:
        name, stamp = os.path.realpath(path), _stamp(file)
        match known.pop(name, None):    # it goes to the end: the oldest are dropped first
            case [old, str(digest)] if old == stamp and re.fullmatch("[0-9a-f]{64}", digest):
                return digest
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        # Its times tell a later change only if the last one is a while ago.
        settled = _stamp(file) == stamp and max(stamp[1:3]) < time.time_ns() - _SETTLED
    if folder and settled:
        newest = [*known.items(), (name, (stamp, digest))][-_INDEX_FILES:]
        with suppress(OSError, ArtifactError), artifact.replacing(folder / _INDEX) as index:
            index.write(json.dumps(dict(newest)).encode())
    return digest


def _stamp(file: BufferedReader) -> list[int]:
    status = os.fstat(file.fileno())
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def _remove_stale(folder: Path, age: float) -> None:
    """Remove what a killed process has left."""
    for path in folder.glob(".*.tmp"):
        with suppress(OSError):
            if path.stat().st_mtime <= time.time() - age:
                path.unlink()


def _remove(path: Path) -> bool:
    with suppress(OSError):
        path.unlink()
        return True
    return False


def _touch(path: Path) -> None:
    with suppress(OSError):
        now = time.time_ns()  # finer than the kernel's own clock for files
        os.utime(path, ns=(now, now))


def _unstored(folder: Path, error: Exception) -> Path | None:
    """None, and a warning, where writing fails."""
    reason = getattr(error, "strerror", None) or error      # without the name of the temporary file
    return _without(f"not stored in the compile cache: {folder}: {reason}")


@functools.cache
def _without(reason: str) -> Path | None:
    """None, and a warning the first time."""
    _LOG.warning("%s", reason)
    return None
