"""Definition files: networks in YAML. `Builder` makes their layers; blocks and repetition are here."""

from __future__ import annotations

import ast
import operator
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from cnncc.frontend import yaml_file
from cnncc.frontend.builder import Builder
from cnncc.frontend.files import Opening, expect, inside
from cnncc.frontend.kinds import KINDS
from cnncc.frontend.layers import REQUIRED, WORDS, Kind, Layer, known
from cnncc.frontend.onnx import ModelInfo
from cnncc.frontend.preprocess import Preprocess, preprocessed
from cnncc.frontend.user import Ops
from cnncc.frontend.weights import read_weights
from cnncc.frontend.yaml_file import Entry, at
from cnncc.ir.errors import InputError, ModelError, hint
from cnncc.ir.graph import Graph

MAX_LAYERS = 10_000         # after repetition
MAX_NESTING = 20            # blocks within blocks
LARGEST = 1 << 31           # in arithmetic
COMMON = ("id", "of", "act", "repeat")
TYPES: dict[type, str] = {dict: "keys with values", list: "a list", str: "a name"}
ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod}


def inspect(path: str | os.PathLike[str], ops: Ops | None = None) -> ModelInfo:
    """What is in a definition. Raises ModelError as `read`."""
    graph = read(path, ops=ops)
    sizes = [(c.size, c.nbytes) for c in graph.constants.values()]
    return ModelInfo(
        graph.name, "", 0, 0, tuple((i, graph[i].type) for i in graph.inputs),
        tuple((name, graph[value].type) for name, value in graph.outputs),
        dict(Counter(n.op for n in graph if n.op not in ("input", "const")).most_common()),
        sum(count for count, _ in sizes), sum(nbytes for _, nbytes in sizes), ())


def read(path: str | os.PathLike[str], opening: Opening | None = None,
         outputs: Sequence[str] | None = None, ops: Ops | None = None) -> Graph:
    """The graph of a definition file; `opening` is told of its file of weights before that is read.

    `outputs` are ids that take the place of its outputs, `ops` are the user's by the name that the file gives
    them. Raises ModelError, which names the line, InputError for an id that it hasn't got.
    """
    label, root = os.fsdecode(path), yaml_file.read(path)
    try:
        return _Definition(root, Path(label), opening, ops or {}).graph(outputs)
    except ModelError as error:
        raise ModelError(f"{label}, {error}") from None


@dataclass(frozen=True)
class _Scope:
    """Where a list of layers stands, in the definition or in one use of a block: what it may name."""

    prefix: str
    values: dict[str, str]                  # by input and id
    parameters: Mapping[str, Any]


class _Definition:
    """One pass over the layers of a definition."""

    def __init__(self, root: Entry, path: Path, opening: Opening | None, ops: Ops) -> None:
        self.keys = _keys(root, "a definition", ("input", "layers"),
                          ("name", "output", "blocks", "seed", "init", "weights", "preprocess"))
        options: dict[str, Any] = {}
        for key in (k for k in ("seed", "init") if k in self.keys):
            with at(self.keys[key].line):
                options[key] = self.keys[key].value
                Builder(**options)      # checks it
        if entry := self.keys.get("weights"):
            name = _typed(entry, str, "weights")
            with at(entry.line):
                file = inside(path.parent, name, "weights")
                if opening is not None:
                    opening(name, file)
                options["weights"] = read_weights(file, f"weights: {name!r}")
        name = _typed(self.keys["name"], str, "name") if "name" in self.keys else path.stem
        self.builder = Builder(name, **options)
        self.layers, self.blocks, self.kinds = 0, list[str](), KINDS | dict(ops)
        for name, block in _typed(self.keys.get("blocks", Entry({}, 1)), dict, "blocks").items():
            with at(block.line):
                expect(name not in self.kinds, f"there is an op called {name!r} already")
            self.kinds[name] = self._block(name, block)

    def graph(self, outputs: Sequence[str] | None) -> Graph:
        """The graph, which takes images where the definition says how."""
        made = self._graph(outputs)
        if (entry := self.keys.get("preprocess")) is None:
            return made
        keys = _keys(entry, "preprocess", (), [f.name for f in fields(Preprocess)])
        with at(entry.line):
            try:
                return preprocessed(made, Preprocess(**{k: _evaluate(e, {}) if isinstance(e.value, list) else
                                                        e.value for k, e in keys.items()}))
            except InputError as error:
                raise ModelError(str(error)) from None

    def _graph(self, outputs: Sequence[str] | None) -> Graph:
        values: dict[str, str] = {}
        for name, entry in _typed(self.keys["input"], dict, "input").items():
            shape = [e.value for e in _typed(entry, list, f"input {name!r}")]
            with at(entry.line):
                values[name] = self.builder.input(name, shape)
        last = self._list(self.keys["layers"], _Scope("", values, {}))
        if outputs is not None:
            if unknown := [name for name in outputs if name not in values]:
                raise InputError(f"{self.builder.graph(last).name} has no value {unknown[0]!r}"
                                 f"{hint(unknown[0], values)}")
            return self.builder.graph(**{name: values[name] for name in outputs})
        if "output" not in self.keys:
            return self.builder.graph(last)
        own = _names(self.keys["output"], "output")
        with at(self.keys["output"].line):
            for name in own:
                known(name, values, f"output: nothing is called {name!r}")
            return self.builder.graph(**{name: values[name] for name in own})

    def _block(self, name: str, entry: Entry) -> Kind:
        """A block as a kind of layer: its parameters are the keys."""
        keys = _keys(entry, f"block {name!r}", ("layers",), ("input", "params"))
        inputs = _names(keys["input"], "input") if "input" in keys else ["x"]
        params = {p: e.value for p, e in _typed(keys.get("params", Entry({}, 1)), dict, "params").items()}

        def make(layer: Layer, *values: str, **given: Any) -> str:
            expect(name not in self.blocks, f"the block {name!r} contains itself")
            expect(len(self.blocks) < MAX_NESTING, f"more than {MAX_NESTING} blocks within each other")
            self.blocks.append(name)
            scope = _Scope(f"{layer.name}.", dict(zip(inputs, values, strict=True)), params | given)
            result = self._list(keys["layers"], scope)
            self.blocks.pop()
            return result
        return Kind(name, make, len(inputs), {p: ("Scalar", REQUIRED if v is None else v)
                                              for p, v in params.items()})

    def _list(self, entry: Entry, scope: _Scope) -> str:
        """Add layers in order, each reading the one before unless it says otherwise; the last one's value."""
        rows = _typed(entry, list, "layers")
        with at(entry.line):
            expect(rows, "layers: the list is empty")
        lines: dict[str, int] = {}
        for row in rows:
            if "id" in _typed(row, dict, "a layer"):
                name, line = _typed(row.value["id"], str, "id"), row.value["id"].line
                with at(line):
                    expect(re.fullmatch(r"[\w-]+", name), f"id: {name!r:.60} is no plain word")
                    expect(name not in scope.values, f"id: {name!r} is an input")
                    expect(name not in lines, f"id: {name!r} is used twice, first on line {lines.get(name)}")
                lines[name] = line
        value = next(iter(scope.values.values())) if len(scope.values) == 1 else ""
        for row in rows:
            value = self._layer(row, scope, value, lines)
        return value

    def _layer(self, entry: Entry, scope: _Scope, previous: str, lines: Mapping[str, int]) -> str:
        """Add a layer, as often as it says; its value. `lines` tells where the ids of its list are."""
        row: dict[str, Entry] = entry.value
        with at(entry.line):
            expect("op" in row, "a layer needs the key 'op'")
        op = _typed(row["op"], str, "op")
        with at(row["op"].line):
            known(op, self.kinds, f"there is no op {op!r}")
        kind, keys = self.kinds[op], dict[str, Any]()
        takes = [key for key, (what, _) in kind.keys.items() if what != "Weight"] + [*COMMON]
        for key, given in row.items():
            with at(given.line):
                known(key, ("op", *takes), f"{op} takes {', '.join(takes)}, not {key!r:.60}")
            if key not in ("op", *COMMON):
                word = kind.keys[key][0] in WORDS
                keys[key] = given.value if word else _evaluate(given, scope.parameters)
                with at(given.line):
                    kind.check(key, keys[key])
        values = self._values(row, scope, lines) if "of" in row else [previous]
        times = _evaluate(row["repeat"], scope.parameters) if "repeat" in row else 1
        with at(row.get("repeat", entry).line):
            expect(type(times) is int and times >= 0, f"repeat: expected an integer from 0 on, got {times!r}")
        name = scope.prefix + row["id"].value if "id" in row else self.builder.name(scope.prefix + op)
        act = _typed(row["act"], str, "act") if "act" in row else None
        with at(entry.line):
            expect("of" in row or (previous and kind.inputs == 1 and not kind.several),
                   f"{op}: name what it reads with 'of'")
            for i in range(times):
                self.layers += 1
                expect(self.layers <= MAX_LAYERS, f"more than {MAX_LAYERS:,} layers after repetition")
                own = f"{name}.{i}" if "repeat" in row else name
                values[0] = self.builder.layer(kind, *values, id=own, act=self.kinds.get(act or "", act),
                                               **keys)
        if "id" in row:
            scope.values[row["id"].value] = values[0]
        return values[0]

    @staticmethod
    def _values(row: Mapping[str, Entry], scope: _Scope, lines: Mapping[str, int]) -> list[str]:
        names = _names(row["of"], "of")
        with at(row["of"].line):
            for name in names:
                expect(name in scope.values or name not in lines, f"of: {name!r} comes later, on line "
                       f"{lines.get(name)}: layers are in order, and none can read itself")
                known(name, scope.values, f"of: nothing is called {name!r}")
        return [scope.values[name] for name in names]


def _typed(entry: Entry, type: type, what: str) -> Any:
    """The value, which must be of that type."""
    with at(entry.line):
        got = TYPES.get(entry.value.__class__, repr(entry.value)[:60])
        expect(isinstance(entry.value, type), f"{what}: expected {TYPES[type]}, got {got}")
    return entry.value


def _keys(entry: Entry, what: str, required: Collection[str], others: Collection[str]) -> dict[str, Entry]:
    """Keys with values, of which there may be these."""
    found: dict[str, Entry] = _typed(entry, dict, what)
    for key, value in found.items():
        with at(value.line):
            known(key, (*required, *others), f"{what} has {', '.join((*required, *others))}, not {key!r:.60}")
    with at(entry.line):
        for key in required:
            expect(key in found, f"{what} needs the key {key!r}")
    return found


def _names(entry: Entry, what: str) -> list[str]:
    """One name, or a list of names."""
    entries = entry.value if isinstance(entry.value, list) else [entry]
    with at(entry.line):
        expect(entries, f"{what}: the list is empty")
    return [_typed(e, str, what) for e in entries]


def _evaluate(entry: Entry, parameters: Mapping[str, Any]) -> Any:
    """A plain value, in which texts are parameters or integer arithmetic with them."""
    text = entry.value
    if isinstance(text, list):
        return [_evaluate(e, parameters) for e in text]
    if not isinstance(text, str):
        return text
    if text in parameters:
        return parameters[text]
    with at(entry.line):
        try:
            expect(len(text) <= 200, "the arithmetic is too long")
            return _arithmetic(ast.parse(text, mode="eval").body, parameters)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
            raise ModelError(f"{text!r:.60} is no integer arithmetic") from None


def _arithmetic(node: ast.expr, parameters: Mapping[str, Any]) -> int:
    match node:
        case ast.Constant(value=value):
            pass
        case ast.Name(id=name):
            known(name, parameters, f"{name!r} is neither a number nor a parameter")
            value = parameters[name]
        case ast.UnaryOp(op=ast.USub(), operand=x):
            value = -_arithmetic(x, parameters)
        case ast.BinOp(op=op, left=x, right=y) if type(op) in ARITHMETIC:
            value = ARITHMETIC[type(op)](_arithmetic(x, parameters), _arithmetic(y, parameters))
        case _:
            raise ValueError
    if type(value) is not int or abs(value) > LARGEST:
        raise ValueError
    return value
