"""Embedded networks in a CPU of software that has AVX-512, without an operating system."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import embedded
import numpy as np
import pytest
from embedded import BATCH, LEVELS, NETWORKS, compiler

import cnncc
from cnncc.ir.types import dtype_called

BARE = Path(__file__).with_name("bare.py")
SSE, AVX, AVX512 = 0x3, 0x7, 0xE7           # XCR0: the registers that an operating system saves
OPTIONS = ["-O1", "-ffreestanding", "-nostdlib", "-static", "-no-pie", "-fno-pic", "-fno-stack-protector",
           "-fcf-protection=none", "-Wl,-e,start", "-Wl,--build-id=none"]
FUNCTIONS = """#include <stddef.h>
void *memcpy(void *to, const void *from, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = ((const char *)from)[i];
    return to;
}
void *memset(void *to, int value, size_t n) {
    for (size_t i = 0; i < n; i++) ((volatile char *)to)[i] = (char)value;
    return to;
}
"""


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    if subprocess.run([sys.executable, "-c", "import bochscpu"], capture_output=True, check=False).returncode:
        pytest.skip("there is no bochscpu here")


def emulated(folder: Path, record: Mapping[str, Any], feeds: Mapping[str, np.ndarray], level: str = "",
             xcr0: int = AVX512) -> tuple[int, list[bytes]]:
    """(error code, outputs) of the network `net` in a folder, run on an emulated CPU."""
    batch, at, given, lines = BATCH if record["batch"] else 1, 64, [], [FUNCTIONS, '#include "net.h"']
    for i, a in enumerate(record["inputs"]):
        content = ", ".join(map(str, feeds[a["name"]].tobytes()))
        lines.append(f"static _Alignas(64) const unsigned char x{i}[] = {{{content}}};")
        given.append(f"(const void *)x{i}")
    places = []
    for a in (*record["outputs"], *record["counts"]):
        shape = [batch if isinstance(e, str) else e for e in a["shape"]]
        places.append(slice(at, at + int(np.prod(shape)) * dtype_called(a["dtype"]).itemsize))
        given.append(f"(void *)(out + {at})")
        at = -(-places[-1].stop // 64) * 64
    work = record["workspace"]["activations"] * batch + record["workspace"]["scratch"]
    arguments = ", ".join([*[str(batch)] * bool(record["batch"]), *given, "workspace"])
    function = "_".join(["net_run", *[level.replace("-", "_")] * bool(level)])
    lines += [f"_Alignas(64) unsigned char out[{at}], workspace[{work}];",
              f'void start(void) {{ *(int *)out = {function}({arguments}); __asm__("hlt"); }}']
    (folder / "bare.c").write_text("\n".join(lines))
    subprocess.run([compiler("gcc"), *OPTIONS, "bare.c", "net.o", "-o", "bare"], cwd=folder, check=True)
    listed = subprocess.check_output([compiler("nm"), folder / "bare"], text=True).splitlines()
    address = {name: f"0x{place}" for place, _, name in map(str.split, listed)}
    command = [sys.executable, BARE, folder / "bare", str(xcr0), address["start"], address["out"], str(at)]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return int.from_bytes(done.stdout[:4], "little"), [done.stdout[place] for place in places]


def feeds(name: str) -> dict[str, np.ndarray]:
    return embedded.inputs(cnncc.compile(NETWORKS[name](), target="x86-64-v2"))


@pytest.mark.parametrize("name", ["digits", "lenet", "types", "gather"])
def test_levels(name: str, tmp_path: Path) -> None:
    """The bits of the JIT, of levels that this CPU has; near these where it lacks them."""
    record = cnncc.embed(NETWORKS[name](), tmp_path, name="net", target="+".join(LEVELS)).record
    for level in LEVELS:
        code, outputs = emulated(tmp_path, record, feeds(name), level)
        assert code == 0
        if level in embedded.HERE:
            assert outputs == embedded.expected(NETWORKS[name](), level)
            continue
        near = embedded.expected(NETWORKS[name](), "x86-64-v2")
        for a, got, expected in zip(record["outputs"], outputs, near, strict=True):
            dtype = dtype_called(a["dtype"])
            np.testing.assert_allclose(np.frombuffer(got, dtype).astype(float),
                                       np.frombuffer(expected, dtype).astype(float), rtol=1e-5, atol=1e-5)


def test_dispatch(tmp_path: Path) -> None:
    """The best level whose registers the operating system saves; others are an error."""
    record = cnncc.embed(NETWORKS["digits"](), tmp_path, name="net", target="+".join(LEVELS)).record
    arrays = feeds("digits")
    alone = [emulated(tmp_path, record, arrays, level) for level in LEVELS]
    assert [code for code, _ in alone] == [0, 0, 0] and len({outputs[0] for _, outputs in alone}) == 3
    for i, xcr0 in enumerate((AVX512, AVX, SSE)):
        assert emulated(tmp_path, record, arrays, xcr0=xcr0) == alone[i]
        for level in LEVELS[:i]:
            assert emulated(tmp_path, record, arrays, level, xcr0)[0] == record["errors"]["NET_ERROR_CPU"]
