"""The plan of a whole network: which kernel runs on which memory, in order: what an artifact records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from cnncc.ir.types import Extent

ALIGN = 64                  # bytes: a cache line, which buffers begin at


def aligned(nbytes: int) -> int:
    return -(-nbytes // ALIGN) * ALIGN


Space = Literal["input", "output", "weights", "state", "work"]

# Slots of a call frame, eight bytes each: the only argument of the native entry `run`.
FRAME = ("batch", "threads", "first", "last", "work", "scratch", "weights", "state", "acquire", "parallel",
         "release", "context")
"""`first` and `last` bound the steps that run (all: 0 and the number of steps); `acquire`, `parallel` and
`release` are the pool's functions, null to run alone; `context` is what `parallel` is given last. The inputs'
addresses follow, then the outputs'."""


@dataclass(frozen=True, slots=True)
class Place:
    """An address: `number` says which input or output, or the offset in bytes.

    In the work space the offset is per unit of the batch: buffer address = work + offset * batch. `first` is
    where a kernel's part of the buffer begins, in bytes from its address; every turn of a loop moves it by
    `move` bytes.
    """

    space: Space
    number: int
    first: int = 0
    move: int = 0


@dataclass(frozen=True, slots=True)
class Value:
    """An input or output as the user sees it; in memory it is plain (row-major) and contiguous."""

    name: str
    dtype: str
    shape: tuple[Extent, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """A tensor of the model's own memory, which calls change: its place in bytes.

    There it has the shape `axes` (some of its own together) and the `layout`, as text.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    layout: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Signal:
    """What the number in a trailing output, hidden from the user, says after a call.

    With an `output` how much of its `axis` there is; else, where it isn't zero, that the call fails: `text`.
    """

    text: str
    output: int | None = None
    axis: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """One kernel call. `tasks` is multiplied by the batch where `batched`; numbers are per unit of the batch.
    Those of operations and bytes are of all turns, where the step is one of a loop.

    `nodes` names the nodes of the user's model that are computed here; `ops` names what the kernel does,
    `result` is the type of what it writes.
    """

    symbol: str
    places: tuple[Place, ...]
    tasks: int
    batched: bool
    scratch: int
    nodes: tuple[str, ...]
    ops: str
    flops: int
    nbytes: int
    result: str = ""


@dataclass(frozen=True, slots=True)
class Turns:
    """The steps from `first` on, before `last`, run `count` times, one after the other."""

    first: int
    last: int
    count: int


@dataclass(frozen=True, slots=True)
class Plan:
    """`work` bytes are needed per unit of the batch, `scratch` bytes per thread, `weights` bytes once.

    `symbol` names the symbolic extent, None where the batch is fixed (it counts as 1 then). The last outputs
    are those of the `signals`. `state` is kept from call to call.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    work: int
    scratch: int
    weights: int
    symbol: str | None
    signals: tuple[Signal, ...] = ()
    loops: tuple[Turns, ...] = ()
    state: tuple[Held, ...] = ()

    @property
    def held(self) -> int:
        """Bytes of the state."""
        return max((h.offset + h.nbytes for h in self.state), default=0)

    @property
    def shown(self) -> tuple[Value, ...]:
        """The outputs that the user sees."""
        return self.outputs[:len(self.outputs) - len(self.signals)]

    def record(self) -> dict[str, Any]:
        """Plain data for the artifact's metadata."""
        return asdict(self)


def restore(data: Mapping[str, Any]) -> Plan:
    """The plan from its record. Raises KeyError or TypeError where it is none."""
    def values(key: str) -> tuple[Value, ...]:
        return tuple(Value(v["name"], v["dtype"], tuple(v["shape"])) for v in data[key])
    steps = tuple(Step(**{**s, "places": tuple(Place(**p) for p in s["places"]), "nodes": tuple(s["nodes"])})
                  for s in data["steps"])
    return Plan(data["name"], values("inputs"), values("outputs"), steps, data["work"], data["scratch"],
                data["weights"], data["symbol"], tuple(Signal(**s) for s in data["signals"]),
                tuple(Turns(**t) for t in data["loops"]),
                tuple(Held(**{**h, "shape": tuple(h["shape"]), "axes": tuple(h["axes"])})
                      for h in data["state"]))
