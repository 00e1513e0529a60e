"""Integers that stand for numbers: (integer - zero point) * scale. A zero point has its tensor's dtype."""

from __future__ import annotations

from cnncc.ir.op import elementwise

elementwise("offset", "i32(x) - i32(w)")
elementwise("saturated", "to(round(x) + f32(w))", "to")
elementwise("byte_scale", "where(x == w, 1, (x - w) / 255)")
