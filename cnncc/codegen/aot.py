"""Ahead-of-time code: the modules that the JIT would load, and a C interface around them, as one object.

All modules are linked into one before code is made of it. Kernels say themselves what instructions they use:
those of several targets can share a module, and are what the JIT makes of them, bit by bit.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

import llvmlite.binding as llvm

from cnncc.codegen.interface import OWN, Api, Interface, weights
from cnncc.codegen.threads import pool_ir
from cnncc.codegen.worker import Machine, generating, module_of, target_machine
from cnncc.ir.target import TRIPLE


@dataclass(frozen=True)
class Object:
    """A relocatable object; `stack` bytes are the most that a function of it needs, `code` those of code."""

    data: bytes
    stack: int
    code: int


def build(interface: Interface) -> Object:
    """The object of an interface. Raises InternalError where LLVM refuses the text."""
    context, name = llvm.create_context(), interface.name
    whole = module_of(Api(interface).whole(), context)
    for v in interface.variants:
        symbols = {symbol for symbol, _ in v.texts}
        for _, text in v.texts:
            whole.link_in(_prefixed(module_of(text, context), f"{name}_{v.suffix}_", symbols))
    if interface.threads == "pthread":
        whole.link_in(_prefixed(module_of(pool_ir(embedded=True), context), f"{name}_"))
    for x in (*whole.functions, *whole.global_variables):
        if not x.is_declaration and x.name not in interface.exports:
            x.linkage = "internal"
    copy = llvm.parse_bitcode(whole.as_bitcode(), context)      # generating code changes a module
    if interface.key is None:
        whole.link_in(module_of(weights(interface), context))   # only now: as assembly they would be long
    machine = target_machine(Machine(TRIPLE, "x86-64", ""))     # kernels name their instructions themselves
    with generating():
        data, text = bytes(machine.emit_object(whole)), str(machine.emit_assembly(copy))
    code = sum(s.size() for s in llvm.ObjectFileRef.from_data(data).sections() if s.is_text())
    return Object(data, _stack(frames(text), interface), code)


def _prefixed(module: llvm.ModuleRef, prefix: str, own: Collection[str] = ()) -> llvm.ModuleRef:
    """A module with a prefix before the names of all that it defines, and what it declares of its `own`."""
    for x in (*module.functions, *module.global_variables):
        if not x.is_declaration or x.name in own:
            x.name = prefix + x.name.removeprefix(OWN)
    return module


def frames(assembly: str) -> dict[str, int]:
    """Bytes of stack that each function takes, its return address included, by its assembly."""
    found: dict[str, int] = {}
    for name, body in re.findall(r"^\t\.type\t(\w+),@function\n(.*?)^\.Lfunc_end", assembly, re.M | re.S):
        taken = [int(n) for n in re.findall(r"\ssubq\s+\$(\d+), %rsp", body)]
        taken += [int(n) for n in re.findall(r"\saddq\s+\$-(\d+), %rsp", body)]
        gaps = [int(n) - 1 for n in re.findall(r"\sandq\s+\$-(\d+), %rsp", body)]
        below = [int(n) for n in re.findall(r"-(\d+)\(%rsp", body)]     # a leaf's red zone
        pushed = len(re.findall(r"\spushq\s", body))
        found[name] = 8 + 8 * pushed + sum(max(n, default=0) for n in (taken, gaps, below))
    return found


def _stack(taken: dict[str, int], interface: Interface) -> int:
    """The most that a call takes: every function of the way down, the largest kernel."""
    name = interface.name
    down = max(taken[f] for f in interface.exports) * (2 if interface.levels else 1)
    down += max((n for f, n in taken.items() if f.startswith(f"{name}_pool_")), default=0)
    most = 0
    for v in interface.variants:
        own = {f: n for f, n in taken.items() if f.startswith(f"{name}_{v.suffix}_")}
        ends = [own.pop(f"{name}_{v.suffix}_{end}") for end in ("run", "enter")]
        most = max(most, sum(ends) + max(own.values(), default=0))
    return down + most
