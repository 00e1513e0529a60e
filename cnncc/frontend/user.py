"""Ops that users define: `op("y = max(x, 0) * 0.5")`, or a function of a builder and values."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cnncc.frontend import yaml_file
from cnncc.frontend.builder import Builder
from cnncc.frontend.files import expect
from cnncc.frontend.layers import EXPECTED, REQUIRED, Kind, Layer, known
from cnncc.frontend.onnx_node import KINDS, Call, Row, support
from cnncc.frontend.yaml_file import Entry
from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.graph import Attr
from cnncc.ir.ops import NAMES
from cnncc.ir.ops.formulas import parse_template
from cnncc.ir.signature import Array

FORMULA = "cnncc.Formula"
"""The ONNX op of a formula without a name of its own: the text is its attribute `formula`."""
NAME = re.compile(r"(\w+\.)*[A-Za-z_]\w*")


@dataclass(frozen=True)
class UserOp(Kind):
    """A kind of layer, that `Builder.layer` adds; `key` is all that decides what it computes, where known."""

    key: str = ""

Ops: TypeAlias = Mapping[str, UserOp]


def op(formula: str | Callable[..., str], name: Any = "", /, **attributes: Any) -> UserOp:
    """An op: a formula, `op("y[n,c,{p}] += x[n,c,{p+r}] * f", R=3, f=1/9)`, or a function `(b, x, *, a=1)`.

    `attributes` are the numbers that the formula names, with defaults: None where each use must give one. A
    tuple has one number for each spatial dimension, an upper-case letter is the extent of its dimension. The
    function adds layers to the `Builder` it is given and returns a value; its keywords are the attributes.
    `name` is what an ONNX file calls the op, `my.domain.Name`. Raises InputError.
    """
    if not isinstance(name, str) or (name and not NAME.fullmatch(name)):
        raise InputError(f"an op's name is made of words and dots, not {name!r:.60}")
    if callable(formula):
        if attributes:
            raise InputError("the attributes of a function are its keyword-only parameters")
        return _of_function(formula, name)
    return _of_formula(formula, name, attributes)


def read(path: str | os.PathLike[str]) -> dict[str, UserOp]:
    """The ops of a YAML file, by name: a formula, or a mapping of `formula` and the attributes' defaults.

    Raises ModelError, which names the line.
    """
    label, root = os.fsdecode(path), yaml_file.read(path)
    try:
        with yaml_file.at(root.line):
            expect(isinstance(root.value, dict) and root.value,
                   'expected formulas by name, such as {my.Op: "y = x * 2"}')
        return {name: _entry(name, entry) for name, entry in root.value.items()}
    except ModelError as error:
        raise ModelError(f"{label}, {error}") from None


def _entry(name: str, entry: Entry) -> UserOp:
    """The op that a file defines under a name."""
    given = entry.value if isinstance(entry.value, dict) else {"formula": entry}
    with yaml_file.at(entry.line):
        expect("formula" in given and isinstance(given["formula"].value, str), f"{name!r:.60} has no formula")
        values = {k: [part.value for part in v.value] if isinstance(v.value, list) else v.value
                  for k, v in given.items() if k != "formula"}
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        try:
            return op(given["formula"].value, name, **values)
        except InputError as error:
            raise ModelError(str(error)) from None


def _of_formula(text: str, name: str, attributes: Mapping[str, Any]) -> UserOp:
    template = parse_template(text, attributes)
    words = set(re.findall(r"\w+", template.text))
    for key, value in attributes.items():
        if key == "formula" or {key, key.lower(), f"{key}0"}.isdisjoint(words):
            raise InputError(f"formula {text!r:.200}: it names no attribute {key!r:.60}")
        what, test = EXPECTED["Attribute"]
        if value is not None and not test(value):
            raise InputError(f"attribute {key}: expected {what}, got {value!r:.60}")

    def make(layer: Layer, *of: str, **given: Any) -> str:
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in {**attributes, **given}.items()}
        value = layer.emit("formula", *of, text=template.text, values=tuple(sorted(values.items())),
                           **{"called": name} if name else {})
        expect(all(isinstance(e, int) for e in layer.shape(value)[1:]),
               f"its result, {layer.graph.type(value)}, has the batch in another place than the first")
        return value
    keys = {k: ("Attribute", REQUIRED if v is None else v) for k, v in attributes.items()}
    return UserOp(name or "formula", make, len(template.operands), keys,
                  len(template.operands) == 1 and None not in attributes.values(),
                  repr((template.text, sorted(attributes.items()), name)))


def _of_function(function: Callable[..., str], name: str) -> UserOp:
    parameters = list(inspect.signature(function).parameters.values())
    values = [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    keys = {p.name: ("Anything", p.default) for p in parameters if p.kind is p.KEYWORD_ONLY}
    if not values or len(parameters) != 1 + len(values) + len(keys):
        raise InputError("an op's function takes a builder, values, and keyword-only attributes")

    def make(layer: Layer, *of: str, **given: Any) -> str:
        value = function(_Within(layer), *of, **given)
        known(value, layer.graph.nodes, f"its function returned {value!r:.60}, which is no value")
        return value
    return UserOp(name or function.__name__.strip("<>"), make, len(values), keys,
                  len(values) == 1 and all(default is not REQUIRED for _, default in keys.values()))


class _Within(Builder):
    """What an op's function is given: its layers are named after the one that it makes."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self._graph, self._layer = layer.graph, layer

    def layer(self, kind: Kind, *of: str, id: str | None = None, act: str | Kind | None = None,
              **keys: Any) -> str:
        own = f"{self._layer.name}.{self.name(kind.name) if id is None else id}"
        return super().layer(kind, *of, id=own, act=act, **keys)

    def _parameter(self, name: str, shape: tuple[int, ...], given: Array | None, middle: float,
                   width: float) -> Array:
        return self._layer.parameters(name, shape, given, middle, width)


# ---- as nodes of ONNX files

@dataclass
class _Node(Layer):
    """A node of an ONNX file as a layer."""

    call: Call

    def emit(self, op: str, *inputs: str, **attrs: Attr) -> str:
        return self.call.emit(op, inputs, **attrs)


def row(user: UserOp) -> Row:
    """The importer's row of a user's op."""
    return Row(lambda c: _convert(c, user, _attributes(c)), user.inputs, user.inputs)


def _attributes(c: Call) -> dict[str, Any]:
    """All attributes of the node, which must be numbers or lists of them."""
    found: dict[str, Any] = {}
    for name, a in c.attributes.items():
        if name in c.read:
            continue
        field, _ = KINDS.get(a.type, ("", ""))
        support(field in ("f", "i", "floats", "ints"), f"attribute {name[:60]!r} is no number")
        value = c.attribute(name, field)
        found[name] = value if field in ("f", "i") else tuple(value)
    return found


def _convert(c: Call, user: UserOp, attributes: Mapping[str, Any]) -> str:
    layer = _Node(c.out, c.scope.builder, Builder()._parameter, c)
    of = [c.value(i) for i in range(user.inputs)]
    try:
        user.check_all(attributes)
        value = user.make(layer, *of, **attributes)
    except ModelError as error:
        raise error if str(error).startswith(c.label) else ModelError(f"{c.label}: {error}") from None
    c.checked(c.scope.builder.type(value))
    return value


def _formula(c: Call) -> str:
    """The op that brings its formula along."""
    text = c.attribute("formula", "s", b"")
    try:
        user = op(text.decode(errors="replace"), **(attributes := _attributes(c)))
    except InputError as error:
        raise ModelError(f"{c.label}: {error}") from None
    c.expect(len(c.node.input) == user.inputs, f"has {len(c.node.input)} inputs, its formula {user.inputs}")
    return _convert(c, user, attributes)


ROWS = {FORMULA: Row(_formula, 1, len(NAMES))}
