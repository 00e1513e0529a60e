"""Data to train on from files: npz, npy (mapped), IDX, folders of images.

All sizes are checked before memory is taken, and no file runs code.
"""

from __future__ import annotations

import gzip
import os
import re
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from cnncc.feeds import FORMATS, MODES, readable
from cnncc.ir.errors import InputError
from cnncc.ir.signature import Array
from cnncc.ir.types import product

MAX_BYTES = 8 << 30         # of the arrays of an archive or a packed file
MAX_PIXELS = 1 << 26        # of an image
PARTS = ("train", "test")
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
IDX_NAMES = {"train": ("train-images", "train-labels"), "test": ("t10k-images", "t10k-labels")}


class Rows(Protocol):
    """Samples in order; those of an array of indices are an array."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True)
class Dataset:
    """Samples `x` and their targets `y`, in one order."""

    x: Rows
    y: Rows

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y) or not len(self.x):
            raise InputError(f"data: {len(self.x)} samples with {len(self.y)} targets: expected as many, and "
                             "at least one")

    def __len__(self) -> int:
        return len(self.x)

    def part(self, index: Array) -> Dataset:
        """The samples of these indices, in that order; they stay where they are."""
        return Dataset(Selected(self.x, index), Selected(self.y, index))


@dataclass(frozen=True)
class Selected:
    """Some of the rows of others."""

    rows: Rows
    index: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.index), *self.rows.shape[1:])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[self.index[index]]


@dataclass(frozen=True)
class Data:
    """What a file or folder holds; `classes` are names, where it has such."""

    train: Dataset
    test: Dataset | None = None
    classes: tuple[str, ...] = ()


def read_data(path: str | os.PathLike[str], shape: Sequence[int] = ()) -> Data:
    """Read the data at a path.

    An .npz has the arrays x_train and y_train, and may have x_test and y_test. A folder has these as .npy
    files, which are mapped instead of read, or MNIST's IDX files (also .gz), or a folder of images for each
    class, maybe within folders train and test. Images become [channels, height, width] of `shape`.

    Raises InputError, which names the file.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place, shape)
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder")
    if place.suffix.lower() != ".npz":
        raise InputError(f"{place}: expected an .npz file or a folder with .npy files, IDX files or images")
    return _data(place, _npz(place))


def _data(place: Path, arrays: dict[str, Any], classes: tuple[str, ...] = ()) -> Data:
    sets = {}
    for part in PARTS:
        names = f"x_{part}", f"y_{part}"
        if found := [name for name in names if name in arrays]:
            if len(found) == 1:
                raise InputError(f"{place}: holds {found[0]} without {(*{*names} - {*found},)[0]}")
            for name in names:
                if not len(arrays[name].shape):
                    raise InputError(f"{place}: {name} is one number, expected an array of samples")
            try:
                sets[part] = Dataset(arrays[names[0]], arrays[names[1]])
            except InputError as error:
                raise InputError(f"{place}: {part}: {error}") from None
    if "train" not in sets:
        held = ", ".join(sorted(arrays)[:10]) or "nothing"
        raise InputError(f"{place}: holds {held}; expected x_train and y_train, and maybe x_test "
                         "and y_test")
    return Data(sets["train"], sets.get("test"), classes)


# ---- arrays


def _npz(place: Path) -> dict[str, Any]:
    """The arrays that training takes of an archive."""
    wanted = {f"{x}_{part}.npy" for x in "xy" for part in PARTS}
    with readable(str(place)), zipfile.ZipFile(place) as archive:
        members = [i for i in archive.infolist() if i.filename in wanted]
        if (total := sum(i.file_size for i in members)) > MAX_BYTES:
            raise InputError(f"{total:,} bytes are too many: put x_train.npy, y_train.npy ... into a folder, "
                             "from which they are mapped")
        found = dict[str, Any]()
        for info in members:
            with archive.open(info) as file:
                _check_header(file, info.file_size)
            with archive.open(info) as file:
                found[info.filename[:-4]] = np.lib.format.read_array(file, allow_pickle=False)
        return found or dict.fromkeys(Path(n).stem for n in archive.namelist())     # to say what it has


def _check_header(file: Any, size: int) -> None:
    """An array must not claim more than its file has."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise InputError(f"an array of format {version}, expected 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if product(shape) * dtype.itemsize > size:
        raise InputError(f"{dtype}{list(shape)} is more than its {size:,} bytes")


def _mapped(file: Path) -> Array:
    with readable(str(file)):
        array: Array = np.load(file, mmap_mode="r", allow_pickle=False)
        return array


# ---- IDX


def read_idx(file: Path) -> Array:
    """The array of an IDX file, mapped, or of such a .gz. Raises InputError, which names the file."""
    with readable(str(file)):
        if file.suffix == ".gz":
            with gzip.open(file, "rb") as packed:
                dtype, shape = _idx_header(packed)
                size = product(shape) * dtype.itemsize
                data = packed.read(size + 1)
                if len(data) != size:
                    raise InputError(f"holds {len(data):,} bytes or more, {dtype}{list(shape)} are {size:,}")
            return np.frombuffer(data, dtype).reshape(shape)
        with open(file, "rb") as plain:
            dtype, shape = _idx_header(plain)
            begin, size = plain.tell(), os.fstat(plain.fileno()).st_size
        if size != begin + product(shape) * dtype.itemsize:
            raise InputError(f"{size:,} bytes, a header of {begin} and {dtype}{list(shape)} are "
                             f"{begin + product(shape) * dtype.itemsize:,}")
        return np.memmap(file, dtype, "r", begin, shape)


def _idx_header(file: BinaryIO | gzip.GzipFile) -> tuple[np.dtype[Any], tuple[int, ...]]:
    zeros, kind, rank = struct.unpack(">HBB", file.read(4))
    if zeros or kind not in IDX_TYPES or not 1 <= rank <= 8:
        raise InputError("this is no IDX file")
    shape = struct.unpack(f">{rank}I", file.read(4 * rank))
    dtype = np.dtype(IDX_TYPES[kind])
    if product(shape) * dtype.itemsize > MAX_BYTES:
        raise InputError(f"{dtype}{list(shape)} is too large")
    return dtype, shape


# ---- folders


def _folder(place: Path, shape: Sequence[int]) -> Data:
    files = sorted(f for f in place.iterdir() if f.is_file())
    own = [f for f in files if re.fullmatch(r"[xy]_(train|test)\.npy", f.name)]
    arrays: dict[str, Any] = {f.stem: _mapped(f) for f in own}
    if arrays:
        return _data(place, arrays)
    for part, names in IDX_NAMES.items():
        for letter, name in zip("xy", names, strict=True):
            for file in (f for f in files if re.fullmatch(rf"{name}[-.]idx\d-ubyte(\.gz)?", f.name)):
                arrays[f"{letter}_{part}"] = read_idx(file)
    return _data(place, arrays) if arrays else _image_folders(place, shape)


class Images:
    """Images in files, read when they are indexed: [n, channels, height, width] uint8."""

    def __init__(self, files: Sequence[Path], shape: Sequence[int]) -> None:
        self.files, self.shape, self.dtype = files, (len(files), *shape), np.dtype(np.uint8)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> Array:
        return np.stack([self._read(self.files[i]) for i in np.atleast_1d(np.arange(len(self.files))[index])])

    def _read(self, file: Path) -> Array:
        from PIL import Image
        channels, height, width = self.shape[1:]
        with readable(str(file)), Image.open(file, formats=sorted(set(FORMATS.values()))) as image:
            if product(image.size) > MAX_PIXELS:
                raise InputError(f"{image.width} x {image.height} pixels are too many")
            pixels = image.convert(MODES[channels])
            if pixels.size != (width, height):
                pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
            return np.asarray(pixels).reshape(height, width, channels).transpose(2, 0, 1)


def _image_folders(place: Path, shape: Sequence[int]) -> Data:
    """A folder for each class, in the order of their names; or such within train and test."""
    roots = {part: place / part for part in PARTS if (place / part).is_dir()}
    if "train" not in roots:
        roots = {"train": place}
    classes = tuple(sorted(d.name for d in roots["train"].iterdir() if d.is_dir()))
    if len(shape) != 3 or shape[0] not in MODES:
        raise InputError(f"{place}: images are for networks with inputs [batch, channels, height, width] of "
                         f"1, 3 or 4 channels, this one's samples are {list(shape)}")
    try:
        import PIL  # noqa: F401
    except ImportError:
        raise InputError(f'{place}: reading images needs Pillow: pip install "cnncc[images]"') from None
    arrays: dict[str, Any] = {}
    for part, root in roots.items():
        files = [(f, i) for i, name in enumerate(classes) for f in sorted((root / name).glob("*"))
                 if f.suffix.lower() in FORMATS and f.is_file()]
        if not files:
            raise InputError(f"{root}: expected .npy files, IDX files, or a folder of images for each class")
        arrays[f"x_{part}"] = Images([f for f, _ in files], shape)
        arrays[f"y_{part}"] = np.array([i for _, i in files])
    return _data(place, arrays, classes)
