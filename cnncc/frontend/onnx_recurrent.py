"""Importer rows for RNN, GRU and LSTM: unrolled, with one product of all steps' inputs before the steps.

Each step is the same ops at other places of the same values, so that all steps call the same kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from cnncc.frontend.onnx_elementwise import activation, of
from cnncc.frontend.onnx_moves import cut, fixed, reshaped
from cnncc.frontend.onnx_node import Call, Row, support
from cnncc.ir.types import NUMPY

MAX_STEPS = 1 << 11     # of all nodes of a model, those of both directions counted

Function: TypeAlias = Callable[[Call, str, str], str]


@dataclass(frozen=True)
class _Cell:
    """What the steps of one direction share: R [hidden, gates * hidden], its bias, the peepholes."""

    hidden: int
    functions: Sequence[Function]
    weights: str
    bias: str | None
    peepholes: Sequence[str]
    flag: bool

    def gates(self, c: Call, x: str, step: str) -> Iterator[str]:
        """The parts of [batch, gates * hidden], one for each gate."""
        for low in range(0, int(c.shape(x)[1]), self.hidden):
            yield cut(c, x, {1: range(low, low + self.hidden)}, f"{step}{low // self.hidden}")

    def peep(self, c: Call, i: int, gate: str, state: str) -> str:
        """A gate that also sees the cell's state."""
        if not self.peepholes:
            return gate
        return c.emit("add", [gate, c.emit("mul", [state, self.peepholes[i]], f"peep{i}")], f"peeped{i}")


def _rnn(k: _Cell, c: Call, x: str, h: str, *_: str) -> tuple[str, ...]:
    gate = c.emit("add", [c.emit("matmul", [h, k.weights], "product"), x], "gate")
    return k.functions[0](c, gate, "h"),


def _gru(k: _Cell, c: Call, x: str, h: str, *_: str) -> tuple[str, ...]:
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


def _lstm(k: _Cell, c: Call, x: str, h: str, state: str) -> tuple[str, ...]:
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


def _functions(c: Call, defaults: Sequence[bytes], ways: int) -> list[Function]:
    """The activations of all directions; each takes as many of the node's numbers as it has.

    As in ONNX Runtime what goes into gates is clipped, but not an LSTM's state: the third one takes it.
    """
    names = [*c.attribute("activations", "strings", ())] or [*defaults] * ways
    c.expect(len(names) == len(defaults) * ways,
             f"has {len(names)} activations, expected {len(defaults) * ways}")
    given = {n: list(c.attribute(f"activation_{n}", "floats", ())) for n in ("alpha", "beta")}
    clip = c.attribute("clip", "f", 0.0)

    def function(name: bytes, clips: bool) -> Function:
        op, numbers = activation(c, name, lambda n: given[n].pop(0) if given.get(n) else None)
        def apply(c: Call, x: str, step: str) -> str:
            x = c.emit("clip", [x], f"{step}clip", low=-clip, high=clip) if clips else x
            return c.emit(op, [x], step, **numbers)
        return apply
    return [function(n, clip > 0 and i % len(defaults) < 2) for i, n in enumerate(names)]


def _matrix(c: Call, i: int, d: int, rows: int, columns: int, ways: int, step: str) -> str:
    """W or R of one direction, turned: [columns, rows]."""
    x = c.value(i)
    c.expect(c.shape(x) == (ways, rows, columns),
             f"input {i} has the shape {list(c.shape(x))}, expected {[ways, rows, columns]}")
    x = reshaped(c, cut(c, x, {0: range(d, d + 1)}, step), (rows, columns), step)
    return c.emit("transpose", [x], step, perm=(1, 0))


def _vectors(c: Call, i: int, d: int, count: int, size: int, ways: int, step: str) -> list[str]:
    """The `count` vectors that a row of operand i holds; none where it is missing."""
    if not c.has(i):
        return []
    x = c.value(i)
    c.expect(c.shape(x) == (ways, count * size),
             f"input {i} has the shape {list(c.shape(x))}, expected {[ways, count * size]}")
    parts = (cut(c, x, {0: range(d, d + 1), 1: range(n * size, (n + 1) * size)}, step) for n in range(count))
    return [reshaped(c, p, (size,), step) for p in parts]


def _states(c: Call, first: int, count: int, d: int, ways: int, axis: int, shape: tuple[int | str, int]
            ) -> list[str]:
    """The initial states [batch, hidden] of one direction, zero where they aren't given."""
    result = []
    for i in range(first, first + count):
        if c.has(i):
            x, wanted = c.value(i), (*shape[:axis], ways, *shape[axis:])
            c.expect(c.shape(x) == wanted,
                     f"input {i} has the shape {list(c.shape(x))}, expected {list(wanted)}")
            result.append(reshaped(c, cut(c, x, {axis: range(d, d + 1)}, "initial"), shape, "initial"))
        else:
            result.append(c.const(np.zeros((1, shape[1]), NUMPY[c.dtype(c.value(0))]), "zero"))
    return result


def _masks(c: Call, steps: int, batch: int | str) -> list[str] | None:
    """For each step which of the batch's sequences [batch, 1] are that long; None: all of them always."""
    if not c.has(4) or (not isinstance(x := c.operand(4), str) and (x >= steps).all()):
        return None
    given = c.value(4)
    c.expect(c.shape(given) == (batch,), f"input 4 has the shape {list(c.shape(given))}, expected [{batch}]")
    lengths = c.emit("reshape", [given], "lengths", shape=(batch, 1))
    numbers = (np.full((1, 1), t, NUMPY[c.dtype(given)]) for t in range(steps))
    return [c.emit("gt", [lengths, c.const(n, "number")], f"alive{t}") for t, n in enumerate(numbers)]


def _recurrent(step: Callable[..., tuple[str, ...]], gates: int, defaults: Sequence[bytes],
               flag: str = "") -> Row:
    """Y [steps, directions, batch, hidden], then the last of each state; layout=1 has the batch first."""
    states = 2 if step is _lstm else 1

    def direction(c: Call, d: int, back: bool, ways: int, functions: Sequence[Function],
                  masks: Sequence[str] | None) -> tuple[list[str], list[str]]:
        axis = int(c.flag("layout"))
        x, hidden = c.value(0), c.attribute("hidden_size", "i", int(c.shape(c.value(2))[-1]))
        batch, features = c.shape(x)[1 - axis], int(c.shape(x)[2])
        size = gates * hidden
        w, r = (_matrix(c, i, d, size, n, ways, "weights") for i, n in ((1, features), (2, hidden)))
        biases = _vectors(c, 3, d, 2, size, ways, "bias")
        cell = _Cell(hidden, functions, r, biases[1] if biases else None,
                     _vectors(c, 7, d, 3, hidden, ways, "peephole") if states == 2 else (),
                     bool(flag) and c.flag(flag))
        inputs = c.emit("matmul", [x, w], f"inputs{d}")
        for b in biases[:1] if step is _gru and cell.flag else biases:
            inputs = c.emit("add", [inputs, b], f"inputs{d}")
        values = _states(c, 5, states, d, ways, axis, (batch, hidden))
        outputs: dict[int, str] = {}
        for t in range(int(c.shape(x)[axis]))[::-1 if back else 1]:
            own = c.named(f"{c.out}.{d}.{t}")
            part = reshaped(own, cut(own, inputs, {axis: range(t, t + 1)}, "input"), (batch, size), "view")
            old, values = values, list(step(cell, own, part, *values))
            outputs[t] = values[0]
            if masks:
                values = [own.emit("where", [masks[t], new, v], "kept")
                          for new, v in zip(values, old, strict=True)]
                zero = own.const(np.zeros((1, 1), NUMPY[c.dtype(x)]), "zero")
                outputs[t] = own.emit("where", [masks[t], outputs[t], zero], "output")
        return [outputs[t] for t in sorted(outputs)], values

    def convert(c: Call) -> tuple[str, ...]:
        x, axis, way = of(c, c.value(0)), int(c.flag("layout")), c.attribute("direction", "s", b"forward")
        c.expect(way in (b"forward", b"reverse", b"bidirectional"), f"direction is {way[:60]!r}")
        c.expect(len(c.shape(x)) == len(c.shape(c.value(2))) == 3, "its operands are no [., ., .]")
        ways, (steps,) = 1 + (way == b"bidirectional"), fixed(c, c.shape(x), (axis,))
        c.scope.steps += ways * steps
        support(c.scope.steps <= MAX_STEPS, f"the model has {c.scope.steps:,} steps of recurrent nodes, "
                                            f"which are unrolled: at most {MAX_STEPS:,}")
        functions, masks = _functions(c, defaults, ways), _masks(c, steps, c.shape(x)[1 - axis])
        own = len(defaults)
        made = [direction(c, d, way == b"reverse" or d == 1, ways, functions[d * own:(d + 1) * own], masks)
                for d in range(ways)]

        def joined(out: int, parts: Sequence[str], shape: tuple[int, ...]) -> str:
            """States [batch, hidden] along a new axis, seen as one or two."""
            own = c.named((*c.node.output, *[""] * 3)[out] or c.out)
            batch, hidden = c.shape(parts[-1])
            view = (batch, 1, hidden) if axis else (1, batch, hidden)
            views = [own.emit("reshape", [p], "part", shape=view) for p in parts]
            y = own.emit("concat", views, "joined", axis=axis) if len(views) > 1 else views[0]
            return reshaped(own, y, (batch, *shape, hidden) if axis else (*shape, batch, hidden))
        all_steps = [outputs[t] for t in range(steps) for outputs, _ in made]
        last = (joined(1 + s, [values[s] for _, values in made], (ways,)) for s in range(states))
        return joined(0, all_steps, (steps, ways)), *last
    return Row(convert, 3, 6 if states == 1 else 8)


ROWS = {
    "RNN": _recurrent(_rnn, 1, (b"tanh",)),
    "GRU": _recurrent(_gru, 3, (b"sigmoid", b"tanh"), "linear_before_reset"),
    "LSTM": _recurrent(_lstm, 4, (b"sigmoid", b"tanh", b"tanh"), "input_forget"),
}
