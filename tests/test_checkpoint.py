"""Checkpoints, the history, logs and early stopping."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncc.ir.errors import ArtifactError, InputError
from cnncc.train import checkpoint
from cnncc.train.checkpoint import Folder
from cnncc.train.history import EarlyStopping, History, Log

STATE = {"w:a": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(7, np.float32),
         "count": np.arange(3), "none": np.zeros((0, 2), np.uint8)}
META = {"position": {"epoch": 1, "loss": 0.1 + 0.2}, "history": []}


def same(found: Any, expected: Any) -> None:
    assert {*found} == {*expected}
    for name, a in expected.items():
        assert found[name].dtype == a.dtype and np.array_equal(found[name], a), name


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "a" / "b")
    with folder.held():
        path = folder.save(5, STATE, META)
    found, problems = folder.latest()
    assert found and not problems and found.path == path and found.meta == META
    same(found.state, STATE)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    folder = Folder(tmp_path, keep=2)
    for step in (9, 10, 100, 1_000_000_000, 2_000_000_000):
        folder.save(step, STATE, META)
    assert [f.name for f in folder.files()] == ["step-1000000000.safetensors", "step-2000000000.safetensors"]
    with pytest.raises(InputError, match="at least 1"):
        Folder(tmp_path, 0)


def flipped(path: Path, place: int = -3) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "what"), [
    (flipped, "SHA-256 differs"), (lambda p: flipped(p, 3), "damaged"),
    (lambda p: p.write_bytes(b""), "damaged"),
    (lambda p: os.truncate(p, p.stat().st_size - 1), "damaged"),
    (lambda p: p.write_bytes(p.read_bytes().replace(b'\\"epoch\\":1', b'\\"epoch\\":2')), "SHA-256 differs"),
    (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
    (lambda p: (p.unlink(), os.mkfifo(p)), "cannot be read")])
def test_the_one_before_is_taken_where_the_newest_is_damaged(tmp_path: Path, damage: Callable[[Path], Any],
                                                             what: str) -> None:
    folder = Folder(tmp_path)
    folder.save(1, STATE, META)
    damage(folder.save(2, STATE, META))
    found, problems = folder.latest()
    assert found and found.path.name == "step-000000001.safetensors"
    assert len(problems) == 1 and "step-000000002" in problems[0] and what in problems[0]


def test_other_safetensors_files_are_no_checkpoints(tmp_path: Path) -> None:
    from safetensors.numpy import save_file
    save_file({"a": np.ones(2)}, tmp_path / "step-000000001.safetensors")
    with pytest.raises(ArtifactError, match="not a checkpoint of cnncc"):
        checkpoint.read(tmp_path / "step-000000001.safetensors")
    assert Folder(tmp_path).latest()[0] is None
    assert Folder(tmp_path / "nothing").latest() == (None, [])


def test_a_full_disk_leaves_the_older_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder(tmp_path, keep=1)
    folder.save(1, STATE, META)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        folder.save(2, STATE, META)
    assert [f.name for f in tmp_path.iterdir()] == ["step-000000001.safetensors"]
    assert folder.latest()[0]


def test_one_process_at_a_time_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / ".0123456789abcdef.tmp").write_bytes(b"of a process that was killed")
    (tmp_path / "mine.tmp").write_bytes(b"stays")
    code = ("import sys; from pathlib import Path; from cnncc.train.checkpoint import Folder\n"
            "with Folder(Path(sys.argv[1])).held(): pass")
    with Folder(tmp_path).held():
        names = {f.name for f in tmp_path.iterdir()}
        assert "mine.tmp" in names and ".0123456789abcdef.tmp" not in names
        done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True,
                              check=False)
        assert done.returncode and "another process trains with these checkpoints" in done.stderr
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"), Folder(tmp_path / "file").held():
        pass


# ---- history


def test_history(tmp_path: Path) -> None:
    history = History([{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "val_loss": 3.0}])
    assert len(history) == 2 and history["loss"] == [2.0, 1.0] and history["val_loss"] == [None, 3.0]
    with pytest.raises(InputError, match=r"no 'los' \(is it 'loss'\?\), but epoch, loss, val_loss"):
        history["los"]


def test_a_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    rows = [{"epoch": e, "loss": 1 / e, "val_loss": 2 / e, "accuracy": 1 - 1 / e} for e in (1, 2, 3)]
    History(rows).plot(tmp_path / "a.png")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(InputError, match="cannot be written"):
        History(rows).plot(tmp_path / "no" / "a.png")
    with pytest.raises(InputError, match="no epochs"):
        History().plot(tmp_path / "a.png")


def test_plots_need_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"cnncc\[plot\]"):
        History([{"epoch": 1, "loss": 1.0}]).plot("a.png")


def row(step: int) -> dict[str, Any]:
    return {"step": step, "epoch": 1, "loss": 1.5, "measure": 0.5, "lr": 0.1, "seconds": 1.0,
            "samples_per_second": 2.0}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_log_goes_on_after_a_step(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"log{suffix}"
    with Log(path) as log:
        for step in (1, 2, 3):
            log.write(row(step))
    with open(path, "a") as file:
        file.write("4,tor" if suffix == ".csv" else '{"step": 4, "to')      # written when it was killed
    with Log(path, 2) as log:
        log.write(row(3))
    lines = path.read_text().splitlines()
    assert len(lines) == (4 if suffix == ".csv" else 3)
    assert all(str(i) in line for i, line in zip((1, 2, 3), lines[-3:], strict=True))
    with Log(path):
        pass
    assert len(path.read_text().splitlines()) == (suffix == ".csv")


def test_logs_that_cannot_be(tmp_path: Path) -> None:
    for name, what in (("log.txt", ".csv or .jsonl"), ("no/log.csv", "cannot be written")):
        with pytest.raises(InputError, match=what):
            Log(tmp_path / name)


def test_early_stopping() -> None:
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    assert [stopping.improved({"val_loss": v}) for v in (3, 2, 1.95, 1.5)] == [True, True, False, True]
    assert not stopping.over
    assert [stopping.improved({"val_loss": v}) for v in (1.5, float("nan"))] == [False, False]
    assert stopping.over and stopping.best == 1.5
    other = EarlyStopping(patience=2, min_delta=0.1)
    other.restored(stopping.record(), {"w:a": np.ones(1)})
    assert other.over and other.best == 1.5 and [*other.kept] == ["w:a"]
    up = EarlyStopping("val_accuracy")
    assert [up.improved({"val_accuracy": v}) for v in (0.5, 0.6, 0.6)] == [True, True, False]
    with pytest.raises(InputError, match="an epoch has no 'val_accuracy', but loss"):
        up.improved({"loss": 1.0})
    for wrong in (lambda: EarlyStopping(patience=0), lambda: EarlyStopping(min_delta=-1)):
        with pytest.raises(InputError, match="early stopping: expected"):
            wrong()
