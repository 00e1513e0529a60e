"""A model's inputs from files: arrays (.npy, .npz) and images; and its results into one."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.frontend.preprocess import DTYPES, LAYOUTS, Preprocess
from cnncc.ir.errors import InputError
from cnncc.ir.plan import Value
from cnncc.ir.signature import Array, Signature
from cnncc.ir.types import dtype_called

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF", ".webp": "WEBP",
           ".ppm": "PPM", ".pgm": "PPM", ".tif": "TIFF", ".tiff": "TIFF"}
PIXELS = Preprocess()
MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def read_feeds(inputs: Sequence[Value], files: Sequence[str],
               pixels: Preprocess = PIXELS) -> dict[str, Array]:
    """The arrays for a model's inputs, checked, from `file` or `name=file`.

    Files without a name go to the inputs left, in order: an .npz gives those that it has, or its
    only array; several images are a batch. Inputs of integers take the pixels of images as they are, others
    what `pixels` makes of them. Raises InputError, naming the file.
    """
    known = {v.name: v for v in inputs}
    given: dict[str, Array] = {}
    origin: dict[str, str] = {}

    def place(name: str | None, file: str) -> Value:
        name = name or next((v.name for v in inputs if v.name not in given), None)
        if name is None or name in given:
            what = f"a second file for the input {name!r}" if name else "no input is left for it"
            raise InputError(f"{file}: {what}: the model takes {', '.join(known)}")
        origin[name] = file
        return known[name]

    images: dict[str | None, list[str]] = {}
    for name, file in sorted((_split(text, known) for text in files), key=lambda pair: pair[0] is None):
        suffix = Path(file).suffix.lower()
        if suffix in FORMATS:
            images.setdefault(name, []).append(file)
        elif suffix in (".npy", ".npz"):
            for own, array in _arrays(file, name, known).items():
                given[place(own, file).name] = array
        else:
            raise InputError(f"{file}: expected .npy, .npz or an image ({', '.join(FORMATS)})")
    for name, group in images.items():
        v = place(name, ", ".join(group))
        arrays = [_image(file, v, pixels) for file in group]
        if len({a.shape for a in arrays}) > 1:
            raise InputError(f"{', '.join(group)}: images of several sizes are no batch: fix it with --shape")
        given[v.name] = np.concatenate(arrays)
    try:
        Signature(tuple(inputs), ()).bind((), given)
    except InputError as error:
        sources = [file for name, file in origin.items() if repr(name) in str(error).partition(":")[0]]
        raise InputError(": ".join([*sources, str(error)])) from None
    return given


def random_feeds(inputs: Sequence[Value], batch: int = 1, seed: int = 0,
                 deciding: Collection[str] = ()) -> dict[str, Array]:
    """Seeded normal numbers, or small integers, for every input; `batch` stands for a symbolic first extent.

    Raises InputError where others are open, and for inputs whose values are `deciding`: no numbers would do.
    """
    rng = np.random.default_rng(seed)
    for v in inputs:
        if any(isinstance(e, str) for e in v.shape[1:]):
            raise InputError(f"input {v.name!r} has open sizes, [{', '.join(map(str, v.shape))}]: give them "
                             f"with --shape {v.name}=N,N..., or the input's file")
        if v.name in deciding:
            raise InputError(f"the values of input {v.name!r} decide what is compiled: give a file for each "
                             "input")

    def numbers(v: Value) -> Array:
        shape, dtype = [batch if isinstance(e, str) else e for e in v.shape], dtype_called(v.dtype)
        if "float" in v.dtype:
            return rng.standard_normal(shape).astype(dtype)
        return rng.integers(0, 2 if dtype.kind == "b" else 10, shape).astype(dtype)
    return {v.name: numbers(v) for v in inputs}


def write_results(path: str | os.PathLike[str], results: Mapping[str, Array]) -> None:
    """Write arrays to an .npz file, which appears complete or not at all. Raises OSError, ArtifactError."""
    from cnncc.runtime.artifact import replacing
    with replacing(path) as file, zipfile.ZipFile(file, "w") as archive:
        for name, array in results.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def read_labels(path: str) -> list[str]:
    """The lines of a text file. Raises InputError."""
    with readable(path):
        return Path(path).read_text(encoding="utf-8").splitlines()


def summary(y: Array, top: int, labels: Sequence[str]) -> dict[str, Any]:
    """Type, shape and statistics of a result; of [N, classes] the `top` classes of each row."""
    row: dict[str, Any] = {"dtype": str(y.dtype), "shape": list(y.shape)}
    row |= {name: float(getattr(y, name)()) if y.size else None for name in ("min", "mean", "max")}
    if y.ndim == 2 and y.shape[1] > 1:
        order = (-y).argsort(1, kind="stable")[:, :top]
        row["top"] = [[{"class": int(k), "label": labels[k] if k < len(labels) else str(k),
                        "value": float(y[i, k])} for k in best] for i, best in enumerate(order)]
    return row


def _split(text: str, known: Mapping[str, Value]) -> tuple[str | None, str]:
    """(input, file) of `name=file`, where the name may contain "=", and (None, file) of a plain file."""
    for name in sorted(known, key=len, reverse=True):
        if text.startswith(f"{name}="):
            return name, text[len(name) + 1:]
    name, equals, _ = text.partition("=")
    if equals and not os.path.exists(text):
        raise InputError(f"{text}: unknown input {name!r}: the model takes {', '.join(known)}")
    return None, text


@contextmanager
def readable(file: str) -> Iterator[None]:
    """Whatever NumPy, zipfile and Pillow raise for a damaged file becomes an InputError."""
    try:
        yield
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if "pickle" in reason or "Python objects" in reason:
            reason = "it holds Python objects, not numbers"
        raise InputError(f"{file}: cannot be read: {reason}") from None


def _arrays(file: str, name: str | None, known: Mapping[str, Value]) -> dict[str | None, Array]:
    """The array of an .npy, or the arrays of an .npz, by the input that they are for."""
    with readable(file):
        # Mapped: a header that claims more than the file has is refused before anything is allocated.
        found = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(found, np.ndarray):
            return {name: np.asarray(found)}
        with found as archive:
            keys = list(archive.files)
            if name is None and (both := [k for k in keys if k in known]):
                return {k: archive[k] for k in both}
            if name in keys or len(keys) == 1:
                return {name: archive[name if name in keys else keys[0]]}
    holds = ", ".join(keys[:10]) or "nothing"
    raise InputError(f"{file}: holds {holds}; the model takes {name or ', '.join(known)}")


def _image(file: str, place: Value, pixels: Preprocess) -> Array:
    """An image as a batch of one for the input `place`."""
    try:
        from PIL import Image
    except ImportError:
        raise InputError(f'{file}: reading images needs Pillow: pip install "cnncc[images]"') from None
    if place.dtype in DTYPES:       # channels last, unless they can't be
        pixels = Preprocess(scale=1, to="nhwc" if place.shape[-1:] and place.shape[-1] in MODES else "nchw")
    if len(place.shape) != 4 or not isinstance(place.shape[LAYOUTS[pixels.to].index(1)], int):
        raise InputError(f"{file}: the input {place.name!r} of shape {list(place.shape)} takes no images")
    _, channels, height, width = (place.shape[LAYOUTS[pixels.to].index(a)] for a in range(4))
    if channels not in MODES:
        raise InputError(f"{file}: the input {place.name!r} has {channels} channels as {pixels.to}, "
                         f"an image has {', '.join(map(str, MODES))}: is --layout right?")
    with readable(file), Image.open(file, formats=sorted(set(FORMATS.values()))) as image:
        if isinstance(width, str):      # open, as the image is
            width = image.width
        if isinstance(height, str):
            height = image.height
        resized = image.convert(MODES[channels]).resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(resized).reshape(1, height, width, channels)
    return pixels.apply(values, dtype_called(place.dtype))
