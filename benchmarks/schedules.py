"""How good is the schedule that the cost model chooses? Random convolutions, a small search for each."""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from kernels import Alone, alternate, progress

from cnncc.bench.peak import peak
from cnncc.compiler import stages
from cnncc.ir.graph import Builder
from cnncc.ir.target import Target, target_for
from cnncc.ir.types import TensorType
from cnncc.passes.refine import refined
from cnncc.passes.schedules import Candidate, candidates, weights_of

FLOPS = 4e6, 1.5e9
"""Bounds of a convolution's operations."""


@dataclass(frozen=True)
class Shape:
    channels: int
    filters: int
    size: int
    kernel: int
    stride: int
    groups: int

    @property
    def flops(self) -> float:
        out = -(-self.size // self.stride)
        return 2 * out * out * self.filters * (self.channels // self.groups) * self.kernel ** 2

    def __str__(self) -> str:
        kind = "depthwise" if self.groups > 1 else "conv"
        return (f"{kind} {self.channels} -> {self.filters}, {self.size}x{self.size}, "
                f"{self.kernel}x{self.kernel} stride {self.stride}")


@dataclass
class Result:
    """GFLOP/s by the fastest round, and their ratio; `rank` is the best one's place in the model's order."""

    shape: str
    chosen: float
    best: float
    ratio: float
    peak: float
    rank: int
    candidates: int
    chosen_schedule: str
    best_schedule: str


def shapes(count: int, seed: int) -> list[Shape]:
    """Channels as networks have them (mostly multiples of 8), three of them now and then."""
    rng = random.Random(seed)

    def channels() -> int:
        c = round(2 ** rng.uniform(3, 9))
        return c if rng.random() < 0.2 else max(8, c // 8 * 8)
    result: list[Shape] = []
    while len(result) < count:
        c, k = channels() if rng.random() < 0.9 else 3, channels()
        size = rng.choice([7, 8, 13, 14, 15, 20, 28, 32, 40, 56, 80, 112])
        depthwise = c > 3 and rng.random() < 0.2
        kernel = rng.choice([3, 5, 7] if depthwise else [1, 3, 3, 5, 7])
        shape = Shape(c, c if depthwise else k, size, kernel, rng.choice([1, 1, 2]), c if depthwise else 1)
        low, high = FLOPS
        if low / (10 if depthwise else 1) <= shape.flops <= high:
            result.append(shape)
    return result


def ordered(shape: Shape, target: Target) -> list[Candidate]:
    """The candidates for a convolution with bias and activation between two others, the cheapest first."""
    b = Builder("net")
    x = b.input("x", TensorType("f32", (1, shape.channels, shape.size, shape.size)))
    one, half = (1, 1), (shape.kernel // 2,) * 2
    if shape.channels > 3:              # a first layer reads the user's memory, any other blocked channels
        x = b.op("max_pool", [x], "before", kernel=(3, 3), strides=one, dilations=one, begin=one, end=one)
    w = np.ones((shape.filters, shape.channels // shape.groups, shape.kernel, shape.kernel), np.float32)
    x = b.op("conv", [x, b.const("w", w)], "conv", strides=(shape.stride,) * 2, dilations=one,
             begin=half, end=half, group=shape.groups)
    x = b.op("add", [x, b.const("b", np.ones((shape.filters, 1, 1), np.float32))], "bias")
    graph = b.graph([("y", b.op("relu", [x], "relu"))])
    for name, after in stages(graph, target):
        if name == "choose_layouts":
            node = next(n for n in after if n.kernel is not None and "conv" in n.attr["does"])
            assert node.kernel is not None and len(node.kernel.stages) == 1
            return candidates(node.kernel, weights_of(node, after), target)
    raise AssertionError("no pass of that name")


def search(shape: Shape, target: Target, cheapest: int, others: int, rounds: int, seed: int) -> Result:
    """Measure the cheapest candidates and some random ones; the first is what the model chooses."""
    known = ordered(shape, target)
    rest = range(min(cheapest, len(known)), len(known))
    ranks = [*range(rest.start), *random.Random(seed).sample(rest, min(others, len(rest)))]
    runs: list[Alone] = []
    for i in ranks:
        progress(f"{shape}: {len(runs) + 1} of {len(ranks)} candidates")
        runs.append(Alone(refined(known[i].kernel, known[i].space.weights, target), target))
        runs[-1]()
        np.testing.assert_array_equal(runs[-1].output, runs[0].output, f"{shape}: {runs[-1].schedule()}")
    times = [min(t) for t in alternate(runs, rounds)]
    close = sorted(range(len(runs)), key=lambda i: times[i])[:4]
    finals = dict.fromkeys([0, *close])                 # the chosen one and the fastest again, side by side
    for i, t in zip(finals, alternate([runs[i] for i in finals], 2 * rounds), strict=True):
        times[i] = min(times[i], *t)
    best = min(finals, key=lambda i: times[i])
    chosen, fastest = (runs[0].flops / times[i] / 1e9 for i in (0, best))
    return Result(str(shape), chosen, fastest, times[best] / times[0], peak(1, 0.05), ranks[best],
                  len(known), runs[0].schedule(), runs[best].schedule())


def show(r: Result) -> None:
    print(f"{r.shape}{'  <-- slow' if r.ratio < 0.9 else ''}\n"
          f"  chosen {r.chosen:6.1f} GFLOP/s {r.chosen / r.peak:4.0%}   best {r.best:6.1f} GFLOP/s "
          f"{r.best / r.peak:4.0%}   ratio {r.ratio:.2f}\n    {r.chosen_schedule}")
    if r.rank:
        print(f"    {r.best_schedule}   (number {r.rank + 1} of {r.candidates})")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=30, help="how many shapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shape", action="append", metavar="C,K,SIZE,KERNEL,STRIDE,GROUPS",
                        type=lambda text: Shape(*map(int, text.split(","))), help="not random ones, but this")
    parser.add_argument("--cheapest", type=int, default=12, help="candidates by the model's order")
    parser.add_argument("--others", type=int, default=12, help="random candidates besides")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    target = target_for(precision="strict")     # plain sums: one kernel for each
    results: list[Result] = []
    for shape in args.shape or shapes(args.count, args.seed):
        results.append(search(shape, target, args.cheapest, args.others, args.rounds, args.seed))
        progress("")
        if not args.json:
            show(results[-1])
    ratios = [r.ratio for r in results]
    summary = {"median": statistics.median(ratios), "mean": statistics.mean(ratios), "min": min(ratios)}
    if args.json:
        print(json.dumps({"shapes": [asdict(r) for r in results], "ratio": summary}, indent=1))
    else:
        print(f"chosen against best found, {len(ratios)} shapes: "
              + ", ".join(f"{k} {v:.3f}" for k, v in summary.items()))


if __name__ == "__main__":
    main()
