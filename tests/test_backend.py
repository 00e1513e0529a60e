"""The ONNX backend interface, and the script that runs ONNX's own test suite through it."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="module")
def suite() -> ModuleType:
    path = Path(__file__).resolve().parent.parent / "benchmarks" / "onnx_suite.py"
    spec = importlib.util.spec_from_file_location("onnx_suite", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["onnx_suite"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_suite_of_stored_cases(suite: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["--kinds", "pytorch-operator,pytorch-converted", "--ops", "MaxPool"]) == 0
    text = capsys.readouterr().out
    counts = dict(reversed(part.split(" ", 1)) for part in text.splitlines()[-1].split(": ")[1].split(", "))
    assert int(counts["passed"]) >= 1 and counts["failed"] == counts["out of scope"] == "0"
    assert suite.main(["--kinds", "simple", "--ops", "StringNormalizer", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["counts"]) == {"out of scope"} and "text" in found["results"][0]["rows"][0][1]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_verdicts(suite: ModuleType) -> None:
    x = floats(2, 3)

    def verdict(node: str, y: np.ndarray, **attributes: int) -> tuple[str, str]:
        case = suite.Case("case", single(node, [2, 3], **attributes), lambda: [([x], [y])], 1e-3, 1e-7)
        result = suite.guarded(case, "cnncc", 60)
        return result.verdict, result.rows[0][1] if result.rows else ""
    assert verdict("Relu", np.maximum(x, 0)) == ("passed", "")
    assert verdict("Relu", x)[0] == "failed" and "AssertionError" in verdict("Relu", x)[1]
    assert verdict("Relu", np.maximum(x, 0).astype(float))[0] == "failed"
    assert verdict("RandomNormalLike", x)[0] == "unsupported"
    assert verdict("StringConcat", x) == ("out of scope", "text: values are numbers")
    for data, what in [(lambda: os._exit(3), "ended with 3"), (lambda: os.kill(os.getpid(), 9), "with -9"),
                       (lambda: time.sleep(60), "no result in 2 s")]:
        result = suite.guarded(suite.Case("case", single("Relu", [2, 3]), data, 0, 0), "cnncc", 2)
        assert result.verdict == "failed" and what in result.rows[0][1]
