"""Compiling LLVM text in worker processes: the same bytes, whatever happens to them."""

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from cnncc.codegen.worker import (
    Compiler,
    Machine,
    assembly,
    compile_all,
    compile_text,
    module_of,
    target_machine,
)
from cnncc.ir.errors import InternalError

MACHINE = Machine(llvm.get_default_triple(), "x86-64-v3", "")
EAGER = 1e9  # seconds of expected work: start all worker processes at once


def text(i: int, size: int = 1) -> str:
    body = f"(i64 %x) {{\n  %y = mul i64 %x, {i + 3}\n  ret i64 %y\n}}\n"
    return f"; text {i}\n" + "".join(f"define i64 @f{i}_{j}{body}" for j in range(size))


def children() -> list[int]:
    """The pids of this process's children, not yet reaped ones included."""
    tasks = Path("/proc/self/task").iterdir()
    pids: list[int] = []
    for task in tasks:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):     # a thread that has ended since
            pids += map(int, (task / "children").read_text().split())
    return pids


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


def until(condition: Callable[[], object]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("waited in vain")


def test_text_to_object_and_assembly() -> None:
    assert compile_text(text(1), MACHINE)[:4] == b"\x7fELF"
    assert "f1_0:" in assembly(text(1), MACHINE)


LOOP = """
define void @f(ptr %p, ptr %q, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %a = getelementptr [12 x float], ptr %p, i64 %i
  %b = getelementptr [20 x float], ptr %q, i64 %i
  %x = load float, ptr %a
  store float %x, ptr %b
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}
"""


def test_options_of_llvm_are_ours_only_while_code_is_generated() -> None:
    def plainly() -> bytes:
        return bytes(target_machine(MACHINE).emit_object(module_of(LOOP)))
    before, own = plainly(), compile_text(LOOP, MACHINE)
    with ThreadPoolExecutor(4) as threads:
        assert {own} == {*threads.map(lambda _: compile_text(LOOP, MACHINE), range(40))}
    assert own != before == plainly()


@pytest.mark.parametrize("bad", ["; bad one\nnonsense", "; bad two\ndefine i32 @f() {\n  ret i64 0\n}\n"])
@pytest.mark.parametrize("jobs", [1, 2])
def test_refused_text_names_its_first_line(bad: str, jobs: int) -> None:
    with pytest.raises(InternalError, match="; bad"), Compiler(MACHINE, jobs, EAGER) as compiler:
        compiler.submit(bad)
        compiler.results()


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_same_bytes_in_the_same_order(jobs: int) -> None:
    texts = [text(i, 1 + i % 5) for i in range(12)]
    seen: list[tuple[int, int]] = []
    with Compiler(MACHINE, jobs, EAGER) as compiler:
        assert [compiler.submit(t) for t in texts] == list(range(12))
        results = compiler.results(lambda done, total: seen.append((done, total)))
    assert results == [compile_text(t, MACHINE) for t in texts]
    assert seen[-1] == (12, 12) and seen == sorted(set(seen))


def test_small_work_starts_no_process() -> None:
    with Compiler(MACHINE, 8) as compiler:
        compiler.submit(text(0))
        assert not compiler._feeders
        assert compiler.results() == [compile_text(text(0), MACHINE)]
    assert compile_all([], MACHINE, 8) == []


def test_a_worker_compiles_before_results_are_asked_for() -> None:
    with Compiler(MACHINE, 2, EAGER) as compiler:
        for i in range(3):
            compiler.submit(text(i))
        until(lambda: compiler._done == 3)
        assert compiler.results() == [compile_text(text(i), MACHINE) for i in range(3)]


def test_killed_worker_is_replaced() -> None:
    with Compiler(MACHINE, 2, EAGER) as compiler:
        until(lambda: compiler._children)
        compiler.submit(text(0))
        until(lambda: compiler._done == 1)
        for child in list(compiler._children):
            os.kill(child.process.pid, signal.SIGKILL)
        for i in range(1, 6):
            compiler.submit(text(i))
        until(lambda: compiler._done == 6)
        assert compiler.results() == [compile_text(text(i), MACHINE) for i in range(6)]


def test_text_that_crashes_llvm_is_reported() -> None:
    """A tile instruction for a machine without tiles ends the process that compiles it."""
    fatal = "; fatal\ndeclare void @llvm.x86.tilezero(i8)\ndefine void @f() {\n" \
            "  call void @llvm.x86.tilezero(i8 0)\n  ret void\n}\n"
    with Compiler(MACHINE, 2, EAGER) as compiler:
        compiler.submit(fatal)
        until(lambda: compiler._error or compiler._done)
        with pytest.raises(InternalError, match="crashed twice on '; fatal'"):
            compiler.results()


@pytest.mark.parametrize("executable", ["", "/nonexistent/python", "/bin/true"])
def test_without_an_interpreter_everything_is_compiled_here(
        monkeypatch: pytest.MonkeyPatch, executable: str) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with Compiler(MACHINE, 3, EAGER) as compiler:
        compiler.submit(text(0))
        assert compiler.results() == [compile_text(text(0), MACHINE)]


def test_interrupt_ends_the_workers() -> None:
    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Compiler(MACHINE, 3, EAGER) as compiler:
        for i in range(20):
            compiler.submit(text(i, 50))
        until(lambda: compiler._children)
        compiler.results(interrupt)
    assert not compiler._children


def test_killed_parent_takes_its_workers_along() -> None:
    script = textwrap.dedent("""
        import time
        from cnncc.codegen.worker import Compiler, Machine
        compiler = Compiler(Machine("x86_64-unknown-linux-gnu", "x86-64", ""), 2, 1e9)
        compiler.submit("; empty")
        while not compiler._done:
            time.sleep(0.01)
        print(*(child.process.pid for child in compiler._children), flush=True)
        time.sleep(60)
    """)
    root = Path(__file__).parents[1]
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=root)
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 1
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not any(_alive(pid) for pid in pids))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
