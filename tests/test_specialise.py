"""Models that are compiled for what a call brings: open sizes, and values of inputs that decide shapes."""

from __future__ import annotations

import copy
import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx_models import floats, ints, model, single

import cnncc
import cnncc.backend
from cnncc import compiler
from cnncc.cli import main
from cnncc.frontend.onnx import inspect
from cnncc.runtime.specialise import MOST

node = helper.make_node
CONV = [node("Conv", ["x", "w"], ["c"], "conv", pads=[1, 1, 1, 1]), node("Relu", ["c"], ["y"])]
WEIGHT = {"w": floats(5, 3, 3, 3)}
TYPES = {"f": TensorProto.FLOAT, "i": TensorProto.INT64, "b": TensorProto.BOOL}


@pytest.fixture(autouse=True)
def no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", "")


def open_sizes() -> onnx.ModelProto:
    return model(CONV, {"x": ["N", 3, "h", "w"]}, ["y"], WEIGHT)


def typed(nodes: Sequence[onnx.NodeProto], inputs: Mapping[str, Sequence[Any]], types: str,
          constants: Mapping[str, np.ndarray] | None = None, opset: int = 18) -> onnx.ModelProto:
    """A model with the output y whose inputs have these types, a letter each."""
    made = model(nodes, inputs, ["y"], constants, opset)
    for v, letter in zip(made.graph.input, types, strict=True):
        v.type.tensor_type.elem_type = TYPES[letter]
    return made


def specialising(source: Any, **how: Any) -> cnncc.SpecialisingModel:
    made = cnncc.compile(source, **how)
    assert isinstance(made, cnncc.SpecialisingModel)
    return made


def check(source: onnx.ModelProto, made: Any, **feeds: np.ndarray) -> None:
    """A compiled model, and our reference, against ONNX Runtime."""
    session = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    expected, = session.run(None, feeds)
    for found in (made.run(None, feeds)[0], cnncc.reference(source).run(None, feeds)[0]):
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_open_sizes() -> None:
    source = open_sizes()
    made = specialising(source)
    assert made.inputs[0].shape == ("N", 3, "h", "w")
    for shape in ((1, 3, 6, 7), (2, 3, 5, 4)):
        check(source, made, x=floats(*shape))
    assert made.variant(floats(2, 3, 5, 4)).inputs[0].shape == (2, 3, 5, 4)
    assert made.plan.inputs[0].shape == (2, 3, 5, 4) and "2 of at most 8" in made.summary()
    assert "conv" in made.format_profile(made.profile(floats(1, 3, 6, 7), repeat=1))
    out = np.empty((1, 5, 6, 7), np.float32)
    assert made(x=floats(1, 3, 6, 7), out=out) is out
    made.threads = 1
    assert made.threads == made.variant(floats(1, 3, 6, 7)).threads == 1


@pytest.mark.parametrize(("feed", "message"), [
    (floats(1, 4, 6, 7), r"expected shape \[N, 3, h, w\]"), (floats(1, 3, 6), "expected shape"),
    (floats(1, 3, 0, 7), "at least 1"), (np.zeros((1, 3, 4, 4)), "float32")])
def test_inputs_that_do_not_fit(feed: np.ndarray, message: str) -> None:
    with pytest.raises(cnncc.InputError, match=message):
        specialising(open_sizes())(feed)


def test_equal_names_are_equal_sizes() -> None:
    made = specialising(model([node("Add", ["x", "z"], ["y"])], {"x": [2, "k"], "z": [1, "k"]}, ["y"]))
    assert made(floats(2, 3), floats(1, 3)).shape == (2, 3)
    with pytest.raises(cnncc.InputError, match="k = 3"):
        made(floats(2, 3), floats(1, 1))


def test_names_that_the_file_does_not_give() -> None:
    nodes = [node("Add", ["x", "z"], ["y"])]
    made = specialising(model(nodes, {"x": [None, 2, None], "z": [1, None]}, ["y"]))
    assert [v.shape for v in made.inputs] == [("x.0", 2, "x.2"), (1, "z.1")]
    assert made(floats(3, 2, 4), floats(1, 1)).shape == (3, 2, 4)


def test_batches_of_two_names() -> None:
    source = model([node("MatMul", ["x", "z"], ["y"])], {"x": ["a", 4], "z": [4, "b"]}, ["y"])
    check(source, specialising(source), x=floats(3, 4), z=floats(4, 5))
    source = model([node("Concat", ["x", "z"], ["y"], axis=0)], {"x": ["a", 4], "z": ["b", 4]}, ["y"])
    check(source, specialising(source), x=floats(3, 4), z=floats(2, 4))


@pytest.mark.parametrize("source", [
    single("Softmax", ["N", 4], axis=0), single("ReduceMean", ["N", 4]),
    single("Flatten", ["N", 4, 3], axis=2), single("Reshape", ["N", 4], ints(2, -1))])
def test_nodes_that_need_the_batch(source: onnx.ModelProto) -> None:
    made = specialising(source)
    for n in (2, 3):
        shape = [n, *[d.dim_value for d in source.graph.input[0].type.tensor_type.shape.dim[1:]]]
        check(source, made, x=floats(*shape))


def test_the_batch_stays_open_where_it_can() -> None:
    source = typed([node("Resize", ["x", "", "s"], ["r"]), node("Relu", ["r"], ["y"])],
                   {"x": ["N", 2, 3, 3], "s": [4]}, "ff")
    made = specialising(source)
    scales = np.array([1, 1, 2, 2], np.float32)
    for n in (1, 3):
        check(source, made, x=floats(n, 2, 3, 3), s=scales)
    assert made.deciding == ("s",) and "1 of at most" in made.summary()
    assert made.variant(floats(1, 2, 3, 3), scales).inputs[0].shape == ("N", 2, 3, 3)


def limits(*numbers: float) -> dict[str, np.ndarray]:
    return {name: np.array(x, np.float32) for name, x in zip("abc", numbers, strict=True)}


DECIDING: dict[str, tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]] = {
    "reshape": (typed([node("Reshape", ["x", "t"], ["y"])], {"x": [2, 6], "t": ["n"]}, "fi"),
                [{"x": floats(2, 6), "t": ints(3, 4)}, {"x": floats(2, 6), "t": ints(12)}]),
    "computed": (typed([node("Mul", ["t", "two"], ["t2"]), node("Expand", ["x", "t2"], ["y"])],
                       {"x": ["N", 1], "t": [2]}, "fi", {"two": ints(1, 2)}),
                 [{"x": floats(3, 1), "t": ints(1, 2)}, {"x": floats(1, 1), "t": ints(4, 1)}]),
    "slice": (typed([node("Slice", ["x", "a", "b"], ["y"])], {"x": [6, 5], "a": [1], "b": [1]}, "fii"),
              [{"x": floats(6, 5), "a": ints(a), "b": ints(b)} for a, b in ((1, 4), (-2, 9))]),
    "pad": (typed([node("Pad", ["x", "p"], ["y"])], {"x": [2, 3], "p": [4]}, "fi"),
            [{"x": floats(2, 3), "p": ints(1, 0, 0, 2)}]),
    "axes": (typed([node("ReduceSum", ["x", "a"], ["y"])], {"x": ["N", 3, 2], "a": [1]}, "fi"),
             [{"x": floats(4, 3, 2), "a": ints(1)}, {"x": floats(4, 3, 2), "a": ints(0)}]),
    "range": (typed([node("Range", ["a", "b", "c"], ["y"])], {"a": [], "b": [], "c": []}, "fff"),
              [limits(1, 8, 2)]),
    "open too": (typed([node("Shape", ["x"], ["s"]), node("Concat", ["s", "t"], ["u"], axis=0),
                        node("Reshape", ["x", "u"], ["y"])], {"x": ["N", "k"], "t": [1]}, "fi"),
                 [{"x": floats(3, 4), "t": ints(1)}, {"x": floats(2, 5), "t": ints(1)}])}


@pytest.mark.parametrize("name", DECIDING)
def test_values_that_decide(name: str) -> None:
    source, sets = DECIDING[name]
    made = specialising(source)
    for feeds in sets:
        check(source, made, **feeds)


def test_what_decides_is_told() -> None:
    source, sets = DECIDING["computed"]
    assert specialising(source).deciding == ("t",)
    assert [row[:2] for row in inspect(source).open] == [("Expand", "Expand_1")]
    source, sets = DECIDING["open too"]     # only the sizes tell that there is more
    made = specialising(source)
    assert made.deciding == ()
    made.run(None, sets[0])
    assert made.deciding == ("t",)


def test_large_inputs_do_not_decide() -> None:
    source = typed([node("Reshape", ["x", "t"], ["y"])], {"x": [2, 6], "t": [65]}, "fi")
    with pytest.raises(cnncc.UnsupportedError, match="must be a constant"):
        cnncc.compile(source)
    with pytest.raises(cnncc.InputError, match="at most 64 elements"):
        specialising(DECIDING["reshape"][0])(floats(2, 6), np.ones(65, np.int64))


def test_what_cannot_be_compiled_is_told_at_once() -> None:
    nodes = [node("Softmax", ["x"], ["a"], axis=0), node("StringSplit", ["a"], ["b"]),
             node("Reshape", ["b", "t"], ["y"])]
    with pytest.raises(cnncc.UnsupportedError) as caught:
        cnncc.compile(typed(nodes, {"x": ["N", "k"], "t": [2]}, "fi"))
    assert [row[0] for row in caught.value.rows] == ["StringSplit"]
    with pytest.raises(cnncc.UnsupportedError) as caught:
        cnncc.compile(typed(nodes, {"x": ["N", 3], "t": [2]}, "fi"))
    assert [row[0] for row in caught.value.rows] == ["StringSplit"]


@pytest.mark.parametrize(("name", "feeds", "message"), [
    ("reshape", {"x": floats(2, 6), "t": ints(5, 4)}, "'Reshape_0': can't reshape"),
    ("reshape", {"x": floats(2, 6), "t": ints(1 << 40, 1 << 40)}, "'Reshape_0'.*is no size"),
    ("computed", {"x": floats(1, 1), "t": ints(1 << 30, 1 << 30)}, "too large|no size"),
    ("pad", {"x": floats(2, 3), "p": ints(0, 0, 1 << 40, 0)}, "'Pad_0'"),
    ("pad", {"x": floats(2, 3), "p": ints(0, 0, -2, 0)}, "'Pad_0'.*empty"),
    ("axes", {"x": floats(1, 3, 2), "a": ints(7)}, "'ReduceSum_0'.*axis 7"),
    ("range", limits(0, 1e18, 1), "'Range_0'"),
    ("range", limits(0, 1e9, 1), "'Range_0'.*memory"),
    ("range", limits(0, np.nan, 1), "'Range_0'")])
def test_values_that_do_not_fit(name: str, feeds: dict[str, np.ndarray], message: str) -> None:
    made = specialising(DECIDING[name][0])
    for _ in range(2):
        with pytest.raises(cnncc.ModelError, match=message):
            made.run(None, feeds)
    if name != "range":
        made.run(None, DECIDING[name][1][0])        # and the next call is right


def test_empty_results() -> None:
    made = specialising(typed([node("ConstantOfShape", ["t"], ["y"])], {"t": [2]}, "i"))
    assert made(ints(2, 0)).shape == (2, 0)
    assert made(ints(2, 3)).shape == (2, 3)


def test_the_last_variants_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    made = specialising(single("Relu", ["N", "k"]))
    with caplog.at_level(logging.INFO, "cnncc"):
        for k in (*range(1, MOST + 2), MOST + 1, 2, 1):
            made(floats(1, k))
    lines = [r.getMessage() for r in caplog.records if "ready for" in r.getMessage()]
    assert len(lines) == MOST + 2 and f"x [1, {MOST + 1}]" in lines[-2] and "x [1, 1]" in lines[-1]


def test_threads_share_one_compilation(monkeypatch: pytest.MonkeyPatch) -> None:
    made, built, start = specialising(single("Relu", ["N", "k"])), [], threading.Barrier(4)
    build = made._variants.build

    def counted(shapes: Any, values: Any) -> Any:
        built.append(shapes)
        return build(shapes, values)
    monkeypatch.setattr(made._variants, "build", counted)
    found = []

    def work(k: int) -> None:
        start.wait()
        found.append(made(floats(2, k)).shape)
    threads = [threading.Thread(target=work, args=(3 + i % 2,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert sorted(found) == [(2, 3), (2, 3), (2, 4), (2, 4)] and len(built) == 2


def test_the_disk_cache_knows_sizes_and_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("reshape", "open too"):
        source, sets = DECIDING[name]
        data = source.SerializeToString()
        for made in (specialising(data), specialising(data)):
            for feeds in sets:
                check(source, made, **feeds)
            monkeypatch.setattr(compiler, "_build", refused(compiler._build))
        monkeypatch.undo()
        monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))


def refused(build: Any) -> Any:
    """`_build` that may find out that more has to be known, but must not compile."""
    def work(*args: Any) -> Any:
        build(*args)
        raise AssertionError("compiled again")
    return work


def test_copied_and_saved(tmp_path: Path) -> None:
    made = specialising(open_sizes().SerializeToString(), threads=1)
    again = copy.deepcopy(made)
    x = floats(1, 3, 4, 5)
    assert again.threads == 1 and np.array_equal(again(x), made(x))
    with pytest.raises(cnncc.InputError, match="shapes="):
        made.save(tmp_path / "m.cnncc")
    made.variant(x).save(tmp_path / "m.cnncc")
    assert np.array_equal(cnncc.load(tmp_path / "m.cnncc")(x), made(x))
    with pytest.raises(cnncc.InputError, match="call it first"):
        _ = specialising(open_sizes()).plan


def test_shapes_and_values_together() -> None:
    source = typed([node("Resize", ["x", "", "s"], ["y"])], {"x": ["N", 2, "h", "w"], "s": [4]}, "ff")
    made = specialising(source, shapes={"x": (1, 2, 3, 3)})
    assert made.inputs[0].shape == (1, 2, 3, 3)
    check(source, made, x=floats(1, 2, 3, 3), s=np.array([1, 1, 2, 3], np.float32))


def test_other_interfaces() -> None:
    source, x = open_sizes(), floats(1, 3, 4, 5)
    session = cnncc.InferenceSession(source.SerializeToString())
    assert session.get_inputs()[0].shape == ["N", 3, "h", "w"]
    y, = session.run(None, {"x": x})
    assert np.array_equal(cnncc.backend.prepare(source).run([x])[0], y)
    assert cnncc.reference(source, "float64")(x).dtype == np.float64


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, array = str(tmp_path / "m.onnx"), str(tmp_path / "x.npy")
    onnx.save(open_sizes(), path)
    np.save(array, floats(1, 3, 4, 5))
    for args, code, words in [
            (["info", path], 0, "as their sizes or values decide"), (["compile", path], 0, "axis 2"),
            (["compile", path, "-o", str(tmp_path / "m.cnncc")], 1, "--shape"),
            (["run", path, array], 0, "float32[1, 5, 4, 5]"), (["profile", path, array], 0, "conv"),
            (["verify", path, array], 0, "is right"), (["verify", path], 1, "--shape x="),
            (["verify", path, "--shape", "x=1,3,6,6"], 0, "is right"), (["profile", path], 1, "--shape x="),
            (["show", path], 1, "--shape"), (["bench", path, "--against", ""], 1, "--shape"),
            (["bench", path, "--against", "", "--seconds", "0.01", "--shape", "x=1,3,6,6"], 0, "cnncc")]:
        assert main(args) == code, args
        shown = capsys.readouterr()
        assert words in shown.out + shown.err, args


def test_what_only_some_batches_fit() -> None:
    """Broadcasting with a constant of three images; splitting the batch in two."""
    source = model([node("Add", ["x", "k"], ["y"])], {"x": ["N", 2]}, ["y"], {"k": floats(3, 2)})
    np.testing.assert_array_equal(cnncc.compile(source)(floats(3, 2)), floats(3, 2) * 2)
    with pytest.raises(cnncc.ModelError, match="broadcast"):
        cnncc.compile(source)(floats(4, 2))
    source = model([node("Split", ["x"], ["y", "z"], num_outputs=2)], {"x": ["N", 2]}, ["y", "z"], opset=18)
    y, z = cnncc.compile(source)(floats(4, 2))
    np.testing.assert_array_equal(np.concatenate([y, z]), floats(4, 2))


def test_open_sizes_of_one_name_that_says_nothing() -> None:
    source = model([node("Relu", ["x"], ["y"])], {"x": ["None", "None"]}, ["y"])
    assert cnncc.compile(source)(floats(2, 3)).shape == (2, 3)
