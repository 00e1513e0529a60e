"""Every kernel of a step of training, in its place: time, rates, and the part of its roof that it reaches.

The step is mean softmax cross-entropy over random data and labels, SGD with momentum, float32.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import kernels  # noqa: F401  the package beside this folder
import numpy as np

from cnncc.bench.peak import roof
from cnncc.compiler import read
from cnncc.runtime.profiler import format_profile
from cnncc.train.losses import SoftmaxCrossEntropy
from cnncc.train.optimizers import SGD
from cnncc.train.step import Step


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", metavar="MODEL", help="an ONNX file or a definition, whose output is scores")
    parser.add_argument("--batch", type=int, default=32, help="where the model leaves it open")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--least", type=float, default=0.0, metavar="PART", help="of the time that is shown")
    parser.add_argument("--markdown", action="store_true", help="print a Markdown table")
    args = parser.parse_args(argv)
    graph = read(args.model)
    batch, *sizes = graph[graph.inputs[0]].type.shape
    batch = batch if isinstance(batch, int) else args.batch
    step = Step(graph, SoftmaxCrossEntropy(), SGD(lr=0.01, momentum=0.9), batch=batch, threads=args.threads)
    classes, *places = graph[graph.outputs[0][1]].type.shape[1:]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, *map(int, sizes)), np.float32)
    y = rng.integers(0, int(classes), (batch, *map(int, places)))
    best = roof(args.threads)
    times = sorted(step.profile(x, y, 0.01, args.rounds), key=lambda t: -t.seconds)
    print(format_profile([t for t in times if t.share >= args.least], best, args.markdown))
    print(f"{sum(t.seconds for t in times) * 1e3:.2f} ms together; {best}")


if __name__ == "__main__":
    main()
