"""Random graphs of ONNX's ops: the compiled model and the reference give what ONNX Runtime gives."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, ValueInfoProto, helper, numpy_helper

import cnncc

Array = NDArray[Any]
GRAPHS = 8                  # of a test
F32 = np.float32
FUNCTIONS = ("Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Floor", "Round", "HardSwish", "LeakyRelu", "Softsign")


@dataclass
class Graph:
    """Nodes, each tried alone by ONNX Runtime; all values that they make of the inputs."""

    random: random.Random
    nodes: list[NodeProto] = field(default_factory=list)
    inputs: dict[str, Array] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)

    def pick(self, *ranks: int) -> tuple[str, Array] | None:
        """One of the floats made last, of one of these ranks."""
        found = [(n, x) for n, x in self.values.items() if x.dtype == F32 and (x.ndim in ranks or not ranks)]
        return self.random.choice(found[-3:]) if found else None

    def floats(self, *shape: int) -> str:
        numbers = np.random.default_rng(self.random.randrange(1 << 30))
        return self.given(numbers.normal(size=shape).astype(F32))

    def given(self, x: Array, constant: bool | None = None) -> str:
        """An operand of this value: an input, or a constant."""
        name = f"g{len(self.inputs) + len(self.constants)}"
        constant = self.random.random() < 0.5 if constant is None else constant
        (self.constants if constant else self.inputs)[name] = x
        return name

    def ints(self, *numbers: int) -> str:
        return self.given(np.array(numbers, np.int64), True)

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> None:
        """Add a node, unless its results are no numbers, too large or too many."""
        names = [f"v{len(self.values)}.{i}" for i in range(outputs)]
        node = helper.make_node(op, inputs, names, **attributes)
        known = self.inputs | self.constants | self.values
        made = run(model([node], {i: known[i] for i in inputs}, {}, names), {i: known[i] for i in inputs})
        if all(0 < x.size < 5000 and x.ndim < 6 and np.isfinite(x).all() and np.abs(x).max() < 1e4
               for x in made):
            self.nodes.append(node)
            self.values |= dict(zip(names, made, strict=True))


def model(nodes: Sequence[NodeProto], inputs: Mapping[str, Array], constants: Mapping[str, Array],
          outputs: Sequence[str]) -> ModelProto:
    takes = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
             for n, x in inputs.items()]
    graph = helper.make_graph(list(nodes), "graph", takes, [ValueInfoProto(name=o) for o in outputs],
                              [numpy_helper.from_array(x, n) for n, x in constants.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(proto: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(feeds)))


def unary(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    g.add(g.random.choice(FUNCTIONS), [x])


def binary(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    other = [x, g.floats(*shape), g.floats(*(e if g.random.random() < 0.5 else 1 for e in shape))]
    g.add(g.random.choice(("Add", "Sub", "Mul", "Max")), [x, g.random.choice(other)])


def fold(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    op = g.random.choice(("ReduceMean", "ReduceMax", "ReduceL2", "ArgMax", "Softmax", "CumSum"))
    axis = g.random.randrange(-len(shape), len(shape))
    if op == "CumSum":
        g.add(op, [x, g.ints(axis)], exclusive=g.random.randrange(2), reverse=g.random.randrange(2))
    else:
        g.add(op, [x], **{"axes": [axis]} if op.startswith("Reduce") else {"axis": axis})


def move(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    axis = g.random.randrange(len(shape))
    match g.random.randrange(6):
        case 0:
            g.add("Transpose", [x], perm=g.random.sample(range(len(shape)), len(shape)))
        case 1:
            g.add("Flatten", [x], axis=axis)
        case 2:
            low, step = g.random.randint(-shape[axis], shape[axis] - 1), g.random.choice((1, 2, -1))
            g.add("Slice", [x, *map(g.ints, (low, 1 << 40 if step > 0 else -1 << 40, axis, step))])
        case 3:
            g.add("Split", [x, g.ints(1, shape[axis] - 1)], 2, axis=axis) if shape[axis] > 1 else None
        case 4:
            g.add("Concat", [x, g.floats(*shape), x], axis=axis)
        case 5:
            g.add("Tile", [x, g.ints(*(g.random.randint(1, 2) for _ in shape))])


def lookup(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    axis, rank = g.random.randrange(len(shape)), len(shape)
    numbers = np.random.default_rng(g.random.randrange(1 << 30))
    size = shape[axis]
    part = tuple(3 if a == axis else g.random.randint(1, e) for a, e in enumerate(shape))
    kind = g.random.randrange(4)
    index = numbers.integers(-size, size, (2,) if kind == 0 else part)
    if kind == 0:
        g.add("Gather", [x, g.given(index)], axis=axis)
    elif kind == 1:
        g.add("GatherElements", [x, g.given(index, False)], axis=axis)
    elif kind == 2:
        g.add("ScatterElements", [x, g.given(index), g.floats(*part)], axis=axis, reduction="add")
    else:
        rows = np.stack([numbers.integers(-e, e, 2) for e in shape[:g.random.randint(1, rank)]], -1)
        g.add("GatherND", [x, g.given(rows, False)])


def window(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    if len(shape) not in (3, 4):
        return
    rank = len(shape) - 2
    kernel = [g.random.randint(1, 3) for _ in range(rank)]
    settings: dict[str, Any] = {"strides": [g.random.randint(1, 2) for _ in kernel], "kernel_shape": kernel,
                                "pads": [k // 2 for k in kernel] * 2}
    if g.random.random() < 0.5:
        g.add("Conv", [x, g.floats(g.random.choice((1, 3, 8)), shape[1], *kernel)], **settings)
    else:
        g.add(g.random.choice(("MaxPool", "AveragePool")), [x], **settings)


def product(g: Graph, x: str, shape: tuple[int, ...]) -> None:
    g.add("MatMul", [x, g.floats(shape[-1], g.random.choice((1, 5, 8)))])


STEPS: tuple[Callable[[Graph, str, tuple[int, ...]], None], ...] = (
    unary, binary, fold, move, lookup, lookup, window, product, binary)


def graph(seed: int) -> tuple[ModelProto, dict[str, Array], dict[str, Array]]:
    """A model of four nodes, its inputs and its outputs: what no node reads, and some of the rest."""
    g = Graph(random.Random(seed))
    shape = [g.random.choice((1, 2, 3, 5, 8, 16)) for _ in range(g.random.randint(1, 4))]
    x = g.given(np.random.default_rng(seed).normal(size=shape).astype(F32), False)
    g.values[x] = g.inputs[x]
    for _ in range(20):
        if len(g.nodes) < 4 and (picked := g.pick()):
            g.random.choice(STEPS)(g, picked[0], picked[1].shape)
    read = {i for n in g.nodes for i in n.input}
    made = [o for n in g.nodes for o in n.output if o not in read or g.random.random() < 0.3]
    inputs = {n: v for n, v in g.inputs.items() if n in read}
    constants = {n: v for n, v in g.constants.items() if n in read}
    return model(g.nodes, inputs, constants, made), inputs, {o: g.values[o] for o in made}


@pytest.mark.parametrize("first", range(0, 6 * GRAPHS, GRAPHS))
def test_random_graphs(first: int) -> None:
    for seed in range(first, first + GRAPHS):
        proto, inputs, expected = graph(seed)
        compiled = cnncc.compile(proto, cache=False, jobs=1).run(None, inputs)
        reference = cnncc.reference(proto)(**inputs)
        both = zip(compiled, reference if len(expected) > 1 else [reference], expected.values(), strict=True)
        for got, known, wanted in both:
            scale = max(1.0, float(np.abs(wanted).max()))
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-4 * scale, err_msg=f"seed {seed}")
            np.testing.assert_allclose(known, wanted, rtol=0, atol=1e-4 * scale, err_msg=f"seed {seed}")


def chain(x: Array, *nodes: tuple[str, Sequence[Array], dict[str, Any]]) -> None:
    """The last of nodes in a row, each with further operands: integers are inputs, other things constants."""
    made, inputs, constants, last = [], {"x": x}, dict[str, Array](), "x"
    for i, (op, operands, attributes) in enumerate(nodes):
        names = [f"{i}.{j}" for j in range(len(operands))]
        (inputs if op.startswith("Gather") else constants).update(zip(names, operands, strict=True))
        made.append(helper.make_node(op, [last, *names], [last := f"v{i}"], **attributes))
    proto = model(made, inputs, constants, [last])
    wanted, = run(proto, inputs)
    got, = cnncc.compile(proto, cache=False, jobs=1).run(None, inputs)
    np.testing.assert_array_equal(got, wanted)


def whole(*numbers: int) -> Array:
    return np.array(numbers, np.int64)


X = np.arange(40, dtype=F32).reshape(1, 8, 5)


@pytest.mark.parametrize("last", [whole(-1, 1), whole(0, -4)])
def test_data_count_from_the_end_of_what_they_index(last: Array) -> None:
    chain(X, ("Slice", [whole(0), whole(4), whole(1)], {}), ("Gather", [last], {"axis": 1}))
    chain(X, ("Slice", [whole(2), whole(6), whole(1)], {}), ("Gather", [last], {"axis": 1}))
    chain(X, ("Reshape", [whole(2, 4, 5)], {}), ("Gather", [last], {"axis": 1}))
    chain(X, ("Relu", [], {}), ("Gather", [last[:1].reshape(())], {"axis": 1}), ("Neg", [], {}))


@pytest.mark.parametrize("reverse", [0, 1])
def test_a_sum_of_nothing_is_zero(reverse: int) -> None:
    chain(X, ("ReduceMax", [], {"axes": [0]}),
          ("CumSum", [whole(0)], {"exclusive": 1, "reverse": reverse}))


@pytest.mark.parametrize("mode", ["constant", "edge", "reflect", "wrap"])
def test_padding_cuts_first(mode: str) -> None:
    chain(X, ("Pad", [whole(0, -1, 2, 0, 1, -1)], {"mode": mode}))
    if mode == "constant":
        chain(X, ("Pad", [whole(2, 0, 0, -1, 0, 0)], {"mode": mode}))


def test_a_start_before_the_first_element() -> None:
    chain(X, ("Slice", [whole(-9), whole(-1 << 40), whole(1), whole(-2)], {}))


def test_equal_kernels_of_weights_and_of_data() -> None:
    """x + constant takes the constant in an order of its own; x + x can't."""
    x = np.arange(240, dtype=F32).reshape(1, 16, 3, 5)
    nodes = [helper.make_node("Add", ["x", other], [out]) for other, out in (("c", "y"), ("x", "z"))]
    proto = model(nodes, {"x": x}, {"c": x[:, ::-1] * 2}, ["y", "z"])
    for got, wanted in zip(cnncc.compile(proto, cache=False).run(None, {"x": x}), run(proto, {"x": x}),
                           strict=True):
        np.testing.assert_array_equal(got, wanted)
