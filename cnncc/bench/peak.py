"""What the machine can do: multiply-adds, measured with a loop that touches only registers; bytes moved."""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from cnncc.codegen.emitter import PTR, Emitter, Type
from cnncc.codegen.worker import Machine, compile_text
from cnncc.ir.target import Target, target_for
from cnncc.runtime.loader import ENTRY, Code, load_code
from cnncc.runtime.profiler import Roof

NEAR, FAR = 8 << 20, 128 << 20
"""Bytes of the copies within the last cache, and beyond."""
TURNS = 100_000     # of the loop in one call: below a millisecond, so that some calls are undisturbed


def peak(threads: int = 1, seconds: float = 0.1) -> float:
    """GFLOP/s of `threads` cores together: the sum of each thread's best call within `seconds`."""
    target = target_for()
    accumulators = 24 if target.registers >= 32 else 12
    code = _load(target, accumulators)
    start = threading.Barrier(threads)

    def run(_: int) -> float:
        best = 0.0
        entry = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(code.entry)
        memory = (ctypes.c_float * 64)(*[0.5] * 64)
        flops = 2 * target.lanes * accumulators * TURNS
        start.wait()
        end = time.perf_counter() + seconds
        while (begin := time.perf_counter()) < end:
            entry(ctypes.addressof(memory))
            best = max(best, flops / (time.perf_counter() - begin) / 1e9)
        return best
    with ThreadPoolExecutor(threads) as workers:
        return sum(workers.map(run, range(threads)))


def copied(nbytes: int, threads: int = 1) -> float:
    """Bytes a second that `threads` copies within so much memory together read and write, at best."""
    start = threading.Barrier(threads)

    def run(_: int) -> float:
        a = np.ones(nbytes // threads // 8, np.float32)
        b, best = np.empty_like(a), 0.0
        for _ in range(20):
            start.wait()
            begin = time.perf_counter()
            np.copyto(b, a)
            best = max(best, 2 * a.nbytes / (time.perf_counter() - begin))
        return best
    with ThreadPoolExecutor(threads) as workers:
        return sum(workers.map(run, range(threads)))


def roof(threads: int = 1) -> Roof:
    """The roof of so many threads."""
    return Roof(peak(threads) * 1e9, copied(NEAR, threads), copied(FAR, threads), target_for().l3 // 2)


@functools.cache
def _load(target: Target, accumulators: int) -> Code:
    """A function of an address: `accumulators` chains of acc = acc * a + b with a and b from there."""
    e, vector = Emitter(), Type("f32", target.lanes)
    with e.function(ENTRY, "i64", [(PTR, "memory")]) as (memory,):
        a, b = (e.load(memory, i * 4 * target.lanes, vector, 4) for i in range(2))
        with e.loop(0, TURNS, 1, [a] * accumulators) as loop:
            loop.next = [e.fma(v, a, b) for v in loop.values]
        total = functools.reduce(functools.partial(e.arith, "fadd"), loop.values)
        e.store(total, memory, 8 * target.lanes, 4)
        e.line("ret i64 0")
    machine = Machine(target.triple, target.cpu, target.features)
    return load_code([compile_text(e.module(), machine)])
