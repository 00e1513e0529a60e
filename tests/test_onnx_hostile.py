"""Broken and hostile ONNX files: a ModelError that says what and where, never another file, never a wait."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx_models import floats, ints, model, single

import cnncc
from cnncc.frontend.onnx import inspect, read
from cnncc.frontend.onnx_file import load
from cnncc.ir.errors import InputError, ModelError

DIGITS = (Path(__file__).parent.parent / "cnncc" / "data" / "digits.onnx").read_bytes()


def error(source: Any, folder: Path | None = None) -> str:
    """The message of the ModelError that reading (and inspecting) the model raises."""
    with pytest.raises(ModelError) as caught:
        read(source, folder)
    assert len(str(caught.value)) < 2000
    return str(caught.value)


# ---- files


def test_paths_without_a_model(tmp_path: Path) -> None:
    message = error(tmp_path / "missing.onnx")
    assert "No such file" in message and "missing.onnx" in message
    assert "directory" in error(tmp_path)
    assert "null" in error("a\0b")
    os.mkfifo(tmp_path / "pipe")
    assert "regular" in error(tmp_path / "pipe")            # and we don't wait for a writer
    assert "regular" in error("/dev/zero")
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(1 << 40)
    assert "external data" in error(huge)
    for name in ("huge.onnx", "missing.onnx"):
        with pytest.raises(ModelError, match=name):
            inspect(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 64, b"hello world\n" * 9, b"\xff" * 99, bytes(range(256)), b"\x7fELF" + b"\0" * 60,
     b"\x08\x08", b"\x3a\x00", b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_model(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "odd.onnx"
    path.write_bytes(content)
    assert "odd.onnx" in error(path)
    error(content)


def test_every_cut_of_a_file_is_found() -> None:
    cuts = [*range(0, 600, 7), *range(600, len(DIGITS), 199), len(DIGITS) - 1]
    survivors = []
    for cut in cuts:
        try:
            read(DIGITS[:cut])
        except ModelError:
            continue
        survivors.append(cut)       # the last field may be dispensable
    assert all(cut > len(DIGITS) - 40 for cut in survivors)


@pytest.mark.parametrize("seed", range(4))
def test_damage_raises_nothing_but_model_errors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    small = single("AveragePool", ["N", 2, 9, 8], kernel_shape=[3, 2], pads=[1, 0, 1, 1])
    sources = small.SerializeToString(), DIGITS
    for i in range(150):
        data = bytearray(sources[i % 2])
        limit = len(data) if i % 4 == 0 else min(len(data), 700)
        for at in rng.integers(0, limit, rng.integers(1, 4)):
            data[at] = rng.integers(0, 256)
        for use in (read, inspect):
            try:
                use(bytes(data))
            except ModelError:
                pass


def test_a_token_in_the_file_is_only_data() -> None:
    values = np.frombuffer(os.urandom(16), np.float32)
    source = model([helper.make_node("Add", ["x", "k"], ["y"])], {"x": [4]}, ["y"], {"k": values})
    np.testing.assert_array_equal(read(source).constants["k"], values)


def test_floods_of_small_parts() -> None:
    assert "too many parts" in error(b"\x3a\x80\x80\x80\x02" + b"\x0a\x00" * (1 << 21))


# ---- external data


def external(location: str, **fields: int | str) -> onnx.ModelProto:
    source = model([helper.make_node("Add", ["x", "k"], ["y"], name="node")], {"x": [4]}, ["y"])
    tensor = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": location, **fields}.items():
        tensor.external_data.add(key=key, value=str(value))
    source.graph.initializer.append(tensor)
    return source


opened: list[str] = []      # by Python, since the last `clear`
sys.addaudithook(lambda event, args: opened.append(os.fsdecode(args[0])) if event == "open"
                 and isinstance(args[0], str | bytes | os.PathLike) else None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """model/ with data and links; a secret beside it."""
    (tmp_path / "secret").write_bytes(floats(8).tobytes())
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "data").write_bytes(floats(8).tobytes())
    (folder / "sub" / "data").write_bytes(floats(8, seed=1).tobytes())
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "hard").hardlink_to(tmp_path / "secret")
    (folder / "inner").symlink_to("data")
    (folder / "out").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    os.mkfifo(folder / "pipe")
    return folder


@pytest.mark.parametrize(
    ("location", "offset", "seed"), [("data", 0, 0), ("inner", 16, 0), ("sub/data", 4, 1), ("./data", 0, 0)])
def test_external_data(folder: Path, location: str, offset: int, seed: int) -> None:
    path = folder / "m.onnx"
    path.write_bytes(external(location, offset=offset, length=16).SerializeToString())
    values = floats(8, seed=seed)[offset // 4:][:4]
    proto = external(location, offset=offset)
    for source, where in ((path, None), (path.read_bytes(), folder), (proto, folder)):
        np.testing.assert_array_equal(read(source, where).constants["k"], values)
    assert inspect(path).parameters == 4


@pytest.mark.parametrize(
    ("location", "fields", "words"),
    [
        ("/etc/passwd", {}, "relative"), ("../secret", {}, ".."), ("sub/../../secret", {}, ".."),
        ("sub/../data", {}, ".."), ("..\\secret", {}, ".."), ("C:\\secret", {}, "relative"),
        ("\\\\host\\secret", {}, "relative"), ("", {}, "relative"), ("da\0ta", {}, "relative"),
        ("link", {}, "link"), ("out/secret", {}, "link"), ("loop", {}, "loop"), ("hard", {}, "hard links"),
        ("file:///etc/passwd", {}, "file:"), ("~/data", {}, "No such file"),
        ("missing", {}, "No such file"), ("sub", {}, "directory"), ("pipe", {}, "regular"),
        ("x" * 9999, {}, "k"), ("data", {"offset": 20}, "32 bytes"), ("data", {"offset": -4}, "-4"),
        ("data", {"offset": "1e9"}, "1e9"),
        ("data", {"offset": 1 << 50}, "32 bytes"), ("data", {"offset": "9" * 99}, "999"),
        ("data", {"offset": 1 << 62}, str(1 << 62)), ("data", {"offset": 1 << 64}, str(1 << 64)),
        ("data", {"offset": (1 << 63) - 8, "length": 16}, str((1 << 63) - 8)), ("data", {"offset": "٣"}, "٣"),
        ("data", {"length": 12}, "12"), ("data", {"length": -16}, "-16"),
        ("data", {"length": 1 << 40}, "shape"),
    ])
def test_hostile_external_data(folder: Path, location: str, fields: dict[str, Any], words: str) -> None:
    path = folder / "m.onnx"
    path.write_bytes(external(location, **fields).SerializeToString())
    before = sorted(folder.parent.rglob("*"))
    opened.clear()
    message = error(path)
    assert words in message and "'k'" in message and "m.onnx" in message
    assert str(path) in opened and {"/etc/passwd", str(folder.parent / "secret")}.isdisjoint(opened)
    assert sorted(folder.parent.rglob("*")) == before


def test_external_data_needs_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert "folder" in error(external("data"))
    assert "folder" in error(external("data").SerializeToString())
    Path("m.onnx").write_bytes(external("data").SerializeToString())
    read("m.onnx")


def test_a_slice_is_read_once_and_overlaps_are_refused(folder: Path) -> None:
    source = external("data", offset=0)
    names = ["x"]
    for i in range(20):         # the same slice many times is one array
        twin = source.graph.initializer.add()
        twin.CopyFrom(source.graph.initializer[0])
        twin.name = f"k{i}"
        source.graph.node.add(op_type="Add", input=[names[-1], twin.name], output=[f"v{i}"])
        names.append(f"v{i}")
    source.graph.output[0].name = names[-1]
    constants = read(source, folder).constants
    assert len({c.ctypes.data for c in constants.values()}) == 1
    for i in range(3):
        source.graph.initializer[i + 1].external_data.add(key="offset", value=str(4 * i + 4))
    assert "twice" in error(source, folder)
    for i in range(3):
        del source.graph.initializer[i + 1].external_data[1]
    assert "overlaps" in error(source, folder)


# ---- tensors


def add_with(change: Callable[[TensorProto], Any], typed: bool = False) -> onnx.ModelProto:
    add = helper.make_node("Add", ["x", "k"], ["y"], name="node")
    source = model([add], {"x": [4]}, ["y"], {"k": floats(4)})
    if typed:
        source.graph.initializer[0].CopyFrom(helper.make_tensor("k", TensorProto.FLOAT, [4], floats(4)))
    change(source.graph.initializer[0])
    return source


def dims(*values: int) -> Callable[[TensorProto], None]:
    def change(t: TensorProto) -> None:
        t.ClearField("dims")
        t.dims.extend(values)
    return change


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize(
    "values", [(1 << 40,), (-4,), (1 << 62, 4), (1 << 32, 1 << 32), (-2, -2), (5,), (2,), (), (1,) * 99, (0,),
               (1 << 20, 1 << 20)])
def test_dims_that_lie(values: tuple[int, ...], typed: bool) -> None:
    message = error(add_with(dims(*values), typed))
    assert "tensor 'k'" in message


def test_tensors_that_lie() -> None:
    assert "15 bytes" in error(add_with(lambda t: setattr(t, "raw_data", t.raw_data[:-1])))
    big = model([helper.make_node("Add", ["x", "k"], ["y"])], {"x": [400]}, ["y"], {"k": floats(400)})
    big.graph.initializer[0].raw_data += b"\0"
    assert "1,601 bytes" in error(big)
    assert "16 bytes" in error(add_with(lambda t: setattr(t, "data_type", TensorProto.DOUBLE)))
    assert "string" in error(add_with(lambda t: setattr(t, "data_type", TensorProto.STRING)))
    assert "type 77" in error(add_with(lambda t: setattr(t, "data_type", 77)))
    assert "segments" in error(add_with(lambda t: t.segment.CopyFrom(TensorProto.Segment(begin=0, end=4))))


def test_integers_out_of_range() -> None:
    tensor = helper.make_tensor("k", TensorProto.INT8, [1], [3])
    tensor.int32_data[0] = 1000
    source = model([helper.make_node("Add", ["x", "k"], ["y"])], {"x": [1]}, ["y"])
    source.graph.initializer.append(tensor)
    assert "'k'" in error(source)


def test_names_that_are_no_text() -> None:
    for name in (b"node", b"Relu", b"\x01x", b"\x01y", b"test"):
        data = single("Relu", [2]).SerializeToString()
        assert "text" in error(data.replace(name, name[:-1] + b"\xff"))


# ---- the graph's structure


@pytest.mark.parametrize(
    ("nodes", "outputs", "words"),
    [
        ([("Add", ["x", "b"], "a"), ("Relu", ["a"], "b")], ["b"], "cycle"),
        ([("Add", ["x", "a"], "a")], ["a"], "cycle"),
        ([("Relu", ["a"], "b"), ("Relu", ["x"], "a")], ["b"], "out of order"),
        ([("Relu", ["nowhere"], "y")], ["y"], "nothing defines"),
        ([("Relu", ["x"], "y")], ["z"], "nothing defines"),
        ([("Relu", ["x"], "y")], [""], "nothing defines"),
        ([("Relu", ["x"], "y"), ("Relu", ["x"], "y")], ["y"], "second time"),
        ([("Relu", ["x"], "x")], ["x"], "second time"),
        ([("Relu", ["x"], "k")], ["k"], "second time"),
        ([("Relu", ["x"], "y")], ["y", "y"], "twice"),
        ([("Relu", ["x"], "y")], [], "no outputs"),
        ([("Relu", [""], "y")], ["y"], "missing"),
        ([("Relu", [], "y")], ["y"], "0 inputs"),
        ([("Add", ["x"], "y")], ["y"], "1 inputs"),
        ([("Add", ["x", "x", "x"], "y")], ["y"], "3 inputs"),
        ([("Relu", ["x"], "q" * 5000), ("Relu", ["x"], "q" * 5000)], ["q" * 5000], "second time"),
    ])
def test_broken_structure(nodes: list[tuple[str, list[str], str]], outputs: list[str], words: str) -> None:
    made = [helper.make_node(op, inputs, [output]) for op, inputs, output in nodes]
    assert words in error(model(made, {"x": [2]}, outputs, {"k": floats(2)}))


def test_names_given_twice() -> None:
    source = single("Add", [2], floats(2))
    twin = onnx.ModelProto.FromString(source.SerializeToString())
    twin.graph.input.append(twin.graph.input[0])
    assert "two inputs are called 'x'" in error(twin)
    twin = onnx.ModelProto.FromString(source.SerializeToString())
    twin.graph.initializer.append(twin.graph.initializer[0])
    assert "two initializers are called 'c1'" in error(twin)
    twin = onnx.ModelProto.FromString(source.SerializeToString())
    twin.graph.input[0].name = ""
    assert "no name" in error(twin)
    del source.opset_import[:]
    assert "opset" in error(source)


@pytest.mark.parametrize("versions", [(0,), (-1,), (5,), (999,), (1 << 62,), (-(1 << 63),), (17, 999)])
def test_opsets_that_there_are_not(versions: tuple[int, ...]) -> None:
    source = single("Relu", [2])
    del source.opset_import[:]
    source.opset_import.extend(helper.make_opsetid("", v) for v in versions)
    assert "opset" in error(source)


NAMES = ["a'b\"c", "a\0b", "../../etc/passwd", "/etc/passwd", "x" * (1 << 16), "a\nb", " ", "%s{0}",
         "é漢\u202e", "\x1b[31m", "..", "\\", "$(touch here)", "y\" }\nret void", "const", "input"]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_are_only_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of models, nodes and values: they are compiled, saved, dumped and shown as any other."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNCC_DUMP", "dump")
    relu = helper.make_node("Relu", [name], [f"{name}y"], name=name)
    source = model([relu], {name: [2]}, [f"{name}y"])
    source.graph.name = name
    cnncc.compile(source.SerializeToString(), cache=False, threads=1).save("m.cnncc")
    m = cnncc.load("m.cnncc")
    [y] = m.run([f"{name}y"], {name: np.float32([-1, 2])})
    assert y.tolist() == [0, 2] and m.name == name and name in m.summary()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dump", "m.cnncc"]
    assert all(p.suffix == ".txt" for p in Path("dump").iterdir())
    with pytest.raises(InputError) as caught:
        m.run(None, {name: np.float32([1])})
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("shape", [[1 << 40], [-2], [1 << 20, 1 << 20], [1] * 99, [1, 3, 1 << 62]])
def test_inputs_of_absurd_shapes(shape: list[int]) -> None:
    assert "input 'x'" in error(single("Relu", shape))


# ---- attributes and operands


def pool(op: str = "MaxPool", **attributes: Any) -> onnx.ModelProto:
    return single(op, [1, 2, 8, 8], **({"kernel_shape": [2, 2]} | attributes))


def conv(*operands: np.ndarray, **attributes: Any) -> onnx.ModelProto:
    return single("Conv", [1, 2, 8, 8], *(operands or (floats(2, 2, 3, 3),)), **attributes)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (pool(kernel_shape=[0, 2]), "kernel_shape"), (pool(kernel_shape=[2]), "kernel_shape"),
        (pool(kernel_shape=[-3, 2]), "kernel_shape"), (pool(kernel_shape=[9, 9]), "larger"),
        (pool(kernel_shape=[1 << 62, 1]), "kernel_shape"), (pool(kernel_shape="2"), "a string, not ints"),
        (pool(kernel_shape=[2.0, 2.0]), "floats, not ints"), (pool(kernel_shape=2), "an int, not ints"),
        (pool(strides=[0, 1]), "strides"), (pool(strides=[-1, 1]), "strides"), (pool(strides=[1]), "strides"),
        (pool(dilations=[0, 1]), "dilations"), (pool(pads=[-1, 0, 0, 0]), "pads"),
        (pool(pads=[1, 1]), "pads"),
        (pool(auto_pad="NEVER"), "auto_pad"), (pool(auto_pad=1), "an int, not a string"),
        (pool(ceil_mode=2), "ceil_mode"), (pool("AveragePool", ceil_mode=1.0), "a float, not an int"),
        (single("MaxPool", [1, 2, 8]), "kernel_shape is missing"),
        (single("MaxPool", [2, 8], kernel_shape=[2]), "spatial"),
        (single("GlobalAveragePool", [1, 2]), "spatial"),
        (conv(strides=[0, 1]), "strides"), (conv(dilations=[0, 1]), "dilations"), (conv(group=0), "group"),
        (conv(group=-1), "group"), (conv(group=3), "group"), (conv(group=1 << 40), "group"),
        (conv(kernel_shape=[2, 2]), "kernel_shape"), (conv(floats(2, 2, 9, 9)), "larger"),
        (conv(floats(2, 2, 3)), "weight"), (conv(floats(2, 3, 3, 3)), "channels"),
        (conv(floats(2, 2, 3, 3).astype(np.float64)), "f64"),
        (conv(floats(2, 2, 3, 3), floats(3)), "bias"), (conv(pads=[1 << 30] * 4), "too large"),
        (single("BatchNormalization", [1, 2, 4], *[floats(3)] * 4), "parameters"),
        (single("BatchNormalization", [1, 2, 4], *[floats(2)] * 4, epsilon=1), "an int, not a float"),
        (single("Clip", [2], floats(2)), "bounds"), (single("Clip", [2], np.float32(np.nan)), "not a number"),
        (single("Add", [2, 3], floats(4)), "broadcast"),
        (single("ReduceMean", [2, 3], axes=[2]), "axis 2"),
        (single("ReduceMean", [2, 3], axes=[0, -2]), "twice"),
        *((single("Reshape", [2, 3], ints(*shape)), "reshape")
          for shape in ([4, 2], [-1, -1], [-1, 4], [-2, -3], [0, 0, 0])),
        (single("Reshape", [2, 3], ints(*[1] * 99)), "absurd"),
        (single("Reshape", [2, 3], ints(2, 3, *[1] * 20)), "dimensions"),
        (single("Reshape", [2, 3], ints(1 << 62, -1)), "reshape"),
        (single("Flatten", [2, 3], axis=3), "axis 3"), (single("Softmax", [2, 3], axis=-3), "axis -3"),
        (single("Gemm", [2, 3], floats(4, 5)), "4"),
        (single("Gemm", [2, 3], floats(3, 5), floats(4)), "broadcast"),
        (single("Gemm", [2, 3], floats(3, 5), floats(1, 1, 5)), "broadcast"),
        (single("Gemm", [2, 3], floats(3, 5), opset=9), "missing"),
        (single("MatMul", [2, 3], floats(4, 5)), "multiply"),
        (single("MatMul", [2, 3], floats(3, 0)), "operand"),
        (single("ArgMax", [1 << 30]), "too much memory"), (single("Hardmax", [1 << 30]), "too much memory"),
        (single("OneHot", [2], ints(1 << 30), floats(2)), "too much memory"),
    ])
def test_hostile_nodes(source: onnx.ModelProto, words: str) -> None:
    message = error(source)
    assert words in message and "'node'" in message and source.graph.node[0].op_type in message
    with pytest.raises(ModelError):
        inspect(source)


def test_tables_along_long_axes() -> None:
    assert "too large" in error(single("Pad", [1 << 30], ints(0, 1), mode="edge"))
    scales = np.array([1, 1, 1e-9], np.float32)
    linear = single("Resize", [1, 1, 1 << 30], floats(0), scales, opset=18, antialias=1, mode="linear")
    assert "too many" in error(linear)


def test_attributes_given_twice_or_by_reference() -> None:
    source = pool()
    source.graph.node[0].attribute.append(source.graph.node[0].attribute[0])
    assert "twice" in error(source)
    source = pool()
    source.graph.node[0].attribute[0].ref_attr_name = "kernel"
    assert "refers" in error(source)


def test_the_growth_of_memory_is_bounded() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    weight = floats(2048, 2048)             # 16 MB, which each Gemm would scale anew: 16 GB
    names = ["x", *(f"v{i}" for i in range(1000))]
    nodes = [helper.make_node("Gemm", [a, "w"], [b], alpha=2.0) for a, b in pairwise(names)]
    source = model(nodes, {"x": [1, 2048]}, [names[-1]], {"w": weight})
    assert "memory" in error(source)
    wide = single("AveragePool", [1, 1, 40000, 40000], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    assert "too large" in error(wide)
    long = single("AveragePool", [1, 1, 1 << 30], kernel_shape=[3], pads=[1, 1])
    assert "too many" in error(long)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 600_000, f"{grown} KB"


def test_elements_of_every_type() -> None:
    for array in (floats(2, 3), ints(1, -2), np.array([True, False]), np.arange(3, dtype=np.uint8),
                  floats(5).astype(np.float16), np.float64(2.5), floats(0, 3)):
        tensor = numpy_helper.from_array(np.asarray(array), "k")
        for given in (tensor, helper.make_tensor("k", tensor.data_type, np.shape(array), np.ravel(array))):
            value = load(single("Relu", [2])).array(given)
            assert value.dtype == np.asarray(array).dtype and not value.flags.writeable
            np.testing.assert_array_equal(value, array)
