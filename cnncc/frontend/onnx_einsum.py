"""The importer row of Einsum, and transforms that are contractions with constant matrices."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_moves import MAX_TABLE, fixed, ints
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.ir.signature import Array
from cnncc.ir.types import NUMPY, product


def _terms(c: Call) -> tuple[list[str], str]:
    """A letter for each dimension of each operand and of the result; an ellipsis' dimensions are digits."""
    text = c.attribute("equation", "s", b"").decode("utf-8", "replace").replace(" ", "")
    left, arrow, right = text.partition("->")
    given, ranks = left.split(","), [len(c.shape(c.value(i))) for i in range(len(c.node.input))]
    bare = [t.replace("...", "", 1) for t in (*given, right)]
    c.expect(all(set(t) <= set(string.ascii_letters) for t in bare) and len(given) == len(ranks),
             f"its equation {text[:200]!r} is none for {len(ranks)} operands")
    rest = [r - len(t) for r, t in zip(ranks, bare, strict=False)]
    c.expect(all(n == 0 or (n > 0 and "..." in t) for n, t in zip(rest, given, strict=True)),
             f"its equation {text[:200]!r} doesn't fit operands of {ranks[:9]} dimensions")
    most = max(rest)
    support(most <= len(string.digits), "its ellipsis stands for too many dimensions")
    terms = [t.replace("...", string.digits[most - n:most]) for t, n in zip(given, rest, strict=True)]
    if not arrow:
        counts = Counter("".join(bare[:-1]))
        right = "..." + "".join(sorted(letter for letter, n in counts.items() if n == 1))
    result = right.replace("...", string.digits[:most])
    c.expect(len(set(result)) == len(result) and set(result) <= set("".join(terms))
             and set(string.digits[:most]) <= set(result),
             f"the result of its equation {text[:200]!r} is not made of its operands' dimensions")
    return terms, result


def _contract(c: Call, values: Sequence[str], terms: Sequence[str], result: str, step: str = "") -> str:
    y = c.emit("contract", values, step if result else "product", equation=f"{','.join(terms)}->{result}")
    return y if result else c.emit("reshape", [y], step, shape=())


def einsum(c: Call) -> str:
    """Operand after operand is multiplied in; what nothing later needs is summed up at once."""
    terms, result = _terms(c)
    values = [c.value(i) for i in range(len(terms))]
    for v, term in zip(values, terms, strict=True):
        repeated = {letter: {e for other, e in zip(term, c.shape(v), strict=True) if other == letter}
                    for letter in term}
        c.expect(all(len(sizes) == 1 for sizes in repeated.values()), f"its operand {term!r} has no diagonal")
    if len(terms) > 1:
        for i, term in enumerate(terms):
            needed = {*result, *"".join(t for j, t in enumerate(terms) if j != i)}
            own = "".join(dict.fromkeys(letter for letter in term if letter in needed))
            if own != term:
                values[i], terms[i] = _contract(c, [values[i]], [term], own, f"own{i}"), own
    x, left = values[0], terms[0]
    for i in range(1, len(terms)):
        needed = {*result, *"".join(terms[i + 1:])}
        kept = "".join(dict.fromkeys(letter for letter in left + terms[i] if letter in needed))
        last = i == len(terms) - 1
        out = result if last else kept
        x, left = _contract(c, [x, values[i]], [left, terms[i]], out, "" if last else f"product{i}"), out
    return x if len(terms) > 1 else _contract(c, [x], [left], result)


def _waves(size: int, length: int, count: int, inputs: int, way: int) -> Array:
    """[size, inputs, count, 2]: what an element, real or complex, adds to each part of a frequency.

    Elements beyond `length` add nothing. `way` is the exponent's sign.
    """
    turns = np.outer(np.arange(size), np.arange(count)) % length * (2 * np.pi / length)
    real, imaginary = np.cos(turns), way * np.sin(turns)
    result = np.stack([np.stack([real, imaginary], -1), np.stack([-imaginary, real], -1)], 1)[:, :inputs]
    result[length:] = 0
    return result


def _number(c: Call, i: int, what: str, default: int) -> int:
    given = ints(c, i, what) if c.has(i) else [default]
    c.expect(len(given) == 1, f"its {what} {given[:9]} is no number")
    return given[0]


def _length(c: Call, i: int, what: str, default: int) -> int:
    value = _number(c, i, what, default)
    c.expect(value > 0, f"its {what} is {value}")
    return value


def dft(c: Call) -> str:
    """x [..., size, ..., 1 or 2] times a matrix. Of an inverse of one side the other is the conjugate."""
    x = of(c, c.value(0))
    rank, inverse, onesided = len(c.shape(x)), c.flag("inverse"), c.flag("onesided")
    at = c.attribute("axis", "i", 1) if c.opset < 20 else _number(c, 2, "axis", -2)
    axis = c.axis(at, rank)
    size, inputs = fixed(c, c.shape(x), (axis, rank - 1))
    c.expect(rank > 1 and axis < rank - 1 and inputs in (1, 2), f"its input has the shape {list(c.shape(x))}")
    length = _length(c, 1, "length", 2 * (size - 1) if inverse and onesided else size)
    count = length // 2 + 1 if onesided and not inverse else length
    support(4 * size * count <= MAX_TABLE, f"its matrix of {size} x {count} is too large")
    waves = _waves(size, length, count, inputs, 1 if inverse else -1)
    if inverse:
        waves /= length
    if inverse and onesided:
        both = [1 if k in (0, length - k) else 2 for k in range(size)]
        waves = np.array(both).reshape(-1, 1, 1, 1) * waves[..., :1]
        waves[length // 2 + 1:] = 0
    letters = string.ascii_letters[:rank]
    matrix = c.const(waves.astype(NUMPY[c.dtype(x)]), "waves")
    result = f"{letters[:axis]}Y{letters[axis + 1:-1]}Z"
    return _contract(c, [x, matrix], [letters, f"{letters[axis]}{letters[-1]}YZ"], result)


def stft(c: Call) -> str:
    """x [batch, samples, 1 or 2] to [batch, frames, frequencies, 2]: a convolution with windowed waves."""
    x, step = of(c, c.value(0)), _length(c, 1, "frame step", 0)
    c.expect(len(c.shape(x)) == 3, f"its input has the shape {list(c.shape(x))}")
    samples, inputs = fixed(c, c.shape(x), (1, 2))
    window = c.value(2) if c.has(2) else None
    own = fixed(c, c.shape(window), range(len(c.shape(window)))) if window else [samples]
    length = _length(c, 3, "frame length", own[0] if own else 0)
    c.expect(inputs in (1, 2) and length <= samples and (window is None or own == [length]),
             f"frames of {length} don't fit {samples} samples or the window")
    count = length // 2 + 1 if c.flag("onesided", True) else length
    support(4 * length * count <= MAX_TABLE, f"its matrix of {length} x {count} is too large")
    waves = _waves(length, length, count, inputs, -1).transpose(2, 3, 1, 0).reshape(2 * count, inputs, length)
    weights = c.const(np.ascontiguousarray(waves, NUMPY[c.dtype(x)]), "waves")
    if window is not None:
        weights = c.emit("mul", [weights, window], "windowed")
    x = c.emit("transpose", [x], "signal", perm=(0, 2, 1))
    y = c.emit("conv", [x, weights], "parts", strides=(step,), dilations=(1,), begin=(0,), end=(0,), group=1)
    batch, _, frames = c.shape(y)
    y = c.emit("reshape", [y], "split", shape=(batch, count, 2, frames))
    return c.emit("transpose", [y], perm=(0, 3, 1, 2))


def affine_grid(c: Call) -> str:
    """theta [N, d, d + 1] times the places of an image, from -1 to 1: [N, {size}, d]."""
    theta, size = of(c, c.value(0)), ints(c, 1, "size")
    n, image = len(size) - 2, size[2:]
    corners = c.flag("align_corners")
    c.expect(n in (2, 3) and min(image) > 0 and c.shape(theta) == (size[0], n, n + 1),
             f"its size {size[:9]} doesn't fit {list(c.shape(theta))}")
    places = product(image)
    support(places <= MAX_TABLE, f"its size {size} is too large")
    c.spend(places * (n + 1) * 8)
    lines = [np.linspace(-1, 1, e) if corners else (2 * np.arange(e) + 1) / e - 1 for e in image]
    grid = np.stack([*np.meshgrid(*lines, indexing="ij")[::-1], np.ones(image)], -1).reshape(1, places, n + 1)
    y = c.emit("matmul", [c.const(grid.astype(NUMPY[c.dtype(theta)]), "places"),
                          c.emit("transpose", [theta], "turned", perm=(0, 2, 1))], "grid")
    return c.emit("reshape", [y], shape=(size[0], *image, n))


ROWS = {"AffineGrid": Row(affine_grid, 2, 2), "DFT": Row(dft, 1, 3), "Einsum": Row(einsum, 1, 64),
        "STFT": Row(stft, 2, 4)}
