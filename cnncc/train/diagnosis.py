"""Where numbers that are none came from."""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import numpy as np

from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.signature import Array
from cnncc.train.batches import Batch
from cnncc.train.step import Step

EVERY = 16      # steps between the states that are kept


class Recorder:
    """The state some steps ago, and what was trained on since: enough to find the state of a later step."""

    def __init__(self) -> None:
        self.state: dict[str, Array] = {}
        self.steps: deque[tuple[Step, Batch, float]] = deque()

    def note(self, step: Step, batch: Batch, lr: float) -> None:
        """Before a step is made."""
        if not self.state or len(self.steps) >= EVERY:
            self.state = {name: np.array(a) for name, a in step.state.items()}
            self.steps.clear()
        self.steps.append((step, batch, lr))

    def before_the_last(self) -> dict[str, Array]:
        """The state before the step noted last: the steps before it are made again."""
        state = self.state
        for step, batch, lr in list(self.steps)[:-1]:
            step.state = state
            step(batch.x, batch.y, lr)
            state = step.state
        return {name: np.array(a) for name, a in state.items()}


def first_bad(graph: Graph, x: Array) -> str | None:
    """Where the value for x, in a graph with one input, is the first that isn't finite: a layer, its kind.

    None where all values are finite.
    """
    for name, values in graph.constants.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"in the weights {name!r}"
    names = [n.name for n in graph if n.op not in ("input", "const")]
    whole = replace(graph, outputs=tuple((name, name) for name in names), signals=())
    for name, value in evaluate(whole, {graph.inputs[0]: x}).items():
        if not np.isfinite(value).all():
            n = graph[name]
            layer = n.origin[0] if n.origin else name
            return f"that of the layer {layer!r} ({n.op})"
    return None
