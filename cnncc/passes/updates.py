"""States in the memory plan: where each lies, and that it is read before it is written over."""

from __future__ import annotations

from cnncc.ir.graph import Graph
from cnncc.ir.plan import Held, aligned


def updates_last(graph: Graph) -> Graph:
    """What is written over a state comes after all that reads it. Raises InternalError where it can't."""
    readers = graph.users()
    return graph.ordered({value: [r for r in readers[name] if r not in ("", value)]
                          for name, value in graph.state})


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
