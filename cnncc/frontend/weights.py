"""Arrays by name from a safetensors or npz file."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.frontend.files import expect, opened
from cnncc.ir.errors import ModelError
from cnncc.ir.signature import Array

MAX_BYTES = 3 << 30         # of a file, and of what an archive holds


def read_weights(path: Path, what: str) -> dict[str, Array]:
    """All arrays of a file. Raises ModelError, naming `what`, where it can't be read or is too large."""
    suffix = path.suffix.lower()
    expect(suffix in (".safetensors", ".npz"), f"{what}: expected a .safetensors or .npz file")
    with opened(path, what, beside=True) as (file, size):
        expect(size <= MAX_BYTES, f"{what}: {size:,} bytes are too many")
        try:
            return _safetensors(path) if suffix == ".safetensors" else _npz(file)
        except Exception as error:      # what zipfile, NumPy and safetensors raise for a damaged file
            raise ModelError(f"{what}: can't read the file: {str(error)[:200]}") from None


def _safetensors(path: Path) -> dict[str, Array]:
    from safetensors.numpy import load_file
    return dict(load_file(path))


def _npz(file: Any) -> dict[str, Array]:
    expect(zipfile.is_zipfile(file), "it is no npz file")
    file.seek(0)
    with np.load(file, allow_pickle=False) as archive:
        expect(sum(i.file_size for i in archive.zip.infolist()) <= MAX_BYTES, "its arrays are too large")
        return dict(archive)
