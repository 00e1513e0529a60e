"""How many threads, which platform, and where the log goes."""

import logging
import os
import platform
from pathlib import Path
from typing import Any

import pytest

from cnncc.console import set_log
from cnncc.ir.errors import CnnccError, InputError
from cnncc.runtime import env


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CNNCC_NUM_THREADS", "OMP_NUM_THREADS", "CNNCC_LOG"):
        monkeypatch.delenv(name, raising=False)


def test_order_of_sources(monkeypatch: Any) -> None:
    assert 1 <= env.thread_count() <= len(os.sched_getaffinity(0))
    monkeypatch.setenv("OMP_NUM_THREADS", " 3,2")
    assert env.thread_count() == 3
    monkeypatch.setenv("CNNCC_NUM_THREADS", "5")
    assert env.thread_count() == 5
    assert env.thread_count(7) == 7
    monkeypatch.setenv("CNNCC_NUM_THREADS", "")
    assert env.thread_count() == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "1,2", "\u0663", "1_0", "99999", "9" * 5000])
def test_invalid_variable(monkeypatch: Any, text: str) -> None:
    monkeypatch.setenv("CNNCC_NUM_THREADS", text)
    with pytest.raises(InputError, match="CNNCC_NUM_THREADS"):
        env.thread_count()


@pytest.mark.parametrize("value", [0, -3, 2.0, True, "x", 10**9])
def test_invalid_argument(value: Any) -> None:
    with pytest.raises(InputError, match="threads="):
        env.thread_count(value)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/\n", {"cpu.max": "150000 100000"}, 2),
        ("0::/\n", {"cpu.max": "1000 100000"}, 1),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/host/only\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "junk"}, None),
        ("0::/\n", {"cpu.max": "\udcff"}, None),
        ("0::/\n", {}, None),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "400000", "cpu/x/cpu.cfs_period_us": "100000"}, 4),
        ("4:cpu,c:/\n", {"cpu,c/cpu.cfs_quota_us": "-1", "cpu,c/cpu.cfs_period_us": "100000"}, None),
        ("9:memory:/\njunk\n", {}, None),
    ],
)
def test_cpu_quota(tmp_path: Path, groups: str, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, errors="surrogateescape")
    (tmp_path / "cgroup").write_text(groups)
    assert env.cpu_quota(tmp_path / "cgroup", tmp_path / "root") == expected


def test_quota_limits_the_cpus(monkeypatch: Any) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    for quota, expected in ((None, 16), (3, 3), (64, 16)):
        monkeypatch.setattr(env, "cpu_quota", lambda quota=quota: quota)
        assert env.thread_count() == expected


def test_platform(monkeypatch: Any) -> None:
    env.check_platform()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(CnnccError, match="aarch64"):
        env.check_platform()


@pytest.mark.parametrize(
    ("word", "shown"), [(None, 1), ("debug", 3), ("INFO", 2), ("warning", 1), ("loud", 2)]
)
def test_log_levels(monkeypatch: Any, capsys: Any, word: str | None, shown: int) -> None:
    if word:
        monkeypatch.setenv("CNNCC_LOG", word)
    logger = logging.getLogger("cnncc")
    level, handlers = logger.level, list(logger.handlers)
    try:
        set_log()
        set_log()
        capsys.readouterr()
        set_log()
        for write in (logging.Logger.debug, logging.Logger.info, logging.Logger.warning):
            write(logging.getLogger("cnncc.test"), "line")
        captured = capsys.readouterr()
        assert captured.out == "" and len(captured.err.splitlines()) == shown
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
