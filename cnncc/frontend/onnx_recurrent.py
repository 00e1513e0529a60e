"""Importer rows for RNN, GRU and LSTM: a counted loop over the steps, after one product of all their inputs.

Its state holds those of all steps: [steps + 1, batch, hidden] (layout=1: the batch first), of an LSTM twice
as wide. The initial one comes first, where a direction goes back last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from cnncc.frontend.onnx_elementwise import activation, of
from cnncc.frontend.onnx_moves import cut, fixed, reshaped
from cnncc.frontend.onnx_node import Call, Row
from cnncc.ir.types import NUMPY

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


def _initial(c: Call, states: int, d: int, ways: int, axis: int, shape: tuple[int | str, int], steps: int,
             back: bool) -> str:
    """The loop's state with the initial states of one direction in it, zero where none are given."""
    hidden, parts = shape[1], []
    whole = (*shape[:axis], steps + 1, *shape[axis:-1], states * hidden)
    for i in range(5, 5 + states):
        if c.has(i):
            x, wanted = c.value(i), (*shape[:axis], ways, *shape[axis:])
            c.expect(c.shape(x) == wanted,
                     f"input {i} has the shape {list(c.shape(x))}, expected {list(wanted)}")
            parts.append(cut(c, x, {axis: range(d, d + 1)}, "initial"))
        else:
            parts.append(c.emit("fill", [], "zero", shape=(*shape[:axis], 1, *shape[axis:]), value=0,
                                dtype=c.dtype(c.value(0))))
    base = ""
    for i, part in enumerate(parts):
        at = {axis: steps * back, 2: i * hidden}
        base = c.emit("place", [part], "states", base, begin=tuple(at.get(a, 0) for a in range(3)),
                      steps=(1, 1, 1), shape=whole)
    return base


def _alive(c: Call, axis: int, steps: int, batch: int | str) -> str | None:
    """Which of the batch's sequences are as long as each step; None: all of them always."""
    if not c.has(4) or (not isinstance(x := c.operand(4), str) and (x >= steps).all()):
        return None
    given = c.value(4)
    c.expect(c.shape(given) == (batch,), f"input 4 has the shape {list(c.shape(given))}, expected [{batch}]")
    lengths = c.emit("reshape", [given], "lengths", shape=(batch, 1, 1) if axis else (1, batch, 1))
    numbers = np.arange(steps, dtype=NUMPY[c.dtype(given)]).reshape((1, -1, 1) if axis else (-1, 1, 1))
    return c.emit("gt", [lengths, c.const(numbers, "number")], "alive")


def _recurrent(step: Callable[..., tuple[str, ...]], gates: int, defaults: Sequence[bytes],
               flag: str = "") -> Row:
    """Y [steps, directions, batch, hidden], then the last of each state; layout=1 has the batch first."""
    states = 2 if step is _lstm else 1

    def direction(c: Call, d: int, back: bool, ways: int, functions: Sequence[Function], alive: str | None
                  ) -> str:
        """The states after and before all steps."""
        axis = int(c.flag("layout"))
        x, hidden = c.value(0), c.attribute("hidden_size", "i", int(c.shape(c.value(2))[-1]))
        batch, steps, features = c.shape(x)[1 - axis], int(c.shape(x)[axis]), int(c.shape(x)[2])
        size = gates * hidden
        w, r = (_matrix(c, i, d, size, n, ways, "weights") for i, n in ((1, features), (2, hidden)))
        biases = _vectors(c, 3, d, 2, size, ways, "bias")
        cell = _Cell(hidden, functions, r, biases[1] if biases else None,
                     tuple(_vectors(c, 7, d, 3, hidden, ways, "peephole") if states == 2 else ()),
                     bool(flag) and c.flag(flag))
        inputs = c.emit("matmul", [x, w], f"inputs{d}")
        for b in biases[:1] if step is _gru and cell.flag else biases:
            inputs = c.emit("add", [inputs, b], f"inputs{d}")
        at = steps - 1 if back else 0
        whole = [r, *([cell.bias] if cell.bias else ()), *cell.peepholes]

        def turn(own: Call, moving: Sequence[str], whole: Sequence[str], state: str) -> str:
            def now(v: str, place: int, name: str, low: int = 0, size: int | None = None) -> str:
                width = int(own.shape(v)[2]) if size is None else size
                part = cut(own, v, {axis: range(place, place + 1), 2: range(low, low + width)}, name)
                return reshaped(own, part, (batch, width), name)
            weights, *rest = whole
            known = replace(cell, weights=weights, bias=rest[0] if cell.bias else None,
                            peepholes=tuple(rest[bool(cell.bias):]))
            old = [now(state, at + back, "state", i * hidden, hidden) for i in range(states)]
            new = list(step(known, own, now(moving[0], at, "input"), *old))
            for v in moving[1:]:
                going = now(v, at, "going")
                new = [own.emit("where", [going, a, b], "kept") for a, b in zip(new, old, strict=True)]
            for i, v in enumerate(new):
                place = {axis: at + (not back), 2: i * hidden}
                v = own.emit("reshape", [v], "part", shape=(batch, 1, hidden) if axis else (1, batch, hidden))
                state = own.emit("place", [v], "states", state, shape=own.shape(state), steps=(1, 1, 1),
                                 begin=tuple(place.get(a, 0) for a in range(3)))
            return state
        state = _initial(c, states, d, ways, axis, (batch, hidden), steps, back)
        moving = [(v, axis, -1 if back else 1) for v in (inputs, *([alive] if alive else ()), state)]
        return c.named(f"{c.out}.{d}").loop(steps, moving[:-1], whole, moving[-1], turn)

    def convert(c: Call) -> tuple[str, ...]:
        x, axis, way = of(c, c.value(0)), int(c.flag("layout")), c.attribute("direction", "s", b"forward")
        c.expect(way in (b"forward", b"reverse", b"bidirectional"), f"direction is {way[:60]!r}")
        c.expect(len(c.shape(x)) == len(c.shape(c.value(2))) == 3, "its operands are no [., ., .]")
        ways, (steps,) = 1 + (way == b"bidirectional"), fixed(c, c.shape(x), (axis,))
        functions, alive = _functions(c, defaults, ways), _alive(c, axis, steps, c.shape(x)[1 - axis])
        own, backs = len(defaults), [way == b"reverse", True][:ways]
        made = [direction(c, d, back, ways, functions[d * own:(d + 1) * own], alive)
                for d, back in enumerate(backs)]
        hidden = int(c.shape(made[0])[2]) // states
        ends = [0 if back else steps for back in backs]

        def joined(out: int, parts: Sequence[str]) -> str:
            """The values of all directions along a new axis after the steps', or in their place."""
            own = c.named((*c.node.output, *[""] * 3)[out] or c.out)
            if out:
                return own.emit("concat", parts, axis=axis) if ways > 1 else parts[0]
            shapes = [c.shape(p) for p in parts]
            views = [own.emit("reshape", [p], "part", shape=(*s[:1 + axis], 1, *s[1 + axis:]))
                     for p, s in zip(parts, shapes, strict=True)]
            return own.emit("concat", views, axis=1 + axis) if ways > 1 else views[0]

        def part(d: int, i: int, places: range, out: int) -> str:
            own = c.named((*c.node.output, *[""] * 3)[out] or c.out)
            return cut(own, made[d], {axis: places, 2: range(i * hidden, (i + 1) * hidden)}, f"part{d}")
        y = [part(d, 0, range(not back, steps + (not back)), 0) for d, back in enumerate(backs)]
        if alive:
            zero = c.const(np.zeros((1, 1, 1), NUMPY[c.dtype(x)]), "zero")
            y = [c.emit("where", [alive, v, zero], f"known{d}") for d, v in enumerate(y)]
        last = (joined(1 + i, [part(d, i, range(end, end + 1), 1 + i) for d, end in enumerate(ends)])
                for i in range(states))
        return joined(0, y), *last
    return Row(convert, 3, 6 if states == 1 else 8)


ROWS = {
    "RNN": _recurrent(_rnn, 1, (b"tanh",)),
    "GRU": _recurrent(_gru, 3, (b"sigmoid", b"tanh"), "linear_before_reset"),
    "LSTM": _recurrent(_lstm, 4, (b"sigmoid", b"tanh", b"tanh"), "input_forget"),
}
