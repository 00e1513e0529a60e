"""Which instructions the CPU has and the system has enabled, asked by code that needs neither (x86-64).

All that ahead-of-time code knows of how a CPU tells is here: `levels` emits the question.
"""

from __future__ import annotations

from collections.abc import Sequence

from cnncc.codegen.emitter import PTR, Emitter, Type, Value
from cnncc.ir.target import Target

ONE, SEVEN, EXTENDED = (1, 2), (7, 1), (0x80000001, 2)
"""A leaf of CPUID and the register of its answer, counted from EAX."""
FEATURES = {
    "sse3": (ONE, 0), "ssse3": (ONE, 9), "fma": (ONE, 12), "cx16": (ONE, 13), "sse4.1": (ONE, 19),
    "sse4.2": (ONE, 20), "movbe": (ONE, 22), "popcnt": (ONE, 23), "avx": (ONE, 28), "f16c": (ONE, 29),
    "bmi": (SEVEN, 3), "avx2": (SEVEN, 5), "bmi2": (SEVEN, 8), "avx512f": (SEVEN, 16),
    "avx512dq": (SEVEN, 17), "avx512cd": (SEVEN, 28), "avx512bw": (SEVEN, 30), "avx512vl": (SEVEN, 31),
    "sahf": (EXTENDED, 0), "lzcnt": (EXTENDED, 5)}
"""By LLVM's name: where, and which bit."""
IMPLIED = ("sse3", "ssse3", "sse4.1", "cx16", "sahf")   # x86-64-v2, which every target is built on
ENABLED = {"avx": 0x06, "avx512f": 0xE6}                # bits of XCR0: registers that the system saves
XSAVE = 27                                              # bit of ONE: XCR0 may be read
ASKED = 1 << 31

I32 = Type("i32")
_ANSWER = "{ i32, i32, i32, i32 }"


def masks(features: str) -> tuple[dict[tuple[int, int], int], int]:
    """(bits by place, bits of XCR0) that all must be set for these features, as a Target lists them."""
    names = {*IMPLIED, *(f.removeprefix("+") for f in features.split(","))}
    found = dict.fromkeys((ONE, SEVEN, EXTENDED), 0)
    for place, bit in map(FEATURES.__getitem__, names):
        found[place] |= 1 << bit
    state = 0
    for name in names & ENABLED.keys():
        state |= ENABLED[name]
    return found, state


def levels(e: Emitter, name: str, word: str, targets: Sequence[Target]) -> None:
    """`i32 name()`: bit i says whether the code of targets[i] can run. The CPU is asked once: `word`, an i32
    that is zero at first, keeps the answer; threads that ask at a time write the same.
    """
    place = Value(f"@{word}", PTR)
    with e.function(name, "internal i32", [], "nounwind"):
        known = e.emit(f"load atomic i32, ptr {place.text} monotonic, align 4", I32)
        _go(e, e.icompare("ne", known, _i32(0)), "done", "ask")
        e.label("ask")
        most, extended = (_cpuid(e, leaf, 0) for leaf in (0, 0x80000000))
        found = {p: _known(e, p, extended if p is EXTENDED else most) for p in (ONE, SEVEN, EXTENDED)}
        _go(e, _all(e, found[ONE], 1 << XSAVE), "read", "judge")
        e.label("read")
        xcr0 = e.emit('call { i32, i32 } asm sideeffect "xgetbv", "={ax},={dx},{cx}"(i32 0)', I32)
        low = e.emit(f"extractvalue {{ i32, i32 }} {xcr0.text}, 0", I32)
        e.line("br label %judge")
        e.label("judge")
        enabled = e.emit(f"phi i32 [0, %ask], [{low.text}, %read]", I32)
        result = _i32(ASKED)
        for i, target in enumerate(targets):
            wanted, state = masks(target.features)
            good = _all(e, enabled, state)
            for p, bits in wanted.items():
                good = e.arith("and", good, _all(e, found[p], bits))
            result = e.arith("or", result, e.select(good, _i32(1 << i), _i32(0)))
        e.line(f"store atomic {result.typed}, ptr {place.text} monotonic, align 4")
        e.line("br label %done")
        e.label("done")
        answer = e.emit(f"phi i32 [{known.text}, %entry], [{result.text}, %judge]", I32)
        e.line(f"ret {answer.typed}")


def _i32(number: int) -> Value:
    return Value(str(number), I32)


def _go(e: Emitter, condition: Value, then: str, otherwise: str) -> None:
    e.line(f"br i1 {condition.text}, label %{then}, label %{otherwise}")


def _cpuid(e: Emitter, leaf: int, register: int) -> Value:
    answer = e.emit(f'call {_ANSWER} asm sideeffect "cpuid", "={{ax}},={{bx}},={{cx}},={{dx}},{{ax}},{{cx}}"'
                    f"(i32 {leaf}, i32 0)", I32)
    return e.emit(f"extractvalue {_ANSWER} {answer.text}, {register}", I32)


def _known(e: Emitter, place: tuple[int, int], most: Value) -> Value:
    """The register of a leaf; zero where the CPU knows no such leaf."""
    return e.select(e.icompare("uge", most, _i32(place[0])), _cpuid(e, *place), _i32(0))


def _all(e: Emitter, word: Value, bits: int) -> Value:
    return e.icompare("eq", e.arith("and", word, _i32(bits)), _i32(bits))
