"""A compiled model as its user holds it: call it with arrays, look into it, save it."""

from __future__ import annotations

import ctypes
import itertools
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnncc.ir.errors import ArtifactError, InputError, InternalError, ModelError, hint
from cnncc.ir.layout import parse_layout
from cnncc.ir.plan import FRAME, Held, Plan, restore
from cnncc.ir.signature import Array, Signature, settled
from cnncc.ir.target import LEVELS, host_features
from cnncc.ir.types import dtype_called
from cnncc.runtime import artifact, buffers, env, loader, profiler
from cnncc.runtime.profiler import Roof, StepTime
from cnncc.runtime.throughput import in_order

_FIRST, _LAST = FRAME.index("first"), FRAME.index("last")


class Threaded(ABC):
    """What is called with a number of threads. Raises InputError for a wrong one."""

    def __init__(self, threads: int | None) -> None:
        self._threads = env.thread_count(threads)

    @property
    def threads(self) -> int:
        """Threads that a call uses, its own included; may be changed, results stay the same bit by bit."""
        return self._threads

    @threads.setter
    def threads(self, threads: int | None) -> None:
        self._threads = env.thread_count(threads)

    def map(self, batches: Iterable[Any], *, ahead: int = 2) -> Iterator[Any]:
        """The results for many inputs, in their order: `threads` calls at a time, each on one core.

        That is more samples per second than call by call, and the same bits. A batch is an array, a tuple of
        arrays by position, or arrays by name; its result is what a call gives. Weights and code are shared,
        each core has a workspace of its own. `batches` may be a generator of any length: at most
        `threads + ahead` are taken before their results are; it runs in the caller's thread. An iterator that
        isn't needed to its end may be closed.

        Raises InputError for a wrong `ahead`; the iterator what a call raises, with the number of the batch,
        from 0, or an error of the generator.
        """
        if type(ahead) is not int or ahead < 0:
            raise InputError(f"ahead={ahead!r:.60}: expected a whole number of batches from 0 on")
        return in_order(self._numbered, batches, self._threads, ahead)

    def _numbered(self, number: int, batch: Any) -> Any:
        args, feeds = ((), batch) if isinstance(batch, Mapping) else (
            batch if isinstance(batch, tuple) else (batch,), {})
        try:
            return _given_back(self._alone(args, feeds))
        except InputError as error:
            raise InputError(f"batch {number}: {error}") from error
        except ModelError as error:
            raise ModelError(f"batch {number}: {error}") from error

    @abstractmethod
    def _alone(self, args: Sequence[Any], feeds: Mapping[str, Any]) -> list[Array]:
        """The results of a call that runs in the caller's thread only."""


def _given_back(results: Sequence[Array]) -> Any:
    return results[0] if len(results) == 1 else tuple(results)


class CompiledModel(Threaded):
    """Native code, weights and the plan that they follow. Any number of threads may call one model.

    Made by `cnncc.compile` and `cnncc.load`. The last of `objects` is the thread pool. `meta` goes into the
    saved file: `target` is a Target's record, `folded` maps nodes computed when compiling to the reason.
    `inputs` and `outputs` are Values (name, dtype, shape; a word in a shape is a size that a call chooses).

    No values of inputs decide what it does: `deciding` is empty.

    Raises InputError for a wrong number of `threads`, ArtifactError if objects or weights don't fit the plan.
    """

    deciding: tuple[str, ...] = ()

    def __init__(self, plan: Plan, objects: Sequence[bytes], weights: NDArray[np.uint8],
                 meta: Mapping[str, Any], threads: int | None = None) -> None:
        super().__init__(threads)
        self.plan, self.meta, self._objects = plan, dict(meta), tuple(objects)
        self.name, self.inputs, self.outputs = plan.name, plan.inputs, plan.shown
        if weights.nbytes != plan.weights or not objects:
            raise ArtifactError(f"{plan.name}: {len(objects)} objects, {weights.nbytes:,} bytes of weights; "
                                f"expected at least 1 and {plan.weights:,}")
        if buffers.address(weights) % 64 and weights.nbytes:
            copy = buffers.aligned(weights.nbytes)
            copy[:] = weights
            weights = copy
        self._weights = weights
        self._code = loader.load_code(self._objects[:-1], self._objects[-1])
        self._entry = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self._code.entry)
        self._signature = Signature(plan.inputs, plan.shown)
        self._dtypes = [dtype_called(v.dtype) for v in plan.outputs]
        self._operands = slice(len(FRAME), len(FRAME) + len(plan.inputs) + len(plan.outputs))
        self._free: deque[_Space] = deque()
        self._state = buffers.aligned(plan.held)

    def __call__(self, /, *args: Any, out: Any = None, **feeds: Any) -> Any:
        """The output for these inputs, given by position or name: one array, or a tuple if there are several.

        Inputs of any stride and alignment are taken and never written. `out`, an array or a sequence of one
        per output, receives the results instead of new arrays: contiguous, of the right dtype and shape,
        apart from the inputs and each other. (An input named "out" is given by position, or to `run`.)

        Raises InputError where an array doesn't fit, or there is not enough memory.
        """
        return _given_back(self._call(args, feeds, out))

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """The outputs of these names (None: all) for inputs by name, as ONNX Runtime gives them.

        Raises InputError as a call does, and for an unknown output.
        """
        feeds = feeds if type(feeds) is dict else self._signature.by_name(feeds)
        if not output_names:
            return self._call((), feeds, None)
        chosen = self._signature.select(output_names)
        results = self._call((), feeds, None)
        return [results[i] for i in chosen]

    def profile(self, /, *args: Any, repeat: int | None = None, **feeds: Any) -> list[StepTime]:
        """The time of every step of a call, for `format_profile`: medians of `repeat` rounds.

        With one thread it is CPU time, which other programs disturb less. Without `repeat` it takes half a
        second. Raises InputError as a call does.
        """
        if repeat is not None and (type(repeat) is not int or repeat < 1):
            raise InputError(f"repeat={repeat!r:.60}: expected a whole number of rounds from 1 on")
        space, operands = self._take(), []

        def run(first: int, last: int) -> None:
            space.frame[_FIRST], space.frame[_LAST] = first, last
            self._enter(space)
        try:
            operands += self._prepare(space, args, feeds, None, self._threads)     # they live until it ends
            clock = time.thread_time if self._threads == 1 else time.perf_counter
            return profiler.measure(self.plan.steps, space.batch, run, repeat, clock)
        finally:
            space.batch = 0             # its frame is not that of a call
            self._free.append(space)

    def format_profile(self, times: Sequence[StepTime], roof: Roof | None = None,
                       markdown: bool = False) -> str:
        """What `profile` gave as a table, on request in Markdown; a `roof` adds what limits each step."""
        return profiler.format_profile(times, roof, markdown) + self._folded()

    def summary(self) -> str:
        """What the model takes, gives and needs, and its steps, as text."""
        return profiler.format_summary(self.plan) + self._folded()

    @property
    def state(self) -> dict[str, Array]:
        """Copies of what the model keeps from call to call, by name; zeros until it is set.

        A model with a state is called by one thread at a time. Setting it takes some or all of the arrays;
        raises InputError for an unknown name, another dtype or shape.
        """
        return {h.name: parse_layout(h.layout).unpack(self._held(h), h.axes).reshape(h.shape)
                for h in self.plan.state}

    @state.setter
    def state(self, arrays: Mapping[str, Any]) -> None:
        known = {h.name: h for h in self.plan.state}
        for name, x in arrays.items():
            h = known.get(name)
            if h is None:
                raise InputError(f"{self.name} has no state {name!r}{hint(name, known)}")
            if not isinstance(x, np.ndarray) or x.dtype != dtype_called(h.dtype) or x.shape != h.shape:
                got = f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
                raise InputError(f"state {name!r}: expected {h.dtype}{list(h.shape)}, got {got}")
        for name, x in arrays.items():
            self._held(known[name])[:] = parse_layout(known[name].layout).pack(x.reshape(known[name].axes))

    def _held(self, h: Held) -> Array:
        return self._state[h.offset:h.offset + h.nbytes].view(dtype_called(h.dtype))

    def record(self) -> dict[str, Any]:
        """The metadata of the model's artifact, in which all objects are one after the other."""
        return {**self.meta, "abi": loader.ABI, "objects": [*map(len, self._objects)],
                "plan": self.plan.record()}

    def parts(self) -> tuple[dict[str, Any], bytes]:
        """The metadata and the code of the model's artifact."""
        return self.record(), b"".join(self._objects)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a `.cnncc` file, for `cnncc.load`. Raises OSError, or ArtifactError if `path` is no file."""
        artifact.write(path, *self.parts(), self._weights.data)

    def __repr__(self) -> str:
        describe = profiler.describe
        return f"<CompiledModel {self.name!r}: {describe(self.inputs)} -> {describe(self.outputs)}>"

    def __reduce__(self) -> tuple[Callable[[bytes, int], CompiledModel], tuple[bytes, int]]:
        """For copies and for other processes: what a `.cnncc` file holds, and the number of threads."""
        data = artifact.to_bytes(*self.parts(), self._weights.data)
        return from_bytes, (data, self._threads)

    def _folded(self) -> str:
        nodes = [f"{node} ({why})" for node, why in self.meta.get("folded", {}).items()]
        return f"\nfolded when compiled: {', '.join(nodes)}" if nodes else ""

    def _alone(self, args: Sequence[Any], feeds: Mapping[str, Any]) -> list[Array]:
        if self.plan.state:
            raise InputError(f"{self.name} keeps a state from call to call: call it in order")
        return self._call(args, feeds, None, 1)

    def _call(self, args: Sequence[Any], feeds: Mapping[str, Any], out: Any,
              threads: int | None = None) -> list[Array]:
        space = self._take()
        try:
            operands = self._prepare(space, args, feeds, out, threads or self._threads)
            self._enter(space)
            return settled(self.plan.signals, operands[len(self.plan.inputs):])
        finally:
            self._free.append(space)

    def _prepare(self, space: _Space, args: Sequence[Any], feeds: Mapping[str, Any], out: Any,
                 threads: int) -> list[Array]:
        """Put into a frame: the inputs as kernels read them, then the results. Both must outlive the call."""
        arrays, n = self._signature.bind(args, feeds)
        for i, x in enumerate(arrays):
            if not (x.flags.carray or (x.flags.c_contiguous and x.flags.aligned)):
                arrays[i] = np.array(x, order="C")
        if space.batch != n or space.threads != threads:
            self._fit(space, n, threads)
        try:
            given = [] if out is None else self._given(out, arrays, space.shapes)
            arrays += (*given, *map(np.empty, space.shapes[len(given):], self._dtypes[len(given):]))
        except (MemoryError, ValueError) as error:
            raise InputError(f"{self.name}: no memory for results of a batch of {n:,}: {error}") from error
        space.frame[self._operands] = list(map(_address, arrays))
        return arrays

    def _take(self) -> _Space:
        """Memory for one call; whoever is done with it puts it back into `_free`."""
        try:
            return self._free.pop()
        except IndexError:
            return _Space(self._operands.stop)

    def _enter(self, space: _Space) -> None:
        if code := self._entry(space.address):
            raise InternalError(f"{self.name}: the native code returned {code}")

    def _given(self, out: Any, arrays: Sequence[Array], shapes: Sequence[tuple[int, ...]]) -> list[Array]:
        given: list[Any] = list(out) if isinstance(out, Sequence) else [out]
        if len(given) != len(self.outputs):
            raise InputError(f"out: expected {len(self.outputs)} arrays, got {len(given)}")
        for i, (v, x, shape) in enumerate(zip(self.outputs, given, shapes, strict=False)):
            if not isinstance(x, np.ndarray) or x.dtype != dtype_called(v.dtype) or x.shape != shape:
                got = f"{x.dtype}{list(x.shape)}" if isinstance(x, np.ndarray) else type(x).__name__
                raise InputError(f"out: expected for {v.name!r} {v.dtype}{list(shape)}, got {got}")
            if not x.flags.carray:
                raise InputError(f"out: the array for {v.name!r} must be contiguous, aligned and writable")
            if any(np.may_share_memory(x, other) for other in (*arrays, *given[:i])):   # exact: contiguous
                raise InputError(f"out: the array for {v.name!r} overlaps an input or another output")
        return given

    def _fit(self, space: _Space, n: int, threads: int) -> None:
        """Prepare for calls with this batch size: all but the operands. Raises InputError without memory."""
        plan = self.plan
        work = -(-plan.work * n // buffers.PAGE) * buffers.PAGE
        space.batch = 0
        if (need := work + plan.scratch * threads) > space.memory.nbytes:
            space.memory = buffers.aligned(0)           # the old one goes first
            try:
                space.memory = buffers.aligned(need)
            except MemoryError as error:
                raise InputError(f"{self.name}: a batch of {n:,} on {threads} threads needs a workspace of "
                                 f"{need:,} bytes, which the system refuses: use a smaller batch") from error
        base = buffers.address(space.memory)
        acquire, parallel, release = self._code.pool
        slots = {"batch": n, "threads": threads, "first": 0, "last": len(plan.steps), "work": base,
                 "scratch": base + work, "weights": buffers.address(self._weights),
                 "state": buffers.address(self._state), "acquire": acquire, "parallel": parallel,
                 "release": release, "context": 0}
        space.frame[:len(FRAME)] = [slots[name] for name in FRAME]
        space.shapes = [tuple(n if isinstance(e, str) else e for e in v.shape) for v in plan.outputs]
        space.batch, space.threads = n, threads


class _Space:
    """What one call at a time needs: its frame and where that is, its memory, the shapes of results."""

    def __init__(self, slots: int) -> None:
        self.frame = (ctypes.c_int64 * slots)()
        self.address = ctypes.addressof(self.frame)
        self.memory = buffers.aligned(0)
        self.shapes: list[tuple[int, ...]] = []
        self.batch = self.threads = 0


def load(path: str | os.PathLike[str], *, threads: int | None = None, verify: bool = False) -> CompiledModel:
    """A compiled model from its `.cnncc` file (native code: trust it as you would a shared library).

    With `verify` the weights, too, are checked against their hash. Raises ArtifactError, with the path, if
    the file is damaged, from another version, or asks for instructions that this CPU lacks; InputError for
    `threads`.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"load: expected the path of a .cnncc file, got {type(path).__name__}")
    return from_artifact(artifact.read(path, verify), threads, os.fspath(path))


def from_bytes(data: bytes, threads: int | None = None) -> CompiledModel:
    """The model in the bytes of a `.cnncc` file, all of them checked; raises as `load` does."""
    return from_artifact(artifact.from_bytes(data), threads)


def from_artifact(found: artifact.Artifact, threads: int | None, where: str = "model") -> CompiledModel:
    """The model of an artifact that was read from `where`; raises as `load` does."""
    meta = dict(found.meta)
    try:
        if (abi := meta.pop("abi", None)) != loader.ABI:
            raise ArtifactError(f"its native interface has version {abi}, this cnncc has {loader.ABI}: "
                                f"compile the model again")
        features, here = meta["target"]["features"], host_features()
        if missing := [f[1:] for f in features.split(",") if f.startswith("+") and f[1:] not in here]:
            level = next((f"code for {name}" for name, (_, text, _, _) in LEVELS.items() if text == features),
                         "code")
            raise ArtifactError(f"holds {level}, but this CPU has no {', '.join(missing)}: "
                                f"compile the model again, here or with a lower target")
        ends = [*itertools.accumulate(meta.pop("objects"), initial=0)]
        if ends[-1] != len(found.object):
            raise ArtifactError(f"damaged object code: {len(found.object):,} bytes, expected {ends[-1]:,}")
        objects = [found.object[a:b] for a, b in itertools.pairwise(ends)]
        return CompiledModel(restore(meta.pop("plan")), objects, found.weights, meta, threads)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{where}: incomplete metadata ({type(error).__name__}: {error})") from error


# Where an array object keeps the address of its elements: the first field after the object's header, part of
# NumPy's binary interface. Ten times as fast as __array_interface__, and half of a call's overhead.
_DATA = object.__basicsize__
_pointer_at = ctypes.c_int64.from_address


def _read_address(x: Array) -> int:
    return _pointer_at(id(x) + _DATA).value


_PROBE = np.zeros(8, np.uint8)
_address = _read_address if _read_address(_PROBE) == buffers.address(_PROBE) else buffers.address
