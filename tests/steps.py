"""A step of training as a compiled graph with weights as inputs, called as `cnncc.train.step.Step` is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import cnncc
from cnncc.ir.graph import Builder, Graph
from cnncc.ir.types import TensorType
from cnncc.passes.differentiate import gradients
from cnncc.train.losses import Loss
from cnncc.train.optimizers import Optimizer, Weight

MADE: dict[str, Any] = {}       # compiled graphs by their text


class PlainStep:
    """Forward, loss, backward, update."""

    def __init__(self, graph: Graph, loss: Loss, optimizer: Optimizer, *, batch: int,
                 frozen: Sequence[str] = (), seed: int = 0, threads: int | None = None) -> None:
        b = Builder(graph.name)
        trained = [n for n, a in graph.constants.items() if a.dtype == np.float32 and n not in frozen]
        size = {s: batch for n in graph for s in n.type.symbols}
        for n in graph:
            if n.op == "input" or n.name in trained:
                b.input(n.name, TensorType(n.type.dtype, n.type.static(**size)))
            elif n.op == "const":
                b.const(n.name, graph.constants[n.name])
            else:
                attrs = {k: tuple(size.get(e, e) if isinstance(e, str) else e for e in v)
                         if isinstance(v, tuple) else v for k, v in n.attrs}
                b.op(n.op, n.inputs, n.name, n.origin, **attrs)
        output = graph.outputs[0][1]
        target = b.input("target", loss.target(b.type(output)))
        value = loss.nodes(b, output, target)
        whole = gradients(b.graph([("loss", value), ("output", output)]), value, trained)
        b = Builder(whole.name, whole.constants)
        b.nodes, b.inputs = dict(whole.nodes), list(whole.inputs)
        lr, step = b.input("lr", TensorType("f32", ())), b.input("step", TensorType("f32", ()))
        slots, own_weights = dict[str, Any](), dict[str, Weight]()
        grads = dict(whole.outputs[2:])
        for name in trained:
            own = optimizer.slots(b.type(name))
            slots |= {f"{name}/{s}": a for s, a in own.items()}
            inputs = {s: b.input(f"{name}/{s}", b.type(name)) for s in own}
            own_weights[name] = Weight(name, grads[f"{name}.grad"], inputs)
        outputs = [*whole.outputs[:2]]
        for name, (w, new) in optimizer.updates(b, own_weights, lr, step).items():
            outputs += [(f"w:{name}", w), *((f"{name}/{s}", v) for s, v in new.items())]
        made = b.graph([(f"{i}", v) for i, (_, v) in enumerate(outputs)])
        self.names = [name for name, _ in outputs]
        text = str(made)
        if text not in MADE:
            MADE[text] = cnncc.compile(made, threads=threads)
        self.model, weights = MADE[text], {f"w:{n}": graph.constants[n] for n in trained}
        self._state = weights | slots | {"step": np.zeros((), np.float32)}

    @property
    def state(self) -> dict[str, Any]:
        return dict(self._state)

    @state.setter
    def state(self, value: Mapping[str, Any]) -> None:
        assert {*value} == {*self._state}
        self._state = {name: np.array(a) for name, a in value.items()}

    def __call__(self, x: Any, y: Any, lr: float) -> tuple[float, Any]:
        state = self._state | {"step": self._state["step"] + np.float32(1), "target": y, "lr": np.float32(lr)}
        feeds = {v.name: state.get(v.name, state.get(f"w:{v.name}", x)) for v in self.model.inputs}
        loss, output, *new = self.model.run(None, feeds)
        self._state = dict(zip(self.names[2:], new, strict=True)) | {"step": state["step"]}
        return float(loss), output
