"""The Python in Markdown files, run as a reader would: every block in order, in one namespace."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)


def run(path: Path, folder: Path, patch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the ```python blocks of a file, within `folder`; errors name the file's lines. The namespace."""
    text = path.read_text()
    blocks = list(BLOCK.finditer(text))
    assert blocks, f"{path.name} has no Python"
    patch.chdir(folder)
    names: dict[str, Any] = {"__name__": path.stem}
    for block in blocks:
        line = text[:block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], str(path), "exec"), names)
    return names
