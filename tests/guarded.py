"""Run as a program: every kernel of a part of the samples, its memory between pages that may not be touched.

It prints what runs next: after a crash the last paragraph names the kernel. Arguments: target, part, parts.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np
from kernels import arguments, base_of, expected_memory, run_memory, tables_of
from samples import SAMPLES

from cnncc.compiler import optimize
from cnncc.ir.target import target_for


def backwards(count: int) -> Sequence[tuple[int, int]]:
    """The tasks in two calls, the later ones first, and one by one where they are few."""
    if count <= 40:
        return [(i, i + 1) for i in reversed(range(count))]
    return [(count // 3, count), (0, count // 3)]


def main(level: str, part: int, parts: int) -> None:
    target = target_for(level)
    for name, build in list(SAMPLES.items())[part::parts]:
        graph = optimize(build(), target)
        clauses = graph.clauses()
        for n in graph:
            if n.kernel is None:
                continue
            batch = 3 if any(t.type.symbols for t in n.kernel.operands) else 1
            arrays = arguments(n.kernel, batch, tables=tables_of(graph, n))
            base = base_of(n.kernel, batch) if n.name in clauses else None
            expected = expected_memory(n.kernel, arrays, batch, base)
            for flush in ("end", "begin"):
                print(f"\n{name}: {n.name}, memory flush at the {flush}\n{n.kernel}", flush=True)
                for tasks, thread in ((None, 0), (backwards, 2)):
                    got = run_memory(n.kernel, arrays, target, batch, flush, tasks, thread, base)
                    np.testing.assert_array_equal(got, expected)
    print("done")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
