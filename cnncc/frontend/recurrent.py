"""Recurrent cells, what one of their steps computes, and the loop over the steps of one direction.

The state holds those of all steps: [steps + 1, batch, hidden] (axis=1: the batch first), of an LSTM twice as
wide. The initial one comes first, where a direction goes back last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from cnncc.frontend.onnx_moves import cut, reshaped
from cnncc.frontend.onnx_node import Maker

Function: TypeAlias = Callable[[Maker, str, str], str]
Step: TypeAlias = Callable[..., tuple[str, ...]]
"""Of a cell, where to make nodes, inputs [batch, gates * hidden] and states: the new states."""


@dataclass(frozen=True)
class Cell:
    """What the steps of one direction share: R [hidden, gates * hidden], its bias, the peepholes.

    `order` says where the gates are that a step takes one after the other.
    """

    hidden: int
    order: Sequence[int]
    functions: Sequence[Function]
    weights: str
    bias: str | None
    peepholes: Sequence[str]
    flag: bool

    def gates(self, c: Maker, x: str, step: str) -> Iterator[str]:
        """The parts of [batch, gates * hidden], one for each gate that there is."""
        for gate in self.order[:int(c.shape(x)[1]) // self.hidden]:
            low = gate * self.hidden
            yield cut(c, x, {1: range(low, low + self.hidden)}, f"{step}{gate}")

    def peep(self, c: Maker, i: int, gate: str, state: str) -> str:
        """A gate that also sees the cell's state."""
        if not self.peepholes:
            return gate
        return c.emit("add", [gate, c.emit("mul", [state, self.peepholes[i]], f"peep{i}")], f"peeped{i}")


def rnn(k: Cell, c: Maker, x: str, h: str, *_: str) -> tuple[str, ...]:
    gate = c.emit("add", [c.emit("matmul", [h, k.weights], "product"), x], "gate")
    return k.functions[0](c, gate, "h"),


def gru(k: Cell, c: Maker, x: str, h: str, *_: str) -> tuple[str, ...]:
    """With the flag (linear_before_reset) the reset gate multiplies a product, else what is multiplied."""
    f, g = k.functions
    xz, xr, xn = k.gates(c, x, "x")
    if k.flag:
        product = c.emit("matmul", [h, k.weights], "product")
        hz, hr, hn = k.gates(c, c.emit("add", [product, k.bias], "biased") if k.bias else product, "h")
    else:
        first, last = (cut(c, k.weights, {1: r}, "weights") for r in
                       (range(2 * k.hidden), range(2 * k.hidden, 3 * k.hidden)))
        hz, hr = k.gates(c, c.emit("matmul", [h, first], "product"), "h")
    z, r = (f(c, c.emit("add", [a, b], f"{name}gate"), name) for a, b, name in ((xz, hz, "z"), (xr, hr, "r")))
    if k.flag:
        reset = c.emit("mul", [r, hn], "reset")
    else:
        reset = c.emit("matmul", [c.emit("mul", [r, h], "reset"), last], "resetproduct")
    n = g(c, c.emit("add", [xn, reset], "ngate"), "n")
    kept = c.emit("mul", [z, c.emit("sub", [h, n], "change")], "kept")
    return c.emit("add", [n, kept], "h"),


def lstm(k: Cell, c: Maker, x: str, h: str, state: str) -> tuple[str, ...]:
    """With the flag (input_forget) the forget gate is what the input gate leaves."""
    f, g, out = k.functions
    total = c.emit("add", [c.emit("matmul", [h, k.weights], "product"), x], "sum")
    gi, go, gf, gc = k.gates(c, total, "gate")
    i = f(c, k.peep(c, 0, gi, state), "i")
    forget = f(c, k.peep(c, 2, gf, state), "f") if not k.flag else \
        c.emit("affine", [i], "f", alpha=-1.0, beta=1.0)
    new = c.emit("mul", [i, g(c, gc, "candidate")], "new")
    state = c.emit("add", [c.emit("mul", [forget, state], "kept"), new], "c")
    o = f(c, k.peep(c, 1, go, state), "o")
    return c.emit("mul", [o, out(c, state, "squashed")], "h"), state


def initial(c: Maker, states: Sequence[str], axis: int, place: int, steps: int) -> str:
    """The state of a loop over so many steps with these, [1, batch, hidden], side by side at `place`."""
    shape = c.shape(states[0])
    hidden, base = int(shape[2]), ""
    whole = tuple(steps + 1 if a == axis else e for a, e in enumerate((*shape[:2], len(states) * hidden)))
    for i, v in enumerate(states):
        at = {axis: place, 2: i * hidden}
        base = c.emit("place", [v], "states", base, begin=tuple(at.get(a, 0) for a in range(3)),
                      steps=(1, 1, 1), shape=whole)
    return base


def turn(c: Maker, step: Step, cell: Cell, axis: int, at: int, back: bool, inputs: str, going: str | None,
         state: str) -> str:
    """The state after step `at`; of the batch it is over for those that aren't `going` on."""
    batch, states = c.shape(state)[1 - axis], int(c.shape(state)[2]) // cell.hidden

    def now(v: str, place: int, name: str, low: int = 0, size: int | None = None) -> str:
        width = int(c.shape(v)[2]) if size is None else size
        part = cut(c, v, {axis: range(place, place + 1), 2: range(low, low + width)}, name)
        return reshaped(c, part, (batch, width), name)
    old = [now(state, at + back, "state", i * cell.hidden, cell.hidden) for i in range(states)]
    new = list(step(cell, c, now(inputs, at, "input"), *old))
    if going is not None:
        known = now(going, at, "going")
        new = [c.emit("where", [known, a, b], "kept") for a, b in zip(new, old, strict=True)]
    for i, v in enumerate(new):
        place = {axis: at + (not back), 2: i * cell.hidden}
        v = reshaped(c, v, (batch, 1, cell.hidden) if axis else (1, batch, cell.hidden), "part")
        state = c.emit("place", [v], "states", state, shape=c.shape(state), steps=(1, 1, 1),
                       begin=tuple(place.get(a, 0) for a in range(3)))
    return state
