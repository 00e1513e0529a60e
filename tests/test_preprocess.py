"""Images as inputs: the network's own graph makes of pixels what NumPy would, in all orders and dtypes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import floats, model, single

import cnncc
from cnncc.cli import main
from cnncc.compiler import as_onnx, read
from cnncc.frontend.preprocess import Preprocess, parse_preprocess

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def padded(shape: list[Any], channels_last: bool = False) -> onnx.ModelProto:
    """A convolution that reads a border of one; of an input [N, H, W, C] it is transposed before."""
    conv = helper.make_node("Conv", ["moved" if channels_last else "x", "w", "b"], ["y"], pads=[1] * 4)
    moved = [helper.make_node("Transpose", ["x"], ["moved"], perm=[0, 3, 1, 2])] * channels_last
    return model([*moved, conv], {"x": shape}, ["y"], {"w": floats(20, 3, 3, 3), "b": floats(20, seed=1)})


def pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("how", [
    Preprocess(), Preprocess(mean=MEAN, std=STD), Preprocess(mean=MEAN, std=0.25, swap=True),
    Preprocess(layout="nchw", std=STD), Preprocess(layout="nchw", to="nhwc", mean=MEAN, swap=True),
    Preprocess(to="nhwc", mean=0.5), Preprocess(dtype="uint16", scale=(1e-4, 2e-5, 1e-5), mean=MEAN)])
def test_what_becomes_of_pixels(how: Preprocess) -> None:
    last = how.to == "nhwc"
    source = padded(["N", 11, 14, 3] if last else ["N", 3, 11, 14], last)
    x = pixels(3, 11, 14, 3, dtype=how.dtype)
    given = np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if how.layout == "nchw" else x
    m = cnncc.compile(source, preprocess=how, cache=False)
    [v] = m.inputs
    assert (v.dtype, v.shape[1:]) == (how.dtype, given.shape[1:])
    expected = cnncc.reference(source, "float64")(how.apply(x, np.dtype(np.float32)))
    y = m(given)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(cnncc.reference(source, preprocess=how)(given), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(m(given[1:2]), y[1:2])
    m.threads = 2
    np.testing.assert_array_equal(m(given), y)


def test_padding_is_zero_after_it() -> None:
    """Images whose pixels are all the mean: only the bias is left, at the border too."""
    how = Preprocess(scale=0.5, mean=(20, 40, 60), std=3)
    x = np.broadcast_to(np.array([40, 80, 120], np.uint8), (1, 11, 14, 3))
    y = cnncc.compile(padded([1, 3, 11, 14]), preprocess=how, cache=False)(x)
    np.testing.assert_array_equal(y, np.broadcast_to(floats(20, seed=1)[:, None, None], y.shape))


def test_open_sizes_are_those_of_the_images() -> None:
    source, how = padded(["N", 3, "H", "W"]), Preprocess(mean=MEAN, std=STD)
    m = cnncc.compile(source, preprocess=how, cache=False)
    assert isinstance(m, cnncc.SpecialisingModel) and m.inputs[0].shape == ("N", "H", "W", 3)
    exact = cnncc.reference(source, preprocess=how)
    for shape in ((2, 9, 7, 3), (1, 8, 8, 3)):
        np.testing.assert_allclose(m(pixels(*shape)), exact(pixels(*shape)), rtol=1e-5, atol=1e-5)
    fixed = cnncc.compile(source, preprocess=how, shapes={"x": (2, 3, 9, 7)}, cache=False)
    np.testing.assert_array_equal(fixed(pixels(2, 9, 7, 3)), m(pixels(2, 9, 7, 3)))


def test_what_is_cached_is_for_these_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    onnx.save(padded([1, 3, 4, 5]), tmp_path / "m.onnx")
    x = pixels(1, 4, 5, 3)
    first, second = ([cnncc.compile(tmp_path / "m.onnx", preprocess=Preprocess(mean=mean))(x)
                      for mean in (0.0, 0.5)] for _ in range(2))
    assert not np.allclose(*first)
    np.testing.assert_array_equal(first, second)
    m = cnncc.compile(tmp_path / "m.onnx", preprocess=Preprocess(mean=0.5))
    assert isinstance(m, cnncc.CompiledModel)
    m.save(tmp_path / "m.cnncc")
    np.testing.assert_array_equal(cnncc.load(tmp_path / "m.cnncc")(x), first[1])


def test_as_onnx_and_an_output_that_is_the_input() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["x"], ["z"])]
    how, x = Preprocess(mean=MEAN, std=STD, swap=True), pixels(2, 5, 6, 3)
    graph = read(model(nodes, {"x": [2, 3, 5, 6]}, ["y", "z"]), preprocess=how)
    session = onnxruntime.InferenceSession(as_onnx(graph), providers=["CPUExecutionProvider"])
    expected = how.apply(x, np.dtype(np.float32))
    for values in (session.run(None, {"x": x}), cnncc.compile(graph, cache=False)(x)):
        for y, z in zip(values, (np.maximum(expected, 0), expected), strict=True):
            np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-6)


def test_a_definition_says_how(tmp_path: Path) -> None:
    text = """
        input: {x: [N, 3, 8, 8]}
        preprocess: {mean: [0.485, 0.456, 0.406], std: 0.25, swap: true}
        layers: [{op: conv, out: 5, k: 3}]
        """
    file = tmp_path / "m.yaml"
    file.write_text(text)
    m = cnncc.compile(file, cache=False)
    (tmp_path / "plain.yaml").write_text(text.replace("preprocess", "# "))
    plain = cnncc.compile(tmp_path / "plain.yaml", preprocess=Preprocess(mean=MEAN, std=0.25, swap=True),
                          cache=False)
    x = pixels(2, 8, 8, 3)
    np.testing.assert_array_equal(m(x), plain(x))
    for wrong, message in (("std: 0", "line 3: std=0: expected a number"), ("st: 1", "line 3: .*'st'"),
                           ("std: [1, 2]", "line 3: std: expected 1 number or 3")):
        file.write_text(text.replace("std: 0.25", wrong))
        with pytest.raises(cnncc.ModelError, match=message):
            cnncc.compile(file)
    file.write_text(text)
    with pytest.raises(cnncc.InputError, match="takes pixels as they are"):
        cnncc.compile(file, preprocess=Preprocess())


@pytest.mark.parametrize(("how", "message"), [
    ({"layout": "chw"}, "layout='chw': choose one of nchw, nhwc"), ({"dtype": "float32"}, "dtype='float32'"),
    ({"std": (1, 0, 1)}, "std=.*other than 0"), ({"scale": 0}, "scale=0: .*other than 0"),
    ({"mean": "1"}, "mean='1'"), ({"mean": float("nan")}, "mean=nan"), ({"mean": []}, "mean="),
    ({"swap": 1}, "swap=1"), ({"input": 1}, "input=1")])
def test_wrong_numbers(how: dict[str, Any], message: str) -> None:
    with pytest.raises(cnncc.InputError, match=message):
        Preprocess(**how)


def test_models_that_take_no_images() -> None:
    two = model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": [1, 3, 4, 4], "b": [1, 3, 4, 4]}, ["y"])
    for source, how, message in (
            (single("Relu", [2, 3]), Preprocess(), "expected an input with four axes, got none"),
            (two, Preprocess(), "a: float32.*, b: .*: name one with input="),
            (two, Preprocess(input="c"), "there is no input 'c'"),
            (padded([1, 3, 4, 4]), Preprocess(mean=(1, 2)), "mean: expected 1 number or 3, got 2"),
            (padded([1, 3, 4, 4]), {"mean": 1}, "expected cnncc.Preprocess")):
        for function in (cnncc.compile, cnncc.reference):
            with pytest.raises(cnncc.InputError, match=message):
                function(source, preprocess=how)
    b = np.zeros((1, 3, 4, 4), np.float32)
    np.testing.assert_allclose(cnncc.compile(two, preprocess=Preprocess(input="a"), cache=False)(
        pixels(1, 4, 4, 3), b), pixels(1, 4, 4, 3).transpose(0, 3, 1, 2) / 255, rtol=1e-6)


def test_words() -> None:
    assert parse_preprocess("") == Preprocess()
    assert parse_preprocess("scale=1/255 mean=0.5,1,-2e-1 swap=true layout=nchw input=a") == Preprocess(
        mean=(0.5, 1, -0.2), swap=True, layout="nchw", input="a")
    for text, message in (("means=1", "is it 'mean'"), ("mean", "no KEY=VALUE"), ("mean=a", "mean='a'"),
                          ("mean=1/0", "mean='1/0'"), ("swap=yes", "swap='yes'")):
        with pytest.raises(cnncc.InputError, match=message):
            parse_preprocess(text)


def test_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(tmp_path / "cache"))
    onnx.save(padded(["N", 3, 9, 7]), "m.onnx")
    image.fromarray(pixels(9, 7, 3)).save("a.png")
    words = ("--preprocess", "mean=0.485,0.456,0.406 std=0.25 swap=true")
    options = ("--mean", "0.485,0.456,0.406", "--std", "0.25", "--swap")
    assert main(["compile", "m.onnx", "-o", "m.cnncc", *words]) == 0
    commands = (("m.onnx", *options), ("m.onnx", *words), ("m.cnncc",))
    for i, (source, *more) in enumerate(commands):
        assert main(["run", source, "a.png", "--output", f"{i}.npz", *more]) == 0
    host, own, loaded = (np.load(f"{i}.npz")["y"] for i in range(3))
    np.testing.assert_array_equal(own, loaded)
    np.testing.assert_allclose(own, host, rtol=1e-4, atol=1e-5)
    assert main(["run", "m.cnncc", "a.png", *words]) == 1
    capsys.readouterr()
    for verb in (["verify"], ["profile"], ["bench", "--against", "numpy", "--seconds", "0.02"]):
        assert main([*verb, "m.onnx", *words, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)
    assert main(["embed", "m.onnx", "-o", "out", "--name", "net", *words]) == 0
    assert "const uint8_t *x" in Path("out/net.h").read_text()
    assert main(["profile", "m.onnx", "--preprocess", "mean=1,2"]) == 1
    assert "mean: expected 1 number or 3" in capsys.readouterr().err
