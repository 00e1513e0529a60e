"""`torch.compile(model, backend="cnncc")`: inference; what can't be compiled, PyTorch goes on to run.

A graph is compiled when it first runs with inputs of new shapes. It is exported to ONNX whole or, where the
frontend refuses some of its nodes, in the stretches between these, which PyTorch goes on to run; one line of
the log says so. Every compiled part is compared with PyTorch on the first inputs before it is used.

Parameters and buffers become constants: the graph is compiled again when one was replaced or written to (by
PyTorch). PyTorch runs graphs whose results need gradients or that write to tensors which are used elsewhere,
and calls with more than `SHAPES` combinations of shapes.
"""

from __future__ import annotations

import copy
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import fx
from torch.utils.flop_counter import FlopCounterMode

from cnncc.compiler import compile, read
from cnncc.ir.errors import CnnccError

log = logging.getLogger("cnncc")

SHAPES, MODULES = 8, 64     # of each the programs of one graph
OPSET = 17
TOLERANCE = 1e-3        # of the largest value: what tells a wrong export from rounding


@dataclass
class Report:
    """What ran since the report began; FLOPs are PyTorch's count, of convolutions and products.

    `eager_calls` of `calls` were PyTorch's as a whole and aren't counted; `eager` are ops that it ran between
    compiled parts, with the reason.
    """

    calls: int = 0
    eager_calls: int = 0
    flops: int = 0
    compiled_flops: int = 0
    eager: dict[str, str] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """The part of the FLOPs that cnncc ran."""
        return self.compiled_flops / self.flops if self.flops else 0.0


_report = Report()


def report(reset: bool = False) -> Report:
    """How much of the models cnncc ran; with `reset` the next report begins here."""
    global _report      # noqa: PLW0603
    result = copy.deepcopy(_report)
    if reset:
        _report = Report()
    return result


def backend(graph: Any, inputs: Sequence[Any], **options: Any) -> Callable[..., Any]:
    """What runs a graph of Dynamo's: the entry point in the group `torch_dynamo_backends`. No options."""
    return _Graph(graph, inputs).run


class _Eager(Exception):
    """Something is left to PyTorch; the text is the reason."""


@dataclass(frozen=True, eq=False)
class _Part:
    """A stretch of a graph: nodes whose values it takes, the function, nodes whose values it gives."""

    takes: Sequence[Any]
    run: Callable[..., Any]
    gives: Sequence[Any]


class _Graph:
    """A graph with what was compiled of it: by its weights (modules of one class share a graph), with how
    often these had been written to, and by the shapes of its inputs."""

    def __init__(self, graph: Any, inputs: Sequence[Any]) -> None:
        self.graph = graph
        self.built: dict[Any, tuple[Any, dict[Any, _Program | str]]] = {}
        self.said: set[str] = set()
        self.fixed = {i: None for i, x in enumerate(inputs) if isinstance(x, torch.nn.Parameter)
                      or getattr(x, "_dynamo_static_input_type", None)}

    def run(self, *args: Any) -> Any:
        program = self._refusal(args) or self._program(args)
        _report.calls += 1
        if not isinstance(program, str):
            return program.run(args)
        _report.eager_calls += 1
        if program not in self.said:
            self.said.add(program)
            log.warning("torch.compile: a graph runs in PyTorch: %s", program)
        return self.graph(*args)

    def _refusal(self, args: Sequence[Any]) -> str:
        """Why a call must be PyTorch's, else nothing."""
        tensors = [x for x in args if isinstance(x, torch.Tensor)]
        if torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
            return "gradients are requested: call the model under torch.no_grad()"
        if any(x.device.type != "cpu" or x.layout != torch.strided for x in tensors):
            return "an input is no dense tensor on the CPU"
        if any(args[i].is_inference() for i in self.fixed):
            return "a parameter or buffer was made in inference mode, where PyTorch doesn't count writes"
        return ""

    def _program(self, args: Sequence[Any]) -> _Program | str:
        weights = tuple(args[i].data_ptr() for i in self.fixed)
        writes = tuple(args[i]._version for i in self.fixed)
        known, built = self.built.get(weights, (None, {}))
        if known != writes:
            self.built.pop(weights, None)
            if len(self.built) >= MODULES:
                del self.built[next(iter(self.built))]
            self.built[weights] = writes, (built := {})
        key = tuple((x.shape, x.dtype) if isinstance(x, torch.Tensor) else x
                    for i, x in enumerate(args) if i not in self.fixed)
        if key not in built:
            if len(built) >= SHAPES:
                return f"its inputs came in more than {SHAPES} combinations of shapes"
            try:    # outside of inference mode, so that writes are counted
                with torch.inference_mode(False), torch.no_grad(), torch.random.fork_rng([]):
                    built[key] = _Program(self.graph, self.fixed, args)
            except _Eager as reason:
                built[key] = str(reason)
        return built[key]


class _Program:
    """A graph for inputs of one shape: its parts in order, compiled or PyTorch's. Raises _Eager."""

    def __init__(self, graph: Any, fixed: Iterable[int], args: Sequence[Any]) -> None:
        self.graph = fx.GraphModule(graph, copy.deepcopy(graph.graph))
        self.inputs = [n for n in self.graph.graph.nodes if n.op == "placeholder"]
        for i in fixed:
            self.graph.register_buffer(f"fixed{i}", args[i].detach())
            with self.graph.graph.inserting_before(self.inputs[i]):
                self.inputs[i].replace_all_uses_with(self.graph.graph.get_attr(f"fixed{i}"))
        self.nodes = _evaluate(self.graph, args)
        self.constants = {n: attrgetter(n.target)(self.graph) for n in self.graph.graph.nodes
                          if n.op == "get_attr"}
        self.output = next(n for n in self.graph.graph.nodes if n.op == "output").args[0]
        self.flops, self.compiled_flops = _flops(self.nodes), 0
        self.eager: dict[str, str] = {}
        self.parts = self._divide()
        for n in self.graph.graph.nodes:
            n.meta.clear()      # the values
        if self.eager:
            log.warning("torch.compile: cnncc runs %.1f %% of a graph's FLOPs, PyTorch runs %s",
                        100 * self.compiled_flops / max(self.flops, 1),
                        ", ".join(f"{op} ({why})" for op, why in self.eager.items()))

    def run(self, args: Sequence[Any]) -> Any:
        values = {**self.constants, **dict(zip(self.inputs, args, strict=True))}
        for part in self.parts:
            values.update(zip(part.gives, part.run(*[values[n] for n in part.takes]), strict=True))
        _report.flops += self.flops
        _report.compiled_flops += self.compiled_flops
        _report.eager |= self.eager
        return fx.map_arg(self.output, values.__getitem__)

    def _divide(self) -> list[_Part]:
        """All of the graph compiled, else the stretches that are worth it, and PyTorch's between them."""
        reasons = {n: n.meta["reason"] for n in self.nodes}
        if not any(reasons.values()):
            try:
                return [self._compiled(self.nodes)] if self.nodes else []
            except _Eager as error:
                whole = str(error)
        tried: dict[Any, str] = {}
        for n in self.nodes:
            if not reasons[n]:
                if (what := _describe(n)) not in tried:
                    tried[what] = _refused(self.graph, n)
                reasons[n] = tried[what]
        if not any(reasons.values()):
            raise _Eager(whole)
        parts = []
        for reason, group in itertools.groupby(self.nodes, lambda n: bool(reasons[n])):
            nodes = list(group)
            try:
                if reason or not _flops(nodes):
                    raise _Eager("too little to do")
                parts.append(self._compiled(nodes))
            except _Eager as error:
                module, takes, gives = _piece(self.graph, nodes)
                parts.append(_Part(takes, module, gives))
                for n in nodes:
                    self.eager.setdefault(_name(n), reasons[n] or str(error))
        return parts

    def _compiled(self, nodes: Sequence[Any]) -> _Part:
        """These nodes, compiled and compared with PyTorch. Raises _Eager where that can't be done."""
        module, takes, gives = _piece(self.graph, nodes)
        if not gives or not all(isinstance(n.meta["value"], torch.Tensor) for n in (*takes, *gives)):
            raise _Eager("it takes or gives other things than tensors")
        if any(n.meta["value"].dtype == torch.bfloat16 for n in (*takes, *gives)):
            raise _Eager("PyTorch rounds to bfloat16 after every op")
        try:
            model = compile(_export(module, takes), threads=torch.get_num_threads())
        except CnnccError as error:
            raise _Eager(_reason(error)) from None
        if model.deciding:
            raise _Eager("values of its inputs decide shapes")
        order = [int(v.name[1:]) for v in model.inputs]     # those in use, named x0, x1 ...

        def run(*tensors: Any) -> list[Any]:
            results = model(*[tensors[i].detach().numpy() for i in order])
            return [*map(torch.from_numpy, results if isinstance(results, tuple) else (results,))]
        for n, got in zip(gives, run(*[n.meta["value"] for n in takes]), strict=True):
            expected = n.meta["value"]
            finite = expected[expected.isfinite()].double().abs()
            scale = float(finite.max()) if finite.numel() else 0.0
            if got.dtype != expected.dtype or got.shape != expected.shape or not torch.allclose(
                    got.double(), expected.double(), TOLERANCE, TOLERANCE * scale, equal_nan=True):
                raise _Eager(f"compiled, {_name(n)} would differ from PyTorch's")
        self.compiled_flops += _flops(nodes)
        return _Part(takes, run, gives)


def _evaluate(graph: Any, args: Sequence[Any]) -> list[Any]:
    """Run a graph on copies of `args`: its nodes that compute, with value, FLOPs and reason in their `meta`.

    The reason, or nothing, is why a node can't be compiled. Numbers are put into the nodes that use them.
    Raises _Eager where an order of reads and writes matters that a compiled part doesn't keep.
    """
    nodes, given = [], iter(args)
    for n in graph.graph.nodes:
        if n.op in ("placeholder", "get_attr"):
            value = next(given) if n.op == "placeholder" else attrgetter(n.target)(graph)
            n.meta["value"] = value = value.clone() if isinstance(value, torch.Tensor) else value
        elif n.op in ("call_function", "call_method"):
            read = [(i, t, t._version, t.clone()) for i in n.all_input_nodes for t in _tensors(i)]
            random = torch.get_rng_state()
            with FlopCounterMode(display=False) as counter:
                own, named = fx.map_arg((n.args, n.kwargs), lambda i: i.meta["value"])
                value = n.target(*own, **named) if n.op == "call_function" \
                    else getattr(own[0], n.target)(*own[1:], **named)
            same = torch.equal(random, torch.get_rng_state())
            n.meta.update(value=value, flops=counter.get_total_flops(), reason="" if same else "it is random")
            for i, t, version, before in read:
                if t._version != version:
                    _check_write(graph, n, t)
                    i.meta["value"] = before
        elif n.op == "call_module":
            raise _Eager("it calls modules: torch._dynamo.config.inline_inbuilt_nn_modules is off")
        if n.op != "output" and isinstance(value, int | float | torch.Size):
            for user in list(n.users):
                _put(user, n, value)
        elif n.op.startswith("call"):
            nodes.append(n)
    return nodes


def _put(user: Any, node: Any, value: Any) -> None:
    """Give a number to a node in the place of another node."""
    user.args, user.kwargs = fx.map_arg((user.args, user.kwargs), lambda i: value if i is node else i)


def _check_write(graph: Any, node: Any, written: Any) -> None:
    """Raises _Eager unless what `node` writes to is not read after it but through its own value."""
    storage = written.untyped_storage().data_ptr()
    for n in itertools.takewhile(lambda n: n is not node, graph.graph.nodes):
        if any(t.untyped_storage().data_ptr() == storage for t in _tensors(n)):
            if n.meta["value"] is node.meta["value"]:
                n.replace_all_uses_with(node, delete_user_cb=lambda user: user > node)
            if n.op in ("placeholder", "get_attr") or any(user > node for user in n.users):
                raise _Eager(f"{_name(node)} writes to a tensor that is used elsewhere")


def _tensors(node: Any) -> list[Any]:
    """The tensors in a node's value."""
    value = node.meta["value"]
    return [t for t in (value if isinstance(value, list | tuple) else [value]) if isinstance(t, torch.Tensor)]


def _flops(nodes: Sequence[Any]) -> int:
    return sum(n.meta["flops"] for n in nodes)


def _name(node: Any) -> str:
    return getattr(node.target, "__name__", str(node.target))


def _describe(node: Any) -> Any:
    """What decides whether a node can be compiled."""
    def value(i: Any) -> str:
        return str([(t.shape, t.dtype, i.op == "get_attr") for t in _tensors(i)])
    return node.op, node.target, str(fx.map_arg((node.args, node.kwargs), value))


def _piece(graph: Any, nodes: Sequence[Any], last: bool = False) -> tuple[Any, list[Any], list[Any]]:
    """These nodes as a module with the constants in it, the nodes that it takes, and those that it gives.

    It gives what other nodes use, or only the `last`.
    """
    piece, made, inside = fx.Graph(), dict[Any, Any](), set(nodes)
    read = dict.fromkeys(i for n in nodes for i in n.all_input_nodes if i not in inside)
    takes = [n for n in read if n.op != "get_attr"]
    for n in (*takes, *(n for n in read if n.op == "get_attr"), *nodes):
        made[n] = piece.placeholder(n.name) if n in read and n.op != "get_attr" \
            else piece.node_copy(n, made.__getitem__)
    gives = [*nodes[-1:]] if last else [n for n in nodes if not inside.issuperset(n.users)]
    piece.output(tuple(made[n] for n in gives))
    return fx.GraphModule(graph, piece), takes, gives


def _export(module: Any, takes: Sequence[Any]) -> bytes:
    """A module as an ONNX model of the inputs x0, x1 ... Raises _Eager."""
    file = io.BytesIO()
    values = tuple(n.meta["value"].clone() for n in takes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(module, values, file, dynamo=False, opset_version=OPSET,
                              input_names=[f"x{i}" for i in range(len(takes))])
        except Exception as error:      # whatever the exporter raises
            raise _Eager(_reason(error)) from None
    return file.getvalue()


def _refused(graph: Any, node: Any) -> str:
    """Why a node can't be compiled by itself, or nothing."""
    nodes = [node]
    while other := [i for n in nodes for i in n.all_input_nodes if i not in nodes and i.op.startswith("call")
                    and not isinstance(i.meta["value"], torch.Tensor)]:
        nodes[:0] = other[:1]
    module, takes, _ = _piece(graph, nodes, last=True)
    try:
        read(_export(module, takes))
    except (CnnccError, _Eager) as error:
        return _reason(error)
    return ""


def _reason(error: Exception) -> str:
    """An error in one line."""
    rows = getattr(error, "rows", ())
    return "; ".join(dict.fromkeys(f"{op}: {why}" for op, _, why in rows)) or \
        f"{str(error).strip().partition(chr(10))[0][:200]}"
