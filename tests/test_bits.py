"""The same bits, whatever the threads, the batch, the place in it, the memory of the inputs, the cache."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx_models
import pytest
from kernels import Net, compiled, feeds
from onnx import helper

import cnncc
from cnncc.ir.target import target_for
from cnncc.runtime.model import CompiledModel

Array = np.ndarray[Any, Any]


def same(a: Array, b: Array) -> None:
    assert a.shape == b.shape
    np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@functools.cache
def network(kind: str) -> CompiledModel:
    """Enough work in each kernel for several tasks."""
    net = Net(real=True)
    x = net.x("N", 19, 34, 35)
    if kind == "dense":
        y = net.relu(net.bias(net.conv(x, 66, (3, 3), begin=(1, 1))))
        y = net.pool(y, "max_pool", (2, 2), (2, 2))
        y = net.op("add", [net.conv(y, 66, (1, 1)), y], "sum")
        y = net.op("reduce_mean", [net.conv(y, 40, (3, 3), (2, 2))], "mean", axes=(2, 3), keepdims=False)
        y = net.op("softmax", [net.linear(y, 300)], "p", axis=1)
    elif kind == "depthwise":
        y = net.op("clip", [net.conv(x, 96, (1, 1))], "clip", low=0.0, high=6.0)
        y = net.op("clip", [net.conv(y, 96, (3, 3), begin=(1, 1), group=96)], "clip", low=0.0, high=6.0)
        y = net.pool(net.conv(y, 24, (1, 1)), "sum_pool", (3, 3), (2, 2), begin=(1, 1))
    elif kind == "tiles":
        y = net.relu(net.bias(net.conv(net.conv(x, 64, (1, 1)), 64, (3, 3), begin=(1, 1))))
        y = net.conv(y, 64, (3, 3), begin=(1, 1))
    else:
        y = net.linear(net.flatten(net.op("exp", [net.op("scale", [x], "small", factor=0.1)], "exp")), 130)
    return compiled(net.result(y), target_for())


KINDS = ("dense", "depthwise", "tiles", "linear")


def images(n: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((n, 19, 34, 35)).astype(np.float32)


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest) -> CompiledModel:
    return network(request.param)


@pytest.mark.parametrize("batch", [1, 3])
def test_any_number_of_threads(model: CompiledModel, batch: int) -> None:
    x = images(batch)
    model.threads = 1
    expected = model(x)
    for threads in (2, 3, 4, 1, 4):
        model.threads = threads
        for _ in range(5):
            same(model(x), expected)
    model.threads = 1


def test_there_is_something_to_share(model: CompiledModel) -> None:
    """The test above would say nothing if every kernel were one task."""
    assert max(s.tasks for s in model.plan.steps) > 1
    assert any(s.batched for s in model.plan.steps)


@pytest.mark.parametrize("batch", [2, 3, 5, 8])
def test_any_batch_and_place(model: CompiledModel, batch: int) -> None:
    x = images(batch)
    together = model(x)
    for i in range(batch):
        same(model(x[i:i + 1])[0], together[i])
    order = np.random.default_rng(1).permutation(batch)
    same(model(x[order]), together[order])


@pytest.mark.parametrize("offset", [4, 8, 20, 36, 60])
def test_any_alignment(model: CompiledModel, offset: int) -> None:
    x = images(2)
    expected = model(x)
    room = np.zeros(x.nbytes + 128, np.uint8)
    start = -room.ctypes.data % 64 + offset
    moved = room[start:start + x.nbytes].view(np.float32).reshape(x.shape)
    moved[:] = x
    assert moved.ctypes.data % 64 == offset
    same(model(moved), expected)
    out = np.zeros(expected.nbytes + 128, np.uint8)
    start = -out.ctypes.data % 64 + offset
    result = out[start:start + expected.nbytes].view(np.float32).reshape(expected.shape)
    model(x, out=result)
    same(result, expected)
    assert not out[:start].any() and not out[start + expected.nbytes:].any()


def test_any_stride(model: CompiledModel) -> None:
    x = images(2)
    expected = model(x)
    turned = np.ascontiguousarray(x.transpose(2, 3, 1, 0)).transpose(3, 2, 0, 1)
    spaced = np.zeros((2, 19, 68, 35), np.float32)[:, :, ::2]
    spaced[:] = x
    backwards = np.ascontiguousarray(x[::-1, :, ::-1])[::-1, :, ::-1]
    packed = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    packed[:] = x
    for y in (turned, spaced, backwards, packed, np.asfortranarray(x)):
        before = y.copy()
        same(model(y), expected)
        same(np.ascontiguousarray(y), before)
    one = images(1)
    same(model(np.broadcast_to(one, (3, *one.shape[1:]))), np.repeat(model(one), 3, 0))


def test_two_compilations() -> None:
    net = Net(real=True)
    graph = net.result(net.relu(net.conv(net.x("N", 19, 20, 20), 40, (3, 3), begin=(1, 1))))
    x = feeds(graph, 2, real=True)
    first, second = (cnncc.compile(graph, cache=False, jobs=jobs, threads=1).run(None, x) for jobs in (1, 2))
    same(first[0], second[0])
    same(compiled(graph).run(None, x)[0], first[0])


def test_cache_hit_or_miss_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["y"]),
    ]
    source = onnx_models.model(nodes, {"x": ["N", 7, 30, 30]}, ["y"], {"w": onnx_models.floats(50, 7, 3, 3)})
    data = source.SerializeToString()
    x = onnx_models.floats(3, 7, 30, 30, seed=1)
    expected = cnncc.compile(data, cache=False)(x)
    same(cnncc.compile(data)(x), expected)
    assert list((tmp_path / "cache").rglob("*.cnncc"))
    found = cnncc.compile(data)
    same(found(x), expected)
    found.save(tmp_path / "model.cnncc")
    same(cnncc.load(tmp_path / "model.cnncc", threads=2)(x), expected)
