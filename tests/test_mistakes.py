"""Typical mistakes of users, and what they are told: what is wrong, where, what was expected, what to do.

Those of definitions' texts are in test_definitions.py, more of the command line's in test_cli.py.
"""

from __future__ import annotations

import io
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_models import floats, model

import cnncc
from cnncc.cli import main
from cnncc.ir import target

DIGITS = str(Path(cnncc.__file__).parent / "data" / "digits.onnx")
CALL = Callable[[cnncc.CompiledModel, np.ndarray], Any]


@pytest.fixture(scope="module")
def compiled() -> cnncc.CompiledModel:
    return cnncc.compile(DIGITS, threads=1, cache=False)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder, no cache and no settings."""
    for name in ("CNNCC_NUM_THREADS", "OMP_NUM_THREADS", "CNNCC_CACHE_DIR", "CNNCC_DUMP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CNNCC_CACHE", "0")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    logging.getLogger("cnncc").handlers.clear()
    logging.getLogger("cnncc").setLevel(logging.NOTSET)


# ---- files that are no ONNX models


def archive(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as z:
        for name in names:
            z.writestr(name, b"{}")
    return file.getvalue()


EXPORT = "export it with torch.onnx.export(model, (x,), 'model.onnx')"
KERAS = "it is a Keras model or HDF5; export it with model.export('model.onnx', format='onnx')"
FILES = {
    "PyTorch": ("m.pt", archive("m/data.pkl", "version"), f"PyTorch checkpoint or another pickle; {EXPORT}"),
    "old PyTorch": ("m.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", EXPORT),
    "Keras": ("m.keras", archive("metadata.json", "config.json", "model.weights.h5"), KERAS),
    "old Keras": ("m.h5", b"\x89HDF\r\n\x1a\n" + bytes(90), KERAS),
    "TensorFlow Lite": ("m.tflite", b"\x1c\0\0\0TFL3" + bytes(90), "tf2onnx.convert --tflite MODEL --output"),
    "TensorFlow": ("m.pb", b"\n\x10\n\1x\x12\x0bPlaceholder", "tf2onnx.convert --graphdef MODEL --output"),
    "ONNX Runtime's": ("m.ort", b"\x1c\0\0\0ORTM" + bytes(90), "give the .onnx file that it was made from"),
    "OpenVINO": ("m.xml", b'<?xml version="1.0"?><net>', "it is XML, as OpenVINO's models are"),
    "compiled": ("m.onnx", b"CNNCC\0" + bytes(200), "it is a compiled model; open it with cnncc.load"),
    "weights": ("m.safetensors", b"\x02\0\0\0\0\0\0\0{\"a\":", "weights without a network; a definition"),
    "packed": ("m.onnx.gz", b"\x1f\x8b\x08" + bytes(90), "it is compressed; unpack it"),
    "Git LFS": ("m.onnx", b"version https://git-lfs.github.com/spec/v1\n", "fetch the model with git lfs"),
    "a web page": ("m.onnx", b"\n<!DOCTYPE html><html>", "it is a web page; download the file itself"),
    "text": ("m.onnx", b"input: {x: [1]}\nlayers: []", "it is text; definitions are called .yaml, ONNX"),
    "empty": ("m.onnx", b"", "can't be read as ONNX: it is empty"),
}


@pytest.mark.parametrize("what", FILES)
def test_files_of_other_kinds(what: str) -> None:
    name, data, words = FILES[what]
    Path(name).write_bytes(data)
    for use in (cnncc.compile, cnncc.reference):
        with pytest.raises(cnncc.ModelError) as caught:
            use(name)
        assert str(caught.value).startswith(f"{name}: ") and words in str(caught.value)


def test_paths(here: Path) -> None:
    Path("resnet50.onnx").touch()
    Path("saved").mkdir()
    Path("saved/saved_model.pb").touch()
    for path, words in [("resnet5.onnx", "No such file or directory (is it 'resnet50.onnx'?)"),
                        ("other.onnx", "No such file or directory"), (".", "Is a directory"),
                        ("saved", "a TensorFlow model; convert it with python -m tf2onnx.convert --saved")]:
        with pytest.raises(cnncc.ModelError) as caught:
            cnncc.compile(path)
        assert str(caught.value).startswith(f"{path}: can't read the file: ") and words in str(caught.value)
    for path in (DIGITS, "resnet50.onnx"):
        with pytest.raises(cnncc.ArtifactError, match=r"not a \.cnncc file: .*cnncc\.compile|: empty file"):
            cnncc.load(path)


# ---- arguments and arrays

SOURCE = "a model is a path, bytes or an onnx.ModelProto (or a cnncc.Graph), not "
SHAPES = 'shapes: expected whole numbers by input, such as {"x": (1, 3, 224, 224)}, got '
OUT = "out: expected for 'probabilities' float32[2, 10], got "
IS = "input 'x': expected shape [N, 1, 8, 8], got "
MISTAKES: dict[str, tuple[CALL, str]] = {
    "a list for a model": (lambda m, x: cnncc.compile([DIGITS]), SOURCE + "list"),
    "compiled twice": (lambda m, x: cnncc.compile(m), f"{SOURCE}CompiledModel: it is compiled already"),
    "threads": (lambda m, x: cnncc.compile(DIGITS, threads=0), "threads='0': expected a whole number from 1"),
    "jobs": (lambda m, x: cnncc.compile(DIGITS, jobs=0), "jobs=0: expected a whole number of processes"),
    "target": (lambda m, x: cnncc.compile(DIGITS, target="avx2"),
               "unknown target 'avx2': choose one of native, x86-64-v2, x86-64-v3, x86-64-v4"),
    "precision": (lambda m, x: cnncc.compile(DIGITS, precision="fp16"),
                  "unknown precision 'fp16': choose one of fast, strict"),
    "dtype": (lambda m, x: cnncc.reference(DIGITS, "double precision"),
              "dtype: expected float32 or float64, got double precision"),
    "shapes: name": (lambda m, x: cnncc.compile(DIGITS, shapes={"X": (1, 1, 8, 8)}),
                     f"{DIGITS}: shapes: unknown input 'X': the inputs are x"),
    "shapes: rank": (lambda m, x: cnncc.compile(DIGITS, shapes={"x": (1, 8, 8)}),
                     f"{DIGITS}: the shape [1, 8, 8] doesn't fit input 'x', [N, 1, 8, 8]"),
    "shapes: sign": (lambda m, x: cnncc.compile(DIGITS, shapes={"x": (-1, 1, 8, 8)}),
                     f"{DIGITS}: the shape [-1, 1, 8, 8] doesn't fit input 'x', [N, 1, 8, 8]"),
    "shapes: text": (lambda m, x: cnncc.compile(DIGITS, shapes={"x": "1x1"}), SHAPES),
    "shapes: None": (lambda m, x: cnncc.reference(DIGITS, shapes={"x": (None, 1)}), SHAPES),
    "shapes: no names": (lambda m, x: cnncc.compile(DIGITS, shapes=(1, 1, 8, 8)), SHAPES),
    "pixels": (lambda m, x: m(x.astype(np.uint8)),
               "input 'x': expected float32, got uint8, which isn't converted silently: pass "
               "numpy.asarray(array, 'float32'), scaled as when the model was trained (often by 1/255)"),
    "channels last": (lambda m, x: m(np.moveaxis(x, 1, -1)), IS + "[2, 8, 8, 1]: are the channels last? They "
                      "come second here: pass numpy.moveaxis(array, -1, 1)"),
    "no batch": (lambda m, x: m(x[0]), IS + "[1, 8, 8]: the batch is missing: pass array[None]"),
    "no channels": (lambda m, x: m(x[0, 0]),
                    IS + "[8, 8]: batch and channels are missing: pass array[None, None]"),
    "rounds": (lambda m, x: m.profile(x, repeat="3"), "repeat='3': expected a whole number of rounds"),
    "no path": (lambda m, x: cnncc.load(None), "load: expected the path of a .cnncc file, got NoneType"),
    "channels": (lambda m, x: m(np.repeat(x, 3, 1)), IS + "[2, 3, 8, 8]"),
    "no images": (lambda m, x: m(x[:0]),
                  "input 'x': expected shape [N, 1, 8, 8] with N of at least 1, got [0, 1, 8, 8]"),
    "a path for an array": (lambda m, x: m("x.npy"), "input 'x': expected an array of float32, got str, "
                            "which can't be read as one: read the file first, with numpy.load"),
    "objects": (lambda m, x: m(x.astype(object)),
                "input 'x': expected an array of float32, got ndarray of Python objects"),
    "one too many": (lambda m, x: m(x, x), "2 arrays were given: the model takes x: float32[N, 1, 8, 8]"),
    "run by position": (lambda m, x: m.run(None, [x]), "expected inputs by name, {'x': array}, got list"),
    "run with one output": (lambda m, x: m.run("probabilities", {"x": x}),
                            "expected a list of outputs, got 'probabilities'"),
    "out": (lambda m, x: m(x, out=np.empty((2, 5), np.float32)),
            OUT + "float32[2, 5]"),
    "out is no array": (lambda m, x: m(x, out=5), OUT + "int"),
    "out is read-only": (lambda m, x: m(x, out=np.broadcast_to(np.float32(0), (2, 10))),
                         "out: the array for 'probabilities' must be contiguous, aligned and writable"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_arguments_and_arrays(compiled: cnncc.CompiledModel, mistake: str) -> None:
    call, message = MISTAKES[mistake]
    with pytest.raises(cnncc.InputError) as caught:
        call(compiled, np.zeros((2, 1, 8, 8), np.float32))
    assert str(caught.value).startswith(message)


def test_what_is_no_mistake(compiled: cnncc.CompiledModel) -> None:
    x = floats(2, 1, 8, 8)
    for same in (x.tolist(), np.asfortranarray(x), np.repeat(x, 2, 3)[..., ::2], x.view(np.ma.MaskedArray)):
        np.testing.assert_array_equal(compiled(same), compiled(x))
    assert cnncc.compile(DIGITS, threads="2").threads == 2


def test_fixed_batches_and_channels_last() -> None:
    m = cnncc.reference(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 5, 6, 3]}, ["y"]))
    with pytest.raises(cnncc.InputError, match=r"are the channels second\? .*moveaxis\(array, 1, -1\)"):
        m(floats(1, 3, 5, 6))
    with pytest.raises(cnncc.InputError, match=r"the model is for 1 at a time; leave its batch open"):
        m(floats(4, 5, 6, 3))


def test_torch(compiled: cnncc.CompiledModel) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(cnncc.InputError, match=r"got Tensor, .* Use tensor\.detach\(\)"):
        compiled(torch.zeros(1, 1, 8, 8, requires_grad=True))
    with pytest.raises(cnncc.InputError, match=r"not ReLU: export it with .* or use torch\.compile"):
        cnncc.compile(torch.nn.ReLU())


def test_targets_that_the_cpu_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "host_features", lambda: frozenset(
        f[1:] for f in target.LEVELS["x86-64-v2"][1].split(",")))
    with pytest.raises(cnncc.CnnccError, match="this CPU lacks the instructions of x86-64-v3"):
        target.target_for.__wrapped__("x86-64-v3")


def test_unsupported_ops() -> None:
    nodes = [helper.make_node("StringNormalizer", ["x"], ["a"], name="first"),
             helper.make_node("Relu", ["a"], ["b"]),
             helper.make_node("Secret", ["x"], ["c"], name="second", domain="com.example")]
    with pytest.raises(cnncc.UnsupportedError) as caught:
        cnncc.compile(model(nodes, {"x": [2]}, ["b", "c"]))
    assert [row[:2] for row in caught.value.rows] == [("StringNormalizer", "first"),
                                                      ("com.example.Secret", "second")]
    assert "needs 2 things that can't be compiled yet" in str(caught.value)


def test_indentation() -> None:
    Path("d.yaml").write_text("input: {x: [N, 3]}\nlayers:\n- op: relu\n   id: a\n")
    with pytest.raises(cnncc.ModelError, match=r"^d\.yaml, line 4: this is no YAML: mapping values are not"):
        cnncc.compile("d.yaml")
    Path("d.yaml").write_text("input: {x: [N, 3]}\nlayers: [{op: relu}]\n")
    with pytest.raises(cnncc.InputError, match="shapes are for ONNX models: here the inputs have theirs"):
        cnncc.compile("d.yaml", shapes={"x": (1, 3)})


def test_builder() -> None:
    b = cnncc.Builder()
    with pytest.raises(AttributeError, match=r"there are no layers called 'convv' \(is it 'conv'\?\)"):
        b.convv("x")
    with pytest.raises(cnncc.ModelError, match=r"relu 'relu\.1': reads ndarray, not a value of this network"):
        b.relu(floats(3))


# ---- files to write, the cache


def test_folders_that_are_missing(compiled: cnncc.CompiledModel) -> None:
    with pytest.raises(FileNotFoundError, match=r"No such file or directory: 'no/d\.cnncc'$"):
        compiled.save("no/d.cnncc")
    with pytest.raises(FileNotFoundError, match=r"'no/d\.onnx'$"):
        cnncc.convert(DIGITS, "no/d.onnx")
    assert os.listdir() == []


def test_artifacts(compiled: cnncc.CompiledModel) -> None:
    compiled.save("d.cnncc")
    data = Path("d.cnncc").read_bytes()
    for change, message in [(data[:6] + b"\xff\0" + data[8:], "format 255, from a newer cnncc; this one"),
                            (data[:9000], r"truncated or damaged: 9,000 bytes, expected "),
                            (data[:300] + b"?" + data[301:], "damaged header or metadata: the SHA-256")]:
        Path("d.cnncc").write_bytes(change)
        with pytest.raises(cnncc.ArtifactError, match=rf"^d\.cnncc: {message}"):
            cnncc.load("d.cnncc")


def test_no_cache(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A folder that can't be written to: it works, and one line of the log says so."""
    Path("file").touch()
    monkeypatch.delenv("CNNCC_CACHE")
    monkeypatch.setenv("CNNCC_CACHE_DIR", str(Path("file/cache").absolute()))
    with caplog.at_level(logging.WARNING, "cnncc"):
        for _ in range(2):
            cnncc.compile(DIGITS)
    assert [line.partition(":")[0] for line in caplog.messages] == ["no compile cache"]


# ---- the command line

COMMANDS: list[tuple[list[str], int, str]] = [
    (["complie", "m.onnx"], 2, "No such command 'complie'"),
    (["compile", "m.onnx", "--precison", "strict"], 2, "--precision"),
    (["compile", "m.onnx", "--shape", "x=1x8"], 2, "'x=1x8': expected NAME=1,3,224,224"),
    (["compile", DIGITS, "--shape", "X=1,1,8,8"], 1, "shapes: unknown input 'X': the inputs are x"),
    (["info", "missing.onnx", "--json"], 1, "error: missing.onnx: can't read the file: No such file"),
    (["compile", "m.cnncc"], 1, "m.cnncc: is compiled already; this needs the .onnx file"),
    (["run", "wide.onnx", "wrong.npz"], 1, "wrong.npz: holds image, label; the model takes x"),
    (["run", "wide.onnx", "photo.png"], 1, "photo.png: the input 'x' has 5 channels as nchw"),
    (["run", "wide.onnx", "last.npy"], 1, "last.npy: input 'x': expected shape [1, 5, 2, 2], got "
                                          "[1, 2, 2, 5]: are the channels last?"),
    (["compile", "wide.onnx", "-o", "no/m.cnncc"], 1, "no/m.cnncc: cannot be written: No such file"),
]


@pytest.mark.parametrize(("args", "code", "words"), COMMANDS, ids=[c[2] for c in COMMANDS])
def test_commands(args: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model([helper.make_node("Relu", ["x"], ["y"])], {"x": [1, 5, 2, 2]}, ["y"]), "wide.onnx")
    np.savez("wrong.npz", image=floats(1, 5, 2, 2), label=floats(1))
    np.save("last.npy", floats(1, 2, 2, 5))
    if "photo.png" in args:
        pytest.importorskip("PIL.Image").new("RGB", (4, 3)).save("photo.png")
    before = sorted(os.listdir())
    assert main(args) == code
    out, err = capsys.readouterr()
    assert out == "" and words in err and "Traceback" not in err and sorted(os.listdir()) == before
