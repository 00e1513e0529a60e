"""Graphs for tests of the compiler, an oracle that shares no code with it, and ways to run what it makes.

The oracle evaluates a graph in float64, op by op, from definitions of its own: on integers it is exact.
Beside each value it keeps how far any partial sum may have reached, so that a test knows when float32 is
exact too.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from llvmlite import binding as llvm

from cnncc.codegen.lower import lower
from cnncc.codegen.worker import Machine, compile_text
from cnncc.compiler import optimize, plan
from cnncc.ir.graph import Builder, Graph, Node
from cnncc.ir.kernel import Kernel, Tensor
from cnncc.ir.reference import run_kernel
from cnncc.ir.regions import scratch_offsets
from cnncc.ir.target import LEVELS, Target, host_features, target_for
from cnncc.ir.tasks import task_count
from cnncc.ir.types import TensorType
from cnncc.passes.memory import pack
from cnncc.runtime import buffers
from cnncc.runtime.model import CompiledModel

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
EXACT = 1 << 24             # integers up to here are exact in float32, and so are their sums


# ---- graphs


class Net(Builder):
    """A builder with short words; its constants and feeds are small integers, or real numbers with `real`."""

    def __init__(self, seed: int = 0, reach: int = 3, real: bool = False) -> None:
        super().__init__("net")
        self.rng = np.random.default_rng(seed)
        self.reach, self.real = reach, real
        self.results: list[tuple[str, str]] = []

    def numbers(self, shape: Sequence[int]) -> Array:
        if self.real:
            return self.rng.standard_normal(shape).astype(np.float32)
        return self.rng.integers(-self.reach, self.reach + 1, shape).astype(np.float32)

    def x(self, *shape: int | str) -> str:
        return self.input(f"x{len(self.inputs)}", TensorType("f32", shape))

    def weights(self, *shape: int) -> str:
        return self.const("w", self.numbers(shape))

    def conv(
        self,
        x: str,
        k: int,
        kernel: Sequence[int],
        strides: Sequence[int] = (),
        dilations: Sequence[int] = (),
        begin: Sequence[int] = (),
        end: Sequence[int] = (),
        group: int = 1,
    ) -> str:
        ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
        w = self.weights(k, int(self.type(x).shape[1]) // group, *kernel)
        return self.op(
            "conv",
            [x, w],
            "conv",
            strides=tuple(strides or ones),
            dilations=tuple(dilations or ones),
            begin=tuple(begin or zeros),
            end=tuple(end or begin or zeros),
            group=group,
        )

    def pool(
        self,
        x: str,
        op: str,
        kernel: Sequence[int],
        strides: Sequence[int] = (),
        dilations: Sequence[int] = (),
        begin: Sequence[int] = (),
        end: Sequence[int] = (),
    ) -> str:
        ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
        return self.op(op, [x], op, strides=tuple(strides or ones), dilations=tuple(dilations or ones),
                       begin=tuple(begin or zeros), end=tuple(end or begin or zeros), kernel=tuple(kernel))

    def bias(self, x: str) -> str:
        rank, channels = self.type(x).rank, int(self.type(x).shape[1])
        return self.op(
            "add", [x, self.weights(*((channels, *[1] * (rank - 2)) if rank > 2 else (channels,)))], "bias"
        )

    def join(self, *values: str, axis: int = 1) -> str:
        return self.op("concat", values, "join", axis=axis)

    def cut(self, x: str, ranges: Mapping[int, range]) -> str:
        """A slice; axes that aren't named stay whole."""
        shape = self.type(x).shape
        parts = [ranges.get(a, range(e) if isinstance(e, int) else None) for a, e in enumerate(shape)]
        return self.op("slice", [x], "cut", begin=tuple(r.start if r else 0 for r in parts),
                       steps=tuple(r.step if r else 1 for r in parts),
                       shape=tuple(len(r) if r else "N" for r in parts))

    def deconv(self, x: str, k: int, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int],
               begin: Sequence[int], end: Sequence[int], group: int = 1) -> str:
        """A transposed convolution; `begin` and `end` are cut off."""
        _, c, *extents = self.type(x).shape
        w = self.weights(int(c), k // group, *kernel)
        size = tuple((int(e) - 1) * s + (r - 1) * d + 1 - a - b for e, r, s, d, a, b in
                     zip(extents, kernel, strides, dilations, begin, end, strict=True))
        return self.op("conv_transpose", [x, w], "deconv", strides=tuple(strides), dilations=tuple(dilations),
                       begin=tuple(begin), group=group, size=size)

    def relu(self, x: str) -> str:
        return self.op("relu", [x], "relu")

    def flatten(self, x: str) -> str:
        n, *rest = self.type(x).shape
        return self.op("reshape", [x], "flat", shape=(n, int(np.prod([int(e) for e in rest]))))

    def linear(self, x: str, k: int) -> str:
        return self.op("linear", [x, self.weights(k, *map(int, self.type(x).shape[1:]))], "linear")

    def result(self, *values: str) -> Graph:
        return self.graph([(f"y{i}", v) for i, v in enumerate(values)])


def feeds(graph: Graph, batch: int = 1, seed: int = 1, reach: int = 3, real: bool = False) -> Feeds:
    """Arrays for the inputs; `batch` stands for every symbolic extent."""
    rng = np.random.default_rng(seed)
    result: Feeds = {}
    for name in graph.inputs:
        shape = tuple(batch if isinstance(e, str) else e for e in graph[name].type.shape)
        result[name] = (rng.standard_normal(shape) if real else rng.integers(-reach, reach + 1, shape)
                        ).astype(np.float32)
    return result


# ---- the oracle


class Oracle:
    """`values` of all nodes; `sums` of the magnitudes of what was added up for each, where an op adds."""

    def __init__(self, graph: Graph, inputs: Mapping[str, Array]) -> None:
        self.graph = graph
        self.values: dict[str, Array] = {}
        self.sums: dict[str, Array] = {}
        for n in graph:
            if n.op in ("input", "const"):
                self.values[n.name] = np.float64(
                    inputs[n.name] if n.op == "input" else graph.constants[n.name]
                )
            else:
                with np.errstate(all="ignore"):
                    self._node(n, [self.values[i] for i in n.inputs])

    @property
    def outputs(self) -> dict[str, Array]:
        return {user: self.values[v] for user, v in self.graph.outputs}

    @property
    def reach(self) -> float:
        """The greatest partial sum or value that may have occurred."""
        everything = [*self.values.values(), *self.sums.values()]
        return max(float(np.abs(v[np.isfinite(v)]).max(initial=0)) for v in everything)

    def _node(self, n: Node, v: list[Array]) -> None:
        a = n.attr
        if n.op in ("conv", "linear"):
            fold = functools.partial(_conv, attrs=a) if n.op == "conv" else _linear
            self.values[n.name], self.sums[n.name] = fold(*v), fold(*map(np.abs, v))
        elif n.op == "sum_pool":
            self.values[n.name], self.sums[n.name] = (
                _pool(v[0], a, np.sum, 0),
                _pool(np.abs(v[0]), a, np.sum, 0),
            )
        elif n.op in ("reduce_sum", "reduce_mean"):
            fold = np.sum if n.op == "reduce_sum" else np.mean
            self.values[n.name] = fold(v[0], axis=a["axes"], keepdims=a["keepdims"])
            self.sums[n.name] = np.sum(np.abs(v[0]), axis=a["axes"], keepdims=a["keepdims"])
        elif n.op == "place":
            shape = [v[0].shape[0] if isinstance(e, str) else e for e in a["shape"]]
            self.values[n.name] = y = np.array(self.values[n.base]) if n.base else np.zeros(shape)
            y[tuple(slice(b, b + (e - 1) * s + 1, s) for b, s, e in
                    zip(a["begin"], a["steps"], v[0].shape, strict=True))] = v[0]
        elif n.op in ("conv_transpose", "resample"):
            fold = functools.partial(_scatter if n.op == "conv_transpose" else _resample, attrs=a)
            self.values[n.name] = fold(*v)
            self.sums[n.name] = fold(np.abs(v[0]), *v[1:-1], np.abs(v[-1]))
        else:
            self.values[n.name] = OTHERS[n.op](*v, a)


def _softmax(x: Array, a: Mapping[str, Any]) -> Array:
    e = np.exp(x - x.max(a["axis"], keepdims=True))
    return e / e.sum(a["axis"], keepdims=True)


OTHERS: dict[str, Callable[..., Array]] = {
    "relu": lambda x, a: np.maximum(x, 0),
    "clip": lambda x, a: np.clip(x, a["low"], a["high"]),
    "add": lambda x, w, a: x + w,
    "sub": lambda x, w, a: x - w,
    "mul": lambda x, w, a: x * w,
    "div": lambda x, w, a: x / w,
    "exp": lambda x, a: np.exp(x),
    "scale": lambda x, a: x * a["factor"],
    "max_pool": lambda x, a: _pool(x, a, np.max, -np.inf),
    "reshape": lambda x, a: x.reshape(len(x), -1).reshape(
        [len(x) if isinstance(e, str) else e for e in a["shape"]]
    ),
    "reduce_max": lambda x, a: np.max(x, axis=a["axes"], keepdims=a["keepdims"]),
    "softmax": _softmax,
    "batch_norm": lambda x, weight, bias, mean, variance, a: x * weight[:, None, None] + bias[:, None, None],
    "transpose": lambda x, a: x.transpose(a["perm"]),
    "slice": lambda x, a: x[tuple(
        np.s_[:] if isinstance(e, str) else b + s * np.arange(e) if i < 0 else slice(
            b, (b + s * e if b + s * e >= 0 else None), s)
        for i, (b, s, e) in enumerate(zip(a["begin"], a["steps"], a["shape"], strict=True)))],
    "expand": lambda x, a: np.broadcast_to(x, [x.shape[0] if isinstance(e, str) else e for e in a["shape"]]),
    "concat": lambda *v: np.concatenate(v[:-1], v[-1]["axis"]),
    "take": lambda x, *v: functools.reduce(
        lambda y, at: y.take(at[1].astype(int), at[0]), zip(v[-1]["axes"], v[:-1], strict=True), x),
    "pad": lambda x, a: _pad(x, list(zip(a["begin"], a["end"], strict=True)), a["value"]),
}


def _pad(x: Array, pads: Sequence[tuple[int, int]], value: float) -> Array:
    inside = x[tuple(slice(max(0, -b), e + min(0, a)) for e, (b, a) in zip(x.shape, pads, strict=True))]
    return np.pad(inside, [(max(0, b), max(0, a)) for b, a in pads], constant_values=value)


def _windows(
    x: Array, kernel: Sequence[int], a: Mapping[str, Any], fill: float
) -> Iterator[tuple[Any, Array]]:
    """(tap, what it sees of the padded input) for every tap of a window."""
    x = np.pad(x, [(0, 0), (0, 0), *zip(a["begin"], a["end"], strict=True)], constant_values=fill)
    counts = [(e - (r - 1) * d - 1) // s + 1
              for e, r, d, s in zip(x.shape[2:], kernel, a["dilations"], a["strides"], strict=True)]
    for tap in np.ndindex(*kernel):
        cut = [slice(t * d, t * d + (n - 1) * s + 1, s)
               for t, d, s, n in zip(tap, a["dilations"], a["strides"], counts, strict=True)]
        yield tap, x[(slice(None), slice(None), *cut)]


def _conv(x: Array, w: Array, attrs: Mapping[str, Any]) -> Array:
    g = attrs["group"]
    total: Any = 0
    for tap, seen in _windows(x, w.shape[2:], attrs, 0):
        n, c, *rest = seen.shape
        part = w[(slice(None), slice(None), *tap)].reshape(g, len(w) // g, c // g) @ seen.reshape(
            n, g, c // g, -1
        )
        total = total + part.reshape(n, len(w), *rest)
    return np.asarray(total)


def _scatter(x: Array, w: Array, attrs: Mapping[str, Any]) -> Array:
    """A transposed convolution as it is defined: every element of x adds to all places that it reaches."""
    g, s, d, begin, size = (attrs[k] for k in ("group", "strides", "dilations", "begin", "size"))
    n, c, *extents = x.shape
    reach = [(e - 1) * a + (r - 1) * b + 1 for e, a, r, b in zip(extents, s, w.shape[2:], d, strict=True)]
    room = [max(0, -b) for b in begin]
    most = [o + max(r, b + z) for r, b, z, o in zip(reach, begin, size, room, strict=True)]
    y = np.zeros((n, w.shape[1] * g, *most))
    for tap in np.ndindex(*w.shape[2:]):
        part = w[(slice(None), slice(None), *tap)].reshape(g, c // g, -1).swapaxes(1, 2) @ x.reshape(
            n, g, c // g, -1)
        at = tuple(slice(o + t * b, o + t * b + (e - 1) * a + 1, a)
                   for o, t, b, e, a in zip(room, tap, d, extents, s, strict=True))
        y[(slice(None), slice(None), *at)] += part.reshape(n, -1, *extents)
    cut = (slice(o + b, o + b + z) for o, b, z in zip(room, begin, size, strict=True))
    return y[(slice(None), slice(None), *cut)]


def _resample(x: Array, t: Array, w: Array, attrs: Mapping[str, Any]) -> Array:
    axis = attrs["axis"]
    rows = np.stack([x.take(c.astype(int), axis) for c in t.T], -1)
    return (rows * w.reshape(*(len(w) if a == axis else 1 for a in range(x.ndim)), -1)).sum(-1)


def _linear(x: Array, w: Array) -> Array:
    return x.reshape(len(x), -1) @ w.reshape(len(w), -1).T


def _pool(x: Array, a: Mapping[str, Any], fold: Callable[..., Array], fill: float) -> Array:
    return fold(np.stack([seen for _, seen in _windows(x, a["kernel"], a, fill)]), axis=0)


# ---- compiled graphs


def machine(target: Target) -> Machine:
    return Machine(target.triple, target.cpu, target.features)


@functools.lru_cache(256)
def object_of(text: str, target: Target) -> bytes:
    return compile_text(text, machine(target))


def compiled(graph: Graph, target: Target | None = None, threads: int = 1) -> CompiledModel:
    """As `cnncc.compile` does it, in this process; objects of equal texts are made once.

    Without a `target` by plain sums, which the bounds of `check_exact` and `check_sums` are about.
    """
    target = target or target_for(precision="strict")
    code = plan(graph := optimize(graph, target))
    objects = [object_of(text, target) for _, text in code.texts(target)]
    weights = buffers.aligned(max(code.plan.weights, 1))[:code.plan.weights]
    pack(code.constants, code.packings, weights)
    return CompiledModel(code.plan, objects, weights, {"target": target.record()}, threads)


def results(model: CompiledModel, inputs: Feeds) -> dict[str, Array]:
    return dict(zip([v.name for v in model.outputs], model.run(None, inputs), strict=True))


def poison(model: CompiledModel, inputs: Feeds) -> None:
    """A call with NaN everywhere, so that what the next one reads without having written it shows."""
    model.run(None, {k: np.full_like(v, np.nan) for k, v in inputs.items()})


def check_exact(graph: Graph, *batches: int, seed: int = 1, reach: int = 3, threads: int = 1,
                target: Target | None = None) -> None:
    """The compiled graph gives exactly the integers of the oracle, for each size of the batch."""
    model = compiled(graph, target, threads)
    for batch in batches or (1,):
        inputs = feeds(graph, batch, seed, reach)
        oracle = Oracle(graph, inputs)
        assert oracle.reach < EXACT, f"a bad example: partial sums reach {oracle.reach}"
        poison(model, inputs)
        got = results(model, inputs)
        for name, expected in oracle.outputs.items():
            np.testing.assert_array_equal(
                got[name], expected, f"{name} with batch {batch} of\n{graph}", strict=False
            )
            assert got[name].shape == expected.shape


def check_sums(graph: Graph, terms: int, inputs: Feeds, target: Target | None = None) -> None:
    """The output, a sum of so many products, is within the bound that float32 has, element by element."""
    oracle = Oracle(graph, inputs)
    got = results(compiled(graph, target), inputs)["y0"].astype(np.float64)
    bound = (terms + 2) * 2.0 ** -24 * oracle.sums[graph.outputs[0][1]] + terms * 2.0 ** -126
    error = np.abs(got - oracle.outputs["y0"])
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert (error <= bound).all(), f"{worst}: error {error[worst]}, bound {bound[worst]} of\n{graph}"


# ---- single kernels


def kernels_of(graph: Graph, target: Target | None = None) -> list[Node]:
    """The nodes of the optimized graph that hold kernels."""
    return [n for n in optimize(graph, target or target_for()) if n.kernel is not None]


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]


class Memory:
    """Arrays of float32; with `flush` ("begin" or "end") each touches a page there that is forbidden."""

    def __init__(self, flush: str = "") -> None:
        self.flush = flush
        self.maps: list[tuple[int, int]] = []

    def array(self, count: int) -> Array:
        if not self.flush:
            return buffers.aligned(count * 4 + 4).view(np.float32)[:count]
        page = mmap.PAGESIZE
        span = -(-count * 4 // page) * page
        base = _libc.mmap(None, span + 2 * page, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        assert base not in (None, ctypes.c_void_p(-1).value), "no memory"
        self.maps.append((base, span + 2 * page))
        if span:
            assert _libc.mprotect(base + page, span, mmap.PROT_READ | mmap.PROT_WRITE) == 0
        start = base + page + (span - 4 * count if self.flush == "end" else 0)
        return np.ctypeslib.as_array((ctypes.c_float * count).from_address(start))

    def close(self) -> None:
        for base, span in self.maps:
            _libc.munmap(base, span)


_linked: list[Any] = []


@functools.cache
def _jit() -> Any:
    llvm.initialize_native_target()
    return llvm.create_lljit_compiler(use_jit_link=True, suppress_errors=True)


@functools.lru_cache(64)
def function_of(kernel: Kernel, target: Target) -> Any:
    """The kernel as a function of (slots, first task, last task, thread)."""
    name = "kernel_under_test"
    data = object_of(lower(kernel, name, target), target)
    builder = llvm.JITLibraryBuilder().add_current_process().add_object_img(data).export_symbol(name)
    library = builder.link(_jit(), f"test{len(_linked)}")
    _linked.append(library)
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(library[name])


def arguments(
    kernel: Kernel, batch: int = 1, seed: int = 0, reach: int = 3, real: bool = False,
    tables: Mapping[int, Array] | None = None,
) -> list[Array]:
    """Plain arrays for the operands; `tables` are those of integers by position."""
    rng = np.random.default_rng(seed)
    shapes = [t.type.static(**dict.fromkeys(t.type.symbols, batch)) for t in kernel.operands[:-1]]
    return [(rng.standard_normal(s) if real else rng.integers(-reach, reach + 1, s)).astype(np.float32)
            if t.type.dtype == "f32" else (tables or {})[i]
            for s, t, i in zip(shapes, kernel.operands, range(len(shapes)), strict=False)]


def tables_of(graph: Graph, n: Node) -> dict[int, Array]:
    """The tables of indices among a node's operands, by position."""
    return {i: graph.constants[v] for i, v in enumerate(n.inputs) if graph[v].type.dtype == "i32"}


def base_of(kernel: Kernel, batch: int) -> Array:
    """Something for a clause to be written over."""
    shape = kernel.output.type.static(**dict.fromkeys(kernel.output.type.symbols, batch))
    return np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape)


def size_of(t: Tensor, batch: int) -> int:
    return t.layout.elements(t.type.shape) * (batch if t.type.symbols else 1)


def expected_memory(kernel: Kernel, arrays: Sequence[Array], batch: int = 1,
                    base: Array | None = None) -> Array:
    """The output's memory, padding included, as the reference computes it in float64 (over `base`)."""
    symbols = {s for t in kernel.operands for s in t.type.symbols}
    y = run_kernel(kernel, arrays, dict.fromkeys(symbols, batch), np.float64,
                   None if base is None else base.astype(np.float64))
    return kernel.output.layout.pack(y)


def run_memory(kernel: Kernel, arrays: Sequence[Array], target: Target, batch: int = 1, flush: str = "",
               tasks: Callable[[int], Sequence[tuple[int, int]]] | None = None, thread: int = 0,
               base: Array | None = None) -> Array:
    """The output's memory after a call, which finds `base` or NaN; `tasks` cuts it into several calls."""
    f = function_of(kernel, target)
    memory = Memory(flush)
    try:
        places = []
        for t, a in zip(kernel.operands, arrays, strict=False):
            packed = t.layout.pack(a)
            assert packed.size == size_of(t, batch)
            places.append(memory.array(packed.size))
            places[-1].view(packed.dtype)[:] = packed
        own = scratch_offsets(kernel)[1] // 4
        scratch, out = memory.array(own * (thread + 1)), memory.array(size_of(kernel.output, batch))
        scratch[:] = np.nan
        out[:] = np.nan if base is None else kernel.output.layout.pack(base)
        before = [p.copy() for p in places]
        addresses = [buffers.address(a) for a in (scratch, *places, out)]
        slots = memory.array(2 * (1 + len(addresses)) if flush else 64).view(np.int64)
        slots[:1 + len(addresses)] = [batch, *addresses]
        count, symbol = task_count(kernel)
        count *= batch if symbol else 1
        for first, last in tasks(count) if tasks else [(0, count)]:
            f(buffers.address(slots), first, last, thread)
        assert not np.isnan(scratch[: own * thread]).sum() - own * thread, (
            "another thread's scratch was written"
        )
        for a, b in zip(places, before, strict=True):
            np.testing.assert_array_equal(a, b, "an operand was written")
        return out.copy()
    finally:
        memory.close()


def missing(level: str) -> str:
    """The features of a target that this CPU lacks."""
    return ", ".join(f[1:] for f in LEVELS[level][1].split(",") if f[1:] not in host_features())
