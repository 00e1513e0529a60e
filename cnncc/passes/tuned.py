"""Schedules that were measured, as a text that people can read: loops by kernel, for one target.

    cnncc schedules 1
    target x86-64-v3, lanes 8, registers 16, l1 32768, l2 524288, l3 33554432

    in x f32[1, 512, 7, 7] as n, c:8, h, w, c
    ...
    weights w
    loops par k:24, chunk c:8, p0, p1:4, ...
    measured 2580.2 us instead of 3471.6

The loops name one of the candidates of `passes.schedules`: no text makes code that these would not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cnncc.ir.errors import InputError
from cnncc.ir.kernel import Kernel
from cnncc.ir.target import Target

HEAD = "cnncc schedules 1"


@dataclass(frozen=True)
class Choice:
    """Loops, and what they were measured against: seconds of these and of the priced choice."""

    loops: str
    seconds: float
    priced: float


@dataclass(frozen=True)
class Tuned:
    """Choices by the text of a kernel before it has loops and its operands that are weights."""

    target: str
    choices: Mapping[str, Choice] = field(default_factory=dict)

    def choice(self, kernel: Kernel, weights: Sequence[str]) -> Choice | None:
        return self.choices.get(key(kernel, weights))

    def with_choice(self, kernel: Kernel, weights: Sequence[str], choice: Choice) -> Tuned:
        return replace(self, choices={**self.choices, key(kernel, weights): choice})

    def __str__(self) -> str:
        blocks = [f"{HEAD}\ntarget {self.target}"]
        for text, c in self.choices.items():
            measured = f"measured {c.seconds * 1e6:.1f} us instead of {c.priced * 1e6:.1f}"
            blocks.append(f"{text}\nloops {c.loops}\n{measured}")
        return "\n\n".join(blocks) + "\n"


def key(kernel: Kernel, weights: Sequence[str]) -> str:
    return f"{kernel}\nweights {' '.join(weights)}".rstrip()


def target_text(target: Target) -> str:
    """What of a target decides which loops are fast."""
    t = target
    return f"{t.level}, lanes {t.lanes}, registers {t.registers}, l1 {t.l1}, l2 {t.l2}, l3 {t.l3}"


def parse_tuned(text: str, name: str) -> Tuned:
    """Read the text of a file back. Raises InputError, with `name` and the line, for what is none."""
    head, _, rest = text.partition("\n\n")
    lines = head.strip().splitlines()
    if len(lines) != 2 or lines[0] != HEAD or not lines[1].startswith("target "):
        raise InputError(f"{name}: no file of schedules: expected {HEAD!r} and a target in its first lines")
    tuned = Tuned(lines[1].removeprefix("target "))
    choices: dict[str, Choice] = {}
    at = 3
    for block in filter(None, rest.split("\n\n")):
        *body, loops, measured = block.strip("\n").splitlines() if block.count("\n") > 1 else ("", "", "")
        words = measured.split()
        try:
            if not loops.startswith("loops ") or words[0] != "measured" or len(words) != 6:
                raise ValueError
            choice = Choice(loops.removeprefix("loops "), float(words[1]) / 1e6, float(words[5]) / 1e6)
        except (ValueError, IndexError):
            raise InputError(f"{name}, line {at + 1}: expected a kernel, its loops and how they were measured"
                             ) from None
        choices["\n".join(body)] = choice
        at += block.count("\n") + 2
    return replace(tuned, choices=choices)
