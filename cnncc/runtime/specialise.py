"""A model that leaves sizes open, or whose inputs decide shapes: it is compiled for what a call brings."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeAlias, TypeVar

from cnncc.ir.errors import InputError, ModelError
from cnncc.ir.plan import Plan
from cnncc.ir.signature import Array, OpenError
from cnncc.runtime.model import CompiledModel, Threaded
from cnncc.runtime.profiler import Roof, StepTime, describe

M = TypeVar("M")
Build: TypeAlias = Callable[[Mapping[str, tuple[int, ...]], Mapping[str, Array]], M]
"""Makes a model from the shapes of inputs (none: the batch stays open) and the values of some."""

MOST = 8            # variants that are kept
DECIDING = 64       # elements that an input may have whose values decide


class Variants(Generic[M]):
    """Models made of one, each for what the arrays of a call decide; the `MOST` used last are kept.

    Threads that ask for the same one at a time wait for one build. What decides may prove to be more than
    `reason` says, once that is known: then it is so for all later calls.
    """

    def __init__(self, build: Build[M], reason: OpenError) -> None:
        self.build, self.reason = build, reason
        self.found: OrderedDict[Any, Future[M]] = OrderedDict()
        self.sizes, self.values, self._lock = reason.sizes, reason.values, threading.Lock()

    def find(self, arrays: Mapping[str, Array]) -> M:
        """The model for arrays that fit the signature. Raises as `build`, InputError for too many values."""
        pinned = False
        while True:
            with self._lock:
                shapes = {n: x.shape for n, x in arrays.items()} if self.sizes or pinned else {}
                values = {n: arrays[n] for n in sorted(self.values)}
                key = tuple(shapes.items()), tuple((n, x.shape, _bytes(n, x)) for n, x in values.items())
                future = self.found.get(key)
                if build := future is None:
                    future = self.found[key] = Future()
                    if len(self.found) > MOST:
                        self.found.popitem(last=False)
                else:
                    self.found.move_to_end(key)
            if build:
                self._make(key, future, shapes, values)
            try:
                model = future.result()
                self.sizes = self.sizes or pinned
                return model
            except OpenError as error:
                if not self._more(error):
                    raise
            except ModelError:      # maybe these values don't fit an open batch
                if shapes or not self.reason.signature.open:
                    raise
                pinned = True

    def _make(self, key: Any, future: Future[M], shapes: Mapping[str, tuple[int, ...]],
              values: Mapping[str, Array]) -> None:
        try:
            future.set_result(self.build(shapes, {n: x.copy() for n, x in values.items()}))
        except BaseException as error:
            with self._lock:
                self.found.pop(key, None)
            future.set_exception(error)

    def _more(self, error: OpenError) -> bool:
        """Note what decides, too; whether it is more than before."""
        with self._lock:
            before = self.sizes, self.values
            self.sizes, self.values = self.sizes or error.sizes, self.values | error.values
            return before != (self.sizes, self.values)

    def made(self) -> list[M]:
        """The models that are there, the one used last at the end."""
        with self._lock:
            done = [f for f in self.found.values() if f.done() and f.exception() is None]
        return [f.result() for f in done]


def _bytes(name: str, x: Array) -> bytes:
    if x.size > DECIDING:
        raise InputError(f"input {name!r} decides what is compiled: it may have at most {DECIDING} elements, "
                         f"got shape {list(x.shape)}")
    return x.tobytes()


class SpecialisingModel(Threaded):
    """A model that compiles itself on a call with new sizes, or new values of inputs that decide shapes.

    It is called, and asked, as a CompiledModel is. What it tells of a plan is of the variant used last.

    The 8 variants that were used last are kept, each with its own weights; one line on the log "cnncc" tells
    of each that is compiled. Any number of threads may call it: those that need the same new variant wait for
    one compilation. `inputs` and `outputs` have the names that the file gives open sizes; equal names are
    equal sizes.

    Calls raise as those of a CompiledModel, and as `cnncc.compile` where the model can't be compiled for what
    they are given: ModelError, with the name of the node that it doesn't fit.
    """

    def __init__(self, build: Build[CompiledModel], reason: OpenError, threads: int | None = None) -> None:
        super().__init__(threads)
        self.name, self.signature = reason.name, reason.signature
        self.inputs, self.outputs = reason.signature.inputs, reason.signature.outputs
        self.reason, self._variants = reason, Variants(build, reason)

    @property
    def deciding(self) -> tuple[str, ...]:
        """The inputs whose values decide what is compiled, as far as is known."""
        return tuple(sorted(self._variants.values))

    def __call__(self, /, *args: Any, out: Any = None, **feeds: Any) -> Any:
        """The output for these inputs, as CompiledModel's call gives it."""
        model, arrays = self._bound(args, feeds)
        return model(*arrays, out=out)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Array]:
        """The outputs of these names (None: all), as ONNX Runtime's `run` gives them."""
        self.signature.select(output_names or None)
        model, arrays = self._bound((), self.signature.by_name(feeds))
        return model.run(output_names, dict(zip((v.name for v in self.inputs), arrays, strict=True)))

    def _alone(self, args: Sequence[Any], feeds: Mapping[str, Any]) -> list[Array]:
        model, arrays = self._bound(args, feeds)
        return model._alone(arrays, {})

    def variant(self, /, *args: Any, **feeds: Any) -> CompiledModel:
        """The compiled model for these inputs; compiles it where it isn't there."""
        return self._bound(args, feeds)[0]

    def profile(self, /, *args: Any, repeat: int | None = None, **feeds: Any) -> list[StepTime]:
        """The time of every step of the variant for these inputs."""
        model, arrays = self._bound(args, feeds)
        return model.profile(*arrays, repeat=repeat)

    def format_profile(self, times: Sequence[StepTime], roof: Roof | None = None,
                       markdown: bool = False) -> str:
        """What `profile` gave as a table; call it before other inputs are given."""
        return self._last().format_profile(times, roof, markdown)

    @property
    def plan(self) -> Plan:
        """The plan of the variant that was used last."""
        return self._last().plan

    @property
    def meta(self) -> dict[str, Any]:
        """The metadata of the variant that was used last."""
        return self._last().meta

    def summary(self) -> str:
        """What the model takes and gives, what decides, and the summary of the variant that was used last."""
        rows = [f"\n  {op} {name!r}: {why}" for op, name, why in self.reason.rows]
        made = self._variants.made()
        return (f"{self.name}: compiled for the inputs of each call, as their sizes or values decide:"
                f"{''.join(rows)}\ntakes {describe(self.inputs)}\ngives {describe(self.outputs)}\n"
                f"variants: {len(made)} of at most {MOST}{', the last one:' if made else ''}"
                + "".join(f"\n{m.summary()}" for m in made[-1:]))

    def save(self, path: Any) -> None:
        """Raises InputError: a file holds one variant."""
        raise InputError(f"{path}: {self.name} is compiled when it is called; to save it, compile it for "
                         "sizes given with shapes= or --shape, or save what `variant` gives")

    def __repr__(self) -> str:
        return f"<SpecialisingModel {self.name!r}: {describe(self.inputs)} -> {describe(self.outputs)}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """For copies and other processes: what the model is made of, without variants."""
        return type(self), (self._variants.build, self.reason, self._threads)

    def _bound(self, args: Sequence[Any], feeds: Mapping[str, Any]) -> tuple[CompiledModel, list[Array]]:
        arrays, _ = self.signature.bind(args, feeds)
        model = self._variants.find(dict(zip((v.name for v in self.inputs), arrays, strict=True)))
        if model.threads != self._threads:
            model.threads = self._threads
        return model, arrays

    def _last(self) -> CompiledModel:
        if not (made := self._variants.made()):
            raise InputError(f"{self.name} is compiled when it is called: call it first")
        return made[-1]
