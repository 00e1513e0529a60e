"""A compiled model in other processes, and arrays that others share by DLPack: nothing is lost on the way."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from onnx_models import floats, single

import cnncc
from cnncc.runtime.model import CompiledModel

SHAPE = (2, 5, 6)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return cnncc.compile(single("Conv", ["N", *SHAPE], floats(17, 2, 3, 3), floats(17, seed=1)), threads=2)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
def test_copies(model: CompiledModel, again: Callable[[CompiledModel], CompiledModel]) -> None:
    x, other = floats(3, *SHAPE), again(model)
    assert other is not model and other.threads == 2 and repr(other) == repr(model)
    assert other.meta == model.meta and np.array_equal(other(x), model(x))


def test_damaged_bytes(model: CompiledModel) -> None:
    build, (data, threads) = model.__reduce__()
    for where in (10, 200, len(data) // 2, len(data) - 1):
        damaged = bytearray(data)
        damaged[where] ^= 1
        with pytest.raises(cnncc.ModelError, match=r"SHA-256|header|truncated"):
            build(bytes(damaged), threads)
    with pytest.raises(cnncc.ModelError, match="truncated"):
        build(data[:-1], threads)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_worker_processes(model: CompiledModel, start: str) -> None:
    x = floats(3, *SHAPE)
    expected = model(x)     # also starts the threads that a forked child doesn't have
    with ProcessPoolExecutor(2, multiprocessing.get_context(start)) as pool:
        for result in [pool.submit(model, x), pool.submit(model.run, None, {"x": x})]:
            assert np.array_equal(np.asarray(result.result(60)).reshape(expected.shape), expected)


class Foreign:
    """An array of another library: it has DLPack and nothing else."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.tensor.__dlpack_device__()


@pytest.mark.parametrize("wrap", [lambda t: t, Foreign])
def test_tensors_in(model: CompiledModel, wrap: Callable[[torch.Tensor], Any]) -> None:
    wide = torch.from_numpy(floats(9, 6, 5, 4))
    strided, swapped = wide[::3, ::3, :, ::2].repeat(1, 1, 1, 3), wide[:3, :, :2, :].permute(0, 2, 1, 3)
    for t in (strided, swapped.expand(3, 2, 6, 4)[:, :, :5].repeat(1, 1, 1, 2)[..., 1:7],
              wide[::3, :2, :, :1].expand(3, 2, 5, 6), torch.zeros(3, 5, 6, 2).permute(0, 3, 1, 2) + 1):
        x = t.numpy().copy()
        assert np.array_equal(model(wrap(t)), model(x))
        assert np.array_equal(t.numpy(), x)
    with pytest.raises(cnncc.InputError, match="float32"):
        model(wrap(torch.zeros(3, *SHAPE, dtype=torch.float64)))
    with pytest.raises(cnncc.InputError, match="can't be read"):
        model(wrap(torch.zeros(3, *SHAPE, dtype=torch.bfloat16)))


def test_read_only_in(model: CompiledModel) -> None:
    x = floats(3, *SHAPE)
    expected = model(x)
    x.flags.writeable = False
    assert np.array_equal(model(x), expected)
    assert np.array_equal(model(x[::-1]), expected[::-1])
    assert np.array_equal(model(np.broadcast_to(x[:1], x.shape)), expected[[0, 0, 0]])


def test_tensors_out(model: CompiledModel) -> None:
    y = model(floats(3, *SHAPE))
    t = torch.from_dlpack(y)
    assert t.data_ptr() == y.ctypes.data and t.dtype == torch.float32 and tuple(t.shape) == y.shape
    t += 1      # ours no longer
    assert np.array_equal(t.numpy(), y)
