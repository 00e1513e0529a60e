"""What the files say of an embedded network: its arguments as C has them, its sizes, its record."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

from cnncc.codegen.aot import Object
from cnncc.codegen.interface import ABI, ALIGNMENT, DATA, ERRORS, Interface, meanings
from cnncc.embedding.names import distinct
from cnncc.ir.plan import Value

CTYPES = {"float32": "float", "float64": "double", "bool": "uint8_t", "float16": "uint16_t",
          "bfloat16": "uint16_t"} | {f"{u}int{bits}": f"{u}int{bits}_t" for u in ("", "u")
                                     for bits in (8, 16, 32, 64)}
"""C's types by NumPy's names; a bool is 0 or 1, halves are their bits."""


TAKEN = ("batch", "weights", "workspace", "threads", "callback", "context", "error", "parallel", "stack",
         "abi", "at", "memory", "content", "file", "aligned", "library", "address", "data", "ctypes", "here")
"""Names that the header and the examples have for something else."""


@dataclass(frozen=True)
class Argument:
    """An array that the run functions take: `name` in C, what it is in the model, and of which kind.

    `kind` is input, output, or count: one number, how much of an `axis` of the output `of` there is.
    """

    name: str
    value: Value
    kind: str
    axis: int = 0
    of: str = ""

    @property
    def ctype(self) -> str:
        return CTYPES[self.value.dtype]

    @property
    def declaration(self) -> str:
        return f"{'const ' if self.kind == 'input' else ''}{self.ctype} *{self.name}"

    @property
    def open(self) -> bool:
        """Whether the batch is among its sizes."""
        return any(isinstance(e, str) for e in self.value.shape)

    @property
    def elements(self) -> int:
        """Elements per unit of the batch."""
        return prod(e for e in self.value.shape if isinstance(e, int))


@dataclass(frozen=True)
class Description:
    """An interface and its object, as the files describe them. `origin` says what made it, and of what."""

    interface: Interface
    made: Object
    weights: int
    origin: dict[str, Any]

    @property
    def name(self) -> str:
        return self.interface.name

    @property
    def macro(self) -> str:
        """What begins the names of constants."""
        return self.name.upper()

    @property
    def batch(self) -> bool:
        return self.interface.plan.symbol is not None

    @property
    def in_file(self) -> bool:
        """Whether the weights are an argument."""
        return self.interface.key is not None

    @property
    def arguments(self) -> list[Argument]:
        plan = self.interface.plan
        found = [*((v, "input") for v in plan.inputs), *((v, "output") for v in plan.shown)]
        names = distinct([(v.name, kind) for v, kind in found], TAKEN)
        rows = [Argument(n, v, kind) for n, (v, kind) in zip(names, found, strict=True)]
        outputs = rows[len(plan.inputs):]
        counted = [(plan.signals[i], plan.outputs[len(plan.shown) + i]) for i in self.interface.counts]
        of = [(outputs[s.output or 0].name, s.axis, v) for s, v in counted]
        names = distinct([(f"{n}_count", "count") for n, _, _ in of], (*TAKEN, *names))
        return rows + [Argument(n, v, "count", axis, name)
                       for n, (name, axis, v) in zip(names, of, strict=True)]

    @property
    def stated(self) -> list[str]:
        """The parameters of the run functions, declared."""
        return [*(["size_t batch"] if self.batch else []), *(a.declaration for a in self.arguments),
                *(["const void *weights"] if self.in_file else []), "void *workspace"]

    @property
    def errors(self) -> Iterator[tuple[int, str, str]]:
        """(code, constant, text)."""
        names = ["OK", *(f"ERROR_{n}" for n in ERRORS)]
        for code, text in meanings(self.interface.plan).items():
            what = names[code] if code < len(names) else f"ERROR_DATA_{code - DATA}"
            yield code, f"{self.macro}_{what}", text

    def record(self) -> dict[str, Any]:
        """The content of the JSON file."""
        def row(a: Argument) -> dict[str, Any]:
            more = {"of": a.of, "axis": a.axis} if a.kind == "count" else {}
            return {"argument": a.name, "name": a.value.name, "dtype": a.value.dtype, "type": a.ctype,
                    "shape": a.value.shape, **more}
        rows = self.arguments
        plan = self.interface.plan
        return {
            "name": self.name, "abi": ABI, **self.origin, "batch": plan.symbol,
            **{f"{kind}s": [row(a) for a in rows if a.kind == kind] for kind in ("input", "output", "count")},
            "threads": self.interface.threads, "functions": self.interface.exports,
            "errors": {text: code for code, text, _ in self.errors},
            "workspace": {"alignment": ALIGNMENT, "activations": self.interface.work,
                          "scratch": self.interface.scratch},
            "stack": self.made.stack, "code": self.made.code,
            "weights": {"bytes": self.weights, "alignment": ALIGNMENT,
                        "file": f"{self.name}.weights" if self.in_file else None},
            "targets": [{
                "level": v.target.level, "tuned_for": v.target.cpu, "features": v.target.features,
                "activations": v.plan.work, "scratch": v.plan.scratch, "weights": v.plan.weights,
                "kernels": [{"symbol": s.symbol, "does": s.ops, "nodes": s.nodes, "flops": s.flops}
                            for s in v.plan.steps]} for v in self.interface.variants]}
