"""The header of an embedded network: C99 and C++17."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator

from cnncc.codegen.interface import ABI, ALIGNMENT
from cnncc.embedding.description import Argument, Description

WIDTH = 96                  # of lines


def comment(text: str) -> str:
    """A comment of one line or several, which nothing in the text can end or confuse."""
    safe = re.sub(r"\\|\?\?|[^\x20-\x7e\n]", "?", text).replace("*/", "* /").replace("/*", "/ *")
    lines = [line for part in safe.split("\n") for line in textwrap.wrap(part, WIDTH) or [""]]
    return "/* " + "\n".join([lines[0], *(f" * {line}".rstrip() for line in lines[1:])]) + " */"


def header(d: Description) -> str:
    """The text of the header."""
    guard = f"{d.macro}_H"
    levels = " or ".join(v.target.level for v in d.interface.variants)
    return "\n".join([
        comment(f"{d.name}: the network {d.interface.plan.name!r}, compiled by cnncc {d.origin['cnncc']} for "
                f"{levels}. Generated: don't edit.\n\n{_how(d)}"),
        f"#ifndef {guard}", f"#define {guard}", "", "#include <stddef.h>", "#include <stdint.h>", "",
        "#ifdef __cplusplus", 'extern "C" {', "#endif", "", *_constants(d), *_errors(d), *_functions(d),
        "#ifdef __cplusplus", "}", "#endif", "", f"#endif /* {guard} */", ""])


def _how(d: Description) -> str:
    state = "a pool of threads, which live as long as the process" if d.interface.threads == "pthread" \
        else "one word in which the answer of the CPU is kept"
    return (f"Nothing is allocated, printed or opened. The only state is {state}: any number of threads may "
            "call these functions at a time, each with a workspace of its own. Arrays are row-major and "
            "contiguous; inputs are not written; inputs, outputs and the workspace must not overlap.")


def _constants(d: Description) -> Iterator[str]:
    m = d.macro
    yield comment("The version of this interface: its names, arguments and what they mean.")
    yield f"#define {m}_ABI_VERSION {ABI}"
    yield ""
    yield from _macro(f"{m}_WORKSPACE_BYTES", d.batch, _bytes(d, "1"),
                      "Bytes of the workspace of a call. They need no initial value, and keep none.")
    if d.interface.threads != "none":
        names = ["batch"] * d.batch + ["threads"]
        yield comment("The same for a call of the parallel function with so many threads.")
        yield f"#define {m}_PARALLEL_WORKSPACE_BYTES({', '.join(names)}) {_bytes(d, 'threads')}"
    yield comment("What the address of the workspace" + " and of the weights" * d.in_file
                  + " must be a multiple of.")
    yield f"#define {m}_ALIGNMENT {ALIGNMENT}"
    yield comment("The most that a call takes of the stack.")
    yield f"#define {m}_STACK_BYTES {d.made.stack}"
    if d.in_file:
        yield comment(f"Bytes of the file {d.name}.weights: read or map it; one copy serves all threads.")
        yield f"#define {m}_WEIGHTS_BYTES {d.weights}"
    yield ""
    for a in d.arguments:
        if a.kind != "count":
            yield from _sizes(d, a)


def _bytes(d: Description, threads: str) -> str:
    work, scratch = d.interface.work, d.interface.scratch
    if threads == "1" and not d.batch:
        return str(work + scratch)
    return (f"({'(size_t)(batch) * ' * d.batch}{work} + "
            f"{f'(size_t)({threads}) * ' * (threads != '1')}{scratch})")


def _macro(name: str, batch: bool, value: str, about: str) -> Iterator[str]:
    yield comment(about)
    yield f"#define {name}{'(batch)' if batch else ''} {value}"


def _sizes(d: Description, a: Argument) -> Iterator[str]:
    name = f"{d.macro}_{a.name.upper()}"
    shape = ["(batch)" if isinstance(e, str) else str(e) for e in a.value.shape]
    size = f"((size_t)(batch) * {a.elements})" if a.open else str(a.elements)
    yield from _macro(f"{name}_SIZE", a.open, size, f"{a.kind} {a.name}, {_type(a)}: its number of elements"
                      + ", number of sizes, and the sizes." * bool(shape) + "." * (not shape))
    yield f"#define {name}_RANK {len(shape)}"
    if shape:
        yield f"#define {name}_SHAPE{'(batch)' if a.open else ''} {{{', '.join(shape)}}}"
    yield ""


def _type(a: Argument) -> str:
    return f"{a.value.dtype}[{', '.join(map(str, a.value.shape))}]"


def _errors(d: Description) -> Iterator[str]:
    yield comment("What the functions return.")
    yield "enum {"
    rows = list(d.errors)
    for i, (code, name, text) in enumerate(rows):
        yield f"    {name} = {code}{',' if i + 1 < len(rows) else ''} {comment(text)}"
    yield "};"
    yield ""


def about(d: Description) -> Iterator[tuple[str, str]]:
    """(parameter, what it is) of the run functions."""
    if d.batch:
        yield "batch", f"how many, at least 1: the {d.interface.plan.symbol} of the sizes below"
    for a in d.arguments:
        called = f" ({a.value.name!r} of the model)" if a.value.name != a.name else ""
        note = {"bool": "; each 0 or 1", "float16": "; the bits of IEEE's halves",
                "bfloat16": "; the upper halves of floats"}.get(a.value.dtype, "")
        yield a.name, f"{a.kind}, {_type(a)}{called}{note}" if a.kind != "count" else \
            f"output: how much of axis {a.axis} of {a.of} there is"
    if d.in_file:
        yield "weights", f"the content of {d.name}.weights, aligned"
    yield "workspace", f"{d.macro}_WORKSPACE_BYTES bytes, aligned"


def _functions(d: Description) -> Iterator[str]:
    yield comment("What the object calls these functions: it doesn't link with the header of another, whose "
                  "arguments or sizes differ.")
    yield from (f"#define {function} {name}" for function, name in d.interface.linked.items())
    yield ""
    rows = list(about(d))
    width = max(len(name) for name, _ in rows)
    parameters = [f"{name:{width}}  {text}" for name, text in rows]
    yield comment("\n".join(["Run the network; returns 0 or an error code.", "", *parameters]))
    yield from _declared(d, d.interface.runs[0], [])
    if d.interface.threads == "callback":
        yield comment("A part of the work. Any thread may call it, and several at a time, but no two at a "
                      "time with one number.")
        yield f"typedef void (*{d.name}_task)(void *args, int64_t begin, int64_t end, int64_t thread);"
        yield ""
        yield comment("The host's threads: calls task(args, begin, end, thread) so that every number from 0 "
                      "to tasks - 1 is in one of the ranges from begin to end - 1, with a thread from 0 to "
                      "threads - 1, and returns when all have returned. The context is the caller's.")
        yield (f"typedef void (*{d.name}_parallel)({d.name}_task task, void *args, int64_t tasks, "
               "int64_t threads,\n    void *context);")
        yield ""
    if d.interface.threads != "none":
        callback = d.interface.threads == "callback"
        yield comment("\n".join(
            ["The same on so many threads, the caller's included; the results are the same, bit by bit.",
             f"The workspace has {d.macro}_PARALLEL_WORKSPACE_BYTES bytes.",
             *([] if callback else ["It takes fewer threads where the system gives no more, and runs alone "
                                    "while another thread's call has the pool."])]))
        yield from _declared(d, d.interface.runs[1], [
            "size_t threads", *([f"{d.name}_parallel callback", "void *context"] if callback else [])])
    for level in d.interface.levels:
        shown = level.replace("_", "-")
        yield comment(f"The code for {shown} alone, which the functions above choose where it is the best.")
        yield from _declared(d, f"{d.interface.runs[0]}_{level}", [])
        if d.interface.threads != "none":
            more = [f"{d.name}_parallel callback", "void *context"] * (d.interface.threads == "callback")
            yield comment("The same on several threads.")
            yield from _declared(d, f"{d.interface.runs[1]}_{level}", ["size_t threads", *more])
    yield comment("1 where this CPU, and the system, can run the network, else 0.")
    yield f"int {d.name}_supported(void);"
    yield ""
    yield comment("What an error code means, in a text that lives as long as the program.")
    yield f"const char *{d.name}_strerror(int code);"
    yield ""


def _declared(d: Description, function: str, more: Iterable[str]) -> Iterator[str]:
    listed, line = [], f"int {function}("
    for i, parameter in enumerate([*d.stated, *more]):
        piece = f"{', ' if i else ''}{parameter}"
        if len(line) + len(piece) > 95 and i:
            listed.append(line + ",")
            line, piece = "    ", parameter
        line += piece
    yield "\n".join([*listed, f"{line});"])
    yield ""
