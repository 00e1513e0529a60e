"""Where numbers that are none came from."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import numpy as np

from cnncc.ir.graph import Graph
from cnncc.ir.reference import evaluate
from cnncc.ir.signature import Array
from cnncc.train.batches import Batch

EVERY = 16      # steps between the states that are kept


class StepLike(Protocol):
    """One step of training, as `train.step.Step` makes it."""

    @property
    def state(self) -> dict[str, Array]: ...
    @state.setter
    def state(self, value: Mapping[str, Array]) -> None: ...
    def __call__(self, x: Array, y: Array, lr: float) -> tuple[float, Array]: ...


class Recorder:
    """The state some steps ago, and what was trained on since: enough to find the state of a later step."""

    def __init__(self) -> None:
        self.state: dict[str, Array] = {}
        self.steps: deque[tuple[StepLike, Batch, float]] = deque()

    def note(self, step: StepLike, batch: Batch, lr: float) -> None:
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
    """The layer, of a graph with one input, whose value for x is the first that is not finite, and its kind.

    None where all values are finite.
    """
    if not np.isfinite(x).all():
        return f"the input {graph.inputs[0]!r}"
    for name, values in graph.constants.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return f"the weights {name!r}"
    names = [n.name for n in graph if n.op not in ("input", "const")]
    whole = replace(graph, outputs=tuple((name, name) for name in names), signals=())
    for name, value in evaluate(whole, {graph.inputs[0]: x}).items():
        if not np.isfinite(value).all():
            n = graph[name]
            layer = n.origin[0] if n.origin else name
            return f"the layer {layer!r} ({n.op})"
    return None
