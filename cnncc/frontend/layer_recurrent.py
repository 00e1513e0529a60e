"""Rows of layers over sequences [batch, steps, features]: RNN, GRU and LSTM as PyTorch's, by its names."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.frontend.files import expect
from cnncc.frontend.layers import Count, Flag, Layer, row, show
from cnncc.ir.ops.recurrent import GATES

STEPS = 1                   # the axis of steps
CELLS = {"rnn": ((0,), ("tanh",)), "gru": ((1, 0, 2), ("sigmoid", "tanh")),
         "lstm": ((0, 3, 1, 2), ("sigmoid", "tanh", "tanh"))}
"""Where PyTorch has the gates, and what they go through."""


def _direction(b: Layer, x: str, cell: str, out: int, back: bool, bias: bool) -> str:
    """The states of all steps and before."""
    size, (order, functions) = GATES[cell] * out, CELLS[cell]
    shapes: dict[str, tuple[int, ...]] = {"weight_ih": (size, int(b.shape(x)[2])), "weight_hh": (size, out)}
    shapes |= {"bias_ih": (size,), "bias_hh": (size,)} if bias else {}
    called = {name: f"{name}_l0{'_reverse' * back}" for name in shapes}
    weights = [b.const(called[name], b.parameter(called[name], shape, width=out ** -0.5))
               for name, shape in shapes.items()]
    return b.emit("recurrent", x, *weights, cell=cell, axis=STEPS, back=back, parts="bd" * bias, order=order,
                  functions=tuple((name, ()) for name in functions), clip=0.0, flag=cell == "gru")


def _recurrent(cell: str) -> Callable[..., str]:
    def make(b: Layer, x: str, *, out: Count, reverse: Flag = False, bidirectional: Flag = False,
             last: Flag = False, bias: Flag = True) -> str:
        """States of `out` numbers after all steps, or the last ones; those of two directions side by side."""
        shape = b.shape(x)
        expect(len(shape) == 3 and isinstance(shape[STEPS], int),
               f"expected [N, steps, features], its input is {show(shape)}")
        expect(not (reverse and bidirectional), "reverse: a bidirectional layer has both directions")
        parts, steps = [], int(shape[STEPS])
        for back in [False, True] if bidirectional else [reverse]:
            states = _direction(b, x, cell, out, back, bias)
            begin = (0, 0 if back else steps if last else 1, 0)
            parts.append(b.emit("slice", states, begin=begin, steps=(1, 1, 1),
                                shape=(shape[0], 1 if last else steps, out)))
        y = b.emit("concat", *parts, axis=2) if bidirectional else parts[0]
        return b.emit("reshape", y, shape=(shape[0], b.shape(y)[2])) if last else y
    return make


ROWS = tuple(row(cell, _recurrent(cell)) for cell in CELLS)
