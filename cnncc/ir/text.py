"""Graphs read back from their text: what `str(graph)` prints anywhere in the pipeline, constants apart."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping

import numpy as np

from cnncc.ir.constants import Constants
from cnncc.ir.errors import InternalError
from cnncc.ir.graph import Attr, Graph, Loop, Node
from cnncc.ir.kernel import parse_kernel
from cnncc.ir.plan import Signal
from cnncc.ir.types import parse_type

TURNS = re.compile(r"turns (\d+) moves (\[.*\])")
SIGNAL = re.compile(r"(.*?)(?: (\d+) (\d+))?")
NAME = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[\w./:+-]*[\w./+-]"""
HEAD = re.compile(rf"({NAME}): (\w+\[[^]]*\]) = (\w+)\(((?:(?:{NAME})(?:, )?)*)\)"
                  rf"((?: \w+=\S+)*)(?: over ({NAME}))?(?: from (.*))?$")


def _names(text: str) -> Iterator[str]:
    for token in re.findall(NAME, text):
        yield ast.literal_eval(token) if token[0] in "'\"" else token


def parse_graph(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """The graph that a text describes; `constants` are the values of its const nodes.

    Raises InternalError for a line that can't be read.
    """
    nodes: dict[str, Node] = {}
    name, outputs = "", []
    blocks: list[list[str]] = []
    signals: list[Signal] = []
    state: list[tuple[str, str]] = []
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if line.startswith("      "):
            blocks[-1].append(line[6:])
        elif word == "graph":
            name = next(_names(rest))
        elif word == "return":
            outputs = [(next(_names(a)), next(_names(b))) for a, b in re.findall(rf"({NAME})=({NAME})", rest)]
        elif word == "signal":
            match = SIGNAL.fullmatch(rest)
            if match is None:
                raise InternalError(f"can't read the signal {rest!r}")
            said, output, axis = match.groups()
            signals.append(Signal(ast.literal_eval(said), int(output) if output else None, int(axis or 0)))
        elif word == "state":
            state += [(next(_names(a)), next(_names(b))) for a, b in re.findall(rf"({NAME})=({NAME})", rest)]
        else:
            blocks.append([line.strip()])
    for head, *more in blocks:
        match = HEAD.match(head)
        if match is None:
            raise InternalError(f"can't read the node {head!r}")
        own = next(_names(match[1]))
        attrs: tuple[tuple[str, Attr], ...] = tuple(
            (k, ast.literal_eval(v)) for k, _, v in (a.partition("=") for a in match[5].split()))
        text = "\n".join(more)
        kernel, loop = (parse_kernel(text), None) if match[3] == "kernel" else \
            (None, _loop(text, constants) if more else None)
        nodes[own] = Node(own, match[3], tuple(_names(match[4])), parse_type(match[2]), attrs,
                          tuple(_names(match[7] or "")), kernel, next(_names(match[6] or ""), ""), loop)
    inputs = tuple(n.name for n in nodes.values() if n.op in ("input", "state") and n.name not in dict(state))
    return Graph(name, nodes, inputs, tuple(outputs), Constants(constants), tuple(signals), tuple(state))


def _loop(text: str, constants: Mapping[str, np.ndarray] | None) -> Loop:
    head, _, body = text.partition("\n")
    match = TURNS.fullmatch(head)
    if match is None:
        raise InternalError(f"can't read the loop {head!r}")
    return Loop(parse_graph(body, constants), int(match[1]), tuple(ast.literal_eval(match[2])))
