"""The rounds: every engine in a process of its own, in turn, quiet rounds only."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from cnncc.bench.engines import ENGINES
from cnncc.compiler import as_onnx, optimize, plan, reference
from cnncc.feeds import random_feeds, write_results
from cnncc.frontend.preprocess import Preprocess
from cnncc.ir.errors import InputError
from cnncc.ir.reference import evaluate
from cnncc.ir.target import target_for
from cnncc.runtime import profiler

ROUNDS, CALLS, MOST = 4, 3, 3
"""Rounds that are wanted, least calls in one, and how many times the rounds are tried for quiet ones."""
LIBRARIES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")  # read by NumPy's when they start
DISTURBED = "disturbed by other load"
FLUSH = 2       # times the last cache are walked over to leave nothing in it
WRONG = 1e-3    # an error against the NumPy reference in float32 beyond this is no rounding


@dataclass
class Result:
    """An engine's times in seconds over quiet rounds; `ratio` is to our median; None is what isn't known.

    With the `mode` latency one call runs on all threads; with throughput one on each, and the times are those
    of a round for each of its calls. `rate` is samples per second.
    """

    engine: str
    threads: int
    mode: str
    median: float | None = None
    minimum: float | None = None
    ratio: float | None = None
    rate: float | None = None
    gflops: float | None = None
    percent: float | None = None
    error: float | None = None
    load: float | None = None
    calls: int = 0
    rounds: int = 0
    disturbed: int = 0
    note: str = ""


@dataclass
class Bench:
    """What was measured; `flops` of one call, `peak` in GFLOP/s by number of threads."""

    model: str
    batch: int
    flops: int
    peak: dict[int, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)


def bench(path: str, against: Sequence[str], threads: Sequence[int], batch: int, seconds: float,
          report: Callable[[str, float], None], shapes: Mapping[str, Sequence[int]] | None = None,
          cold: bool = False, mode: str = "latency", preprocess: Preprocess | None = None) -> Bench:
    """Measure cnncc and the engines `against` on a model with seeded random inputs, `seconds` each.

    `shapes` are those of inputs whose sizes the model leaves open; `cold`: nothing is in the caches before a
    call. Where the `mode` is throughput, cnncc's latency is measured too. With `preprocess` all engines get
    the model with it as nodes.

    Raises ModelError as `compile` does, InputError where the model's batch is fixed to another.
    """
    report("reference", 0.0)
    read = reference(path, shapes=shapes, preprocess=preprocess)
    fixed = {v.shape[0] for v in read.inputs if v.shape}
    fixed = {batch} if any(isinstance(e, str) for e in fixed) else fixed
    if batch != 1 and fixed != {batch}:
        raise InputError(f"--batch {batch}: the model's batch is fixed to {', '.join(map(str, fixed))}")
    feeds = random_feeds(read.inputs, batch, deciding=read.deciding)
    graph = read.at(feeds).graph
    ours = plan(optimize(graph, target_for(precision="strict"))).plan      # FLOPs are those of plain sums
    expected = evaluate(graph, feeds, np.float32)
    found = Bench(path, batch, sum(s.flops for s in ours.steps) * (batch if ours.symbol else 1))
    for i, t in enumerate(threads):
        def part(what: str, fraction: float, i: int = i) -> None:
            report(what, (i + fraction) / len(threads))
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory())
            first = {"path": path, "inputs": f"{folder}/inputs.npz", "expected": f"{folder}/expected.npz"}
            if preprocess is not None:
                first["path"] = f"{folder}/model.onnx"
                Path(first["path"]).write_bytes(as_onnx(graph))
            write_results(first["inputs"], feeds)
            write_results(first["expected"], expected)
            names = [(name, mode) for name in dict.fromkeys(["cnncc", *against])]
            names[1:1] = [("cnncc", "latency")] * (mode != "latency")
            engines = [stack.enter_context(closing(_Engine(name, t, how))) for name, how in names]
            _measure(engines, first, seconds, part, FLUSH * target_for().l3 if cold else 0)
        found.peak[t] = max(e.peak for e in engines)
        for e in engines:
            e.conclude(found.flops, found.peak[t], batch)
            if (median := engines[0].result.median) and e.result.median:
                e.result.ratio = e.result.median / median
            found.results.append(e.result)
    return found


def _measure(engines: Sequence[_Engine], first: dict[str, Any], seconds: float,
             report: Callable[[str, float], None], cold: int) -> None:
    """Load all engines, then their rounds in turn; more of them while too few were quiet."""
    for e in engines:
        report(f"{e.result.engine} loads", 0.0)
        if answer := e.ask(first):
            e.result.load, e.result.error = answer["load"], answer["error"]
            if answer["first"] > seconds / ROUNDS:      # slow, as the reference on a large model
                e.calls, e.rounds = 1, ROUNDS
            if answer["error"] is None or answer["error"] > WRONG:
                e.result.note = "WRONG"
    for r in range(ROUNDS * MOST):
        for e in engines:
            if e.process is None or r >= e.rounds or (r >= ROUNDS and len(e.quiet()) >= ROUNDS // 2):
                continue
            report(f"round {r + 1}, {e.result.engine}", min(1.0, r / ROUNDS))
            time.sleep(0.02)            # threads of the last engine that spin go to sleep
            if answer := e.ask({"seconds": seconds / ROUNDS, "calls": e.calls, "cold": cold}):
                e.times.append((answer["foreign"], answer["times"]))
                e.peak = max(e.peak, answer.get("peak", 0.0))

class _Engine:
    """The process of one engine and what it answered."""

    def __init__(self, name: str, threads: int, mode: str) -> None:
        self.result = Result(name, threads, mode)
        self.times: list[tuple[float, list[float]]] = []        # a round: cores that others used, our times
        self.calls, self.rounds, self.peak = CALLS, ROUNDS * MOST, 0.0
        self.process: subprocess.Popen[str] | None = None
        if missing := ENGINES[name].missing:
            self.result.note = f"not installed: {', '.join(missing)}"
            return
        paths = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]),
                                              os.environ.get("PYTHONPATH")]))
        own, calls = (threads, 1) if mode == "latency" else (1, threads)
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnncc.bench.process", name, str(own), str(calls)], text=True,
            bufsize=1, process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, **dict.fromkeys(LIBRARIES, str(own))})

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def ask(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """The answer; None, with a note, where it failed or died."""
        if self.process is None:
            return None
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message) + "\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process died"}
        if "failed" in answer:
            self.result.note = answer["failed"]
            self.close()
            return None
        return answer

    def quiet(self) -> list[tuple[float, list[float]]]:
        """The rounds in which others left the CPUs that were needed alone."""
        limit = max(0, (os.cpu_count() or 1) - self.result.threads) + 0.1
        return [times for times in self.times if times[0] < limit]

    def conclude(self, flops: int, peak: float, batch: int) -> None:
        """The statistics over the quiet rounds, or where there are none over the two quietest."""
        r, quiet = self.result, self.quiet()
        rounds = quiet or sorted(self.times)[:2]
        if not rounds:
            return
        times = [x for _, several in rounds for x in several]
        r.median, r.minimum = statistics.median(times), min(times)
        r.rate, r.gflops = batch / r.median, flops / r.median / 1e9
        r.percent = 100 * r.gflops / peak if peak else None
        r.calls, r.rounds, r.disturbed = len(times), len(rounds), len(self.times) - len(quiet)
        if not quiet and not r.note:
            r.note = DISTURBED


def table(found: Bench) -> str:
    """The results as text, a row for each engine and number of threads."""
    forms = {"median ms": ".4f", "min ms": ".4f", "samples/s": ".1f", "ratio": ".2f", "GFLOP/s": ".1f",
             "% peak": ".1f", "error": ".1e", "calls": "d"}
    numbers = [(r.median and r.median * 1e3, r.minimum and r.minimum * 1e3, r.rate, r.ratio, r.gflops,
                r.percent, r.error, r.calls or None) for r in found.results]
    rows = [[str(r.threads), r.engine, r.mode, *("" if x is None else format(x, form) for x, form in
                                         zip(row, forms.values(), strict=True)), r.note]
            for r, row in zip(found.results, numbers, strict=True)]
    peaks = ", ".join(f"{peak:.0f} with {t}" for t, peak in found.peak.items() if peak)
    return (f"{found.model}, batch {found.batch}: {found.flops / 1e6:,.2f} MFLOP a call\n"
            f"{profiler.table(['threads', 'engine', 'mode', *forms, ''], rows, ('engine', 'mode', ''))}\n"
            f"ratio: time to that of cnncc; peak of multiply-adds in GFLOP/s: {peaks or 'not measured'}")
