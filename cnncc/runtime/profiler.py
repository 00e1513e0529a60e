"""Where a model's time goes, step by step; and the tables that show it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from cnncc.ir.plan import Plan, Step, Value

SECONDS, ROUNDS = 0.5, (5, 1000)
"""By default rounds are measured for so long, at least and at most so many."""
LOW = 0.7
"""Of its roof: what reaches less is marked."""
RESOLUTION = 1e-7
"""Seconds that can't be told from none: of shorter steps no rate is given."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """The median time of a step in seconds, its share of all; tasks, FLOPs and bytes of the whole call.

    `nodes` are the model's nodes that the step computes, `ops` is what its kernel does, `symbol` its name,
    `result` the type of what it writes.
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
    result: str = ""


@dataclass(frozen=True, slots=True)
class Roof:
    """What the threads of a call can do at best: `flops` multiply-adds count twice, of float32, a second.

    Data of up to `cached` bytes move with `near` bytes a second, more with `far`.
    """

    flops: float
    near: float
    far: float
    cached: int

    def __str__(self) -> str:
        return (f"at best {self.flops / 1e9:.0f} GFLOP/s of multiply-adds, {self.near / 1e9:.0f} GB/s within "
                f"the last cache, {self.far / 1e9:.0f} GB/s beyond")

    def limit(self, t: StepTime) -> tuple[str, float]:
        """What limits a step, FMA, cache or memory, and the part of that roof which it reaches."""
        where, rate = ("cache", self.near) if t.nbytes <= self.cached else ("memory", self.far)
        compute, move = t.flops / self.flops, t.nbytes / rate
        least = max(compute, move)
        return "FMA" if compute >= move else where, least / t.seconds if t.seconds > RESOLUTION else 0.0


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
                     s.nbytes * batch, t, t / total, s.result)
            for i, (s, t) in enumerate(zip(steps, seconds, strict=True))]


def format_profile(times: Sequence[StepTime], roof: Roof | None = None, markdown: bool = False) -> str:
    """The profile as a table, on request in Markdown.

    A `roof`, measured with the same threads, adds what limits each step, FMA, cache or memory, and the part
    of that which it reaches, with a star below `LOW`.
    """
    def row(step: str, seconds: float, share: float, flops: int, nbytes: int, *rest: str) -> list[str]:
        short = seconds < RESOLUTION
        rates = ("" if short or not many else f"{many / seconds / 1e9:.1f}" for many in (flops, nbytes))
        return [step, f"<{RESOLUTION * 1e6:.1f}" if short else f"{seconds * 1e6:.2f}", f"{share:.1%}",
                *rates, *rest]

    def reached(t: StepTime) -> list[str]:
        if roof is None:
            return []
        what, part = roof.limit(t)
        return [what, f"{part:.0%}{'*' if part < LOW else ' '}" if part else ""]
    rows = [row(str(t.index), t.seconds, t.share, t.flops, t.nbytes, *reached(t), str(t.tasks), t.result,
                t.ops, ", ".join(t.nodes)) for t in times]
    total, own = sum(t.seconds for t in times), [""] * (2 if roof else 0)
    if roof and total:
        own = ["", f"{sum(roof.limit(t)[1] * t.seconds for t in times) / total:.0%} "]
    rows.append(row("all", total, sum(t.share for t in times), sum(t.flops for t in times),
                    sum(t.nbytes for t in times), *own, "", "", "", ""))
    limits = ["limit", "% roof"] if roof else []
    head = ["step", "us", "share", "GFLOP/s", "GB/s", *limits, "tasks", "result", "op", "nodes"]
    return table(head, rows, ("limit", "result", "op", "nodes"), markdown)


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



def table(head: Sequence[str], rows: Sequence[Sequence[str]], words: Collection[str],
          markdown: bool = False) -> str:
    """Columns as wide as needed: those headed by `words` to the left, the others, numbers, to the right."""
    if markdown:
        aligned = [":--" if name in words else "--:" for name in head]
        return "\n".join(f"| {' | '.join(cell.strip().replace('|', '&#124;') for cell in row)} |"
                         for row in (head, aligned, *rows))
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(w) if name in words else cell.rjust(w)
                               for name, cell, w in zip(head, row, widths, strict=True)).rstrip()
                     for row in (head, *rows))
