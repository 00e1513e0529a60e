"""cnncc as a peer of a harness that times steps of training: `prepare(model, threads)` gives step(x, labels).

The model is an ONNX file with a fixed batch; mean softmax cross-entropy, SGD with learning rate 0.01 and
momentum 0.9, float32. The harness's module `bench_train` gives the class of peers and their registration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))    # the package beside this folder

from bench_train import TPeer, tpeer


@tpeer
class Peer(TPeer):  # type: ignore[misc]
    name = "cnncc"

    def env(self, threads: int) -> dict[str, str]:
        return {"CNNCC_NUM_THREADS": str(threads)}

    def prepare(self, model: str, threads: int) -> Callable[[Any, Any], float]:
        from cnncc.compiler import read
        from cnncc.train.losses import SoftmaxCrossEntropy
        from cnncc.train.optimizers import SGD
        from cnncc.train.step import Step
        graph = read(model)
        batch = int(graph[graph.inputs[0]].type.shape[0])
        step = Step(graph, SoftmaxCrossEntropy(), SGD(lr=0.01, momentum=0.9), batch=batch, threads=threads)
        return lambda x, labels: step(x, labels, 0.01)[0]
