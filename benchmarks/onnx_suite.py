"""ONNX's own backend test suite through `cnncc.backend`: what passes and fails, what can't be compiled.

Every case runs in a process of its own, with a time limit. Nothing is downloaded. Exit code 1: some failed.
`--engine onnxruntime` counts another engine's results over the same cases.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import multiprocessing
import os
import re
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from cnncc.ir.errors import UnsupportedError

KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")
VERDICTS = ("passed", "failed", "unsupported", "out of scope")
SETTLED = ("passed", "out of scope")
ENGINES = {"cnncc": "cnncc.backend", "onnxruntime": "onnxruntime.backend"}
TINY = ("FLOAT8", "FLOAT6", "FLOAT4", "INT4", "UINT4", "INT2", "UINT2")

# What a compiler of CNN inference will not take, by a model's domains, ops or types, with the reason.
# Control flow whose condition is constant is taken: only what is refused counts as out of scope.
TRAINING = "training: files are for inference"
OLD = "opsets before 6"
DEVIATING = {
    "test_dft_inverse": "zeros to 1e-7 are expected, where the data hold rounding errors of 2e-7",
    "test_dft_inverse_opset19": "zeros to 1e-7 are expected, where the data hold rounding errors of 2e-7",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime's answer is ours, not the data's",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime's answer is ours, not the data's"}
"""Cases whose data nobody meets, with the reason."""

OUT_OF_SCOPE: list[tuple[str, set[Any]]] = [
    ("classical machine learning (domain ai.onnx.ml): no networks", {"ai.onnx.ml"}),
    ("optimizers (ai.onnx.preview.training): files are for inference", {"ai.onnx.preview.training"}),
    ("drafts (domain ai.onnx.preview): no released opset has them", {"ai.onnx.preview"}),
    ("control flow: a plan is one fixed sequence of kernels", {"If", "Loop", "Scan", "SequenceMap",
                                                               "LinearAttention"}),
    ("sequences, optionals, maps and sparse tensors: values are dense tensors",
     {"sequence_type", "optional_type", "map_type", "sparse_tensor_type", "OptionalHasElement",
      "OptionalGetElement", "SequenceAt", "SequenceConstruct", "SequenceEmpty", "SequenceErase",
      "SequenceInsert", "SequenceLength", "SplitToSequence", "ConcatFromSequence"}),
    ("random numbers: no two engines draw the same", {"Bernoulli", "RandomUniformLike"}),
    ("text: values are numbers", {TensorProto.STRING, "StringNormalizer", "StringConcat", "StringSplit",
                                  "RegexFullMatch", "TfIdfVectorizer"}),
    ("image files: pictures are decoded before the network", {"ImageDecoder"}),
    ("complex numbers", {TensorProto.COMPLEX64, TensorProto.COMPLEX128}),
    ("floats of 8 bits, ints of fewer: formats of language models",
     {n for name, n in TensorProto.DataType.items() if name.startswith(TINY)}),
]


@dataclass
class Result:
    """`rows` are (op, reason) of what can't be compiled, or of the failure."""

    name: str
    verdict: str
    rows: list[tuple[str, str]]


@dataclass
class Case:
    """A model with sets of inputs and outputs, and the tolerance that ONNX gives it."""

    name: str
    model: onnx.ModelProto
    data: Callable[[], list[tuple[list[Any], list[Any]]]]
    rtol: float
    atol: float

    @property
    def ops(self) -> list[str]:
        return sorted({n.op_type for n in self.model.graph.node})

    def outside(self) -> str | None:
        """Why it is out of scope."""
        graph = self.model.graph
        marks: set[Any] = {n.domain for n in graph.node} | set(self.ops)
        for v in (*graph.input, *graph.output):
            marks |= {v.type.WhichOneof("value"), v.type.tensor_type.elem_type}
        marks |= {a.i for n in graph.node for a in n.attribute if a.name == "to"}
        if self.name in DEVIATING:
            return DEVIATING[self.name]
        if max((o.version for o in self.model.opset_import if o.domain == ""), default=6) < 6:
            return OLD
        modes = [(n.op_type, a.i) for n in graph.node for a in n.attribute if a.name == "training_mode"]
        if ("BatchNormalization", 1) in modes or "training_dropout" in self.name:
            return TRAINING
        return next((why for why, what in OUT_OF_SCOPE if marks & what), None)

    def run(self, engine: str) -> Result:
        """What comes of it in an engine that has ONNX's backend interface."""
        try:
            rep = importlib.import_module(ENGINES[engine]).prepare(self.model)
            for inputs, outputs in self.data():
                Runner.assert_similar_outputs(outputs, rep.run(inputs), self.rtol, self.atol)
        except UnsupportedError as error:
            own = self.ops[0] if len(self.ops) == 1 else None
            rows = [(op if op in self.ops else own or op, why) for op, _, why in error.rows]
            return Result(self.name, "unsupported", rows or [(own or "model", error.message)])
        except Exception as error:      # of any kind: it failed
            text = " ".join(str(error).split())[:200]
            return Result(self.name, "failed", [(", ".join(self.ops), f"{type(error).__name__}: {text}")])
        return Result(self.name, "passed", [])


def cases(kinds: Sequence[str] = KINDS) -> Iterator[Case]:
    """The cases of ONNX that need no download."""
    warnings.simplefilter("ignore")     # of NumPy, where ONNX makes its data
    for kind in kinds:
        for c in sorted(load_model_tests(kind=kind), key=lambda c: c.name):
            folder = Path(c.model_dir or ".")

            def data(sets: Any = c.data_sets, folder: Path = folder) -> list[tuple[list[Any], list[Any]]]:
                if sets is None:
                    return [(stored(f, "input"), stored(f, "output")) for f in folder.glob("test_data*")]
                return [(list(map(array, inputs)), list(map(array, outputs))) for inputs, outputs in sets]
            model = c.model if c.model is not None else onnx.load(folder / "model.onnx")
            yield Case(c.name, model, data, c.rtol, c.atol)


def array(value: Any) -> Any:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else value


def stored(folder: Path, what: str) -> list[np.ndarray]:
    count = len(list(folder.glob(f"{what}_*.pb")))
    return [numpy_helper.to_array(onnx.load_tensor(folder / f"{what}_{i}.pb")) for i in range(count)]


def guarded(case: Case, engine: str, seconds: float) -> Result:
    """The result of a case that may crash or hang."""
    if why := case.outside():
        return Result(case.name, "out of scope", [(", ".join(case.ops), why)])
    here, there = multiprocessing.Pipe(duplex=False)

    def work(pipe: Connection) -> None:
        r = case.run(engine)
        pipe.send_bytes(json.dumps(asdict(r)).encode())
    process = multiprocessing.get_context("fork").Process(target=work, args=(there,))
    process.start()
    there.close()
    why = f"no result in {seconds:g} s"
    try:
        if here.poll(seconds):
            r = json.loads(here.recv_bytes())
            return Result(r["name"], r["verdict"], [(op, reason) for op, reason in r["rows"]])
    except EOFError:
        process.join()
        why = f"the process ended with {process.exitcode}"
    finally:
        process.kill()
        process.join()
        here.close()
    return Result(case.name, "failed", [(", ".join(case.ops), why)])


def report(results: Sequence[Result]) -> None:
    """What failed, what can't be compiled and what isn't meant to be, with reasons and counts."""
    for r in results:
        if r.verdict == "failed":
            print(f"failed {r.name}: {r.rows[0][1]}")
    reasons: dict[str, Counter[str]] = defaultdict(Counter)
    for r in results:
        if r.verdict == "unsupported":
            for op, why in {(op, re.sub(r" \(opset \d+\)", "", why)) for op, why in r.rows}:
                reasons[op][why] += 1
    for op, found in sorted(reasons.items(), key=lambda item: -item[1].total()):
        print(f"unsupported {op}: " + "; ".join(f"{n} x {why}" for why, n in found.most_common()))
    for why, n in Counter(r.rows[0][1] for r in results if r.verdict == "out of scope").most_common():
        print(f"out of scope {why}: {n}")
    print(summary(results))


def summary(results: Sequence[Result]) -> str:
    counts = Counter(r.verdict for r in results)
    return f"{len(results)} cases: " + ", ".join(f"{counts[v]} {v}" for v in VERDICTS)


def read(path: Path) -> list[Result]:
    """The results that an earlier run left, a line of JSON for each; the last line may be incomplete."""
    results = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            r = json.loads(line)
            results.append(Result(r["name"], r["verdict"], [(op, why) for op, why in r["rows"]]))
    return results


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ops", help="only cases with one of these ops: Conv,Relu")
    parser.add_argument("--match", default="", help="only cases whose name has this regular expression")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of cases (%(default)s)")
    parser.add_argument("--engine", choices=ENGINES, default="cnncc", help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="for each case (%(default)g)")
    parser.add_argument("--results", type=Path, metavar="FILE",
                        help="keep every result as a line of JSON; what passed or is out of scope there "
                             "isn't run again")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    ops = set(args.ops.split(",")) if args.ops else None
    chosen = [case for case in cases(args.kinds.split(","))
              if re.search(args.match, case.name) and (ops is None or ops & set(case.ops))]
    known = {r.name: r for r in (read(args.results) if args.results else ()) if r.verdict in SETTLED}
    results: list[Result] = []
    with open(args.results or os.devnull, "a", encoding="utf-8") as file:
        for case in chosen:
            result = known.get(case.name) or guarded(case, args.engine, args.seconds)
            results.append(result)
            if case.name not in known:
                print(json.dumps(asdict(result)), file=file, flush=True)
            if sys.stderr.isatty():
                print(f"\r{len(results)} of {len(chosen)} {case.name[:60]:60}", end="", file=sys.stderr)
            elif result.verdict == "failed" or len(results) % 100 == 0:
                print(f"{summary(results)}; {case.name}: {result.verdict}", file=sys.stderr, flush=True)
    if args.json:
        counts = Counter(r.verdict for r in results)
        print(json.dumps({"counts": counts, "results": [asdict(r) for r in results]}, indent=1))
    else:
        report(results)
    return int(any(r.verdict == "failed" for r in results))


if __name__ == "__main__":
    sys.exit(main())
