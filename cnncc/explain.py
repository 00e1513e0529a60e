"""What `cnncc show` tells of a compilation: the graph after a pass, a kernel's candidates, native code."""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cnncc.codegen.worker import Machine, assembly
from cnncc.compiler import folded, optimize, pipeline, plan, stages
from cnncc.ir.errors import InputError
from cnncc.ir.graph import Graph, Node
from cnncc.ir.loops import inlined
from cnncc.ir.regions import parts
from cnncc.ir.schedule import HINTS, Schedule
from cnncc.ir.target import Target
from cnncc.passes.algorithms import choose_algorithms, tile_sizes
from cnncc.passes.choice import choose_schedules
from cnncc.passes.memory import anchored, symbol_of
from cnncc.passes.schedules import candidates, weights_of


def passes() -> dict[str, str]:
    """The names of the passes in order with the first lines of their docstrings, "read" first."""
    found = {p.__name__: (inspect.getdoc(p) or "").partition("\n")[0] for p in pipeline()}
    return {"read": "The graph as the model's file has it.", **found}


def graph_after(graph: Graph, target: Target, name: str | None = None) -> tuple[str, Graph]:
    """(pass, graph after it): the pass called `name`, or the last. Raises InputError listing the passes."""
    if name is not None and name not in (known := passes()):
        lines = "".join(f"\n  {p:18} {text}" for p, text in known.items())
        raise InputError(f"no pass is called {name!r}; there are{lines}")
    last = "read", graph
    for last in stages(graph, target):
        if last[0] == name:     # what comes after may fail
            break
    return last


def nodes_of(graph: Graph, name: str) -> list[Node]:
    """The nodes of a graph that are called `name`, or come from the user's node of that name; maybe none.

    Those in bodies of loops are among them.
    """
    return [n for n in inlined(graph).graph
            if n.op not in ("input", "const") and (n.name == name or name in n.origin)]


def check_name(graph: Graph, name: str) -> None:
    """Raises InputError where the model as read has no such node or value."""
    if not nodes_of(graph, name):
        known = sorted({o for n in graph for o in (n.name, *n.origin) if n.op not in ("input", "const")})
        close = difflib.get_close_matches(name, known, 3)
        hint = f": is it {' or '.join(map(repr, close))}?" if close else f"; some are {', '.join(known[:5])}"
        raise InputError(f"the model has no node {name!r}{hint}")


@dataclass(frozen=True)
class Why:
    """How a kernel's loops were chosen: how many candidates, the cheapest (cycles, loops), which is taken."""

    value: str
    does: str
    nodes: tuple[str, ...]
    total: int
    best: tuple[tuple[float, str], ...]
    chosen: int | None

    def __str__(self) -> str:
        rows = [f"\n  {'->' if i == self.chosen else '  '} {cycles:14,.0f} cycles  {loops}"
                for i, (cycles, loops) in enumerate(self.best)]
        shown = self.chosen is not None and self.chosen < len(rows)
        return (f"{self.value}: {self.does}\n  computes {', '.join(self.nodes)}\n  {self.total} candidates, "
                f"the cheapest:{''.join(rows)}" + "\n  chosen was none of these" * (not shown))


def algorithms(graph: Graph, target: Target, name: str) -> str:
    """The ways to compute a convolution of the model with their predicted costs, as a line; maybe none."""
    *_, (_, before) = itertools.takewhile(lambda step: step[0] != choose_algorithms.__name__,
                                          stages(graph, target))
    for n in nodes_of(before, name):
        if len(costs := tile_sizes(n, before, target)) > 1:
            return f"{n.name}: " + ", ".join(f"{f'Winograd in tiles of {m}' if m > 1 else 'plain sums'} "
                                             f"{cycles:,.0f} cycles" for m, cycles in costs.items())
    return ""


def why(graph: Graph, target: Target, name: str, top: int = 10) -> tuple[list[Why], str]:
    """The kernels that compute a node of the model, and where there are none the reason."""
    check_name(graph, name)
    after = dict(stages(graph, target))
    names = list(after)
    before, final = after[names[names.index(choose_schedules.__name__) - 1]], after[names[-1]]
    found, earlier, chosen = [], inlined(before).graph, inlined(final).graph.nodes
    for n in nodes_of(earlier, name):
        if n.kernel is None:
            continue
        taken = chosen[n.name].kernel if n.name in chosen else None
        weights = weights_of(n, earlier)
        several = parts(n.kernel) if len(n.kernel.stages) > 1 else [n.kernel]
        for i, part in enumerate(several):
            priced = candidates(part, [w for w in weights if w in part.tensors], target)
            rows = list(dict.fromkeys((c.cycles, str(Schedule((*c.outside, *c.inside)))) for c in priced))
            loops = None
            if taken is not None:   # a kernel's only stage has the kernel's own loops outside
                shared = taken.loops.loops if len(taken.stages) == 1 else ()
                loops = _bare(str(Schedule((*shared, *taken.stages[i].schedule.loops))))
            place = next((j for j, (_, text) in enumerate(rows) if _bare(text) == loops), None)
            what = f", stage {i + 1} of {len(several)}" if len(several) > 1 else ""
            found.append(Why(n.name, str(n.attr.get("does", n.op)) + what, n.origin, len(rows),
                             tuple(rows[:top]), place))
    return found, "" if found else folded(graph, plan(final).plan).get(name, "no kernel computes it")


def _bare(loops: str) -> str:
    """Loops without what is decided after they are chosen."""
    later = tuple(f"{hint} " for hint in HINTS if hint != "reload")
    kept = (x for x in loops.split(", ") if not x.startswith(later))
    return ", ".join(kept).replace("par ", "").replace("~", "")


def native(graph: Graph, target: Target, name: str | None, emit: str) -> Iterator[tuple[str, str]]:
    """(what, LLVM text or assembly) of the kernels of one node or, without `name`, of everything."""
    if name is not None:
        check_name(graph, name)
    final = optimize(graph, target)
    owners: dict[str, list[str]] = {}
    for n in nodes_of(final, name) if name is not None else inlined(final).graph:
        if n.kernel is not None:
            owners.setdefault(symbol_of(anchored(n.kernel)[0]), []).append(", ".join(n.origin) or n.name)
    machine = Machine(target.triple, target.cpu, target.features)
    for symbol, text in plan(final).texts(target):
        if name is None or symbol in owners:
            what = f"{symbol}: {'; '.join(owners.get(symbol, ['the model']))}"
            yield what, assembly(text, machine) if emit == "asm" else text
