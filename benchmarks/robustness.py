"""Does time grow with the size of a network, no faster? Does any broken file do more than raise our error?"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from kernels import progress

import cnncc
from cnncc.codegen.worker import Compiler, Machine
from cnncc.compiler import Source, plan, read, stages
from cnncc.ir.target import target_for

BOUND = 1.25                # of the growth exponent: near-linear
NEGLIGIBLE = 0.5            # seconds: what takes less isn't held against the bound
SECONDS, MEGABYTES = 2.0, 300


# ---- networks


def chain(n: int) -> Source:
    """`n` nodes in a row: activations, biases."""
    from onnx import TensorProto, helper, numpy_helper
    ops = ("Relu", "Add", "Tanh", "Mul")
    nodes = [helper.make_node(op := ops[i % 4], [f"v{i}", *["c"] * (op in ("Add", "Mul"))], [f"v{i + 1}"])
             for i in range(n)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 4, 4]) for name in ("v0", f"v{n}"))
    c = numpy_helper.from_array(np.full((8, 1, 1), 0.5, np.float32), "c")
    graph = helper.make_graph(nodes, "chain", [x], [y], [c])
    return bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def branches(n: int) -> Source:
    """`n` branches of two nodes that read the same value, added up."""
    b = cnncc.Builder("branches")
    x = b.input("x", [1, 8, 4, 4])
    values = [b.exp(b.scale(x, factor=i / n)) for i in range(n)]
    while len(values) > 1:
        pairs = [values[i:i + 2] for i in range(0, len(values), 2)]
        values = [b.add(*pair) if len(pair) > 1 else pair[0] for pair in pairs]
    return b.graph(*values)


def equal(n: int) -> Source:
    """`n` convolutions of one shape in a row."""
    b = cnncc.Builder("equal")
    x = b.input("x", [1, 16, 8, 8])
    for _ in range(n):
        x = b.conv(x, out=16, k=3, act="relu")
    return b.graph(x)


def repeated(n: int) -> Source:
    """A definition file of `n` layers by repetition."""
    path = Path(tempfile.gettempdir(), f"cnncc-repeated-{n}.yaml")
    path.write_text("input: {x: [1, 4, 8, 8]}\nlayers:\n"
                    f"  - {{op: conv, out: 4, k: 3, act: relu, repeat: {n}}}\n")
    return path


def distinct(n: int) -> Source:
    """`n` convolutions of different shapes in a row, small and large windows by turns."""
    b = cnncc.Builder("distinct")
    x = b.input("x", [1, 8, 12, 12])
    for i in range(n):
        x = b.conv(x, out=8 + i % 50, k=1 + 2 * (i % 3), dilation=1 + i // 150)
    return b.graph(x)


NETWORKS: dict[str, tuple[Callable[[int], Source], tuple[int, ...]]] = {
    "chain": (chain, (2500, 5000, 10_000, 20_000)),
    "branches": (branches, (125, 250, 500, 1000)),
    "equal": (equal, (62, 125, 250, 500)),
    "repeated": (repeated, (1125, 2250, 4500, 9000)),
    "distinct": (distinct, (37, 75, 150, 300))}


@dataclass
class Growth:
    """CPU seconds by phase for each size, and the exponents of their growth to the largest from half."""

    network: str
    sizes: list[int] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    exponents: dict[str, float] = field(default_factory=dict)

    def add(self, size: int, times: dict[str, float]) -> None:
        self.sizes.append(size)
        for phase, t in times.items():
            self.seconds[phase].append(t)

    def finish(self) -> None:
        if len(self.sizes) > 1:
            ratio = math.log(self.sizes[-1] / self.sizes[-2])
            self.exponents = {phase: math.log(max(t[-1], 1e-6) / max(t[-2], 1e-6)) / ratio
                              for phase, t in self.seconds.items() if t[-1] >= NEGLIGIBLE}

    @property
    def ok(self) -> bool:
        return all(e < BOUND for e in self.exponents.values())


def spent() -> float:
    """CPU seconds of this process and of those that it waited for: whatever else the machine does."""
    return sum(os.times()[:4])


def phases(source: Source, jobs: int | None) -> dict[str, float]:
    """The CPU seconds of reading, of each pass, of planning, of writing LLVM text and of compiling that."""
    target, times, start = target_for("native"), dict[str, float](), spent()

    def lap(phase: str) -> None:
        nonlocal start
        times[phase] = spent() - start
        start = spent()
    graph = read(source)
    lap("read")
    for name, after in stages(graph, target):
        graph = after
        lap(name if name != "read" else "verify")
    code = plan(graph)
    lap("plan")
    texts = [text for _, text in code.texts(target)]
    lap("codegen")
    with Compiler(Machine(target.triple, target.cpu, target.features), jobs or 1) as compiler:
        for text in texts:
            compiler.submit(text)
        compiler.results(lambda done, total: None)
    lap("compile")
    return times | {"all": sum(times.values())}


def growth(name: str, largest: int, jobs: int | None) -> Growth:
    make, sizes = NETWORKS[name]
    result = Growth(name)
    phases(make(sizes[0] // 4), jobs)       # imports and caches
    for size in (s for s in sizes if s <= largest):
        progress(f"{name} {size}")
        result.add(size, phases(make(size), jobs))
    result.finish()
    progress("")
    return result


# ---- broken files


def small() -> bytes:
    """A file of few bytes and many kinds of nodes: a change is likely to hit one of them."""
    from onnx import TensorProto, helper, numpy_helper
    nodes = [helper.make_node(op, inputs, outputs, domain=domain, **attributes)
             for op, inputs, outputs, domain, attributes in (
        ("Conv", ["x", "w"], ["a"], "", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        ("MaxPool", ["a"], ["b"], "", {"kernel_shape": [2, 2], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", ["b"], ["c"], "", {"kernel_shape": [3, 3], "auto_pad": b"SAME_UPPER"}),
        ("Concat", ["b", "c"], ["d"], "", {"axis": 1}),
        ("Formula", ["d"], ["e"], "cnncc", {"formula": "y[n,c,{p}]+=x[n,c,{p+r-a|a}]*f", "R": 3, "a": 1,
                                            "f": 0.5}),
        ("Resize", ["e", "", "s"], ["f"], "", {"mode": b"linear"}),
        ("Transpose", ["f"], ["g"], "", {"perm": [0, 2, 3, 1]}),
        ("Slice", ["g", "one", "end"], ["h"], "", {}),
        ("Pad", ["h", "pads"], ["i"], "", {"mode": b"reflect"}),
        ("Reshape", ["i", "shape"], ["j"], "", {}),
        ("Gemm", ["j", "m"], ["k"], "", {"transB": 1, "alpha": 0.5}),
        ("Softmax", ["k"], ["y"], "", {"axis": -1}))]
    rng = np.random.default_rng(0)
    constants = {"w": rng.random((2, 1, 3, 3), np.float32), "s": np.array([1, 1, 2, 2], np.float32),
                 "one": np.array([0]), "end": np.array([1]), "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
                 "shape": np.array([1, -1]), "m": rng.random((2, 144), np.float32)}
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [1, 1, 8, 8]), ("y", [1, 2])))
    graph = helper.make_graph(nodes, "small", [x], [y],
                              [numpy_helper.from_array(v, k) for k, v in constants.items()])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("cnncc", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def broken(data: bytes, cases: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(what was done, the bytes): noise, cuts, flipped bits, bytes changed, removed, repeated and swapped."""
    rng = random.Random(seed)
    for i in range(cases):
        at, other = sorted(rng.sample(range(len(data) + 1), 2))
        kind = ("noise", "cut", "flip", "flips", "byte", "without", "twice", "splice")[i % 8]
        changed = bytearray(data)
        if kind in ("flip", "flips"):
            for _ in range(1 if kind == "flip" else 8):
                changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        elif kind == "byte":
            changed[min(at, len(data) - 1)] = rng.randrange(256)
        elif kind == "without":
            del changed[at:min(other, at + 64)]
        elif kind == "twice":
            changed[at:at] = data[at:min(other, at + 64)]
        elif kind == "splice":
            changed[at:at + 8] = rng.randbytes(8)
        new = {"noise": rng.randbytes(at % 400), "cut": data[:at]}.get(kind, bytes(changed))
        yield f"{kind} at {at}, seed {seed}, case {i}", new


def provoke(data: bytes) -> str:
    """What reading and then optimizing does: "fine", the class of our error, or what is wrong."""
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    try:
        graph = read(data)
        if sum(c.nbytes for c in graph.constants.values()) < 1 << 24:
            for _ in stages(graph, target_for("native")):
                pass
        result = "fine"
    except (cnncc.ModelError, cnncc.InputError) as error:
        result = type(error).__name__
    except BaseException as error:
        result = f"wrong: {type(error).__name__}: {error!s:.300}"
    seconds = time.perf_counter() - start
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    if seconds > SECONDS or grown > MEGABYTES:
        return f"wrong: {result} after {seconds:.1f} s, {grown} MB"
    return result


@dataclass
class Fuzzing:
    outcomes: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    wrong: list[str] = field(default_factory=list)


def fuzz(data: bytes, cases: int, seed: int) -> Fuzzing:
    result = Fuzzing()
    for i, (what, changed) in enumerate(broken(data, cases, seed)):
        if i % 100 == 0:
            progress(f"broken files: {i} of {cases}")
        outcome = provoke(changed)
        if outcome.startswith("wrong"):
            result.wrong.append(f"{what}: {outcome}")
        result.outcomes[outcome.split(":")[0]] += 1
    progress("")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", choices=[*NETWORKS, []], help="all where none are named")
    parser.add_argument("--largest", type=int, default=1 << 30, help="skip greater sizes")
    parser.add_argument("--jobs", type=int, help="compile processes (1)")
    parser.add_argument("--fuzz", type=int, metavar="CASES", help="broken copies of a model, no networks")
    parser.add_argument("--model", type=Path, help="an ONNX file (a small one of our own)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.fuzz:
        fuzzing = fuzz(args.model.read_bytes() if args.model else small(), args.fuzz, args.seed)
        print(json.dumps(asdict(fuzzing)) if args.json else "\n".join(
            [*(f"{count:7} {name}" for name, count in fuzzing.outcomes.items()), *fuzzing.wrong]))
        return len(fuzzing.wrong) > 0
    results = [growth(name, args.largest, args.jobs) for name in args.networks or NETWORKS]
    if args.json:
        print(json.dumps([asdict(r) | {"ok": r.ok} for r in results]))
    for r in results if not args.json else ():
        print(f"{r.network:24}{''.join(f'{s:>9,}' for s in r.sizes)}  exponent")
        for phase, times in r.seconds.items():
            exponent = f"{r.exponents[phase]:10.2f}" if phase in r.exponents else ""
            print(f"  {phase:22}{''.join(f'{t:9.2f}' for t in times)}{exponent}")
    return not all(r.ok for r in results)


if __name__ == "__main__":
    sys.exit(main())
