"""The snippets of Markdown files, run as a reader would: Python in one namespace, and the command line."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from cnncc.cli import main

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.M | re.S)


def run(path: Path, folder: Path, patch: pytest.MonkeyPatch, without: str = "",
        console: bool = False) -> dict[str, Any]:
    """Run the ```python blocks of a file, within `folder`; errors name the file's lines. The namespace.

    Blocks that mention the package `without` are left out. With `console` the commands after "$ " are run as
    well, and must succeed.
    """
    text = path.read_text()
    blocks = [b for b in BLOCK.finditer(text) if not without or without not in b[2]]
    assert blocks, f"{path.name} has no Python"
    patch.chdir(folder)
    names: dict[str, Any] = {"__name__": path.stem}
    for block in blocks:
        line = text[:block.start(2)].count("\n")
        if block[1] == "python":
            exec(compile("\n" * line + block[2], str(path), "exec"), names)
        elif console:
            for command in re.findall(r"^\$ (.*)$", block[2], re.M):
                program, *arguments = shlex.split(command)
                assert program == "cnncc" and main(arguments) == 0, f"{path.name}: {command}"
    return names
