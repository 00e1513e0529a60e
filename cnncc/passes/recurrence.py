"""What the gradient of a counted loop is made of: its body for all turns at once, and a loop that goes back.

A loop whose turns write what later ones read, each place once, is a system of equations for its state.
Given the state, all that the body computes is known for all turns at once: it is added to the graph with one
more axis, of turns, in front, or after an open batch. The gradients of the state's places follow each other
from the last turn to the first: `backward` adds the loop that computes them. Those of all operands follow
from these, again for all turns at once, so that those of weights are single contractions.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from cnncc.ir.errors import UnsupportedError
from cnncc.ir.expr import Call, Const, Index, Load, rewrite
from cnncc.ir.formula import Formula
from cnncc.ir.graph import Builder, Loop, Node
from cnncc.ir.op import Move
from cnncc.ir.ops import NAMES, OPS
from cnncc.ir.ops.formulas import derived
from cnncc.ir.types import Extent, TensorType
from cnncc.passes.fold import expand_but

T = TypeVar("T")
TURN = "turn"               # the dimension of turns


@dataclass(frozen=True)
class Access:
    """What the first turn reads of the state, or writes there: a value of the body, by its name.

    Element `own` of it is the state's at `place`, while all dimensions run over their extents.
    """

    value: str
    own: tuple[Index, ...]
    place: tuple[Index, ...]
    extents: tuple[tuple[str, Extent], ...]

    def bounds(self, axis: int) -> tuple[int, int] | None:
        """The first and the last place along an axis; None where sizes are open."""
        sizes = dict(self.extents)
        if any(isinstance(sizes[d], str) for d in self.place[axis].dims):
            return None
        return self.place[axis].bounds({d: int(sizes[d]) for d in self.place[axis].dims})


def _axis(shape: Sequence[Extent]) -> int:
    """Where the axis of turns is in what has this shape in one turn."""
    return int(bool(shape) and isinstance(shape[0], str))


def _with(items: Sequence[T], item: T, shape: Sequence[Extent]) -> tuple[T, ...]:
    """What there is for each axis, and the item of the axis of turns."""
    at = _axis(shape)
    return *items[:at], item, *items[at:]


class Recurrence:
    """A loop of the graph that is built in `b`; `body` are its nodes, what they write as values of their own.

    Raises UnsupportedError where several turns read or write the same place of the state.
    """

    def __init__(self, b: Builder, n: Node) -> None:
        assert n.loop is not None
        self.b, self.n, self.count = b, n, n.loop.count
        self.moves = dict(zip(n.loop.body.inputs, n.loop.moves, strict=True))
        self.state = n.loop.state
        self.outer = dict(zip(n.loop.body.inputs, (*n.inputs, n.name), strict=True))
        self.reads: list[Access] = []
        self.writes: list[Access] = []
        self.body = self._taken_apart(n.loop)
        self._check()
        self.varying = {own for own, move in self.moves.items() if move is not None}
        self.nodes: list[Node] = []
        self.names: dict[str, str] = {}
        for own in self.body.nodes.values():
            self.names[own.name] = self._whole(own)
        self.operands: dict[str, tuple[str, Move]] = {}
        self.back = self._last_turn()

    # ---- the places that turns read and write

    def _taken_apart(self, loop: Loop) -> Builder:
        """The body without clauses over the state. What moves is read by nodes that take a part of it."""
        graph = expand_but(loop.body, ())
        b = Builder(graph.name, graph.constants)
        clauses: set[str] = set()
        for n in graph:
            if not clauses.isdisjoint(n.inputs):
                raise UnsupportedError("a turn reads what it has written over its state")
            if n.base and n.base in (self.state, *clauses):
                clauses.add(n.name)
                self._written(b, n)
                continue
            if any(i == self.state or self.moves.get(i) for i in n.inputs):
                self._read(n, graph.types(n))
            b.add(n)
        return b

    def _read(self, n: Node, types: Sequence[TensorType]) -> None:
        """Check that a node takes a part of what moves, and note what it takes of the state."""
        f = OPS[n.op].formula(types, n.attr)[0] if OPS[n.op].bound else None
        if f is None or f.fold != "=" or not isinstance(f.expr, Load) or f.scattered or n.base:
            raise UnsupportedError("a turn computes with more of an operand than the part that is its own")
        if n.inputs[NAMES.index(f.expr.tensor)] == self.state:
            self.reads.append(Access(n.name, f.out.index, f.expr.index, f.extents))

    def _written(self, b: Builder, n: Node) -> None:
        """Add what a clause over the state writes, as a value of its dimensions."""
        f, _ = OPS[n.op].formula([b.type(i) for i in n.inputs], n.attr)
        if f.scattered:
            raise UnsupportedError("a turn writes where data say")
        own, sizes = tuple(map(Index.of, f.out_dims)), tuple((d, f.sizes[d]) for d in f.out_dims)
        self.writes.append(Access(n.name, own, f.out.index, sizes))
        derived(b, replace(f, out=Load("y", own)), dict(zip(NAMES, n.inputs, strict=False)), n.name, n.origin,
                [e for _, e in sizes], dtype=n.type.dtype)

    def _check(self) -> None:
        """Each place has at most one turn that reads it, and one before that writes it."""
        last = self.count - 1
        pairs = [(r, w, 0) for r in self.reads for w in self.writes]
        for part in (self.reads, self.writes):
            pairs += [(a, a, 1) for a in part] + [(a, b, -last) for a, b in itertools.combinations(part, 2)]
        named = all(sorted(d for i in r.place for d in i.dims) == sorted(d for d, _ in r.extents)
                    for r in self.reads)
        if not named or not all(self._apart(a, b, range(first, last + 1)) for a, b, first in pairs):
            raise UnsupportedError("several turns read, or write, the same place of its state")

    def _apart(self, a: Access, b: Access, turns: range) -> bool:
        """Whether b, that many turns later, has no place in common with a."""
        move = self.moves[self.state]
        for axis in range(len(a.place)):
            first, second = a.bounds(axis), b.bounds(axis)
            step = move[1] if move and axis == move[0] else 0
            if first and second and all(first[1] < second[0] + t * step or second[1] + t * step < first[0]
                                        for t in turns):
                return True
        return False

    def _moved(self, own: str, index: Sequence[Index], by: Index) -> tuple[Index, ...]:
        """The index of an operand, or the state, so many turns later."""
        move = self.moves[own]
        return tuple(i + by.scale(move[1]) if move and axis == move[0] else i for axis, i in enumerate(index))

    # ---- all turns at once

    def _whole(self, n: Node) -> str:
        """Add a node of the body for all turns; its name. What no turn changes has no axis more."""
        if n.name in self.outer:
            return self.outer[n.name]
        name = f"{self.n.name}.{n.name}"
        if n.op == "const":
            return self.b.const(name, self.body.constants[n.name])
        values, base = [self.names[i] for i in n.inputs], self.names.get(n.base, "")
        if self.varying.isdisjoint(n.needs):
            made = self.b.op(n.op, values, name, n.origin, base, **n.attr)
        else:
            self.varying.add(n.name)
            made = self._turned(n, values, name, base)
        self.nodes.append(self.b.nodes[made])
        return made

    def _turned(self, n: Node, values: Sequence[str], name: str, base: str) -> str:
        shape = _with(n.type.shape, self.count, n.type.shape)
        if OPS[n.op].bound is None:
            return self.b.op("reshape", values, name, n.origin, shape=shape)
        f, _ = OPS[n.op].formula([self.body.type(i) for i in n.inputs], n.attr)
        inputs = dict(zip(NAMES, n.inputs, strict=False))

        def turned(x: Load) -> Load:
            own = inputs[x.tensor]
            if any(i.lookup and inputs[i.lookup.tensor] in self.varying for i in (*x.index, *f.out.index)):
                raise UnsupportedError("data of its turns say where they read or write")
            if own in self.outer:
                return Load(x.tensor, self._moved(own, x.index, Index.of(TURN)))
            if own not in self.varying:
                return x
            return Load(x.tensor, _with(x.index, Index.of(TURN), self.body.type(own).shape))
        f = replace(f, out=Load("y", _with(f.out.index, Index.of(TURN), n.type.shape)),
                    expr=rewrite(f.expr, turned), extents=_with(f.extents, (TURN, self.count), n.type.shape))
        return derived(self.b, f, dict(zip(NAMES, values, strict=False)), name, n.origin, shape, base,
                       n.type.dtype)

    # ---- from the last turn to the first

    def _last_turn(self) -> Builder:
        """Where the body of the loop that goes back is built: in it are the values of the last turn."""
        b = Builder(f"{self.n.name}.back")
        for n in self.body.nodes.values():
            whole = self.names[n.name]
            if n.name not in self.varying:
                self.operands[b.input(n.name, self.b.type(whole))] = whole, None
            elif n.name not in self.outer:
                index = tuple(Index.of(f"i{a}") for a in range(n.type.rank))
                last = _with(index, Index((), self.count - 1), n.type.shape)
                f = Formula(Load("y", index), "=", Load("x", last),
                            tuple((f"i{a}", e) for a, e in enumerate(n.type.shape)))
                every = b.input(f"{n.name}.turns", self.b.type(whole))
                self.operands[every] = whole, (_axis(n.type.shape), -1)
                derived(b, f, {"x": every}, n.name, n.origin, n.type.shape)
        self.after = b.input(b.fresh("after"), self.n.type)
        self.slopes = b.input(b.fresh("state"), self.n.type, "state")
        return b

    def slope(self, w: Access) -> str:
        """Add the gradient of what the last turn wrote."""
        index = self._moved(self.state, w.place, Index((), self.count - 1))
        f = Formula(Load("y", w.own), "=", Load("x", index), w.extents)
        return derived(self.back, f, {"x": self.slopes}, f"{w.value}.grad", self.n.origin,
                       [e for _, e in w.extents])

    def backward(self, after: str, parts: Mapping[str, str]) -> str:
        """Add the loop: the gradient of each place of the state when it was written.

        `after` is that of the state in the end; `parts` are those of what the last turn read, in `back`.
        """
        b, name, end = self.back, f"{self.n.name}.grad", self.slopes
        for r in self.reads:
            if r.value in parts:
                place = self._moved(self.state, r.place, Index((), self.count - 1))
                f = Formula(Load("y", place), "=", Call("add", (Load("after", place), Load("part", r.own))),
                            r.extents)
                end = derived(b, f, {"after": self.after, "part": parts[r.value]}, f"{r.value}.before",
                              self.n.origin, self.n.type.shape, end)
        if end == self.slopes:
            return after
        move = self.moves[self.state]
        going = None if move is None else (move[0], -move[1])
        operands = {**self.operands, self.after: (after, going)}
        body = b.graph([("state", end)]).live()
        read = {i for n in body for i in n.needs}
        used = {own: operand for own, operand in operands.items() if own in read}
        body = replace(body, inputs=(*used, self.slopes), nodes={
            k: n for k, n in body.nodes.items() if n.op != "input" or k in used})
        begin = self.b.op("copy", [after], name, self.n.origin)
        return self.b.looped(body, self.count, [*used.values()], (begin, going), name, self.n.origin)

    def slopes_of_all(self, w: Access, state: str) -> str:
        """Add the gradient of what all turns wrote at a place."""
        index, shape = self._moved(self.state, w.place, Index.of(TURN)), [e for _, e in w.extents]
        f = Formula(Load("y", _with(w.own, Index.of(TURN), shape)), "=", Load("x", index),
                    _with(w.extents, (TURN, self.count), shape))
        return derived(self.b, f, {"x": state}, f"{self.names[w.value]}.grad", self.n.origin,
                       [e for _, e in f.extents])

    def before(self, state: str) -> str:
        """Add the gradient of the state before the first turn: nothing where a turn writes."""
        move, name = self.moves[self.state], f"{self.n.base}.grad"
        by = Index(((TURN, -1),), self.count - 1) if move and move[1] < 0 else Index.of(TURN)
        result = self.b.op("copy", [state], name, self.n.origin)
        for w in self.writes:
            f = Formula(Load("y", self._moved(self.state, w.place, by)), "=", Const(0.0),
                        ((TURN, self.count), *w.extents))
            result = derived(self.b, f, {}, name, self.n.origin, self.n.type.shape, result, self.n.type.dtype)
        return result
