"""`cnncc tune`: the schedules that the prices rank best are measured, kernel by kernel, and the fastest kept.

The kernels that are predicted to take longest come first. The file is written after each of them, so that an
interrupted run goes on where it was.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cnncc.bench.alone import Alone, alternate
from cnncc.compiler import Source, read, schedules_from, stages
from cnncc.ir.graph import Graph
from cnncc.ir.kernel import Kernel
from cnncc.ir.target import Target, target_for
from cnncc.passes.layouts import PACKED
from cnncc.passes.refine import refined
from cnncc.passes.schedules import Candidate, candidates, weights_of
from cnncc.passes.tuned import Choice, Tuned, target_text
from cnncc.runtime.artifact import replacing

GAIN = 0.98         # of the priced choice's time: what is less of a gain may be noise
ROUNDS, FINAL = 3, 9
CLOSE = 4           # candidates that are measured again beside the priced one


@dataclass
class Row:
    """A kernel that was tuned: times in seconds of one call, `count` of them in the model."""

    node: str
    does: str
    count: int
    priced: float
    tuned: float
    tried: int
    loops: str


@dataclass
class Report:
    """What a run measured; kernels `known` before it, and `left` for want of time."""

    rows: list[Row]
    known: int
    left: int

    def __str__(self) -> str:
        lines = [f"{r.priced * 1e6:9.1f} us -> {r.tuned * 1e6:9.1f} us  x {r.count:<3} of {r.tried:2}  "
                 f"{r.node}: {r.does}" for r in self.rows]
        before, after = (sum(t * r.count for r, t in zip(self.rows, times, strict=True))
                         for times in ([r.priced for r in self.rows], [r.tuned for r in self.rows]))
        lines.append(f"{before * 1e3:.2f} ms -> {after * 1e3:.2f} ms in {len(self.rows)} kernels, "
                     f"{self.known} known before, {self.left} left for another run")
        return "\n".join(lines)


@dataclass
class _Task:
    """A distinct kernel of one stage before it has loops."""

    node: str
    does: str
    kernel: Kernel
    weights: tuple[str, ...]
    known: list[Candidate]
    count: int = 0

    @property
    def cycles(self) -> float:
        return self.count * self.known[0].cycles


def tune(source: Source, path: str | os.PathLike[str], *, seconds: float = 60.0, tries: int = 12,
         batch: int = 1, shapes: dict[str, tuple[int, ...]] | None = None, target: str = "native",
         precision: str = "fast", progress: Callable[[str, float], None] | None = None) -> Report:
    """Measure schedules of a model's kernels and write those that are faster to the file at `path`.

    Of each kernel (of one stage that reads no tables) up to `tries` candidates are run on one core with warm
    operands, for `seconds` in all; the priced choice gives way only to one that is measurably faster. What is
    in the file already is left as it is. `batch` is the size that an open batch is measured with. The file is
    for `schedules=` of `compile` and `embed`. Raises ModelError and InputError as `compile` does; OSError.
    """
    machine = target_for(target, precision)
    tuned = schedules_from(path, machine) if os.path.exists(path) else Tuned(target_text(machine))
    tasks = sorted(_tasks(read(source, shapes=shapes), machine), key=lambda t: -t.cycles)
    left = [t for t in tasks if tuned.choice(t.kernel, t.weights) is None and len(t.known) > 1]
    report = Report([], sum(tuned.choice(t.kernel, t.weights) is not None for t in tasks), len(left))
    end, whole = time.monotonic() + seconds, sum(t.cycles for t in left)
    done = 0.0
    for task in left:
        if time.monotonic() >= end:
            break
        if progress:
            progress(f"{task.node}: {task.does}", done / whole)
        choice, tried = _measured(task, machine, tries, batch, end)
        tuned = tuned.with_choice(task.kernel, task.weights, choice)
        with replacing(path) as file:
            file.write(str(tuned).encode())
        report.rows.append(Row(task.node, task.does, task.count, choice.priced, choice.seconds, tried,
                               choice.loops))
        report.left -= 1
        done += task.cycles
    return report


def _tasks(graph: Graph, target: Target) -> Iterator[_Task]:
    *_, (_, last) = (found for found in stages(graph, target) if found[0] != "choose_schedules")
    tasks: dict[tuple[Kernel, tuple[str, ...]], _Task] = {}
    for n in last:
        if n.kernel is not None and len(n.kernel.stages) == 1 and not n.kernel.stages[0].lookups \
                and n.attr["does"] != PACKED:           # a copy into the order that its reader chooses
            key = n.kernel, weights_of(n, last)
            if key not in tasks:
                tasks[key] = _Task(n.name, str(n.attr["does"]), *key, candidates(*key, target))
            tasks[key].count += 1
    yield from tasks.values()


def _measured(task: _Task, target: Target, tries: int, batch: int, end: float) -> tuple[Choice, int]:
    """The fastest of a kernel's candidates, and how many were tried: at least the two cheapest."""
    runs: list[tuple[Candidate, Alone]] = []
    for c in task.known[:tries]:
        if len(runs) > 1 and time.monotonic() >= end:
            break
        runs.append((c, Alone(refined(c.kernel, task.weights, target), target, batch)))
        runs[-1][1]()
    runs = [r for r in runs if np.array_equal(r[1].output, runs[0][1].output, equal_nan=True)] or runs[:1]
    times = _least([r for _, r in runs], ROUNDS)
    finals = [0, *sorted(range(1, len(runs)), key=lambda i: times[i])[:CLOSE]]
    again = dict(zip(finals, _least([runs[i][1] for i in finals], FINAL), strict=True))
    best = min(finals, key=lambda i: again[i])
    if again[best] > GAIN * again[0]:
        best = 0
    return Choice(str(runs[best][0].loops), again[best], again[0]), len(runs)


def _least(runs: Sequence[Alone], rounds: int) -> list[float]:
    return [min(t) for t in alternate(runs, rounds)]
