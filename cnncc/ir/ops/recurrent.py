"""RNN, GRU and LSTM in one direction: a loop over the steps, after one product of all their inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cnncc.ir.errors import ModelError
from cnncc.ir.op import Attrs, Composer, Made, Op, Parts, Shape, Shapes, register
from cnncc.ir.types import NUMPY

GATES = {"rnn": 1, "gru": 3, "lstm": 4}


def weights_of(attrs: Attrs, operands: Sequence[str]) -> list[str]:
    """Of a node's operands those that are weights: neither the steps nor lengths nor initial states."""
    return [x for x, letter in zip(operands[1:], f"wr{attrs['parts']}", strict=True) if letter not in "nhc"]


def states_of(cell: str) -> int:
    """How many values a cell hands on."""
    return 2 if cell == "lstm" else 1


def _recurrent_shape(shapes: Shapes, attrs: Attrs) -> Shape:
    x, w, r = shapes[:3]
    axis, size = attrs["axis"], GATES[attrs["cell"]]
    hidden = int(r[-1])
    if len(x) != 3 or [*w] != [size * hidden, x[2]] or [*r] != [size * hidden, hidden]:
        raise ModelError(f"can't walk {list(x)} with weights {list(w)} and {list(r)}")
    whole = (*x[:2], states_of(attrs["cell"]) * hidden)
    return tuple(int(e) + 1 if a == axis else e for a, e in enumerate(whole))


def _part(make: Parts, x: str, ranges: Mapping[int, range], step: str) -> str:
    shape = make.b.type(x).shape
    extents = tuple(len(ranges[a]) if a in ranges else e for a, e in enumerate(shape))
    begin = tuple(ranges[a].start if a in ranges else 0 for a in range(len(shape)))
    if extents == shape:
        return x
    return make("slice", x, step=step, begin=begin, steps=(1,) * len(shape), shape=extents)


@dataclass(frozen=True)
class _Turn:
    """One step of a cell of `hidden` numbers; `whole` are the operands that all steps read, by letter."""

    make: Parts
    attr: Attrs
    hidden: int
    whole: Mapping[str, str]

    def gates(self, x: str, step: str) -> Iterator[str]:
        """The parts of [batch, gates * hidden] in the order of the cell's definition."""
        for g in self.attr["order"][:int(self.make.b.type(x).shape[1]) // self.hidden]:
            yield _part(self.make, x, {1: range(g * self.hidden, (g + 1) * self.hidden)}, f"{step}{g}")

    def function(self, i: int, x: str, step: str) -> str:
        """An activation. What goes into gates is clipped, but not an LSTM's state: the third one takes it."""
        clip, (op, numbers) = self.attr["clip"], self.attr["functions"][i]
        x = self.make("clip", x, step=f"{step}clip", low=-clip, high=clip) if clip and i < 2 else x
        return self.make(op, x, step=step, **dict(numbers))

    def peep(self, i: int, gate: str, state: str) -> str:
        """A gate that also sees the cell's state."""
        if "p" not in self.whole:
            return gate
        own = range(i * self.hidden, (i + 1) * self.hidden)
        weights = _part(self.make, self.whole["p"], {0: own}, f"peephole{i}")
        return self.make("add", gate, self.make("mul", state, weights, step=f"peep{i}"), step=f"peeped{i}")

    def rnn(self, x: str, h: str) -> tuple[str, ...]:
        make = self.make
        gate = make("add", make("matmul", h, self.whole["r"], step="product"), x, step="gate")
        return self.function(0, gate, "h"),

    def gru(self, x: str, h: str) -> tuple[str, ...]:
        """With the flag the reset gate multiplies a product, else what is multiplied."""
        make, hidden, weights = self.make, self.hidden, self.whole["r"]
        xz, xr, xn = self.gates(x, "x")
        if self.attr["flag"]:
            product = make("matmul", h, weights, step="product")
            hz, hr, hn = self.gates(
                make("add", product, self.whole["d"], step="biased") if "d" in self.whole else product, "h")
        else:
            first, last = (_part(make, weights, {1: part}, "weights") for part in
                           (range(2 * hidden), range(2 * hidden, 3 * hidden)))
            hz, hr = self.gates(make("matmul", h, first, step="product"), "h")
        z, r = (self.function(0, make("add", a, b, step=f"{name}gate"), name)
                for a, b, name in ((xz, hz, "z"), (xr, hr, "r")))
        if self.attr["flag"]:
            reset = make("mul", r, hn, step="reset")
        else:
            reset = make("matmul", make("mul", r, h, step="reset"), last, step="resetproduct")
        n = self.function(1, make("add", xn, reset, step="ngate"), "n")
        kept = make("mul", z, make("sub", h, n, step="change"), step="kept")
        return make("add", n, kept, step="h"),

    def lstm(self, x: str, h: str, c: str) -> tuple[str, ...]:
        """With the flag the forget gate is what the input gate leaves."""
        make = self.make
        total = make("add", make("matmul", h, self.whole["r"], step="product"), x, step="sum")
        gi, go, gf, gc = self.gates(total, "gate")
        i = self.function(0, self.peep(0, gi, c), "i")
        forget = make("affine", i, step="f", alpha=-1.0, beta=1.0) if self.attr["flag"] else \
            self.function(0, self.peep(2, gf, c), "f")
        new = make("mul", i, self.function(1, gc, "candidate"), step="new")
        c = make("add", make("mul", forget, c, step="kept"), new, step="c")
        o = self.function(0, self.peep(1, go, c), "o")
        return make("mul", o, self.function(2, c, "squashed"), step="h"), c

    def run(self, inputs: str, alive: Sequence[str], state: str) -> str:
        """The state after the first turn; of the batch it is over for what isn't `alive`."""
        make, axis, back, hidden = self.make, self.attr["axis"], self.attr["back"], self.hidden
        shape = make.b.type(state).shape
        batch, first = shape[1 - axis], (int(shape[axis]) - 2) * back

        def now(v: str, place: int, name: str, columns: range | None = None) -> str:
            part = _part(make, v, {axis: range(place, place + 1), **({2: columns} if columns else {})}, name)
            return make("reshape", part, step=name, shape=(batch, make.b.type(part).shape[2]))
        places = [range(i * hidden, (i + 1) * hidden) for i in range(states_of(self.attr["cell"]))]
        old = [now(state, first + back, "state", columns) for columns in places]
        new = getattr(self, self.attr["cell"])(now(inputs, first, "input"), *old)
        for v in alive:
            going = now(v, first, "going")
            new = [make("where", going, a, b, step="kept") for a, b in zip(new, old, strict=True)]
        for v, columns in zip(new, places, strict=True):
            v = make("reshape", v, step="part", shape=(batch, 1, hidden) if axis else (1, batch, hidden))
            state = _placed(make, v, state, shape, {axis: first + (not back), 2: columns.start})
        return state


def _placed(make: Parts, x: str, base: str, shape: Shape, at: Mapping[int, int]) -> str:
    return make("place", x, step="states", base=base, shape=shape, steps=(1,) * 3,
                begin=tuple(at.get(a, 0) for a in range(3)))


def _recurrent(b: Composer, n: Made) -> str:
    """The states of all steps, an LSTM's with its cell's beside them; the initial ones first, or `back` last.

    x are the steps along `axis`, 0 or 1, and the batch; w [gates * hidden, features]; r [gates * hidden,
    hidden]. `parts` are the letters of the operands that follow: biases b and d of the products with w and r,
    n the lengths of the batch's sequences, h and c initial states of one step, p an LSTM's peepholes.
    `order` says where the gates are that PyTorch's formulas name: n last, of an LSTM i, o, f, g.
    """
    make, a, (x, w, r, *rest) = Parts(b, n), n.attr, n.inputs
    given, axis, hidden = dict(zip(a["parts"], rest, strict=True)), a["axis"], int(b.type(r).shape[1])
    count, late = int(b.type(x).shape[axis]), a["cell"] == "gru" and a["flag"]
    turned = [make("transpose", v, step="weights", perm=(1, 0)) for v in (w, r)]
    inputs = make("matmul", x, turned[0], step="inputs")
    for letter in "b" if late else "bd":
        if letter in given:
            inputs = make("add", inputs, given[letter], step="inputs")
    whole = {"r": turned[1], **{k: given[k] for k in ("d" if late else "", "p") if k in given}}
    moving = [inputs]
    if "n" in given:
        numbers = np.arange(count, dtype=NUMPY[b.type(given["n"]).dtype])
        batch = b.type(x).shape[1 - axis]
        lengths = make("reshape", given["n"], step="lengths", shape=(batch, 1, 1) if axis else (1, batch, 1))
        number = b.const(f"{n.name}.number", numbers.reshape((1, -1, 1) if axis else (-1, 1, 1)))
        moving.append(make("gt", lengths, number, step="alive"))
    shape, state = _recurrent_shape([b.type(v).shape for v in n.inputs], a), ""
    for i, letter in enumerate("hc"[:states_of(a["cell"])]):
        one = tuple(1 if j == axis else e for j, e in enumerate((*shape[:2], hidden)))
        first = given.get(letter) or make("fill", step="zero", shape=one, value=0.0, dtype=b.type(x).dtype)
        state = _placed(make, first, state, shape, {axis: count * a["back"], 2: i * hidden})
    move = (axis, -1 if a["back"] else 1)

    def turn(body: Composer, names: Sequence[str]) -> str:
        own = dict(zip(whole, names[len(moving):], strict=False))
        return _Turn(Parts(body, n), a, hidden, own).run(names[0], names[1:len(moving)], names[-1])
    return b.loop(count, [*((v, move) for v in moving), *((v, None) for v in whole.values())], (state, move),
                  n.name, n.origin, turn)


register(Op("recurrent", shape=_recurrent_shape, composed=_recurrent))
