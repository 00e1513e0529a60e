"""Checkpoints: a folder of safetensors files with all that training goes on from.

A file has the arrays of a state and, as metadata, JSON and the SHA-256 of both. It appears complete or not at
all, and the last good ones are kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.ir.errors import ArtifactError, InputError
from cnncc.ir.signature import Array
from cnncc.runtime.artifact import opened, replacing

NAME = re.compile(r"step-(\d{9,})\.safetensors")
TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved: arrays by name, and what else there is to know, as JSON has it."""

    state: dict[str, Array]
    meta: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class Folder:
    """The checkpoints in a folder, of which the last `keep` stay."""

    path: Path
    keep: int = 3

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise InputError(f"keep: expected at least 1 checkpoint, got {self.keep}")

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder, made and locked. Raises InputError where another process has it, or it is none."""
        from filelock import FileLock, Timeout
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.path / ".lock", timeout=0)
            with lock:
                for left in self.path.iterdir():        # by a process that was killed
                    if TEMPORARY.fullmatch(left.name):
                        left.unlink()
                yield
        except Timeout:
            raise InputError(f"{self.path}: another process trains with these checkpoints") from None
        except NotADirectoryError as error:
            raise InputError(f"{self.path}: cannot be a folder of checkpoints: {error.strerror}") from None
        except FileExistsError:
            raise InputError(f"{self.path}: is a file, expected a folder for checkpoints") from None

    def files(self) -> list[Path]:
        """From old to new."""
        found = [f for f in self.path.iterdir() if NAME.fullmatch(f.name)] if self.path.is_dir() else []
        return sorted(found, key=lambda f: int(NAME.fullmatch(f.name)[1]))      # type: ignore[index]

    def save(self, step: int, state: Mapping[str, Array], meta: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step; then those beyond `keep` go. Raises OSError."""
        path = self.path / f"step-{step:09}.safetensors"
        write(path, state, meta)
        for old in self.files()[:-self.keep]:
            with suppress(OSError):
                old.unlink()
        return path

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest good checkpoint, if there is one, and what is wrong with those that are newer."""
        problems: list[str] = []
        for path in reversed(self.files()):
            try:
                return read(path), problems
            except ArtifactError as error:
                problems.append(str(error))
        return None, problems


def write(path: Path, state: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write a checkpoint, to be there after a loss of power. Raises OSError."""
    from safetensors.numpy import save
    arrays = {name: np.ascontiguousarray(a).reshape(a.shape) for name, a in state.items()}
    text = json.dumps(dict(meta), separators=(",", ":"))
    data = save(arrays, {"cnncc": text, "sha256": _digest(arrays, text)})
    with replacing(path) as file:
        file.write(data)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises ArtifactError where it is damaged or something else."""
    from safetensors import SafetensorError, safe_open
    with opened(path, ArtifactError):       # a regular file
        pass
    try:
        with safe_open(path, "np") as file:
            noted = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}      # noqa: SIM118
    except (SafetensorError, ValueError, TypeError, OSError, MemoryError) as error:
        raise ArtifactError(f"{path}: damaged checkpoint: {str(error)[:200]}") from None
    if not {"cnncc", "sha256"} <= noted.keys():
        raise ArtifactError(f"{path}: not a checkpoint of cnncc")
    if _digest(arrays, noted["cnncc"]) != noted["sha256"]:
        raise ArtifactError(f"{path}: damaged checkpoint: the SHA-256 differs")
    return Checkpoint(arrays, json.loads(noted["cnncc"]), path)


def _digest(arrays: Mapping[str, Array], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name, a in sorted(arrays.items()):
        digest.update(f"\0{name}\0{a.dtype.str}{a.shape}\0".encode())
        digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()
