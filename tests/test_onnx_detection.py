"""Regions and deformed windows: the importer against ONNX Runtime and a plain reading; mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import floats
from test_onnx_indexing import check, row

import cnncc
from cnncc.frontend.onnx import read
from cnncc.ir.errors import InputError, ModelError

Array = np.ndarray
DRAW = np.random.default_rng(3)
IMAGES = floats(2, 3, 9, 11)
CORNERS = DRAW.uniform(-2, 11, (5, 2, 2)).astype(np.float32)
REGIONS = np.concatenate([CORNERS.min(1), CORNERS.max(1)], 1)
OF = np.array([0, 1, 1, 0, 1])


@pytest.mark.parametrize("opset, how", [(10, {}), (16, {}), (16, {"coordinate_transformation_mode":
                                                                 "output_half_pixel"})], ids=str)
@pytest.mark.parametrize("ratio", [0, 1, 3])
@pytest.mark.parametrize("mode", ["avg", "max"])
def test_regions(mode: str, ratio: int, opset: int, how: dict[str, Any]) -> None:
    proto = row("RoiAlign", IMAGES, REGIONS, OF, opset=opset, output_height=3, output_width=4,
                sampling_ratio=ratio, spatial_scale=0.8, mode=mode, **how)
    check(proto, [IMAGES, REGIONS, OF], 1e-5)


def test_regions_that_nobody_can_mean() -> None:
    proto = row("RoiAlign", IMAGES, REGIONS, OF, output_height=2, output_width=2)
    for model in (cnncc.compile(proto, cache=False, jobs=1), cnncc.reference(proto)):
        model(IMAGES, REGIONS, OF)
        with pytest.raises(InputError, match="RoiAlign 'node': a region is larger than the image"):
            model(IMAGES, REGIONS * 9, OF)
        with pytest.raises(InputError, match="RoiAlign 'node': an index is out of range"):
            model(IMAGES, REGIONS, OF + 1)


def deformed(x: Array, w: Array, moves: Array, mask: Array | None, stride: int, pad: int, dilation: int,
             group: int, parts: int) -> Array:
    """The definition, one sample after the other, in float64."""
    n, channels, *size = x.shape
    out, _, *kernel = w.shape
    high, wide = moves.shape[2:]
    result = np.zeros((n, out, high, wide))
    moves = moves.reshape(n, parts, *kernel, 2, high, wide)
    for b, o, p, q in np.ndindex(*result.shape):
        for c, r, s in np.ndindex(channels // group, *kernel):
            own = o // (out // group) * (channels // group) + c
            part = own // (channels // parts)
            move = moves[b, part, r, s, :, p, q]
            y, z = (a * stride - pad + t * dilation + m for a, t, m in zip((p, q), (r, s), move, strict=True))
            value = 0.0
            low, left = np.floor(y), np.floor(z)
            for i, j in ((low, left), (low, left + 1), (low + 1, left), (low + 1, left + 1)):
                if 0 <= i < size[0] and 0 <= j < size[1]:
                    value += (1 - abs(y - i)) * (1 - abs(z - j)) * x[b, own, int(i), int(j)]
            scale = 1 if mask is None else mask.reshape(n, parts, *kernel, high, wide)[b, part, r, s, p, q]
            result[b, o, p, q] += value * scale * w[o, c, r, s]
    return result


@pytest.mark.parametrize("stride, pad, dilation, group, parts, masked", [
    (1, 1, 1, 1, 1, False), (2, 1, 1, 1, 2, True), (1, 2, 2, 2, 1, True), (1, 0, 1, 2, 4, False)])
def test_deformed_windows(stride: int, pad: int, dilation: int, group: int, parts: int, masked: bool) -> None:
    x, w = floats(2, 4, 6, 7), floats(6, 4 // group, 3, 2, seed=2)
    out = [(e + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for e, k in zip((6, 7), (3, 2), strict=True)]
    moves = DRAW.uniform(-2, 2, (2, parts * 12, *out)).astype(np.float32)
    mask = DRAW.random((2, parts * 6, *out), np.float32) if masked else None
    operands = [x, w, moves, floats(6, seed=4), *([mask] if mask is not None else [])]
    proto = row("DeformConv", *operands, opset=22, strides=[stride] * 2, pads=[pad] * 4,
                dilations=[dilation] * 2, group=group, offset_group=parts)
    wanted = deformed(x, w, moves, mask, stride, pad, dilation, group, parts) + operands[3][:, None, None]
    for model in (cnncc.compile(proto, cache=False, jobs=1), cnncc.reference(proto)):
        np.testing.assert_allclose(model(*operands), wanted, 1e-4, 1e-5)


@pytest.mark.parametrize("op, operands, attributes, message", [
    ("RoiAlign", (IMAGES, REGIONS[:, :3].copy(), OF), {}, "regions of shape"),
    ("RoiAlign", (IMAGES, REGIONS, OF[1:].copy()), {}, "don't fit"),
    ("RoiAlign", (IMAGES, REGIONS, OF), {"mode": "sum"}, "mode is b'sum'"),
    ("RoiAlign", (IMAGES, REGIONS, OF), {"output_width": 0}, "the output"),
    ("DeformConv", (IMAGES, floats(2, 3, 3, 3), floats(2, 17, 7, 9)), {}, "offsets of shape"),
    ("DeformConv", (IMAGES, floats(2, 2, 3, 3), floats(2, 18, 7, 9)), {}, "its weight of shape"),
    ("DeformConv", (IMAGES, floats(2, 3, 3, 3), floats(2, 18, 7, 9), floats(2), floats(2, 8, 7, 9)), {},
     "a mask of shape"),
])
def test_what_does_not_fit_is_refused(op: str, operands: tuple[Array, ...], attributes: dict[str, Any],
                                      message: str) -> None:
    with pytest.raises(ModelError, match=f"{op} 'node'.*{message}"):
        read(row(op, *operands, opset=22, **attributes))
