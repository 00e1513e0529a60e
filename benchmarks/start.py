"""Starting and idling: cold compile, a start from the cache, memory beside ONNX Runtime's, the CPU of pauses.

Every number comes from fresh processes. Memory is what stays resident after calls beyond that after imports.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kernels import progress

from cnncc.runtime.profiler import table

CALLS, RATE, PAUSE = 20, 30, 1e-3
"""Calls back to back, calls a second with pauses, seconds after a call from which the pool must be idle."""


@dataclass
class Row:
    """Seconds and bytes; `idle` is the part of a core that is used from `PAUSE` after a call on.

    `paced` is the CPU time of calls with pauses over that of calls back to back.
    """

    model: str
    compile: float
    cpu: float
    start: float
    memory: int
    peer: int | None
    idle: float
    paced: float


def resident() -> int:
    """Bytes of this process in memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def cold(path: str, threads: int) -> dict[str, Any]:
    import cnncc
    cnncc.compile(path, threads=threads)
    return {"cpu": cpu()}


def warm(path: str, threads: int) -> dict[str, Any]:
    """A start from the cache, and what calls and pauses cost."""
    import llvmlite.binding  # noqa: F401

    import cnncc
    import cnncc.runtime.specialise
    from cnncc.feeds import random_feeds
    before = resident()
    model = cnncc.compile(path, threads=threads)
    feeds = random_feeds(model.inputs)
    model.run(None, feeds)
    first = time.time()
    for _ in range(CALLS):
        model.run(None, feeds)
    return {"first": first, "memory": resident() - before, **paused(lambda: model.run(None, feeds))}


def paused(call: Callable[[], Any]) -> dict[str, float]:
    begin = time.process_time()
    for _ in range(CALLS):
        call()
    busy = time.process_time() - begin
    time.sleep(PAUSE)
    begin, wall = time.process_time(), time.perf_counter()
    time.sleep(0.2)
    idle = (time.process_time() - begin) / (time.perf_counter() - wall)
    return {"idle": idle, "paced": (_spaced(call) - _spaced(lambda: None)) / busy}


def _spaced(call: Callable[[], Any]) -> float:
    """The CPU seconds of calls with pauses between."""
    begin, due = time.process_time(), time.perf_counter()
    for _ in range(CALLS):
        call()
        due += 1 / RATE
        time.sleep(max(0.0, due - time.perf_counter()))
    return time.process_time() - begin


def peer(path: str, threads: int) -> dict[str, Any]:
    """ONNX Runtime's memory; its call is fed what ours is."""
    import onnxruntime

    from cnncc.bench.engines import onnxruntime as prepare
    from cnncc.compiler import reference
    from cnncc.feeds import random_feeds
    feeds = random_feeds(reference(path).inputs)
    assert onnxruntime.get_available_providers()
    before = resident()
    call = prepare(path, threads, feeds)
    for _ in range(CALLS):
        call(feeds)
    return {"memory": resident() - before}


PARTS = {"cold": cold, "warm": warm, "peer": peer}


def fresh(part: str, path: str, threads: int, cache: str) -> dict[str, Any]:
    """What a part says in a process of its own; "seconds" until it ended, "first" since it began."""
    command = [sys.executable, __file__, path, "--threads", str(threads), "--part", part]
    begin = time.time()
    done = subprocess.run(command, check=False, capture_output=True, text=True,
                          env={**os.environ, "CNNCC_CACHE_DIR": cache})
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["it died"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "seconds": time.time() - begin, "first": found.get("first", begin) - begin}


def measured(path: str, threads: int) -> Row:
    with TemporaryDirectory() as cache:
        first, then, other = (fresh(part, path, threads, cache) for part in PARTS)
    for found in (first, then):
        if "failed" in found:
            raise SystemExit(f"{path}: {found['failed']}")
    return Row(Path(path).stem, first["seconds"], first["cpu"], then["first"], then["memory"],
               other.get("memory"), then["idle"], then["paced"])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.part:
        print(json.dumps(PARTS[args.part](args.models[0], args.threads)))
        return
    rows = []
    for path in args.models:
        progress(path)
        rows.append(measured(path, args.threads))
    progress("")
    if args.json:
        print(json.dumps([asdict(r) for r in rows], indent=1))
        return
    head = ["model", "compile s", "its CPU s", "start s", "memory MB", "ONNX Runtime MB", "idle", "paced"]
    lines = [[r.model, f"{r.compile:.2f}", f"{r.cpu:.2f}", f"{r.start:.2f}", f"{r.memory / 1e6:.1f}",
              "" if r.peer is None else f"{r.peer / 1e6:.1f}", f"{r.idle:.1%}", f"{r.paced:.2f}"]
             for r in rows]
    print(table(head, lines, ("model",)))
    print("compile: a fresh process without a cache; start: one with it, to the first result; memory: after "
          f"{CALLS} calls,\nwithout imports; idle: CPU from {PAUSE * 1e3:.0f} ms after a call on; paced: CPU "
          f"of {RATE} calls a second over that of\ncalls back to back")


if __name__ == "__main__":
    main()
