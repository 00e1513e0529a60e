"""Imports point downward: the rules of ARCHITECTURE.md, read off the source with `ast`.

Every import counts: inside functions, under TYPE_CHECKING, and import_module("...") with a constant.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx as nx
import pytest

PACKAGE = "cnncc"
REPOSITORY = Path(__file__).resolve().parent.parent

IR_FLOOR_1 = {"scalars", "expr", "formula", "schedule", "layout", "types", "target", "errors"}
FLOOR_3 = {"frontend", "passes", "codegen", "runtime"}

PICKLING = {"pickle", "_pickle", "pickletools", "cloudpickle", "dill", "joblib", "shelve", "marshal"}

Edge = tuple[str, str]


def floor(module: str) -> int:
    """Of cnncc (its __init__) 5, of cnncc.ir.types 1; a top-level module without a row of its own is 4."""
    match module.split("."):
        case [_] | [_, "cli" | "__main__", *_]:
            return 5
        case [_, "version"]:
            return 0
        case [_, "ir", part, *_] if part in IR_FLOOR_1:
            return 1
        case [_, "ir", *_]:
            return 2
        case [_, part, *_] if part in FLOOR_3:
            return 3
    return 4


def complaint(importer: str, imported: str) -> str | None:
    """What is wrong with this import, or None: down is right, sideways only within the same folder."""
    above, below = floor(importer), floor(imported)
    if above < below:
        return f"{importer} (floor {above}) imports {imported} (floor {below}): upward"
    if above == below == 3 and importer.split(".")[1] != imported.split(".")[1]:
        return f"{importer} imports {imported}: sideways into another folder"
    return None


def modules_of(root: Path) -> dict[str, Path]:
    """Every module below root/cnncc by its dotted name; a package is the name of its __init__.py."""
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def names_imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str | None]]:
    """(module, name) for each `from module import name`, (module, None) for each `import module`."""
    here = module.split(".") if is_package else module.split(".")[:-1]

    def absolute(name: str, level: int) -> str:
        if level == 0:
            return name
        return ".".join([*here[: len(here) - level + 1], *([name] if name else [])])

    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, None
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield absolute(node.module or "", node.level), alias.name
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0].value
            if called in ("import_module", "__import__") and isinstance(name, str):
                dots = len(name) - len(name.lstrip("."))
                yield absolute(name.lstrip("."), dots), None


def edges_of(modules: Mapping[str, Path]) -> set[Edge]:
    """(importer, imported) between our own modules.

    Importing cnncc.a.b runs cnncc/a/__init__.py too, so that is an edge as well, unless the importer
    lives below cnncc.a itself. (cnncc/__init__.py runs before everything; it must be lazy.)
    """
    edges = set()
    packages = {name for name in modules if any(other.startswith(f"{name}.") for other in modules)}
    for importer, path in modules.items():
        tree = ast.parse(path.read_bytes(), filename=str(path))
        for target, name in names_imported(tree, importer, path.name == "__init__.py"):
            if target.split(".")[0] != PACKAGE:
                continue
            full = f"{target}.{name}" if name else target
            is_module = full in modules or any(other.startswith(f"{full}.") for other in modules)
            imported = full if is_module else target
            edges.add((importer, imported))
            parent = imported.rpartition(".")[0]
            while "." in parent:
                if parent in packages and parent != importer and not importer.startswith(f"{parent}."):
                    edges.add((importer, parent))
                parent = parent.rpartition(".")[0]
    return edges


def circles_of(edges: set[Edge]) -> list[list[str]]:
    """The groups of modules that import each other in a circle; a module that imports itself is one."""
    graph = nx.DiGraph(edges)
    groups = [sorted(group) for group in nx.strongly_connected_components(graph)]
    return sorted(group for group in groups if len(group) > 1 or graph.has_edge(group[0], group[0]))


def pickling_in(path: Path) -> list[str]:
    """Imports of pickle and its relatives, and allow_pickle with anything but False."""
    tree = ast.parse(path.read_bytes(), filename=str(path))
    found = [
        f"{path.name} imports {target}"
        for target, _ in names_imported(tree, path.stem, is_package=False)
        if target.split(".")[0] in PICKLING
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                found.append(f"{path.name}:{node.value.lineno} allows pickle")
    return found


def test_imports_point_downward() -> None:
    complaints = [complaint(*edge) for edge in sorted(edges_of(modules_of(REPOSITORY)))]
    assert [text for text in complaints if text] == []


def test_no_import_circles() -> None:
    assert circles_of(edges_of(modules_of(REPOSITORY))) == []


def test_no_pickle() -> None:
    folders = (PACKAGE, "tools", "benchmarks", "examples")
    paths = [path for folder in folders for path in (REPOSITORY / folder).rglob("*.py")]
    assert [text for path in sorted(paths) for text in pickling_in(path)] == []


def _write(root: Path, files: Mapping[str, str]) -> None:
    for name, text in files.items():
        path = root / PACKAGE / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("ir/graph.py", "from cnncc.ir import types, expr\nfrom . import kernel\nfrom cnncc import version"),
        ("passes/fuse.py", "from cnncc.ir.graph import Graph\nfrom .runner import run\nimport numpy"),
        ("compiler.py", "from cnncc.passes import runner\nimport cnncc.codegen.lower, cnncc.runtime.model"),
        ("bench.py", "from cnncc.compiler import compile\nfrom cnncc.runtime.model import CompiledModel"),
        ("cli.py", "def main():\n    from cnncc import compiler, compile"),
        ("__main__.py", "from cnncc.cli import main"),
    ],
)
def test_right_imports(tmp_path: Path, name: str, text: str) -> None:
    _write(tmp_path, EXAMPLE | {name: text})
    edges = edges_of(modules_of(tmp_path))
    assert edges
    assert [edge for edge in edges if complaint(*edge)] == []
    assert circles_of(edges) == []


@pytest.mark.parametrize(
    ("name", "text", "edge"),
    [
        ("ir/types.py", "from cnncc.ir.graph import Graph", ("ir.types", "ir.graph")),
        ("ir/types.py", "from .ops import conv", ("ir.types", "ir.ops.conv")),
        ("ir/types.py", "from cnncc.ir import Anything", ("ir.types", "ir")),
        ("ir/graph.py", "def f():\n    import cnncc.passes.fuse", ("ir.graph", "passes.fuse")),
        ("ir/ops/conv.py", "from ...compiler import compile", ("ir.ops.conv", "compiler")),
        ("passes/fuse.py", "if TYPE_CHECKING:\n    import cnncc.cli", ("passes.fuse", "cli")),
        ("passes/fuse.py", "from ..runtime import model", ("passes.fuse", "runtime.model")),
        ("runtime/model.py", "importlib.import_module('cnncc.compiler')", ("runtime.model", "compiler")),
        ("runtime/model.py", "import_module('..passes.fuse', __package__)", ("runtime.model", "passes.fuse")),
        ("frontend/onnx.py", "from cnncc import compile", ("frontend.onnx", "")),
        ("bench.py", "from cnncc.cli import main", ("bench", "cli")),
    ],
)
def test_wrong_imports_are_found(tmp_path: Path, name: str, text: str, edge: Edge) -> None:
    _write(tmp_path, EXAMPLE | {name: text})
    wrong = {edge for edge in edges_of(modules_of(tmp_path)) if complaint(*edge)}
    importer, imported = (f"{PACKAGE}.{part}".rstrip(".") for part in edge)
    assert (importer, imported) in wrong


@pytest.mark.parametrize(
    ("files", "circle"),
    [
        ({"passes/a.py": "from . import b", "passes/b.py": "from .a import y"}, ["passes.a", "passes.b"]),
        ({"passes/a.py": "import cnncc.passes.a"}, ["passes.a"]),
        (
            {"ir/graph.py": "from .ops.conv import x", "ir/ops/__init__.py": "from .pool import y",
             "ir/ops/pool.py": "from cnncc.ir import graph"},
            ["ir.graph", "ir.ops", "ir.ops.pool"],
        ),
    ],
)
def test_circles_are_found(tmp_path: Path, files: dict[str, str], circle: list[str]) -> None:
    _write(tmp_path, EXAMPLE | files | {"passes/user.py": "from . import fuse"})
    assert circles_of(edges_of(modules_of(tmp_path))) == [[f"{PACKAGE}.{part}" for part in circle]]


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from pickle import loads", "if x:\n    import dill", "np.load(f, allow_pickle=True)"],
)
def test_pickle_is_found(tmp_path: Path, text: str) -> None:
    path = tmp_path / "module.py"
    path.write_text(text)
    assert len(pickling_in(path)) == 1


EXAMPLE = dict.fromkeys(
    [
        "__init__.py", "__main__.py", "bench.py", "cli.py", "compiler.py", "version.py",
        "codegen/__init__.py", "codegen/lower.py", "frontend/__init__.py", "frontend/onnx.py",
        "ir/__init__.py", "ir/expr.py", "ir/graph.py", "ir/kernel.py", "ir/types.py",
        "ir/ops/__init__.py", "ir/ops/conv.py", "passes/__init__.py", "passes/fuse.py",
        "passes/runner.py", "runtime/__init__.py", "runtime/model.py",
    ],
    "",
)
