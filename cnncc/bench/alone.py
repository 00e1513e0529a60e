"""One kernel alone: compiled, loaded, with operands of its own, and how long it takes."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.codegen.lower import lower
from cnncc.codegen.worker import Machine, compile_text
from cnncc.ir.kernel import Kernel
from cnncc.ir.plan import aligned
from cnncc.ir.regions import scratch_offsets
from cnncc.ir.schedule import Schedule
from cnncc.ir.target import Target
from cnncc.ir.tasks import task_count
from cnncc.ir.types import NUMPY
from cnncc.runtime import buffers
from cnncc.runtime.loader import ENTRY, load_code

LEAST = 3e-4
"""Seconds that one measurement lasts at least: what is shorter is called several times."""


class Alone:
    """A loaded kernel as a function without arguments that runs all tasks in this thread.

    Its operands lie one behind the other in huge pages, as in a model; inputs hold the same small random
    numbers in the order of each layout, so that two schedules of one kernel must give the same `output`.
    """

    def __init__(self, kernel: Kernel, target: Target, batch: int = 1) -> None:
        machine = Machine(target.triple, target.cpu, target.features)
        self.kernel = kernel
        self.code = load_code([compile_text(lower(kernel, ENTRY, target), machine)])
        tasks, symbol = task_count(kernel)
        self.flops = kernel.flops() * (batch if symbol else 1)
        sizes = [t.nbytes * (batch if t.type.symbols else 1) for t in kernel.operands]
        sizes.append(scratch_offsets(kernel)[1])
        starts = np.cumsum([0, *map(aligned, sizes)])
        memory = buffers.aligned(max(int(starts[-1]), buffers.HUGE_FROM))
        views = [memory[a:a + size] for a, size in zip(starts, sizes, strict=False)]
        rng = np.random.default_rng(0)
        for t, view in zip(kernel.operands[:-1], views, strict=False):
            values = rng.integers(-2, 3, t.type.static(**dict.fromkeys(t.type.symbols, batch)))
            view[:] = t.layout.pack(values.astype(NUMPY[t.type.dtype])).view(np.uint8)
        *operands, scratch = map(buffers.address, views)
        self.memory, self.output = memory, views[-2].view(NUMPY[kernel.output.type.dtype])
        self.slots = (ctypes.c_int64 * (len(operands) + 2))(batch, scratch, *operands)
        self.call: Any = ctypes.CFUNCTYPE(None, ctypes.c_void_p, *[ctypes.c_int64] * 3)(self.code.entry)
        self.arguments = (ctypes.addressof(self.slots), 0, tasks * (batch if symbol else 1), 0)

    def __call__(self) -> None:
        self.call(*self.arguments)

    def seconds(self) -> float:
        """CPU time of one call, its operands as warm as a call before it leaves them."""
        self()
        start = time.thread_time()
        self()
        once = time.thread_time() - start
        if once >= LEAST:
            return once
        times = int(LEAST / max(once, 1e-7)) + 1
        start = time.thread_time()
        for _ in range(times):
            self()
        return (time.thread_time() - start) / times

    def schedule(self) -> str:
        """All loops in one line: the shared ones, then each stage's."""
        return " | ".join(str(s) for s in (self.kernel.loops, *(s.schedule for s in self.kernel.stages))
                          if s != Schedule(()))


def alternate(kernels: Sequence[Alone], rounds: int) -> list[list[float]]:
    """The seconds of each kernel in every round; within a round they take turns."""
    times: list[list[float]] = [[] for _ in kernels]
    for _ in range(rounds):
        for own, kernel in zip(times, kernels, strict=True):
            own.append(kernel.seconds())
    return times

