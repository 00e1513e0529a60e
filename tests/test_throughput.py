"""Many inputs at a time: results in order, equal bits, bounded look-ahead, errors, early ends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx_models import single
from test_runtime import check, data, model
from test_state import compiled, counting

import cnncc
from cnncc.ir.errors import InputError, ModelError
from cnncc.runtime.throughput import in_order

DIGITS = Path(cnncc.__file__).parent / "data" / "digits.onnx"


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_are_those_of_calls_in_their_order(threads: int) -> None:
    m = cnncc.compile(DIGITS, threads=threads)
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((1 + i % 4, 1, 8, 8), np.float32) for i in range(40)]
    expected = [m(x) for x in batches]
    for ahead in (0, 1, 50):
        for given in (batches, [{"x": x} for x in batches], ((x,) for x in batches)):
            found = [*m.map(given, ahead=ahead)]
            assert len(found) == 40
            for y, z in zip(expected, found, strict=True):
                np.testing.assert_array_equal(y, z)
    assert [*m.map([])] == []


def test_several_outputs() -> None:
    for n, results in enumerate(model(threads=2).map(data(n) for n in range(1, 9))):
        check(data(n + 1), results)


def test_calls_run_at_the_same_time_and_no_item_is_taken_too_early() -> None:
    taken: list[int] = []
    together = threading.Barrier(3)

    def items() -> Iterator[int]:
        for i in itertools.count():
            taken.append(i)
            yield i

    def call(number: int, item: int) -> int:
        together.wait(60)
        return number + item
    results = in_order(call, items(), 3, 3)
    assert taken == []
    for i in range(3):
        assert next(results) == 2 * i and len(taken) == 6 + i
    together.abort()
    results.close()
    assert len(taken) == 8


def test_an_end_before_the_end() -> None:
    begun: list[int] = []
    gate = threading.Event()

    def call(number: int, item: int) -> int:
        begun.append(item)
        if number:
            gate.wait(60)
        return item
    before = threading.active_count()
    results = in_order(call, itertools.count(), 2, 20)
    assert next(results) == 0
    threading.Timer(0.05, gate.set).start()
    results.close()
    assert max(begun) < 4 and threading.active_count() <= before + 1


def test_errors_name_the_batch() -> None:
    m = model(threads=2)
    results = m.map([data(2), data(3), data(2)[:, :, :7], data(1)])
    check(data(2), next(results))
    check(data(3), next(results))
    with pytest.raises(InputError, match=r"^batch 2: input 'x': expected shape"):
        next(results)
    assert [*results] == []

    def broken() -> Iterator[Any]:
        yield data(1)
        raise OSError("no disk")
    with pytest.raises(OSError, match="no disk"):
        list(m.map(broken()))
    with pytest.raises(InputError, match=r"ahead=-1: expected"):
        m.map([], ahead=-1)
    with pytest.raises(InputError, match="batch 0: unknown input 'z'"):
        list(m.map([{"z": data(1)}]))
    m.threads = 3
    check(data(5), m(data(5)))


def test_a_state_forbids_it() -> None:
    with pytest.raises(InputError, match=r"batch 0: .* keeps a state"):
        list(compiled(counting()).map([np.ones(3, np.float32)]))


def test_models_that_are_compiled_when_they_are_called() -> None:
    m = cnncc.compile(single("Relu", ["A", "B"]), threads=2)
    assert isinstance(m, cnncc.SpecialisingModel)
    batches = [np.full((1 + i % 2, 1 + i % 3), i - 3, np.float32) for i in range(9)]
    for x, y in zip(batches, m.map(batches), strict=True):
        np.testing.assert_array_equal(y, np.maximum(x, 0))
    with pytest.raises((InputError, ModelError), match=r"^batch 1: "):
        list(m.map([batches[0], np.zeros(3, np.float32)]))

