"""The graph: one node per value, constants beside it. A pass takes a graph and returns a new one."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from cnncc.ir.constants import Constants, Later
from cnncc.ir.errors import InputError, InternalError, ModelError, hint
from cnncc.ir.expr import Index
from cnncc.ir.formula import Formula, outside
from cnncc.ir.kernel import Kernel
from cnncc.ir.op import Move
from cnncc.ir.ops import NAMES, OPS
from cnncc.ir.plan import Signal
from cnncc.ir.types import Extent, TensorType, name_of

Attr = Any          # int, float, str or a tuple of them


def quote(name: str) -> str:
    """A value's name in the text of a graph: as it is, or a Python string where it isn't one plain word."""
    return name if re.fullmatch(r"[\w./:+-]*[\w./+-]", name) else repr(name)


@dataclass(frozen=True, slots=True)
class Node:
    """A value and how it is made: `op` names an entry of `ir.ops`, or is `input`, `const` or `kernel`.

    `origin` names the nodes of the user's file that it came from. A `loop` is a node over the state that its
    body begins with, which is of the op `state` there. A node with a `base` is a clause: it writes
    its part into the memory of that value, and the rest stays. Others may read of a base what no clause over
    it writes.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    type: TensorType
    attrs: tuple[tuple[str, Attr], ...] = ()
    origin: tuple[str, ...] = ()
    kernel: Kernel | None = None
    base: str = ""
    loop: Loop | None = None

    @property
    def needs(self) -> tuple[str, ...]:
        """The values that must be there before this one: the operands, and the base of a clause."""
        return (*self.inputs, self.base) if self.base else self.inputs

    @property
    def attr(self) -> dict[str, Attr]:
        return dict(self.attrs)

    def __str__(self) -> str:
        attrs = "".join(f" {k}={repr(v).replace(' ', '')}" for k, v in self.attrs)
        head = f"{quote(self.name)}: {self.type} = {self.op}({', '.join(map(quote, self.inputs))}){attrs}"
        if self.base:
            head += f" over {quote(self.base)}"
        if self.origin:
            head += " from " + ", ".join(map(quote, self.origin))
        more = self.kernel.lines() if self.kernel else self.loop.lines() if self.loop else ()
        return head + "".join("\n    " + line for line in more)


@dataclass(frozen=True, slots=True)
class Loop:
    """`body` runs `count` times. Its inputs are the operands of the node, then the state, the node's base.

    The body is written for the first turn: for each input `moves` says (axis, step) where every next turn
    finds all that it accesses `step` further along an axis, None where all turns read the same. The state
    may be written over; the body's only output is its last clause.
    """

    body: Graph
    count: int
    moves: tuple[Move, ...]

    @property
    def state(self) -> str:
        return self.body.inputs[-1]

    def lines(self) -> Iterator[str]:
        yield f"turns {self.count} moves {list(self.moves)}"
        yield from str(self.body).splitlines()


@dataclass(frozen=True)
class Graph:
    """`nodes` in topological order, `outputs` as (user's name, value), `constants` of the const nodes.

    The last outputs are those of the `signals`. `state` are input nodes that aren't the user's: memory of the
    model's own, each with the value that it holds after a call.
    """

    name: str
    nodes: Mapping[str, Node]
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]
    constants: Constants = field(default_factory=Constants, repr=False)
    signals: tuple[Signal, ...] = ()
    state: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "constants", Constants.of(self.constants))     # a user's may be a dict

    @property
    def results(self) -> tuple[str, ...]:
        """The values that a call leaves behind: outputs, new states."""
        return tuple(v for _, v in (*self.outputs, *self.state))

    @property
    def shown(self) -> tuple[tuple[str, str], ...]:
        """The outputs that the user sees."""
        return self.outputs[:len(self.outputs) - len(self.signals)]

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def types(self, node: Node) -> tuple[TensorType, ...]:
        """The types of a node's operands."""
        return tuple(self.nodes[i].type for i in node.inputs)

    def users(self) -> dict[str, list[str]]:
        """For each value the nodes that need it (once per operand), with `""` for each of the `results`."""
        result: dict[str, list[str]] = {name: [] for name in self.nodes}
        for n in self:
            for i in n.needs:
                result[i].append(n.name)
        for value in self.results:
            result[value].append("")
        return result

    def clauses(self) -> set[str]:
        """The nodes that write a part of what is one value in memory: those with a base, and the bases."""
        return {name for n in self if n.base for name in (n.name, n.base)}

    def live(self) -> Graph:
        """The graph without what no output needs (inputs stay) and without unused constants."""
        needed: set[str] = set()
        stack = list(self.results)
        while stack:
            name = stack.pop()
            if name not in needed:
                needed.add(name)
                stack.extend(self.nodes[name].needs)
        nodes = {k: n for k, n in self.nodes.items() if k in needed or n.op == "input"}
        return replace(self, nodes=nodes, constants=self.constants.only(needed))

    def cut(self, outputs: Sequence[str]) -> Graph:
        """The graph of what computes these values. Raises InputError for one that it hasn't got."""
        for name in outputs:
            if name not in self.nodes:
                raise InputError(f"{self.name} has no value {name!r}{hint(name, self.nodes)}")
        flags = [(o, s) for o, s in zip(self.outputs[len(self.shown):], self.signals, strict=True)
                 if s.output is None]
        wanted = (*((name, name) for name in outputs), *(o for o, _ in flags))
        return replace(self, outputs=wanted, signals=tuple(s for _, s in flags), state=()).live()

    def verify(self, before: Graph | None = None) -> None:
        """Raises InternalError where an invariant is broken, in bodies of loops too.

        What kernels read is not looked at again where a graph `before`, which was verified, has the same.
        """
        old: Mapping[str, Node] = before.nodes if before else {}
        seen: set[str] = set()
        over: dict[str, str] = {}
        for name, n in self.nodes.items():
            if n.name != name:
                raise InternalError(f"node {name} calls itself {n.name}")
            if n.base and (over.setdefault(n.base, name) != name or n.base not in seen
                           or self.nodes[n.base].type != n.type
                           or self.nodes[n.base].op in ("input", "const", "reshape")):
                raise InternalError(f"node {name} can't be written over {n.base}")
            for i in n.needs:
                if i not in seen:
                    raise InternalError(f"node {name} reads {i}, which doesn't come before it")
            if n.op == "const" and (shape := self.constants.held(name).shape) != n.type.shape:
                raise InternalError(f"constant {name} has shape {shape}, not {n.type}")
            if n.op == "kernel" and (n.kernel is None or len(n.kernel.operands) != len(n.inputs) + 1):
                raise InternalError(f"node {name}: the kernel's operands don't match the inputs")
            if any(old.get(i) is not self.nodes[i] for i in (name, *n.inputs)):
                self._verify_loads(n)
            self._verify_loop(n)
            seen.add(name)
        for name, value in self.state:
            n = self.nodes[name]
            if n.op != "input" or name in self.inputs or self.nodes[value].type != n.type:
                raise InternalError(f"{value} can't take the place of {name}")
        for name in (*self.inputs, *self.results):
            if name not in seen:
                raise InternalError(f"the graph names {name}, which doesn't exist")
        for n in self:
            for base in (i for i in n.inputs if i in over):
                self._verify_reader(n, base, over)
        if shown := over.keys() & {*self.results}:
            raise InternalError(f"the output {min(shown)} is written over")

    def _verify_loop(self, n: Node) -> None:
        """A body has an input for each operand, of the same type, and one for the state."""
        if n.loop is None:
            return
        body, moves = n.loop.body, n.loop.moves
        body.verify()
        types = [body[i].type for i in body.inputs]
        if types != [self.nodes[i].type for i in n.needs] or len(moves) != len(types) or not n.base \
                or body[n.loop.state].op != "state" or any(inner.loop for inner in body):
            raise InternalError(f"loop {n.name}: its body doesn't fit")

    def _formulas(self, n: Node) -> tuple[Formula, ...]:
        if n.kernel is not None:
            return tuple(f for s in n.kernel.stages for f in s.formulas)
        return (OPS[n.op].formula(self.types(n), n.attr)[0],) if n.op in OPS and OPS[n.op].bound else ()

    def _verify_reader(self, n: Node, base: str, over: Mapping[str, str]) -> None:
        """A reader of a base reads nothing that a later clause writes."""
        names = NAMES if n.kernel is None else [t.name for t in n.kernel.operands]
        own = {t for t, i in zip(names, n.inputs, strict=False) if i == base}
        loads = [(x, f) for f in self._formulas(n) for x in f.loads if x.tensor in own]
        clause = over.get(base)
        while loads and clause:
            written = [(f.out, f) for f in self._formulas(self[clause])[-1:]]
            for a, b in itertools.product(loads, written):
                if not any(apart(i, a[1], j, b[1]) for i, j in zip(a[0].index, b[0].index, strict=True)):
                    raise InternalError(f"node {n.name} reads of {base} what {clause} writes")
            clause = over.get(clause)
        if not loads:
            raise InternalError(f"node {n.name} can't read {base}, which is written over")

    def _verify_loads(self, n: Node) -> None:
        """Only folds leave out what lies outside; constant tables of indices name what there is."""
        if n.kernel is None:
            return
        shapes = {name: t.type.shape for name, t in n.kernel.tensors.items()}
        values = {t.name: i for t, i in zip(n.kernel.operands, n.inputs, strict=False)}
        for s in n.kernel.stages:
            clipped = set(zip(s.out.index, shapes[s.out.tensor], strict=True))      # never stored
            for f in s.formulas:
                if f.scattered and not n.base:
                    raise InternalError(f"node {n.name} has nothing to write over")
                for x in (x for x in (f.out, *f.loads) if x.tensor in shapes):
                    for i, extent in zip(x.index, shapes[x.tensor], strict=True):
                        bad = x is not f.out and outside(i, extent, f.sizes) \
                            and (f is not s.first or f.fold == "=") and (i, extent) not in clipped
                        if i.lookup is not None:
                            bad = not self._names(i, values[i.lookup.tensor], extent)
                        if bad:
                            raise InternalError(f"node {n.name}: {x} may lie outside of its operand")

    def _names(self, i: Index, table: str, extent: Extent) -> bool:
        """Whether an index that is looked up stays within the extent: a table does, data are cut to it."""
        if i.terms or not isinstance(extent, int):
            return False
        if self.nodes[table].type.dtype == "i64":
            return i.const == 0
        values = self.constants.get(table, np.zeros(0))
        return bool(values.dtype == np.int32 and values.min() + i.const >= 0
                    and values.max() + i.const < extent)

    def ordered(self, after: Mapping[str, Sequence[str]] | None = None) -> Graph:
        """The nodes in their order, except that what one needs, or must come `after`, comes before it.

        Raises InternalError where it can't.
        """
        done: dict[str, Node] = {}
        begun: set[str] = set()
        stack = list(self.nodes)[::-1]
        while stack:
            name = stack[-1]
            before = (*self.nodes[name].needs, *(after or {}).get(name, ()))
            missing = [] if name in done else [i for i in before if i not in done]
            if not missing:
                done[stack.pop()] = self.nodes[name]
            elif name in begun:
                raise InternalError(f"{self.name}: {name} must come after {missing[0]}, which needs it")
            else:
                begun.add(name)
                stack += reversed(missing)
        return replace(self, nodes=done)

    def summary(self) -> str:
        """One line: how many nodes of which op."""
        counts: dict[str, int] = {}
        for n in self:
            if n.op not in ("input", "const"):
                counts[n.op] = counts.get(n.op, 0) + 1
        return ", ".join(f"{c} {op}" for op, c in sorted(counts.items(), key=lambda kv: -kv[1]))

    def __str__(self) -> str:
        lines = [f"graph {quote(self.name)}"]
        lines += [f"  {line}" for n in self for line in str(n).splitlines()]
        lines.append("  return " + ", ".join(f"{quote(user)}={quote(value)}" for user, value in self.outputs))
        for s in self.signals:
            where = "" if s.output is None else f" {s.output} {s.axis}"
            lines.append(f"  signal {s.text!r}{where}")
        lines += [f"  state {quote(name)}={quote(value)}" for name, value in self.state]
        return "\n".join(lines)


def apart(a: Index, f: Formula, b: Index, g: Formula) -> bool:
    """Whether two indices have no value in common, as far as their bounds tell."""
    if a.lookup or b.lookup or any(isinstance(s.sizes[d], str) for i, s in ((a, f), (b, g)) for d in i.dims):
        return False
    (low, high), (first, last) = (i.bounds({d: int(s.sizes[d]) for d in i.dims}) for i, s in ((a, f), (b, g)))
    return high < first or last < low


class Builder:
    """Collects nodes in order; used by frontends, by composed ops and by passes."""

    def __init__(self, name: str, constants: Mapping[str, np.ndarray] | None = None) -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        self.inputs: list[str] = []
        self.constants = Constants(constants)
        self._numbers: dict[str, int] = {}      # up to which a name is taken

    def fresh(self, name: str) -> str:
        """`name`, numbered where it is taken."""
        if not self.taken(name):
            return name
        i = self._numbers.get(name, 1)
        while self.taken(f"{name}.{i}"):
            i += 1
        self._numbers[name] = i
        return f"{name}.{i}"

    def taken(self, name: str) -> bool:
        return name in self.nodes

    def add(self, node: Node) -> str:
        """Add a node as it is. Raises ModelError where its name is taken."""
        if node.name in self.nodes:
            raise ModelError(f"the value {node.name!r} is defined twice")
        self.nodes[node.name] = node
        return node.name

    def type(self, name: str) -> TensorType:
        return self.nodes[name].type

    def input(self, name: str, type: TensorType, op: str = "input") -> str:
        self.inputs.append(name)
        return self.add(Node(name, op, (), type))

    def const(self, name: str, value: np.ndarray | Later) -> str:
        name = self.fresh(name)
        self.constants[name] = value
        return self.add(Node(name, "const", (), TensorType(name_of(value.dtype), value.shape)))

    def op(self, op: str, inputs: Sequence[str], name: str, origin: tuple[str, ...] = (),
           base: str = "", **attrs: Attr) -> str:
        """Add a node, with a `base` a clause; its type follows from its op.

        Raises ModelError where the operands don't fit.
        """
        inputs = tuple(inputs)
        attributes = tuple(sorted((k, v) for k, v in attrs.items()))
        type = OPS[op].infer([self.nodes[i].type for i in inputs], attrs)
        return self.add(Node(self.fresh(name), op, inputs, type, attributes, origin, base=base))

    def loop(self, count: int, operands: Sequence[tuple[str, Move]], state: tuple[str, Move], name: str,
             origin: tuple[str, ...], turn: Callable[[Builder, Sequence[str]], str]) -> str:
        """Add a loop over a state that is a clause by now; the state after `count` turns.

        `turn` adds the first turn to a builder and gives the state after it. It is told what the operands are
        called there, and at last the state.
        """
        body = Builder(f"{name}.body")
        names = [body.input(body.fresh(v), self.type(v)) for v, _ in operands]
        names.append(body.input(body.fresh(state[0]), self.type(state[0]), "state"))
        end = turn(body, names)
        return self.looped(body.graph([("state", end)]), count, operands, state, name, origin)

    def looped(self, body: Graph, count: int, operands: Sequence[tuple[str, Move]], state: tuple[str, Move],
               name: str, origin: tuple[str, ...]) -> str:
        """Add a loop whose first turn is a graph of the operands and at last the state."""
        loop = Loop(body, count, tuple(move for _, move in (*operands, state)))
        return self.add(Node(self.fresh(name), "loop", tuple(v for v, _ in operands),
                             self.type(state[0]), origin=origin, base=state[0], loop=loop))

    def graph(self, outputs: Iterable[tuple[str, str]], signals: Sequence[Signal] = (),
              state: Iterable[tuple[str, str]] = ()) -> Graph:
        """The graph of all nodes so far; `outputs` are (name for the user, value), the `signals`' last."""
        g = Graph(self.name, self.nodes, tuple(self.inputs), tuple(outputs), self.constants, tuple(signals),
                  tuple(state))
        g.verify()
        return g
