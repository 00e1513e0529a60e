"""docs/api.md: the public names of the package, with their signatures and docstrings.

    python tools/api.py --write             # without: to stdout
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import cnncc

ROOT = Path(__file__).parents[1]
INDENT = "    "
PAGE = ROOT / "docs" / "api.md"
TEXT = """# API

Made by `tools/api.py` from the docstrings. Each name is imported when it is first used, so `import cnncc` is
cheap. The layers of `Builder` are in [operators.md](operators.md#layers-of-definitions-and-of-builder).
"""
SECTIONS: dict[str, Sequence[str]] = {
    "Compiling": ("compile", "Preprocess", "load", "reference", "convert", "op", "tune", "tuner.Report",
                  "tuner.Row"),
    "In C and C++ programs": ("embed", "Embedded"),
    "Compiled models": ("CompiledModel", "SpecialisingModel", "runtime.model.Threaded", "ir.plan.Value",
                        "runtime.profiler.StepTime", "runtime.profiler.Roof", "Reference"),
    "Networks in Python": ("Builder", "Graph"),
    "Training": (
        "Trainer", "SGD", "Adam", "AdamW", "RMSprop", *(f"train.{name}" for name in (
            "optimizers.Group", "regularizers.L2", "regularizers.L1", "regularizers.ElasticNet",
            "regularizers.MaxNorm", "regularizers.ClipNorm", "regularizers.ClipValue",
            "losses.SoftmaxCrossEntropy", "losses.SigmoidCrossEntropy", "losses.MeanSquared",
            "losses.MeanAbsolute", "losses.Huber", "schedules.Constant", "schedules.StepDecay",
            "schedules.Cosine", "schedules.Warmup", "schedules.OneCycle", "augment.Crop", "augment.Flip",
            "augment.Rotate", "augment.Rescale", "augment.Elastic", "data.read_data", "data.Dataset",
            "history.EarlyStopping", "history.History", "evaluation.kfold", "evaluation.conformal",
            "evaluation.Conformal"))),
    "Explanations: `cnncc.explanations`": (
        "explanations.saliency", "explanations.gradcam", "explanations.occlusion", "explanations.picture"),
    "scikit-learn: `cnncc.sklearn`": ("sklearn.CNNClassifier",),
    "Errors": ("CnnccError", "ModelError", "UnsupportedError", "ArtifactError", "InputError",
               "InternalError"),
    "In the place of ONNX Runtime": (
        "InferenceSession", "SessionOptions", "RunOptions", "session.NodeArg", "GraphOptimizationLevel",
        "ExecutionMode", "get_available_providers", "get_device"),
    "ONNX's backend interface: `cnncc.backend`": ("backend", "backend.Backend", "backend.BackendRep"),
    "`torch.compile`: `cnncc.torch_backend`": (
        "torch_backend", "torch_backend.backend", "torch_backend.report", "torch_backend.Report"),
}
"""Public names, and by their modules what else their users meet. A public name of no section comes last."""

Definition: TypeAlias = ast.Module | ast.ClassDef | ast.FunctionDef


def sections() -> Iterator[tuple[str, list[str]]]:
    """The headings, each with the names under it."""
    rest = [name for name in cnncc.__all__ if not name.startswith("_")]
    for heading, names in SECTIONS.items():
        yield heading, [name for name in names if name in rest or "." in name or name in cnncc._MODULES]
        rest = [name for name in rest if name not in names]
    if rest:
        yield "More", rest


def definition(name: str) -> Definition:
    """The source of a name. Modules are not imported: they may need packages that aren't there."""
    if name in cnncc.__all__:
        made = ast.parse(textwrap.dedent(inspect.getsource(getattr(cnncc, name)))).body[0]
        assert isinstance(made, Definition)
        return made
    *folders, module, own = name.split(".") if name not in cnncc._MODULES else (name, "")
    tree = ast.parse((ROOT / "cnncc" / Path(*folders, f"{module}.py")).read_text())
    return next((n for n in tree.body if isinstance(n, Definition) and n.name == own), tree)


def describe(name: str, node: Definition) -> Iterator[str]:
    """The paragraphs about a module, function or class."""
    own = name.rpartition(".")[2]
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(map(ast.unparse, node.bases))
        yield f"### {own}" + f" ({bases})" * bool(bases)
        methods = {n.name: n for n in node.body if isinstance(n, ast.FunctionDef)}
        fields = [f"    {n.target.id}: {ast.unparse(n.annotation)}" for n in node.body
                  if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
        if "__init__" in methods:
            yield call(methods["__init__"], own)
        elif fields:
            yield "\n".join(["```python", f"class {own}:", *fields, "```"])
    elif isinstance(node, ast.FunctionDef):
        yield from (f"### {own}", call(node, own))
    yield ast.get_docstring(node) or ""
    if isinstance(node, ast.ClassDef):
        for n in (n for n in node.body if isinstance(n, ast.FunctionDef)):
            decorators = [ast.unparse(d) for d in n.decorator_list]
            if n.name == "__call__" or not (n.name.startswith("_") or f"{n.name}.setter" in decorators):
                short = own.lower() if n.name == "__call__" else f".{n.name}"
                result = ast.unparse(n.returns) if n.returns else "Any"
                yield f"`{short}: {result}`" if "property" in decorators else call(n, short)
                yield ast.get_docstring(n) or ""


def call(node: ast.FunctionDef, name: str) -> str:
    """A call as it is written, in a block of code."""
    for group in (node.args.posonlyargs, node.args.args):
        group[:] = [a for a in group if a.arg not in ("self", "cls")]
    text = re.sub(r"(?<=[\w\])])=", " = ", ast.unparse(node.args).removeprefix("/, "))
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    if len(name + text + returns) > 100:
        text = f"\n{textwrap.fill(text, 100, initial_indent=INDENT, subsequent_indent=INDENT)}\n"
    return f"```python\n{name}({text}){returns}\n```"


def page() -> str:
    paragraphs = [TEXT.strip()]
    for heading, names in sections():
        paragraphs += [f"## {heading}", *(p for name in names for p in describe(name, definition(name)))]
    return "\n\n".join(filter(None, paragraphs)) + "\n"


if __name__ == "__main__":
    if "--write" in sys.argv:
        PAGE.write_text(page())
    else:
        sys.stdout.write(page())
