"""Shapes that the caller fixes where a model leaves sizes open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import floats, model

import cnncc
from cnncc.cli import main

NODES = [helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
         helper.make_node("Shape", ["c"], ["s"]), helper.make_node("Relu", ["c"], ["y"])]


def source() -> onnx.ModelProto:
    return model(NODES, {"x": ["N", 3, "h", "w"]}, ["y", "s"], {"w": floats(5, 3, 3, 3)})


def test_each_shape_is_a_model_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    data = source()
    data.graph.output[1].type.tensor_type.elem_type = 7
    path = tmp_path / "m.onnx"
    onnx.save(data, path)
    for shape in ((1, 3, 7, 9), (2, 3, 8, 8), (1, 3, 7, 9)):
        m, x = cnncc.compile(path, shapes={"x": shape}), floats(*shape)
        y, s = m.run(None, {"x": x})
        assert m.inputs[0].shape == shape and s.tolist() == [shape[0], 5, *shape[2:]]
        np.testing.assert_allclose(y, cnncc.reference(path, shapes={"x": shape}).run(["y"], {"x": x})[0],
                                   rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("shapes", "message"), [
    ({"z": (1, 3, 7, 9)}, r"'z'.*the inputs are x"),
    ({"x": (1, 3, 7)}, r"\[1, 3, 7\] doesn't fit.*\[N, 3, h, w\]"),
    ({"x": (1, 4, 7, 9)}, "doesn't fit"), ({"x": (1, 3, 0, 9)}, "doesn't fit")])
def test_shapes_that_do_not_fit(shapes: dict[str, Any], message: str) -> None:
    with pytest.raises(cnncc.InputError, match=message):
        cnncc.compile(source(), shapes=shapes)


def test_minus_one_is_an_open_size() -> None:
    made = model([NODES[0]], {"x": [-1, 3, 6, 6]}, ["c"], {"w": floats(5, 3, 3, 3)})
    assert cnncc.compile(made).inputs[0].shape == ("N", 3, 6, 6)
    made = model([NODES[0]], {"x": [1, 3, -1, -1]}, ["c"], {"w": floats(5, 3, 3, 3)})
    assert cnncc.compile(made, shapes={"x": (1, 3, 5, 4)}).outputs[0].shape == (1, 5, 5, 4)


def test_what_says_which_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(model([NODES[0]], {"x": ["N", 3, "h", "w"]}, ["c"], {"w": floats(5, 3, 3, 3)}), path)
    assert main(["compile", str(path), "--no-cache", "-o", str(tmp_path / "m.cnncc")]) == 1
    assert "--shape" in capsys.readouterr().err
    assert main(["compile", str(path), "--no-cache", "--shape", "x=1,3,8,9"]) == 0
    assert "float32[1, 3, 8, 9]" in capsys.readouterr().out
    assert main(["verify", str(path), "--no-cache", "--shape", "x=1,3,8,9"]) == 0
    assert main(["compile", str(path), "--shape", "x=1,a"]) == 2
    graph = cnncc.Builder("g")
    made = graph._graph.graph([("y", graph.input("x", ["N", 3]))])
    with pytest.raises(cnncc.InputError, match="shapes are for ONNX models"):
        cnncc.compile(made, shapes={"x": (1, 3)})
