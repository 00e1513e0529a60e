"""The command line: arguments and printing only. Every verb imports what it needs when it runs."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from cnncc.cli_train import training
from cnncc.console import (
    Verbs,
    echo,
    image_options,
    level_options,
    numbers_option,
    progress,
    tell,
    threads_option,
    writing,
)
from cnncc.version import __version__

if TYPE_CHECKING:
    from cnncc.runtime.model import CompiledModel
    from cnncc.runtime.specialise import SpecialisingModel


@click.group(cls=Verbs, context_settings={
    "help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True})
@click.version_option(__version__, message="cnncc %(version)s")
@level_options
def cli() -> None:
    """Compile convolutional networks (ONNX, definitions in YAML) to fast CPU code, run and inspect them.

    Results go to stdout, log and progress to stderr (CNNCC_LOG=debug, info or warning). Exit codes: 0 good,
    1 the input is wrong, 2 usage, 3 a bug in cnncc, 130 interrupted.
    """


main = cli.run      # the program's entry point


# ---- options and arguments that verbs share


def _not_compiled(ctx: click.Context, param: click.Parameter, path: str) -> str:
    if _is_artifact(path):
        from cnncc.ir.errors import ModelError
        raise ModelError(f"{path}: is compiled already; this needs the .onnx file")
    return path


def _is_artifact(path: str) -> bool:
    return path.lower().endswith(".cnncc")


option = click.option
model_argument: Any = click.argument("model", metavar="MODEL")
onnx_argument: Any = click.argument("model", metavar="MODEL", callback=_not_compiled)
inputs_argument: Any = click.argument("inputs", nargs=-1, metavar="[INPUT]...")
target_option: Any = option("--target", type=click.Choice(["native", "x86-64-v2", "x86-64-v3", "x86-64-v4"]),
                            default="native", help="Instructions to use.")
precision_option: Any = option("--precision", type=click.Choice(["fast", "strict"]), default="fast",
                               help="strict: no algorithm that rounds worse than plain multiply-adds.")
cache_option: Any = option("--cache/--no-cache", default=True, help="Read and write the compile cache.")
batch_option: Any = functools.partial(option, "--batch", type=click.IntRange(1),
                                      help="Size of a batch that the model leaves open.")


def _shapes(ctx: click.Context, param: click.Parameter, values: Iterable[str]) -> dict[str, tuple[int, ...]]:
    result = {}
    for value in values:
        name, _, sizes = value.partition("=")
        if not all(e.isdecimal() for e in sizes.split(",")):
            raise click.BadParameter(f"{value!r}: expected NAME=1,3,224,224", ctx, param)
        result[name] = tuple(map(int, sizes.split(",")))
    return result


shapes_option: Any = option("--shape", "shapes", multiple=True, callback=_shapes, metavar="NAME=N,N...",
                            help="Fix the shape of an input whose sizes the model leaves open.")


def _outputs(ctx: click.Context, param: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return tuple(value.split(",")) if value else None


outputs_option: Any = option("--outputs", callback=_outputs, metavar="NAME[,NAME...]",
                             help="Compute these tensors of the model instead of its outputs.")


def _ops(ctx: click.Context, param: click.Parameter, paths: Iterable[str]) -> dict[str, Any]:
    from cnncc.frontend.user import read
    return {name: op for path in paths for name, op in read(path).items()}


ops_option: Any = option("--ops", multiple=True, callback=_ops, metavar="FILE",
                         help="Ops of your own: formulas by name, in YAML.")


def _preprocess(ctx: click.Context, param: click.Parameter, text: str | None) -> Any:
    if text is None:
        return None
    from cnncc.frontend.preprocess import parse_preprocess
    return parse_preprocess(text)


preprocess_option: Any = option(
    "--preprocess", callback=_preprocess, metavar='"KEY=VALUE..."',
    help='The model takes uint8 images [N, H, W, C]: "scale=1/255 mean=0.485,0.456,0.406 std=0.2 swap=true".')
schedules_option: Any = option("--schedules", metavar="FILE", help="Loops that `cnncc tune` has measured.")
# The keywords of `compile`.
running_options = (threads_option, shapes_option, outputs_option, ops_option, target_option,
                   precision_option, cache_option, schedules_option, preprocess_option)


def _open(path: str, **how: Any) -> CompiledModel | SpecialisingModel:
    """A compiled model from its own file or from an ONNX file."""
    if _is_artifact(path):
        if given := next((name for name in ("outputs", "schedules", "preprocess") if how[name]), None):
            _not_compiled(click.get_current_context(), click.Option([f"--{given}"]), path)
        from cnncc.runtime.model import load
        return load(path, threads=how["threads"])
    from cnncc.compiler import compile
    with progress() as report:
        return compile(path, progress=report, **how)


# ---- verbs


@cli.verb(option("--train", is_flag=True, help="Train it first."), threads_option, results=False)
def demo(train: bool, threads: int | None) -> None:
    """Compile a small network for handwritten digits, run, check and time it."""
    from cnncc.demo import demo as lines
    for line in lines(threads, train):
        echo(line)


@cli.verb(onnx_argument,
          option("-o", "--output", metavar="FILE", help="Write the compiled model (.cnncc) here."),
          option("--threads", type=int, help="Processes that compile (default: the CPUs we may use)."),
          shapes_option, outputs_option, ops_option, target_option, precision_option, cache_option,
          schedules_option, preprocess_option)
def compile(model: str, output: str | None, threads: int | None, **how: Any) -> None:
    """Compile MODEL, show what became of it, and write it to a file."""
    import time

    from cnncc.compiler import compile as build
    from cnncc.runtime.env import thread_count
    from cnncc.runtime.specialise import SpecialisingModel
    begin = time.perf_counter()
    with progress() as report:
        made = build(model, jobs=thread_count(threads), progress=report, **how)
    if isinstance(made, SpecialisingModel):
        if output:
            made.save(output)
        tell({"name": made.name, "inputs": made.inputs, "outputs": made.outputs, "deciding": made.deciding,
              "open": made.reason.rows}, made.summary())
        return
    seconds, kernels = time.perf_counter() - begin, len({s.symbol for s in made.plan.steps})
    text = f"{made.summary()}\n{kernels} different kernels, ready in {seconds:.2f} s"
    nbytes = None
    if output:
        with writing(output):
            made.save(output)
        nbytes = os.path.getsize(output)
        text += f"; {nbytes / 1e3:,.1f} KB in {output}"
    tell({**made.plan.record(), **made.meta, "kernels": kernels, "seconds": seconds, "output": output,
          "bytes": nbytes}, text)


@cli.verb(model_argument, inputs_argument,
          option("--output", metavar="FILE.npz", help="Write the outputs here instead of showing them."),
          option("--top", type=click.IntRange(1), default=5, help="Classes to show."),
          option("--labels", metavar="FILE", help="Names of the classes, one a line."),
          *image_options, *running_options)
def run(model: str, inputs: tuple[str, ...], output: str | None, top: int, labels: str | None,
        to: str, scale: Any, mean: Any, std: Any, swap: bool, **how: Any) -> None:
    """Run MODEL (.onnx or .cnncc) on files: INPUT is FILE or NAME=FILE, a .npy, .npz or image.

    Several images are a batch. Of an output [N, classes] the best classes are shown, of others statistics.
    A model with --preprocess takes the pixels as they are.
    """
    from cnncc.feeds import read_feeds, read_labels, summary, write_results
    from cnncc.frontend.preprocess import Preprocess
    if output and not output.endswith(".npz"):
        raise click.UsageError("--output must end in .npz")
    names = read_labels(labels) if labels else []
    made = _open(model, **how)
    pixels = Preprocess(scale=scale, mean=mean, std=std, swap=swap, to=to)
    found = made.run(None, read_feeds(made.inputs, inputs, pixels))
    results = dict(zip((v.name for v in made.outputs), found, strict=True))
    if output:
        with writing(output):
            write_results(output, results)
        echo(f"{', '.join(results)} in {output}", err=True)
        return
    shown = {name: summary(y, top, names) for name, y in results.items()}
    lines = []
    for name, row in shown.items():
        lines.append("{}: {dtype}{shape}, min {min:.6g}, mean {mean:.6g}, max {max:.6g}".format(name, **row))
        lines += [f"  {i}: " + ", ".join(f"{b['label']} {b['value']:.4g}" for b in best)
                  for i, best in enumerate(row.get("top", []))]
    tell(shown, "\n".join(lines))


@cli.verb(model_argument, shapes_option, outputs_option, ops_option)
def info(model: str, shapes: dict[str, tuple[int, ...]], outputs: tuple[str, ...] | None,
         ops: dict[str, Any]) -> None:
    """What is in MODEL (.onnx or .cnncc), and which of its nodes can't be compiled yet."""
    if _is_artifact(model):
        from cnncc.runtime.model import load
        made = load(model, threads=1, verify=True)
        by = f"compiled by cnncc {made.meta.get('version')} for {made.meta['target'].get('cpu')}"
        tell({"name": made.name, **made.record()}, f"{by}\n{made.summary()}")
        return
    from cnncc.compiler import inspect
    found = inspect(model, shapes, outputs, ops)
    by = f"opset {found.opset}, IR version {found.ir_version}, by {found.producer or 'an unknown producer'}"
    lines = [f"{found.name or 'no name'}: {by if found.ir_version else 'a definition'}",
             *(f"  input   {name}: {type}" for name, type in found.inputs),
             *(f"  output  {name}: {type}" for name, type in found.outputs),
             f"  {found.parameters:,} parameters, {found.parameter_bytes / 1e6:,.2f} MB",
             f"  {sum(found.nodes.values())} nodes: "
             + ", ".join(f"{n} {op}" for op, n in found.nodes.items()),
             f"{len(found.unsupported)} can't be compiled yet:" if found.unsupported else
             "it is compiled for the inputs of each call, as their sizes or values decide:" if found.open else
             "everything in it can be compiled",
             *(f"  {op} {name!r}: {reason}" for op, name, reason in (*found.unsupported, *found.open))]
    tell(found, "\n".join(lines))


@cli.verb(onnx_argument, option("-o", "--output", metavar="FILE", required=True, help="The ONNX file."),
          ops_option)
def convert(model: str, output: str, ops: dict[str, Any]) -> None:
    """Write MODEL, a definition or ONNX (also as text), as an ONNX file."""
    from cnncc.compiler import convert as write
    with writing(output):
        write(model, output, ops=ops)
    nbytes = os.path.getsize(output)
    tell({"output": output, "bytes": nbytes}, f"{nbytes / 1e3:,.1f} KB in {output}")


@cli.verb(onnx_argument,
          option("-o", "--output", metavar="FOLDER", required=True, help="Write the files here."),
          option("--name", metavar="NAME", help="Begins all symbols and files (default: the model's file)."),
          option("--target", metavar="LEVEL[+LEVEL...]", default="native",
                 help="native, x86-64-v2, -v3 or -v4; of several the code takes the best that the CPU has."),
          option("--threads", type=click.Choice(["none", "pthread", "callback"]), default="none",
                 is_flag=False, flag_value="pthread",
                 help="A function for several threads: with a pool of its own, or on those of the program."),
          option("--weights", type=click.Choice(["object", "file"]), default="object",
                 help="Where the weights are."),
          option("--optimize", type=click.Choice(["speed", "size"]), default="speed",
                 help="size: less code."),
          option("--shared", is_flag=True, help="Make a shared library too (with CC, else cc)."),
          shapes_option, outputs_option, ops_option, precision_option, schedules_option, preprocess_option)
def embed(model: str, output: str, **how: Any) -> None:
    """Write what C and C++ programs need to run MODEL, without Python or a library, into a folder."""
    from cnncc.embedding.embed import embed as write
    with progress() as report:
        made = write(model, output, progress=report, **how)
    r = made.record
    work = "workspace" + f" per {r['batch']}" * bool(r["batch"])
    sizes = {"code": r["code"], "weights": r["weights"]["bytes"], work: r["workspace"]["activations"],
             "scratch per thread": r["workspace"]["scratch"], "stack": r["stack"]}
    shown = ", ".join(f"{what} {nbytes / 1e3:,.1f} KB" for what, nbytes in sizes.items())
    tell({"folder": made.folder, "files": made.files, **r},
         f"{made.folder}: {', '.join(made.files)}\n{shown}")


@cli.verb(onnx_argument,
          option("--after", metavar="PASS", help="The graph after this pass; `list` shows the passes."),
          option("--emit", type=click.Choice(["graph", "kernels", "llvm", "asm"]), default="graph",
                 help="What to print."),
          option("--node", metavar="NAME", help="Only what computes this node of the model."),
          option("--why", metavar="NODE", help="How the kernel that computes this node was chosen."),
          option("--check", is_flag=True, help="Compare the model's value before and after every pass."),
          shapes_option, outputs_option, ops_option, preprocess_option, target_option, precision_option)
def show(model: str, after: str | None, emit: str, node: str | None, why: str | None, check: bool,
         target: str, precision: str, **how: Any) -> None:
    """Look into the compilation of MODEL. CNNCC_DUMP=DIR also writes the graph after every pass to files."""
    from cnncc import explain
    from cnncc.compiler import read
    from cnncc.ir.target import target_for
    if after == "list":
        tell(explain.passes(), "\n".join(f"{name:18} {text}" for name, text in explain.passes().items()))
        return
    if after and emit in ("llvm", "asm"):
        raise click.UsageError(f"--emit {emit} is about the graph after all passes")
    graph = read(model, **how)
    machine = target_for(target, precision)
    if check:
        from cnncc.verify import check_passes
        rows = list(check_passes(graph, machine))
        tell([{"pass": name, "change": change, "ok": ok} for name, change, ok in rows],
             "\n".join(f"{name:18} changes the outputs by {change:.1e}{'' if ok else '  WRONG'}"
                       for name, change, ok in rows), good=all(ok for _, _, ok in rows))
    elif why:
        kernels, reason = explain.why(graph, machine, why)
        ways = explain.algorithms(graph, machine, why)
        text = "\n".join([ways] * bool(ways) + [*map(str, kernels)]) or f"no kernel: {reason}"
        tell({"algorithms": ways, "kernels": kernels, "reason": reason}, text)
    elif emit in ("llvm", "asm"):
        modules = dict(explain.native(graph, machine, node, emit))
        sign = ";" if emit == "llvm" else "#"
        tell(modules, "\n".join(f"{sign} ---- {what}\n{text}" for what, text in modules.items()))
    else:
        if node:
            explain.check_name(graph, node)
        name, graph = explain.graph_after(graph, machine, after)
        nodes = [n for n in (explain.nodes_of(graph, node) if node else graph) if emit == "graph" or n.kernel]
        text = f"# after {name}: {graph.summary()}\n{graph}"
        if node or emit == "kernels":
            text = "\n".join(f"# {', '.join(n.origin)}\n{n}" for n in nodes)
        tell({"after": name, "summary": graph.summary(), "nodes": [
            {"name": n.name, "op": n.op, "inputs": n.inputs, "type": str(n.type), "attrs": n.attr,
             "origin": n.origin, "kernel": str(n.kernel) if n.kernel else None} for n in nodes]}, text)


@cli.verb(model_argument, inputs_argument, batch_option(default=1),
          option("--markdown", is_flag=True, help="The table in Markdown."), *running_options)
def profile(model: str, inputs: tuple[str, ...], batch: int, markdown: bool, **how: Any) -> None:
    """Time every kernel of MODEL (.onnx or .cnncc), on random numbers or on files as in `run`.

    A kernel's roof is the time of its multiply-adds at the CPU's peak or that of its bytes as fast as they
    are copied, in the last cache or from memory, whichever is longer. (*: below 70 % of it.)
    """
    from dataclasses import replace

    from cnncc.bench.peak import peak, roof
    from cnncc.feeds import random_feeds, read_feeds
    made = _open(model, **how)
    feeds = read_feeds(made.inputs, inputs) if inputs else random_feeds(
        made.inputs, batch, deciding=made.deciding)
    best = roof(made.threads)
    times = made.profile(*(feeds[v.name] for v in made.inputs))
    best = replace(best, flops=max(best.flops, peak(made.threads) * 1e9))
    limits = [dict(zip(("limit", "part"), best.limit(t), strict=True)) for t in times]
    tell({"threads": made.threads, "peak": best.flops / 1e9, "roof": best, "steps": times, "limits": limits,
          "folded": made.meta.get("folded", {})},
         f"{made.format_profile(times, best, markdown)}\n\ntimes and tasks are those of one call, threads: "
         f"{made.threads}; {best}")


@cli.verb(onnx_argument, inputs_argument, batch_option(default=2), *running_options)
def verify(model: str, inputs: tuple[str, ...], batch: int, **how: Any) -> None:
    """Compare the compiled MODEL with the NumPy reference in float64, and ONNX Runtime where installed.

    On random numbers, or on files as in `run`. Exits with 1 on a mismatch and names the first bad kernel.
    """
    from cnncc.verify import verify as check
    with progress() as report:
        found = check(model, inputs, batch, report, **how)
    tell(found.record(), str(found), good=found.ok)


@cli.verb(onnx_argument,
          option("--against", default="numpy,onnxruntime,openvino", metavar="ENGINES",
                 help="Engines to compare with; also torch, torch-channels-last, torch-compiled."),
          numbers_option("--threads", default="1", help="Numbers of threads."),
          option("--mode", type=click.Choice(["latency", "throughput"]), default="latency",
                 help="One call on all threads, or one call on each."),
          batch_option(default=1), shapes_option, preprocess_option,
          option("--seconds", type=click.FloatRange(0.01, 3600), default=3.0, help="To measure each engine."))
def bench(model: str, against: str, threads: tuple[int, ...], batch: int, seconds: float,
          **how: Any) -> None:
    """Compare the speed of MODEL with other engines: a process each, alternating rounds, results checked."""
    from cnncc.bench.engines import ENGINES
    from cnncc.bench.run import bench as measure
    from cnncc.bench.run import table
    from cnncc.runtime.env import thread_count
    engines = [e.strip() for e in against.split(",") if e.strip()]
    if unknown := [e for e in engines if e not in ENGINES]:
        raise click.UsageError(f"unknown engine {', '.join(unknown)}: choose from {', '.join(ENGINES)}")
    counts = [thread_count(t) for t in threads]
    with progress() as report:
        found = measure(model, engines, counts, batch, seconds, report, **how)
    wrong = any(r.engine == "cnncc" and r.note == "WRONG" for r in found.results)
    tell(found, table(found), good=not wrong)


@cli.verb(onnx_argument,
          option("-o", "--output", metavar="FILE", required=True, help="The schedules; what exists is kept."),
          option("--seconds", type=click.FloatRange(0.01, 86400), default=60.0, help="To measure in all."),
          option("--tries", type=click.IntRange(2, 1000), default=12, help="Schedules to try of a kernel."),
          batch_option(default=1), shapes_option, target_option, precision_option)
def tune(model: str, output: str, **how: Any) -> None:
    """Measure schedules of MODEL's kernels, those that take longest first; the faster ones go into a file.

    The file is for --schedules. What is in it is not measured again: interrupt this and go on as you like.
    """
    from cnncc.tuner import tune as measure
    with writing(output), progress() as report:
        found = measure(model, output, progress=report, **how)
    tell(found, str(found))


@cli.verb(click.argument("what", type=click.Choice(["list", "clear"]), default="list"))
def cache(what: str) -> None:
    """List what is in the compile cache, or clear it."""
    import time

    from cnncc.runtime import cache as store
    if what == "clear":
        removed = store.clear()
        tell({"removed": removed}, f"{removed} removed")
        return
    folder, entries = store.directory(), store.entries()
    used = sum(e.nbytes for e in entries)
    tell({"path": folder, "entries": entries, "bytes": used, "limit": store.limit()}, "\n".join([
        f"{folder or 'the cache is off'}: compiled models: {len(entries)}, {used / 1e6:,.2f} MB "
        f"of at most {store.limit() / 1e6:,.0f} MB",
        *(f"{e.nbytes / 1e6:10.2f} MB  {time.strftime('%Y-%m-%d %H:%M', time.localtime(e.used))}  {e.key}"
          for e in entries)]))


@cli.verb()
def env() -> None:
    """The versions, the CPU and the settings that decide how cnncc compiles and runs."""
    import platform
    from contextlib import suppress
    from importlib import metadata

    import llvmlite.binding as llvm

    from cnncc.ir.target import host_features, target_for
    from cnncc.runtime import cache as store
    from cnncc.runtime.env import available_cpus, thread_count

    def version(package: str) -> str:
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(package)
        return "not installed"
    wanted = ("sse4.2", "avx2", "fma", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-bf16")
    packages = ("llvmlite", "numpy", "onnx", "onnxruntime", "openvino", "torch", "pillow")
    variables = {k: v for k, v in sorted(os.environ.items()) if k.startswith(("CNNCC_", "OMP_NUM"))}
    found: dict[str, Any] = {
        "cnncc": __version__, "python": platform.python_version(), "system": platform.platform(),
        "cpu": llvm.get_host_cpu_name(), "level": target_for().level,
        "features": [f for f in wanted if f in host_features()],
        "cpus": available_cpus(), "threads": thread_count(), "cache": store.directory(),
        "llvm": ".".join(map(str, llvm.llvm_version_info)), **{name: version(name) for name in packages}}
    tell({**found, "variables": variables},
         "\n".join([*(f"{k:12} {' '.join(v) if isinstance(v, list) else v}" for k, v in found.items()),
                    *(f"{'variable':12} {k}={v}" for k, v in variables.items())]))


cli.commands.update(training.commands)
