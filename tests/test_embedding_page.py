"""docs/embedding.md: every file is written, every command runs, every line that it shows is printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from embedded import compiler

import cnncc

PAGE = Path(__file__).parents[1] / "docs" / "embedding.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
PROGRAMS = {"cnncc": [sys.executable, "-m", "cnncc"], "python3": [sys.executable]}
NAME = re.compile(r"^(?:/\* |// |# )([\w.]+)")


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tool in ("cc", "c++", "cmake", "pkg-config"):
        compiler(tool)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(cnncc.__file__).parents[1]))
    Path("digits.onnx").write_bytes((files("cnncc") / "data" / "digits.onnx").read_bytes())
    blocks = BLOCK.findall(PAGE.read_text())
    assert {kind for kind, _ in blocks} == {"c", "cpp", "cmake", "console", "python"}
    for kind, text in blocks:
        if kind == "python":
            exec(text, {})
        elif kind != "console":
            name = NAME.match(text)
            assert name, text
            Path(name[1]).write_text(text)
        else:
            for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.M):
                program, *arguments = shlex.split(command)
                line = PROGRAMS.get(program, [program])
                done = subprocess.run([*line, *arguments], capture_output=True, text=True, check=False)
                assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
                assert not expected or done.stdout == expected, command
    assert len(next(t for k, t in blocks if k == "c").splitlines()) <= 40
