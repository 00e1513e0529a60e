"""The examples beside an embedded network: a C program, and for a shared library a script with ctypes."""

from __future__ import annotations

from collections.abc import Iterator

from cnncc.embedding.description import Argument, Description

SHOWN = 10                  # elements of an output that an example prints


def example_c(d: Description) -> str:
    """A program in C99 and C++17 that runs the network once, on inputs from 0 to 1, and prints."""
    return "\n".join(_lines(d)) + "\n"


def _lines(d: Description) -> Iterator[str]:
    m, rows = d.macro, d.arguments
    arrays = [a for a in rows if a.kind != "count"]
    option = " -pthread" if d.interface.threads == "pthread" else ""
    yield f"/* Runs {d.name} once. Build: cc -O2 example.c {d.name}.o -o example{option} */"
    yield "#include <stdio.h>"
    yield f'#include "{d.name}.h"'
    yield ""
    if d.batch:
        yield "#define BATCH 1"
    memory = [("memory", f"{m}_WORKSPACE_BYTES{'(BATCH)' if d.batch else ''}")]
    memory += [("content", f"{m}_WEIGHTS_BYTES")] * d.in_file
    for name, nbytes in memory:
        yield f"static unsigned char {name}[{nbytes} + {m}_ALIGNMENT];"
    yield ""
    yield "static void *aligned(unsigned char *p) {"
    yield f"    return p + ({m}_ALIGNMENT - (uintptr_t)p % {m}_ALIGNMENT) % {m}_ALIGNMENT;"
    yield "}"
    yield ""
    yield "int main(void) {"
    for a in arrays:            # C has no arrays of nothing
        size = f"{m}_{a.name.upper()}_SIZE{'(BATCH)' if a.open else ''}" if a.elements else "1"
        yield f"    static {a.ctype} {a.name}[{size}];"
    for a in rows:
        if a.kind == "count":
            yield f"    {a.ctype} {a.name};"
    yield "    size_t at;"
    yield "    int error;"
    if d.in_file:
        yield f'    FILE *file = fopen("{d.name}.weights", "rb");'
        yield f"    if (!file || fread(aligned(content), 1, {m}_WEIGHTS_BYTES, file) != {m}_WEIGHTS_BYTES) {{"
        yield f'        fprintf(stderr, "cannot read {d.name}.weights\\n");'
        yield "        return 1;"
        yield "    }"
        yield "    fclose(file);"
    for a in arrays:
        if a.kind == "input":
            count = f"sizeof {a.name} / sizeof *{a.name}"
            value = f"({a.ctype})at / ({a.ctype})({count})" if _real(a) else "0"
            yield f"    for (at = 0; at < {count}; at++)"
            yield f"        {a.name}[at] = {value};"
    passed = [*(["BATCH"] if d.batch else []), *(f"{'&' * (a.kind == 'count')}{a.name}" for a in rows),
              *(["aligned(content)"] if d.in_file else []), "aligned(memory)"]
    yield f"    error = {d.interface.runs[0]}({', '.join(passed)});"
    yield "    if (error) {"
    yield f'        fprintf(stderr, "{d.name}: %s\\n", {d.name}_strerror(error));'
    yield "        return 1;"
    yield "    }"
    for a in rows:
        yield from _printed(a)
    yield "    return 0;"
    yield "}"


def _real(a: Argument) -> bool:
    return a.value.dtype in ("float32", "float64")


def _printed(a: Argument) -> Iterator[str]:
    form, cast = ("%.6g", "(double)") if _real(a) else ("%lld", "(long long)")
    if a.kind == "count":
        yield f'    printf("{a.name}: {form}\\n", {cast}{a.name});'
    elif a.kind == "output":
        count = f"sizeof {a.name} / sizeof *{a.name}"
        yield f'    printf("{a.name}:");'
        yield f"    for (at = 0; at < {count} && at < {SHOWN}; at++)"
        yield f'        printf(" {form}", {cast}{a.name}[at]);'
        yield '    printf("\\n");'


def example_py(d: Description) -> str:
    """A script that does the same through the shared library, without cnncc."""
    rows = d.arguments
    types = {"float": "float", "double": "double"} | {
        f"{u}int{n}_t": f"{u}int{n}" for u in ("", "u") for n in (8, 16, 32, 64)}
    lines = [f'"""Runs {d.name} once, through its shared library, and prints what it gives: ctypes only."""',
             "import ctypes", "from pathlib import Path", "", "HERE = Path(__file__).resolve().parent",
             f'library = ctypes.CDLL(str(HERE / "lib{d.name}.so"))',
             f"library.{d.name}_strerror.restype = ctypes.c_char_p"]
    if d.batch:
        lines.append("BATCH = 1")
    for a in rows:
        size = f"{a.elements}{' * BATCH' if a.open else ''}"
        value = f"(*(i / ({size}) for i in range({size})))" if a.kind == "input" and _real(a) else "()"
        lines.append(f"{a.name} = (ctypes.c_{types[a.ctype]} * ({size})){value}")
    work = f"{d.interface.work}{' * BATCH' * d.batch} + {d.interface.scratch}"
    lines += ["", "", "def aligned(nbytes):", '    """Memory at a multiple of 64, and its address."""',
              "    memory = ctypes.create_string_buffer(nbytes + 64)",
              "    address = ctypes.addressof(memory)", "    return memory, address + -address % 64", "", "",
              f"memory, workspace = aligned({work})"]
    if d.in_file:
        lines += [f'data = (HERE / "{d.name}.weights").read_bytes()', "content, weights = aligned(len(data))",
                  "ctypes.memmove(weights, data, len(data))"]
    passed = [*(["ctypes.c_size_t(BATCH)"] if d.batch else []), *(a.name for a in rows),
              *(["ctypes.c_void_p(weights)"] if d.in_file else []), "ctypes.c_void_p(workspace)"]
    lines += [f"error = library.{d.interface.runs[0]}({', '.join(passed)})", "if error:",
              f"    raise SystemExit(library.{d.name}_strerror(error).decode())"]
    lines += [f'print("{a.name}:", *{a.name}[:{SHOWN}])' for a in rows if a.kind != "input"]
    return "\n".join(lines) + "\n"
