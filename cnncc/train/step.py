"""One step of training as one native call: forward, loss, backward, update."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from cnncc.compiler import compile
from cnncc.ir.errors import InputError, ModelError, hint
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.signature import Array
from cnncc.ir.types import TensorType
from cnncc.passes.differentiate import gradients
from cnncc.passes.fold import Rebuild
from cnncc.passes.training import COUNT, SEED, Training, parameters
from cnncc.runtime.model import CompiledModel
from cnncc.runtime.profiler import StepTime
from cnncc.train.losses import Loss
from cnncc.train.optimizers import Optimizer, Weight

TARGET, RATE = "train.target", "train.rate"


class Step:
    """A step for batches of one size: call it with inputs and targets.

    `graph` has one input and one output. Its `frozen` constants stay. The state is what training goes on
    from, float32 except `step`: weights and running statistics ("w:NAME"), what the optimizer remembers
    ("NAME/SLOT"), the number of steps so far. Called by one thread at a time.

    Raises ModelError where nothing can be learned, UnsupportedError listing nodes without a derivative.
    """

    def __init__(self, graph: Graph, loss: Loss, optimizer: Optimizer, *, batch: int,
                 frozen: Collection[str] = (), seed: int = 0, threads: int | None = None) -> None:
        self.learned = tuple(name for name in parameters(graph) if name not in frozen)
        if not self.learned:
            raise ModelError(f"{graph.name}: there is nothing to learn: no weights that aren't frozen")
        made, slots = build(graph, loss, optimizer, batch, self.learned, frozen)
        model = compile(made, threads=threads)
        assert isinstance(model, CompiledModel)
        self.model, self.graph = model, made
        words = {SEED[0]: seed & 0xFFFFFFFF, SEED[1]: seed >> 32}
        self._fixed = {name: np.array(word, np.uint32).view(np.int32) for name, word in words.items()
                       if name in made.inputs}
        kept = {h.name: graph.constants[h.name] for h in model.plan.state if h.name in graph.constants}
        model.state = kept | slots

    @property
    def state(self) -> dict[str, Array]:
        """Copies of all that training goes on from, by name."""
        found = self.model.state
        return {_shown(name, self.graph): a for name, a in found.items()}

    @state.setter
    def state(self, arrays: Mapping[str, Array]) -> None:
        """Raises InputError for unknown names, and arrays that don't fit."""
        names = {_shown(h.name, self.graph): h.name for h in self.model.plan.state}
        unknown = [name for name in arrays if name not in names]
        if unknown:
            raise InputError(f"{self.graph.name} has no state {unknown[0]!r}{hint(unknown[0], names)}")
        self.model.state = {names[name]: np.asarray(a) for name, a in arrays.items()}

    def __call__(self, x: Array, y: Array, lr: float) -> tuple[float, Array]:
        """Train on a batch, x and the targets y; the mean loss and the outputs, both before the update."""
        loss, output = self.model.run(None, self._feeds(x, y, lr))
        return float(loss), output

    def profile(self, x: Array, y: Array, lr: float, repeat: int | None = None) -> list[StepTime]:
        """The time of every kernel of a step, as `CompiledModel.profile` gives it; it trains meanwhile."""
        return self.model.profile(repeat=repeat, **self._feeds(x, y, lr))

    def _feeds(self, x: Array, y: Array, lr: float) -> dict[str, Any]:
        return {self.graph.inputs[0]: x, TARGET: y, RATE: np.float32(lr), **self._fixed}


def _shown(name: str, graph: Graph) -> str:
    """A state's name for the user."""
    return "step" if name == COUNT else name if "/" in name and name not in graph.constants else f"w:{name}"


def build(graph: Graph, loss: Loss, optimizer: Optimizer, batch: int, learned: Collection[str],
          frozen: Collection[str]) -> tuple[Graph, dict[str, Array]]:
    """The graph of a step, whose outputs are the loss and the network's, and the first values of slots."""
    t = Training(Builder(graph.name), graph, batch, learned, frozen)
    t.run()
    output = t.names[graph.outputs[0][1]]
    target = t.b.input(TARGET, loss.target(t.b.type(output)))
    value = loss.nodes(t.b, output, target)
    forward = t.b.graph([("loss", value), (graph.outputs[0][0], output)], (), t.statistics.items())
    whole = gradients(forward, value, [*learned])
    b = Rebuild(whole)
    for n in whole:
        b.copy(n)
    if COUNT not in b.nodes:            # nothing was dropped
        b.add(Node(COUNT, "input", (), TensorType("f32", ())))
    rate = b.input(RATE, TensorType("f32", ()))
    step = b.op("affine", [COUNT], f"{COUNT}.next", alpha=1.0, beta=1.0)
    slots: dict[str, Array] = {COUNT: np.zeros((), np.float32)}
    weights: dict[str, Weight] = {}
    slopes = dict(whole.outputs)
    for name in learned:
        own = optimizer.slots(b.type(name))
        slots |= {f"{name}/{slot}": a for slot, a in own.items()}
        inputs = {slot: b.add(Node(f"{name}/{slot}", "input", (), b.type(name))) for slot in own}
        weights[name] = Weight(name, slopes[f"{name}.grad"], inputs)
    state = [*whole.state, (COUNT, step)]
    for name, (new, kept) in optimizer.updates(b, weights, rate, step).items():
        state += [(name, new), *((f"{name}/{slot}", v) for slot, v in kept.items())]
    return b.graph(whole.outputs[:2], (), state).live(), slots
