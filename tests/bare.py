"""A static program in an x86-64 CPU of software (Bochs) that has AVX-512, without an operating system.

    python bare.py PROGRAM XCR0 ENTRY ADDRESS BYTES

The CPU is in 64-bit mode, with the registers that XCR0 names. The program runs from ENTRY until it halts;
what is at ADDRESS then goes to stdout. An exception, or memory that the program doesn't have, is an error. A
process for each run, as the package (bochscpu-python on PyPI; it needs glibc 2.38) has one CPU only.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bochscpu
import bochscpu.cpu
from bochscpu import memory

PAGE, TABLES, TOP, STACK = 4096, 1 << 31, 0x7FFF0000, 1 << 16   # bytes; where page tables are, the stack ends
CR0, CR4 = 1 << 2 | 1 << 16, 1 << 9 | 1 << 10 | 1 << 18     # off: EM, WP; on: OSFXSR, OSXMMEXCPT, OSXSAVE
CODE, DATA = 0xA09B, 0xC093                                 # attributes of segments


def segments(elf: bytes) -> Iterator[tuple[int, bytes]]:
    """(address, content) of what a program has in memory."""
    at, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<H", elf, 56)
    for i in range(count):
        kind, _, offset, address, _, held, taken, _ = struct.unpack_from("<IIQQQQQQ", elf, at + 56 * i)
        if kind == 1:
            yield address, elf[offset:offset + held].ljust(taken, b"\0")


def pages(parts: Iterator[tuple[int, bytes]]) -> dict[int, bytearray]:
    found = {at: bytearray(PAGE) for at in range(TOP - STACK, TOP, PAGE)}
    for address, data in parts:
        first = address % PAGE
        whole = bytes(first) + data
        for i in range(0, len(whole), PAGE):
            skip, piece = first if i == 0 else 0, whole[i:i + PAGE]
            found.setdefault(address - first + i, bytearray(PAGE))[skip:len(piece)] = piece[skip:]
    return found


def segment(attributes: int) -> Any:
    made = bochscpu.Segment()
    made.present, made.limit, made.attr = True, 0xFFFFFFFF, attributes
    return made


def run(elf: bytes, xcr0: int, entry: int) -> dict[int, int]:
    """Run until it halts; where the pages are in this process."""
    tree, held = memory.PageMapLevel4Table(), {}
    for i, (address, content) in enumerate(sorted(pages(segments(elf)).items())):
        held[address] = memory.allocate_host_page()
        ctypes.memmove(held[address], bytes(content), PAGE)
        memory.page_insert(PAGE * (i + 1), held[address])
        tree.insert(address, PAGE * (i + 1), 7)
    for place, physical in tree.commit(TABLES):
        memory.page_insert(physical, place)
    state, session, hook, wrong = bochscpu.State(), bochscpu.Session(), bochscpu.Hook(), []

    def exception(session: Any, cpu: int, vector: int, error: int) -> None:
        wrong.append(f"exception {vector} at {session.cpu.rip:#x}")
        session.stop()

    def missing(address: int) -> None:
        wrong.append(f"no memory at {address:#x}")
        session.stop()

    bochscpu.cpu.set_long_mode(state)
    state.cr0, state.cr4, state.cr3, state.xcr0 = state.cr0 & ~CR0 | 2, state.cr4 | CR4, TABLES, xcr0
    state.cs, state.ds, state.es, state.ss = map(segment, (CODE, DATA, DATA, DATA))
    state.rip, state.rsp, state.rflags, state.mxcsr, state.mxcsr_mask = entry, TOP - 8, 2, 0x1F80, 0xFFFF
    session.cpu.state, session.missing_page_handler = state, missing
    hook.hlt, hook.exception = lambda session, cpu: session.stop(), exception
    session.run([hook])
    if wrong:
        raise SystemExit("; ".join(wrong))
    return held


if __name__ == "__main__":
    program, *numbers = sys.argv[1:]
    xcr0, entry, address, nbytes = (int(n, 0) for n in numbers)
    held = run(Path(program).read_bytes(), xcr0, entry)
    around = range(address // PAGE * PAGE, address + nbytes, PAGE)
    content = b"".join(ctypes.string_at(held[at], PAGE) for at in around)
    sys.stdout.buffer.write(content[address % PAGE:][:nbytes])
    sys.stdout.flush()
    os._exit(0)                 # the package complains at the end of its own leaks
