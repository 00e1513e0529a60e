"""Parts of models: `outputs` names the tensors that are computed instead of the model's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import floats, model

import cnncc
from cnncc.cli import main

DEFINITION = """
input: {x: [N, 3, 6, 6]}
layers:
  - {id: c1, op: conv, out: 4, k: 3}
  - {id: r1, op: relu}
  - {id: p1, op: global_avg_pool}
"""


def source() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Mul", ["r", "two"], ["m"]),
             helper.make_node("NoSuchOp", ["m"], ["y"])]
    return model(nodes, {"x": ["N", 4]}, ["y"], {"two": np.array([2], np.float32)})


def test_any_value_of_a_file() -> None:
    x = floats(3, 4)
    for made in (cnncc.compile(source(), outputs=["m", "x", "two", "r"], cache=False),
                 cnncc.reference(source(), outputs=["m", "x", "two", "r"])):
        assert [v.name for v in made.outputs] == ["m", "x", "two", "r"]
        for got, expected in zip(made(x), (np.maximum(x, 0) * 2, x, [2], np.maximum(x, 0)), strict=True):
            assert np.array_equal(got, expected)


def test_any_id_of_a_definition_and_value_of_a_graph(tmp_path: Path) -> None:
    path, x = tmp_path / "m.yaml", floats(2, 3, 6, 6)
    path.write_text(DEFINITION)
    c, r = cnncc.compile(path, outputs=["c1", "r1"], cache=False)(x)
    assert np.array_equal(np.maximum(c, 0), r) and c.min() < 0
    graph = cnncc.reference(path).graph
    assert np.array_equal(cnncc.compile(graph, outputs=("c1",))(x), c)
    with pytest.raises(cnncc.InputError, match=r"no value 'c11' \(is it 'c1'\?\)"):
        cnncc.compile(path, outputs=["c11"])
    with pytest.raises(cnncc.InputError, match="no value 'c2'"):
        cnncc.compile(graph, outputs=["c2"])


@pytest.mark.parametrize(("outputs", "message"), [
    (["mm"], r"no value 'mm' \(is it 'm'\?\)"), ([], "each once"), (["m", "m"], "each once"),
    ([""], "no value"), ([3], "expected names")])
def test_wrong_names(outputs: list[str], message: str) -> None:
    with pytest.raises(cnncc.InputError, match=message):
        cnncc.compile(source(), outputs=outputs)


def test_nodes_before_are_refused_still() -> None:
    with pytest.raises(cnncc.UnsupportedError, match="NoSuchOp"):
        cnncc.compile(source(), outputs=["m", "y"])


def test_outputs_and_open_sizes() -> None:
    made = source()
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "k"
    found = cnncc.compile(made, outputs=["r"], cache=False)
    assert isinstance(found, cnncc.SpecialisingModel) and [v.name for v in found.outputs] == ["r"]
    assert found(floats(2, 5)).shape == (2, 5)


def test_the_cache_knows_outputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path))
    data = source().SerializeToString()
    for names in (["m"], ["r"], ["m"], ["r", "m"]):
        assert [v.name for v in cnncc.compile(data, outputs=names).outputs] == names


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, compiled = str(tmp_path / "m.onnx"), str(tmp_path / "m.cnncc")
    onnx.save(source(), path)
    np.save(tmp_path / "x.npy", floats(2, 4))
    array = str(tmp_path / "x.npy")
    for args, code, words in [
            (["info", path], 0, "NoSuchOp"), (["info", path, "--outputs", "m"], 0, "can be compiled"),
            (["compile", path, "--no-cache", "--outputs", "m,r", "-o", compiled], 0, "gives m"),
            (["run", path, array, "--no-cache", "--outputs", "r"], 0, "r: float32[2, 4]"),
            (["verify", path, "--no-cache", "--outputs", "r"], 0, "is right"),
            (["show", path, "--outputs", "r"], 0, "relu"),
            (["run", path, "--outputs", "q"], 1, "no value 'q'"),
            (["run", compiled, array, "--outputs", "r"], 1, "compiled already")]:
        assert main(args) == code, args
        shown = capsys.readouterr()
        assert words in shown.out + shown.err, args
