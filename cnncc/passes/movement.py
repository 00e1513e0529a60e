"""Movement costs no pass over memory where it can be a matter of indices.

Padding becomes a window's own; what is joined is written where it belongs, and its other readers find it
there; a kernel that only moves elements is read through by its readers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from cnncc.ir.expr import Index, Load, rewrite
from cnncc.ir.formula import IDENTITY, Formula, multiply_add, outside
from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import Kernel, Stage, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.ops import NAMES, OPS, Shape
from cnncc.ir.target import Target
from cnncc.ir.types import Extent, TensorType, product
from cnncc.passes.fold import Rebuild
from cnncc.passes.fuse import SPARE
from cnncc.passes.layouts import CHANNEL

PARTS = 256                 # of a whole whose other readers find them in it


def merge_pads(graph: Graph, target: Target) -> Graph:
    """Padding with what a fold leaves out becomes padding of the window that reads it."""
    b = Rebuild(graph)
    for n in graph:
        pad = graph[n.inputs[0]] if n.inputs else n
        if pad.op != "pad" or not {"begin", "end", "dilations"} <= n.attr.keys() \
                or OPS[n.op].bound is None or any((*pad.attr["begin"][:2], *pad.attr["end"][:2])) \
                or min(*pad.attr["begin"], *pad.attr["end"]) < 0:
            b.copy(n)
            continue
        formula, _ = OPS[n.op].formula(graph.types(n), n.attr)
        if IDENTITY.get(formula.fold) != pad.attr["value"]:
            b.copy(n)
            continue
        sides = {side: tuple(old + more for old, more in zip(n.attr[side], pad.attr[side][2:], strict=True))
                 for side in ("begin", "end")}
        inputs = [b.name_of(i) for i in (pad.inputs[0], *n.inputs[1:])]
        b.renamed[n.name] = b.op(n.op, inputs, n.name, (*pad.origin, *n.origin), **n.attr | sides)
    return b.finish()


@dataclass
class _Whole:
    """Values joined along channels: `parts` are (value, first channel); `clause` has the `placed` ones."""

    type: TensorType
    origin: tuple[str, ...]
    parts: list[tuple[str, int]]
    placed: set[int] = field(default_factory=set)
    clause: str = ""


def place_early(graph: Graph, target: Target) -> Graph:
    """What is joined is written into the whole at once; all its other readers find it there.

    A join that another one begins with, or has as a part, is a part of that one's memory. Only where all
    parts are whole blocks of channels.
    """
    chains = _chains(graph, target.lanes)
    whole, offset = _nested(graph, chains)
    shown, users = {*graph.results}, graph.users()
    home: dict[str, tuple[_Whole, int]] = {}        # where a value that others read too is written first
    for w in (w for end, w in chains.items() if whole[end] is w):
        for number, (x, _) in enumerate(w.parts):
            n = graph[x]
            if x not in shown and n.op in OPS and OPS[n.op].bound is not None and len(users[x]) > 1:
                home.setdefault(x, (w, number))
    if not home and all(whole[end] is w for end, w in chains.items()):
        return graph
    inner = {name for end in chains for name in _clauses(graph, end)}
    b = Rebuild(graph)
    for n in graph:
        if n.name in chains:
            w, at = whole[n.name], offset[n.name]
            size = int(n.type.shape[CHANNEL])
            for number, (_, first) in enumerate(w.parts):
                if at <= first < at + size:
                    _place(b, w, number, n)
            b.renamed[n.name] = w.clause if w.type == n.type else _cut(b, w, at, n)
        elif n.name not in inner:
            b.copy(n)
            if n.name in home:
                w, number = home[n.name]
                _place(b, w, number, n)
                b.renamed[n.name] = _cut(b, w, w.parts[number][1], n)
    return b.finish()


def _place(b: Rebuild, w: _Whole, number: int, n: Node) -> None:
    """Write a part of the whole, unless it is there."""
    x, first = w.parts[number]
    if number not in w.placed:
        w.placed.add(number)
        begin = tuple(first if a == CHANNEL else 0 for a in range(w.type.rank))
        w.clause = b.op("place", [b.name_of(x)], f"{n.name}.placed", w.origin, w.clause, begin=begin,
                        steps=(1,) * w.type.rank, shape=w.type.shape)


def _cut(b: Rebuild, w: _Whole, first: int, n: Node) -> str:
    """A value as its part of the whole."""
    begin = tuple(first if a == CHANNEL else 0 for a in range(w.type.rank))
    return b.op("slice", [w.clause], f"{n.name}.part", n.origin, begin=begin, steps=(1,) * w.type.rank,
                shape=n.type.shape)


def _clauses(graph: Graph, end: str) -> Iterator[str]:
    """The clauses of a value, the last first."""
    while end:
        yield end
        end = graph[end].base


def _chains(graph: Graph, lanes: int) -> dict[str, _Whole]:
    """The joins along the channels of whole blocks, by their last clause."""
    bases = {n.base for n in graph}
    result: dict[str, _Whole] = {}
    for n in graph:
        if not n.base or n.name in bases:
            continue
        clauses = [graph[c] for c in _clauses(graph, n.name)][::-1]
        at, parts = 0, []
        for c in clauses:
            if c.op != "place" or set(c.attr["steps"]) != {1} or c.type.rank <= CHANNEL or at % lanes \
                    or c.attr["begin"] != tuple(at if a == CHANNEL else 0 for a in range(c.type.rank)):
                break
            shape = graph[c.inputs[0]].type.shape
            both = enumerate(zip(shape, n.type.shape, strict=True))
            if any(e != other for a, (e, other) in both if a != CHANNEL):
                break
            parts.append((c.inputs[0], at))
            at += int(shape[CHANNEL])
        else:
            if len(parts) <= PARTS:
                result[n.name] = _Whole(n.type, n.origin, parts)
    return result


def _nested(graph: Graph, chains: Mapping[str, _Whole]) -> tuple[dict[str, _Whole], dict[str, int]]:
    """For each join the whole that it is a part of (itself where it is none), and its first channel there."""
    outer: dict[str, tuple[str, int]] = {}
    shown = {*graph.results}
    tree: dict[tuple[int, str], int] = {}
    begun: dict[int, str] = {}              # the join of these first parts
    count: dict[str, int] = {}              # of parts, those of the joins in it too
    for end, w in chains.items():
        at, count[end] = 0, len(w.parts)
        for i, (x, first) in enumerate(w.parts):
            at = tree.setdefault((at, x), len(tree) + 1)
            if at in begun and i + 1 < len(w.parts):
                outer.setdefault(begun[at], (end, 0))
            if x in chains and x not in shown and x not in outer and count[end] + count[x] <= PARTS:
                outer[x], count[end] = (end, first), count[end] + count[x]
        begun.setdefault(at, end)
    whole: dict[str, _Whole] = {}
    offset: dict[str, int] = {}
    outermost = list(chains)[::-1]          # a join comes after what is in it
    for end in outermost:
        into, first = outer.get(end, (end, 0))
        whole[end], offset[end] = whole.get(into, chains[end]), offset.get(into, 0) + first
    for end in outermost:
        if end in outer:
            w = whole[end]
            size = int(graph[end].type.shape[CHANNEL])
            w.parts = [p for p in w.parts if not offset[end] <= p[1] < offset[end] + size] + [
                (x, first + offset[end]) for x, first in chains[end].parts]
    for w in whole.values():
        w.parts.sort(key=lambda p: p[1])
    return whole, offset


def read_through(graph: Graph, target: Target) -> Graph:
    """Readers of what only moves elements read its operand instead, by other indices.

    Not what would be outside of the operand in another way than before, what is looked up in a table or
    transposed again and again, or what closes gaps between elements that a sum of products reads often.
    """
    nodes = dict(graph.nodes)
    clauses, users = graph.clauses(), graph.users()
    for n in graph:
        n = nodes[n.name]
        for i in dict.fromkeys(n.inputs):
            m = nodes[i]
            if i in clauses or (m.kernel is not None and not moves(m)):
                continue
            if n.op == "reshape" and m.kernel is not None:
                n = _merged(m, n) if users[i] == [n.name] else n
            elif n.kernel is not None and m.op == "reshape" and moves(n):
                n = through(_as_movement(graph[m.inputs[0]].type, m), n) or n
            elif n.kernel is not None and m.kernel is not None and not _closes_gaps(m, n):
                n = through(m, n) or n
            nodes[n.name] = n
    return replace(graph, nodes=nodes).live()


def moves(m: Node) -> bool:
    """Whether a kernel does nothing but move elements."""
    assert m.kernel is not None
    stages = m.kernel.stages
    return len(stages) == len(stages[0].formulas) == 1 and stages[0].first.fold == "=" \
        and isinstance(stages[0].first.expr, Load)


def _closes_gaps(m: Node, n: Node) -> bool:
    """Whether a movement brings elements together for a contraction: its tiles then cross rows."""
    assert m.kernel is not None and n.kernel is not None
    steps = {abs(c) for x in m.kernel.stages[0].loads for i in x.index for _, c in i.terms}
    return max(steps, default=1) > 1 and multiply_add(n.kernel.stages[0].first) is not None


def _digits(whole: Shape, parts: Shape) -> tuple[Index, ...] | None:
    """The indices of `whole` by those of `parts` (i0, i1, ...): each axis of it is made of neighbours."""
    result: list[Index] = []
    rest = [(a, e) for a, e in enumerate(parts) if e != 1]
    for extent in whole:
        own: list[tuple[int, Extent]] = []
        if isinstance(extent, str):
            own = [rest.pop(0)] if rest and rest[0][1] == extent else []
        while isinstance(extent, int) and rest and isinstance(e := rest[0][1], int) \
                and product([int(x) for _, x in own]) * e <= extent:
            own.append(rest.pop(0))
        if (not own) if isinstance(extent, str) else product([int(x) for _, x in own]) != extent:
            return None
        index = Index()
        for a, e in own:
            index = (index.scale(int(e)) if index.terms else index) + Index.of(f"i{a}")
        result.append(index)
    return None if rest else tuple(result)


def _as_movement(source: TensorType, view: Node) -> Node:
    """A view that takes axes apart as a kernel; itself where it does something else."""
    index = _digits(source.shape, view.type.shape)
    if index is None:
        return view
    out = tuple(Index() if e == 1 else Index.of(f"i{a}") for a, e in enumerate(view.type.shape))
    extents = tuple((f"i{a}", e) for a, e in enumerate(view.type.shape) if e != 1)
    tensors = [Tensor(name, t, Layout.plain(t.rank)) for name, t in (("x", source), ("y", view.type))]
    kernel = Kernel(tuple(tensors), (Stage((Formula(Load("y", out), "=", Load("x", index), extents),)),))
    return replace(view, op="kernel", attrs=(("does", "move"),), kernel=kernel)


def _merged(m: Node, view: Node) -> Node:
    """A view that puts together axes of what a kernel moves, as one kernel; itself where it doesn't."""
    assert m.kernel is not None
    f, digits = m.kernel.stages[0].first, _digits(view.type.shape, m.type.shape)
    if digits is None:
        return view
    own = {f"i{a}": i for a, i in enumerate(f.out.index)}
    formula = replace(f, out=Load(f.out.tensor, tuple(i.substitute(own) for i in digits)))
    output = Tensor(m.kernel.output.name, view.type, Layout.plain(view.type.rank))
    kernel = Kernel((*m.kernel.operands[:-1], output), (Stage((formula,)),))
    return replace(view, op="kernel", inputs=m.inputs, attrs=m.attrs, kernel=kernel,
                   origin=tuple(dict.fromkeys((*m.origin, *view.origin))))


def through(m: Node, n: Node) -> Node | None:
    """`n` reading the operand of `m`, which only moves it; None where it is impossible or not worth it."""
    if m.kernel is None or n.kernel is None:
        return None
    f = m.kernel.stages[0].first
    if not isinstance(f.expr, Load) or any(f.sizes.get(str(i.single), 1) != e
                                           for i, e in zip(f.out.index, m.type.shape, strict=True)):
        return None                         # not every element of m's value is of its operand
    first, rest = n.kernel.stages[0].formulas[0], n.kernel.stages[0].formulas[1:]
    names = {t.name for t, i in zip(n.kernel.operands, n.inputs, strict=False) if i == m.name}
    loads = [x for x in first.loads if x.tensor in names]
    if rest or len(n.kernel.stages) > 1 or names & first.lookups \
            or not all(_sound(m, x, n) for x in loads):
        return None
    before = list(zip(n.kernel.operands, n.inputs, strict=False))
    tensors = [(t, i) for t, i in before if i != m.name]
    at = min(p for p, (_, i) in enumerate(before) if i == m.name)
    own: dict[str, str] = {}                # m's operands as they are called in n, where m was
    for t, i in zip(m.kernel.operands, m.inputs, strict=False):
        known = next((other.name for other, value in tensors if value == i), None)
        taken = {other.name for other, _ in tensors} | {n.kernel.output.name}
        own[t.name] = known or next(s for s in (*NAMES, *SPARE) if s not in taken)
        if known is None:
            tensors.insert(at, (replace(t, name=own[t.name]), i))
            at += 1
    source = f.expr.renamed(own)
    def change(x: Load) -> Load:
        if x.tensor not in names:
            return x
        pairs = zip(f.out.index, x.index, strict=True)
        return source.substitute({o.single: i for o, i in pairs if o.single})
    formula = replace(first, expr=rewrite(first.expr, change))
    used = {d for x in (formula.out, *formula.loads) for d in x.dims}
    if first.fold == "+=" and len(used) < len(first.extents):
        return None                         # the same element is added up several times
    formula = replace(formula, extents=tuple((d, e) for d, e in formula.extents if d in used))
    kernel = Kernel((*(t for t, _ in tensors), n.kernel.output), (Stage((formula,)),))
    return replace(n, inputs=tuple(i for _, i in tensors), kernel=kernel,
                   origin=tuple(dict.fromkeys((*m.origin, *n.origin))))


def _sound(m: Node, x: Load, n: Node) -> bool:
    """Whether the load x in n of what m moves may become one of m's operand."""
    assert m.kernel is not None and n.kernel is not None
    f, reader = m.kernel.stages[0].first, n.kernel.stages[0].first
    assert isinstance(f.expr, Load)
    source, shape = f.expr, m.kernel.tensors[f.expr.tensor].type.shape
    if any(i.lookup is not None for i in (*source.index, *x.index)) and reader.fold != "=":
        return False
    order = [d for i in source.index for d in i.dims]
    turned = order != [d for d in f.out_dims if d in order]
    contracts = any(isinstance(a, Load) for a in multiply_add(reader) or ())
    if turned and contracts and len(reader.out.index) > CHANNEL \
            and set(x.dims) & set(reader.out.index[CHANNEL].dims):
        return False
    for out, index, extent in zip(f.out.index, x.index, m.type.shape, strict=True):
        own = [i for i in source.index if out.single in i.dims]
        same = out.single and (out, extent) in zip(source.index, shape, strict=True)
        if index.lookup is not None:        # data are cut to the axis that they index
            data = n.kernel.tensors[index.lookup.tensor].type.dtype == "i64"
            shifted = not same or len(own) > 1
            if (data and own and shifted) or any(
                    i.lookup is not None or i.coefficient(str(out.single)) != 1 for i in own):
                return False
        if outside(index, extent, reader.sizes) and not same:
            return False
    return True
