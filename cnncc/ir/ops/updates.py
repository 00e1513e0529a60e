"""What optimizers compute of weights, gradients and what they remember of these."""

from __future__ import annotations

from cnncc.ir.op import elementwise

elementwise("plus_scaled", "x + w * factor", "factor")      # a penalty's part of a gradient
elementwise("plus_sign", "x + sign(w) * factor", "factor")
elementwise("momentum", "x * beta + w", "beta")
elementwise("average", "x * beta + w * rest", "beta", "rest")
elementwise("average_square", "x * beta + w * w * rest", "beta", "rest")
elementwise("descended", "x - w * u")
elementwise("decayed", "x - x * w * factor", "factor")
elementwise("remaining", "-expm1(x * log_beta)", "log_beta")        # 1 - beta ** x
elementwise("root_plus", "sqrt(x * w) + epsilon", "epsilon")
elementwise("root_of", "sqrt(x) + epsilon", "epsilon")
elementwise("root_variance", "sqrt(max(x - w * w, 0)) + epsilon", "epsilon")
elementwise("at_most", "min(limit / (x + tiny), 1)", "limit", "tiny")
