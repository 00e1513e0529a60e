"""The pipeline on one page: source -> graph -> passes -> plan -> objects -> model."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from cnncc.ir.constants import Later
from cnncc.ir.errors import CnnccError, InputError, InternalError, ModelError, UnsupportedError
from cnncc.ir.target import Target, target_for
from cnncc.version import __version__

if TYPE_CHECKING:
    import onnx

    from cnncc.frontend.files import Opening
    from cnncc.frontend.onnx import ModelInfo
    from cnncc.frontend.onnx_import import Shapes
    from cnncc.frontend.preprocess import Preprocess
    from cnncc.frontend.user import Ops, UserOp
    from cnncc.ir.graph import Graph
    from cnncc.ir.kernel import Kernel
    from cnncc.ir.plan import Plan
    from cnncc.ir.signature import Array
    from cnncc.passes.memory import Packing
    from cnncc.passes.tuned import Tuned
    from cnncc.reference_model import OpenReference, Reference
    from cnncc.runtime.aside import Aside
    from cnncc.runtime.cache import Making
    from cnncc.runtime.model import CompiledModel
    from cnncc.runtime.specialise import SpecialisingModel

log = logging.getLogger("cnncc")

Source: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto | Graph"
Pass: TypeAlias = "Callable[[Graph, Target], Graph]"


def pipeline(tuned: Tuned | None = None) -> tuple[Pass, ...]:
    """The passes in order; each one's docstring says what it does."""
    from cnncc.passes import algorithms, choice, fold, fuse, inputs, layouts, movement, packing, stages
    return (movement.merge_pads, fold.fold_batchnorm, fold.expand, fold.fold_constants, fold.merge_views,
            fold.share_equal, movement.place_early, algorithms.pool_first, algorithms.choose_algorithms,
            fuse.form, movement.read_through, fuse.fuse, stages.fuse_stages, layouts.choose_layouts,
            packing.pack_weights, inputs.stage_inputs,
            functools.update_wrapper(functools.partial(choice.choose_schedules, tuned=tuned),
                                     choice.choose_schedules))


def read(source: Source, opening: Opening | None = None, shapes: Shapes | None = None,
         outputs: Sequence[str] | None = None, values: Mapping[str, Array] | None = None,
         ops: Ops | None = None, preprocess: Preprocess | None = None) -> Graph:
    """The graph of a model; `opening` is told of files beside it before they are read.

    `shapes` fixes the open sizes of an ONNX model's inputs, `values` makes inputs constants; `outputs` are
    names of tensors of the model, which become its outputs; `ops` are the user's; `preprocess` puts images in
    the place of an input. Raises ModelError, of its kind OpenError where shapes or values are missing,
    InputError for those that don't fit and unknown names.
    """
    check_preprocess(preprocess)
    graph = _read(source, opening, shapes, outputs, values, ops)
    if preprocess is None:
        return graph
    from cnncc.frontend.preprocess import preprocessed
    return preprocessed(graph, preprocess)


def _read(source: Source, opening: Opening | None, shapes: Shapes | None, outputs: Sequence[str] | None,
          values: Mapping[str, Array] | None, ops: Ops | None) -> Graph:
    from cnncc.frontend.files import is_definition
    from cnncc.ir.graph import Graph
    wanted, ops = names_of(outputs), check_ops(ops)
    if isinstance(source, Graph) or is_definition(source):
        if shapes:
            raise InputError("shapes are for ONNX models: here the inputs have theirs")
        if isinstance(source, Graph):
            return source if wanted is None else source.cut(wanted)
        from cnncc.frontend.definition import read as read_definition
        return read_definition(source, opening, wanted, ops)
    from cnncc.frontend.onnx import read as read_onnx
    from cnncc.frontend.onnx_import import Given
    return read_onnx(source, opening=opening, given=Given(shapes or {}, values or {}, wanted, ops))


def names_of(outputs: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names that a caller gives, each once. Raises InputError for none, or where one is no text."""
    if outputs is None:
        return None
    names = [outputs] if isinstance(outputs, str) else list(outputs)
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise InputError(f"outputs: expected names of tensors, each once, got {names!r:.200}")
    return tuple(names)


def inspect(path: str, shapes: Shapes | None = None, outputs: Sequence[str] | None = None,
            ops: Ops | None = None) -> ModelInfo:
    """What is in a model file, also where it can't be compiled yet, with what `read` may be given.

    Raises ModelError for a broken one, InputError as `read`.
    """
    from cnncc.frontend import definition, onnx
    from cnncc.frontend.files import is_definition
    from cnncc.frontend.onnx_import import Given
    if is_definition(path):
        return definition.inspect(path, check_ops(ops))
    return onnx.inspect(path, Given(shapes or {}, outputs=names_of(outputs), ops=check_ops(ops)))


def convert(source: Source, path: str | os.PathLike[str], *, ops: Ops | None = None) -> None:
    """Write a model, or definition, as an ONNX file, which appears complete or not at all.

    Raises ModelError as `compile` does, and OSError.
    """
    from cnncc.runtime.artifact import replacing
    data = as_onnx(source, ops)
    with replacing(path) as file:
        file.write(data)


def as_onnx(source: Source, ops: Ops | None = None) -> bytes:
    """A model, as read, as the bytes of an ONNX file. Raises as `read`."""
    from cnncc.frontend.onnx_out import to_onnx
    return bytes(to_onnx(read(source, ops=ops)).SerializeToString())


def stages(graph: Graph, target: Target, tuned: Tuned | None = None) -> Iterator[tuple[str, Graph]]:
    """(name of the pass, the graph after it), first the graph as read; CNNCC_DUMP=folder writes all to files.

    Raises InternalError naming the pass.
    """
    from cnncc.ir.loops import everywhere
    folder = os.environ.get("CNNCC_DUMP")
    for i, (name, run) in enumerate([("read", None), *((p.__name__, p) for p in pipeline(tuned))]):
        try:
            if run is not None:
                before, graph = graph, everywhere(run, graph, target)
                graph.verify(before)
        except CnnccError:
            raise
        except Exception as error:
            raise InternalError(f"pass {name} failed on {graph.name}: {error}") from error
        if folder:
            os.makedirs(folder, exist_ok=True)
            Path(folder, f"{i:02}-{name}.txt").write_text(f"{graph}\n")
        yield name, graph


def optimize(graph: Graph, target: Target, tuned: Tuned | None = None, aside: Aside | None = None) -> Graph:
    """The graph after all passes; what they leave to be computed later is begun `aside`.

    Raises as `stages`, UnsupportedError for types that the target lacks.
    """
    halves = [n for n in graph if n.type.dtype == "f16"]
    if halves and "+f16c" not in target.features.split(","):
        raise UnsupportedError(f"{graph.name}: half precision needs x86-64-v3, the target is {target.level}",
                               [(n.op, n.name, f"is {n.type}") for n in halves])
    begun: set[Later] = set()
    for _, new in stages(graph, target, tuned):
        graph = new
        if aside is not None:
            for later in [x for x in graph.constants.open() if x not in begun]:
                begun.add(later)
                aside.start(later.get)
    return graph


@dataclass(frozen=True)
class Code:
    """What a scheduled graph needs to run: plan, kernels by symbol, the order of the weights, these."""

    plan: Plan
    kernels: dict[str, Kernel]
    packings: tuple[Packing, ...]
    constants: Mapping[str, Array]

    def texts(self, target: Target) -> Iterator[tuple[str, str]]:
        """(symbol, LLVM text) of each module, one at a time."""
        from cnncc.codegen.driver import ENTRY, driver
        from cnncc.codegen.lower import lower
        from cnncc.codegen.threads import pool_ir
        for symbol, kernel in self.kernels.items():
            try:
                text = lower(kernel, symbol, target)
            except InternalError as error:
                raise InternalError(f"{error}\n{kernel}") from error
            yield symbol, text
        yield ENTRY, driver(self.plan)
        yield "pool", pool_ir()


def plan(graph: Graph) -> Code:
    """The plan of an optimized graph."""
    from cnncc.ir.loops import inlined
    from cnncc.passes.memory import plan_memory
    found = inlined(graph)
    result, packings, kernels = plan_memory(found)
    return Code(result, kernels, packings, found.graph.constants)


@dataclass(frozen=True)
class Options:
    """The arguments of `compile` that decide the code, and the number of compile processes."""

    target: Target
    shapes: Shapes
    outputs: tuple[str, ...] | None
    cache: bool
    jobs: int | None
    ops: Ops
    tuned: Tuned | None
    preprocess: Preprocess | None


def compile(source: Source, *, threads: int | None = None, shapes: Shapes | None = None,
            outputs: Sequence[str] | None = None, target: str = "native", precision: str = "fast",
            cache: bool = True, jobs: int | None = None,
            progress: Callable[[str, float], None] | None = None,
            ops: Ops | None = None, schedules: str | os.PathLike[str] | None = None,
            preprocess: Preprocess | None = None) -> CompiledModel | SpecialisingModel:
    """Compile a model for this machine.

    `source` is a path (`.onnx`, ONNX as text in `.onnxtxt`, a definition in `.yaml`), the bytes of an ONNX
    file, an onnx.ModelProto or a Graph; weights beside it are read from the path's folder only.
    A model that leaves more sizes open than one batch, or whose shapes follow from values of small inputs,
    gives a SpecialisingModel: it is compiled when it is called, for what that call brings. (Don't change an
    onnx.ModelProto, or the file, meanwhile.)

    `threads` only sets how many the model uses when it runs. `shapes` fixes inputs of which the model leaves
    sizes open, by name: {"x": (1, 3, 224, 224)}. `outputs` names tensors of the model, in an ONNX file any
    value, in a definition any id, that are computed instead of its own outputs.
    `target` is native or x86-64-v2, -v3 or -v4. `precision` is fast or strict, without Winograd's
    convolution that rounds worse. `cache=False` compiles anew.
    `jobs` are the compile processes (None: one per CPU). `progress` is told (what is done, fraction from 0 to
    1).
    `ops` are the user's (`cnncc.op`) by the name that the model gives them: {"my.domain.Name": op}.
    `schedules` is a file that `cnncc tune` wrote: loops that were measured to be faster on this CPU.
    `preprocess` is a `cnncc.Preprocess`: the model takes images of uint8 in the place of an input, and
    scales, normalizes and moves the pixels itself. (`shapes` are those of the model's own inputs.)

    Raises ModelError for a bad model, UnsupportedError listing every node that can't be compiled, InputError
    for a bad argument, CnnccError where this CPU lacks the target's instructions.
    """
    from cnncc.ir.signature import OpenError
    from cnncc.runtime import env
    from cnncc.runtime.specialise import SpecialisingModel
    env.check_platform()
    env.thread_count(threads)
    if jobs is not None and (type(jobs) is not int or jobs < 1):
        raise InputError(f"jobs={jobs!r}: expected a whole number of processes from 1 on")
    check_shapes(shapes)
    check_preprocess(preprocess)
    options = Options(target_for(target, precision), dict(shapes or {}), names_of(outputs), cache, jobs,
                      check_ops(ops), schedules_from(schedules, target_for(target, precision))
                      if schedules is not None else None, preprocess)
    report = progress or (lambda what, fraction: None)
    model: CompiledModel | SpecialisingModel
    try:
        model = _compile(source, options, threads, report)
    except OpenError as error:
        if isinstance(source, str | os.PathLike):
            source = os.path.abspath(source)
        if options.preprocess is not None:
            found = options.preprocess.found(error.signature)
            options, error = replace(options, preprocess=found), found.opened(error)
        model = SpecialisingModel(functools.partial(_variant, source, options), error, threads)
    report("done", 1.0)
    return model


def _variant(source: Source, options: Options, shapes: Shapes, values: Mapping[str, Array]) -> CompiledModel:
    """The model compiled for what a call brings. Raises as `compile`."""
    own = options.preprocess.inside(shapes) if options.preprocess else shapes
    begin, pinned = time.perf_counter(), replace(options, shapes={**options.shapes, **own})
    model = _compile(source, pinned, None, lambda what, fraction: None, values)
    decided = [*(f"{name} {[*shape]}" for name, shape in shapes.items()),
               *(f"{name} = {x.tolist()}" for name, x in values.items())]
    log.info("%s: ready for %s in %.2f s", model.name, ", ".join(decided), time.perf_counter() - begin)
    return model


def _compile(source: Source, options: Options, threads: int | None, report: Callable[[str, float], None],
             values: Mapping[str, Array] | None = None) -> CompiledModel:
    from cnncc.runtime import cache as store
    from cnncc.runtime.model import from_artifact
    cached = options.cache and not os.environ.get("CNNCC_DUMP")
    key = _cache_key(source, options, values or {}) if cached else None
    if key is None:
        return _build(source, options, threads, report, values)
    found = store.load(key)
    if found is not None and _unchanged(source, found.meta.get("external", {})):
        log.info("cache hit %s", key)
        return from_artifact(found, threads)
    external: dict[str, str] = {}

    def opening(name: str, path: Path) -> None:     # before the file is read
        if name not in external:
            external[name] = ""
            with suppress(ModelError):              # the reader says what is wrong
                external[name] = store.file_hash(path)
    with store.Making(key) as entry:
        model = _build(source, options, threads, report, values, opening, entry)
        model.meta["external"] = external
        if _unchanged(source, external):    # else it is open which content was read
            entry.finish(*model.parts())
    return model


def schedules_from(path: str | os.PathLike[str], *targets: Target) -> Tuned:
    """The schedules in a file. Raises InputError where there are none, or they are for no such target."""
    from cnncc.passes.tuned import parse_tuned, target_text
    name = os.fspath(path)
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: can't read schedules: {error}") from None
    found, wanted = parse_tuned(text, name), [target_text(t) for t in targets]
    if found.target not in wanted:
        raise InputError(f"{name}: measured for {found.target}; this is {' or '.join(wanted)}: "
                         "run cnncc tune here")
    return found


def check_preprocess(how: Any) -> None:
    """Raises InputError for what is no Preprocess."""
    if how is not None:
        from cnncc.frontend.preprocess import Preprocess
        if not isinstance(how, Preprocess):
            raise InputError(f"preprocess: expected cnncc.Preprocess(mean=..., std=...), got {how!r:.100}")


def check_shapes(shapes: Any) -> None:
    """Raises InputError for what can't be the shapes of inputs."""
    fit = isinstance(shapes, Mapping) and all(
        isinstance(row, Sequence) and all(hasattr(e, "__index__") for e in row) for row in shapes.values())
    if shapes is not None and not fit:
        raise InputError('shapes: expected whole numbers by input, such as {"x": (1, 3, 224, 224)}, got '
                         f"{shapes!r:.100}")


def check_ops(ops: Any) -> dict[str, UserOp]:
    """A user's ops by name. Raises InputError for what can't be these."""
    if not ops and (ops is None or isinstance(ops, Mapping)):
        return {}                           # without the frontend, which a cached model doesn't need
    from cnncc.frontend.user import UserOp
    if not isinstance(ops, Mapping) or not all(isinstance(o, UserOp) for o in ops.values()):
        raise InputError(f'ops: expected what cnncc.op gives, by name: {{"name": op}}, got {ops!r:.100}')
    return dict(ops)


def _build(source: Source, options: Options, threads: int | None, report: Callable[[str, float], None],
           values: Mapping[str, Array] | None = None, opening: Opening | None = None,
           entry: Making | None = None) -> CompiledModel:
    """The model; its weights are made, and written into an `entry` of the cache, while its code is."""
    from cnncc.codegen.worker import Compiler, Machine
    from cnncc.runtime import env
    from cnncc.runtime.aside import Aside
    from cnncc.runtime.model import CompiledModel
    target = options.target
    machine = Machine(target.triple, target.cpu, target.features)
    jobs = options.jobs or env.available_cpus()
    with Compiler(machine, jobs, expected=_expected(source)) as compiler, Aside() as aside:
        report("reading", 0.0)
        original = read(source, opening, options.shapes, options.outputs, values, options.ops,
                        options.preprocess)
        graph = optimize(original, target, options.tuned, aside)
        code = plan(graph)
        making = aside.start(functools.partial(_packed, code, entry, aside))
        writing = aside.start(entry.flush) if entry else None
        report("compiling", 0.2)
        for _, text in code.texts(target):
            compiler.submit(text)
        objects = compiler.results(lambda done, total: report("compiling", 0.2 + 0.8 * done / total))
        meta = {"version": __version__, "target": target.record(), "folded": folded(original, code.plan)}
        model = CompiledModel(code.plan, objects, making(), meta, threads)
        if writing:
            writing()
    return model


def _packed(code: Code, entry: Making | None, aside: Aside) -> Array:
    """The memory of the weights, each in its order, as uint8; what is done goes into the `entry` at once."""
    from cnncc.passes.memory import packing
    from cnncc.runtime import buffers
    weights = buffers.aligned(max(code.plan.weights, 1))[:code.plan.weights]
    at = 0
    for done in packing(code.constants, code.packings, weights):
        if aside.ending.is_set():
            break
        if entry:
            entry.append(weights[at:done].data)
            at = done
    return weights


def folded(graph: Graph, plan: Plan) -> dict[str, str]:
    """The user's nodes that no kernel computes, and why."""
    computed = {name for s in plan.steps for name in s.nodes}
    views = {name for n in graph if n.op == "reshape" for name in n.origin}
    return {name: "a view" if name in views else "folded into constants"
            for n in graph for name in n.origin if name not in computed}


def _expected(source: Source) -> float:
    """Seconds that compiling may take, guessed from the size: whether to start worker processes at once."""
    size = len(source) if isinstance(source, bytes) else 0
    with suppress(OSError, ValueError):
        size = os.path.getsize(source) if isinstance(source, str | os.PathLike) else size
    return 2.0 if size > 1 << 20 else 0.0


def _cache_key(source: Source, options: Options, values: Mapping[str, Array]) -> str | None:
    """The key of a model's bytes or graph and all else that decides the code; None without a cache or these.

    What a Python function does is in no key.
    """
    from cnncc.runtime import cache
    if cache.directory() is None or not all(op.key for op in options.ops.values()):
        return None
    try:
        content = _content(source)
    except ModelError:      # the reader says what is wrong
        return None
    if content is None:
        return None
    given = sorted((name, tuple(map(int, shape))) for name, shape in options.shapes.items())
    decided = sorted((name, x.dtype.str, x.shape, x.tobytes()) for name, x in values.items())
    return cache.key(__version__, content, repr(sorted(options.target.record().items())), repr(given),
                     repr(options.outputs), repr(decided),
                     repr(sorted((name, op.key) for name, op in options.ops.items())),
                     str(options.tuned or ""), repr(options.preprocess), code_hash())


def _content(source: Source) -> str | None:
    """A hash of what a source is; None for an onnx.ModelProto. Raises ModelError where it can't be read."""
    from cnncc.runtime import cache
    if isinstance(source, bytes):
        return cache.key(source)
    if isinstance(source, str | os.PathLike):
        return cache.file_hash(source)
    if not hasattr(source, "constants"):
        return None
    arrays = (part for name, a in source.constants.items()
              for part in (name, a.dtype.str, repr(a.shape), a.tobytes()))
    return cache.key(str(source), *arrays)


def _unchanged(source: Source, external: Mapping[str, str]) -> bool:
    """Whether the files beside a model, by name, still have the hashes of those that it was compiled from."""
    if not external or not isinstance(source, str | os.PathLike):
        return not external
    from cnncc.frontend.files import inside
    from cnncc.runtime import cache
    try:
        return all(cache.file_hash(inside(Path(source).parent, name, name)) == digest
                   for name, digest in external.items())
    except ModelError:
        return False


@functools.cache
def code_hash() -> str:
    """A hash of this package's own compiler, so that a changed pass never meets an old cache entry."""
    from cnncc.runtime import cache
    root = Path(__file__).parent
    folders = ("ir", "passes", "codegen", "frontend")
    paths = [root / "compiler.py", *sorted(p for folder in folders for p in (root / folder).rglob("*.py"))]
    return cache.key(*(p.read_bytes() for p in paths))


def reference(source: Source, dtype: str = "float32", shapes: Shapes | None = None,
              outputs: Sequence[str] | None = None, ops: Ops | None = None,
              preprocess: Preprocess | None = None) -> Reference | OpenReference:
    """The NumPy reference of a model, called as the compiled model is; slow.

    With `dtype="float64"` it computes the same from the same inputs in double precision, and its outputs are
    float64: what to measure errors against. Raises as `compile` does.
    """
    from cnncc.ir.signature import OpenError
    from cnncc.reference_model import OpenReference, Reference

    check_shapes(shapes)
    check_preprocess(preprocess)

    def build(how: Preprocess | None, pinned: Shapes, values: Mapping[str, Array]) -> Reference:
        own = {**(shapes or {}), **(how.inside(pinned) if how else pinned)}
        return Reference(read(source, None, own, outputs, values, ops, how), dtype)
    try:
        return build(preprocess, {}, {})
    except OpenError as error:
        if preprocess is not None:
            preprocess = preprocess.found(error.signature)
            error = preprocess.opened(error)
        return OpenReference(functools.partial(build, preprocess), error)
