"""Importer rows for RNN, GRU and LSTM: a node for each direction, of which the outputs are parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from cnncc.frontend.onnx_elementwise import activation, of
from cnncc.frontend.onnx_moves import cut, fixed, reshaped
from cnncc.frontend.onnx_node import Call, Row
from cnncc.ir.ops.recurrent import GATES, states_of
from cnncc.ir.types import NUMPY

Function: TypeAlias = tuple[str, tuple[tuple[str, float], ...]]
"""An activation: the op and its attributes."""


def _functions(c: Call, defaults: Sequence[bytes], ways: int) -> list[Function]:
    """The activations of all directions; each takes as many of the node's numbers as it has."""
    names = [*c.attribute("activations", "strings", ())] or [*defaults] * ways
    c.expect(len(names) == len(defaults) * ways,
             f"has {len(names)} activations, expected {len(defaults) * ways}")
    given = {n: list(c.attribute(f"activation_{n}", "floats", ())) for n in ("alpha", "beta")}
    made = (activation(c, name, lambda n: given[n].pop(0) if given.get(n) else None) for name in names)
    return [(op, tuple(numbers.items())) for op, numbers in made]


def _own(c: Call, i: int, d: int, shape: Sequence[int | str], axis: int, step: str) -> str:
    """The part of operand i that is direction d's, one of those along an axis."""
    x = c.value(i)
    c.expect(c.shape(x) == tuple(shape),
             f"input {i} has the shape {list(c.shape(x))}, expected {list(shape)}")
    return cut(c, x, {axis: range(d, d + 1)}, step)


def _alive(c: Call, axis: int, steps: int, batch: int | str) -> str | None:
    """Which of the batch's sequences are as long as each step; None: all of them always."""
    if not c.has(4) or (not isinstance(x := c.operand(4), str) and (x >= steps).all()):
        return None
    given = c.value(4)
    c.expect(c.shape(given) == (batch,), f"input 4 has the shape {list(c.shape(given))}, expected [{batch}]")
    lengths = c.emit("reshape", [given], "lengths", shape=(batch, 1, 1) if axis else (1, batch, 1))
    numbers = np.arange(steps, dtype=NUMPY[c.dtype(given)]).reshape((1, -1, 1) if axis else (-1, 1, 1))
    return c.emit("gt", [lengths, c.const(numbers, "number")], "alive")


def _recurrent(cell: str, defaults: Sequence[bytes], flag: str = "") -> Row:
    """Y [steps, directions, batch, hidden], then the last of each state; layout=1 has the batch first."""
    states = states_of(cell)

    def direction(c: Call, d: int, back: bool, ways: int, functions: Sequence[Function], alive: str | None
                  ) -> str:
        """The states after and before all steps."""
        axis = int(c.flag("layout"))
        x, hidden = c.value(0), c.attribute("hidden_size", "i", int(c.shape(c.value(2))[-1]))
        batch, features, size = c.shape(x)[1 - axis], int(c.shape(x)[2]), GATES[cell] * hidden
        operands = [x]
        for i, columns in ((1, features), (2, hidden)):
            w = _own(c, i, d, (ways, size, columns), 0, "weights")
            operands.append(reshaped(c, w, (size, columns), "weights"))
        letters = ""
        if c.has(3):
            both = _own(c, 3, d, (ways, 2 * size), 0, "bias")
            letters += "bd"
            parts = (cut(c, both, {1: range(low, low + size)}, "bias") for low in (0, size))
            operands += [reshaped(c, part, (size,), "bias") for part in parts]
        if alive:
            letters += "n"
            operands.append(c.value(4))
        shape = (batch, ways, hidden) if axis else (ways, batch, hidden)
        for i, letter in enumerate("hc"[:states], 5):
            if c.has(i):
                letters += letter
                operands.append(_own(c, i, d, shape, axis, "initial"))
        if states == 2 and c.has(7):
            letters += "p"
            peepholes = _own(c, 7, d, (ways, 3 * hidden), 0, "peephole")
            operands.append(reshaped(c, peepholes, (3 * hidden,), "peephole"))
        return c.emit("recurrent", operands, str(d), cell=cell, axis=axis, back=back, parts=letters,
                      order=tuple(range(GATES[cell])), functions=tuple(functions),
                      clip=float(c.attribute("clip", "f", 0.0)), flag=bool(flag) and bool(c.flag(flag)))

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
    "RNN": _recurrent("rnn", (b"tanh",)),
    "GRU": _recurrent("gru", (b"sigmoid", b"tanh"), "linear_before_reset"),
    "LSTM": _recurrent("lstm", (b"sigmoid", b"tanh", b"tanh"), "input_forget"),
}
