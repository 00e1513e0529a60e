"""Importer rows for products of matrices: Gemm and MatMul; determinants."""

from __future__ import annotations

import itertools

import numpy as np

from cnncc.frontend.onnx_elementwise import of
from cnncc.frontend.onnx_moves import cut
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.ir.types import FLOATS

LARGEST = 5     # rows of matrices whose determinants are computed

def _linear(c: Call, w: np.ndarray) -> bool:
    """Whether a product is a fully connected layer: of two dimensions, by constant weights."""
    x = c.operand(0)
    return isinstance(x, str) and w.dtype == np.float32 and len(c.shape(x)) == w.ndim == 2


def gemm(c: Call) -> str:
    turned, alpha, beta = c.flag("transB"), c.attribute("alpha", "f", 1.0), c.attribute("beta", "f", 1.0)
    first = c.flag("transA")
    c.expect(c.opset >= 11 or c.has(2), "input 2 is missing")
    w = c.operand(1)
    c.expect(len(c.shape(c.operand(0))) == len(c.shape(w)) == 2, "its operands are no matrices")
    added = c.has(2) and beta != 0
    bias = c.operand(2) if added else np.zeros(1, np.float32)
    if not first and not isinstance(w, str) and _linear(c, w):
        w = w if turned else w.T
        c.expect(c.shape(c.value(0))[1] == w.shape[1],
                 f"can't multiply {list(c.shape(c.value(0)))} by {list(w.T.shape)}")
        with np.errstate(all="ignore"):
            weight = c.value(1) if turned and alpha == 1 else c.const(w * np.float32(alpha), "weight")
        y = c.emit("linear", [c.value(0), weight], "linear" if added else "")
    else:
        x, v = c.value(0), c.value(1)
        x = c.emit("transpose", [x], "first", perm=(1, 0)) if first else x
        v = c.emit("transpose", [v], "second", perm=(1, 0)) if turned else v
        scaled = alpha != 1
        c.expect(c.dtype(x) in FLOATS or (float(alpha).is_integer() and float(beta).is_integer()),
                 f"alpha={alpha}, beta={beta} are for floats only")
        y = c.emit("matmul", [x, v], "product" if added or scaled else "")
        if scaled:
            y = c.emit("scale", [y], "scaled" if added else "", factor=alpha)
    if not added:
        return y
    rows, columns = (1, 1, *c.shape(bias))[-2:]
    c.expect(len(c.shape(bias)) <= 2 and rows in (1, c.shape(y)[0]) and columns in (1, c.shape(y)[1]),
             f"its bias of shape {list(c.shape(bias))} doesn't broadcast to {list(c.shape(y))}")
    if beta == 1:
        return c.emit("add", [y, c.value(2)])
    if isinstance(bias, str):
        return c.emit("add", [y, c.emit("scale", [bias], "bias", factor=beta)])
    with np.errstate(all="ignore"):
        return c.emit("add", [y, c.const(bias * bias.dtype.type(beta), "bias")])


def _matmul(c: Call) -> str:
    w = c.operand(1)
    if not isinstance(w, str) and _linear(c, w):
        c.expect(c.shape(c.value(0))[1] == w.shape[0],
                 f"can't multiply {list(c.shape(c.value(0)))} by {list(w.shape)}")
        return c.emit("linear", [c.value(0), c.const(np.ascontiguousarray(w.T), "weight")])
    return product(c, c.value(0), c.value(1))


def product(c: Call, x: str, v: str, step: str = "") -> str:
    """The product of matrices, of which one or both may be vectors."""
    first, second = c.shape(x), c.shape(v)
    c.expect(first and second, "its operands are single numbers")
    x = c.emit("reshape", [x], "row", shape=(1, *first)) if len(first) == 1 else x
    v = c.emit("reshape", [v], "column", shape=(*second, 1)) if len(second) == 1 else v
    if len(first) > 1 and len(second) > 1:
        return c.emit("matmul", [x, v], step)
    y = c.emit("matmul", [x, v], "product")
    *leading, rows, columns = c.shape(y)
    kept = [e for e, given in ((rows, first), (columns, second)) if len(given) > 1]
    return c.emit("reshape", [y], step, shape=(*leading, *kept))


def _det(c: Call) -> str:
    """By minors: those of the last rows for every choice of columns, one row more at a time."""
    x = of(c, c.value(0))
    c.expect(len(c.shape(x)) > 1, f"its input has the shape {list(c.shape(x))}: no matrices")
    *first, n, columns = c.shape(x)
    support(n == columns and isinstance(n, int) and n <= LARGEST,
            f"its matrices are {n} x {columns}: square ones of up to {LARGEST} rows are supported")
    rank, size = len(first), int(n)

    def element(row: int, column: int) -> str:
        part = cut(c, x, {rank: range(row, row + 1), rank + 1: range(column, column + 1)}, "element")
        return c.emit("reshape", [part], "element", shape=tuple(first))
    minors: dict[tuple[int, ...], str] = {(j,): element(size - 1, j) for j in range(size)}
    for row in reversed(range(size - 1)):
        own = [element(row, j) for j in range(size)]
        larger: dict[tuple[int, ...], str] = {}
        for chosen in itertools.combinations(range(size), size - row):
            total = ""
            for k, j in enumerate(chosen):
                term = c.emit("mul", [own[j], minors[chosen[:k] + chosen[k + 1:]]], "term")
                total = c.emit("sub" if k % 2 else "add", [total, term], "minor") if total else term
            larger[chosen] = total
        minors = larger
    return minors[tuple(range(size))]


ROWS = {
    "Det": Row(_det, 1, 1),
    "Gemm": Row(gemm, 2, 3, ("broadcast",)),
    "MatMul": Row(_matmul, 2, 2),
}
