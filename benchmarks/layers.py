"""Every distinct kernel of a compiled model alone: one thread, operands warm, beside this core's FMA peak."""

from __future__ import annotations

import argparse
import json
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from kernels import Alone, alternate, progress

from cnncc.bench.peak import peak
from cnncc.compiler import optimize, read
from cnncc.ir.graph import Node
from cnncc.ir.kernel import Kernel
from cnncc.ir.target import target_for

LOW = 0.72
"""The part of the peak below which a convolution is flagged."""


@dataclass
class Row:
    """Times in seconds of one call; `count` kernels of the model are equal to this one."""

    node: str
    does: str
    count: int
    minimum: float
    median: float
    gflops: float
    percent: float
    low: bool
    schedule: str


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL.onnx")
    parser.add_argument("--batch", type=int, default=1, help="where the model leaves it open")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    target = target_for()
    progress("passes")
    nodes = [(n, n.kernel) for n in optimize(read(args.model), target) if n.kernel is not None]
    counts: Counter[Kernel] = Counter(k for _, k in nodes)
    first: dict[Kernel, Node] = {}
    for n, k in nodes:
        first.setdefault(k, n)
    runs: list[Alone] = []
    for k in first:
        progress(f"compiling {len(runs) + 1} of {len(first)}")
        runs.append(Alone(k, target, args.batch))
    times: list[list[float]] = [[] for _ in runs]
    roof = 0.0
    for i in range(args.rounds):
        progress(f"round {i + 1} of {args.rounds}")
        roof = max(roof, peak(1, 0.05))
        for own, new in zip(times, alternate(runs, 1), strict=True):
            own += new
    progress("")
    rows = []
    for (k, n), run, t in zip(first.items(), runs, times, strict=True):
        gflops = run.flops / min(t) / 1e9
        does = str(n.attr["does"])
        rows.append(Row(n.name, does, counts[k], min(t), statistics.median(t), gflops, gflops / roof,
                        "conv" in does and gflops < LOW * roof, run.schedule()))
    rows.sort(key=lambda r: -r.minimum * r.count)
    total = sum(r.minimum * r.count for r in rows)
    flops = sum(run.flops * counts[k] for k, run in zip(first, runs, strict=True))
    if args.json:
        print(json.dumps({"peak": roof, "seconds": total, "gflops": flops / total / 1e9,
                          "kernels": [asdict(r) for r in rows]}, indent=1))
        return
    print(f"{'time':>5} {'us':>8} {'median':>8}    x {'GFLOP/s':>8}  peak   (*: a conv below {LOW:.0%})")
    for r in rows:
        print(f"{r.minimum * r.count / total:5.1%} {r.minimum * 1e6:8.1f} {r.median * 1e6:8.1f} {r.count:4} "
              f"{r.gflops:8.1f} {r.percent:5.0%} {'*' if r.low else ' '} {r.node}: {r.does}")
        print(f"{'':25}{r.schedule}")
    print(f"{total * 1e3:.2f} ms together, {flops / total / 1e9:.1f} GFLOP/s, "
          f"{flops / total / 1e9 / roof:.0%} of the peak ({roof:.1f})")


if __name__ == "__main__":
    main()
