"""Importer rows for RNN, GRU and LSTM: a loop over the steps, after one product of all their inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cnncc.frontend import recurrent
from cnncc.frontend.onnx_elementwise import activation, of
from cnncc.frontend.onnx_moves import cut, fixed, reshaped
from cnncc.frontend.onnx_node import Call, Maker, Row
from cnncc.frontend.recurrent import Cell, Function, Step, gru, lstm, rnn
from cnncc.ir.types import NUMPY


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
        def apply(c: Maker, x: str, step: str) -> str:
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


def _initial(c: Call, states: int, d: int, ways: int, axis: int, shape: tuple[int | str, int]) -> list[str]:
    """The initial states of one direction, zero where none are given."""
    parts = []
    for i in range(5, 5 + states):
        if c.has(i):
            x, wanted = c.value(i), (*shape[:axis], ways, *shape[axis:])
            c.expect(c.shape(x) == wanted,
                     f"input {i} has the shape {list(c.shape(x))}, expected {list(wanted)}")
            parts.append(cut(c, x, {axis: range(d, d + 1)}, "initial"))
        else:
            parts.append(c.emit("fill", [], "zero", shape=(*shape[:axis], 1, *shape[axis:]), value=0,
                                dtype=c.dtype(c.value(0))))
    return parts


def _alive(c: Call, axis: int, steps: int, batch: int | str) -> str | None:
    """Which of the batch's sequences are as long as each step; None: all of them always."""
    if not c.has(4) or (not isinstance(x := c.operand(4), str) and (x >= steps).all()):
        return None
    given = c.value(4)
    c.expect(c.shape(given) == (batch,), f"input 4 has the shape {list(c.shape(given))}, expected [{batch}]")
    lengths = c.emit("reshape", [given], "lengths", shape=(batch, 1, 1) if axis else (1, batch, 1))
    numbers = np.arange(steps, dtype=NUMPY[c.dtype(given)]).reshape((1, -1, 1) if axis else (-1, 1, 1))
    return c.emit("gt", [lengths, c.const(numbers, "number")], "alive")


def _recurrent(step: Step, gates: int, defaults: Sequence[bytes],
               flag: str = "") -> Row:
    """Y [steps, directions, batch, hidden], then the last of each state; layout=1 has the batch first."""
    states = 2 if step is lstm else 1

    def direction(c: Call, d: int, back: bool, ways: int, functions: Sequence[Function], alive: str | None
                  ) -> str:
        """The states after and before all steps."""
        axis = int(c.flag("layout"))
        x, hidden = c.value(0), c.attribute("hidden_size", "i", int(c.shape(c.value(2))[-1]))
        batch, steps, features = c.shape(x)[1 - axis], int(c.shape(x)[axis]), int(c.shape(x)[2])
        size = gates * hidden
        w, r = (_matrix(c, i, d, size, n, ways, "weights") for i, n in ((1, features), (2, hidden)))
        biases = _vectors(c, 3, d, 2, size, ways, "bias")
        cell = Cell(hidden, range(gates), functions, r, biases[1] if biases else None,
                     tuple(_vectors(c, 7, d, 3, hidden, ways, "peephole") if states == 2 else ()),
                     bool(flag) and c.flag(flag))
        inputs = c.emit("matmul", [x, w], f"inputs{d}")
        for b in biases[:1] if step is gru and cell.flag else biases:
            inputs = c.emit("add", [inputs, b], f"inputs{d}")
        at = steps - 1 if back else 0
        whole = [r, *([cell.bias] if cell.bias else ()), *cell.peepholes]

        def turn(own: Call, moving: Sequence[str], whole: Sequence[str], state: str) -> str:
            weights, *rest = whole
            known = replace(cell, weights=weights, bias=rest[0] if cell.bias else None,
                            peepholes=tuple(rest[bool(cell.bias):]))
            return recurrent.turn(own, step, known, axis, at, back, moving[0],
                                  moving[1] if alive else None, state)
        first = _initial(c, states, d, ways, axis, (batch, hidden))
        state = recurrent.initial(c, first, axis, steps * back, steps)
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
    "RNN": _recurrent(rnn, 1, (b"tanh",)),
    "GRU": _recurrent(gru, 3, (b"sigmoid", b"tanh"), "linear_before_reset"),
    "LSTM": _recurrent(lstm, 4, (b"sigmoid", b"tanh", b"tanh"), "input_forget"),
}
