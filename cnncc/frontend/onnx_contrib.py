"""Importer rows for ops that ONNX Runtime's optimizer writes: norms of sums, activations of products."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.frontend.onnx_elementwise import activation, of, row
from cnncc.frontend.onnx_node import Call, Row
from cnncc.frontend.onnx_reduce import along, normal, normal_rms
from cnncc.ir.types import FLOATS


def _biased(op: str) -> Row:
    """A function of an operand and, where there is one, a bias."""
    def convert(c: Call) -> str:
        x = of(c, c.value(0))
        return c.emit(op, [c.emit("add", [x, c.value(1)], "biased") if c.has(1) else x])
    return Row(convert, 1, 2)


def _skip_norm(c: Call) -> tuple[str, ...]:
    """A norm along the last axis of input + skip + bias; that sum is the last result."""
    rms = c.node.op_type == "SkipSimplifiedLayerNormalization"
    x = c.emit("add", [of(c, c.value(0)), c.value(1)], "sum")
    bias = 3 if rms else 4
    x = c.emit("add", [x, c.value(bias)], "biased") if c.has(bias) else x
    axes, epsilon = along(c, x, (-1,)), c.attribute("epsilon", "f", 1e-12 if not rms else 1e-5)
    if rms:
        y, inverse = normal_rms(c, x, axes, epsilon, (2,))
        return y, c.emit("centre", [x], "mean", axes=axes), inverse, x
    return *normal(c, x, axes, epsilon, (2, 3)), x


def _matmul(c: Call) -> str:
    """Operands may come with their first axis before the last, or with the last two the other way round."""
    operands = []
    for i, name in enumerate("AB"):
        x = of(c, c.value(i))
        perm = list(range(len(c.shape(x))))
        c.expect(len(perm) > 1, "its operands are no matrices")
        if c.flag(f"transBatch{name}"):
            perm.insert(-1, perm.pop(0))
        if c.flag(f"trans{name}"):
            perm[-2:] = perm[:-3:-1]
        operands.append(c.emit("transpose", [x], name, perm=tuple(perm)) if perm != sorted(perm) else x)
    alpha = c.attribute("alpha", "f", 1.0)
    y = c.emit("matmul", operands, "product" if alpha != 1 else "")
    return c.emit("scale", [y], factor=alpha) if alpha != 1 else y


def fused_conv(conv: Callable[[Call], str]) -> Row:
    """A convolution, plus a fourth operand, then an activation with a list of numbers."""
    def convert(c: Call) -> str:
        y = conv(c.named(f"{c.out}.conv"))
        y = c.emit("add", [y, c.value(3)], "sum") if c.has(3) else y
        numbers, name = [*c.attribute("activation_params", "floats", ())], c.attribute("activation", "s", b"")
        if not name:
            return y
        op, attrs = activation(c, name, lambda _: numbers.pop(0) if numbers else None)
        return c.emit(op, [y], "", **attrs)
    return Row(convert, 2, 4)


def fused_gemm(gemm: Callable[[Call], str]) -> Row:
    def convert(c: Call) -> str:
        y, name = gemm(c.named(f"{c.out}.gemm")), c.attribute("activation", "s", b"")
        given = {n: c.attribute(f"activation_{n}", "f", None) for n in ("alpha", "beta", "gamma")}
        if not name:
            return y
        op, attrs = activation(c, name, given.get)
        return c.emit(op, [y], "", **attrs)
    return Row(convert, 2, 3)


ROWS = {f"com.microsoft.{name}": r for name, r in {
    "BiasGelu": _biased("gelu"), "FastGelu": _biased("gelu_tanh"), "Gelu": row("gelu", dtypes=FLOATS),
    "QuickGelu": row("swish", dtypes=FLOATS, alpha=1.702), "FusedMatMul": Row(_matmul, 2, 2),
    "SkipLayerNormalization": Row(_skip_norm, 3, 5),
    "SkipSimplifiedLayerNormalization": Row(_skip_norm, 3, 4),
}.items()}
