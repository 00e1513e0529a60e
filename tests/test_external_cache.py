"""The compile cache and weights beside the model: what was compiled from other weights is never returned."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_models import floats, model

from cnncc import compiler
from cnncc.ir.errors import ModelError
from cnncc.runtime import cache

X = floats(2, 4)


def write(path: Path, *locations: str) -> Path:
    """A model that adds the four numbers in each of these files to x."""
    names = ["x", *(f"v{i}" for i in range(len(locations)))]
    nodes = [helper.make_node("Add", [names[i], f"k{i}"], [names[i + 1]]) for i in range(len(locations))]
    source = model(nodes, {"x": ["N", 4]}, [names[-1]])
    for i, location in enumerate(locations):
        k = TensorProto(name=f"k{i}", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        k.external_data.add(key="location", value=location)
        source.graph.initializer.append(k)
    path.write_bytes(source.SerializeToString())
    return path


def weights(path: Path, seed: int) -> np.ndarray:
    path.parent.mkdir(exist_ok=True)
    values = floats(4, seed=seed)
    path.write_bytes(values.tobytes())
    return values


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("CNNCC_CACHE", raising=False)
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    return tmp_path / "model"


def hits(path: Path, expected: np.ndarray, caplog: pytest.LogCaptureFixture) -> bool:
    """Whether the cache has the model, whose result must be right either way."""
    caplog.clear()
    with caplog.at_level(logging.INFO, "cnncc"):
        np.testing.assert_allclose(compiler.compile(path)(X), X + expected, rtol=1e-6)
    return "cache hit" in caplog.text


def test_changed_weights_are_compiled(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(folder / "m.onnx", "a.bin", "sub/b.bin")
    a, b = weights(folder / "a.bin", 1), weights(folder / "sub" / "b.bin", 2)
    assert not hits(path, a + b, caplog) and hits(path, a + b, caplog)
    times = os.stat(folder / "sub" / "b.bin")
    b = weights(folder / "sub" / "b.bin", 3)
    os.utime(folder / "sub" / "b.bin", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not hits(path, a + b, caplog) and hits(path, a + b, caplog)
    assert len(cache.entries()) == 1
    (folder / "a.bin").unlink()
    with pytest.raises(ModelError, match=r"k0.*No such file"):
        compiler.compile(path)


def test_an_equal_model_in_another_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, seed in (("one", 1), ("two", 2), ("three", 2)):
        (folder / name).mkdir()
        write(folder / name / "m.onnx", "w")
        values = weights(folder / name / "w", seed)
        assert hits(folder / name / "m.onnx", values, caplog) == (name == "three")


def test_relative_paths(folder: Path, monkeypatch: pytest.MonkeyPatch,
                        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.chdir(folder)
    write(folder / "m.onnx", "w")
    for seed in (1, 2):
        values = weights(folder / "w", seed)
        assert not hits(Path("m.onnx"), values, caplog) and hits(Path("m.onnx"), values, caplog)


def test_links(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(folder / "m.onnx", "a", "link")
    a, b = weights(folder / "a", 1), weights(folder / "b", 2)
    (folder / "link").symlink_to("a")       # two names of one file
    assert not hits(path, a + a, caplog) and hits(path, a + a, caplog)
    (folder / "link").unlink()
    (folder / "link").symlink_to("b")
    assert not hits(path, a + b, caplog) and hits(path, a + b, caplog)
    weights(folder.parent / "secret", 2)    # the same content as b's, but outside
    (folder / "link").unlink()
    (folder / "link").symlink_to(folder.parent / "secret")
    with pytest.raises(ModelError, match="a link out of the model's folder"):
        compiler.compile(path)


def test_names_in_an_entry_lead_nowhere_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights(folder.parent / "secret", 1)
    path = write(folder / "m.onnx", "w")
    read: list[str] = []
    monkeypatch.setattr(cache, "file_hash", lambda *paths: read.extend(map(str, paths)) or "0" * 64)
    for name in ("../secret", str(folder.parent / "secret"), "", "w\0"):
        assert not compiler._unchanged(path, {name: "0" * 64})
    assert read == [] and compiler._unchanged(path, {"w": "0" * 64}) and len(read) == 1


def test_without_a_cache_nothing_is_hashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, values = write(folder / "m.onnx", "w"), weights(folder / "w", 1)
    monkeypatch.setattr(cache, "file_hash", None)
    np.testing.assert_allclose(compiler.compile(path, cache=False)(X), X + values, rtol=1e-6)
    monkeypatch.setenv("CNNCC_CACHE", "0")
    np.testing.assert_allclose(compiler.compile(path)(X), X + values, rtol=1e-6)


@pytest.mark.parametrize("beside", [False, True])
def test_a_hit_imports_no_onnx(folder: Path, beside: bool) -> None:
    path = write(folder / "m.onnx", "w")
    weights(folder / "w", 1)
    if not beside:
        onnx.save(onnx.load(path), path)
    compiler.compile(path)
    code = ("import sys, cnncc; cnncc.compile(sys.argv[1]); "
            "print(*({'onnx', 'networkx', 'cnncc.frontend.onnx_file'} & sys.modules.keys()))")
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_weights_that_change_while_they_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, old = write(folder / "m.onnx", "w"), weights(folder / "w", 1)
    build = compiler._build

    def build_late(*args: Any) -> Any:
        *rest, opening, packed = args

        def change(name: str, file: Path) -> None:
            opening(name, file)
            weights(file, 2)
        return build(*rest, change, packed)
    monkeypatch.setattr(compiler, "_build", build_late)
    np.testing.assert_allclose(compiler.compile(path)(X), X + floats(4, seed=2), rtol=1e-6)
    assert cache.entries() == []
    monkeypatch.setattr(compiler, "_build", build)
    weights(folder / "w", 1)
    np.testing.assert_allclose(compiler.compile(path)(X), X + old, rtol=1e-6)
