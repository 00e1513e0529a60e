"""The rounds: every engine in a process of its own, in turn, quiet rounds only."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.bench.engines import environment, installed
from cnncc.bench.worker import pack
from cnncc.compiler import optimize, plan, read
from cnncc.feeds import random_feeds
from cnncc.ir.errors import InputError
from cnncc.ir.plan import Plan
from cnncc.ir.reference import evaluate
from cnncc.ir.signature import Signature
from cnncc.ir.target import target_for

ROUNDS, CALLS, MOST = 4, 3, 3
"""Rounds that are wanted, least calls in one, and how many times the rounds are tried for quiet ones."""
WRONG = 1e-3
"""An error against the NumPy reference in float32 beyond this is no rounding: the engine is called wrong."""


@dataclass
class Result:
    """An engine's times in seconds over quiet rounds; `ratio` is to our median."""

    engine: str
    threads: int
    median: float | None = None
    minimum: float | None = None
    ratio: float | None = None
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
    peak: dict[int, float]
    results: list[Result]


def bench(path: str, against: Sequence[str], threads: Sequence[int], batch: int = 1, seconds: float = 3.0,
          progress: Callable[[str, float], None] | None = None) -> Bench:
    """Measure cnncc and the engines `against` on a model with seeded random inputs, `seconds` each.

    Raises ModelError as `compile` does, InputError where the model's batch is fixed to another.
    """
    report = progress or (lambda what, fraction: None)
    report("reference", 0.0)
    graph = read(path)
    ours = plan(optimize(graph, target_for())).plan
    _check_batch(ours, batch)
    feeds = random_feeds(Signature.of(graph).inputs, batch)
    first = {"path": path, "inputs": pack(feeds), "expected": pack(evaluate(graph, feeds, np.float32))}
    flops = sum(s.flops for s in ours.steps) * (batch if ours.symbol else 1)
    engines = list(dict.fromkeys(["cnncc", *against]))
    result = Bench(path, batch, flops, {}, [])
    for i, t in enumerate(threads):
        def part(what: str, fraction: float, i: int = i) -> None:
            report(what, (i + fraction) / len(threads))
        result.results += _session(engines, t, first, flops, seconds, result.peak, part)
    return result


def _check_batch(ours: Plan, batch: int) -> None:
    fixed = {v.shape[0] for v in ours.inputs if v.shape} if ours.symbol is None else {batch}
    if batch != 1 and fixed != {batch}:
        raise InputError(f"--batch {batch}: the model's batch is fixed to {', '.join(map(str, fixed))}")


class _Engine:
    """The process of one engine; killed when the context ends."""

    def __init__(self, name: str, threads: int) -> None:
        self.result = Result(name, threads)
        self.times: list[tuple[float, list[float]]] = []
        self.calls, self.rounds = CALLS, ROUNDS * MOST
        self.process: subprocess.Popen[str] | None = None
        if not installed(name):
            self.result.note = "not installed"
            return
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "cnncc.bench.worker", name, str(threads)], text=True,
            process_group=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, **environment(name, threads)})

    def __enter__(self) -> _Engine:
        return self

    def __exit__(self, *_: object) -> None:
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
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process died"}
        if "failed" in answer:
            self.result.note = answer["failed"]
            self.__exit__()
            return None
        return answer

    def quiet(self, limit: float) -> int:
        return sum(foreign < limit for foreign, _ in self.times)


def _session(names: Sequence[str], threads: int, first: dict[str, Any], flops: int, seconds: float,
             peaks: dict[int, float], report: Callable[[str, float], None]) -> list[Result]:
    """All engines with one number of threads."""
    limit = max(0, (os.cpu_count() or 1) - threads) + 0.1
    with ExitStack() as stack:
        engines = [stack.enter_context(_Engine(name, threads)) for name in names]
        for e in engines:
            report(f"{e.result.engine} loads", 0.0)
            if (answer := e.ask(first)) is not None:
                e.result.load, e.result.error = answer["load"], answer["error"]
                if answer["first"] > seconds / ROUNDS:      # slow, as the reference on a large model
                    e.calls, e.rounds = 1, ROUNDS
                if answer["error"] is None or answer["error"] > WRONG:
                    e.result.note = "WRONG"
        for r in range(ROUNDS * MOST):
            waiting = [e for e in engines if e.process is not None and r < e.rounds
                       and (r < ROUNDS or e.quiet(limit) < ROUNDS // 2)]
            for e in waiting:
                report(f"round {r + 1}, {e.result.engine}", min(1.0, r / ROUNDS))
                time.sleep(0.02)            # threads of the last engine that spin go to sleep
                if (answer := e.ask({"seconds": seconds / ROUNDS, "calls": e.calls})) is not None:
                    e.times.append((answer["foreign"], answer["times"]))
                    if "peak" in answer:
                        peaks[threads] = max(peaks.get(threads, 0.0), answer["peak"])
            if not waiting:
                break
    for e in engines:
        _conclude(e, limit, flops, peaks.get(threads))
    ours = engines[0].result.median
    for e in engines:
        if ours and e.result.median:
            e.result.ratio = e.result.median / ours
    return [e.result for e in engines]


def _conclude(e: _Engine, limit: float, flops: int, peak: float | None) -> None:
    """The statistics over the quiet rounds, or where there are none over the two quietest."""
    rounds = [t for t in e.times if t[0] < limit] or sorted(e.times)[:2]
    times = [x for _, ts in rounds for x in ts]
    r = e.result
    if not times:
        return
    r.median, r.minimum = statistics.median(times), min(times)
    r.gflops = flops / r.median / 1e9
    r.percent = 100 * r.gflops / peak if peak else None
    r.calls, r.rounds, r.disturbed = len(times), len(rounds), len(e.times) - e.quiet(limit)
    if not e.quiet(limit) and not r.note:
        r.note = "disturbed by other load"


def table(found: Bench) -> str:
    """The results as text."""
    lines = [f"{found.model}, batch {found.batch}: {found.flops / 1e6:,.2f} MFLOP a call"]
    for t in dict.fromkeys(r.threads for r in found.results):
        best = f", peak {found.peak[t]:.0f} GFLOP/s" if t in found.peak else ""
        heads = ("median ms", "min ms", "ratio", "GFLOP/s", "% peak", "error", "calls")
        lines += [f"{t} thread{'s' * (t > 1)}{best}",
                  f"  {'engine':12} " + " ".join(f"{head:>10}" for head in heads)]
        for r in (r for r in found.results if r.threads == t):
            if r.median is None or r.minimum is None:
                lines.append(f"  {r.engine:12} {r.note}")
                continue
            numbers = ((r.median * 1e3, ".4f"), (r.minimum * 1e3, ".4f"), (r.ratio, ".2f"), (r.gflops, ".1f"),
                       (r.percent, ".1f"), (r.error, ".1e"), (r.calls, "d"))
            cells = " ".join(f"{'' if x is None else format(x, form):>10}" for x, form in numbers)
            lines.append(f"  {r.engine:12} {cells}  {r.note}".rstrip())
    return "\n".join(lines)
