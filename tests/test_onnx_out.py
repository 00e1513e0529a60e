"""Models written as ONNX files, and read from ONNX's textual syntax."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx_models import floats, model
from test_definitions import BLOCKS, by_onnxruntime, definition, feeds_of

import cnncc
from cnncc.cli import main
from cnncc.compiler import as_onnx, optimize, read
from cnncc.frontend.onnx_out import ROWS, SAME, to_onnx
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Graph, Node
from cnncc.ir.ops import OPS
from cnncc.ir.target import target_for
from cnncc.ir.types import TensorType

FRONTEND = Path(__file__).parent.parent / "cnncc" / "frontend"
DIGITS = Path(__file__).parent.parent / "cnncc" / "data" / "digits.onnx"


def test_every_op_that_a_layer_makes_has_a_row() -> None:
    text = "".join((FRONTEND / name).read_text() for name in ("builder.py", "definition.py", "layers.py"))
    assert {op for op in OPS if f'"{op}"' in text} <= ROWS.keys() <= OPS.keys()


def test_ops_of_the_same_name() -> None:
    """Each row that only names an op, by a model that is read and written again."""
    x, w = floats(2, 3, 4, seed=1), floats(3, 1, seed=2)
    for op in (op for ops in SAME.values() for op in ops.split()):
        inputs, logical = {"Where": ["c", "x", "w"]}.get(op, ["x", "w"]), op in ("And", "Or", "Xor")
        inputs = ["c", "c"] if logical else inputs[:len(onnx.defs.get_schema(op).inputs)]
        inputs = inputs if op not in ("Max", "Min") else ["x", "w"]
        nodes = [helper.make_node("Greater", ["x", "w"], ["c"]), helper.make_node(op, inputs, ["y"])]
        source = model(nodes, {"x": ["N", 3, 4]}, ["y"], {"w": w}, 18)
        source.graph.output[0].type.tensor_type.elem_type = 9 if logical or op == "IsNaN" else 1
        expected = cnncc.reference(source)(x)
        np.testing.assert_allclose(by_onnxruntime(source, {"x": x})[0], expected, 1e-5, 1e-6, err_msg=op)


def test_a_model_survives_the_way_out_and_in(tmp_path: Path) -> None:
    cnncc.convert(DIGITS, tmp_path / "out.onnx")
    original, written = onnx.load(DIGITS), onnx.load(tmp_path / "out.onnx")
    assert written.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert [v.name for v in written.graph.output] == [v.name for v in original.graph.output]
    assert {n.name for n in original.graph.node} <= {n.name for n in written.graph.node}
    graph, again = read(DIGITS), read(tmp_path / "out.onnx")
    assert [(n.op, n.attrs) for n in graph] == [(n.op, n.attrs) for n in again]
    feeds = feeds_of(graph)
    expected = cnncc.reference(DIGITS).run(None, feeds)
    for y, z in zip(by_onnxruntime(DIGITS, feeds), expected, strict=True):
        np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)


def test_outputs_have_the_users_names() -> None:
    """Outputs that are an input, a constant, one value twice, and one called as another value is."""
    nodes = [helper.make_node("Identity", ["x"], ["same"]), helper.make_node("Relu", ["x"], ["a.conv"]),
             helper.make_node("Identity", ["a.conv"], ["b"]), helper.make_node("Identity", ["w"], ["v"]),
             helper.make_node("Conv", ["x", "k", "bias"], ["a"], name="w")]
    constants = {"w": floats(2, 2), "k": floats(1, 1, 1), "bias": floats(1)}
    source = model(nodes, {"x": ["N", 1, 4]}, ["x", "same", "a.conv", "b", "v", "a"], constants)
    feeds = {"x": floats(3, 1, 4)}
    x, same, relu, again, constant, conv = by_onnxruntime(source, feeds)
    for value, other in ((x, same), (relu, again), (constant, constants["w"])):
        assert np.array_equal(value, other)
    [expected] = cnncc.reference(source).run(["a"], feeds)
    np.testing.assert_allclose(conv, expected, rtol=1e-6)
    assert [v.name for v in onnx.load_from_string(as_onnx(source)).graph.output] == [
        "x", "same", "a.conv", "b", "v", "a"]


def test_what_can_not_be_written(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"can't be written as ONNX:\n  kernel 'relu1'"):
        to_onnx(optimize(read(DIGITS), target_for("x86-64-v3")))
    large = np.broadcast_to(np.float32(0), (1 << 29,))
    graph = Graph("g", {"c": Node("c", "const", (), TensorType("f32", large.shape))}, (), (("c", "c"),),
                  {"c": large})
    with pytest.raises(ModelError, match=r"g: 2,147,483,648 bytes of weights are too many for one ONNX file"):
        to_onnx(graph)
    assert main(["convert", str(DIGITS), "-o", str(tmp_path / "no" / "out.onnx")]) == 1


def test_verbs_take_definitions(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    path, out = definition(tmp_path, BLOCKS), tmp_path / "out.onnx"
    np.save(tmp_path / "x.npy", floats(2, 3, 16, 16))
    for args in (["info"], ["compile", "-o", str(tmp_path / "net.cnncc")], ["verify"], ["profile"],
                 ["run", str(tmp_path / "x.npy")], ["show", "--check"], ["convert", "-o", str(out)],
                 ["bench", "--against", "onnxruntime", "--seconds", "0.1"]):
        assert main([args[0], str(path), *args[1:], "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        if args[0] == "info":
            assert found["nodes"]["conv"] == 9 and found["inputs"] == [["image", {
                "dtype": "f32", "shape": ["B", 3, 16, 16]}]]
        if args[0] == "verify":
            assert "onnxruntime" in found["engines"]
    assert main(["info", str(path)]) == 0 and capsys.readouterr().out.startswith("net: a definition\n")
    onnx.checker.check_model(out, full_check=True)


# ---- text

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
small (float[N, 4] x) => (float[N, 2] y) <float[4, 2] w = {1, 0, 0, 1, 0, 0, 2, 0}> {
   [first] a = MatMul(x, w)
   # a comment with "
   y = Relu(a)
}
"""


@pytest.mark.parametrize("suffix", ["onnxtxt", "txt"])
def test_text(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"small.{suffix}"
    path.write_text(TEXT)
    y = cnncc.compile(path, cache=False)(np.array([[1, -2, 3, 4]], np.float32))
    assert y.tolist() == [[9, 0]]
    assert main(["verify", str(path), "--no-cache"]) == 0
    path.write_text(onnx.printer.to_text(onnx.load(DIGITS)))
    assert [str(n) for n in read(path)] == [str(n) for n in read(DIGITS)]


@pytest.mark.parametrize(("text", "message"), [
    (TEXT.replace("Relu(a)", "Relu(a"),
     ", line 6, column 1: can't be read as ONNX text: Expected character ) not found."),
    ("", ": can't be read as ONNX: it is empty"),
    ("nothing", ", line 1, column 8: can't be read as ONNX text: Expected character = not found."),
    (TEXT.replace("Relu", "Rleu"), " (opset 17) needs one thing that can't be compiled yet:\n"
                                   "  Rleu 'Rleu_1': op not supported (opset 17)"),
    (TEXT.replace("[first]", "(" * 100), ": its brackets are nested too deep"),
    ("<ir_version: 8>\ng (" + "seq(" * 1_000_000, ": its brackets are nested too deep"),
    ('"(((' + "y = If <then_branch = g () => (float[2] z) {" * 100_000, ": its brackets are nested too deep"),
    ("\udcff", ": can't be read as ONNX text: "),
])
def test_text_that_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "m.txt"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{message}")


def test_text_with_data_beside_it(tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(TEXT)
    w = numpy_helper.to_array(proto.graph.initializer[0])
    (tmp_path / "w.bin").write_bytes(w.tobytes())
    text = TEXT.replace("{1, 0, 0, 1, 0, 0, 2, 0}", '["location": "w.bin", "length": "32"]')
    (tmp_path / "m.onnxtxt").write_text(text)
    assert np.array_equal(read(tmp_path / "m.onnxtxt").constants["a.weight"], w.T)
    (tmp_path / "m.onnxtxt").write_text(text.replace("w.bin", "../w.bin"))
    with pytest.raises(ModelError, match=r"paths with '..' are not followed"):
        read(tmp_path / "m.onnxtxt")
