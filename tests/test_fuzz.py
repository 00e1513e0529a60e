"""Broken model files raise our errors and nothing else, soon and in little memory; large ones compile."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import cnncc
from cnncc.compiler import optimize, read
from cnncc.ir.target import target_for

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def robustness() -> Iterator[ModuleType]:
    """The benchmark, whose networks and broken files these are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        patch.delitem(sys.modules, "kernels", raising=False)    # there is one among the tests, too
        spec = importlib.util.spec_from_file_location("robustness", FOLDER / "robustness.py")
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "robustness", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture(autouse=True)
def limit() -> Iterator[None]:
    """Nothing here takes a minute: what hangs is killed."""
    signal.alarm(60)
    yield
    signal.alarm(0)


def test_the_small_model_is_whole(robustness: ModuleType) -> None:
    x = np.random.default_rng(0).random((1, 1, 8, 8), np.float32)
    y = cnncc.compile(robustness.small(), cache=False)(x)
    np.testing.assert_allclose(y, cnncc.reference(robustness.small())(x), atol=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_broken_files(robustness: ModuleType, seed: int) -> None:
    result = robustness.fuzz(robustness.small(), 160, seed)
    assert not result.wrong
    assert result.outcomes["ModelError"] > 50 and result.outcomes["fine"] > 5


def test_flipped_bits(robustness: ModuleType) -> None:
    data = robustness.small()
    for at in range(0, len(data), max(1, len(data) // 200)):
        changed = bytearray(data)
        changed[at] ^= 1 << at % 8
        with suppress(cnncc.ModelError):
            read(bytes(changed))


def test_the_fuzzer_notices(robustness: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: bytes) -> None:
        raise ZeroDivisionError
    monkeypatch.setattr(robustness, "read", broken)
    result = robustness.fuzz(b"12345678", 8, 0)
    assert len(result.wrong) == 8 and "ZeroDivisionError" in result.wrong[0]


@pytest.mark.parametrize("name, size", [("chain", 1100), ("branches", 120), ("equal", 100), ("repeated", 200),
                                        ("distinct", 12)])
def test_large_networks(robustness: ModuleType, name: str, size: int) -> None:
    source = robustness.NETWORKS[name][0](size)
    graph = read(source)
    assert len(graph.nodes) >= size
    optimized = optimize(graph, target_for("native"))
    assert max(len(s.formulas[0].loads) for n in optimized if n.kernel for s in n.kernel.stages) < 200


@pytest.mark.parametrize("name, size", [("chain", 300), ("branches", 20)])
def test_long_chains_are_right(robustness: ModuleType, name: str, size: int) -> None:
    source = robustness.NETWORKS[name][0](size)
    x = np.random.default_rng(0).random((1, 8, 4, 4), np.float32) - np.float32(0.5)
    expected = cnncc.reference(source, "float64")(x)
    np.testing.assert_allclose(cnncc.compile(source, cache=False)(x), expected, rtol=1e-5, atol=1e-6)
