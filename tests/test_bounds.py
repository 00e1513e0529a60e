"""No kernel touches memory beside its operands, and each writes all of its result, padding included.

Every operand lies against a page that may not be accessed: first its end, then its beginning. A kernel that
crashes takes its process with it, which is another one than pytest's.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels import Memory, missing

TESTS = Path(__file__).absolute().parent
PARTS = 8


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    paths = [str(TESTS.parent), str(TESTS)]
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("level", ["x86-64-v4", "x86-64-v3", "x86-64-v2"])
def test_kernels_stay_within_their_memory(level: str, part: int) -> None:
    if absent := missing(level):
        pytest.skip(f"this CPU has no {absent}")
    done = run(str(TESTS / "guarded.py"), level, str(part), str(PARTS))
    *_, last = done.stdout.split("\n\n") if done.stdout else [""]
    assert done.returncode == 0, f"exit {done.returncode} in\n{last[-3000:]}\n{done.stderr[-3000:]}"
    assert done.stdout.endswith("done\n")


@pytest.mark.parametrize("flush", ["begin", "end"])
def test_the_guard_pages_work(flush: str) -> None:
    """One float beside an array ends the process; the array itself does not."""
    beside = -4 if flush == "begin" else 20
    for offset, code in ((0, 0), (16, 0), (beside, -11)):
        program = ("import ctypes, kernels\n"
                   f"a = kernels.Memory({flush!r}).array(5)\n"
                   f"print(ctypes.c_float.from_address(a.ctypes.data + {offset}).value)")
        assert run("-c", program).returncode == code


def test_memory_is_what_it_says() -> None:
    memory = Memory("end")
    a = memory.array(1000)
    a[:] = 3
    assert (a.ctypes.data + a.nbytes) % 4096 == 0
    assert ctypes.c_float.from_address(a.ctypes.data + 3996).value == 3
    memory.close()
