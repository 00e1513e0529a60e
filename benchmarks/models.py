"""Models side by side: one thread against other engines, cold compile, loading, kernels far from their roof.

That roof is the larger of its operations over the FMA peak and its bytes over what copying moves.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kernels import progress

import cnncc
from cnncc.bench.peak import roof
from cnncc.bench.run import bench
from cnncc.feeds import random_feeds
from cnncc.runtime.profiler import table

FAR = 0.3               # of its roof: below it a kernel counts as far from it
Shapes = Mapping[str, Sequence[int]]


@dataclass
class Row:
    """Times in seconds, None where there is none; `far`: the part of the kernels' `seconds` far from roof."""

    model: str
    times: dict[str, float | None] = field(default_factory=dict)
    ratio: float | None = None
    error: float | None = None
    compile: float | None = None
    load: float | None = None
    seconds: float = 0.0
    far: float | None = None
    kernels: list[tuple[float, float, str]] = field(default_factory=list)
    note: str = ""


def measured(path: str, shapes: Shapes, begin: float) -> dict[str, Any]:
    """What a fresh process takes to compile a model, to load it again, and how far its kernels are."""
    model = cnncc.compile(path, cache=False, shapes=shapes or None, threads=1)
    found: dict[str, Any] = {"compile": time.time() - begin}
    feeds = random_feeds(model.inputs, 1)
    if not isinstance(model, cnncc.CompiledModel):
        model = model.variant(**feeds)
    with TemporaryDirectory() as folder:
        model.save(f"{folder}/m.cnncc")
        begin = time.perf_counter()
        cnncc.load(f"{folder}/m.cnncc")
        found["load"] = time.perf_counter() - begin
    best = roof()
    steps = model.profile(**feeds) if all(v.isidentifier() for v in feeds) else model.profile(*feeds.values())
    found["seconds"] = sum(s.seconds for s in steps)
    parts = ((s.share, best.limit(s)[1], s.ops) for s in steps)
    slow = sorted((part for part in parts if part[1] < FAR), reverse=True)
    found["far"], found["kernels"] = sum(share for share, _, _ in slow), slow[:3]
    return found


def row(path: Path, against: Sequence[str], shapes: Shapes, seconds: float) -> Row:
    """A model measured; what fails is a note."""
    result = Row(path.stem)
    command = [sys.executable, __file__, "--one", str(path), "--shapes", json.dumps({path.stem: shapes}),
               "--begin", str(time.time())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        result.note = done.stderr.strip().splitlines()[-1][:100]
        return result
    vars(result).update(json.loads(done.stdout))
    if not against:
        return result
    try:
        found = bench(str(path), against, [1], 1, seconds, lambda what, part: progress(f"{path.stem} {what}"),
                      shapes or None)
    except cnncc.CnnccError as error:
        result.note = str(error).splitlines()[0][:100]
        return result
    result.times = {r.engine: r.minimum for r in found.results}
    result.error = found.results[0].error
    others = [r.minimum for r in found.results[1:] if r.minimum]
    if others and found.results[0].minimum:
        result.ratio = min(others) / found.results[0].minimum
    result.note = "; ".join(f"{r.engine}: {r.note}" for r in found.results if r.note)[:100]
    return result


def shown(rows: Sequence[Row], engines: Sequence[str]) -> str:
    def cell(x: float | None, form: str) -> str:
        return "" if x is None else format(x, form)
    lines = [[r.model, *(cell(t and t * 1e3, ".3f") for t in map(r.times.get, engines)),
              cell(r.ratio, ".2f"), cell(r.error, ".0e"), cell(r.compile, ".1f"),
              cell(r.load and r.load * 1e3, ".1f"), cell(r.far, ".0%"), r.note] for r in rows]
    head = ["model", *(f"{e} ms" for e in engines), "ratio", "error", "compile s", "load ms", "far", ""]
    return table(head, lines, ("model", ""))


def models(paths: Sequence[str]) -> Iterator[Path]:
    for p in map(Path, paths):
        yield from sorted(p.glob("*.onnx")) if p.is_dir() else [p]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", metavar="MODEL.onnx", help="files, or folders of them")
    parser.add_argument("--against", default="onnxruntime,openvino", help="'': only compile, loading, roofs")
    parser.add_argument("--shapes", default="{}", help="JSON: {model: {input: [1, 3, 224, 224]}}, or @FILE")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each engine (%(default)g)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--begin", type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    text = Path(args.shapes[1:]).read_text() if args.shapes.startswith("@") else args.shapes
    shapes: dict[str, Shapes] = json.loads(text)
    if args.one:
        print(json.dumps(measured(args.one, shapes.get(Path(args.one).stem, {}), args.begin)))
        sys.stdout.flush()
        os._exit(0)
    engines = ["cnncc", *args.against.split(",")] if args.against else []
    rows = [row(p, engines[1:], shapes.get(p.stem, {}), args.seconds) for p in models(args.models)]
    progress("")
    ratios = [r.ratio for r in rows if r.ratio]
    mean = math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None
    seconds = sum(r.seconds for r in rows)
    far = sum(r.seconds * (r.far or 0) for r in rows) / (seconds or 1)
    if args.json:
        print(json.dumps({"rows": [asdict(r) for r in rows], "mean": mean, "far": far}, indent=1))
        return
    print(shown(rows, engines))
    print("least times of one call; ratio: the better engine's time over ours"
          + (f", geometric mean {mean:.2f}" if mean else "")
          + f"; far: the part of the time in kernels below {FAR:.0%} of their roof, of all time {far:.1%}")
    for r in rows:
        if (r.far or 0) > 0.1:
            print(f"{r.model}: " + "; ".join(f"{ops} {share:.0%} of the time at {part:.0%} of roof"
                                             for share, part, ops in r.kernels))


if __name__ == "__main__":
    main()
