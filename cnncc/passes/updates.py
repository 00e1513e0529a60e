"""States in the memory plan: where each lies, and that it is read before it is written over."""

from __future__ import annotations

from dataclasses import replace

from cnncc.ir.errors import InternalError
from cnncc.ir.graph import Graph, Node
from cnncc.ir.plan import Held, aligned


def updates_last(graph: Graph) -> Graph:
    """What is written over a state comes after all that reads it. Raises InternalError where it can't."""
    readers = graph.users()
    after = {value: [r for r in readers[name] if r not in ("", value)] for name, value in graph.state}
    needs = {n.name: (*n.needs, *after.get(n.name, ())) for n in graph}
    done: dict[str, Node] = {}
    begun: set[str] = set()
    stack = list(graph.nodes)[::-1]
    while stack:
        name = stack[-1]
        missing = [] if name in done else [i for i in needs[name] if i not in done]
        if not missing:
            done[stack.pop()] = graph[name]
        elif name in begun:
            raise InternalError(f"{graph.name}: {name} must come after {missing[0]}, which needs it")
        else:
            begun.add(name)
            stack += reversed(missing)
    return replace(graph, nodes=done)


def held(graph: Graph) -> tuple[Held, ...]:
    """The states one after the other, each in the order in which it is written."""
    result: list[Held] = []
    at = 0
    for name, value in graph.state:
        n = graph[value]
        assert n.kernel is not None
        t = n.kernel.output
        result.append(Held(name, n.type.numpy.name, n.type.static(), t.type.static(), str(t.layout), at,
                           t.nbytes))
        at += aligned(t.nbytes)
    return tuple(result)
