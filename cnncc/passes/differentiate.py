"""Reverse mode: the gradients of a number as a graph, made of the formulas' own derivatives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cnncc.ir.adjoint import adjoint
from cnncc.ir.derivative import adjoints, replaced
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.expr import Call, Const, Expr, Index, Load
from cnncc.ir.formula import Formula
from cnncc.ir.graph import Builder, Graph, Node, apart
from cnncc.ir.op import Parts, axes
from cnncc.ir.ops import NAMES, OPS
from cnncc.ir.ops.formulas import derived
from cnncc.ir.types import FLOATS, product
from cnncc.passes.fold import Rebuild, expand_but
from cnncc.passes.recurrence import Recurrence


def gradients(graph: Graph, of: str, wrt: Sequence[str]) -> Graph:
    """The graph with one more output, `NAME.grad`, for each value of `wrt`: the gradient of the number `of`.

    Ops made of others are taken apart unless they have a rule of their own. A value that doesn't depend on
    one of `wrt` takes no part. Raises ModelError where `of` has several elements, UnsupportedError listing
    nodes without a derivative.
    """
    graph = expand_but(graph, {name for name, op in OPS.items() if op.gradient is not None})
    b = Rebuild(graph)
    for n in graph:
        b.copy(n)
    total = b.type(of)
    if any(e != 1 for e in total.shape) or total.dtype not in FLOATS:
        raise ModelError(f"gradients are those of one number: {of} is {total}")
    active = _active(graph, [of], wrt)
    d = _Reverse(b, active)
    d.add(of, b.op("fill", [], f"{of}.grad", shape=total.shape, value=1.0, dtype=total.dtype))
    d.run([*graph])
    if d.failed:
        raise UnsupportedError(f"{graph.name} can't be differentiated", d.failed)
    found = {name: d.total(name) or b.op("fill", [], f"{name}.grad", shape=b.type(name).shape, value=0.0,
                                         dtype=b.type(name).dtype) for name in wrt}
    done = b.graph([*graph.shown, *((f"{name}.grad", v) for name, v in found.items()),
                    *graph.outputs[len(graph.shown):]], graph.signals, graph.state)
    return done.live()


def _active(nodes: Iterable[Node], of: Sequence[str], wrt: Iterable[str]) -> set[str]:
    """The values of floats between `wrt` and `of`."""
    after, needs = set(wrt), dict[str, tuple[str, ...]]()
    for n in nodes:
        needs[n.name] = n.needs
        if n.type.dtype in FLOATS and any(i in after for i in n.needs):
            after.add(n.name)
    before, stack = set[str](), [*of]
    while stack:
        name = stack.pop()
        if name not in before and name in after:
            before.add(name)
            stack.extend(needs.get(name, ()))
    return before


class _Reverse:
    """Gradients, collected from the last node to the first."""

    def __init__(self, b: Builder, active: set[str]) -> None:
        self.b, self.active = b, active
        self.parts: dict[str, list[str]] = {}
        self.folds: dict[str, dict[str, str]] = {}
        self.failed: list[tuple[str, str, str]] = []

    def add(self, value: str, part: str) -> None:
        self.parts.setdefault(value, []).append(part)

    def total(self, value: str) -> str | None:
        """The gradient of a value: the sum of its parts, in the order of its readers from the last on."""
        parts = self.parts[value] = self._joined(value) if value in self.parts else []
        while len(parts) > 1:
            parts[:2] = [self.b.op("add", parts[:2], f"{value}.grad", self.b.nodes[value].origin)]
        return parts[0] if parts else None

    def _joined(self, value: str) -> list[str]:
        """The parts; those that write different places of zeros as one, without zeros where that is all."""
        b, sums, found, several = self.b, list[str](), list[tuple[Node, Formula]](), 0
        for part in self.parts[value]:
            own = [(n, OPS[n.op].formula([b.type(i) for i in n.inputs], n.attr)[0])
                   for n in self._clauses(part)]
            if own and all(any(apart(i, f, j, g) for i, j in zip(f.out.index, g.out.index, strict=True))
                           for _, f in own for _, g in found):
                found, several = found + own, several + 1
            else:
                sums.append(part)
        if several < 2:
            return self.parts[value]
        type, origin = b.type(value), b.nodes[value].origin
        written = [[f.sizes[d] for d in f.out_dims] for _, f in found]
        known = not type.symbols and all(isinstance(e, int) for sizes in written for e in sizes)
        covers = known and sum([product([int(e) for e in sizes]) for sizes in written]) \
            == product(type.static())
        whole = "" if covers else b.op("fill", [], f"{value}.grad.fill", origin, shape=type.shape, value=0.0,
                                       dtype=type.dtype)
        for n, _ in found:
            whole = b.op(n.op, n.inputs, n.name, n.origin, whole, **n.attr)
        return [*sums, whole]

    def _clauses(self, part: str) -> list[Node]:
        """The clauses that a part has over zeros, none where it is something else."""
        n, found = self.b.nodes[part], list[Node]()
        while n.base:
            found.append(n)
            n = self.b.nodes[n.base]
        return found[::-1] if n.op == "fill" and n.attr["value"] == 0 else []

    def run(self, nodes: Sequence[Node]) -> None:
        """Visit nodes from the last to the first."""
        for n in reversed(nodes):
            if n.name in self.active:
                self._visit(n)

    def _visit(self, n: Node) -> None:
        dy = self.total(n.name)
        if dy is None or n.op in ("input", "const"):
            return
        try:
            if n.loop is not None:
                self._loop(n, dy)
            else:
                self._operands(n, dy)
        except UnsupportedError as error:
            self.failed.append((n.op, n.origin[0] if n.origin else n.name, str(error)))

    def _operands(self, n: Node, dy: str) -> None:
        op, b = OPS[n.op], self.b
        wanted = [i for i, x in enumerate(n.inputs) if x in self.active]
        if n.op == "reshape":
            self.add(n.inputs[0], b.op("reshape", [dy], f"{n.inputs[0]}.grad", n.origin,
                                       shape=b.type(n.inputs[0]).shape))
            return
        if op.gradient is not None:
            node = replace(n, name=f"{n.name}.grad")
            parts = op.gradient(Parts(b, node), n, dy)
            for i in parts.keys() & {*wanted}:
                if parts[i]:
                    self.add(n.inputs[i], parts[i])
                wanted.remove(i)
        if wanted and op.bound is None:
            raise UnsupportedError("has no derivative with respect to all of its operands")
        if wanted:
            self._formula(n, dy, wanted)
        if n.base in self.active:
            self._base(n, dy)

    def _loop(self, n: Node, dy: str) -> None:
        """First the gradients of the state, from turn to turn, then those of all that turns computed."""
        r = Recurrence(self.b, n)
        body, reads = [*r.body.nodes.values()], [x.value for x in r.reads]
        turn = _Reverse(r.back, _active(body, [w.value for w in r.writes], reads))
        for w in r.writes:
            turn.add(w.value, r.slope(w))
        turn.run([own for own in body if own.name not in reads])
        self.failed += turn.failed
        state = r.backward(dy, {x: part for x in reads if (part := turn.total(x)) is not None})
        self.active |= _active(r.nodes, [r.names[w.value] for w in r.writes], self.active - {n.name})
        for w in r.writes:
            self.add(r.names[w.value], r.slopes_of_all(w, state))
        self.run(r.nodes)
        if n.base in self.active:
            self.add(n.base, r.before(state))

    # ---- one formula

    def _formula(self, n: Node, dy: str, wanted: Sequence[int]) -> None:
        """Every load's part, from the derivative of the scalar expression."""
        b = self.b
        types = [b.type(i) for i in n.inputs]
        f, _ = OPS[n.op].formula(types, n.attr)
        names = dict(zip(NAMES, n.inputs, strict=False))
        named: dict[str, str] = {**names, "dy": dy, "value": n.name}
        dtypes = {name: b.type(v).dtype for name, v in named.items()}
        own: Expr = Load("dy", f.out.index)
        if _shared(f):
            named |= self._folds(n, f)
            own = _share(f, f.expr, f.out.index)
        elif f.fold in ("max=", "min="):
            hit = self._hit(n, f, names)
            named["hit"], named["number"] = hit.tensors
            dtypes |= {"hit": "i32", "number": "i32"}
            own = Call("where", (Call("eq", (hit.at, hit.own)), own, Const(0.0)))
        for x, term in adjoints(f.expr, own, dtypes).items():
            if NAMES.index(x.tensor) in wanted:
                if f.fold == "=" and not f.scattered:
                    term = replaced(term, f.expr, Load("value", f.out.index))
                self._emit(names[x.tensor], x.index, term, f, named, n)

    def _folds(self, n: Node, f: Formula) -> dict[str, str]:
        """What tells the share of each of the elements that a product or a scatter's extreme is made of.

        Of extremes the number of elements that are the result; of products the number of zeros, and the
        product of all others.
        """
        if n.name not in self.folds:
            wanted = {"zeros": ("+=", _is_zero), "rest": ("*=", _without_zero)} if f.fold == "*=" else \
                {"equals": ("+=", _is_value)}
            self.folds[n.name] = {name: self._fold(n, f, name, *how) for name, how in wanted.items()}
        return self.folds[n.name]

    def _fold(self, n: Node, f: Formula, name: str, fold: str, of: Callable[[Expr, Load], Expr]) -> str:
        """A fold of what `of` makes of each element of a value and the value, what is beneath it included."""
        b, type, base = self.b, self.b.type(n.name), ""
        if n.base:
            index = axes(type.rank)
            first = Formula(Load("y", index), "=", of(Load("base", index), Load("value", index)),
                            tuple(zip((i.dims[0] for i in index), type.shape, strict=True)))
            named = {"base": self._beneath(n), "value": n.name}
            base = derived(b, first, named, f"{n.name}.{name}", n.origin, type.shape)
        whole = replace(f, fold=fold, expr=of(f.expr, Load("value", f.out.index)))
        return derived(b, whole, {**dict(zip(NAMES, n.inputs, strict=False)), "value": n.name},
                       f"{n.name}.{name}", n.origin, type.shape, base)

    def _beneath(self, n: Node) -> str:
        """A value with what was there before a scatter."""
        base = self.b.nodes[n.base]
        if base.op == "fill":
            return self.b.op("fill", [], f"{base.name}.again", base.origin, **base.attr)
        if base.op != "copy":
            raise UnsupportedError("several scatters write over each other's extremes or products")
        return base.inputs[0]

    def _hit(self, n: Node, f: Formula, names: Mapping[str, str]) -> _Hit:
        """For each element of an extreme the number of the point that it came from, the first of equals."""
        b, inner = self.b, [(d, int(f.sizes[d])) for d in f.reduced]
        shape = tuple(e for _, e in inner) or (1,)
        number = b.const(f"{n.name}.number", np.arange(np.prod(shape), dtype=np.int32).reshape(shape))
        own = Load("number", tuple(Index.of(d) for d, _ in inner) or (Index(),))
        same = Call("eq", (f.expr, Load("value", f.out.index)))
        first = replace(f, fold="min=", expr=Call("where", (same, own, Const(2 ** 31 - 1, "i32"))))
        at = derived(b, first, {**names, "value": n.name, "number": number}, f"{n.name}.hit", n.origin,
                     b.type(n.name).shape)
        return _Hit((at, number), Load("hit", f.out.index), own)

    def _emit(self, value: str, index: Sequence[Index], term: Expr, f: Formula, named: Mapping[str, str],
              n: Node) -> None:
        b, type = self.b, self.b.type(value)
        shapes = {name: b.type(v).shape for name, v in named.items()}
        found = adjoint(index, term, dict(f.extents), type.shape, shapes)
        name, whole = f"{value}.grad", ""
        if not found.covers:
            whole = b.op("fill", [], f"{name}.fill", n.origin, shape=type.shape, value=0.0, dtype=type.dtype)
        for part in found.formulas:
            whole = derived(b, part, named, name, n.origin, type.shape, whole)
        self.add(value, whole)

    def _base(self, n: Node, dy: str) -> None:
        """What a clause is written over gets what the clause doesn't write."""
        b = self.b
        f, _ = OPS[n.op].formula([b.type(i) for i in n.inputs], n.attr)
        if _shared(f):
            index, type = axes(b.type(n.name).rank), b.type(n.name)
            each = Formula(Load("y", index), "=", _share(f, Load("base", index), index),
                           tuple(zip((i.dims[0] for i in index), type.shape, strict=True)))
            named = {"dy": dy, "value": n.name, "base": self._beneath(n), **self._folds(n, f)}
            self.add(n.base, derived(b, each, named, f"{n.base}.grad", n.origin, type.shape))
            return
        if f.fold != "=" or not self._read_elsewhere(n, f):
            self.add(n.base, dy)
            return
        kept = b.op("copy", [dy], f"{n.base}.grad", n.origin)
        zero = replace(f, expr=Const(0.0))
        self.add(n.base, derived(b, zero, {}, f"{n.base}.grad", n.origin, b.type(n.name).shape, kept,
                                 b.type(n.name).dtype))

    def _read_elsewhere(self, n: Node, f: Formula) -> bool:
        """Whether the base's own part of the value may have elements that this clause writes."""
        base = self.b.nodes[n.base]
        if base.op == "fill":
            return False
        if OPS[base.op].bound is None or f.scattered:
            return True
        other, _ = OPS[base.op].formula([self.b.type(i) for i in base.inputs], base.attr)
        return not any(apart(i, f, j, other) for i, j in zip(f.out.index, other.out.index, strict=True))


def _shared(f: Formula) -> bool:
    """Whether elements get shares of the gradient by what else was folded: products, extremes of scatters."""
    return f.fold == "*=" or (f.scattered and f.fold in ("max=", "min="))


def _share(f: Formula, e: Expr, at: tuple[Index, ...]) -> Expr:
    """The share of an element e that was folded into the result's `at`, as in PyTorch: of an extreme an equal
    part for all that are it; of a product the product of all others.
    """
    dy = Load("dy", at)
    if f.fold == "*=":
        alone = Call("eq", (Load("zeros", at), _is_zero(e, dy)))
        own = Call("div", (Call("mul", (dy, Load("rest", at))), _without_zero(e, dy)))
        return Call("where", (alone, own, Const(0.0)))
    own = Call("div", (dy, Load("equals", at)))
    return Call("where", (Call("eq", (e, Load("value", at))), own, Const(0.0)))


def _zero(e: Expr) -> Expr:
    return Call("eq", (e, Const(0.0)))


def _is_zero(e: Expr, value: Load) -> Expr:
    return Call("where", (_zero(e), Const(1.0), Const(0.0)))


def _without_zero(e: Expr, value: Load) -> Expr:
    return Call("where", (_zero(e), Const(1.0), e))


def _is_value(e: Expr, value: Load) -> Expr:
    return Call("where", (Call("eq", (e, value)), Const(1.0), Const(0.0)))


@dataclass(frozen=True, slots=True)
class _Hit:
    """Where the points of extremes are: the values of `at` are those of `own` there; their tensors."""

    tensors: tuple[str, str]
    at: Load
    own: Load

