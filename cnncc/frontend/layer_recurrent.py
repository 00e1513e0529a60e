"""Rows of layers over sequences [batch, steps, features]: RNN, GRU and LSTM as PyTorch's, by its names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cnncc.frontend import recurrent
from cnncc.frontend.files import expect
from cnncc.frontend.layers import Count, Flag, Layer, row, show
from cnncc.frontend.onnx_moves import cut
from cnncc.frontend.recurrent import Cell, Function, Step, gru, lstm, rnn
from cnncc.ir.graph import Attr, Builder
from cnncc.ir.types import Extent

STEPS = 1                   # the axis of steps
FUNCTIONS = {rnn: ("tanh",), gru: ("sigmoid", "tanh"), lstm: ("sigmoid", "tanh", "tanh")}


@dataclass(frozen=True)
class _Nodes:
    """The nodes of a layer that come before its last ones, or in a loop."""

    name: str
    graph: Builder

    def shape(self, x: str) -> tuple[Extent, ...]:
        return self.graph.type(x).shape

    def emit(self, op: str, inputs: Sequence[str], step: str = "", base: str = "", **attrs: Attr) -> str:
        return self.graph.op(op, inputs, f"{self.name}.{step}", (self.name,), base, **attrs)


def _function(op: str) -> Function:
    return lambda c, x, step: c.emit(op, [x], step)


def _direction(b: Layer, x: str, step: Step, order: Sequence[int], out: int, back: bool, bias: bool) -> str:
    """The states after and before all steps."""
    batch, steps, features = b.shape(x)
    c, size, states = _Nodes(b.name, b.graph), len(order) * out, 1 + (step is lstm)

    def weight(name: str, *shape: int) -> str:
        name += "_l0_reverse" if back else "_l0"
        return b.const(name, b.parameter(name, shape, width=out ** -0.5))
    w, r = (c.emit("transpose", [weight(name, size, columns)], "turned", perm=(1, 0))
            for name, columns in (("weight_ih", int(features)), ("weight_hh", out)))
    inputs, given = c.emit("matmul", [x, w], "inputs"), []
    if bias:
        inputs = c.emit("add", [inputs, weight("bias_ih", size)], "inputs")
        given = [weight("bias_hh", size)]
    functions = [*map(_function, FUNCTIONS[step])]
    cell = Cell(out, order, functions, r, given[0] if given else None, (), step is gru)
    if given and step is not gru:
        inputs = c.emit("add", [inputs, given[0]], "inputs")
    zero = c.emit("fill", [], "zero", shape=(batch, 1, out), value=0.0, dtype="f32")
    state = recurrent.initial(c, [zero] * states, STEPS, int(steps) * back, int(steps))

    def turn(body: Builder, names: Sequence[str]) -> str:
        x, weights, *rest, state = names
        known = replace(cell, weights=weights, bias=rest[0] if rest else None)
        at = (int(steps) - 1) * back
        return recurrent.turn(replace(c, graph=body), step, known, STEPS, at, back, x, None, state)
    move = (STEPS, -1 if back else 1)
    whole = [r, *(given if step is gru else ())]
    return b.graph.loop(int(steps), [(inputs, move), *((v, None) for v in whole)], (state, move),
                        f"{b.name}.{'backward' if back else 'forward'}", (b.name,), turn)


def _recurrent(step: Step, order: Sequence[int]) -> Callable[..., str]:
    def make(b: Layer, x: str, *, out: Count, reverse: Flag = False, bidirectional: Flag = False,
             last: Flag = False, bias: Flag = True) -> str:
        """States of `out` numbers after all steps, or the last ones; those of two directions side by side."""
        shape = b.shape(x)
        expect(len(shape) == 3 and isinstance(shape[STEPS], int),
               f"expected [N, steps, features], its input is {show(shape)}")
        expect(not (reverse and bidirectional), "reverse: a bidirectional layer has both directions")
        steps, parts = int(shape[STEPS]), []
        c = _Nodes(b.name, b.graph)
        for back in [False, True] if bidirectional else [reverse]:
            state = _direction(b, x, step, order, out, back, bias)
            end = 0 if back else steps
            places = range(end, end + 1) if last else range(not back, steps + (not back))
            parts.append(cut(c, state, {STEPS: places, 2: range(out)}, "states"))
        y = b.emit("concat", *parts, axis=2) if bidirectional else parts[0]
        batch, number, width = b.shape(y)
        return b.emit("reshape", y, shape=(batch, width) if last else (batch, number, width))
    return make


ROWS = (
    row("rnn", _recurrent(rnn, (0,))),
    row("gru", _recurrent(gru, (1, 0, 2))),
    row("lstm", _recurrent(lstm, (0, 3, 1, 2))),
)
