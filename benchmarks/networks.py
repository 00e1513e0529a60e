"""The networks of the benchmark, as their papers describe them, as ONNX files with seeded weights.

Batch normalization is kept, as exporters write it; every network has one input, x, and one output, y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17          # what converters to other engines know
Make = Callable[["Net", str], str]


class Net:
    """An ONNX graph while it is made; values are names, `shapes` has theirs without the batch."""

    def __init__(self, shape: Sequence[int], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": tuple(shape)}

    def node(self, op: str, inputs: Sequence[str], shape: Sequence[int], **attributes: Any) -> str:
        name = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        self.shapes[name] = tuple(shape)
        return name

    def const(self, array: np.ndarray[Any, Any]) -> str:
        name = f"w_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def random(self, *shape: int) -> str:
        fan = math.prod(shape[1:]) if len(shape) > 1 else shape[0]
        return self.const((self.rng.standard_normal(shape) * (2 / fan) ** 0.5).astype(np.float32))

    def model(self, y: str, batch: int) -> onnx.ModelProto:
        sizes = {name: [batch, *self.shapes[name]] for name in ("x", y)}
        self.nodes.append(helper.make_node("Identity", [y], ["y"], "y"))
        graph = helper.make_graph(
            self.nodes, "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes["x"])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, sizes[y])], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)

    # ---- layers

    def conv(self, x: str, out: int, k: int = 3, stride: int = 1, groups: int = 1, pad: int | None = None,
             act: str | None = "Relu", norm: bool = True, dilation: int = 1) -> str:
        """A convolution of any rank, with batch normalization or else a bias, then the activation."""
        c, *size = self.shapes[x]
        pad = (k - 1) * dilation // 2 if pad is None else pad
        size = [(e + 2 * pad - (k - 1) * dilation - 1) // stride + 1 for e in size]
        inputs = [x, self.random(out, c // groups, *[k] * len(size))]
        n = len(size)
        y = self.node("Conv", inputs if norm else [*inputs, self.random(out)], (out, *size),
                      kernel_shape=[k] * n, strides=[stride] * n, pads=[pad] * 2 * n,
                      dilations=[dilation] * n, group=groups)
        return self.act(self.norm(y) if norm else y, act)

    def norm(self, x: str) -> str:
        c = self.shapes[x][0]
        scale, shift, mean = (self.rng.uniform(*ends, c) for ends in ((0.8, 1.2), (-0.1, 0.1), (-0.1, 0.1)))
        vectors = [scale, shift, mean, self.rng.uniform(0.8, 1.2, c)]
        return self.node("BatchNormalization", [x, *(self.const(v.astype(np.float32)) for v in vectors)],
                         self.shapes[x])

    def act(self, x: str, act: str | None) -> str:
        shape = self.shapes[x]
        match act:
            case None:
                return x
            case "Relu6":
                ends = [self.const(np.float32(e)) for e in (0, 6)]
                return self.node("Clip", [x, *ends], shape)
            case "Silu":
                return self.node("Mul", [x, self.node("Sigmoid", [x], shape)], shape)
            case "Gelu":
                half, root, one = (self.const(np.float32(v)) for v in (0.5, 2 ** 0.5, 1))
                y = self.node("Erf", [self.node("Div", [x, root], shape)], shape)
                y = self.node("Mul", [x, self.node("Add", [y, one], shape)], shape)
                return self.node("Mul", [y, half], shape)
        return self.node(act, [x], shape)

    def pool(self, x: str, k: int, stride: int, pad: int = 0, op: str = "MaxPool", up: bool = False) -> str:
        c, *size = self.shapes[x]
        count = [(e + 2 * pad - k + (stride - 1) * up) // stride + 1 for e in size]
        n = len(size)
        return self.node(op, [x], (c, *count), kernel_shape=[k] * n, strides=[stride] * n, pads=[pad] * 2 * n,
                         ceil_mode=int(up))

    def mean(self, x: str) -> str:
        c, *size = self.shapes[x]
        return self.node("GlobalAveragePool", [x], (c, *[1] * len(size)))

    def linear(self, x: str, out: int, act: str | None = None) -> str:
        if len(self.shapes[x]) > 1:
            x = self.node("Flatten", [x], (math.prod(self.shapes[x]),))
        inputs = [x, self.random(out, self.shapes[x][0]), self.random(out)]
        return self.act(self.node("Gemm", inputs, (out,), transB=1), act)

    def add(self, a: str, b: str, act: str | None = None) -> str:
        return self.act(self.node("Add", [a, b], self.shapes[a]), act)

    def concat(self, *values: str) -> str:
        channels = sum(self.shapes[v][0] for v in values)
        return self.node("Concat", values, (channels, *self.shapes[values[0]][1:]), axis=1)

    def halves(self, x: str) -> tuple[str, str]:
        """The first and the second half of the channels."""
        c, *size = self.shapes[x]
        left = self.node("Split", [x], (c // 2, *size), axis=1)
        right = f"{left}_right"
        self.nodes[-1].output.append(right)
        self.shapes[right] = self.shapes[left]
        return left, right

    def gate(self, x: str, squeezed: int, act: str) -> str:
        """Squeeze and excitation."""
        y = self.conv(self.mean(x), squeezed, 1, norm=False, act=act)
        return self.node("Mul", [x, self.conv(y, self.shapes[x][0], 1, norm=False, act="Sigmoid")],
                         self.shapes[x])

    def scores(self, x: str, classes: int = 1000) -> str:
        return self.linear(self.mean(x), classes)


# ---- networks


def lenet5(n: Net, x: str) -> str:
    x = n.pool(n.conv(x, 6, 5, norm=False), 2, 2)
    x = n.pool(n.conv(x, 16, 5, pad=0, norm=False), 2, 2)
    return n.linear(n.linear(n.linear(x, 120, "Relu"), 84, "Relu"), 10)


def dqn(n: Net, x: str) -> str:
    for out, k, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1)):
        x = n.conv(x, out, k, stride, pad=0, norm=False)
    return n.linear(n.linear(x, 512, "Relu"), 6)


def cifar_cnn(n: Net, x: str) -> str:
    for out in (32, 64, 128):
        x = n.pool(n.conv(n.conv(x, out), out), 2, 2)
    return n.linear(n.linear(x, 256, "Relu"), 10)


def alexnet(n: Net, x: str) -> str:
    x = n.pool(n.conv(x, 64, 11, 4, pad=2, norm=False), 3, 2)
    x = n.pool(n.conv(x, 192, 5, norm=False), 3, 2)
    for out in (384, 256, 256):
        x = n.conv(x, out, norm=False)
    return n.linear(n.linear(n.linear(n.pool(x, 3, 2), 4096, "Relu"), 4096, "Relu"), 1000)


def vgg16(n: Net, x: str) -> str:
    for out, count in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for _ in range(count):
            x = n.conv(x, out, norm=False)
        x = n.pool(x, 2, 2)
    return n.linear(n.linear(n.linear(x, 4096, "Relu"), 4096, "Relu"), 1000)


def resnet(counts: Sequence[int], wide: int, groups: int = 1, width: int = 64, squeeze: float = 0,
           widths: Sequence[int] = (), stem: int = 64) -> Make:
    """Residual networks: basic blocks for `wide` 1, bottlenecks for 4; RegNet's by `widths`, with gates."""
    def block(n: Net, x: str, inner: int, out: int, stride: int, grouped: int) -> str:
        if wide == 1 and not widths:
            y = n.conv(n.conv(x, out, 3, stride), out, act=None)
        else:
            y = n.conv(n.conv(x, inner, 1), inner, 3, stride, grouped)
            y = n.gate(y, round(squeeze * n.shapes[x][0]), "Relu") if squeeze else y
            y = n.conv(y, out, 1, act=None)
        short = x if n.shapes[x] == n.shapes[y] else n.conv(x, out, 1, stride, act=None)
        return n.add(y, short, "Relu")

    def make(n: Net, x: str) -> str:
        x = n.conv(x, 32, 3, 2) if widths else n.pool(n.conv(x, stem, 7, 2), 3, 2, 1)
        for i, count in enumerate(counts):
            inner = widths[i] if widths else width << i
            out = inner if widths else (64 << i) * wide
            for j in range(count):
                stride = 2 if j == 0 and (i or widths) else 1
                x = block(n, x, inner, out, stride, inner // groups if widths else groups)
        return n.scores(x)
    return make


def densenet121(n: Net, x: str) -> str:
    x = n.pool(n.conv(x, 64, 7, 2), 3, 2, 1)
    for i, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            y = n.conv(n.act(n.norm(x), "Relu"), 128, 1)
            x = n.concat(x, n.node("Conv", [y, n.random(32, 128, 3, 3)], (32, *n.shapes[y][1:]),
                                   kernel_shape=[3, 3], pads=[1] * 4))
        if i < 3:
            x, c = n.act(n.norm(x), "Relu"), n.shapes[x][0] // 2
            y = n.node("Conv", [x, n.random(c, 2 * c, 1, 1)], (c, *n.shapes[x][1:]), kernel_shape=[1, 1])
            x = n.pool(y, 2, 2, op="AveragePool")
    return n.scores(n.act(n.norm(x), "Relu"))


def squeezenet1_1(n: Net, x: str) -> str:
    def fire(x: str, squeezed: int, out: int) -> str:
        s = n.conv(x, squeezed, 1, norm=False)
        return n.concat(n.conv(s, out, 1, norm=False), n.conv(s, out, 3, norm=False))
    x = n.pool(n.conv(x, 64, 3, 2, pad=0, norm=False), 3, 2, up=True)
    x = n.pool(fire(fire(x, 16, 64), 16, 64), 3, 2, up=True)
    x = n.pool(fire(fire(x, 32, 128), 32, 128), 3, 2, up=True)
    for squeezed in (48, 48, 64, 64):
        x = fire(x, squeezed, 4 * squeezed)
    return n.node("Flatten", [n.mean(n.conv(x, 1000, 1, norm=False))], (1000,))


def googlenet(n: Net, x: str) -> str:
    def inception(x: str, *c: int) -> str:
        return n.concat(n.conv(x, c[0], 1), n.conv(n.conv(x, c[1], 1), c[2]),
                        n.conv(n.conv(x, c[3], 1), c[4]), n.conv(n.pool(x, 3, 1, 1), c[5], 1))
    x = n.pool(n.conv(x, 64, 7, 2), 3, 2, up=True)
    x = n.pool(n.conv(n.conv(x, 64, 1), 192), 3, 2, up=True)
    x = inception(inception(x, 64, 96, 128, 16, 32, 32), 128, 128, 192, 32, 96, 64)
    x = inception(n.pool(x, 3, 2, up=True), 192, 96, 208, 16, 48, 64)
    for c in ((160, 112, 224, 24, 64, 64), (128, 128, 256, 24, 64, 64), (112, 144, 288, 32, 64, 64),
              (256, 160, 320, 32, 128, 128)):
        x = inception(x, *c)
    x = inception(n.pool(x, 2, 2, up=True), 256, 160, 320, 32, 128, 128)
    return n.scores(inception(x, 384, 192, 384, 48, 128, 128))


def mobilenetv1(n: Net, x: str) -> str:
    x = n.conv(x, 32, 3, 2)
    for out, stride in ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
                        (1024, 1)):
        x = n.conv(n.conv(x, n.shapes[x][0], 3, stride, n.shapes[x][0]), out, 1)
    return n.scores(x)


def inverted(n: Net, x: str, expand: int, out: int, k: int, stride: int, act: str, gate: bool) -> str:
    """Expand, depthwise, (gate,) project."""
    c = n.shapes[x][0]
    y = n.conv(x, c * expand, 1, act=act) if expand > 1 else x
    y = n.conv(y, c * expand, k, stride, c * expand, act=act)
    y = n.conv(n.gate(y, c // 4, act) if gate else y, out, 1, act=None)
    return n.add(x, y) if stride == 1 and out == c else y


def mobilenetv2(n: Net, x: str) -> str:
    x = n.conv(x, 32, 3, 2, act="Relu6")
    for expand, out, count, stride in ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
                                       (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)):
        for j in range(count):
            x = inverted(n, x, expand, out, 3, stride if j == 0 else 1, "Relu6", False)
    return n.scores(n.conv(x, 1280, 1, act="Relu6"))


def efficientnet_b0(n: Net, x: str) -> str:
    x = n.conv(x, 32, 3, 2, act="Silu")
    for expand, out, k, count, stride in ((1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2),
                                          (6, 80, 3, 3, 2), (6, 112, 5, 3, 1), (6, 192, 5, 4, 2),
                                          (6, 320, 3, 1, 1)):
        for j in range(count):
            x = inverted(n, x, expand, out, k, stride if j == 0 else 1, "Silu", True)
    return n.scores(n.conv(x, 1280, 1, act="Silu"))


def shufflenetv2(n: Net, x: str) -> str:
    def branch(x: str, out: int, stride: int) -> str:
        y = n.conv(x, out, 1)
        return n.conv(n.conv(y, out, 3, stride, out, act=None), out, 1)

    def shuffled(a: str, b: str) -> str:
        y = n.concat(a, b)
        c, h, w = n.shapes[y]
        y = n.node("Reshape", [y, n.const(np.array([0, 2, c // 2, h, w]))], (2, c // 2, h, w))
        y = n.node("Transpose", [y], (c // 2, 2, h, w), perm=[0, 2, 1, 3, 4])
        return n.node("Reshape", [y, n.const(np.array([0, c, h, w]))], (c, h, w))
    x = n.pool(n.conv(x, 24, 3, 2), 3, 2, 1)
    for out, count in ((116, 4), (232, 8), (464, 4)):
        c = n.shapes[x][0]
        left = n.conv(n.conv(x, c, 3, 2, c, act=None), out // 2, 1)
        x = shuffled(left, branch(x, out // 2, 2))
        for _ in range(count - 1):
            left, right = n.halves(x)
            x = shuffled(left, branch(right, out // 2, 1))
    return n.scores(n.conv(x, 1024, 1))


def convnext_tiny(n: Net, x: str) -> str:
    def normal(x: str) -> str:
        return n.node("LayerNormalization", [x, n.random(n.shapes[x][-1]), n.random(n.shapes[x][-1])],
                      n.shapes[x], epsilon=1e-6)

    def moved(x: str, *perm: int) -> str:
        return n.node("Transpose", [x], [n.shapes[x][p - 1] for p in perm[1:]], perm=perm)

    def product(x: str, out: int) -> str:
        shape = (*n.shapes[x][:-1], out)
        y = n.node("MatMul", [x, n.random(n.shapes[x][-1], out)], shape)
        return n.node("Add", [y, n.random(out)], shape)
    x = moved(normal(moved(n.conv(x, 96, 4, 4, pad=0, norm=False, act=None), 0, 2, 3, 1)), 0, 3, 1, 2)
    for c, count in ((96, 3), (192, 3), (384, 9), (768, 3)):
        if c > 96:
            x = moved(normal(moved(x, 0, 2, 3, 1)), 0, 3, 1, 2)
            x = n.conv(x, c, 2, 2, pad=0, norm=False, act=None)
        for _ in range(count):
            y = normal(moved(n.conv(x, c, 7, 1, c, norm=False, act=None), 0, 2, 3, 1))
            y = moved(product(n.act(product(y, 4 * c), "Gelu"), c), 0, 3, 1, 2)
            scaled = n.node("Mul", [y, n.const(np.full((c, 1, 1), 0.1, np.float32))], n.shapes[y])
            x = n.add(x, scaled)
    return n.linear(normal(n.node("Flatten", [n.mean(x)], (768,))), 1000)


def unet(n: Net, x: str) -> str:
    skips = []
    for i in range(5):
        x = n.conv(n.conv(n.pool(x, 2, 2) if i else x, 32 << i), 32 << i)
        skips.append(x)
    for skip in skips[3::-1]:
        c, *size = n.shapes[skip]
        up = n.node("ConvTranspose", [x, n.random(2 * c, c, 2, 2), n.random(c)], (c, *size),
                    kernel_shape=[2, 2], strides=[2, 2])
        x = n.conv(n.conv(n.concat(skip, up), c), c)
    return n.conv(x, 1, 1, norm=False, act=None)


def c3d(n: Net, x: str) -> str:
    for i, outs in enumerate(((32,), (64,), (128, 128), (256, 256))):
        for out in outs:
            x = n.conv(x, out)
        c, d, h, w = n.shapes[x]
        k = [1 if i == 0 else 2, 2, 2]
        x = n.node("MaxPool", [x], (c, d // k[0], h // 2, w // 2), kernel_shape=k, strides=k)
    return n.linear(n.linear(x, 512, "Relu"), 101)


def yolov8n(n: Net, x: str) -> str:
    """Distances to the sides of boxes, means of distributions, and scores of 80 classes, of three scales."""
    def conv(x: str, out: int, k: int = 1, stride: int = 1) -> str:
        return n.conv(x, out, k, stride, act="Silu")

    def stage(x: str, out: int, count: int, add: bool = False) -> str:
        parts = [*n.halves(conv(x, out))]
        for _ in range(count):
            y = conv(conv(parts[-1], out // 2, 3), out // 2, 3)
            parts.append(n.add(parts[-1], y) if add else y)
        return conv(n.concat(*parts), out)

    def up(x: str) -> str:
        c, h, w = n.shapes[x]
        scales = n.const(np.array([1, 1, 2, 2], np.float32))
        return n.node("Resize", [x, "", scales], (c, 2 * h, 2 * w), mode="nearest",
                      coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    def head(x: str) -> str:
        y = n.concat(*(n.conv(conv(conv(x, c, 3), c, 3), c, 1, norm=False, act=act)
                       for c, act in ((64, None), (80, "Sigmoid"))))
        c, h, w = n.shapes[y]
        return n.node("Reshape", [y, n.const(np.array([0, c, h * w]))], (c, h * w))
    x = stage(conv(conv(x, 16, 3, 2), 32, 3, 2), 32, 1, add=True)
    fine = stage(conv(x, 64, 3, 2), 64, 2, add=True)
    middle = stage(conv(fine, 128, 3, 2), 128, 2, add=True)
    x = conv(stage(conv(middle, 256, 3, 2), 256, 1, add=True), 128)
    pools = [x]
    for _ in range(3):
        pools.append(n.pool(pools[-1], 5, 1, 2))
    coarse = conv(n.concat(*pools), 256)
    middle = stage(n.concat(up(coarse), middle), 128, 1)
    fine = stage(n.concat(up(middle), fine), 64, 1)
    middle = stage(n.concat(conv(fine, 64, 3, 2), middle), 128, 1)
    coarse = stage(n.concat(conv(middle, 128, 3, 2), coarse), 256, 1)
    heads = [head(x) for x in (fine, middle, coarse)]
    places = sum(n.shapes[h][1] for h in heads)
    boxes = n.node("Concat", heads, (64, places), axis=2)
    boxes = n.node("Split", [boxes, n.const(np.array([64, 80]))], (64, places), axis=1)
    n.nodes[-1].output.append("classes")
    n.shapes["classes"] = 80, places
    boxes = n.node("Reshape", [boxes, n.const(np.array([0, 4, 16, places]))], (4, 16, places))
    boxes = n.node("Softmax", [boxes], (4, 16, places), axis=2)
    bins = n.const(np.arange(16, dtype=np.float32).reshape(16, 1))
    boxes = n.node("Mul", [boxes, bins], (4, 16, places))
    boxes = n.node("ReduceSum", [boxes, n.const(np.array([2]))], (4, places), keepdims=0)
    return n.concat(boxes, "classes")


def wavenet(n: Net, x: str) -> str:
    """Gated causal convolutions, twice as far apart in every layer."""
    x, skips = n.conv(x, 64, 1, norm=False, act=None), ""
    for i in range(10):
        inputs = [x, n.random(128, 64, 2), n.random(128)]
        y = n.node("Conv", inputs, (128, *n.shapes[x][1:]), kernel_shape=[2], dilations=[1 << i],
                   pads=[1 << i, 0])
        a, b = n.halves(y)
        z = n.node("Mul", [n.act(a, "Tanh"), n.act(b, "Sigmoid")], n.shapes[x])
        skip = n.conv(z, 128, 1, norm=False, act=None)
        skips = n.add(skips, skip) if skips else skip
        x = n.add(x, n.conv(z, 64, 1, norm=False, act=None))
    return n.conv(n.conv(n.act(skips, "Relu"), 128, 1, norm=False), 256, 1, norm=False, act=None)


def tdnn(n: Net, x: str) -> str:
    for out, k, dilation in ((512, 5, 1), (512, 3, 2), (512, 3, 3), (512, 1, 1), (1500, 1, 1)):
        x = n.conv(x, out, k, pad=0, dilation=dilation)
    return n.linear(n.linear(n.linear(n.mean(x), 512, "Relu"), 512, "Relu"), 1000)


IMAGE = 3, 224, 224
NETWORKS: dict[str, tuple[Make, tuple[int, ...]]] = {
    "lenet5": (lenet5, (1, 28, 28)), "dqn": (dqn, (4, 84, 84)), "cifar_cnn": (cifar_cnn, (3, 32, 32)),
    "wavenet": (wavenet, (80, 2048)), "tdnn": (tdnn, (40, 300)),
    "shufflenetv2": (shufflenetv2, IMAGE), "mobilenetv1": (mobilenetv1, IMAGE),
    "mobilenetv2": (mobilenetv2, IMAGE), "squeezenet1_1": (squeezenet1_1, IMAGE),
    "efficientnet_b0": (efficientnet_b0, IMAGE),
    "regnet_y_400mf": (resnet((1, 3, 6, 6), 1, 8, squeeze=0.25, widths=(48, 104, 208, 440)), IMAGE),
    "alexnet": (alexnet, IMAGE), "googlenet": (googlenet, IMAGE),
    "resnet18": (resnet((2, 2, 2, 2), 1), IMAGE), "densenet121": (densenet121, IMAGE),
    "c3d": (c3d, (3, 16, 64, 64)),
    "resnet50": (resnet((3, 4, 6, 3), 4), IMAGE),
    "resnext50": (resnet((3, 4, 6, 3), 4, 32, width=128), IMAGE),
    "convnext_tiny": (convnext_tiny, IMAGE), "yolov8n": (yolov8n, (3, 640, 640)),
    "unet": (unet, (3, 256, 256)), "vgg16": (vgg16, IMAGE)}
"""How each is made, and the shape of its input without the batch; the cheaper ones first."""


def write(name: str, batch: int, folder: Path) -> Path:
    """The file of a network for a batch size, made where it isn't there yet."""
    path = folder / f"{name}-{batch}.onnx"
    if not path.exists():
        make, shape = NETWORKS[name]
        net = Net(shape)
        part = path.with_suffix(".part")
        onnx.save(net.model(make(net, "x"), batch), part)
        part.rename(path)
    return path
