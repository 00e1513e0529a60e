"""From here a node holds a kernel: every op becomes its formula, then formulas join.

An elementwise consumer, or a pool whose windows don't overlap, becomes the epilogue of the one kernel that
feeds it: its dimensions are replaced by what the producer's result is indexed with. An elementwise producer
becomes a part of the fold that reads each of its elements about once: a reduction, a pool, Winograd's tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cnncc.ir.expr import Index, Load, cost, loads, reindexed, rewrite, size
from cnncc.ir.formula import Formula, drop_units, outside
from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import ACC, Kernel, Stage, Tensor
from cnncc.ir.layout import Layout
from cnncc.ir.ops import NAMES, OPS
from cnncc.ir.target import Target
from cnncc.ir.types import Extent, TensorType, product

CLAUSES = 256               # of a value that another kernel may join
PRODUCER = "producer"       # the tensor by which a consumer reads its producer's result until they are one
SHORT = 2                   # operations that may be repeated in a formula
AGAIN = 6                   # instructions for each element that may be repeated rather than stored and loaded
LONG = 64                   # operations of a stage that others may join: expressions nest no deeper
SPARE = ("u", "v", *(f"u{i}" for i in range(1, 100)))


def form(graph: Graph, target: Target) -> Graph:
    """Each op becomes a kernel of one stage with its formula; views stay what they are."""
    nodes: dict[str, Node] = {}
    for n in graph:
        if n.op not in OPS or OPS[n.op].bound is None:
            nodes[n.name] = n
            continue
        types = graph.types(n)
        formula = drop_units(OPS[n.op].formula(types, n.attr)[0])
        tensors = [_operand(name, t) for name, t in zip(NAMES, types, strict=False)]
        kernel = Kernel((*tensors, _operand("y", n.type)), (Stage((formula,)),))
        nodes[n.name] = replace(n, op="kernel", attrs=(("does", n.op),), kernel=kernel)
    return replace(graph, nodes=nodes)


def _operand(name: str, type: TensorType) -> Tensor:
    return Tensor(name, type, Layout.plain(type.rank))


def fuse(graph: Graph, target: Target) -> Graph:
    """Bias, pointwise chains, residual additions and pools that don't overlap join the kernel before them."""
    nodes = dict(graph.nodes)
    users = {value: set(readers) for value, readers in graph.users().items()}
    position = {name: i for i, name in enumerate(nodes)}
    for name in list(nodes):
        while joined := _joined(nodes, users, position, nodes[name]):
            gone, made = joined
            del nodes[gone]
            nodes.update((x.name, x) for x in made)
            for x in made:
                for i in x.needs:
                    users[i] = users[i] - {gone} | {x.name}
            if len(made) > 1:
                break
    return replace(graph, nodes=nodes).ordered().live()


def _joined(nodes: Mapping[str, Node], users: Mapping[str, set[str]], position: Mapping[str, int],
            n: Node) -> tuple[str, list[Node]] | None:
    """A producer that only `n` reads, the one with the most work that fits, and what the two become."""
    if n.kernel is None:
        return None
    own = [nodes[i] for i in dict.fromkeys(n.inputs) if nodes[i].kernel is not None
           and users[i] == {n.name} and i != n.base]
    own.sort(key=lambda p: (-_work(p), -position[p.name]))
    return next(((p.name, made) for p in own if (made := _distributed(nodes, users, p, n))), None)


def _distributed(nodes: Mapping[str, Node], users: Mapping[str, set[str]], p: Node, n: Node) -> list[Node]:
    """`n` joined with its producer, with each clause where it has several; empty where it can't be."""
    result: list[Node] = []
    name, clause = n.name, p
    while True:
        joined = _join(replace(clause, name=p.name), n)
        if joined is None:
            return []
        result.append(replace(joined, name=name, base=clause.base or n.base))
        if not clause.base:
            return result
        if len(users[clause.base]) > 1 or clause.base in clause.inputs or len(result) == CLAUSES:
            return []
        name, clause = clause.base, nodes[clause.base]


def _work(n: Node) -> int:
    return n.kernel.flops() if n.kernel else 0


def _join(p: Node, n: Node) -> Node | None:
    """The kernel of `n` with that of its operand `p` in front, as one; None where they don't fit."""
    assert p.kernel is not None and n.kernel is not None
    if len(p.kernel.stages) != 1 or len(n.kernel.stages) != 1 or len(n.kernel.stages[0].formulas) != 1:
        return None
    if sum(size(f.expr) for k in (p.kernel, n.kernel) for f in k.stages[0].formulas) > LONG:
        return None
    first = n.kernel.stages[0].first
    parts = {t.name for t, i in zip(n.kernel.operands, n.inputs, strict=False) if i == p.name}
    if first.fold == "=" and any(first.sizes.get(str(i.single), e) != e for x in first.loads
                                 if x.tensor in parts for i, e in zip(x.index, p.type.shape, strict=True)):
        return None                                     # only the beginning of an axis is read
    operands = _Operands(p)
    names = {t.name: PRODUCER if i == p.name else operands.take(i, t)
             for t, i in zip(n.kernel.operands, n.inputs, strict=False)}
    formulas = _inlined(p, first.renamed(names)) or _chain(p.kernel.stages[0].formulas, first.renamed(names))
    if formulas is None or not _clipped(p.kernel.stages[0].formulas[-1], p.type, formulas[-1], n.type):
        return None
    kernel = Kernel((*operands.tensors, n.kernel.output), (Stage(formulas),))
    does = f"{p.attr['does']}+{n.attr['does']}"
    return replace(n, inputs=tuple(operands.inputs), attrs=(("does", does),), kernel=kernel,
                   origin=tuple(dict.fromkeys((*p.origin, *n.origin))))


class _Operands:
    """The operands of a joined kernel; a value that is read twice is one operand."""

    def __init__(self, p: Node) -> None:
        assert p.kernel is not None
        self.tensors = list(p.kernel.operands[:-1])
        self.inputs = list(p.inputs)

    def take(self, value: str, tensor: Tensor) -> str:
        if value in self.inputs:
            return self.tensors[self.inputs.index(value)].name
        used = {t.name for t in self.tensors}
        name = next(s for s in SPARE if s not in used)
        self.tensors.append(replace(tensor, name=name))
        self.inputs.append(value)
        return name


def _inlined(p: Node, fold: Formula) -> tuple[Formula, ...] | None:
    """A fold that computes the elements of its operand where it reads them; None where it shouldn't.

    Taps in the padding must be left out as before: an operand of `p` has the same index and extent there.
    """
    assert p.kernel is not None
    formulas, tensors, reads = p.kernel.stages[0].formulas, p.kernel.tensors, list(loads(fold.expr))
    last = formulas[-1]
    if fold.fold == "=" or len(formulas) > 1 or last.fold != "=" or p.base or fold.lookups or last.lookups \
            or len(reads) != 1 or reads[0].tensor != PRODUCER or not cost(last.expr):
        return None
    pairs = list(zip(last.out.index, reads[0].index, p.type.shape, strict=True))
    order = [o.single for o, _, _ in pairs if o.terms]
    if any(last.sizes.get(str(o.single), 1) != e for o, _, e in pairs) \
            or any([d for d in order if d in x.dims] != [*x.dims] for x in last.loads):
        return None
    walked = [e for d, e in fold.extents if d in fold.reduced or d not in fold.tabled]
    points, elements = (product([e for e in x if isinstance(e, int)]) for x in (walked, p.type.shape))
    if (points - elements) * cost(last.expr) > AGAIN * elements:
        return None
    expr = reindexed(last.expr, {o.single: i for o, i, _ in pairs if o.single})
    kept = {pair for x in loads(expr) for pair in zip(x.index, tensors[x.tensor].type.shape, strict=True)}
    if any(outside(i, e, fold.sizes) and (i, e) not in kept for _, i, e in pairs):
        return None
    return (replace(fold, expr=rewrite(fold.expr, lambda x: expr)),)


def _chain(chain: tuple[Formula, ...], consumer: Formula) -> tuple[Formula, ...] | None:
    """The formulas of a producer followed by its consumer, on one register tile."""
    reads = [x for x in consumer.loads if x.tensor == PRODUCER]
    last = chain[-1]
    if len(reads) != 1 or any(i.lookup is not None for i in reads[0].index) or PRODUCER in consumer.lookups \
            or consumer.tabled or consumer.scattered or last.scattered:
        return None
    consumer = _fresh(consumer, {d for f in chain for d, _ in f.extents})
    read = next(x for x in consumer.loads if x.tensor == PRODUCER)
    if consumer.fold == "=":
        if set(consumer.out_dims) != {d for i in read.index for d in i.dims} or not _distinct(read):
            return None
        pairs = list(zip(read.index, last.out.index, strict=True))
        if any(o.terms and not i.terms for i, o in pairs):      # a tile of which one element is kept
            return None
        mapping = {i.dims[0]: o for i, o in pairs if i.dims}
        consumer = consumer.substitute(mapping, last.sizes)
        return _append(chain, consumer)
    if (last.fold != "=" and len(chain) > 1) or chain[0].fold == "=" \
            or not set(consumer.reduced) <= {*read.dims}:
        return None                                     # an epilogue adds no dimensions
    windows = _windows(read, last, consumer)
    if windows is None:
        return None
    same = {i.dims[0]: Index.of(d) for d, i in windows.items() if i.single}
    consumer = consumer.substitute(same, last.sizes)
    moved = {d: i for d, i in windows.items() if not i.single}
    producer = tuple(f.substitute(moved, consumer.sizes) for f in chain)
    return _append(producer, consumer)


def _clipped(last: Formula, type: TensorType, joined: Formula, result: TensorType) -> bool:
    """Whether what a producer computes beyond its own type lies beyond the result's type too."""
    after = set(zip(joined.out.index, result.shape, strict=True))
    return all((i, e) in after for i, e in zip(last.out.index, type.shape, strict=True)
               if outside(i, e, last.sizes))


def _distinct(read: Load) -> bool:
    dims = [i.single for i in read.index if i.dims]
    return None not in dims and len(set(dims)) == len(dims)


def _fresh(f: Formula, taken: set[str]) -> Formula:
    """The formula with dimensions renamed that clash."""
    mapping: dict[str, Index] = {}
    sizes: dict[str, Extent] = {}
    for d, e in f.extents:
        new = d
        while new in taken:
            new = chr(ord(new[0]) - 1 if new[0] > "a" else ord("z")) + new[1:]
        taken = taken | {new}
        sizes[new] = e
        mapping[d] = Index.of(new)
    return f.substitute(mapping, sizes)


def _windows(read: Load, last: Formula, consumer: Formula) -> dict[str, Index] | None:
    """Producer dimension -> consumer index, where the consumer visits each element at most once."""
    mapping: dict[str, Index] = {}
    sizes = consumer.sizes
    kept = set(consumer.out_dims)
    for index, out in zip(read.index, last.out.index, strict=True):
        if index == out and not out.dims:
            continue
        if out.single is None:
            return None
        extent = last.sizes[out.single]
        steps = sorted(index.terms, key=lambda t: -abs(t[1]))
        if any(isinstance(sizes[d], str) for d, _ in steps):
            if index.single is None or sizes[index.single] != extent:
                return None
        else:
            numbers = {d: int(sizes[d]) for d, _ in steps}
            low, high = index.bounds(numbers)
            if low < 0 or high >= int(extent) or len(steps) > 2 or any(c < 1 for _, c in steps):
                return None
            if len(steps) == 2:
                (window, stride), (tap, step) = steps
                if stride < step * numbers[tap] or window not in kept:
                    return None
        if any(d not in kept for d in index.dims) and len(steps) != 2:
            return None                                 # the whole axis is folded: not a tile of registers
        mapping[out.single] = index
    return mapping


def _append(chain: tuple[Formula, ...], consumer: Formula) -> tuple[Formula, ...]:
    """`consumer` reads the chain's result from registers.

    A last formula without a fold is inlined, unless it would be repeated and isn't short.
    """
    last, tile = chain[-1], Load(ACC, tuple(Index.of(d) for d in chain[-1].out_dims))
    repeats = sum(x.tensor == PRODUCER for x in loads(consumer.expr))
    inlined = last.fold == "=" and (repeats == 1 or size(last.expr) <= SHORT)
    read = last.expr if inlined else tile
    consumer = replace(consumer, expr=rewrite(consumer.expr, lambda x: read if x.tensor == PRODUCER else x))
    kept = () if inlined else (replace(last, out=tile),)
    return (*chain[:-1], *kept, _sorted(consumer, chain))


def _sorted(f: Formula, chain: Sequence[Formula]) -> Formula:
    """The extents of everything that the formula uses, in the chain's order."""
    used = {d for x in (f.out, *f.loads) for i in x.index for d in i.dims}
    sizes = chain[0].sizes | f.sizes
    return replace(f, extents=tuple((d, e) for d, e in sizes.items() if d in used))
