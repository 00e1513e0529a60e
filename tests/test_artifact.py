"""The .cnncc file: what is written is read again, and every damage is an ArtifactError."""

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cnncc.ir.errors import ArtifactError, CnnccError, ModelError, UnsupportedError
from cnncc.runtime import artifact, buffers

META = {"name": "tiny", "inputs": [["x", [1, 3, 8, 8], "f32"]], "text": "größer \ud800"}
CODE = bytes(range(256)) * 9
WEIGHTS = b"\1" * 64 + np.arange(500, dtype=np.float32).tobytes()
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    artifact.write(tmp_path / "m.cnncc", META, CODE, WEIGHTS)
    return tmp_path / "m.cnncc"


def damaged(path: Path, data: bytes, verify: bool = False) -> str:
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"bad\.cnncc: ") as raised:
        artifact.read(path, verify)
    return str(raised.value)


def test_round_trip(path: Path) -> None:
    found = artifact.read(path, verify=True)
    path.unlink()  # what was read stays valid
    assert found.meta == META and found.object == CODE
    assert found.weights.tobytes() == WEIGHTS
    assert not found.weights.flags.writeable and buffers.address(found.weights) % 4096 == 0


def test_no_weights_and_no_object(tmp_path: Path) -> None:
    artifact.write(tmp_path / "m", {}, b"")
    found = artifact.read(tmp_path / "m", verify=True)
    assert (found.meta, found.object, found.weights.size) == ({}, b"", 0)


@QUICK
@given(cut=st.floats(0, 1, exclude_max=True), extra=st.binary(max_size=3))
def test_truncated_or_extended(path: Path, cut: float, extra: bytes) -> None:
    data, bad = path.read_bytes(), path.with_name("bad.cnncc")
    damaged(bad, data[: int(cut * len(data))])
    damaged(bad, data + extra + b"\0")


@QUICK
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_flipped_bits(path: Path, where: float, bit: int) -> None:
    data, bad = bytearray(path.read_bytes()), path.with_name("bad.cnncc")
    checked = [*range(artifact.WEIGHTS_START), *range(artifact.WEIGHTS_START + len(WEIGHTS), len(data))]
    data[checked[int(where * (len(checked) - 1))]] ^= 1 << bit
    damaged(bad, bytes(data))


def test_every_byte_of_the_header(path: Path) -> None:
    data, bad = path.read_bytes(), path.with_name("bad.cnncc")
    for byte in range(artifact._HEADER_BYTES):
        flipped = bytearray(data)
        flipped[byte] ^= 1 << byte % 8
        damaged(bad, bytes(flipped))


def test_flipped_weight_is_found_on_request(path: Path) -> None:
    data, bad = bytearray(path.read_bytes()), path.with_name("bad.cnncc")
    data[artifact.WEIGHTS_START] ^= 1
    assert "weights" in damaged(bad, bytes(data), verify=True)
    assert artifact.read(bad).object == CODE


@QUICK
@given(data=st.binary(max_size=200))
def test_foreign_bytes(tmp_path: Path, data: bytes) -> None:
    damaged(tmp_path / "bad.cnncc", data)
    damaged(tmp_path / "bad.cnncc", artifact.MAGIC + b"\1\0" + data)


def forged(meta: bytes, meta_size: int, object_size: int, weights_size: int,
           version: int = artifact.FORMAT) -> bytes:
    """A file whose hashes are all right, whatever else is wrong with it."""
    empty = hashlib.sha256().digest()
    sizes = (meta_size, object_size, weights_size)
    head = struct.pack("<6sHQQQ32s32s", artifact.MAGIC, version, *sizes, empty, empty)
    filled = bytes(artifact.WEIGHTS_START - len(head) - 32)
    return head + hashlib.sha256(head + filled + meta).digest() + filled + meta


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\x7fELF" * 99, "not a .cnncc file"),
        (forged(b"{}", 2, 0, 0, version=3), "newer"),
        (forged(b"{}", 2, 0, 0, version=1), "older"),
        (forged(b"{}", 2**63, 0, 0), "absurd"),
        (forged(b"{}", 2, 2**64 - 1, 0), "absurd"),
        (forged(b"{}", 2, 0, 2**64 - 1), "expected"),
        (forged(b"[]", 2, 0, 0), "not a JSON object"),
        (forged(b"{]", 2, 0, 0), "not JSON"),
        (forged(b"\xff\xfe", 2, 0, 0), "not JSON"),
        (forged(b"[" * 3000, 3000, 0, 0), "not JSON"),
    ],
)
def test_reasons(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in damaged(tmp_path / "bad.cnncc", data)


def test_huge_sparse_file_is_not_read_into_memory(tmp_path: Path) -> None:
    bad = tmp_path / "bad.cnncc"
    bad.write_bytes(forged(b"{}", 1 << 40, 0, 0))
    os.truncate(bad, 1 << 40)
    with pytest.raises(ArtifactError, match="absurd"):
        artifact.read(bad)


def test_what_is_not_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", ".", "nul\0", "x" * 300):
        with pytest.raises(ArtifactError):
            artifact.read(tmp_path / name)
    for name in ("pipe", "."):
        with pytest.raises(ArtifactError, match="not a regular file"):
            artifact.write(tmp_path / name, {}, b"")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(path: Path, monkeypatch: Any) -> None:
    with pytest.raises(KeyboardInterrupt), artifact.replacing(path) as file:
        file.write(b"some")
        raise KeyboardInterrupt
    with pytest.raises(TypeError):
        artifact.write(path, {"x": object()}, b"")
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(os, name, lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
            artifact.write(path, {}, b"")
    assert list(path.parent.iterdir()) == [path] and artifact.read(path).meta == META


def test_a_draft_that_is_abandoned_leaves_nothing(path: Path) -> None:
    draft = artifact.Draft(path)
    draft.append(bytes(100_000))
    assert len(list(path.parent.iterdir())) == 2
    draft.abandon()
    assert list(path.parent.iterdir()) == [path] and artifact.read(path).meta == META
    draft = artifact.Draft(path)
    draft.append(b"w" * 100_000)
    draft.flush()
    draft.append(b"v" * 5)
    draft.finish({}, b"code")
    draft.abandon()
    found = artifact.read(path, verify=True)
    assert found.object == b"code" and found.weights.tobytes() == b"w" * 100_000 + b"v" * 5
    assert list(path.parent.iterdir()) == [path]


def test_disk_full_while_writing(path: Path) -> None:
    script = (
        "import resource, sys; from cnncc.runtime import artifact\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: artifact.write(sys.argv[1], {}, b'', bytes(300_000))\n"
        "except OSError: sys.exit(7)"
    )
    command = [sys.executable, "-c", script, str(path)]
    assert subprocess.run(command, cwd=Path(__file__).parents[1], check=False).returncode == 7
    assert list(path.parent.iterdir()) == [path] and artifact.read(path).meta == META


def test_mode_follows_the_umask_and_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("real")
    old = os.umask(0o027)
    try:
        artifact.write(tmp_path / "link", {}, b"")
    finally:
        os.umask(old)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("nbytes", [0, 1, 4097, 4 << 20, (6 << 20) + 5])
def test_buffers(nbytes: int) -> None:
    array = buffers.aligned(nbytes)
    assert array.dtype == np.uint8 and array.shape == (nbytes,) and not array.any()
    if nbytes > 1:
        array[-1] = 1
        boundary = buffers.HUGE_PAGE if nbytes >= buffers.HUGE_FROM else 4096
        assert buffers.address(array) % boundary == 0
        assert buffers.address(array[1:]) == buffers.address(array) + 1


def test_buffers_refuse() -> None:
    for nbytes in (1 << 60, 1 << 80):
        with pytest.raises(MemoryError):
            buffers.aligned(nbytes)
    with pytest.raises(ValueError):
        buffers.aligned(-1)


def test_loading_needs_no_heavy_package(path: Path) -> None:
    script = (
        "import sys; from cnncc.runtime import artifact, cache, env; artifact.read(sys.argv[1])\n"
        "heavy = {'onnx', 'networkx', 'llvmlite', 'filelock', 'platformdirs', 'yaml'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script, path], cwd=Path(__file__).parents[1], check=True)


def test_unsupported_lists_every_node() -> None:
    rows = [("TopK", "head/top", "no formula"), ("Loop", "", "no control flow")]
    error = UnsupportedError("m.onnx: 2 nodes are not supported", rows)
    assert str(error).count("\n") == 2 and "'head/top': no formula" in str(error)
    assert error.rows == tuple(rows) and str(UnsupportedError("plain")) == "plain"
    assert issubclass(ArtifactError, ModelError) and issubclass(UnsupportedError, CnnccError)
