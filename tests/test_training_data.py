"""Data from files, batches, augmentation, random numbers by counters, schedules."""

from __future__ import annotations

import gzip
import io
import math
import struct
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cnncc.ir.errors import InputError
from cnncc.train import batches, data, random, schedules
from cnncc.train.augment import Augmentation, Change, Crop, Elastic, Flip, Rescale, Rotate, sample
from cnncc.train.batches import Preparation, Source, prefetched
from cnncc.train.data import Dataset, read_data, read_idx

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (10, 6, 5), np.uint8)
Y = RNG.integers(0, 3, 10)


# ---- random numbers


def test_philox() -> None:
    """The known answers of Random123."""
    ones = (1 << 32) - 1
    for counter, key, expected in [
            ((0,) * 4, (0, 0), (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
            ((ones,) * 4, (ones, ones), (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
            ((0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344), (0xa4093822, 0x299f31d0),
             (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1))]:
        found = random.philox(tuple(np.array([c]) for c in counter), key)
        assert tuple(int(v[0]) for v in found) == expected


def test_numbers_follow_from_what_they_are_for() -> None:
    index = np.arange(1000)
    u = random.uniform(3, random.AUGMENT, 1, index, 5)
    assert u.shape == (1000, 5) and u.dtype == np.float32 and u.min() >= 0 and u.max() < 1
    assert abs(u.mean() - 0.5) < 0.02
    assert np.array_equal(random.uniform(3, random.AUGMENT, 1, index[7:9], 5), u[7:9])
    for other in [(4, random.AUGMENT, 1), (3, random.SHUFFLE, 1), (3, random.AUGMENT, 2)]:
        assert not (random.uniform(*other, index, 5) == u).any(1).all()
    order = random.permutation(1, random.SHUFFLE, 0, 100)
    assert sorted(order) == [*range(100)] and not np.array_equal(order, np.arange(100))


# ---- files


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def idx(a: Any, kind: int = 8) -> bytes:
    return struct.pack(f">HBB{a.ndim}I", 0, kind, a.ndim, *a.shape) + a.tobytes()


def image_folder(root: Path) -> Path:
    for i, name in enumerate(["cat", "dog"]):
        (root / name).mkdir(parents=True)
        for j in range(3):
            Image.fromarray(np.full((4, 8, 3), 100 * i + j, np.uint8)).save(root / name / f"{j}.png")
    return root


def test_npz(tmp_path: Path) -> None:
    found = read_data(saved(tmp_path / "d.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2], other=Y))
    assert np.array_equal(found.train.x[[3, 1]], X[[3, 1]]) and len(found.train) == 10
    assert found.test and len(found.test) == 2
    assert read_data(saved(tmp_path / "e.npz", x_train=X, y_train=Y)).test is None


def test_npy_files_are_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "x_train.npy", X)
    np.save(tmp_path / "y_train.npy", Y)
    found = read_data(tmp_path)
    assert isinstance(found.train.x, np.memmap) and np.array_equal(found.train.x, X)


@pytest.mark.parametrize("packed", [False, True])
def test_idx(tmp_path: Path, packed: bool) -> None:
    for name, a in (("train-images-idx3-ubyte", X), ("train-labels-idx1-ubyte", Y.astype(np.uint8)),
                    ("t10k-images.idx3-ubyte", X[:4]), ("t10k-labels.idx1-ubyte", Y[:4].astype(np.uint8))):
        content = idx(a)
        (tmp_path / (name + ".gz" * packed)).write_bytes(gzip.compress(content) if packed else content)
    found = read_data(tmp_path)
    assert np.array_equal(found.train.x, X) and np.array_equal(found.train.y, Y)
    assert found.test and np.array_equal(found.test.x, X[:4])


def test_idx_of_other_types(tmp_path: Path) -> None:
    a = np.arange(6, dtype=">f4").reshape(2, 3)
    (tmp_path / "a").write_bytes(idx(a, 13))
    assert np.array_equal(read_idx(tmp_path / "a"), a)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("content", "what"), [
    (idx(X)[:-1], "bytes"), (idx(X) + b"1", "bytes"), (b"", "cannot be read"),
    (b"\0\0\x99\1\0\0\0\1", "no IDX"),
    (b"\1\0\x08\1\0\0\0\1a", "no IDX"), (struct.pack(">HBB4I", 0, 14, 4, *[1 << 20] * 4), "too large|bytes")])
def test_idx_that_is_damaged(tmp_path: Path, content: bytes, what: str, packed: bool) -> None:
    file = tmp_path / ("a.gz" if packed else "a")
    file.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match=f"{file.name}: .*({what})"):
        read_idx(file)


def test_images(tmp_path: Path) -> None:
    found = read_data(image_folder(tmp_path), (3, 2, 4))
    assert found.classes == ("cat", "dog") and found.train.x.shape == (6, 3, 2, 4)
    assert found.train.y[np.arange(6)].tolist() == [0, 0, 0, 1, 1, 1]
    assert found.train.x[np.array([4])][0, :, 0, 0].tolist() == [101] * 3
    assert read_data(tmp_path, (1, 2, 4)).train.x[np.arange(2)].shape == (2, 1, 2, 4)


def test_images_in_two_parts(tmp_path: Path) -> None:
    image_folder(tmp_path / "train")
    image_folder(tmp_path / "test")
    (tmp_path / "test" / "cat" / "0.png").unlink()
    found = read_data(tmp_path, (3, 4, 8))
    assert found.test and len(found.test) == 5


def huge_npy() -> bytes:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header


def with_huge(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", huge_npy())
        archive.writestr("y_train.npy", huge_npy())
    return path


def with_objects(path: Path) -> Path:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([{}], object), allow_pickle=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", stream.getvalue())
    return path


def folder_with(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        path.mkdir()
        (path / name).write_bytes(content)
        return path
    return make


def bad_image(path: Path) -> Path:
    (image_folder(path) / "cat" / "0.png").write_bytes(b"no image")
    return path


@pytest.mark.parametrize(("make", "what"), [
    (lambda p: p, "no such file"),
    (lambda p: saved(p.with_suffix(".npz"), a=X), "holds a; expected x_train"),
    (lambda p: saved(p.with_suffix(".npz"), x_train=X), "holds x_train without y_train"),
    (lambda p: saved(p.with_suffix(".npz"), x_train=X, y_train=Y[1:]), "train: data: 10 .* with 9 targets"),
    (lambda p: saved(p.with_suffix(".npz"), x_train=X, y_train=np.array(1)), "y_train is one number"),
    (lambda p: saved(p.with_suffix(".npz"), x_train=X[:0], y_train=Y[:0]), "0 samples"),
    (lambda p: with_huge(p.with_suffix(".npz")), "more than its"),
    (lambda p: with_objects(p.with_suffix(".npz")), "Python objects"),
    (folder_with("x_train.npy", huge_npy()), "cannot be read"),
    (folder_with("a.txt", b""), "expected .npy files, IDX files, or a folder of images"),
    (bad_image, "0.png: cannot be read")])
def test_bad_files(tmp_path: Path, make: Callable[[Path], Path], what: str) -> None:
    with pytest.raises(InputError, match=what):
        found = read_data(make(tmp_path / "data"), (3, 2, 2))
        found.train.x[np.arange(1)]


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK nothing")
    (tmp_path / "a.csv").write_bytes(b"1,2")
    for name in ("a.npz", "a.csv"):
        with pytest.raises(InputError, match=name):
            read_data(tmp_path / name)
    with pytest.raises(InputError, match=r"this one's samples are \[7\]"):
        read_data(image_folder(tmp_path / "images"), (7,))


def test_archives_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "MAX_BYTES", 100)
    monkeypatch.setattr(data, "MAX_PIXELS", 10)
    with pytest.raises(InputError, match="too many"):
        read_data(saved(tmp_path / "d.npz", x_train=X, y_train=Y))
    with pytest.raises(InputError, match="too large"):
        (tmp_path / "a").write_bytes(idx(X))
        read_idx(tmp_path / "a")
    with pytest.raises(InputError, match="8 x 4 pixels"):
        read_data(image_folder(tmp_path / "i"), (3, 2, 2)).train.x[np.arange(1)]


# ---- batches


def plain(x: Any, y: Any, batch: int = 4, seed: int = 0, **how: Any) -> Source:
    return Source(Dataset(x, y), batch, Preparation(x.shape[1:], **how), seed, lambda y: y)


def test_an_epoch_has_every_sample_once() -> None:
    source = plain(np.arange(10.0)[:, None], np.arange(10))
    epochs = [list(source.epoch(e)) for e in range(2)]
    assert source.steps == 3 and [len(b) for b in epochs[0]] == [4, 4, 2]
    for epoch in epochs:
        order = np.concatenate([b.y for b in epoch])
        assert sorted(order) == [*range(10)]
        assert np.array_equal(np.concatenate([b.x[:, 0] for b in epoch]), order)
    assert not np.array_equal(epochs[0][0].y, epochs[1][0].y)
    again = list(source.epoch(1, 1))
    assert [b.y.tolist() for b in again] == [b.y.tolist() for b in epochs[1][1:]]
    assert np.concatenate([b.y for b in source.epoch(0, train=False)]).tolist() == [*range(10)]


def test_batches_of_any_iterable() -> None:
    given = [(np.full((n, 2), i), np.full(n, i)) for i, n in enumerate([3, 1, 6, 2])]
    source = Source(given, 5, Preparation((2,)), 0, lambda y: y)
    found = list(source.epoch(0))
    assert [b.y.tolist() for b in found] == [[0, 0, 0, 1, 2], [2, 2, 2, 2, 2], [3, 3]]
    assert [b.index.tolist() for b in source.epoch(0, 1)] == [[5, 6, 7, 8, 9], [10, 11]]
    assert source.steps is None


@pytest.mark.parametrize(("given", "what"), [
    (iter([]), "ends after one epoch"), ([3], "got int"),
    ([(np.ones((2, 2)), np.ones(3))], r"\[2, 2\] samples with \[3\]"),
    ([(np.ones((2, 3)), np.ones(2))], r"samples are \[3\], the network takes \[2\]")])
def test_batches_that_are_none(given: Any, what: str) -> None:
    with pytest.raises(InputError, match=what):
        list(Source(given, 5, Preparation((2,)), 0, lambda y: y).epoch(0))


def test_preparation() -> None:
    prepare = Preparation((1, 6, 5), mean=0.5, std=[0.25])
    x = prepare(X, 0, np.arange(10), False)
    assert x.dtype == np.float32 and x.flags.c_contiguous
    np.testing.assert_allclose(x[:, 0], (X / 255 - 0.5) / 0.25, rtol=1e-5, atol=1e-6)
    of_colour = Preparation((3, 2, 2), mean=(1, 2, 3), std=(1, 2, 4))
    colour = of_colour(np.zeros((1, 3, 2, 2)), 0, np.arange(1), False)
    assert colour[0, :, 0, 0].tolist() == [-1, -1, -0.75]
    assert Preparation(())(np.ones(3, bool), 0, np.arange(3), False).tolist() == [1, 1, 1]


@pytest.mark.parametrize(("wrong", "what"), [
    (lambda: Preparation((3, 2, 2), mean=(1, 2)), "mean: expected 1 number or one for each of 3"),
    (lambda: Preparation((3, 2, 2), std=0), "std: expected numbers above 0"),
    (lambda: Preparation((3, 2, 2), mean=np.nan), "mean"),
    (lambda: Preparation((3, 2, 4)).check(np.zeros((5, 2, 4, 3))), "channels come first"),
    (lambda: Preparation((2,)).check(np.array([["a", "b"]])), "expected numbers, got <U1")])
def test_preparation_of_what_does_not_fit(wrong: Callable[[], object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        wrong()


def test_batches_are_made_ahead_in_a_thread() -> None:
    seen = []

    def items() -> Iterator[int]:
        for i in range(5):
            seen.append(threading.current_thread().name)
            yield i
    assert list(prefetched(items())) == [*range(5)] and {*seen} == {"cnncc batches"}


def test_an_error_in_that_thread_is_raised_here_and_the_thread_ends() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise InputError("bad")
    found = prefetched(items())
    assert next(found) == 1
    with pytest.raises(InputError, match="bad"):
        next(found)
    endless = prefetched(iter(int, 1), 1)
    assert next(endless) == 0
    endless.close()
    assert not [t for t in threading.enumerate() if t.name == "cnncc batches"]


def test_nothing_of_a_mapped_array_is_read_that_is_not_trained_on(tmp_path: Path) -> None:
    """`part` and mapped files stay where they are."""
    part = Dataset(X, Y).part(np.array([7, 2]))
    assert np.array_equal(part.x[np.array([1, 0])], X[[2, 7]]) and part.x.shape == (2, 6, 5)
    assert batches.Source(part, 2, Preparation((1, 6, 5)), 0, lambda y: y).steps == 1


# ---- augmentation


IMAGES = RNG.random((6, 2, 9, 8)).astype(np.float32)
ALL = [Elastic(20, 2), Rotate(20), Rescale(0.2), Flip(), Crop(2)]


@pytest.mark.parametrize("changes", [[c] for c in ALL] + [ALL], ids=str)
def test_a_change_depends_on_seed_epoch_and_index_alone(changes: list[Change]) -> None:
    change, index = Augmentation(changes, seed=5), np.array([3, 1, 4, 0, 2, 5])
    whole = change(IMAGES, 2, np.arange(6))
    assert whole.shape == IMAGES.shape and whole.dtype == np.float32
    assert np.array_equal(change(IMAGES[index], 2, index), whole[index])
    assert np.array_equal(change(IMAGES[3:4], 2, np.array([3]))[0], whole[3])
    assert not np.array_equal(change(IMAGES, 3, np.arange(6)), whole)
    assert not np.array_equal(Augmentation(changes, seed=6)(IMAGES, 2, np.arange(6)), whole)


def test_crops_and_flips_move_pixels_exactly() -> None:
    found = Augmentation([Crop(1)])(IMAGES, 0, np.arange(6))
    padded = np.pad(IMAGES, ((0, 0), (0, 0), (1, 1), (1, 1)))
    places = [(i, j) for i in range(3) for j in range(3)]
    hit = {next((p for p in places if np.array_equal(a, padded[n, :, p[0]:p[0] + 9, p[1]:p[1] + 8])), None)
           for n, a in enumerate(found)}
    assert None not in hit and len(hit) > 1
    assert np.array_equal(Augmentation([Flip(1.0)])(IMAGES, 0, np.arange(6)), IMAGES[..., ::-1])
    assert np.array_equal(Augmentation([Flip(0.0)])(IMAGES, 0, np.arange(6)), IMAGES)


def test_sampling_is_that_of_pytorch() -> None:
    places = (RNG.random((6, 2, 9, 8)) * 14 - 3).astype(np.float32)
    size = np.array([9, 8], np.float32)[:, None, None]
    grid = torch.tensor(((places + 0.5) * 2 / size - 1)[:, ::-1].transpose(0, 2, 3, 1).copy())
    theirs = torch.nn.functional.grid_sample(torch.tensor(IMAGES), grid, align_corners=False)
    np.testing.assert_allclose(sample(IMAGES, places), theirs.numpy(), atol=1e-5)


def test_rotation_and_scale() -> None:
    """A quarter turn of a square, twice the size."""
    square = IMAGES[:1, :, :8, :8]
    half = np.full((1, 1), 1.0, np.float32)
    places = np.indices((8, 8), np.float32)[None] - 3.5
    turned = sample(square, Rotate(90)(places, half) + 3.5)
    np.testing.assert_allclose(turned, np.rot90(square, -1, (2, 3)), atol=1e-5)
    assert np.allclose(Rescale(1.0)(places, half), 2 * places)
    assert np.allclose(Rescale(1.0)(places, 0 * half), places / 2)


def test_elastic_fields_are_smooth() -> None:
    places = np.zeros((4, 2, 28, 28), np.float32)
    change = Elastic(34, 4)
    field = change(places, random.uniform(0, 1, 0, np.arange(4), change.numbers(28, 28)))
    assert 0.5 < np.abs(field).max() < 12
    assert np.abs(np.diff(field, axis=2)).max() < 0.35 * np.abs(field).max()


@pytest.mark.parametrize(("wrong", "what"), [
    (lambda: Crop(0), "padding"), (lambda: Rotate(-1), "degrees"), (lambda: Elastic(1, 0), "sigma"),
    (lambda: Augmentation([3]), "expected changes"),       # type: ignore[list-item]
    (lambda: Augmentation([Flip()])(np.zeros((2, 3)), 0, np.arange(2)), "expected images")])
def test_augmentation_that_makes_no_sense(wrong: Callable[[], object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        wrong()


# ---- schedules


def test_schedules() -> None:
    def rates(schedule: Any) -> list[float]:
        return [schedules.schedule_of(schedule)(e, 10) for e in (0, 1, 2.5, 5, 10)]
    assert rates(None) == rates("constant") == [1] * 5
    assert rates(schedules.StepDecay(2.5, 0.1)) == pytest.approx([1, 1, 0.1, 0.01, 1e-4])
    falling = [(1 + math.cos(math.pi * e / 10)) / 2 for e in (0, 1, 2.5, 5, 10)]
    assert rates("cosine") == pytest.approx(falling)
    assert rates(schedules.Cosine(0.1))[-1] == pytest.approx(0.1)
    assert rates(schedules.Warmup(2, 0.2)) == pytest.approx([0.2, 0.6, 1, 1, 1])
    both = schedules.Warmup(2, 0.2) * schedules.StepDecay(2.5, 0.1)
    assert rates(both) == pytest.approx([0.2, 0.6, 0.1, 0.01, 1e-4])
    assert rates(lambda epoch, epochs: epoch / epochs) == [0, 0.1, 0.25, 0.5, 1]
    for name in schedules.NAMES:
        assert all(0 <= r <= 1 for r in rates(name))


def test_one_cycle_is_that_of_pytorch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=101, cycle_momentum=False)
    ours = schedules.OneCycle()
    for step in range(101):
        t = step / 100 * 0.3 / 0.293 if step < 29.3 else 0.3 + (step - 29.3) / 70.7 * 0.7
        assert ours(t, 1) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6), step
        optimizer.step()
        if step < 100:
            theirs.step()


@pytest.mark.parametrize("wrong", [lambda: schedules.schedule_of("cosin"), lambda: schedules.StepDecay(0),
                                   lambda: schedules.OneCycle(1), lambda: schedules.Warmup(-1)])
def test_schedules_that_are_none(wrong: Callable[[], object]) -> None:
    with pytest.raises(InputError, match="expected"):
        wrong()
