"""The command line: arguments and printing only. Every verb imports what it needs when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cnncc.console import (
    BROKEN_PIPE,
    INTERRUPTED,
    OK,
    USAGE,
    WRONG_INPUT,
    echo,
    failed,
    level_options,
    piped,
    print_json,
    progress,
    reset,
    start,
    tell,
    writing,
)
from cnncc.version import __version__

if TYPE_CHECKING:
    from cnncc.feeds import Pixels
    from cnncc.runtime.model import CompiledModel

TARGETS = ("native", "x86-64-v3", "x86-64-v4")

F = TypeVar("F", bound=Callable[..., Any])


# ---- what all verbs share


class _Verbs(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:     # before click makes an exit code of its own of it
            raise click.exceptions.Exit(BROKEN_PIPE) from None


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="cnncc %(version)s")
@level_options
def cli() -> None:
    """Compile convolutional networks (ONNX) to fast CPU code, run and inspect them.

    Results go to stdout, log and progress to stderr (CNNCC_LOG=debug, info or warning). Exit codes: 0 good,
    1 the input is wrong, 2 usage, 3 a bug in cnncc, 130 interrupted.
    """


def verb(*options: Any, json_output: bool = True, name: str | None = None
         ) -> Callable[[F], click.Command]:
    """A verb with these options, those of all verbs and, where it prints results, --json."""
    def decorate(f: F) -> click.Command:
        import functools

        @functools.wraps(f)
        def run(*args: Any, **kwargs: Any) -> Any:
            start()
            return f(*args, **kwargs)
        wrapped: Any = level_options(run)
        if json_output:
            wrapped = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(wrapped)
        for option in reversed(options):
            wrapped = option(wrapped)
        return cli.command(name)(wrapped)
    return decorate


model_argument: Any = click.argument("model", metavar="MODEL")
threads_option: Any = click.option("--threads", type=int,
                                   help="Threads to run with (default: the CPUs we may use).")
target_option: Any = click.option("--target", type=click.Choice(TARGETS), default="native", show_default=True,
                                  help="Instructions to use.")
cache_option: Any = click.option("--no-cache", is_flag=True, help="Neither read nor write the compile cache.")
batch_option: Any = click.option("--batch", type=click.IntRange(1), default=1, show_default=True,
                                 help="Size of a batch that the model leaves open.")


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    try:
        return tuple(float(x) for x in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r}: expected numbers with commas", ctx, param) from None


def image_options(f: F) -> F:
    """How images become inputs."""
    for option in (
            click.option("--scale", type=float, default=1 / 255, help="Factor on pixels (default 1/255)."),
            click.option("--mean", default="0", callback=_numbers, metavar="N[,N...]",
                         help="Then subtracted: one number or one a channel."),
            click.option("--std", default="1", callback=_numbers, metavar="N[,N...]", help="Divided by."),
            click.option("--layout", type=click.Choice(["nchw", "nhwc"]), default="nchw", show_default=True,
                         help="Order of an image input's axes.")):
        f = option(f)
    return f


def _pixels(scale: float, mean: tuple[float, ...], std: tuple[float, ...], layout: str) -> Pixels:
    from cnncc.feeds import Pixels
    if not scale or not all(std):
        raise click.UsageError("--scale and --std must not be 0")
    return Pixels(scale, mean, std, layout)


def _is_artifact(path: str) -> bool:
    return path.lower().endswith(".cnncc")


def _open(path: str, threads: int | None, target: str = "native", no_cache: bool = False) -> CompiledModel:
    """A compiled model from its own file or from an ONNX file."""
    from cnncc.compiler import compile, load
    if _is_artifact(path):
        return load(path, threads=threads)
    with progress() as report:
        return compile(path, threads=threads, target=target, cache=not no_cache, progress=report)


def _refuse_artifact(path: str) -> None:
    from cnncc.ir.errors import ModelError
    if _is_artifact(path):
        raise ModelError(f"{path}: is compiled already; this needs the .onnx file")


# ---- verbs


@verb(threads_option, json_output=False)
def demo(threads: int | None) -> None:
    """Compile a small network for handwritten digits, run, check and time it."""
    from cnncc.demo import demo as lines
    for line in lines(threads):
        echo(line)


@verb(model_argument,
      click.option("-o", "--output", metavar="FILE", help="Write the compiled model (.cnncc) here."),
      click.option("--threads", type=int, help="Processes that compile (default: the CPUs we may use)."),
      target_option, cache_option)
def compile(model: str, output: str | None, threads: int | None, target: str, no_cache: bool,
            as_json: bool) -> None:
    """Compile MODEL, show what became of it, and write it to a file."""
    import time

    from cnncc.compiler import compile as build
    from cnncc.runtime.env import thread_count
    _refuse_artifact(model)
    begin = time.perf_counter()
    with progress() as report:
        made = build(model, target=target, cache=not no_cache, jobs=thread_count(threads), progress=report)
    seconds = time.perf_counter() - begin
    if output:
        with writing(output):
            made.save(output)
    kernels = len({s.symbol for s in made.plan.steps})
    nbytes = os.path.getsize(output) if output else None
    if as_json:
        print_json({"model": made.name, "inputs": made.inputs, "outputs": made.outputs, "seconds": seconds,
                    "target": made.meta["target"], "steps": made.plan.steps, "kernels": kernels,
                    "weights": made.plan.weights, "work": made.plan.work,
                    "folded": made.meta.get("folded", {}), "output": output, "bytes": nbytes})
        return
    echo(made.summary())
    written = f"; {nbytes / 1e3:,.1f} KB in {output}" if nbytes else ""
    echo(f"{kernels} different kernels, ready in {seconds:.2f} s{written}")


@verb(model_argument, click.argument("inputs", nargs=-1, metavar="INPUT..."),
      click.option("--output", metavar="FILE.npz", help="Write the outputs here instead of showing them."),
      click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes to show."),
      click.option("--labels", metavar="FILE", help="Names of the classes, one a line."),
      image_options, threads_option, target_option, cache_option)
def run(model: str, inputs: tuple[str, ...], output: str | None, top: int, labels: str | None, scale: float,
        mean: tuple[float, ...], std: tuple[float, ...], layout: str, threads: int | None, target: str,
        no_cache: bool, as_json: bool) -> None:
    """Run MODEL (.onnx or .cnncc) on files: INPUT is FILE or NAME=FILE, a .npy, .npz or image.

    Several images are a batch. Of an output [N, classes] the best classes are shown, of others statistics.
    """
    from cnncc.feeds import read_feeds, read_labels, summary, write_results
    if output and not output.endswith(".npz"):
        raise click.UsageError("--output must end in .npz")
    pixels = _pixels(scale, mean, std, layout)
    names = read_labels(labels) if labels else []
    made = _open(model, threads, target, no_cache)
    results = dict(zip((v.name for v in made.outputs),
                       made.run(None, read_feeds(made.inputs, inputs, pixels)), strict=True))
    if output:
        with writing(output):
            write_results(output, results)
        echo(f"{', '.join(results)} in {output}", err=True)
        return
    shown = {name: summary(y, top, names) for name, y in results.items()}
    if as_json:
        print_json(shown)
        return
    for name, row in shown.items():
        echo(f"{name}: {row['dtype']}{row['shape']}, min {row['min']:.6g}, mean {row['mean']:.6g}, "
                   f"max {row['max']:.6g}")
        for i, best in enumerate(row.get("top", [])):
            echo(f"  {i}: " + ", ".join(f"{b['label']} {b['value']:.4g}" for b in best))


@verb(model_argument)
def info(model: str, as_json: bool) -> None:
    """What is in MODEL (.onnx or .cnncc), and which of its nodes can't be compiled yet."""
    if _is_artifact(model):
        from cnncc.runtime.model import open_artifact
        made = open_artifact(model, threads=1, verify=True)
        if as_json:
            print_json({"name": made.name, **made.record()})
        else:
            echo(f"compiled by cnncc {made.meta.get('version')} for {made.meta['target'].get('cpu')}\n"
                       + made.summary())
        return
    from cnncc.frontend.onnx import inspect
    found = inspect(model)
    if as_json:
        print_json(found)
        return
    echo(f"{found.name or 'no name'}: opset {found.opset}, IR version {found.ir_version}, "
               f"by {found.producer or 'an unknown producer'}")
    for what, values in (("input", found.inputs), ("output", found.outputs)):
        for name, type in values:
            echo(f"  {what:7} {name}: {type}")
    echo(f"  {found.parameters:,} parameters, {found.parameter_bytes / 1e6:,.2f} MB")
    echo(f"  {sum(found.nodes.values())} nodes: " + ", ".join(f"{n} {op}" for op, n in found.nodes.items()))
    if found.unsupported:
        echo(f"{len(found.unsupported)} can't be compiled yet:")
        for op, name, reason in found.unsupported:
            echo(f"  {op} {name!r}: {reason}")
    else:
        echo("everything in it can be compiled")


@verb(model_argument,
      click.option("--after", metavar="PASS", help="The graph after this pass; `list` shows the passes."),
      click.option("--steps", type=click.IntRange(0), help="Stop after so many passes."),
      click.option("--emit", type=click.Choice(["graph", "kernels", "llvm", "asm"]), default="graph",
                   show_default=True, help="What to print."),
      click.option("--node", metavar="NAME", help="Only what computes this node of the model."),
      click.option("--why", metavar="NODE", help="How the kernel that computes this node was chosen."),
      click.option("--check", is_flag=True, help="Compare the model's value before and after every pass."),
      target_option)
def show(model: str, after: str | None, steps: int | None, emit: str, node: str | None, why: str | None,
         check: bool, target: str, as_json: bool) -> None:
    """Look into the compilation of MODEL. CNNCC_DUMP=DIR also writes the graph after every pass to files."""
    from cnncc import explain
    if after == "list":
        if as_json:
            print_json(explain.passes())
        else:
            echo("\n".join(f"{name:18} {text}" for name, text in explain.passes().items()))
        return
    from cnncc.compiler import read
    from cnncc.ir.target import target_for
    _refuse_artifact(model)
    graph, machine = read(model), target_for(target)
    if check:
        _show_check(graph, machine, steps, as_json)
    elif why:
        _show_why(*explain.why(graph, machine, why), as_json)
    elif emit in ("llvm", "asm"):
        if after or steps is not None:
            raise click.UsageError(f"--emit {emit} is about the graph after all passes")
        modules = dict(explain.native(graph, machine, node, emit))
        if as_json:
            print_json(modules)
        else:
            for what, text in modules.items():
                echo(f"; ---- {what}\n{text}" if emit == "llvm" else f"# ---- {what}\n{text}")
    else:
        if node:
            explain.check_name(graph, node)
        name, graph = explain.graph_after(graph, machine, after, steps, explain.dump_folder())
        nodes = [n for n in (explain.nodes_of(graph, node) if node else graph) if emit == "graph" or n.kernel]
        if as_json:
            print_json({"after": name, "summary": graph.summary(), "nodes": [
                {"name": n.name, "op": n.op, "inputs": n.inputs, "type": str(n.type), "attrs": n.attr,
                 "origin": n.origin, "kernel": str(n.kernel) if n.kernel else None} for n in nodes]})
        elif node or emit == "kernels":
            echo("\n".join(f"{n}    # {', '.join(n.origin)}" if not n.kernel else
                                 f"# {', '.join(n.origin)}\n{n}" for n in nodes))
        else:
            echo(f"# after {name}: {graph.summary()}\n{graph}")


def _show_check(graph: Any, target: Any, steps: int | None, as_json: bool) -> None:
    from cnncc.verify import check_passes
    rows = []
    for name, change, ok in check_passes(graph, target, steps):
        rows.append({"pass": name, "change": change, "ok": ok})
        if not as_json:
            echo(f"{name:18} changes the outputs by {change:.1e}{'' if ok else '  WRONG'}")
    if as_json:
        print_json(rows)
    if not all(row["ok"] for row in rows):
        raise click.exceptions.Exit(WRONG_INPUT)


def _show_why(found: Sequence[Any], reason: str, as_json: bool) -> None:
    if as_json:
        print_json({"kernels": found, "reason": reason})
        return
    if reason:
        echo(f"no kernel: {reason}")
    for w in found:
        echo(f"{w.value}: {w.does}\n  computes {', '.join(w.nodes)}\n  {w.total} candidates, the cheapest:")
        for i, (cycles, loops) in enumerate(w.best):
            echo(f"  {'->' if i == w.chosen else '  '} {cycles:14,.0f} cycles  {loops}")
        if w.chosen is None or w.chosen >= len(w.best):
            echo("  chosen was none of these")


@verb(model_argument, click.argument("inputs", nargs=-1, metavar="[INPUT]..."), batch_option, threads_option,
      target_option, cache_option)
def profile(model: str, inputs: tuple[str, ...], batch: int, threads: int | None, target: str, no_cache: bool,
            as_json: bool) -> None:
    """Time every kernel of MODEL (.onnx or .cnncc), on random numbers or on files as in `run`."""
    from cnncc.bench.peak import peak
    from cnncc.feeds import random_feeds, read_feeds
    made = _open(model, threads, target, no_cache)
    feeds = read_feeds(made.inputs, inputs) if inputs else random_feeds(made.inputs, batch)
    best = peak(made.threads)
    times = made.profile(*(feeds[v.name] for v in made.inputs))
    best = max(best, peak(made.threads))
    if as_json:
        print_json({"threads": made.threads, "peak": best, "steps": times,
                    "folded": made.meta.get("folded", {})})
        return
    echo(made.format_profile(times, best))
    echo(f"{made.threads} thread{'s' * (made.threads > 1)}; the peak of multiply-adds is {best:.0f} GFLOP/s")


@verb(model_argument, click.argument("inputs", nargs=-1, metavar="[INPUT]..."),
      click.option("--batch", type=click.IntRange(1), default=2, show_default=True,
                   help="Size of a batch that the model leaves open."),
      click.option("--nodes", is_flag=True, help="Compare every node's result, each compiled for itself."),
      threads_option, target_option, cache_option)
def verify(model: str, inputs: tuple[str, ...], batch: int, nodes: bool, threads: int | None, target: str,
           no_cache: bool, as_json: bool) -> None:
    """Compare the compiled MODEL with the NumPy reference in float64, and ONNX Runtime where installed.

    On random numbers, or on files as in `run`. Exits with 1 on a mismatch and names the first bad kernel.
    """
    from cnncc.compiler import read
    from cnncc.feeds import read_feeds
    from cnncc.ir.signature import Signature
    from cnncc.verify import PLAUSIBLE
    from cnncc.verify import verify as check
    _refuse_artifact(model)
    feeds = read_feeds(Signature.of(read(model)).inputs, inputs) if inputs else None
    with progress() as report:
        found = check(model, feeds, batch, nodes, target, threads, not no_cache, report)
    if as_json:
        print_json({"ok": found.ok, **{k: getattr(found, k) for k in ("engines", "notes")},
                     **{k: [{"name": r.name, "nodes": r.nodes, "error": r.error, "limit": r.limit, "ok": r.ok}
                            for r in getattr(found, k)] for k in ("outputs", "values")}})
    else:
        echo("max|error| / max|reference| against the NumPy reference in float64")
        for engine, error in found.engines.items():
            echo(f"  {engine:16} {error:.1e}" + f"  DISAGREES: above {PLAUSIBLE}" * (error > PLAUSIBLE))
        for row in (*found.outputs, *found.values):
            echo(f"  {'good' if row.ok else 'BAD '} {row.error:.1e} (allowed {row.limit:.1e})  {row.name}"
                       + (f"  <- {', '.join(row.nodes)}" if row.nodes else ""))
        for note in found.notes:
            echo(f"  {note}")
        bad = found.first_bad
        where = f", first in {bad.name} ({', '.join(bad.nodes)})" if bad else ": the reference is in doubt"
        echo("the compiled model is right" if found.ok else f"MISMATCH{where}")
    if not found.ok:
        raise click.exceptions.Exit(WRONG_INPUT)


@verb(model_argument,
      click.option("--against", default="numpy,onnxruntime,openvino", show_default=True, metavar="ENGINES",
                   help="Engines to compare with."),
      click.option("--threads", default="1", show_default=True, metavar="N[,N...]",
                   help="Numbers of threads."),
      batch_option,
      click.option("--seconds", type=click.FloatRange(0.01, 3600), default=3.0, show_default=True,
                   help="Seconds to measure each engine."))
def bench(model: str, against: str, threads: str, batch: int, seconds: float, as_json: bool) -> None:
    """Compare the speed of MODEL with other engines: a process each, alternating rounds, results checked."""
    from cnncc.bench.engines import ENGINES
    from cnncc.bench.run import bench as measure
    from cnncc.bench.run import table
    from cnncc.runtime.env import thread_count
    _refuse_artifact(model)
    engines = [e.strip() for e in against.split(",") if e.strip()]
    if unknown := [e for e in engines if e not in ENGINES]:
        raise click.UsageError(f"unknown engine {', '.join(unknown)}: choose from {', '.join(ENGINES)}")
    if not all(t.strip().isdigit() for t in threads.split(",")):
        raise click.UsageError(f"--threads {threads!r}: expected numbers with commas")
    counts = [thread_count(int(t)) for t in threads.split(",")]
    with progress() as report:
        found = measure(model, engines, counts, batch, seconds, report)
    if as_json:
        print_json(found)
        return
    echo(table(found))
    if any(r.note == "WRONG" for r in found.results if r.engine == "cnncc"):
        raise click.exceptions.Exit(WRONG_INPUT)


@verb(click.argument("what", type=click.Choice(["list", "clear", "path", "info"]), default="info"))
def cache(what: str, as_json: bool) -> None:
    """Look at the compile cache, or clear it."""
    import time

    from cnncc.runtime import cache as store
    folder = store.directory()
    entries = store.entries()
    if what == "clear":
        removed = store.clear()
        tell({"removed": removed}, f"{removed} compiled models removed", as_json)
    elif what == "path":
        tell({"path": folder}, str(folder) if folder else "the cache is off", as_json)
    elif what == "list":
        dates = [time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used)) for e in entries]
        lines = [f"{e.nbytes / 1e6:10.2f} MB  {d}  {e.key}" for e, d in zip(entries, dates, strict=True)]
        tell([{"key": e.key, "path": e.path, "bytes": e.nbytes, "used": e.used} for e in entries],
              "\n".join(lines) or "nothing", as_json)
    else:
        used = sum(e.nbytes for e in entries)
        tell({"path": folder, "entries": len(entries), "bytes": used, "limit": store.limit()},
              f"{folder or 'the cache is off'}: {len(entries)} compiled models, {used / 1e6:,.2f} MB "
              f"of at most {store.limit() / 1e6:,.0f} MB", as_json)


@verb()
def env(as_json: bool) -> None:
    """The versions, the CPU and the settings that decide how cnncc compiles and runs."""
    import platform
    from importlib import metadata

    from cnncc.ir.target import host_features, target_for
    from cnncc.runtime import cache as store
    from cnncc.runtime.env import available_cpus, thread_count

    def version(package: str) -> str:
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return "not installed"
    import llvmlite.binding as llvm
    wanted = ("sse4.2", "avx2", "fma", "avx512f", "avx512bw", "avx512vnni", "avx512bf16", "amx-bf16")
    packages = ("llvmlite", "numpy", "onnx", "onnxruntime", "openvino", "torch", "pillow")
    found: dict[str, Any] = {
        "cnncc": __version__, "python": platform.python_version(), "system": platform.platform(),
        "cpu": llvm.get_host_cpu_name(), "level": target_for().level,
        "features": [f for f in wanted if f in host_features()],
        "cpus": available_cpus(), "threads": thread_count(),
        "cache": store.directory(), "llvm": ".".join(map(str, llvm.llvm_version_info)),
        **{name: version(name) for name in packages},
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(("CNNCC_", "OMP_NUM"))},
    }
    variables = found.pop("variables")
    lines = [f"{k:12} {' '.join(v) if isinstance(v, list) else v}" for k, v in found.items()]
    lines += [f"{'variable':12} {k}={v}" for k, v in variables.items()]
    tell({**found, "variables": variables}, "\n".join(lines), as_json)


# ---- errors


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    reset()
    try:
        code = cli.main(list(args) if args is not None else None, "cnncc", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except click.ClickException as error:
        error.show()
        return USAGE
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        return piped()
    except Exception as error:
        return failed(error)
