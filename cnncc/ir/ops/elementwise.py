"""Scalar expressions over broadcast operands."""

from __future__ import annotations

from cnncc.ir.expr import Call, Load
from cnncc.ir.op import elementwise

for fn in ("neg", "abs", "sign", "sqrt", "exp", "log", "sigmoid", "tanh", "softplus", "erf", "floor", "ceil",
           "round", "sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
           "isnan", "invert", "bits32", "real32", "bits64", "real64"):
    elementwise(fn, f"{fn}(x)")
for fn in ("add", "sub", "mul", "div", "mod", "fmod", "pow", "max", "min", "lt", "le", "gt", "ge", "eq",
           "and", "or", "xor", "shl", "shr"):
    elementwise(fn, str(Call(fn, (Load("x", ()), Load("w", ())))))
elementwise("relu", "max(x, 0)")
elementwise("clip", "min(max(x, low), high)", "low", "high")
elementwise("clip_to", "min(max(x, w), u)")
elementwise("leaky_relu", "where(x < 0, x * alpha, x)", "alpha")
elementwise("prelu", "where(x < 0, x * w, x)")
elementwise("elu", "where(x < 0, expm1(x) * alpha, x)", "alpha")
elementwise("celu", "where(x < 0, expm1(x / alpha) * alpha, x)", "alpha")
elementwise("selu", "where(x < 0, expm1(x) * alpha, x) * gamma", "alpha", "gamma")
elementwise("gelu", "x * 0.5 * (erf(x * 0.7071067811865476) + 1)")
elementwise("gelu_tanh", "x * 0.5 * (tanh((x * x * x * 0.044715 + x) * 0.7978845608028654) + 1)")
elementwise("hard_sigmoid", "min(max(x * alpha + beta, 0), 1)", "alpha", "beta")
elementwise("hard_swish", "x * min(max(x * alpha + beta, 0), 1)", "alpha", "beta")
elementwise("swish", "x * sigmoid(x * alpha)", "alpha")
elementwise("mish", "x * tanh(softplus(x))")
elementwise("softsign", "x / (abs(x) + 1)")
elementwise("shrink", "where(x < -lambd, x + bias, where(x <= lambd, 0, x - bias))", "lambd", "bias")
elementwise("thresholded_relu", "where(x <= alpha, 0, x)", "alpha")
elementwise("scale", "x * factor", "factor")
elementwise("quotient", "x / divisor", "divisor")
elementwise("square", "x * x")
elementwise("cube", "x * x * x")
elementwise("reciprocal", "1 / x")
elementwise("isinf", "isinf(x) & where(x > 0, positive, negative)", "positive", "negative")
elementwise("finite", "where(isinf(x), 0, x)")
elementwise("over_norm", "where(w == 0, 0, x / w)")
elementwise("inverse_root", "1 / sqrt(x * factor + epsilon)", "factor", "epsilon")
elementwise("corrected", "x + w * factor", "factor")
elementwise("standard", "(x - w) * u")
elementwise("damped", "x * pow(w * alpha + bias, power)", "alpha", "bias", "power")
elementwise("where", "where(x, w, u)")
elementwise("cast", "to(x)", "to")
elementwise("affine", "x * alpha + beta", "alpha", "beta")
elementwise("scaled_tanh", "tanh(x * beta) * alpha", "alpha", "beta")
elementwise("abs_power", "pow(abs(x), power)", "power")
