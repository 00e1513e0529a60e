"""Places of buffers: no two that live at a time meet, and little more memory is taken than lives at once."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from cnncc.passes.memory import Life, _first_fit, fit

ROWS = st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30), st.integers(1, 50)), max_size=40)
LIVES = ROWS.map(lambda rows: [
    Life(f"b{i}", begin, begin + more, 64 * size) for i, (begin, more, size) in enumerate(rows)])


def needed(lives: list[Life], offsets: dict[str, int]) -> tuple[int, int]:
    """(bytes taken, the most that live at one time)."""
    taken = max((offsets[x.name] + x.nbytes for x in lives), default=0)
    times = {x.begin for x in lives}
    return taken, max((sum(x.nbytes for x in lives if x.begin <= t <= x.end) for t in times), default=0)


@settings(max_examples=200, deadline=None)
@given(LIVES)
def test_none_meet(lives: list[Life]) -> None:
    offsets = fit(lives)
    assert set(offsets) == {x.name for x in lives} and all(at >= 0 for at in offsets.values())
    for i, a in enumerate(lives):
        for b in lives[:i]:
            if a.begin <= b.end and b.begin <= a.end:
                low, high = sorted((offsets[x.name], x.nbytes) for x in (a, b))
                assert low[0] + low[1] <= high[0]
    taken, least = needed(lives, offsets)
    assert taken >= least


def test_a_gap_beside_a_long_life() -> None:
    """A part of ResNet-18: placed in one order the third lies where others could."""
    rows = [(0, 1, 18), (1, 3, 12), (3, 15, 8), (8, 10, 9), (10, 11, 9)]
    lives = [Life(f"b{i}", begin, end, 64 * size) for i, (begin, end, size) in enumerate(rows)]
    once, least = needed(lives, _first_fit(sorted(lives, key=lambda x: -x.nbytes)))
    assert once > least == needed(lives, fit(lives))[0]
