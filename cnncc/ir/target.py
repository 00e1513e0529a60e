"""What the compiler knows of a CPU: made from its features, never from its name."""

from __future__ import annotations

import functools
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cnncc.ir.types import BYTES


@dataclass(frozen=True, slots=True)
class Target:
    """Sizes in bytes, rates per cycle of one core; `lanes` counts 4-byte elements of a vector.

    `beside`: cycles that arithmetic loses to a load. `kept`: the part of L1 that vectors may fill which are
    read again. `strict`: plain multiply-adds only, no algorithm that is faster and rounds worse. `small`:
    schedules with little code come first.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    l1: int = 48 << 10
    l2: int = 1 << 20
    l3: int = 32 << 20
    fmas: float = 2.0
    loads: float = 1.8
    beside: float = 0.0
    kept: float = 0.25
    latency: float = 5.0
    l2_bytes: float = 40.0
    l3_bytes: float = 8.0
    l3_stream: float = 10.0
    memory_bytes: float = 8.0
    strict: bool = False
    small: bool = False

    def record(self) -> dict[str, Any]:
        """The fields as plain data, for metadata and keys."""
        return asdict(self)

    def lanes_of(self, dtype: str) -> int:
        """How many elements of a dtype a vector has."""
        return self.lanes * 4 // BYTES[dtype]

    @property
    def level(self) -> str:
        """The x86-64 level that the code needs."""
        return next(name for name, (_, _, lanes, _) in LEVELS.items() if lanes == self.lanes)


_V2 = "+sse4.2,+popcnt"
_V3 = f"{_V2},+avx2,+avx,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"
_V4 = f"{_V3},+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
LEVELS: dict[str, tuple[str, str, int, int]] = {
    "x86-64-v4": ("sapphirerapids", _V4, 16, 32),
    "x86-64-v3": ("x86-64-v3", _V3, 8, 16),
    "x86-64-v2": ("x86-64-v2", _V2, 4, 15),     # one register holds a product before it is added
}
"""By name, the widest first: the CPU that code is tuned for, features, lanes, registers."""
RATES: dict[str, dict[str, Any]] = {"x86-64-v4": {"beside": 0.3, "kept": 0.5}}
"""Where a level's differ, fitted to the times of two hundred kernels of networks, quiet and disturbed."""
PRECISIONS = ("fast", "strict")
PURPOSES = ("speed", "size")
TRIPLE = "x86_64-unknown-linux-gnu"


@functools.cache
def host_features() -> frozenset[str]:
    """The features of this machine's CPU, as LLVM names them."""
    import llvmlite.binding as llvm
    return frozenset(name for name, on in llvm.get_host_cpu_features().items() if on)


@functools.cache
def host_caches() -> dict[int, int]:
    """The bytes of this machine's data caches by level, of those that the system tells."""
    found: dict[int, int] = {}
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        try:
            kind, level, text = ((folder / name).read_text().strip() for name in ("type", "level", "size"))
            if kind != "Instruction":
                found[int(level)] = int(text.rstrip("K")) << 10
        except (OSError, ValueError):
            continue
    return found


@functools.cache
def target_for(level: str = "native", precision: str = "fast", optimize: str = "speed",
               elsewhere: bool = False) -> Target:
    """The target of that name: one of LEVELS, or `native`: the widest of them, with this machine's caches.

    `precision` is `fast` or `strict`, `optimize` `speed` or `size`. Raises InputError for another name,
    CnnccError where this CPU lacks the level, unless the code is to run `elsewhere`.
    """
    from cnncc.ir.errors import CnnccError, InputError
    if level != "native" and level not in LEVELS:
        raise InputError(f"unknown target {level!r}: choose one of native, {', '.join(sorted(LEVELS))}")
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    if optimize not in PURPOSES:
        raise InputError(f"optimize={optimize!r}: choose one of {', '.join(PURPOSES)}")
    host = host_features()
    fitting = [name for name, (_, text, _, _) in LEVELS.items() if {f[1:] for f in text.split(",")} <= host]
    chosen = next(iter(fitting), "") if level == "native" else level
    if chosen not in fitting and not (elsewhere and chosen):
        raise CnnccError(f"this CPU lacks the instructions of {chosen or 'x86-64-v2 (SSE4.2)'}")
    target = Target(TRIPLE, *LEVELS[chosen], strict=precision == "strict", small=optimize == "size")
    own = host_caches() if level == "native" else {}
    return replace(target, **RATES.get(chosen, {}), l1=own.get(1, target.l1), l2=own.get(2, target.l2),
                   l3=own.get(3, target.l3))
