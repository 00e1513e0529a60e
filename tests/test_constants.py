"""Constants that are computed while passes go on, and the thread that does it."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from kernels import Net, check_exact

import cnncc
from cnncc.compiler import optimize, plan
from cnncc.ir.constants import Constants, Later
from cnncc.ir.target import target_for
from cnncc.passes import winograd
from cnncc.runtime import cache
from cnncc.runtime.aside import Aside


def later(asked: list[int]) -> Later:
    def make() -> np.ndarray:
        asked.append(1)
        return np.arange(6.0).reshape(2, 3)
    return Later((2, 3), np.dtype("f8"), make)


def test_an_array_is_computed_when_it_is_asked_for_and_once() -> None:
    asked: list[int] = []
    constants = Constants({"a": later(asked), "b": np.ones(3)})
    copies = Constants(constants), constants.only(["a", "z"])
    assert [*copies[1]] == ["a"] and len(copies[0]) == 2 and "a" in copies[0] and "z" not in copies[0]
    held = copies[0].held("a")
    assert held.shape == (2, 3) and held.dtype == np.float64 and held.nbytes == 48
    assert [*copies[0].open()] == [held] and not asked
    with ThreadPoolExecutor(4) as pool:
        found = [*pool.map(lambda _: constants["a"], range(20))]
    assert all(x is found[0] for x in found) and copies[1]["a"] is found[0] and len(asked) == 1
    del constants["a"]
    constants["c"] = np.zeros(1)
    assert dict(constants).keys() == {"b", "c"} and copies[0].keys() == {"a", "b"}


def test_what_fails_is_tried_again() -> None:
    tries = iter([MemoryError("none left"), np.zeros(2)])
    def make() -> np.ndarray:
        if isinstance(x := next(tries), Exception):
            raise x
        return x
    constants = Constants({"a": Later((2,), np.dtype("f8"), make)})
    with pytest.raises(MemoryError):
        constants["a"]
    assert constants["a"].shape == (2,)


def test_passes_ask_for_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformed weights are computed when they are packed, or beside the passes, with the same bits."""
    asked: list[str] = []
    points = winograd._points
    def counted(*given: Any) -> np.ndarray:
        asked.append(threading.current_thread().name)
        return points(*given)
    monkeypatch.setattr(winograd, "_points", counted)
    net = Net()
    graph = net.result(net.conv(net.x(1, 64, 56, 56), 64, (3, 3), begin=(1, 1), end=(1, 1)))
    code = plan(optimize(graph, target_for()))
    assert not asked and any(v.endswith(".weights") for v in code.constants)
    with Aside() as aside:
        other = plan(optimize(graph, target_for(), None, aside))
        for name, value in other.constants.items():
            np.testing.assert_array_equal(value, code.constants[name])
    assert len(asked) == 2 and sum("aside" in name for name in asked) == 1


def test_what_is_not_begun_at_the_end_is_dropped() -> None:
    order: list[int] = []
    first, go = threading.Event(), threading.Event()
    with Aside() as aside:
        def task() -> int:
            first.set()
            go.wait(10)
            order.append(1)
            return 5
        result = aside.start(task)
        aside.start(lambda: order.append(2))
        first.wait(10)
        threading.Timer(0.05, go.set).start()
    assert result() == 5 and order == [1] and aside.ending.is_set()


def test_a_copy_of_a_constant_is_of_the_array() -> None:
    found = copy.deepcopy({"a": later([])})["a"]
    assert isinstance(found, np.ndarray) and found.shape == (2, 3)


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_tasks_are_done_once_where_some_find_no_thread(fails: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, tries = threading.Thread.start, [0]
    def start(self: threading.Thread) -> None:
        tries[0] += 1
        if tries[0] <= fails:
            raise RuntimeError("can't start new thread")
        begin(self)
    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    def broken() -> None:
        done.append(3)
        raise OSError("broken")
    with Aside() as aside:
        tasks = [aside.start(lambda i=i: done.append(i) or i) for i in range(3)]    # type: ignore[misc]
        fault = aside.start(broken)
        assert [task() for task in tasks] == [0, 1, 2] and [task() for task in tasks] == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(OSError, match="broken"):
                fault()
    assert sorted(done) == [0, 1, 2, 3]


def test_without_a_thread_all_is_done_at_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path))
    net = Net()
    graph = net.result(net.conv(net.x(1, 5, 9, 9), 7, (3, 3)))
    with monkeypatch.context() as patch:
        patch.setattr(ThreadPoolExecutor, "submit", refuse)
        model = cnncc.compile(graph, threads=1)
    assert len(cache.entries()) == 1
    x = np.ones((1, 5, 9, 9), np.float32)
    np.testing.assert_array_equal(model(x), cnncc.compile(graph, threads=1)(x))
    check_exact(graph)


def test_an_entry_that_can_not_be_written_is_warned_of_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
                                                          caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path))
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(cache.artifact.Draft, "append", full)
    net = Net()
    graph = net.result(net.conv(net.x(1, 5, 9, 9), 7, (3, 3)))
    cnncc.compile(graph, threads=1)
    assert sum("No space" in r.getMessage() for r in caplog.records) == 1
    assert not [p for p in tmp_path.iterdir() if p.suffix == ".tmp"] and not cache.entries()
