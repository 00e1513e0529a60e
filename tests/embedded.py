"""Embedded networks in tests: five small ones, a C program around any, and what it gave."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import cnncc
from cnncc.ir.target import LEVELS as FEATURES
from cnncc.ir.target import host_features
from cnncc.ir.types import dtype_called

LEVELS = ("x86-64-v4", "x86-64-v3", "x86-64-v2")
HERE = [v for v in LEVELS if {f[1:] for f in FEATURES[v][1].split(",")} <= host_features()]
WARNINGS = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
BATCH = 3


def text(body: str) -> bytes:
    """An ONNX model from its text."""
    head = '<ir_version: 8, opset_import: ["": 18]>\n'
    return bytes(onnx.parser.parse_model(head + body).SerializeToString())


def lenet() -> bytes:
    """Convolutions with fused pools, borders skipped, and two layers of a fixed batch."""
    b = cnncc.Builder("lenet")
    x = b.input("image", [1, 1, 20, 20])
    x = b.max_pool(b.conv(x, out=6, k=3, act="relu"), k=2)
    x = b.max_pool(b.conv(x, out=12, k=3, pad=0, act="relu"), k=2)
    return onnx_of(b.graph(b.linear(b.linear(x, out=30, act="relu"), out=10, id="scores")))


def onnx_of(graph: cnncc.Graph) -> bytes:
    from cnncc.frontend.onnx_out import to_onnx
    return bytes(to_onnx(graph).SerializeToString())


NETWORKS: Mapping[str, Callable[[], bytes]] = {
    "digits": (files("cnncc") / "data" / "digits.onnx").read_bytes,
    "lenet": lenet,
    "types": lambda: text("""several (float[N, 3, 9] x, uint8[N, 3, 9] "int", bool[3, 9] y1, bfloat16[N, 5] h)
        => (float[N, 3, 9] sum, uint8[N, 3, 9] more, bool[N, 3, 9] "a/b*/", bfloat16[N, 5] "X", int64[N] most)
        { c = Cast<to = 1>("int")  sum = Add(x, c)  three = Constant<value = uint8 {3}>()
          more = Add("int", three)  big = Greater(x, c)  "a/b*/" = And(big, y1)  f = Cast<to = 1>(h)
          g = Relu(f)  "X" = Cast<to = 16>(g)  most = ArgMax<axis = 1, keepdims = 0>(f) }"""),
    "gather": lambda: text("""places (float[6, 40] x, int64[4] i) => (float[4, 40] y)
        { y = Gather<axis = 0>(x, i) }"""),
    "count": lambda: text("""found (float[7, 5] x) => (int64[2, K] where, float[7, 5] twice)
        { where = NonZero(x)  twice = Add(x, x) }"""),
}


def inputs(model: Any, batch: int = BATCH) -> dict[str, np.ndarray]:
    """Numbers for the inputs of a compiled model."""
    rng = np.random.default_rng(0)
    made = {}
    for v in model.inputs:
        shape = [batch if isinstance(e, str) else e for e in v.shape]
        made[v.name] = (rng.integers(0, 2, shape) * rng.uniform(-2, 4, shape)).astype(dtype_called(v.dtype))
    return made


def expected(model: bytes, level: str, batch: int = BATCH) -> list[bytes]:
    """What the JIT gives for a level, array by array."""
    made = cnncc.compile(model, target=level, cache=False)
    return [np.ascontiguousarray(y).tobytes() for y in made.run(None, inputs(made, batch))]


@dataclass(frozen=True)
class Program:
    """A C program around an embedded network. Its arguments: the level to call or "", then threads."""

    path: Path
    record: Mapping[str, Any]

    def run(self, feeds: Mapping[str, np.ndarray], level: str = "", threads: int = 0) -> list[bytes]:
        """The outputs, cut to their counts. Raises CalledProcessError with the error code."""
        rows, batch = self.record, BATCH if self.record["batch"] else 1
        data = b"".join(feeds[a["name"]].tobytes() for a in rows["inputs"])
        done = subprocess.run([self.path, level.replace("-", "_"), str(threads)], input=data, check=True,
                              capture_output=True, cwd=self.path.parent)
        arrays, at = {}, 0
        for a in (*rows["outputs"], *rows["counts"]):
            shape = [batch if isinstance(e, str) else e for e in a["shape"]]
            dtype = dtype_called(a["dtype"])
            nbytes = int(np.prod(shape)) * dtype.itemsize
            arrays[a["argument"]] = np.frombuffer(done.stdout[at:at + nbytes], dtype).reshape(shape)
            at += nbytes
        assert at == len(done.stdout)
        for a in rows["counts"]:
            cut = (*[slice(None)] * a["axis"], slice(int(arrays.pop(a["argument"]))))
            arrays[a["of"]] = arrays[a["of"]][cut]
        return [np.ascontiguousarray(arrays[a["argument"]]).tobytes() for a in rows["outputs"]]


def source(record: Mapping[str, Any]) -> str:
    """The program: arrays of exactly their sizes, a workspace full of NaN amid bytes that must stay."""
    name, upper, batch = record["name"], record["name"].upper(), bool(record["batch"])
    threads, callback = record["threads"] != "none", record["threads"] == "callback"
    lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>", f'#include "{name}.h"',
             f"#define BATCH {BATCH}"]
    if callback:            # tasks in a row, the last first, each under another number
        lines += [f"static void pool({name}_task task, void *args, int64_t tasks, int64_t threads,",
                  "                 void *context) { int64_t i; *(int64_t *)context += 1;",
                  "  for (i = tasks; i-- > 0;) task(args, i, i + 1, i % threads); }"]
    lines += ["int main(int argc, char **argv) {",
              "  const char *level = argc > 1 ? argv[1] : \"\";",
              "  size_t threads = argc > 2 ? (size_t)atoi(argv[2]) : 0, nbytes, at;",
              "  int error = -1;", "  unsigned char *memory, *workspace;",
              "  (void)threads;"]
    arrays = [*record["inputs"], *record["outputs"], *record["counts"]]
    sizes = {}
    for a in arrays:
        count = f"{upper}_{a['argument'].upper()}_SIZE"
        if any(isinstance(e, str) for e in a["shape"]):
            count += "(BATCH)"
        sizes[a["argument"]] = count if a not in record["counts"] else "1"
        lines.append(f"  {a['type']} *{a['argument']} = ({a['type']} *)malloc(sizeof({a['type']}) * "
                     f"{sizes[a['argument']]});")
    own = record["weights"]["file"]
    if own:
        lines += [f'  FILE *file = fopen("{own}", "rb");', "  unsigned char *content, *weights;",
                  f"  content = (unsigned char *)malloc({upper}_WEIGHTS_BYTES + 64);",
                  "  weights = content + (64 - (uintptr_t)content % 64) % 64;",
                  f"  if (!file || fread(weights, 1, {upper}_WEIGHTS_BYTES, file) != {upper}_WEIGHTS_BYTES)"
                  " return 100;", "  fclose(file);"]
    for a in record["inputs"]:
        array, count = a["argument"], sizes[a["argument"]]
        lines.append(f"  if (fread({array}, sizeof *{array}, {count}, stdin) != {count}) return 101;")
    alone = f"{upper}_WORKSPACE_BYTES" + "(BATCH)" * batch
    lines.append(f"  nbytes = {alone};")
    if threads:
        lines += [f"  if (threads) nbytes = {upper}_PARALLEL_WORKSPACE_BYTES({'BATCH, ' * batch}threads);"]
    lines += ["  memory = (unsigned char *)malloc(nbytes + 192);", "  memset(memory, 0xff, nbytes + 192);",
              "  workspace = memory + 64 + (64 - (uintptr_t)memory % 64) % 64;"]
    given = ", ".join([*(["BATCH"] if batch else []), *(a["argument"] for a in arrays),
                       *(["weights"] if own else []), "workspace"])
    if callback:
        lines.append("  int64_t regions = 0;")
    more = ", threads, pool, &regions" if callback else ", threads"
    levels = [t["level"].replace("-", "_") for t in record["targets"]]
    for suffix in ["", *(levels if len(levels) > 1 else [])]:
        end = f"_{suffix}" if suffix else ""
        call = f"{name}_run{end}({given})"
        if threads:
            call = f"threads ? {name}_run_parallel{end}({given}{more}) : {call}"
        lines.append(f'  if (!strcmp(level, "{suffix}")) error = {call};')
    lines += ["  for (at = 0; at < 64; at++)",
              "    if (workspace[-1 - (int)at] != 0xff || workspace[nbytes + at] != 0xff) return 102;",
              f'  if (error) fprintf(stderr, "%s\\n", {name}_strerror(error));', "  if (!error) {"]
    for a in (*record["outputs"], *record["counts"]):
        lines.append(f"    fwrite({a['argument']}, sizeof *{a['argument']}, {sizes[a['argument']]}, stdout);")
    lines += ["  }", *(f"  free({p});" for p in (*sizes, "memory", *(["content"] if own else [])))]
    return "\n".join([*lines, "  return error;", "}", ""])


def compiler(name: str) -> str:
    """A compiler, or the test is skipped."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


def program(folder: Path, record: Mapping[str, Any], cc: str = "gcc", options: Sequence[str] = ("-std=c99",)
            ) -> Program:
    """The program around what was embedded into a folder, built with warnings as errors."""
    name = record["name"]
    path = folder / f"{name}-{cc}{''.join(options)}".replace("=", "-").replace(",", "-")
    code = folder / "program.c"
    code.write_text(source(record))
    language = ["-x", "c++"] if "++" in "".join(options) else []
    pthread = ["-pthread"] * (record["threads"] == "pthread")
    command = [compiler(cc), *options, *WARNINGS, "-O1", *language, code, "-x", "none", folder / f"{name}.o",
               "-o", path, *pthread, *(["-lstdc++"] if language else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Program(path, record)
