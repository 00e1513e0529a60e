"""The ONNX backend interface, and the script that runs ONNX's own test suite through it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx_models import floats, single

import cnncc
import cnncc.backend


def test_prepare() -> None:
    proto = single("Conv", ["N", 3, 5, 5], floats(4, 3, 3, 3))
    rep = cnncc.backend.prepare(proto)
    x = floats(2, 3, 5, 5)
    expected = cnncc.reference(proto)(x)
    for result in (rep.run([x]), rep.run((x,)), rep.run(x), rep.run({"x": x}),
                   cnncc.backend.run_model(proto, [x], "CPU:0")):
        assert isinstance(result, tuple) and len(result) == 1
        np.testing.assert_allclose(result[0], expected, rtol=1e-5, atol=1e-5)
        assert result["y"] is result[0]     # type: ignore[call-overload]
    with pytest.raises(cnncc.InputError, match="2 inputs were given, 1 expected"):
        rep.run([x, x])


def test_run_node() -> None:
    a, b = floats(2, 3), floats(3, seed=1)
    add = helper.make_node("Add", ["a", "b"], ["c"])
    for given in ([a, b], {"a": a, "b": b}):
        assert np.array_equal(cnncc.backend.run_node(add, given)[0], a + b)
    twice = helper.make_node("Add", ["a", "a"], ["c"])
    assert np.array_equal(cnncc.backend.run_node(twice, [a, a], opset_version=13)[0], a + a)
    clip = helper.make_node("Clip", ["a"], ["c"], min=-0.5, max=0.5)
    assert np.array_equal(cnncc.backend.run_node(clip, a, opset_version=7)[0], np.clip(a, -0.5, 0.5))


def test_what_is_supported() -> None:
    assert cnncc.backend.supports_device("CPU") and cnncc.backend.supports_device("CPU:1")
    assert not cnncc.backend.supports_device("CUDA")
    assert cnncc.backend.is_compatible(single("Relu", [2, 3]))
    assert not cnncc.backend.is_compatible(single("StringNormalizer", [2, 3]))
    with pytest.raises(cnncc.UnsupportedError, match="device 'CUDA': there is only the CPU"):
        cnncc.backend.prepare(single("Relu", [2, 3]), "CUDA")
