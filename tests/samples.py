"""Small graphs of every kind, for the tests that run each of their kernels by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from kernels import Net

from cnncc.ir.graph import Graph

SAMPLES: dict[str, Callable[[], Graph]] = {}


def sample(name: str, build: Callable[[Net], str | tuple[str, ...]]) -> None:
    def graph() -> Graph:
        net = Net(reach=2)
        made = build(net)
        return net.result(*((made,) if isinstance(made, str) else made))
    SAMPLES[name] = graph


def _convolutions() -> None:
    rng = np.random.default_rng(5)
    for i in range(24):
        r, s, d = int(rng.choice([1, 2, 3, 5])), int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 1, 2]))
        c, k, g = [
            (int(rng.integers(1, 40)), int(rng.integers(1, 50)), 1),
            (n := int(rng.integers(1, 40)), n, n),
            (6 * int(rng.integers(1, 9)), 12, 6),
            (16, 32, 16),
        ][i % 4 if i % 8 > 3 else 0]
        pads = [int(p) for p in rng.integers(0, r + 1, 4)]
        size = [int(e) for e in rng.integers((r - 1) * d + 1, 24, 2)]
        batch = ["N", 1, 2][i % 3]
        name = (
            f"conv {batch}x{c}x{size[0]}x{size[1]} {k} of {r}x{r}/{s} dilated {d} padded {pads} in {g} groups"
        )

        def build(
            net: Net,
            c: int = c,
            k: int = k,
            g: int = g,
            r: int = r,
            s: int = s,
            d: int = d,
            pads: list[int] = pads,
            size: list[int] = size,
            batch: int | str = batch,
        ) -> tuple[str, ...]:
            y = net.conv(net.x(batch, c, *size), k, (r, r), (s, s), (d, d), pads[:2], pads[2:], g)
            return y, net.conv(net.relu(net.bias(y)), 17, (1, 1))
        sample(name, build)


_convolutions()
sample(
    "conv in 1 dimension",
    lambda n: n.conv(n.relu(n.conv(n.x("N", 5, 61), 18, (5,), (2,), (), (2,))), 3, (3,)),
)
sample(
    "conv in 3 dimensions",
    lambda n: n.conv(n.relu(n.conv(n.x(2, 3, 5, 6, 7), 18, (3, 3, 3), begin=(1, 1, 1))), 20, (2, 2, 2)),
)
for few in (2, 3, 9):
    sample(
        f"conv of {few} filters along the sum",
        lambda n, few=few: (y := n.bias(n.conv(n.x(2, 33, 7, 11), few, (3, 3), begin=(1, 1), end=(1, 1))),
                            n.op("transpose", [n.conv(n.relu(y), few, (3, 3))], "last", perm=(0, 2, 3, 1))),
    )
sample(
    "conv of plain rows",
    lambda n: (n.conv(n.x(1, 4, 9, 37), 13, (3, 3), begin=(1, 1), end=(1, 1)),
               n.deconv(n.x(1, 1, 9, 21), 1, (4, 4), (2, 2), (1, 1), (1, 1), (1, 1))),
)
sample("conv with many taps", lambda n: n.conv(n.relu(n.conv(n.x(1, 3, 5, 51), 8, (1, 1))), 7, (2, 26)))
sample("padding beyond the window", lambda n: n.conv(n.x(1, 17, 3, 4), 19, (2, 3), begin=(5, 4), end=(3, 6)))
for op in ("max_pool", "sum_pool"):
    sample(f"{op} of an input", lambda n, op=op: n.pool(n.x("N", 21, 9, 10), op, (3, 3), (2, 2), (), (1, 1)))
    sample(
        f"{op} of blocks",
        lambda n, op=op: n.pool(
            n.relu(n.conv(n.x("N", 3, 9, 10), 21, (1, 1))), op, (3, 2), (1, 2), (2, 1), (2, 0)
        ),
    )
    sample(
        f"{op} joined to a convolution",
        lambda n, op=op: n.pool(n.relu(n.conv(n.x(1, 18, 13, 12), 40, (3, 3))), op, (2, 2), (2, 2)),
    )
    sample(
        f"{op} over everything", lambda n, op=op: n.pool(n.conv(n.x("N", 5, 7, 7), 35, (1, 1)), op, (7, 7))
    )
sample("linear", lambda n: n.linear(n.relu(n.bias(n.linear(n.x("N", 37), 50))), 3))
sample("linear of images", lambda n: n.linear(n.flatten(n.conv(n.x(3, 4, 5, 6), 20, (3, 3))), 33))
sample("linear to one number", lambda n: n.linear(n.x("N", 1000), 1))
sample("wide linear", lambda n: n.linear(n.x(1, 130), 1000))
sample(
    "elementwise", lambda n: n.op("sub", [n.op("mul", [n.x("N", 7, 5), n.x(7, 5)], "m"), n.x("N", 7, 1)], "s")
)
sample("elementwise, one row", lambda n: n.relu(n.op("add", [n.x(37), n.weights(37)], "sum")))
sample("elementwise, one number", lambda n: n.relu(n.x(1)))
sample("broadcast both ways", lambda n: n.op("add", [n.x(1, 19, 1, 9), n.x(3, 1, 5, 1)], "sum"))
sample(
    "add across blocks",
    lambda n: n.op("add", [n.conv(n.x("N", 4, 5, 6), 22, (1, 1)), n.x("N", 22, 5, 6)], "sum"),
)
sample("gate", lambda n: n.op("mul", [n.conv(n.x("N", 4, 5, 6), 22, (1, 1)), n.x("N", 22, 1, 1)], "gate"))
sample(
    "clip", lambda n: n.op("clip", [n.conv(n.x(1, 9, 9, 9), 9, (3, 3), group=9)], "clip", low=-1.0, high=6.0)
)
for axes in ((1,), (2,), (3,), (2, 3), (1, 2, 3), (1, 3)):
    sample(f"reduce {axes}", lambda n, axes=axes: tuple(
        n.op(f"reduce_{f}", [n.x("N", 19, 5, 6)], f, axes=axes, keepdims=k) for f in ("sum", "max")
        for k in (True, False)))
sample("reduce all", lambda n: n.op("reduce_sum", [n.x(3, 7, 11)], "sum", axes=(0, 1, 2), keepdims=False))
sample("mean of images", lambda n: n.op("reduce_sum", [n.relu(n.conv(n.x("N", 5, 7, 7), 35, (3, 3)))], "sum",
                                       axes=(2, 3), keepdims=False))
sample("rows in stages", lambda n: n.op("sub", [x := n.x("N", 45), n.op("reduce_max", [x], "top", axes=(1,),
                                                                       keepdims=True)], "shifted"))
sample(
    "transpose of memory",
    lambda n: n.relu(n.op("reshape", [n.conv(n.x("N", 5, 8, 8), 24, (3, 3))], "view", shape=("N", 12, 72))),
)
sample(
    "strips",
    lambda n: n.pool(
        n.relu(n.conv(n.x(1, 3, 131, 150), 32, (3, 3), begin=(1, 1))),
        "max_pool",
        (3, 3),
        (2, 2),
        begin=(1, 1),
    ),
)
sample(
    "depthwise strips",
    lambda n: n.conv(
        n.relu(n.conv(n.relu(n.conv(n.x(1, 8, 130, 131), 40, (1, 1))), 40, (3, 3), begin=(1, 1), group=40)),
        24,
        (1, 1),
    ),
)
for name, at in {"whole blocks": 32, "odd channels": 20}.items():
    sample(
        f"joined, {name}",
        lambda n, at=at: n.relu(
            n.bias(
                n.join(
                    n.conv(x := n.x("N", 5, 6, 7), at, (3, 3), begin=(1, 1)), n.relu(n.conv(x, 18, (1, 1))), x
                )
            )
        ),
    )
    sample(
        f"cut, {name}",
        lambda n, at=at: n.conv(
            n.cut(
                n.conv(n.x("N", 5, 9, 9), 64, (1, 1)),
                {1: range(at, at + 19), 2: range(8, -1, -2), 3: range(1, 8)},
            ),
            17,
            (2, 2),
            begin=(1, 1),
        ),
    )
sample("joined rows", lambda n: n.join(n.x("N", 5, 6, 7), n.conv(n.x("N", 5, 8, 7), 5, (3, 1)), axis=2))
sample("joined vectors", lambda n: n.linear(n.join(n.linear(n.x("N", 7), 20), n.x("N", 3)), 9))
sample(
    "transposed",
    lambda n: (
        n.op("transpose", [y := n.conv(n.x("N", 3, 5, 6), 20, (1, 1))], "t", perm=(0, 3, 1, 2)),
        n.op("transpose", [n.relu(n.x(3, 5, 17))], "t", perm=(2, 0, 1)),
        y,
    ),
)
sample(
    "expanded",
    lambda n: n.op("add", [n.op("expand", [n.x(5, 1)], "e", shape=(3, 5, 19)), n.weights(19)], "sum"),
)
sample(
    "padded",
    lambda n: n.conv(
        n.op(
            "pad",
            [n.conv(n.x("N", 5, 6, 7), 21, (1, 1))],
            "p",
            begin=(0, 0, 2, -1),
            end=(0, 3, 1, 4),
            value=2.0,
        ),
        7,
        (3, 3),
    ),
)
for kernel, stride, dilation, group in [
    (3, 2, 1, 1),
    (4, 2, 1, 1),
    (2, 3, 1, 4),
    (3, 2, 2, 1),
    (4, 3, 2, 2),
    (3, 1, 1, 8),
]:
    sample(
        f"deconvolution of {kernel}/{stride} dilated {dilation} in {group} groups",
        lambda n, k=kernel, s=stride, d=dilation, g=group: n.relu(
            n.bias(
                n.deconv(n.conv(n.x("N", 3, 5, 6), 8, (1, 1)), 24, (k, k), (s, s), (d, d), (0, 1), (1, 0), g)
            )
        ),
    )
sample(
    "deconvolutions of other ranks",
    lambda n: (
        n.deconv(n.x(1, 4, 9), 5, (4,), (2,), (1,), (1,), (1,)),
        n.deconv(n.x(1, 4, 3, 4, 2), 5, (3, 2, 1), (2, 2, 1), (1, 1, 1), (0, 0, 0), (0, 0, 0)),
    ),
)


def _table(n: Net, most: int, *shape: int) -> str:
    return n.const("t", n.rng.integers(0, most, shape).astype(np.int32))


for axes in ((1,), (2,), (3,), (2, 3), (1, 2, 3)):
    sample(
        f"taken along {axes}",
        lambda n, axes=axes: n.conv(
            n.op(
                "take",
                [n.relu(n.conv(n.x("N", 3, 7, 7), 7, (1, 1))), *(_table(n, 7, 19 + a) for a in axes)],
                "t",
                axes=axes,
            ),
            9,
            (2, 2),
        ),
    )
    sample(
        f"taken of an input along {axes}",
        lambda n, axes=axes: n.op(
            "take", [n.x("N", 7, 7, 7), *(_table(n, 7, 19 + a) for a in axes)], "t", axes=axes
        ),
    )
for axis in (1, 2, 3):
    sample(
        f"resampled along {axis}",
        lambda n, axis=axis: (
            n.op(
                "resample",
                [x := n.x("N", 7, 7, 7), t := _table(n, 7, 20, 3), w := n.weights(20, 3)],
                "r",
                axis=axis,
            ),
            n.conv(n.op("resample", [n.conv(x, 7, (1, 1)), t, w], "r", axis=axis), 9, (2, 2)),
        ),
    )
sample("outputs of all kinds", lambda n: (x := n.x("N", 6, 3), n.flatten(x), y := n.relu(x), y, n.weights(3)))
