"""`cnncc.embed`: a network as what C and C++ programs are built with."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import llvmlite.binding as llvm

from cnncc.codegen.aot import build
from cnncc.codegen.interface import Interface, Variant
from cnncc.compiler import Source, check_ops, check_shapes, names_of, plan, read, schedules_from
from cnncc.compiler import optimize as passes
from cnncc.embedding.archive import archive
from cnncc.embedding.description import Description
from cnncc.embedding.example import example_c, example_py
from cnncc.embedding.header import header
from cnncc.embedding.names import check_name, mangled
from cnncc.embedding.packages import cmake, pkg_config
from cnncc.embedding.weights import MOST, Weights
from cnncc.ir.errors import InputError, UnsupportedError
from cnncc.ir.signature import OpenError
from cnncc.ir.target import LEVELS, Target, target_for
from cnncc.passes.tuned import Tuned, target_text
from cnncc.runtime.artifact import replacing
from cnncc.version import __version__

if TYPE_CHECKING:
    from cnncc.frontend.onnx_import import Shapes
    from cnncc.frontend.preprocess import Preprocess
    from cnncc.frontend.user import Ops
    from cnncc.ir.graph import Graph

THREADS = ("none", "pthread", "callback")
WEIGHTS = ("object", "file")


@dataclass(frozen=True)
class Embedded:
    """What `embed` wrote: the files in `folder`, and the content of the JSON file."""

    folder: str
    files: tuple[str, ...]
    record: dict[str, Any]


def embed(source: Source, folder: str | os.PathLike[str], *, name: str | None = None, target: str = "native",
          shapes: Shapes | None = None, outputs: Sequence[str] | None = None, precision: str = "fast",
          optimize: str = "speed", threads: str = "none", weights: str = "object", shared: bool = False,
          progress: Callable[[str, float], None] | None = None, ops: Ops | None = None,
          schedules: str | os.PathLike[str] | None = None, preprocess: Preprocess | None = None) -> Embedded:
    """Write what a C or C++ program needs to run a model, without Python or any library, into a folder.

    `source`, `shapes`, `outputs`, `precision`, `progress`, `ops`, `schedules` and `preprocess` are as for
    `compile`; all sizes but one batch must be known. The files are called after `name` (None: the source's),
    which begins all symbols: `NAME.h`, `NAME.o`, `libNAME.a`, `example.c`, `CMakeLists.txt`, `NAME.pc` and
    `NAME.json`.

    `target` is native or x86-64-v2, -v3 or -v4, which this CPU may lack, or several with `+` between them:
    the object then runs the best that the CPU has; `schedules` are for one of them. `optimize` is speed, or
    size for less code. `threads` is none, pthread for a function that runs on several, or callback for one
    that runs on the program's own. `weights` are in the object, or in a file `NAME.weights`. `shared` makes a
    library with the C compiler (CC, else cc), and `example.py`. Equal arguments give equal files, byte by
    byte.

    Raises ModelError as `compile` does, UnsupportedError for a model that leaves sizes open, InputError for
    a bad argument, a folder that can't be written to, or a compiler that is missing or fails.
    """
    report = progress or (lambda what, fraction: None)
    for what, given, known in (("threads", threads, THREADS), ("weights", weights, WEIGHTS)):
        if given not in known:
            raise InputError(f"{what}={given!r}: choose one of {', '.join(known)}")
    check_shapes(shapes)
    targets = _targets(target, precision, optimize)
    tuned = schedules_from(schedules, *targets) if schedules is not None else None
    if name is not None:
        check_name(name)
    compiler = _c_compiler() if shared else None
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise InputError(f"{os.fspath(folder)}: is no folder: the files are written into one")
    report("reading", 0.0)
    try:
        graph = read(source, None, shapes, names_of(outputs), None, check_ops(ops), preprocess)
    except OpenError as error:
        raise _closed(error) from error
    if name is None:
        name = mangled(Path(source).stem if isinstance(source, str | os.PathLike) else graph.name, "net")
    packed = Weights(weights == "file")
    variants = _compiled(graph, targets, tuned, packed, report)
    if not packed.in_file and packed.nbytes > MOST:
        raise InputError(f"{graph.name}: {packed.nbytes:,} bytes of weights are more than code reaches in "
                         f"its object ({MOST:,}): use weights='file' (--weights file), or fewer targets")
    report("linking", 0.5)
    with _writing(folder := os.fspath(folder)):
        os.makedirs(folder, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{name}.") as file:
            if not packed.in_file:
                packed.write(file)
            interface = Interface(name, variants, threads, packed.key, file.name)
            made = build(interface)
        report("writing", 0.9)
        description = Description(interface, made, packed.nbytes, {
            "model": graph.name, "cnncc": __version__, "llvm": ".".join(map(str, llvm.llvm_version_info)),
            "optimize": optimize, "precision": precision})
        texts = _files(description, shared)
        for file_name, data in texts.items():
            with replacing(Path(folder, file_name)) as file:
                file.write(data)
        if packed.in_file:
            with replacing(Path(folder, f"{name}.weights")) as file:
                packed.write(file)
        if compiler:
            _link(compiler, Path(folder), name, threads == "pthread")
    report("done", 1.0)
    more = [f"{name}.weights"] * packed.in_file + [f"lib{name}.so"] * shared
    return Embedded(folder, (*texts, *more), description.record())


def _targets(text: str, precision: str, optimize: str) -> list[Target]:
    """The targets of a list, the widest first."""
    names, order = str(text).split("+"), [*LEVELS]
    if unknown := [name for name in names if name not in ("native", *order)]:
        raise InputError(f"target={text!r}: unknown {', '.join(map(repr, unknown))}: choose native, "
                         f"{', '.join(order)}, or several with + between them")
    found = [target_for(name, precision, optimize, elsewhere=True) for name in names]
    if len({t.level for t in found}) < len(found):
        raise InputError(f"target={text!r}: a level is given twice: {', '.join(t.level for t in found)}")
    return sorted(found, key=lambda t: order.index(t.level))


def _closed(error: OpenError) -> UnsupportedError:
    """What to tell of a model that only a call completes: here there is none."""
    needs = [f"the values of {', '.join(sorted(error.values))}, which decide shapes: make them constants of "
             "the model"] if error.values else []
    if error.sizes:
        given = {v.name: tuple(e if isinstance(e, int) else 1 for e in v.shape) for v in
                 error.signature.inputs if any(isinstance(e, str) for e in v.shape)}
        needs.append(f"the sizes of its inputs: give them, as in shapes={given} or --shape NAME=N,N...")
    return UnsupportedError(f"{error.name}: to embed it cnncc must know {'; and '.join(needs)}", error.rows)


def _compiled(graph: Graph, targets: Sequence[Target], tuned: Tuned | None, packed: Weights,
              report: Callable[[str, float], None]) -> tuple[Variant, ...]:
    """The variants of a network; their weights are added to those packed."""
    variants = []
    for i, target in enumerate(targets):
        report("compiling", 0.1 + 0.4 * i / len(targets))
        own = tuned if tuned and tuned.target == target_text(target) else None
        code = plan(passes(graph, target, own))
        texts = tuple((symbol, text) for symbol, text in code.texts(target) if symbol != "pool")
        variants.append(Variant(target, code.plan, texts, packed.add(code)))
    return tuple(variants)


def _files(d: Description, shared: bool) -> dict[str, bytes]:
    """The content of every file but weights and shared library."""
    name = d.name
    record = json.dumps(d.record(), indent=1) + "\n"
    texts = {f"{name}.h": header(d), "example.c": example_c(d), "CMakeLists.txt": cmake(d),
             f"{name}.pc": pkg_config(d), f"{name}.json": record}
    if shared:
        texts["example.py"] = example_py(d)
    symbols = (*d.interface.exports, *d.interface.linked.values())
    return {f"{name}.o": d.made.data, f"lib{name}.a": archive(f"{name}.o", d.made.data, symbols),
            **{n: text.encode() for n, text in texts.items()}}


@contextmanager
def _writing(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise InputError(f"{where}: cannot be written: {error.strerror or error}") from error


def _c_compiler() -> list[str]:
    """The command of the C compiler. Raises InputError where there is none."""
    command = shlex.split(os.environ.get("CC", "")) or ["cc"]
    if shutil.which(command[0]) is None:
        raise InputError(f"shared: no C compiler {command[0]!r} here: install one, or name it in CC, or link "
                         "where the program is built; to run the model from Python save it as a .cnncc file, "
                         "which needs none")
    return command


def _link(compiler: Sequence[str], folder: Path, name: str, pthread: bool) -> None:
    """The shared library of an object, which appears complete or not at all. Raises InputError."""
    target = folder / f"lib{name}.so"
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as work:
        made = Path(work, target.name)
        command = [*compiler, "-shared", "-o", str(made), str(folder / f"{name}.o"),
                   f"-Wl,-soname,{target.name}", *(["-pthread", "-Wl,-z,nodelete"] if pthread else [])]
        done = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
        if done.returncode:
            raise InputError(f"shared: {shlex.join(command)} failed:\n{done.stderr.strip()}")
        os.replace(made, target)
