"""Counted loops of a graph: passes over their bodies, constants in them, bodies among the other nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cnncc.ir.constants import Constants
from cnncc.ir.graph import Graph, Loop, Node
from cnncc.ir.target import Target
from cnncc.ir.types import BYTES, product


def everywhere(run: Callable[[Graph, Target], Graph], graph: Graph, target: Target) -> Graph:
    """A pass over a graph and then over the bodies of its loops."""
    graph = run(graph, target)
    loops = {n.name: replace(n, loop=replace(n.loop, body=everywhere(run, n.loop.body, target)))
             for n in graph if n.loop is not None}
    return replace(graph, nodes={**graph.nodes, **loops}) if loops else graph


def absorbed(n: Node, constants: Mapping[str, np.ndarray]) -> Node:
    """The loop with those of its operands in its body that are constants and read as a whole by all turns."""
    assert n.loop is not None
    body = n.loop.body
    fixed = {own: constants[i] for own, i, move in zip(body.inputs, n.inputs, n.loop.moves, strict=False)
             if i in constants and move is None}
    nodes = {k: replace(v, op="const") if k in fixed else v for k, v in body.nodes.items()}
    kept = [k for k, own in enumerate(body.inputs) if own not in fixed]
    body = replace(body, nodes=nodes, constants=body.constants.changed(fixed),
                   inputs=tuple(body.inputs[k] for k in kept))
    return replace(n, inputs=tuple(n.inputs[k] for k in kept[:-1]),
                   loop=Loop(body, n.loop.count, tuple(n.loop.moves[k] for k in kept)))


@dataclass(frozen=True)
class Inlined:
    """A graph whose loops have their bodies in front of them, once; what a body takes are views.

    `bodies` are the names of these nodes by that of the loop's; `moves` says for values of bodies how many
    bytes further on the next turn's lie.
    """

    graph: Graph
    bodies: dict[str, tuple[str, ...]]
    moves: dict[str, int]


def inlined(graph: Graph) -> Inlined:
    """The graph as one list of nodes, for the plan. What loops take is plain in memory."""
    nodes: dict[str, Node] = {}
    constants = Constants(graph.constants)
    result = Inlined(replace(graph, nodes=nodes, constants=constants), {}, {})
    for n in graph:
        if n.loop is not None:
            body = n.loop.body
            taken = dict(zip(body.inputs, zip(n.needs, n.loop.moves, strict=True), strict=True))
            called = {name: f"{n.name}/{name}" for name in body.nodes}
            for own in body:
                new = replace(own, name=called[own.name], inputs=tuple(called[i] for i in own.inputs),
                              base=called.get(own.base, ""))
                if own.op == "const":
                    constants[new.name] = body.constants[own.name]
                elif own.name in taken:
                    outer, move = taken[own.name]
                    new = replace(new, op="reshape", inputs=(outer,))
                    if move is not None:
                        inner = product([int(e) for e in own.type.shape[move[0] + 1:]])
                        result.moves[new.name] = move[1] * inner * BYTES[own.type.dtype]
                elif (source := new.base or (new.inputs[0] if own.op == "reshape" else "")) in result.moves:
                    result.moves[new.name] = result.moves[source]
                nodes[new.name] = new
            result.bodies[n.name] = tuple(called.values())
        nodes[n.name] = n
    return result
