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

    `strict`: plain multiply-adds only, no algorithm that is faster and rounds worse.
    """

    triple: str
    cpu: str
    features: str
    lanes: int
    registers: int
    fma: bool
    masks: bool
    l1: int = 48 << 10
    l2: int = 1 << 20
    l3: int = 32 << 20
    fmas: float = 2.0
    loads: float = 1.8
    latency: float = 5.0
    l2_bytes: float = 40.0
    l3_bytes: float = 8.0
    l3_stream: float = 18.0
    memory_bytes: float = 8.0
    strict: bool = False

    def record(self) -> dict[str, Any]:
        """The fields as plain data, for metadata and keys."""
        return asdict(self)

    def lanes_of(self, dtype: str) -> int:
        """How many elements of a dtype a vector has."""
        return self.lanes * 4 // BYTES[dtype]

    @property
    def level(self) -> str:
        """The x86-64 level that the code needs."""
        return {16: "x86-64-v4", 8: "x86-64-v3", 4: "x86-64-v2"}[self.lanes]


LEVELS = {
    "x86-64-v4": "+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl,+avx2,+avx,+fma,+f16c,+bmi,+bmi2,+lzcnt,"
                 "+popcnt,+movbe,+sse4.2",
    "x86-64-v3": "+avx2,+avx,+fma,+f16c,+bmi,+bmi2,+lzcnt,+popcnt,+movbe,+sse4.2",
}
PRECISIONS = ("fast", "strict")
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
def target_for(level: str = "native", precision: str = "fast") -> Target:
    """The target of that name: `native` (with the caches of this machine), `x86-64-v3` or `x86-64-v4`.

    `precision` is `fast` or `strict`. Raises InputError for another name, CnnccError where this CPU lacks
    the level.
    """
    from cnncc.ir.errors import CnnccError, InputError
    if level != "native" and level not in LEVELS:
        raise InputError(f"unknown target {level!r}: choose one of native, {', '.join(sorted(LEVELS))}")
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: choose one of {', '.join(PRECISIONS)}")
    host = host_features()
    fits = {name: {f[1:] for f in text.split(",")} <= host for name, text in LEVELS.items()}
    chosen = next((n for n in LEVELS if fits[n]), None) if level == "native" else level
    if chosen is None or not fits[chosen]:
        raise CnnccError(f"this CPU lacks the instructions of {chosen or 'x86-64-v3 (AVX2 and FMA)'}")
    wide = chosen == "x86-64-v4"
    target = Target(TRIPLE, "sapphirerapids" if wide else "x86-64-v3", LEVELS[chosen], 16 if wide else 8,
                    32 if wide else 16, fma=True, masks=True, strict=precision == "strict")
    own = host_caches() if level == "native" else {}
    return replace(target, l1=own.get(1, target.l1), l2=own.get(2, target.l2), l3=own.get(3, target.l3))
