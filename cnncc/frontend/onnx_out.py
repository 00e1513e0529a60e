"""Graphs of ops, as frontends give them, as ONNX models: one row for each op."""

from __future__ import annotations

import ast
import functools
import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np

from cnncc.frontend.files import LIMIT
from cnncc.frontend.layer_windows import shares
from cnncc.frontend.onnx_resize import COORDINATES, Mode, coordinates, taps
from cnncc.frontend.onnx_resize import Axis as Resized
from cnncc.frontend.user import FORMULA
from cnncc.ir.errors import ModelError, UnsupportedError
from cnncc.ir.graph import Graph, Node
from cnncc.ir.ops.recurrent import states_of
from cnncc.ir.signature import Array
from cnncc.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 19          # the first in which all windows may be dilated
Operand: TypeAlias = "str | Array | Made | tuple[str, int] | None"
Made: TypeAlias = "tuple[str, Sequence[Operand], dict[str, Any]]"
"""(ONNX op, operands, attributes). An operand is a value of the graph, an array, made in place, or none. The
op of another domain is written `domain.Op`, one of several outputs `Op:number`; of the value that is made of
such a node the output i is the operand (value, i)."""
Row: TypeAlias = Callable[[Graph, Node], "Made"]


def _same(op: str, *attributes: str) -> Row:
    """The op of that name, with attributes called and meant as ours."""
    return lambda g, n: (op, n.inputs, {a: n.attr[a] for a in attributes})


def _window(n: Node) -> dict[str, Any]:
    names = {"strides": "strides", "dilations": "dilations", "kernel": "kernel_shape", "group": "group"}
    return {names[k]: v for k, v in n.attrs if k in names} | {"pads": n.attr["begin"] + n.attr["end"]}


def _mul(g: Graph, n: Node) -> Made:
    """The mean over windows without their padding, or any product."""
    pool, factor = (g[i] for i in n.inputs)
    if pool.op == "sum_pool" and {*pool.attr["dilations"]} == {1}:
        old, new = ([int(e) for e in v.type.shape[2:]] for v in (g[pool.inputs[0]], pool))
        if np.array_equal(g.constants.get(factor.name, ()), shares(old, new, pool.attr)):
            return "AveragePool", pool.inputs, {**_window(pool), "count_include_pad": 0}
    return "Mul", n.inputs, {}


def _sum_pool(g: Graph, n: Node) -> Made:
    mean = "AveragePool", n.inputs, {**_window(n), "count_include_pad": 1}
    return "Mul", [mean, np.array(math.prod(n.attr["kernel"]), np.float32)], {}


def _clip(g: Graph, n: Node) -> Made:
    bounds = ((n.attr["low"], -math.inf), (n.attr["high"], math.inf))
    return "Clip", [*n.inputs, *(None if v == no else np.array(v, np.float32) for v, no in bounds)], {}


def _reduce(op: str) -> Row:
    return lambda g, n: (op, [*n.inputs, np.array(n.attr["axes"], np.int64)],
                         {"keepdims": int(n.attr["keepdims"])})


def _reshape(g: Graph, n: Node) -> Made:
    shape = [-1 if isinstance(e, str) else e for e in n.type.shape]
    return "Reshape", [*n.inputs, np.array(shape, np.int64)], {}


SAME = {
    "": "Abs Acos Acosh Add And Asin Asinh Atan Atanh Ceil Cos Cosh Div Erf Exp Floor IsNaN Log Max Min Mish "
        "Neg Or PRelu Pow Reciprocal Relu Round Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Tan "
        "Tanh Where Xor",
    "alpha": "Celu Elu LeakyRelu ThresholdedRelu", "alpha beta": "HardSigmoid", "alpha gamma": "Selu",
    "axis": "Softmax LogSoftmax", "bias lambd": "Shrink"}
"""ONNX ops that mean what the op of ours with that name does, by their attributes."""


def _ours(op: str) -> str:
    return {"IsNaN": "isnan", "PRelu": "prelu"}.get(op) or re.sub(r"(?<!^)([A-Z])", r"_\1", op).lower()


def _pad(g: Graph, n: Node) -> Made:
    pads = np.array(n.attr["begin"] + n.attr["end"], np.int64)
    return "Pad", [*n.inputs, pads, np.array(n.attr["value"], n.type.numpy)], {}


def _slice(g: Graph, n: Node) -> Made:
    if g[n.inputs[0]].op == "recurrent":
        return _states(g, n, g[n.inputs[0]])
    axes = [a for a, e in enumerate(n.type.shape) if isinstance(e, int)]
    begin, steps = ([n.attr[key][a] for a in axes] for key in ("begin", "steps"))
    ends = [b + s * int(n.type.shape[a]) for a, b, s in zip(axes, begin, steps, strict=True)]
    ends = [e if e >= 0 else -1 << 62 for e in ends]        # backwards up to the first element
    return "Slice", [*n.inputs, *(np.array(v, np.int64) for v in (begin, ends, axes, steps))], {}


def _recurrent(g: Graph, n: Node) -> Made:
    """What a direction gives after all steps, [steps, 1, batch, hidden]: all that is read of it are parts."""
    if any(not user or g[user].op != "slice" for user in g.users()[n.name]):
        raise UnsupportedError(f"{g.name} can't be written as ONNX",
                               [(n.attr["cell"], n.name, "its states are read as a whole")])
    a, (x, w, r, *rest) = n.attr, n.inputs
    given, cell, functions = dict(zip(a["parts"], rest, strict=True)), a["cell"], a["functions"]
    hidden = int(n.type.shape[2]) // states_of(cell)
    rows = np.concatenate([np.arange(g * hidden, (g + 1) * hidden) for g in a["order"]])

    def gates(*parts: str) -> Made:
        """Of one direction, in the order of ONNX."""
        turned: list[Operand] = [("Gather", [v, rows], {"axis": 0}) for v in parts]
        return "Unsqueeze", [("Concat", turned, {"axis": 0}), np.array([0])], {}

    def first(letter: str) -> Operand:
        return _steps_first(given[letter], n) if letter in given else None
    bias = gates(given["b"], given["d"]) if "b" in given else None
    operands: list[Operand] = [_steps_first(x, n), gates(w), gates(r), bias, given.get("n"), first("h")]
    if cell == "lstm":
        operands.append(first("c"))
    if "p" in given:
        operands.append(("Unsqueeze", [given["p"], np.array([0])], {}))
    while operands[-1] is None:
        operands.pop()
    attributes: dict[str, Any] = {
        "hidden_size": hidden, "direction": "reverse" if a["back"] else "forward",
        "activations": ["".join(map(str.capitalize, op.split("_"))) for op, _ in functions]}
    for key in ("alpha", "beta"):
        if numbers := [dict(own)[key] for _, own in functions if key in dict(own)]:
            attributes[f"activation_{key}"] = numbers
    if a["clip"]:
        attributes["clip"] = a["clip"]
    if a["flag"]:
        attributes["input_forget" if cell == "lstm" else "linear_before_reset"] = 1
    return f"{cell.upper()}:{1 + states_of(cell)}", operands, attributes


def _steps_first(x: Operand, n: Node) -> Operand:
    """Steps and batch where ONNX has them, and back again."""
    return ("Transpose", [x], {"perm": (1, 0, 2)}) if n.attr["axis"] else x


def _states(g: Graph, n: Node, source: Node) -> Made:
    """A part of the states of a direction: of hidden values after steps, or of a cell's after the last.

    Beyond the end of a sequence ONNX has zeros between them, as have those who read these.
    """
    a, begin, shape = source.attr, n.attr["begin"], n.type.shape
    axis, count, steps = a["axis"], int(n.type.shape[a["axis"]]), int(source.type.shape[a["axis"]]) - 1
    which, low = divmod(begin[2], int(source.type.shape[2]) // states_of(a["cell"]))
    at = begin[axis] - (not a["back"])
    last = count == 1 and at == (0 if a["back"] else steps - 1)
    if which and not last:
        raise UnsupportedError(f"{g.name} can't be written as ONNX",
                               [(a["cell"], source.name, "its cell's states between steps are read")])
    y: Operand = ("Squeeze", [source.name, np.array([1])], {})
    if which or (last and "n" in a["parts"]):
        y, at = (source.name, 1 + which), 0
    ends, axes = np.array([at + count, low + int(shape[2])]), np.array([axis, 2])
    return "Slice", [_steps_first(y, source), np.array([at, low]), ends, axes], {}


def _expand(g: Graph, n: Node) -> Made:
    shape = [1 if isinstance(e, str) else e for e in n.type.shape]
    return "Expand", [*n.inputs, np.array(shape, np.int64)], {}


def _filled(template: str, g: Graph, n: Node) -> Made:
    """An expression of calls of ONNX ops: of operands x, w, attributes (as numbers of the operands' dtype),
    numbers, and `axes`.
    """
    def made(e: ast.expr) -> Operand:
        match e:
            case ast.Call(func=ast.Name(id=op), args=args, keywords=keys):
                return op, [made(a) for a in args], {str(k.arg): ast.literal_eval(k.value) for k in keys}
            case ast.Name(id="x" | "w" as name):
                return n.inputs["xw".index(name)]
            case ast.Name(id="axes"):
                return np.array(n.attr["axes"], np.int64)
            case ast.Name(id=name):
                return np.array(n.attr[name], n.type.numpy)
        return np.array(ast.literal_eval(e), n.type.numpy)
    return cast(Made, made(ast.parse(template, mode="eval").body))


TEMPLATES = {
    "abs_power": "Pow(Abs(x), power)",
    "affine": "Add(Mul(x, alpha), beta)",
    "gelu": "Mul(Mul(x, 0.5), Add(Erf(Mul(x, 0.7071067811865476)), 1))",
    "gelu_tanh": "Mul(Mul(x, 0.5), Add(Tanh(Mul(Add(Mul(Mul(Mul(x, x), x), 0.044715), x), "
                 "0.7978845608028654)), 1))",
    "inverse_rms": "Reciprocal(Sqrt(Add(ReduceMean(Mul(x, x), axes, keepdims=1), epsilon)))",
    "inverse_root": "Reciprocal(Sqrt(Add(Mul(x, factor), epsilon)))",
    "over_norm": "Where(Equal(w, 0), 0, Div(x, w))",
    "square": "Mul(x, x)",
    "standardize": "Div(Sub(x, ReduceMean(x, axes, keepdims=1)), Sqrt(Add(ReduceMean(Mul(Sub(x, ReduceMean("
                   "x, axes, keepdims=1)), Sub(x, ReduceMean(x, axes, keepdims=1))), axes, keepdims=1), "
                   "epsilon)))",
    "swish": "Mul(x, Sigmoid(Mul(x, alpha)))"}
"""Ops that ONNX has no op for, in terms of those it has."""


def _hard_swish(g: Graph, n: Node) -> Made:
    return "Mul", [*n.inputs, ("HardSigmoid", n.inputs, dict(n.attrs))], {}


def _conv_transpose(g: Graph, n: Node) -> Made:
    a, (x, w) = n.attr, n.inputs
    low, high, extra = list(a["begin"]), list[int](), list[int]()
    for e, k, s, d, first, size in zip(g[x].type.shape[2:], g[w].type.shape[2:], a["strides"],
                                       a["dilations"], low, a["size"], strict=True):
        rest = (int(e) - 1) * s + (int(k) - 1) * d + 1 - first - size
        high.append(max(0, rest))
        extra.append(max(0, -rest))
    same = {key: a[key] for key in ("strides", "dilations", "group")}
    return "ConvTranspose", n.inputs, {**same, "pads": low + high, "output_padding": extra}


def _gather(x: Operand, axis: int, places: Operand) -> Made:
    return "Gather", [x, places], {"axis": axis}


def _take(g: Graph, n: Node) -> Made:
    x, *tables = n.inputs
    made: Any = x
    for axis, table in zip(n.attr["axes"], tables, strict=True):
        made = _gather(made, axis, table)
    return cast(Made, made)


def _resample(g: Graph, n: Node) -> Made:
    """The mode that has these places and weights; else what each row of the table names, as one more axis,
    times the weights, summed.
    """
    (x, table, weights), axis = n.inputs, n.attr["axis"]
    old, new = int(g[x].type.shape[axis]), int(n.type.shape[axis])
    for way in COORDINATES:
        resized, mode = Resized(old, new, new / old, (0.0, 1.0)), Mode(b"linear", way, b"", 0.0, False, False)
        index, found = taps(coordinates(resized, mode), resized, mode)
        if np.array_equal(index, g.constants.get(table, ())) \
                and np.array_equal(found.astype(np.float32), g.constants.get(weights, ())):
            return "Resize", [x, None, None, np.array([new], np.int64)], {
                "axes": [axis], "mode": "linear", "coordinate_transformation_mode": way}
    after = g[x].type.rank - 1 - axis
    shape = np.array([*map(int, g[weights].type.shape), *(1,) * after], np.int64)
    part: Made = ("Mul", [_gather(x, axis, table), ("Reshape", [weights, shape], {})], {})
    return "ReduceSum", [part, np.array([axis + 1], np.int64)], {"keepdims": 0}


def _local_conv(g: Graph, n: Node) -> Made:
    """The windows of all places, as more axes, times their weights."""
    a, (x, w) = n.attr, n.inputs
    rank, shape = g[x].type.rank - 2, n.type.shape[2:]
    zeros = np.array([0, 0, *a["begin"], 0, 0, *a["end"]], np.int64)
    made: Made = ("Pad", [x, zeros], {})
    for i, (p, k, s, d) in enumerate(zip(shape, g[w].type.shape[2:], a["strides"], a["dilations"],
                                         strict=False)):
        made = _gather(made, 2 + 2 * i, np.arange(int(p))[:, None] * s + np.arange(int(k)) * d)
    places, taps = "pqs"[:rank], "abd"[:rank]
    pairs = "".join(itertools.chain(*zip(places, taps, strict=True)))
    return "Einsum", [made, w], {"equation": f"nc{pairs},kc{taps}{places}->nk{places}"}


def _stochastic_pool(g: Graph, n: Node) -> Made:
    x: Made = ("Relu", n.inputs, {})
    mean = {**_window(n), "count_include_pad": 1}
    total: Made = ("AveragePool", [x], mean)
    share: Made = ("Div", [("AveragePool", [("Mul", [x, x], {})], mean), total], {})
    zero = np.array(0, n.type.numpy)
    return "Where", [("Equal", [total, zero], {}), zero, share], {}


def _number(dtype: np.dtype[Any]) -> int:
    """ONNX's number of a dtype."""
    from onnx import helper
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def _formula(g: Graph, n: Node) -> Made:
    values = dict(n.attr["values"])
    if called := n.attr.get("called"):
        return called, n.inputs, values
    return FORMULA, n.inputs, {"formula": n.attr["text"], **values}


ROWS: dict[str, Row] = {
    **{_ours(op): _same(op, *names.split()) for names, ops in SAME.items() for op in ops.split()},
    **{op: functools.partial(_filled, template) for op, template in TEMPLATES.items()},
    "batch_norm": lambda g, n: ("BatchNormalization", n.inputs, dict(n.attrs)),
    "cast": lambda g, n: ("Cast", n.inputs, {"to": _number(n.type.numpy)}),
    "clip": _clip,
    "concat": _same("Concat", "axis"),
    "conv": lambda g, n: ("Conv", n.inputs, _window(n)),
    "conv_transpose": _conv_transpose,
    "dropout": lambda g, n: ("Dropout", [*n.inputs, np.array(n.attr["ratio"], np.float32)], {}),
    "eq": _same("Equal"),
    "formula": _formula,
    "expand": _expand,
    "ge": _same("GreaterOrEqual"),
    "gt": _same("Greater"),
    "hard_swish": _hard_swish,
    "local_conv": _local_conv,
    "lp_root": lambda g, n: ("Pow", [*n.inputs, np.array(1 / n.attr["p"], n.type.numpy)], {}),
    "lrn": _same("LRN", "size", "alpha", "beta", "bias"),
    "mul": _mul,
    "matmul": _same("MatMul"),
    "recurrent": _recurrent,
    "resample": _resample,
    "standard": lambda g, n: ("Mul", [("Sub", n.inputs[:2], {}), n.inputs[2]], {}),
    "stochastic_pool": _stochastic_pool,
    "take": _take,
    "le": _same("LessOrEqual"),
    "linear": lambda g, n: ("Gemm", n.inputs, {"transB": 1}),
    "max_pool": lambda g, n: ("MaxPool", n.inputs, _window(n)),
    "lt": _same("Less"),
    "pad": _pad,
    "reduce_abs_sum": _reduce("ReduceL1"),
    "reduce_l2": _reduce("ReduceL2"),
    "reduce_max": _reduce("ReduceMax"),
    "reduce_mean": _reduce("ReduceMean"),
    "reduce_min": _reduce("ReduceMin"),
    "reduce_prod": _reduce("ReduceProd"),
    "reduce_square_sum": _reduce("ReduceSumSquare"),
    "reduce_sum": _reduce("ReduceSum"),
    "reshape": _reshape,
    "scale": lambda g, n: ("Mul", [*n.inputs, np.array(n.attr["factor"], np.float32)], {}),
    "slice": _slice,
    "sum_pool": _sum_pool,
    "transpose": _same("Transpose", "perm"),
}


def to_onnx(graph: Graph) -> ModelProto:
    """The model with the same inputs, outputs, values and names of nodes.

    Raises UnsupportedError for ops without a row, ModelError where the weights are too large for one file.
    """
    from onnx import helper
    graph = replace(graph, outputs=graph.shown, signals=()).live()
    missing = [(n.op, n.name, "ONNX has no such op") for n in graph if n.op not in (*ROWS, "input", "const")]
    if missing:
        raise UnsupportedError(f"{graph.name} can't be written as ONNX", missing)
    size = sum(c.nbytes for c in graph.constants.values())
    if size > LIMIT - (1 << 20):
        raise ModelError(f"{graph.name}: {size:,} bytes of weights are too many for one ONNX file (2 GiB)")
    made = _Export(graph)
    for n in graph:
        if n.op not in ("input", "const"):
            made.node(ROWS[n.op](graph, n), made.names[n.name])
    for name, value in graph.outputs:
        if made.operand(value) != name:
            made.node(("Identity", [value], {}), name)

    made.live([name for name, _ in graph.outputs])

    def info(name: str, value: str) -> Any:
        type = graph[value].type
        return helper.make_tensor_value_info(name, _number(type.numpy), type.shape)
    proto = helper.make_graph(made.nodes, graph.name, [info(i, i) for i in graph.inputs],
                              [info(*output) for output in graph.outputs], made.initializers)
    opsets = [helper.make_opsetid(d, 1 if d else OPSET) for d in sorted(made.domains | {""})]
    return helper.make_model(proto, opset_imports=opsets, producer_name="cnncc", producer_version=__version__,
                             ir_version=helper.find_min_ir_version_for(opsets, ignore_unknown=True))


def _fresh(name: str, taken: set[str]) -> str:
    """`name`, numbered where it is taken; from now on it is."""
    numbered = (f"{name}.{i}" for i in itertools.count(1))
    new = next(n for n in itertools.chain([name], numbered) if n not in taken)
    taken.add(new)
    return new


class _Export:
    """Nodes and initializers so far; `names` are the values' in the file: those of outputs are the user's."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes, self.initializers = graph, list[Any](), list[Any]()
        self.called, self.stored, self.domains = set[str](), set[str](), set[str]()
        self.others: dict[str, list[str]] = {}      # of a node's first output the names of the others
        self.names = {v: name for name, v in reversed(graph.outputs)} | {i: i for i in graph.inputs}
        self.taken = {*graph.inputs, *(name for name, _ in graph.outputs)}
        for n in graph:
            if n.name not in self.names:
                self.names[n.name] = _fresh(n.name, self.taken)
        last = {n.origin[0]: self.names[n.name] for n in graph if n.origin}
        self.origins = {value: name for name, value in last.items()}

    def live(self, outputs: Sequence[str]) -> None:
        """Leave out what none of the outputs needs: values that a reader's row went without."""
        needed, kept = {*outputs}, []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                kept.append(node)
                needed.update(node.input)
        self.nodes = kept[::-1]
        self.initializers = [i for i in self.initializers if i.name in needed]

    def operand(self, x: str) -> str:
        """The name of a value in the file; a constant is stored with its first use."""
        name = self.names[x]
        if self.graph[x].op == "const" and name not in self.stored:
            self.stored.add(name)
            self.store(name, self.graph.constants[x])
        return name

    def store(self, name: str, array: Array) -> str:
        from onnx import numpy_helper
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, made: Made, out: str) -> str:
        """Add the node that gives the value `out`, called as the user's node whose result that is."""
        from onnx import helper
        op, operands, attributes = made
        inputs: list[str] = []
        for x in operands:
            if x is None or isinstance(x, str):
                inputs.append("" if x is None else self.operand(x))
            elif isinstance(x, tuple) and len(x) == 2:
                inputs.append(self.others[self.names[x[0]]][x[1] - 1])
            elif isinstance(x, tuple):
                inputs.append(self.node(x, _fresh(f"{out}.{x[0].partition(':')[0]}", self.taken)))
            else:
                inputs.append(self.store(_fresh(f"{out}.{op.partition(':')[0]}", self.taken), x))
        name = _fresh(self.origins.get(out, out), self.called)
        domain, _, op = op.rpartition(".")
        op, _, number = op.partition(":")
        self.domains.add(domain)
        self.others[out] = [_fresh(f"{out}.{i}", self.taken) for i in range(1, int(number or 1))]
        node = helper.make_node(op, inputs, [out, *self.others[out]], name, domain=domain)
        node.attribute.extend(helper.make_attribute(k, v) for k, v in sorted(attributes.items()))
        self.nodes.append(node)
        return out
