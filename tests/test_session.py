"""ONNX Runtime's interface: the same script gives the same with either."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx_models import floats, model, single

import cnncc

DIGITS = Path(cnncc.__file__).parent / "data" / "digits.onnx"


def script(ort: Any, source: str | bytes) -> tuple[Any, ...]:
    """What a script sees of a session."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    assert session.get_session_options().intra_op_num_threads == 1
    [x], outputs = session.get_inputs(), session.get_outputs()
    shape = [e if isinstance(e, int) else 3 for e in x.shape]
    feeds = {x.name: floats(*shape)}
    results = session.run(None, feeds)
    [last] = session.run([outputs[-1].name], feeds, ort.RunOptions())
    assert np.array_equal(last, results[-1]) and "CPUExecutionProvider" in ort.get_available_providers()
    return ((x.name, x.shape, x.type), [(y.name, y.type) for y in outputs], session.get_providers(),
            ort.get_device().partition("-")[0], [r.shape for r in results]), np.concatenate(
                [r.ravel() for r in results])


@pytest.mark.parametrize("source", [str(DIGITS), DIGITS.read_bytes(),
                                    single("Conv", [2, 3, 5, 5], floats(4, 3, 3, 3)).SerializeToString()])
def test_as_in_onnxruntime(source: str | bytes) -> None:
    (ours, values), (theirs, expected) = script(cnncc, source), script(onnxruntime, source)
    assert ours == theirs
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_NUM_THREADS", "3")
    options = onnxruntime.SessionOptions()      # theirs will do
    assert cnncc.InferenceSession(DIGITS, options)._model.threads == 3
    options.intra_op_num_threads = 2
    assert cnncc.InferenceSession(DIGITS, sess_options=options)._model.threads == 2
    options.intra_op_num_threads = -1
    with pytest.raises(cnncc.InputError, match="threads='-1'"):
        cnncc.InferenceSession(DIGITS, options)


def test_other_providers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cnncc"):
        session = cnncc.InferenceSession(DIGITS, providers=[("CUDAExecutionProvider", {"device_id": 0}),
                                                            "CPUExecutionProvider"])
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert caplog.messages == ["no CUDAExecutionProvider: the session runs on the CPU"]


def test_errors() -> None:
    session, x = cnncc.InferenceSession(DIGITS), np.zeros((1, 1, 8, 8), np.float32)
    for names, feeds, message in [(["probability"], {"x": x}, "unknown output 'probability' .is it 'probab"),
                                  (None, {"y": x}, "unknown input 'y'"), (None, {}, "missing input 'x'"),
                                  (None, [x], "input_feed: expected arrays by name, got list"),
                                  (None, {"x": x.astype(float)}, "expected float32, got float64"),
                                  (None, {"x": x[0]}, "expected shape")]:
        with pytest.raises(cnncc.InputError, match=message):
            session.run(names, feeds)  # type: ignore[arg-type]
    with pytest.raises(cnncc.ModelError, match=r"missing\.onnx: can't read the file: No such file"):
        cnncc.InferenceSession("missing.onnx")
    with pytest.raises(cnncc.ModelError, match="can't be read as ONNX"):
        cnncc.InferenceSession(b"\xff" * 9)
    with pytest.raises(cnncc.UnsupportedError, match="StringNormalizer"):
        cnncc.InferenceSession(single("StringNormalizer", [2]).SerializeToString())
    with pytest.raises(cnncc.InputError, match="a model is a path, bytes or an"):
        cnncc.InferenceSession(5)  # type: ignore[arg-type]


def test_types() -> None:
    from cnncc.ir.plan import Value
    from cnncc.session import NodeArg
    for dtype, name in [("float32", "float"), ("float64", "double"), ("int64", "int64"), ("bool", "bool"),
                        ("uint8", "uint8"), ("float16", "float16")]:
        assert NodeArg.of(Value("x", dtype, ("N", 3))) == NodeArg("x", ["N", 3], f"tensor({name})")


def test_several_outputs() -> None:
    from onnx import helper
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Add", ["x", "a"], ["b"])]
    session = cnncc.InferenceSession(model(nodes, {"x": [2, 3]}, ["a", "b"]).SerializeToString())
    x = floats(2, 3)
    [b, a] = session.run(["b", "a"], {"x": x})
    assert np.array_equal(a, np.maximum(x, 0)) and np.array_equal(b, x + a)
