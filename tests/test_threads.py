"""The native thread pool: every task exactly once, whoever calls, however often, before and after a fork."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from cnncc.codegen.threads import pool_ir
from cnncc.codegen.worker import Machine, compile_text

MACHINE = Machine(llvm.get_default_triple(), llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten())

# args is an i64 array: how often each task ran, and from 1000 on how many tasks each thread ran.
KERNELS = """
declare void @cnncc_pool_run(ptr, ptr, i64, i64)
declare void @llvm.x86.sse.stmxcsr(ptr)
declare i32 @sched_yield()

define void @count(ptr %args, i64 %begin, i64 %end, i64 %thread) {
entry:
  %t = add i64 %thread, 1000
  %mine = getelementptr i64, ptr %args, i64 %t
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %i1, %loop ]
  %p = getelementptr i64, ptr %args, i64 %i
  %a = atomicrmw add ptr %p, i64 1 monotonic
  %m = load i64, ptr %mine
  %m1 = add i64 %m, 1
  store i64 %m1, ptr %mine
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %end
  br i1 %more, label %loop, label %done
done:
  ret void
}

; Each task waits until all threads are in one, so that every worker takes part; then it notes its MXCSR.
define void @meet(ptr %args, i64 %begin, i64 %end, i64 %thread) {
entry:
  %a = atomicrmw add ptr %args, i64 1 seq_cst
  br label %wait
wait:
  %rc = call i32 @sched_yield()
  %here = load atomic i64, ptr %args seq_cst, align 8
  %n.p = getelementptr i64, ptr %args, i64 1
  %n = load i64, ptr %n.p
  %all = icmp uge i64 %here, %n
  br i1 %all, label %done, label %wait
done:
  %t = add i64 %thread, 2
  %csr = getelementptr i64, ptr %args, i64 %t
  call void @llvm.x86.sse.stmxcsr(ptr %csr)
  ret void
}

define void @repeat(ptr %kernel, ptr %args, i64 %tasks, i64 %threads, i64 %times) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i1, %loop ]
  call void @cnncc_pool_run(ptr %kernel, ptr %args, i64 %tasks, i64 %threads)
  %i1 = add i64 %i, 1
  %more = icmp ult i64 %i1, %times
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


@dataclass
class Pool:
    acquire: Any
    release: Any
    repeat: Any
    count: int
    meet: int
    keep: tuple[object, ...]

    def run(self, kernel: int, args: np.ndarray, tasks: int, threads: int, times: int = 1) -> None:
        self.repeat(kernel, args.ctypes.data, tasks, threads, times)

    def check(self, tasks: int, threads: int, times: int = 1) -> np.ndarray:
        """Counts the runs of each task; returns how many tasks each thread ran."""
        args = np.zeros(1300, np.int64)
        self.run(self.count, args, tasks, threads, times)
        assert (args[:tasks] == times).all() and not args[tasks:1000].any()
        assert args[1000:].sum() == tasks * times and not args[1000 + threads:].any()
        return args[1000:1000 + threads]

    def meet_all(self, threads: int) -> np.ndarray:
        """Runs one task in each thread, all at the same time; returns their MXCSRs."""
        args = np.zeros(2 + threads, np.int64)
        args[1] = threads
        self.run(self.meet, args, threads, threads)
        assert args[0] == threads
        return args[2:]


_loaded: list[Pool] = []


def load() -> Pool:
    """The pool of this process: its object is loaded once and never unloaded."""
    if not _loaded:
        builder = llvm.JITLibraryBuilder().add_current_process()
        for text in (pool_ir(), KERNELS):
            builder.add_object_img(compile_text(text, MACHINE))
        jit = llvm.create_lljit_compiler()
        for name in ("cnncc_pool_acquire", "cnncc_pool_release", "repeat", "count", "meet"):
            builder.export_symbol(name)
        library = builder.link(jit, "pool")
        i64, ptr = ctypes.c_int64, ctypes.c_void_p
        _loaded.append(Pool(
            ctypes.CFUNCTYPE(i64, i64)(library["cnncc_pool_acquire"]),
            ctypes.CFUNCTYPE(None)(library["cnncc_pool_release"]),
            ctypes.CFUNCTYPE(None, ptr, ptr, i64, i64, i64)(library["repeat"]),
            library["count"], library["meet"], (jit, library)))
    return _loaded[0]


@pytest.fixture
def pool() -> Iterator[Pool]:
    yield load()
    assert load().acquire(2) == 2, "a test left the pool held"
    load().release()


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
def test_every_task_runs_once(pool: Pool, threads: int) -> None:
    assert pool.acquire(threads) == threads
    for tasks in range(1001):
        pool.check(tasks, threads)
    pool.release()


@pytest.mark.parametrize("threads", [2, 3])
def test_many_regions(pool: Pool, threads: int) -> None:
    assert pool.acquire(threads) == threads
    for tasks in (1, 2, 5, 64):
        pool.check(tasks, threads, 10_000)
    pool.release()


def test_many_short_inferences(pool: Pool) -> None:
    for i in range(2000):
        threads = 2 + i % 3
        assert pool.acquire(threads) == threads
        pool.check(1 + i % 7, threads)
        pool.release()


@pytest.mark.parametrize("threads", [2, 4, 16])
def test_all_threads_take_part_with_denormals_flushed(pool: Pool, threads: int) -> None:
    assert pool.acquire(threads) == threads
    for _ in range(20):
        assert all(csr & 0x8040 == 0x8040 for csr in pool.meet_all(threads)[1:])
    pool.release()


@pytest.mark.parametrize("held", [False, True])
def test_sleeping_workers_wake(pool: Pool, held: bool) -> None:
    for pause in (0.0, 1e-5, 5e-5, 1e-4, 1e-3, 2e-3, 5e-3) * 3:
        assert pool.acquire(3) == 3
        if held:
            pool.meet_all(3)
            time.sleep(pause)
        pool.meet_all(3)
        pool.release()
        time.sleep(pause)


def test_acquire_is_bounded(pool: Pool) -> None:
    assert [pool.acquire(n) for n in (0, 1)] == [1, 1]
    assert pool.acquire(2) == 2
    assert pool.acquire(2) == 1
    pool.release()


def test_second_caller_runs_alone(pool: Pool) -> None:
    def second() -> None:
        granted.append(pool.acquire(2))
        pool.check(100, 1)
        pool.release()

    granted: list[int] = []
    assert pool.acquire(2) == 2
    thread = threading.Thread(target=second)
    thread.start()
    thread.join()
    assert granted == [1]
    assert pool.acquire(2) == 1, "the other thread's release freed the pool"
    pool.check(100, 2)
    pool.release()


def test_concurrent_callers(pool: Pool) -> None:
    def call() -> None:
        for _ in range(300):
            n = pool.acquire(2)
            pool.check(50, n, 20)
            pool.release()
        finished.append(True)

    finished: list[bool] = []
    callers = [threading.Thread(target=call) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(finished) == 3


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("held", [False, True])
def test_forked_child_has_its_own_pool(pool: Pool, held: bool) -> None:
    assert pool.acquire(3) == 3
    pool.check(10, 3)
    if not held:
        pool.release()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        good = pool.acquire(3) == 3
        if good:
            pool.meet_all(3)
            pool.check(100, 3, 100)
            pool.release()
        os._exit(0 if good else 1)
    assert os.waitpid(pid, 0)[1] == 0
    if held:
        pool.check(10, 3)
        pool.release()


def test_workers_block_signals_and_keep_off_the_callers_cpu(pool: Pool) -> None:
    before = set(os.listdir("/proc/self/task"))
    allowed = os.sched_getaffinity(0)
    assert pool.acquire(40) == 40
    workers = set(os.listdir("/proc/self/task")) - before
    assert pool.meet_all(40).size == 40
    pool.release()
    assert workers
    for tid in workers:
        with open(f"/proc/self/task/{tid}/status") as file:
            status = {key: value for key, _, value in (line.partition(":\t") for line in file)}
        assert int(status["SigBlk"], 16) & 1 << signal.SIGINT - 1
        assert not int(status["SigBlk"], 16) & 1 << signal.SIGSEGV - 1
    if 2 <= len(allowed) < 40:
        assert all(os.sched_getaffinity(int(tid)) == allowed for tid in workers)
        assert pool.acquire(2) == 2
        pool.release()
        masks = [os.sched_getaffinity(int(tid)) for tid in workers]
        assert all(mask < allowed and len(mask) == len(allowed) - 1 for mask in masks)
