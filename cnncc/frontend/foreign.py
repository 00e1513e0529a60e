"""Files and objects that are no ONNX models: what they are, and what to do."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

TORCH = "export it with torch.onnx.export(model, (x,), 'model.onnx')"
KERAS = "export it with model.export('model.onnx', format='onnx')"
TENSORFLOW = "convert it with python -m tf2onnx.convert"
# How a file begins (a regular expression; with a suffix of its name: only then), what it is, what to do.
FILES: tuple[tuple[bytes, str, str, str], ...] = (
    (rb"CNNCC\0", "", "a compiled model", "open it with cnncc.load, or give the .onnx file"),
    (rb"PK\x03\x04.{0,400}/data\.pkl|\x80[\x02-\x05]", "", "a PyTorch checkpoint or another pickle", TORCH),
    (rb"PK\x03\x04.{0,4000}(config\.json|model\.weights)|\x89HDF\r\n", "", "a Keras model or HDF5", KERAS),
    (rb"PK\x03\x04", "", "a zip archive", "unpack it"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "", "compressed", "unpack it"),
    (rb".{4}TFL3", "", "a TensorFlow Lite model", f"{TENSORFLOW} --tflite MODEL --output model.onnx"),
    (rb".{4}ORTM", "", "a model in ONNX Runtime's own format", "give the .onnx file that it was made from"),
    (rb".{8}\{\s*\"", ".safetensors", "weights without a network", "a definition takes them as `weights:`"),
    (rb"", ".pb", "a TensorFlow graph", f"{TENSORFLOW} --graphdef MODEL --output model.onnx"),
    (rb"version https://git-lfs", "", "a pointer of Git LFS", "fetch the model with git lfs pull"),
    (rb"\s*(?i:<!doctype html|<html)", "", "a web page", "download the file itself"),
    (rb"\s*<\?xml", "", "XML, as OpenVINO's models are", "give the .onnx file that it was made from"),
    (rb"[\t\n\r -~]{16}", "", "text", "definitions are called .yaml, ONNX as text .onnxtxt"))


def advice(name: str, data: bytes | memoryview) -> str:
    """What to add to a message about a file that is no ONNX; empty where it looks like nothing known."""
    for start, suffix, what, how in FILES:
        if name.lower().endswith(suffix) and re.match(start, data[:5000], re.S):
            return f": it is {what}; {how}"
    return ""


def advice_on(thing: object) -> str:
    """The same of an object in the place of a model."""
    families = {base.__module__.partition(".")[0] for base in type(thing).__mro__}
    if "torch" in families:
        return f": {TORCH}, or use torch.compile(model, backend='cnncc')"
    if families & {"keras", "tensorflow"}:
        return f": {KERAS}"
    return ": it is compiled already" if type(thing).__name__ == "CompiledModel" else ""


def advice_at(path: str | os.PathLike[str]) -> str:
    """The same of a path where no file can be read."""
    place = Path(os.fsdecode(path))
    try:
        if (place / "saved_model.pb").exists():
            return f": it is a TensorFlow model; {TENSORFLOW} --saved-model FOLDER --output model.onnx"
        stems = {Path(name).stem: name for name in os.listdir(place.parent) if not place.exists()}
        near = difflib.get_close_matches(place.stem, stems, 1)
        return f" (is it {stems[near[0]]!r}?)" if near else ""
    except (OSError, ValueError):
        return ""
