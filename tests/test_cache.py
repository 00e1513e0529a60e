"""The compile cache: hits, bounds, other processes, and disks that refuse."""

import errno
import hashlib
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cnncc
from cnncc.ir.errors import InputError, ModelError
from cnncc.runtime import artifact, cache

A, B, C = (cache.key(name) for name in "abc")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CNNCC_CACHE", "CNNCC_CACHE_BYTES"):
        monkeypatch.delenv(name, raising=False)
    cache._without.cache_clear()
    return tmp_path / "cache"


def put(key: str, nbytes: int = 100_000) -> Path | None:
    return cache.store(key, lambda path: artifact.write(path, {"key": key}, b"code", bytes(nbytes)))


def test_store_and_load(folder: Path) -> None:
    assert cache.load(A) is None
    path = put(A)
    assert path == folder / f"{A}.cnncc" and folder.stat().st_mode & 0o777 == 0o700
    found = cache.load(A)
    assert found is not None and found.meta == {"key": A} and found.object == b"code"
    assert [entry.key for entry in cache.entries()] == [A]
    assert cache.clear() == 1 and cache.entries() == [] and cache.load(A) is None


def test_key() -> None:
    keys = [
        cache.key(*parts) for parts in [(), ("",), ("ab",), ("a", "b"), (b"ab",), ("a", b"b"), ("\udc80",)]
    ]
    assert len(set(keys)) == len(keys) and all(len(key) == 64 for key in keys)


def test_damaged_entry_is_a_miss_and_removed(folder: Path, caplog: Any) -> None:
    for damage in (b"", b"junk", None):
        path = put(A)
        assert path
        path.write_bytes(path.read_bytes()[:-1] if damage is None else damage)
        assert cache.load(A) is None and not path.exists()
    assert "not used from the compile cache" in caplog.text


def test_least_recently_used_go_first(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CNNCC_CACHE_BYTES", "250000")
    assert put(A) and put(B)
    assert cache.load(A)
    assert put(C)
    assert [entry.key for entry in cache.entries()] == [C, A]
    assert put(B, 300_000) is None  # alone beyond the bound: drives nothing out
    assert [entry.key for entry in cache.entries()] == [C, A]
    assert sum(entry.nbytes for entry in cache.entries()) <= cache.limit()


def test_lost_temporary_files_are_removed(folder: Path) -> None:
    put(A)
    old, new = folder / ".old.tmp", folder / ".new.tmp"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (0, 0))
    put(B)
    assert not old.exists() and new.exists()
    cache.clear()
    assert not new.exists()


@pytest.mark.parametrize("off", [{"CNNCC_CACHE": "0"}, {"CNNCC_CACHE_DIR": ""}, {"CNNCC_CACHE_BYTES": "0"}])
def test_off(folder: Path, monkeypatch: Any, off: dict[str, str], tmp_path: Path) -> None:
    for name, value in off.items():
        monkeypatch.setenv(name, value)
    assert cache.directory() is None and put(A) is None and cache.load(A) is None
    assert cache.entries() == [] and cache.clear() == 0 and not folder.exists()
    (tmp_path / "m").write_bytes(b"model")
    assert cache.file_hash(tmp_path / "m") == hashlib.sha256(b"model").hexdigest()


def test_default_directory(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.delenv("CNNCC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache.directory() == tmp_path / "xdg" / "cnncc"


@pytest.mark.parametrize("text", ["many", "-1", "1e9", "9" * 30])
def test_invalid_bound(folder: Path, monkeypatch: Any, text: str) -> None:
    monkeypatch.setenv("CNNCC_CACHE_BYTES", text)
    with pytest.raises(InputError, match="CNNCC_CACHE_BYTES"):
        cache.load(A)


def test_foreign_directories_are_not_used(folder: Path, monkeypatch: Any, caplog: Any) -> None:
    put(A)
    for mode in (0o770, 0o707, 0o1777):
        folder.chmod(mode)
        assert cache.load(A) is None and put(B) is None
    folder.chmod(0o755)  # others may read it
    assert cache.load(A)
    uid = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    assert cache.load(A) is None and cache.entries() == []
    assert len([record for record in caplog.records if "others" in record.message]) == 1


def test_directory_that_cannot_be_made(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in ("/proc/none/cache", str(tmp_path / "file"), str(tmp_path / "file" / "cache")):
        monkeypatch.setenv("CNNCC_CACHE_DIR", place)
        cache._without.cache_clear()
        assert put(A) is None and cache.load(A) is None and cache.clear() == 0


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_read_only_disk(folder: Path, monkeypatch: Any, caplog: Any, code: int, tmp_path: Path) -> None:
    put(A)
    model = tmp_path / "m"
    model.touch()
    real = os.open

    def read_only(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
            raise OSError(code, os.strerror(code), path)
        return real(path, flags, *rest, **named)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", read_only)
    monkeypatch.setattr(os, "utime", refuse)
    assert cache.load(A) is not None and put(B) is None and put(B) is None
    assert len([record for record in caplog.records if "not stored" in record.message]) == 1
    assert cache.file_hash(model) == hashlib.sha256(b"").hexdigest()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_directory(folder: Path) -> None:
    put(A)
    folder.chmod(0o500)
    assert cache.load(A) and put(B) is None
    folder.chmod(0o700)


def test_full_disk(folder: Path, monkeypatch: Any) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    put(A)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert put(B) is None and put(A) is None
    assert cache.load(A) and not list(folder.glob(".*.tmp"))


def test_processes_store_at_once(folder: Path) -> None:
    script = (
        "import sys; from cnncc.runtime import artifact, cache\n"
        "for i in range(20):\n"
        "    key = cache.key('shared' if i % 2 else sys.argv[1] + str(i % 5))\n"
        "    write = lambda path: artifact.write(path, {'key': key}, b'code' * 999, bytes(40_000))\n"
        "    assert cache.store(key, write)\n"
        "    found = cache.load(key)\n"
        "    assert found is None or found.meta == {'key': key}"
    )
    environment = {**os.environ, "CNNCC_CACHE_BYTES": "200000"}
    command = [sys.executable, "-W", "error", "-c", script]
    root = Path(__file__).parents[1]
    running = [subprocess.Popen([*command, name], cwd=root, env=environment) for name in "xy"]
    assert [process.wait() for process in running] == [0, 0]
    held = cache.entries()
    assert held and sum(entry.nbytes for entry in held) <= 200_000
    for entry in held:
        artifact.read(entry.path, verify=True)
    assert not list(folder.glob(".*.tmp"))


def aged(path: Path, data: bytes, monkeypatch: Any) -> Path:
    """A file that has lain untouched for an hour."""
    path.write_bytes(data)
    now = time.time_ns()
    monkeypatch.setattr(time, "time_ns", lambda: now + 3600 * 10**9)
    return path


def test_file_hash_is_remembered(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    model = aged(tmp_path / "m.onnx", b"first", monkeypatch)
    first = cache.file_hash(model)
    assert first == hashlib.sha256(b"first").hexdigest()
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert cache.file_hash(model) == first
    status = model.stat()
    model.write_bytes(b"other")  # the same size and, by force, the same time
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert cache.file_hash(model) == hashlib.sha256(b"other").hexdigest()


def test_fresh_file_is_hashed_again(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    for data in (b"first", b"other"):
        model.write_bytes(data)
        assert cache.file_hash(model) == hashlib.sha256(data).hexdigest()
    assert not (folder / "files.json").exists()


def test_several_files(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    one = aged(tmp_path / "m.onnx", b"graph", monkeypatch)
    two = aged(tmp_path / "m.data", b"weights", monkeypatch)
    assert cache.file_hash(one) != cache.file_hash(two)
    assert len(json.loads((folder / "files.json").read_bytes())) == 2


@pytest.mark.parametrize(
    "junk",
    [b"", b"{", b"[1]", b"\xff", b"[" * 9999, b'{"PATH": 1}', b'{"PATH": [[1], "x"]}', b'{"PATH": [[], 5]}'],
)
def test_damaged_index(folder: Path, monkeypatch: Any, tmp_path: Path, junk: bytes) -> None:
    model = aged(tmp_path / "m.onnx", b"model", monkeypatch)
    expected = cache.file_hash(model)
    (folder / "files.json").write_bytes(junk.replace(b"PATH", str(model).encode()))
    assert cache.file_hash(model) == cache.file_hash(model) == expected


def test_file_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", ".", "nul\0"):
        with pytest.raises(ModelError, match="cannot be read"):
            cache.file_hash(tmp_path / name)


def test_warnings_come_once(folder: Path, monkeypatch: Any, caplog: Any) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", "/proc/none/cache")
    with caplog.at_level(logging.WARNING, "cnncc"):
        for _ in range(3):
            put(A)
    assert len(caplog.records) == 1


def test_graphs_are_found_by_what_they_are(folder: Path) -> None:
    """Their text and constants, whoever made them."""
    def graph(weight: float) -> cnncc.Graph:
        b = cnncc.Builder("tiny")
        return b.graph(b.linear(b.input("x", ["N", 3]), out=2, weight=np.full((2, 3), weight, np.float32)))
    first = [cnncc.compile(graph(w)) for w in (1.0, 2.0)]
    assert len(cache.entries()) == 2
    again = [cnncc.compile(graph(w)) for w in (1.0, 2.0)]
    assert len(cache.entries()) == 2
    x = np.ones((1, 3), np.float32)
    results = [[m(x).tolist() for m in models] for models in (first, again)]
    assert results[0] == results[1] and results[0][0] != results[0][1]
