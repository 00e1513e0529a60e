"""Where a model's time goes, step by step; and the tables that show it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cnncc.ir.plan import Plan, Step, Value

SECONDS, ROUNDS = 0.5, (5, 1000)
"""By default rounds are measured for so long, at least and at most so many."""
RESOLUTION = 1e-7
"""Seconds that can't be told from none: of shorter steps no rate is given."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """The median time of a step in seconds, its share of all; tasks, FLOPs and bytes of the whole call.

    `nodes` are the model's nodes that the step computes, `ops` is what its kernel does, `symbol` its name.
    """

    index: int
    symbol: str
    nodes: tuple[str, ...]
    ops: str
    tasks: int
    flops: int
    nbytes: int
    seconds: float
    share: float


def measure(steps: Sequence[Step], batch: int, run: Callable[[int, int], None],
            repeat: int | None = None, clock: Callable[[], float] = time.perf_counter) -> list[StepTime]:
    """Times every step in turn, `repeat` rounds, so that each finds data and caches as in a whole run.

    `run(first, last)` runs a range of steps in one native call; from each step's time that of an empty range
    is subtracted, the second of two, which finds our own code in the caches as the step's call does.
    """
    run(0, len(steps))
    rows: list[list[float]] = []
    least, most = (repeat, repeat) if repeat is not None else ROUNDS
    end = time.perf_counter() + SECONDS
    while len(rows) < least or (len(rows) < most and time.perf_counter() < end):
        rows.append([])
        for i in range(len(steps)):
            run(i, i)
            before = clock()
            run(i, i)
            begin = clock()
            run(i, i + 1)
            rows[-1].append(clock() - begin - (begin - before))
    seconds = [max(statistics.median(column), 0.0) for column in zip(*rows, strict=True)]
    total = sum(seconds) or 1.0
    return [StepTime(i, s.symbol, s.nodes, s.ops, s.tasks * (batch if s.batched else 1), s.flops * batch,
                     s.nbytes * batch, t, t / total)
            for i, (s, t) in enumerate(zip(steps, seconds, strict=True))]


def format_profile(times: Sequence[StepTime], peak: float | None = None) -> str:
    """The profile as a table; `peak` in GFLOP/s, measured with the same threads, adds a column of % of it."""
    def row(step: str, seconds: float, share: float, flops: int, nbytes: int, *rest: str) -> list[str]:
        short = seconds < RESOLUTION
        rates = [flops / 1e9, *([flops / 1e7 / peak] if peak else []), nbytes / 1e9]
        return [step, f"<{RESOLUTION * 1e6:.1f}" if short else f"{seconds * 1e6:.2f}", f"{share:.1%}",
                *("" if short or not rate else f"{rate / seconds:.1f}" for rate in rates), *rest]
    rows = [row(str(t.index), t.seconds, t.share, t.flops, t.nbytes, str(t.tasks), t.ops, ", ".join(t.nodes))
            for t in times]
    rows.append(row("all", sum(t.seconds for t in times), sum(t.share for t in times),
                    sum(t.flops for t in times), sum(t.nbytes for t in times), "", "", ""))
    head = ["step", "us", "share", "GFLOP/s", *["% peak"] * bool(peak), "GB/s", "tasks", "op", "nodes"]
    return table(head, rows, ("op", "nodes"))


def format_summary(plan: Plan) -> str:
    """What a model takes, gives, needs and runs: a table of its steps; numbers are for a batch of one."""
    rows = [[str(i), f"{s.flops / 1e6:.3f}", f"{s.nbytes / 1e3:.1f}", f"{s.tasks}{'/batch' * s.batched}",
             s.ops, ", ".join(s.nodes)] for i, s in enumerate(plan.steps)]
    flops, nbytes = sum(s.flops for s in plan.steps), sum(s.nbytes for s in plan.steps)
    rows.append(["all", f"{flops / 1e6:.3f}", f"{nbytes / 1e3:.1f}", "", "", ""])
    per = f" per {plan.symbol}" if plan.symbol else ""
    return (f"{plan.name}: {len(plan.steps)} kernel calls, {flops / 1e6:,.1f} MFLOP{per}\n"
            f"takes {describe(plan.inputs)}\ngives {describe(plan.shown)}\n"
            f"needs weights {plan.weights / 1e3:,.1f} KB, workspace {plan.work / 1e3:,.1f} KB{per}, "
            f"scratch {plan.scratch / 1e3:,.1f} KB per thread\n"
            + table(["step", "MFLOP", "KB", "tasks", "op", "nodes"], rows, ("op", "nodes")))


def describe(values: Sequence[Value]) -> str:
    """Inputs or outputs in a line of text."""
    return ", ".join(f"{v.name}: {v.dtype}[{', '.join(map(str, v.shape))}]" for v in values)




def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str]) -> str:
    """Columns as wide as needed: those headed by `words` to the left, the others, numbers, to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) if name in words else cell.rjust(w)
                               for name, cell, w in zip(head, row, widths, strict=True)).rstrip()
                     for row in (head, *rows))
