"""Embedded networks: a table of their sizes, of their speed beside the JIT's, and whether files are equal.

Both are called from C, in one process, by turns, on one thread: the ratio is of the least CPU times. The
files are made in three processes with different hash seeds and folders. Needs a C compiler.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import cnncc
from cnncc.feeds import random_feeds

ROUNDS, SECONDS, AT_ONCE = 15, 0.2, 1e-4    # turns; their seconds; seconds between looks at the clock
CODE = """
#define _POSIX_C_SOURCE 200809L
#include <stdlib.h>
#include <time.h>
#include "net.h"
long call(void **a) { return net_run(%s); }
void *workspace(size_t n) { return aligned_alloc(64, (n + 63) / 64 * 64); }
double least(long (*f)(void *), void *argument, int times, int calls) {
    double best = 1e9;
    while (times-- > 0) {
        struct timespec a, b;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
        for (int i = 0; i < calls; i++) if (f(argument)) return -1;
        clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
        double t = (double)(b.tv_sec - a.tv_sec) + 1e-9 * (double)(b.tv_nsec - a.tv_nsec);
        if (t / calls < best) best = t / calls;
    }
    return best;
}
"""


def speed(model: str, folder: Path, record: dict[str, Any]) -> tuple[float, float, bool]:
    """(seconds of the JIT, of the embedded network, whether their results are equal), at a batch of one."""
    jit = cnncc.compile(model, threads=1)
    feeds = random_feeds(jit.inputs, 1)
    space = jit._take()
    arrays = jit._prepare(space, [feeds[v.name] for v in jit.inputs], {}, None, 1)
    outputs = [np.empty_like(y) for y in arrays[len(jit.inputs):]]
    batch = [1] * bool(record["batch"])
    listed = [*(["(size_t)a[0]"] * len(batch)),
              *(f"a[{i}]" for i in range(len(batch), len(batch) + len(arrays) + 1))]
    (folder / "bench.c").write_text(CODE % ", ".join(listed))
    subprocess.run([os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "bench.c", "net.o", "-o",
                    "bench.so"], cwd=folder, check=True)
    library = ctypes.CDLL(str(folder / "bench.so"))
    library.least.restype, library.workspace.restype = ctypes.c_double, ctypes.c_void_p
    nbytes = record["workspace"]["activations"] + record["workspace"]["scratch"]
    given = [*batch, *(x.ctypes.data for x in (*arrays[:len(jit.inputs)], *outputs)),
             library.workspace(ctypes.c_size_t(nbytes))]
    argument = (ctypes.c_void_p * len(given))(*given)
    ways = ((ctypes.c_void_p(jit._code.entry), ctypes.c_void_p(space.address)), (library.call, argument))
    once = max(library.least(*way, 3, 1) for way in ways)
    calls = max(1, int(AT_ONCE / once))
    times = max(1, int(SECONDS / (once * calls)))
    best = [min(t) for t in zip(*([library.least(*way, times, calls) for way in ways]
                                  for _ in range(ROUNDS)), strict=True)]
    same = all(a.tobytes() == b.tobytes() for a, b in zip(arrays[len(jit.inputs):], outputs, strict=True))
    return best[0], best[1], same


def reproducible(model: str) -> bool:
    """Whether three processes write the same bytes."""
    found = []
    for seed in range(3):
        with TemporaryDirectory() as folder:
            script = "import cnncc, sys; cnncc.embed(sys.argv[1], sys.argv[2], name='net')"
            subprocess.run([sys.executable, "-c", script, os.path.abspath(model), f"{folder}/out"],
                           check=True, cwd=folder, env={**os.environ, "PYTHONHASHSEED": str(seed),
                                                        "PYTHONPATH": str(Path(cnncc.__file__).parents[1])})
            files = sorted(Path(folder, "out").iterdir())
            found.append([(f.name, sha256(f.read_bytes()).hexdigest()) for f in files])
    return found[0] == found[1] == found[2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--fast", action="store_true", help="sizes only")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for model in options.models:
        row: dict[str, Any] = {"model": Path(model).stem}
        with TemporaryDirectory() as folder:
            for how in ("size", "speed"):
                r = cnncc.embed(model, folder, name="net", optimize=how).record
                row |= {f"code {how}": r["code"], f"workspace {how}": r["workspace"]["activations"]}
            row |= {"weights": r["weights"]["bytes"], "scratch": r["workspace"]["scratch"],
                    "stack": r["stack"]}
            if not options.fast:
                row["jit"], row["c"], row["equal"] = speed(model, Path(folder), r)
                row["reproducible"] = reproducible(model)
        rows.append(row)
        print(row["model"], file=sys.stderr)
    if options.json:
        print(json.dumps(rows, indent=1))
        return
    titles = ["network", *(f"{t}, KB" for t in ("code", "for size", "weights", "workspace", "scratch",
                                                "stack"))]
    timed = ["JIT, ms", "C, ms", "ratio", "equal bits", "reproducible"] * (not options.fast)
    print(f"| {' | '.join([*titles, *timed])} |\n|{'---|' * len([*titles, *timed])}")
    for r in rows:
        sizes = [r[k] / 1e3 for k in ("code speed", "code size", "weights", "workspace speed", "scratch",
                                      "stack")]
        cells = [r["model"], *(f"{n:,.1f}" for n in sizes)]
        if timed:
            cells += [f"{r['jit'] * 1e3:.3f}", f"{r['c'] * 1e3:.3f}", f"{r['c'] / r['jit']:.3f}",
                      *("yes" if r[k] else "NO" for k in ("equal", "reproducible"))]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
